"""What the rest of the example knows of a model: how it cuts texts into tokens and how it makes a fresh encoder.

In: a tokenizer and a builder, from `e5` or `hub`. Out: `Backbone`, batches, encodings. May import: torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Spans = list[tuple[int, int]]


@dataclass(frozen=True)
class Tokens:
    """One text, or two that are read together, cut into tokens.

    Attributes:
        ids: of the tokens, those of the prefix and special ones included.
        spans: (start, end) of each token in the last text, in characters; those of other tokens are empty.
    """

    ids: list[int]
    spans: Spans


@dataclass(frozen=True)
class Backbone:
    """A pretrained encoder, before fine-tuning.

    Attributes:
        name: for people and records.
        width: of its hidden states.
        padding: the id of the padding token.
        prefix: put before every text.
        cut: cuts texts, one or two to a row, into token ids with their spans in the last; those of other tokens are
            empty.
        build: makes a fresh encoder with the pretrained weights, word embeddings frozen, no dropout. It is called with
            token ids [batch, tokens] and a mask, True at tokens, and gives hidden states [batch, tokens, width]. Its
            argument is the ids that will be used: it may do without the others.
    """

    name: str
    width: int
    padding: int
    prefix: str
    cut: Callable[[Sequence[tuple[str, ...]]], list[tuple[list[int], Spans]]]
    build: Callable[[Sequence[int]], nn.Module]

    def tokenize(self, texts: Sequence[tuple[str, ...]]) -> list[Tokens]:
        """Cut texts, one or two to a row, into tokens, after the prefix."""
        skipped = len(self.prefix)

        def shifted(start: int, end: int) -> tuple[int, int]:
            return (max(start - skipped, 0), end - skipped) if end > max(start, skipped) else (0, 0)

        cuts = self.cut([(self.prefix + first, *others) for first, *others in texts])
        return [
            Tokens(ids, [shifted(*span) for span in spans] if len(row) == 1 else spans)
            for row, (ids, spans) in zip(texts, cuts, strict=True)
        ]


def collate(sequences: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Return sequences as one tensor [batch, longest] and a mask, True at their elements."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    longest = int(lengths.max())
    padded = torch.tensor([[*sequence, *[padding] * (longest - len(sequence))] for sequence in sequences])
    return padded, torch.arange(longest) < lengths[:, None]


def encode(
    encoder: nn.Module,
    padding: int,
    sequences: Sequence[Sequence[int]],
    read: Callable[[Tensor, Tensor], Tensor],
    size: int = 32,
) -> list[Tensor]:
    """Encode token ids in batches of similar length, without gradients.

    Args:
        encoder: maps ids and mask to hidden states.
        padding: the id of the padding token.
        sequences: of token ids.
        read: maps hidden states [batch, tokens, width] and the mask to what is kept, [batch, ...].
        size: of a batch.

    Returns:
        What is kept of each sequence, in the order given; where that is one row for each token, with its padding.
    """
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    kept: dict[int, Tensor] = {}
    with torch.inference_mode():
        for first in range(0, len(order), size):
            chosen = order[first : first + size]
            ids, mask = collate([sequences[i] for i in chosen], padding)
            kept.update(zip(chosen, read(encoder(ids, mask), mask), strict=True))
    return [kept[i] for i in range(len(sequences))]


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean hidden state of each text [batch, width]."""
    shown = mask[..., None].to(hidden.dtype)
    return (hidden * shown).sum(1) / shown.sum(1)
