"""What the tasks have in common: how the trainer sees them.

In: items and their tokens. Out: the protocol of a task. May import: backbone, items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from benchmarks.multilingual.backbone import Tokens
from benchmarks.multilingual.items import Item

IGNORED = -100  # a label that is neither learnt nor scored


@dataclass(frozen=True)
class Example:
    """An item for the model.

    Attributes:
        item: as it came.
        tokens: of its texts.
        labels: what the logits are to point at, one label for each of their rows.
    """

    item: Item
    tokens: Tokens
    labels: list[int]


class Task(Protocol):
    """What differs between the tasks."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the scores, the main one first."""

    @property
    def outputs(self) -> int:
        """How many outputs the head has."""

    def label(self, item: Item, tokens: Tokens) -> list[int]:
        """Return the labels of an item."""

    def logits(self, head: nn.Module, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the logits [batch, labels of an item, classes] of hidden states [batch, tokens, width]."""

    def score(self, logits: Sequence[Tensor], examples: Sequence[Example]) -> tuple[float, ...]:
        """Return the scores in [0, 1], in the order of the metrics.

        Args:
            logits: of each example, [its labels, classes]; there may be more, of padding.
            examples: that were encoded.
        """
