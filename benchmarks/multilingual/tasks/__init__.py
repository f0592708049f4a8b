"""The tasks by name: what is told, and from which data unless others are named."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.multilingual.data.commands import Intents, Pairs, Questions, Slots
from benchmarks.multilingual.data.files import Format
from benchmarks.multilingual.items import Data
from benchmarks.multilingual.tasks.answering import Answering
from benchmarks.multilingual.tasks.classifying import Classifying
from benchmarks.multilingual.tasks.tagging import Tagging
from benchmarks.multilingual.tasks.task import IGNORED, Example, Task


@dataclass(frozen=True)
class Kind:
    """A task.

    Attributes:
        description: for --help.
        build: makes it, of the labels.
        source: its data, in a format of `files` where it is a name.
        like: the one of slots and intents whose tuned rates it takes.
    """

    description: str
    build: Callable[[Sequence[str]], Task]
    source: Data | Format
    like: Literal["slots", "intents"]


def _answering(labels: Sequence[str]) -> Task:
    """Build the task of finding answers."""
    return Answering()


TASKS = {
    "slots": Kind("tag the slots of commands, span F1", Tagging, Slots(), "slots"),
    "intents": Kind("tell the intent of a command, accuracy", Classifying, Intents(), "intents"),
    "questions": Kind("find answers to questions in commands, F1 and exact match", _answering, Questions(), "slots"),
    "pairs": Kind("tell whether two commands ask for the same, accuracy", Classifying, Pairs(), "intents"),
    "ner": Kind("tag the entities of --data (CoNLL, WikiANN), span F1", Tagging, "entities", "slots"),
    "nli": Kind("tell entailment in --data (XNLI), accuracy", Classifying, "inference", "intents"),
    "paraphrase": Kind("tell paraphrases in --data (PAWS-X), accuracy", Classifying, "paraphrase", "intents"),
    "qa": Kind("find answers in --data (SQuAD, XQuAD, MLQA), F1 and exact match", _answering, "answers", "slots"),
}

__all__ = ["IGNORED", "TASKS", "Example", "Kind", "Task"]
