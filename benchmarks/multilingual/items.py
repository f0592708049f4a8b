"""What every data set is made into, and what every task is made from.

In: texts with what is to be found out about them. Out: `Item`, `Data`. May import: nothing.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Part = Literal["train", "dev", "test", "all"]


@dataclass(frozen=True)
class Item:
    """One text, or two that are read together, with what is to be found out about them.

    Attributes:
        texts: one, or two: question and context, premise and hypothesis.
        label: of the whole; empty where there is none.
        spans: of the last text, as (start, end, label) in characters: entities, in order and apart from each other; or
            the right answers, any of them.
        sentences: that it is made of: none of them may be in two parts.
    """

    texts: tuple[str, ...]
    label: str = ""
    spans: tuple[tuple[int, int, str], ...] = ()
    sentences: tuple[str, ...] = ()


class Data(Protocol):
    """Where items come from."""

    def labels(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Return the labels of the items, or of their spans, as they are to be learnt from some languages."""

    def sample(self, language: str, part: Part, count: int, seed: int, exclude: Collection[str] = ()) -> list[Item]:
        """Return items of a language in random order.

        Args:
            language: of the texts.
            part: train, dev and test share nothing; all is what a language that is not trained on is scored by.
            count: how many at most.
            seed: of the random choices.
            exclude: sentences that no item may be made of; splits that were published are taken as they are.
        """
