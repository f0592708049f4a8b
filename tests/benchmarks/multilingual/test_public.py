"""Published formats, on small files written in them; the road by name, on a folder that `datasets` loads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from benchmarks.multilingual import __main__ as command
from benchmarks.multilingual.data import hub
from benchmarks.multilingual.data.files import Format, read
from benchmarks.multilingual.data.public import Public
from benchmarks.multilingual.items import Item

WIKIANN = "en:Ada\tB-PER\nen:Lovelace\tI-PER\nen:met\tO\nen:Bo\tB-PER\n\nen:Rome\tB-LOC\n\n"
CONLL = "-DOCSTART- -X- O O\n\nEU NNP B-NP I-ORG\nrejects VBZ B-VP O\nGerman JJ B-NP I-MISC\n. . O O\n"
XNLI = "language\tgold_label\tsentence1_binary_parse\tsentence1\tsentence2\tpairID\n" + "".join(
    f'{language}\t{label}\t\tHe "sleeps{i}\tHe rests\t{i}\n'
    for i, (language, label) in enumerate(
        [("en", "entailment"), ("de", "neutral"), ("en", "contradiction"), ("en", "-")]
    )
)
MULTINLI = "premise\thypo\tlabel\nA man .\tNo man .\tcontradictory\n"
PAWSX = "id\tsentence1\tsentence2\tlabel\n1\tA b\tB a\t1\n2\tNS\tB a\t0\n3\tc d\td e\t0\n"
SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "The lamp is red.",
                    "qas": [
                        {"id": "1", "question": "What?", "answers": [{"text": "lamp", "answer_start": 4}]},
                        {"id": "2", "question": "Why?", "answers": []},
                        {
                            "id": "3",
                            "question": "Color?",
                            "answers": [{"text": "red", "answer_start": 12}, {"text": "is red", "answer_start": 9}],
                        },
                    ],
                }
            ]
        }
    ]
}


def written(directory: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return directory


@pytest.mark.parametrize("name", ["en/train", "en.train.conll", "train-en.tsv"])
def test_wikiann_is_read(tmp_path: Path, name: str) -> None:
    first, second = read(written(tmp_path, {name: WIKIANN}), "entities", "en", "train") or []
    assert first == Item(("Ada Lovelace met Bo",), spans=((0, 12, "PER"), (17, 19, "PER")))
    assert second.texts == ("Rome",)


def test_conll_has_more_columns_and_may_begin_entities_with_i(tmp_path: Path) -> None:
    [item] = read(written(tmp_path, {"en/test.txt": CONLL}), "entities", "en", "test") or []
    assert item == Item(("EU rejects German .",), spans=((0, 2, "ORG"), (11, 17, "MISC")))


def test_neighbours_of_one_kind_are_apart_where_one_begins(tmp_path: Path) -> None:
    [item] = read(written(tmp_path, {"en/dev": "a B-X\nb B-X\nc I-X\nd I-Y\n"}), "entities", "en", "dev") or []
    assert item.spans == ((0, 1, "X"), (2, 5, "X"), (6, 7, "Y"))


def test_what_is_not_conll_is_refused_with_its_line(tmp_path: Path) -> None:
    written(tmp_path, {"en/train": "Ada B-PER\nis verb\n"})
    with pytest.raises(ValueError, match=r"must have a word and its tag.*Found 'is verb' on line 2 of train\."):
        read(tmp_path, "entities", "en", "train")


def test_xnli_has_all_languages_in_one_file(tmp_path: Path) -> None:
    written(tmp_path, {"xnli.dev.tsv": XNLI, "multinli.train.en.tsv": MULTINLI})
    items = read(tmp_path, "inference", "en", "dev") or []
    assert [item.label for item in items] == ["entailment", "contradiction"]
    assert items[1].texts == ('He "sleeps2', "He rests")
    assert [item.label for item in read(tmp_path, "inference", "de", "dev") or []] == ["neutral"]
    assert read(tmp_path, "inference", "en", "train") == [Item(("A man .", "No man ."), "contradiction")]
    assert read(tmp_path, "inference", "de", "train") is None


def test_pawsx_leaves_out_what_was_not_translated(tmp_path: Path) -> None:
    written(tmp_path, {"zh/translated_train.tsv": PAWSX, "zh/test_2k.tsv": PAWSX})
    expected = [Item(("A b", "B a"), "1"), Item(("c d", "d e"), "0")]
    assert read(tmp_path, "paraphrase", "zh-CN", "train") == expected
    assert read(tmp_path, "paraphrase", "zh", "all") == expected


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must have columns for two sentences and a label.*Found \['a', 'b'\]"):
        read(written(tmp_path, {"en/dev.tsv": "a\tb\n1\t2\n"}), "paraphrase", "en", "dev")


@pytest.mark.parametrize(
    ("name", "language", "part"),
    [
        ("train-v1.1.json", "en", "train"),
        ("xquad.th.json", "th", "all"),
        ("dev/dev-context-de-question-de.json", "de", "dev"),
        ("test/test-context-de-question-de.json", "de", "test"),
    ],
)
def test_squad_xquad_and_mlqa_are_read(tmp_path: Path, name: str, language: str, part: Any) -> None:
    written(tmp_path, {name: SQUAD})
    context = "The lamp is red."
    assert read(tmp_path, "answers", language, part) == [
        Item(("What?", context), spans=((4, 8, ""),)),
        Item(("Color?", context), spans=((12, 15, ""), (9, 15, ""))),
    ]
    assert read(tmp_path, "answers", "fi", part) is None


# ---------------------------------------------------------------------- by name


def folder(path: Path, features: Features, splits: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Write a data set as a hub keeps one: a file for each configuration and split, and what they are called."""
    configurations = []
    for configuration, parts in splits.items():
        for split, rows in parts.items():
            Dataset.from_list(rows, features=features).to_parquet(path / configuration / f"{split}.parquet")
        files = "".join(f"\n  - split: {split}\n    path: {configuration}/{split}.parquet" for split in parts)
        configurations.append(f"- config_name: {configuration}\n  data_files:{files}\n")
    (path / "README.md").write_text("---\nconfigs:\n" + "".join(configurations) + "---\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `datasets` writes out of the user's cache, and its progress bars out of the log."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


TAGS = Features(
    {"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=["O", "B-PER", "I-PER", "B-LOC"]))}
)
LABELS = ClassLabel(names=["entailment", "neutral", "contradiction"])
INFERENCE = Features({"premise": Value("string"), "hypothesis": Value("string"), "label": LABELS})
PARAPHRASE = Features(
    {"sentence1": Value("string"), "sentence2": Value("string"), "label": ClassLabel(names=["0", "1"])}
)
FOUND = {"text": Sequence(Value("string")), "answer_start": Sequence(Value("int32"))}
ANSWERS = Features({"question": Value("string"), "context": Value("string"), "answers": FOUND})
PERSON = {"tokens": ["Ada", "Lovelace", "met", "Bo"], "ner_tags": [1, 2, 0, 1]}


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("form", "features", "row", "expected"),
    [
        ("entities", TAGS, PERSON, Item(("Ada Lovelace met Bo",), spans=((0, 12, "PER"), (17, 19, "PER")))),
        ("inference", INFERENCE, {"premise": "a", "hypothesis": "b", "label": 2}, Item(("a", "b"), "contradiction")),
        ("paraphrase", PARAPHRASE, {"sentence1": "a", "sentence2": "b", "label": 1}, Item(("a", "b"), "1")),
        (
            "answers",
            ANSWERS,
            {"question": "q", "context": "the lamp", "answers": {"text": ["lamp"], "answer_start": [4]}},
            Item(("q", "the lamp"), spans=((4, 8, ""),)),
        ),
    ],
)
def test_columns_of_the_hub_are_read(tmp_path: Path, form: Format, features: Any, row: Any, expected: Item) -> None:
    name = folder(tmp_path / "data", features, {"de": {"train": [row], "test": [row]}})
    assert hub.read(name, form, "de", "train") == [expected]
    assert hub.read(name, form, "de-AT", "all") == [expected]
    assert hub.read(name, form, "fr", "train") is None


@pytest.mark.usefixtures("cache")
def test_a_split_that_lacks_is_made_without_overlap(tmp_path: Path) -> None:
    rows = [{"tokens": [f"{i}"], "ner_tags": [0]} for i in range(5)]
    whole = folder(tmp_path / "whole", TAGS, {"en": {"train": rows[:1], "validation": rows}})
    dev, test = (hub.read(whole, "entities", "en", part) or [] for part in ("dev", "test"))
    assert [item.texts[0] for item in dev] == ["0", "2", "4"]
    assert [item.texts[0] for item in test] == ["1", "3"]
    scored = folder(tmp_path / "scored", TAGS, {"en": {"validation": rows}})
    assert hub.read(scored, "entities", "en", "dev") is None
    assert len(hub.read(scored, "entities", "en", "test") or []) == 5


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("name", "language", "configuration"), [("xquad", "th", "xquad.th"), ("mlqa", "de", "mlqa.de.de")]
)
def test_configurations_have_their_own_names(tmp_path: Path, name: str, language: str, configuration: str) -> None:
    row = {"question": "q", "context": "the lamp", "answers": {"text": ["lamp"], "answer_start": [4]}}
    at = folder(tmp_path / name, ANSWERS, {configuration: {"test": [row]}})
    assert len(hub.read(at, "answers", language, "all") or []) == 1


@pytest.mark.usefixtures("cache")
def test_squad_is_english_and_has_no_configuration(tmp_path: Path) -> None:
    row = {"question": "q", "context": "the lamp", "answers": {"text": ["lamp"], "answer_start": [4]}}
    at = folder(tmp_path / "squad", ANSWERS, {"default": {"train": [row], "validation": [row, row]}})
    assert len(hub.read(at, "answers", "en", "train") or []) == 1
    assert len(hub.read(at, "answers", "en", "test") or []) == 1
    assert hub.read(at, "answers", "de", "train") is None


# ---------------------------------------------------------------------- as data


def test_each_part_comes_from_the_first_place_that_has_it(tmp_path: Path) -> None:
    train = written(tmp_path / "squad", {"train-v1.1.json": SQUAD, "dev-v1.1.json": SQUAD})
    other = json.loads(json.dumps(SQUAD).replace("lamp", "pear"))
    scored = written(tmp_path / "xquad", {"xquad.en.json": other, "xquad.th.json": other})
    data = Public([str(train), str(scored)], "answers")
    assert data.labels(["en"]) == ()
    assert "lamp" in data.sample("en", "train", 1, 0)[0].texts[1]
    assert "pear" in data.sample("en", "test", 1, 0)[0].texts[1]
    assert len(data.sample("th", "all", 50, 0)) == 2
    with pytest.raises(ValueError, match=r"must have train data of every language\. Found none of 'th'\."):
        data.sample("th", "train", 1, 0)


def test_kinds_of_entities_are_those_of_the_training_data(tmp_path: Path) -> None:
    data = Public([str(written(tmp_path, {"en/train": WIKIANN, "de/train": CONLL}))], "entities")
    assert data.labels(["en"]) == ("LOC", "PER")
    assert data.labels(["en", "de"]) == ("LOC", "MISC", "ORG", "PER")


def rows(line: Callable[[int], str]) -> str:
    return "".join(line(i) for i in range(12))


TASKS: dict[str, Callable[[str], dict[str, Any]]] = {
    "ner": lambda k: {
        f"{k}/{part}": rows(lambda i: f"{k}:Ada{i} B-PER\n{k}:sleeps O\n\n") for part in ("train", "dev", "test")
    },
    "nli": lambda k: {
        f"{k}.{part}.tsv": "premise\thypo\tlabel\n" + rows(lambda i: f"a {i}\tb\tneutral\n")
        for part in ("train", "dev", "test")
    },
    "paraphrase": lambda k: {
        f"{k}/{part}.tsv": "id\tsentence1\tsentence2\tlabel\n" + rows(lambda i: f"{i}\ta {i}\tb\t1\n")
        for part in ("train", "dev_2k", "test_2k")
    },
    "qa": lambda k: {f"{k}.{part}.json": SQUAD for part in ("train", "dev", "test")},
}


@pytest.mark.parametrize("task", list(TASKS))
def test_the_command_trains_on_public_data(task: str, tmp_path: Path, folder_of_bert: Path) -> None:
    for language in ("en", "es"):
        written(tmp_path / "data", TASKS[task](language))
    flags = ["--task", task, "--data", str(tmp_path / "data"), "--model", str(folder_of_bert), "--methods", "sum"]
    flags += [
        "--sources",
        "en",
        "--targets",
        "es",
        "--steps",
        "2",
        "--evaluations",
        "1",
        "--batch",
        "2",
        "--lr",
        "1e-3",
    ]
    command.main([*flags, "--threads", "1", "--retrieval-size", "0", "--output", str(tmp_path / "out")])
    [file] = (tmp_path / "out").glob("*.json")
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["arguments"]["data"] == [str(tmp_path / "data")]
    assert set(record["curve"][-1]["scores"]) == {"en", "es"}
    assert record["curve"][-1]["retrieval"] is None
    assert ("exact match" in record["curve"][-1]) == (task == "qa")
