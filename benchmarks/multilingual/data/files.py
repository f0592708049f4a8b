"""Data sets in the formats that they are published in: CoNLL, tables of sentence pairs, SQuAD's JSON.

In: a directory, a language, a part. Out: items. May import: items.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.multilingual.items import Item, Part

Format = Literal["entities", "inference", "paraphrase", "answers"]

_NAMES = {"train": ("train", "translated_train"), "dev": ("dev", "dev_2k"), "test": ("test", "test_2k")}
# Where the files of a part lie. Those that are published under one name are there under that.
_PLACES: dict[Format, dict[str, tuple[str, ...]]] = {
    "entities": dict.fromkeys(
        _NAMES, ("{language}/{name}", "{language}.{name}.conll", "{language}/{name}.txt", "{name}-{language}.tsv")
    ),
    "inference": {
        "train": ("{language}.train.tsv", "multinli.train.{language}.tsv", "multinli/multinli.train.{language}.tsv"),
        "dev": ("{language}.dev.tsv", "xnli.dev.tsv"),
        "test": ("{language}.test.tsv", "xnli.test.tsv"),
    },
    "paraphrase": dict.fromkeys(_NAMES, ("{language}/{name}.tsv", "{language}.{name}.tsv")),
    "answers": {
        "train": ("{language}.train.json", "train-v1.1.{language}.json", "train-v1.1.json"),
        "dev": (
            "{language}.dev.json",
            "dev/dev-context-{language}-question-{language}.json",
            "dev-v1.1.{language}.json",
            "dev-v1.1.json",
        ),
        "test": (
            "{language}.test.json",
            "xquad.{language}.json",
            "test/test-context-{language}-question-{language}.json",
        ),
    },
}
_ENGLISH = {"train-v1.1.json", "dev-v1.1.json"}  # SQuAD's own names tell no language
LABELS: dict[Format, tuple[str, ...]] = {
    "inference": ("entailment", "neutral", "contradiction"),
    "paraphrase": ("0", "1"),
    "answers": (),
}


def read(directory: Path, form: Format, language: str, part: Part) -> list[Item] | None:
    """Return the items of a part, None if there is no file of it.

    Args:
        directory: of the data set.
        form: of its files.
        language: as in the files' names, or with a region that those leave out: zh-CN for zh.
        part: all stands for test.

    Raises:
        ValueError: if a file is in another format.
    """
    for file, name in _files(directory, form, language, "test" if part == "all" else part):
        if form == "entities":
            return entities(file, name)
        if form == "answers":
            return answers(json.loads(file.read_text(encoding="utf-8")))
        return pairs(file, form, name)
    return None


def _files(directory: Path, form: Format, language: str, part: str) -> Iterator[tuple[Path, str]]:
    """Yield the files of a part, and the language as they name it."""
    for code in dict.fromkeys([language, language.partition("-")[0]]):
        for place in _PLACES[form][part]:
            for name in _NAMES[part]:
                path = directory / place.format(language=code, name=name)
                if path.is_file() and (path.name not in _ENGLISH or code == "en"):
                    yield path, code


def entities(file: Path, language: str) -> list[Item]:
    """Read CoNLL: a word and its tag on a line, first and last, a blank line between sentences.

    Words may have the language before them, as in WikiANN.

    Raises:
        ValueError: if a tag is not of B, I and O.
    """
    items, words, tags = [], list[str](), list[str]()
    for number, line in enumerate([*file.read_text(encoding="utf-8").splitlines(), ""], start=1):
        columns = line.split("\t") if "\t" in line else line.split()
        if not line.strip():
            if words:
                items.append(tagged(words, tags))
            words, tags = [], []
        elif columns[0] != "-DOCSTART-":
            if not re.fullmatch(r"O|[BI]-.+", columns[-1]) or len(columns) < 2:
                raise ValueError(
                    f"`--data {file.parent}` must have a word and its tag, O, B-… or I-…, on each line. Found {line!r} "
                    f"on line {number} of {file.name}. Convert it to CoNLL's format."
                )
            words.append(columns[0].removeprefix(f"{language}:"))
            tags.append(columns[-1])
    return items


def tagged(words: Sequence[str], tags: Iterable[str]) -> Item:
    """Return a sentence, its words joined by spaces, with the spans of its tags; an I without a B opens one."""
    spans: list[tuple[int, int, str]] = []
    position, open_kind = 0, ""
    for word, tag in zip(words, tags, strict=True):
        place, _, kind = tag.partition("-")
        if place == "I" and kind == open_kind:
            spans[-1] = (spans[-1][0], position + len(word), kind)
        elif kind:
            spans.append((position, position + len(word), kind))
        position, open_kind = position + len(word) + 1, kind
    return Item((" ".join(words),), spans=tuple(spans))


def pairs(file: Path, form: Format, language: str) -> list[Item]:
    """Read a table of sentence pairs with a header, as those of XNLI and PAWS-X; rows of other languages are left out.

    Raises:
        ValueError: if a column is missing.
    """
    with file.open(encoding="utf-8", newline="") as lines:
        table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        columns = table.fieldnames or []
        named = {
            wanted: next((column for column in columns if column in names), "")
            for wanted, names in {
                "first": {"sentence1", "premise"},
                "second": {"sentence2", "hypo", "hypothesis"},
                "label": {"gold_label", "label"},
            }.items()
        }
        if not all(named.values()):
            raise ValueError(
                f"`--data {file.parent}` must have columns for two sentences and a label, named in the first line as "
                f"in XNLI or PAWS-X. Found {columns} in {file.name}. Name them."
            )
        rows = [row for row in table if row.get("language", language) == language]
    found = [pair(row[named["first"]], row[named["second"]], row[named["label"]]) for row in rows]
    return [item for item in found if item.label in LABELS[form] and "NS" not in item.texts and all(item.texts)]


def pair(first: str, second: str, label: str) -> Item:
    """Return a pair; XNLI's training files have another word for a contradiction."""
    return Item((first, second), label="contradiction" if label == "contradictory" else label)


def answers(squad: Any) -> list[Item]:
    """Read SQuAD's JSON, which XQuAD and MLQA use too; questions without an answer are left out."""
    return [
        question(entry["question"], paragraph["context"], [(a["text"], a["answer_start"]) for a in entry["answers"]])
        for article in squad["data"]
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
        if entry["answers"]
    ]


def question(asked: str, context: str, answers: Iterable[tuple[str, int]]) -> Item:
    """Return a question with its right answers."""
    return Item((asked, context), spans=tuple((start, start + len(text), "") for text, start in answers))
