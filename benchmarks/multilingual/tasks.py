"""The two tasks: tagging the slots of a command, and telling its intent. They differ in data, head and metric only.

In: utterances and their tokens. Out: labels, what the head sees, score. May import: backbone, utterances.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from benchmarks.multilingual.backbone import Tokens, mean_pool
from benchmarks.multilingual.utterances import INTENTS, SLOTS, Part, Utterance, sample

IGNORED = -100  # the label of a token that is not scored


class Task(Protocol):
    """What differs between the tasks."""

    @property
    def metric(self) -> str:
        """The name of the score."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What the head tells apart."""

    def sample(self, language: str, part: Part, count: int, seed: int, exclude: Sequence[str] = ()) -> list[Utterance]:
        """Return utterances of the task."""

    def label(self, utterance: Utterance, tokens: Tokens) -> list[int]:
        """Return the labels of an utterance: one for each token, or one for all."""

    def features(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return what the head sees, [batch, labels of an utterance, width]."""

    def score(self, predicted: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> float:
        """Return the score in [0, 1] of predicted labels, where the expected ones are not ignored."""


class Slots:
    """Tag the slots of a command, token by token, as B-slot, I-slot or O; the score is the F1 of whole spans."""

    metric = "span F1"
    labels = ("O", *(f"{place}-{slot}" for slot in SLOTS for place in "BI"))

    def sample(self, language: str, part: Part, count: int, seed: int, exclude: Sequence[str] = ()) -> list[Utterance]:
        """Return utterances with at least one slot, of any intent."""
        return sample(language, part, count, seed, tagged=True, exclude=exclude)

    def label(self, utterance: Utterance, tokens: Tokens) -> list[int]:
        """Tag every token that overlaps a slot's span; the first of a span is its beginning."""
        labels = []
        previous = None
        for start, end in tokens.spans:
            if start == end:
                labels.append(IGNORED)
                continue
            span = next((s for s in utterance.spans if start < s[1] and s[0] < end), None)
            tag = "O" if span is None else f"{'I' if span == previous else 'B'}-{span[2]}"
            labels.append(self.labels.index(tag))
            previous = span
        return labels

    def features(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return every token's hidden state."""
        return hidden

    def score(self, predicted: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> float:
        """Return the micro-averaged F1: a span counts as found if its slot and both its ends are right."""
        found, wanted, both = 0, 0, 0
        for guess, truth in zip(predicted, expected, strict=True):
            pairs = [(g, t) for g, t in zip(guess, truth, strict=True) if t != IGNORED]
            spans = self.spans([g for g, _ in pairs])
            right = self.spans([t for _, t in pairs])
            found, wanted, both = found + len(spans), wanted + len(right), both + len(spans & right)
        return 2 * both / (found + wanted) if found + wanted else 1.0

    def spans(self, labels: Sequence[int]) -> set[tuple[int, int, str]]:
        """Return the spans of a sequence of tags as (first, end, slot) in tokens; an I without a B opens one."""
        spans = []
        slot, first = "", 0
        for position, label in enumerate([*labels, 0]):
            place, _, kind = self.labels[label].partition("-")
            if slot and (place != "I" or kind != slot):
                spans.append((first, position, slot))
                slot = ""
            if kind and not slot:
                slot, first = kind, position
        return set(spans)


class Intents:
    """Tell the intent of a command from the mean of its tokens; the score is accuracy."""

    metric = "accuracy"
    labels = INTENTS

    def sample(self, language: str, part: Part, count: int, seed: int, exclude: Sequence[str] = ()) -> list[Utterance]:
        """Return utterances of the intents that are told apart."""
        return sample(language, part, count, seed, intents=INTENTS, exclude=exclude)

    def label(self, utterance: Utterance, tokens: Tokens) -> list[int]:
        """Return the one label."""
        return [self.labels.index(utterance.intent)]

    def features(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the mean hidden state."""
        return mean_pool(hidden, mask)[:, None]

    def score(self, predicted: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> float:
        """Return the share of right intents."""
        return sum(list(p) == list(e) for p, e in zip(predicted, expected, strict=True)) / len(expected)


TASKS: dict[str, Task] = {"slots": Slots(), "intents": Intents()}
