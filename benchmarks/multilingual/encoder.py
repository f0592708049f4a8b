"""BERT's encoder in plain torch, under the parameter names of `transformers.BertModel`.

In: token ids and a mask. Out: hidden states. May import: torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The sizes of an encoder.

    Attributes:
        vocabulary: number of token ids.
        positions: largest number of tokens in a text.
        types: number of token types; only type 0 is used.
        width: of the hidden states.
        layers: number of them.
        heads: of the attention; they divide the width.
        inner: width of the feed-forward layers.
        eps: of the layer norms.
    """

    vocabulary: int
    positions: int
    types: int
    width: int
    layers: int
    heads: int
    inner: int
    eps: float = 1e-12


class TrimmedEmbedding(nn.Embedding):
    """An embedding that holds only the rows of some ids and is still called with the ids of the whole vocabulary.

    Args:
        ids: the ids to hold, each once.
        vocabulary: number of ids.
        width: of a row.
    """

    rows: Tensor

    def __init__(self, ids: Sequence[int], vocabulary: int, width: int) -> None:
        super().__init__(len(ids), width)
        rows = torch.full([vocabulary], -1)
        rows[torch.tensor(ids)] = torch.arange(len(ids))
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Look the rows up; an id that is not held is an IndexError."""
        return super().forward(self.rows[ids])


class _Layout:
    """Where the tokens of a batch stand: what is done to each token alone is done to those of no padding.

    Attributes:
        mask: [batch, tokens], False at padding.
        visible: the same as attention wants it, [batch, 1, 1, tokens].
        places: of the tokens among all, [number of tokens]; None if there is no padding.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask, self.visible = mask, mask[:, None, None, :]
        self.places = None if mask.all() else mask.flatten().nonzero()[:, 0]

    def gather(self, states: Tensor) -> Tensor:
        """Return [batch, tokens, width] without padding, [number of tokens, width]; as it is if there is none."""
        return states if self.places is None else states.flatten(0, 1)[self.places]

    def spread(self, states: Tensor) -> Tensor:
        """Return what was gathered with zeros at padding, [batch, tokens, width]."""
        if self.places is None:
            return states
        padded = states.new_zeros(self.mask.numel(), states.shape[-1])
        return padded.index_copy(0, self.places, states).view(*self.mask.shape, -1)


class _Layer(nn.Module):
    """Self-attention and a feed-forward layer, each with its residual, normalised after the sum."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        # Dictionaries, because BERT calls one of its modules "self".
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                "output": _sublayer(width, width, shape.eps),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, shape.inner)})
        self.output = _sublayer(shape.inner, width, shape.eps)

    def forward(self, hidden: Tensor, layout: _Layout) -> Tensor:
        """Map the hidden states of a layout."""
        query, key, value = (
            layout.spread(project(hidden)).unflatten(-1, [self.heads, -1]).transpose(1, 2)
            for project in _parts(self.attention["self"]).values()
        )
        with torch.autocast(hidden.device.type, enabled=False):  # on a CPU its backward pass is slower in bfloat16
            query, key, value = (part.to(hidden.dtype) for part in (query, key, value))
            mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=layout.visible)
        mixed = layout.gather(mixed.transpose(1, 2).flatten(2))
        hidden = _close(_parts(self.attention["output"]), mixed, hidden)
        return _close(self.output, nn.functional.gelu(self.intermediate["dense"](hidden)), hidden)


class Encoder(nn.Module):
    """BERT's encoder: post-norm, exact gelu, positions from 0, no dropout, no pooler.

    Args:
        shape: its sizes.
        ids: the token ids to hold embeddings for; all by default.
    """

    def __init__(self, shape: Shape, ids: Sequence[int] | None = None) -> None:
        super().__init__()
        ids = range(shape.vocabulary) if ids is None else ids
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": TrimmedEmbedding(ids, shape.vocabulary, shape.width),
                "position_embeddings": nn.Embedding(shape.positions, shape.width),
                "token_type_embeddings": nn.Embedding(shape.types, shape.width),
                "LayerNorm": nn.LayerNorm(shape.width, eps=shape.eps),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(shape) for _ in range(shape.layers))})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode texts.

        Args:
            ids: [batch, tokens], integers.
            mask: [batch, tokens], True at tokens and False at padding.

        Returns:
            The last hidden states [batch, tokens, width]; 0 at padding.
        """
        positions = torch.arange(ids.shape[1], device=ids.device)
        hidden = (
            self.embeddings["word_embeddings"](ids)
            + self.embeddings["position_embeddings"](positions)
            + self.embeddings["token_type_embeddings"](torch.zeros_like(ids))
        )
        hidden = self.embeddings["LayerNorm"](hidden)
        layout = _Layout(mask.bool())
        hidden = layout.gather(hidden)
        for layer in self.encoder["layer"].children():
            hidden = layer(hidden, layout)
        return layout.spread(hidden)


def _sublayer(inner: int, width: int, eps: float) -> nn.ModuleDict:
    """Return the end of a sublayer: a projection to the width and the norm after the residual."""
    return nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps=eps)})


def _parts(module: nn.Module) -> nn.ModuleDict:
    """Return a dictionary of modules as what it is, which its own type does not say."""
    assert isinstance(module, nn.ModuleDict)
    return module


def _close(sublayer: nn.ModuleDict, inner: Tensor, residual: Tensor) -> Tensor:
    """Apply the end of a sublayer."""
    closed: Tensor = sublayer["LayerNorm"](sublayer["dense"](inner) + residual)
    return closed
