"""The same data sets by their names on the hub, through the package `datasets`.

In: a name, a language, a part. Out: items. May import: files, items, datasets.
"""

from typing import Any

from benchmarks.multilingual.data.files import Format, pair, question, tagged
from benchmarks.multilingual.items import Item, Part

# What a configuration is called where that is not the language; one without any is English.
_CONFIGURATIONS = {"xquad": "xquad.{language}", "mlqa": "mlqa.{language}.{language}", "squad": None, "conll2003": None}


def read(name: str, form: Format, language: str, part: Part) -> list[Item] | None:
    """Return the items of a part, None if the data set has none of it.

    A data set without training data is for scoring alone; of one without a test split the validation split is halved
    into dev and test.

    Args:
        name: as `datasets.load_dataset` takes it.
        form: of its columns.
        language: as in its configurations, or with a region that those leave out: zh-CN for zh.
        part: all stands for test.
    """
    import datasets

    configuration = _CONFIGURATIONS.get(name.rpartition("/")[2], "{language}")
    if configuration is None and language != "en":
        return None
    known = set(datasets.get_dataset_config_names(name))
    codes = [language, language.partition("-")[0]]
    named = next((c for code in codes if (c := (configuration or "").format(language=code)) in known), None)
    if configuration is not None and named is None:
        return None
    splits = set(datasets.get_dataset_split_names(name, named))
    whole = "test" if part in {"test", "all"} else {"train": "train", "dev": "validation"}[part]
    split, step = whole, slice(None)
    if "train" not in splits:
        split = next((s for s in ("test", "validation") if s in splits), "") if whole == "test" else ""
    elif "test" not in splits and whole != "train":
        split, step = "validation", slice(whole == "test", None, 2)
    if split not in splits:
        return None
    table = datasets.load_dataset(name, named, split=split)
    return [_item(row, form, table.features) for row in table][step]


def _item(row: dict[str, Any], form: Format, features: Any) -> Item:
    """Return a row as an item."""
    if form == "entities":
        tags = features["ner_tags"].feature
        return tagged(row["tokens"], [tags.int2str(tag) for tag in row["ner_tags"]])
    if form == "answers":
        found = row["answers"]
        return question(row["question"], row["context"], zip(found["text"], found["answer_start"], strict=True))
    first, second = ("premise", "hypothesis") if form == "inference" else ("sentence1", "sentence2")
    return pair(row[first], row[second], features["label"].int2str(row["label"]))
