"""Norms, and inner products with one vector.

In: rows, or blocks. Out: numbers in float64. May import: jacobian.blocks.
"""

import functools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mgrad.jacobian.blocks import Row, whole

_PIECE = 1 << 15  # values whose products are summed in their type: few enough to lose little, enough to be cheap
_WINDOW = 1 << 23  # values of all blocks together that are widened to float64 at a time on a device
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
    lengths: dict[torch.device, list[Tensor]] = {home: [torch.zeros((), dtype=torch.float64, device=home)]}
    for block in blocks:
        cheap = _inner([block], block.device)[0] if block.device.type == "cpu" else None
        if cheap is None or not _SAFE[0] < cheap < _SAFE[1]:  # float64 holds squares that float32 and float16 do not
            length = torch.linalg.vector_norm(block, dtype=torch.float64)
        else:
            length = cheap.sqrt()
        lengths.setdefault(block.device, []).append(length)
    total: Tensor = torch.stack([torch.stack(part).norm().to(home) for part in lengths.values()]).norm()
    return total


def along(rows: Sequence[Row], vector: Row, parameters: Sequence[Tensor], home: torch.device) -> tuple[Tensor, Tensor]:
    """Compute the inner products of the rows with a vector, and the squared norms of all, parameter by parameter.

    Args:
        rows: k rows, as of `gramian`.
        vector: u, given like a row.
        parameters: K, over which the sums of these are J u and the squared norms.
        home: where they are put.

    Returns:
        products: [K, k], of each parameter its part of J u, float64, at home; each to ε times the lengths of its
            blocks, float64's on a device and of float64; else float32's, and a hundred times that of nearly constant
            ones.
        squares: [K, k + 1], of each parameter its part of ‖gᵢ‖² and, last, of ‖u‖², likewise.

    Cost: (2k + 1)n multiplications; one read of each row and of u, a second one of very small and very large values.
    """
    found = []
    for parameter in parameters:
        blocks = [whole(row(parameter)) for row in (*rows, vector)]
        found.append(_inner(blocks, parameter.device))
    # In one transfer from each device.
    devices = dict.fromkeys(parameter.device for parameter in parameters)
    there = {d: iter(torch.stack([part for part in found if part.device == d]).to(home)) for d in devices}
    parts = [next(there[parameter.device]) for parameter in parameters]
    both = torch.stack(parts) if parts else torch.zeros(0, 2 * len(rows) + 1, dtype=torch.float64, device=home)
    return both[:, : len(rows)], both[:, len(rows) :]


def float_factors() -> torch.dtype:
    """Return float32, unless torch may round it to fewer bits in products on a CPU: then float64, which it leaves."""
    products = getattr(torch.backends.mkldnn, "matmul", None)
    if products is None:  # torch below 2.9
        return torch.float64 if torch.get_float32_matmul_precision() == "medium" else torch.float32
    return torch.float32 if products.fp32_precision in {"none", "ieee"} else torch.float64


def _inner(blocks: Sequence[Tensor | None], device: torch.device) -> Tensor:
    """Return the inner products of k blocks with the last, but its own, and all squared norms, [2k - 1].

    None counts as 0. On a CPU of pieces in float32 where it holds them, else in float64.
    """
    lines = [None if block is None else block.detach().reshape(-1).to(device) for block in blocks]
    if device.type != "cpu":
        return _of_pieces(lines, torch.float64, _WINDOW // len(lines) + 1, device)
    kinds = [line.dtype for line in lines if line is not None]
    kind = functools.reduce(torch.promote_types, kinds, float_factors())
    found = _of_pieces(lines, kind, _PIECE, device)
    lost = (found.abs() <= _SAFE[0]) | (found.abs() >= _SAFE[1])
    if kind is torch.float32 and lost.any():
        live = torch.tensor([line is not None and bool(line.any()) for line in lines], device="cpu")
        if (lost & torch.cat([live[:-1] & live[-1], live])).any():
            return _of_pieces(lines, torch.float64, _PIECE, device)
    return found


def _of_pieces(lines: Sequence[Tensor | None], kind: torch.dtype, size: int, device: torch.device) -> Tensor:
    """Return what `_inner` does, of pieces of a size in a type, and of these in float64; each is read once."""
    zero = torch.zeros((), dtype=kind, device=device)
    products = []
    for start in range(0, max([1, *(len(line) for line in lines if line is not None)]), size):
        pieces = [None if line is None else line[start : start + size].to(kind) for line in lines]
        pairs = [*((piece, pieces[-1]) for piece in pieces[:-1]), *((piece, piece) for piece in pieces)]
        products += [zero if x is None or y is None else x.dot(y) for x, y in pairs]
    return torch.stack(products).double().view(-1, 2 * len(lines) - 1).sum(0)
