"""Find the answer to a question in a context: where it starts and where it ends.

In: items of a question and a context, the answers as spans. Out: a task. May import: backbone, items, task.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.multilingual.backbone import Tokens
from benchmarks.multilingual.items import Item
from benchmarks.multilingual.tasks.task import IGNORED, Example

LONGEST = 30  # tokens of an answer, as in BERT's own script
# Scripts that are written without spaces between words: Han, kana, Thai, Lao, Burmese, Khmer.
_ALONE = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])")


class Answering:
    """Tell the first and the last token of the answer; the scores are F1 over words and exact match, as in SQuAD."""

    metrics = ("F1", "exact match")
    outputs = 2

    def label(self, item: Item, tokens: Tokens) -> list[int]:
        """Return the first and last token of the first answer, ignored where the context was cut off before its end."""
        start, end, _ = item.spans[0]
        inside = [i for i, (first, last) in enumerate(tokens.spans) if first < end and start < last]
        whole = inside and tokens.spans[inside[-1]][1] >= end
        return [inside[0], inside[-1]] if whole else [IGNORED, IGNORED]

    def logits(self, head: nn.Module, hidden: Tensor, mask: Tensor) -> Tensor:
        """Read how much every token is the first and how much it is the last."""
        logits: Tensor = head(hidden)
        return logits.masked_fill(~mask[..., None], -torch.inf).transpose(1, 2)

    def score(self, logits: Sequence[Tensor], examples: Sequence[Example]) -> tuple[float, ...]:
        """Return the means of the better score among each item's answers."""
        scores = []
        for row, example in zip(logits, examples, strict=True):
            context = example.item.texts[-1]
            found = answer(row, example.tokens, context)
            right = [context[start:end] for start, end, _ in example.item.spans]
            scores.append((max(word_f1(found, r) for r in right), max(exact_match(found, r) for r in right)))
        f1s, matches = zip(*scores, strict=True)
        return sum(f1s) / len(f1s), sum(matches) / len(matches)


def answer(logits: Tensor, tokens: Tokens, context: str) -> str:
    """Return the likeliest answer of at most `LONGEST` tokens of the context.

    Args:
        logits: [2, tokens or more] of first and last tokens.
        tokens: of question and context.
        context: the text.
    """
    places = [i for i, (start, end) in enumerate(tokens.spans) if start < end]
    if not places:
        return ""
    first, last = logits[:, places]
    together = first[:, None] + last
    allowed = torch.ones_like(together, dtype=torch.bool).triu().tril(LONGEST - 1)
    best = int(together.masked_fill(~allowed, -torch.inf).argmax())
    start, end = divmod(best, len(places))
    return context[tokens.spans[places[start]][0] : tokens.spans[places[end]][1]].strip()


def words(text: str) -> list[str]:
    """Return what is compared: words in lower case without punctuation and English articles, as in SQuAD.

    Scripts without spaces are compared by characters, as in MLQA.
    """
    marks = set(string.punctuation)
    kept = "".join(c for c in text.lower() if c not in marks and unicodedata.category(c)[0] != "P")
    kept = re.sub(r"\b(a|an|the)\b", " ", kept)
    return _ALONE.sub(r" \1 ", kept).split()


def exact_match(found: str, right: str) -> bool:
    """Tell whether two answers are the same words."""
    return words(found) == words(right)


def word_f1(found: str, right: str) -> float:
    """Return the F1 of the words of an answer against those of the right one."""
    ours, theirs = words(found), words(right)
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (Counter(ours) & Counter(theirs)).total() / (len(ours) + len(theirs))
