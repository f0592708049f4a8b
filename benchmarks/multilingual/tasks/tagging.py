"""Find the spans of a text and what they are: slots, named entities.

In: items with spans. Out: a task. May import: backbone, items, task.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from benchmarks.multilingual.backbone import Tokens
from benchmarks.multilingual.items import Item
from benchmarks.multilingual.tasks.task import IGNORED, Example


class Tagging:
    """Tag a text token by token, as B-kind, I-kind or O; the score is the F1 of whole spans.

    Args:
        kinds: of spans.
    """

    metrics = ("span F1",)

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)
        self.tags = ("O", *(f"{place}-{kind}" for kind in kinds for place in "BI"))
        self.outputs = len(self.tags)

    def label(self, item: Item, tokens: Tokens) -> list[int]:
        """Tag every token that overlaps a span; the first of a span is its beginning.

        Raises:
            ValueError: if a span is of a kind that the tags do not know.
        """
        for _, _, kind in item.spans:
            if kind not in self.kinds:
                raise ValueError(
                    f"`--data` must have only entities of the kinds that are trained on, {', '.join(self.kinds)}. "
                    f"Found {kind!r} in {item.texts[0]!r}. Train on a language that has it, or leave this one out."
                )
        labels = []
        previous = None
        for start, end in tokens.spans:
            if start == end:
                labels.append(IGNORED)
                continue
            span = next((s for s in item.spans if start < s[1] and s[0] < end), None)
            tag = "O" if span is None else f"{'I' if span == previous else 'B'}-{span[2]}"
            labels.append(self.tags.index(tag))
            previous = span
        return labels

    def logits(self, head: nn.Module, hidden: Tensor, mask: Tensor) -> Tensor:
        """Read every token's hidden state."""
        logits: Tensor = head(hidden)
        return logits

    def score(self, logits: Sequence[Tensor], examples: Sequence[Example]) -> tuple[float, ...]:
        """Return the micro-averaged F1."""
        return (self.f1([row.argmax(-1).tolist() for row in logits], [example.labels for example in examples]),)

    def f1(self, predicted: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> float:
        """Return the micro-averaged F1 of tags: a span counts as found if its kind and both its ends are right."""
        found, wanted, both = 0, 0, 0
        for guess, truth in zip(predicted, expected, strict=True):
            pairs = [(g, t) for g, t in zip(guess, truth, strict=False) if t != IGNORED]  # a guess may be padded
            spans = self.spans([g for g, _ in pairs])
            right = self.spans([t for _, t in pairs])
            found, wanted, both = found + len(spans), wanted + len(right), both + len(spans & right)
        return 2 * both / (found + wanted) if found + wanted else 1.0

    def spans(self, labels: Sequence[int]) -> set[tuple[int, int, str]]:
        """Return the spans of a sequence of tags as (first, end, kind) in tokens; an I without a B opens one."""
        spans = []
        kind, first = "", 0
        for position, label in enumerate([*labels, 0]):
            place, _, found = self.tags[label].partition("-")
            if kind and (place != "I" or found != kind):
                spans.append((first, position, kind))
                kind = ""
            if found and not kind:
                kind, first = found, position
        return set(spans)
