"""Tell what a text, or a pair of texts, is: the intent of a command, whether two texts mean the same.

In: items with a label. Out: a task. May import: backbone, items, task.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.multilingual.backbone import Tokens, mean_pool
from benchmarks.multilingual.items import Item
from benchmarks.multilingual.tasks.task import Example


class Classifying:
    """Tell the label of an item from the mean of its tokens; the score is accuracy.

    Args:
        labels: that are told apart.
    """

    metrics = ("accuracy",)

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.outputs = len(self.labels)

    def label(self, item: Item, tokens: Tokens) -> list[int]:
        """Return the one label."""
        return [self.labels.index(item.label)]

    def logits(self, head: nn.Module, hidden: Tensor, mask: Tensor) -> Tensor:
        """Read the mean hidden state."""
        logits: Tensor = head(mean_pool(hidden, mask)[:, None])
        return logits

    def score(self, logits: Sequence[Tensor], examples: Sequence[Example]) -> tuple[float, ...]:
        """Return the share of right labels."""
        found = torch.stack(list(logits)).argmax(-1).tolist()
        return (sum(f == e.labels for f, e in zip(found, examples, strict=True)) / len(examples),)
