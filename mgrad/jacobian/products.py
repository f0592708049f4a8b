"""The inner products of the rows, each read once.

In: rows. Out: G, on the host or on their device. May import: compiled, jacobian.blocks, jacobian.inner.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mgrad import compiled
from mgrad.compiled import Table
from mgrad.jacobian.blocks import MANY, Row, flat, piece_of, readable, whole
from mgrad.jacobian.inner import float_factors

# Values of all rows together that are looked at at once, up to so many of each. On a CPU they fit its cache and keep
# its threads busy, and what Python does for them is little beside reading them; a GPU they fill.
_WINDOW = {"cpu": (1 << 21, 1 << 19), "cuda": (1 << 24, 1 << 20)}
_SHARE = 1 << 13  # values of a window whose products are summed in its own type
_FEW = 8  # rows of which half of the products take as long as all
# What a sum of a share may lose, relative to the lengths (math.md, 120): BLAS adds up eight at a time at least.
_LOSS = _SHARE / 8 * 2.0**-24
_RESOLVED = 1 / 16  # by which quadratic forms of G may be wrong at worst (math.md, 121)


@torch.no_grad()
def gramian(rows: Sequence[Row], parameters: Sequence[Tensor], home: torch.device, metric: Row | None = None) -> Tensor:
    """Compute the inner products of the rows, accumulated in float64, reading each row once.

    The products of many float32 values on a CPU are taken in float32 piece by piece, if that resolves G: where the rows
    are nearly dependent, or their squares leave the range of float32, they are read once more, in float64 (math.md,
    120-121). Where numba is installed, loops that it compiles read those of contiguous float32.

    Args:
        rows: k rows; a block of any floating-point dtype.
        parameters: over which the products are summed.
        home: where the sums over each device's parameters are added up. Where it is the device of all parameters,
            nothing is transferred and nothing waits.
        metric: P, by whose entries the products are weighted (math.md, 50); None for 1.

    Returns:
        [k, k], float64, at home; what comes from other devices comes in one transfer each.

    Cost: k²n multiplications, k windows of memory besides the rows; half and none in the loops.
    """
    devices: dict[torch.device, list[Tensor]] = {}
    for parameter in parameters:
        devices.setdefault(parameter.device, []).append(parameter)
    everything = list(rows) if metric is None else [*rows, metric]
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=home)
    for device, here in devices.items():
        size = sum(parameter.numel() for parameter in here)
        narrow = metric is None and device.type == "cpu" and size >= MANY
        narrow = narrow and all(parameter.dtype is not torch.float64 for parameter in here)
        with torch.autocast("cpu", enabled=False):  # would take these products in 16 bits
            products = _single(rows, here) if narrow else None
        if products is None or not _is_resolved(products, rows, here, size):
            products = _products(everything, here, size, torch.float64, metric is not None)
        total += products.to(home)
    return total


def _single(rows: Sequence[Row], parameters: Sequence[Tensor]) -> Tensor:
    """Return the inner products of the rows on a CPU, in float32: by loops where they can be had, else by BLAS."""
    if compiled.loops() is None:
        return _products(rows, parameters, sum(parameter.numel() for parameter in parameters), float_factors(), False)
    table, rest = Table(len(rows)), []
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device="cpu")
    for parameter in parameters:
        if not table.add([readable(row(parameter)) for row in rows]):
            rest.append(parameter)
        if table.is_full:
            total += table.products()
            table = Table(len(rows))
    total += table.products()
    if rest:
        total += _products(rows, rest, sum(parameter.numel() for parameter in rest), float_factors(), False)
    return total


def _products(rows: Sequence[Row], parameters: Sequence[Tensor], size: int, dtype: torch.dtype, metric: bool) -> Tensor:
    """Return the inner products of the rows over the parameters of one device, the last of them as metric or not."""
    device = parameters[0].device
    length = min(max(1, size), _SHARE) if size <= _SHARE else -(-size // _SHARE) * _SHARE
    together, most = _WINDOW.get(device.type, _WINDOW["cuda"])
    length = min(length, most, max(_SHARE, together // len(rows) // _SHARE * _SHARE))
    window = torch.zeros(len(rows), length, dtype=dtype, device=device)
    # In shares, as BLAS splits no sum among threads.
    shares = window.view(len(rows), max(1, length // _SHARE), -1).transpose(0, 1)
    right = shares[:, :-1] if metric else shares
    total = torch.zeros(right.shape[1], right.shape[1], dtype=torch.float64, device=device)
    fill: list[list[Tensor]] = [[] for _ in rows]
    filled, zeros = 0, window.new_zeros(0)

    def add() -> None:
        nonlocal total, filled
        if filled < length:
            window[:, filled:] = 0.0
        for row, parts in zip(window, fill, strict=True):
            torch.cat(parts, out=row[:filled])
            parts.clear()
        left = right * shares[:, -1:] if metric else right
        total += _upper(left, right)
        filled = 0

    for parameter in parameters:
        blocks = [row(parameter) for row in rows]
        lines = [None if block is None else flat(block) for block in blocks]
        start, end = 0, parameter.numel() if any(block is not None for block in blocks) else 0
        while start < end:
            stop = min(end, start + length - filled)
            if len(zeros) < stop - start and any(block is None for block in blocks):
                zeros = window.new_zeros(stop - start)
            for parts, block in zip(fill, lines, strict=True):
                parts.append(zeros[: stop - start] if block is None else piece_of(block, start, stop))
            filled += stop - start
            start = stop
            if filled == length:
                add()
    if filled:
        add()
    return total.triu() + total.triu(1).T


def _upper(left: Tensor, right: Tensor) -> Tensor:
    """Return the products of two stacks of rows [shares, k, values], summed over the shares; right above the diagonal.

    Of many rows the quarter below the diagonal is left out.
    """
    rows = left.shape[1]
    if rows <= _FEW:
        return (left @ right.mT).sum(0, dtype=torch.float64)
    half = rows // 2
    total = torch.zeros(rows, rows, dtype=torch.float64, device=left.device)
    total[:half] = (left[:, :half] @ right.mT).sum(0, dtype=torch.float64)
    total[half:, half:] = _upper(left[:, half:], right[:, half:])
    return total


def _is_resolved(products: Tensor, rows: Sequence[Row], parameters: Sequence[Tensor], size: int) -> bool:
    """Tell whether float32 products determine all quadratic forms of G well enough (math.md, 121-122)."""
    values, single = products.numpy(), torch.finfo(torch.float32)
    squares = values.diagonal()
    live = squares > 0
    if not np.isfinite(values).all() or (squares[live] < size * single.tiny / single.eps).any():
        return False
    if not all(_is_zero(rows[i], parameters) for i in np.flatnonzero(~live).tolist()):
        return False
    lengths = np.sqrt(squares[live])
    cosines = values[np.ix_(live, live)] / lengths / lengths[:, None]
    return not len(cosines) or len(cosines) * _LOSS <= _RESOLVED * float(np.linalg.eigvalsh(cosines)[0])


def _is_zero(row: Row, parameters: Sequence[Tensor]) -> bool:
    """Tell whether a row is 0, and not only its squares."""
    return not any(block.any() for parameter in parameters if (block := whole(row(parameter))) is not None)
