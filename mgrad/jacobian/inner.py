"""Norms, and inner products with one vector.

In: rows, or blocks. Out: numbers in float64. May import: jacobian.blocks.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mgrad.jacobian.blocks import Row, whole

_PIECE = 1 << 15  # values whose products are summed in float32: few enough to lose little, enough to be cheap
_SAFE = 1e-28, 1e28  # what a sum of squares lies between where no float32 square that counts is 0 or infinite


def norm(blocks: Iterable[Tensor], home: torch.device) -> Tensor:
    """Compute the norm of all blocks together.

    Args:
        blocks: of any floating-point dtype and size of values, on any devices; none at all count as 0.
        home: where the sum is taken.

    Returns:
        A float64 tensor of no dimension, at home; as accurate as `along`.

    Cost: one read of each; a second one of very small and very large values.
    """
    blocks = list(blocks)
    if home.type == "cpu":  # elsewhere the question would wait
        square = torch.zeros((), dtype=torch.float64, device=home)
        for block in blocks:
            square += _inner(block, block).to(home)
        if _SAFE[0] < square < _SAFE[1]:
            return square.sqrt()
    wide = torch.float64  # holds squares that float32 and float16 do not
    lengths = [torch.linalg.vector_norm(block, dtype=wide).to(home) for block in blocks]
    total: Tensor = torch.stack([torch.zeros((), dtype=wide, device=home), *lengths]).norm()
    return total


def along(rows: Sequence[Row], vector: Row, parameters: Sequence[Tensor], home: torch.device) -> Tensor:
    """Compute the inner products of the rows with a vector, and its own squared norm.

    Args:
        rows: k rows, as of `gramian`.
        vector: u, given like a row.
        parameters: over which the products are summed.
        home: where the sums are added up.

    Returns:
        [k + 1]: J u and ‖u‖², float64, at home; each to ε‖gᵢ‖‖u‖, with the ε of the rows' type, at least float32's,
        and a hundred times that where both are nearly constant.

    Cost: (k + 1)n multiplications; one read of each row.
    """
    total = torch.zeros(len(rows) + 1, dtype=torch.float64, device=home)
    for parameter in parameters:
        block = whole(vector(parameter))
        if block is not None:
            others = [whole(row(parameter)) for row in rows]
            total += torch.stack([_inner(other, block) for other in (*others, block)]).to(home)
    return total


def _inner(first: Tensor | None, second: Tensor) -> Tensor:
    """Return the inner product of two blocks: of pieces in their own type, and of these in float64."""
    if first is None:
        return torch.zeros((), dtype=torch.float64, device=second.device)
    kind = torch.promote_types(second.dtype, torch.float32)
    x, y = first.detach().reshape(-1).to(second.device, kind), second.detach().reshape(-1).to(kind)
    if x.device.type == "cpu":
        parts = zip(x.split(_PIECE), y.split(_PIECE), strict=True)
        return torch.tensor(sum(a.dot(b).item() for a, b in parts), dtype=torch.float64, device="cpu")
    rest = len(x) - len(x) % _PIECE
    pieces = torch.linalg.vecdot(x[:rest].view(-1, _PIECE), y[:rest].view(-1, _PIECE))
    total: Tensor = pieces.sum(dtype=torch.float64) + x[rest:].dot(y[rest:])
    return total
