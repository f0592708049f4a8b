"""Norms, and inner products with one vector.

In: rows, or blocks. Out: numbers in float64. May import: jacobian.blocks.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mgrad.jacobian.blocks import Row, whole

_PIECE = 1 << 15  # values whose products are summed in their type: few enough to lose little, enough to be cheap
_WINDOW = 1 << 22  # values that are widened to float64 at a time on a device
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
        square = sum(_inner(block, block).item() for block in blocks)
        if _SAFE[0] < square < _SAFE[1]:
            return torch.tensor(square**0.5, dtype=torch.float64, device="cpu")
    wide = torch.float64  # holds squares that float32 and float16 do not
    lengths = [torch.linalg.vector_norm(block, dtype=wide).to(home) for block in blocks]
    total: Tensor = torch.stack([torch.zeros((), dtype=wide, device=home), *lengths]).norm()
    return total


def along(rows: Sequence[Row], vector: Row, parameters: Sequence[Tensor], home: torch.device) -> Tensor:
    """Compute the inner products of the rows with a vector, and its own squared norm, parameter by parameter.

    Args:
        rows: k rows, as of `gramian`.
        vector: u, given like a row.
        parameters: K, over which the sum of these are J u and ‖u‖².
        home: where the products are put.

    Returns:
        [K, k + 1]: of each parameter its part of J u and ‖u‖², float64, at home; each to ε times the lengths of its
        blocks, float64's on a device and of float64; else float32's, and a hundred times that of nearly constant ones.

    Cost: (k + 1)n multiplications; one read of each row, a second one of very small and very large values.
    """
    lines = []
    for parameter in parameters:
        if (block := whole(vector(parameter))) is None:
            block = parameter.new_zeros(0)
        others = [whole(row(parameter)) if block.numel() else None for row in rows]
        lines.append(torch.stack([_inner(other, block) for other in (*others, block)]))
    return _together(lines, len(rows) + 1, home)


def lengths(rows: Sequence[Row], parameters: Sequence[Tensor], home: torch.device) -> Tensor:
    """Compute the norm of every block of the rows.

    Args:
        rows: k rows, as of `gramian`.
        parameters: K, whose blocks these are.
        home: where the norms are put.

    Returns:
        [K, k], float64, at home; 0 where a row has no block.

    Cost: as of `norm`.
    """
    lines = []
    for parameter in parameters:
        blocks = [whole(row(parameter)) for row in rows]
        norms = [norm([] if block is None else [block], parameter.device) for block in blocks]
        lines.append(torch.stack(norms))
    return _together(lines, len(rows), home)


def _together(lines: Sequence[Tensor], width: int, home: torch.device) -> Tensor:
    """Return lines of one width as a matrix at home, in one transfer from each device."""
    devices = dict.fromkeys(line.device for line in lines)
    there = {d: iter(torch.stack([line for line in lines if line.device == d]).to(home)) for d in devices}
    empty = torch.zeros(0, width, dtype=torch.float64, device=home)
    return torch.stack([next(there[line.device]) for line in lines]) if lines else empty


def float_factors() -> torch.dtype:
    """Return float32, unless torch may round it to fewer bits in products on a CPU: then float64, which it leaves."""
    products = getattr(torch.backends.mkldnn, "matmul", None)
    if products is None:  # torch below 2.9
        return torch.float64 if torch.get_float32_matmul_precision() == "medium" else torch.float32
    return torch.float32 if products.fp32_precision in {"none", "ieee"} else torch.float64


def _inner(first: Tensor | None, second: Tensor) -> Tensor:
    """Return the inner product of two blocks: on a CPU of pieces in float32 where it holds them, else in float64."""
    if first is None:
        return torch.zeros((), dtype=torch.float64, device=second.device)
    x, y = first.detach().reshape(-1).to(second.device), second.detach().reshape(-1)
    if x.device.type == "cpu":
        kind = torch.promote_types(torch.promote_types(x.dtype, y.dtype), float_factors())
        product = _on_host(x, y, kind)
        if kind is torch.float32 and not _SAFE[0] < abs(product) < _SAFE[1] and x.any() and y.any():
            product = _on_host(x, y, torch.float64)
        return torch.tensor(product, dtype=torch.float64, device="cpu")
    pieces = zip(x.split(_WINDOW), y.split(_WINDOW), strict=True)
    total: Tensor = torch.stack([a.double().dot(b.double()) for a, b in pieces]).sum()
    return total


def _on_host(x: Tensor, y: Tensor, kind: torch.dtype) -> float:
    """Return the inner product of two lines on a CPU: of pieces in a type, and of these in float64."""
    pieces = zip(x.split(_PIECE), y.split(_PIECE), strict=True)
    return float(sum(a.to(kind).dot(b.to(kind)).item() for a, b in pieces))
