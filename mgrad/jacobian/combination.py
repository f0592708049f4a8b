"""Linear combinations of the rows: the direction.

In: rows and numbers. Out: a block for each parameter. May import: compiled, jacobian.blocks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mgrad import compiled
from mgrad.compiled import Table
from mgrad.jacobian.blocks import MANY, Block, Row, flat, gradient_type, piece_of, readable

_TOGETHER = {"cpu": 1 << 19, "cuda": 1 << 22}  # values of the direction that are formed together


@torch.no_grad()
def combine(
    rows: Sequence[Row],
    coefficients: Sequence[float | Tensor],
    parameters: Sequence[Tensor],
    *,
    keep: bool = False,
) -> list[Tensor | None]:
    """Compute Σ coefficientsᵢ·rowᵢ, each block in place in the first row that has one.

    Args:
        rows: k rows; the blocks of the first are overwritten.
        coefficients: k numbers, or tensors of no dimension on the parameters' device.
        parameters: whose blocks are computed.
        keep: whether the rows are needed afterwards: the blocks are then new tensors.

    Returns:
        A block with the dtype of its gradient for each parameter, or None where no row has one. Below float32 the sums
        are taken in float32.

    Cost: one pass over each row; a number that is 0 saves it. The sums stay in the cache of a core, or are formed by a
        few launches on a device.
    """
    directions: list[Tensor | None] = []
    batches: dict[Any, _Batch] = {}  # by what they have in common
    known = [f for f in coefficients if not isinstance(f, Tensor) and abs(f) <= torch.finfo(torch.float32).max]
    many = sum(parameter.numel() for parameter in parameters if parameter.device.type == "cpu") >= MANY
    table = Table(len(rows)) if many and len(known) == len(rows) and compiled.loops() is not None else None
    for parameter in parameters:
        every = [row(parameter) for row in rows]
        present = [(i, block) for i, block in enumerate(every) if block is not None]
        if not present:
            directions.append(None)
            continue
        where, blocks = zip(*present, strict=True)
        first, kind, device = blocks[0], gradient_type(parameter), parameter.device
        own = isinstance(first, Tensor) and not keep and first.is_contiguous() and first.dtype is kind
        target = first.detach() if own else torch.empty(parameter.shape, dtype=kind, device=device)
        directions.append(target)
        if table is not None and table.add([readable(block) for block in every], target):
            if own:
                torch.autograd.graph.increment_version(target)  # autograd is to know what is overwritten
            if table.is_full:
                table.combine(known)
                table = Table(len(rows))
            continue
        key = device, kind, own, where
        if key not in batches:
            limit = _TOGETHER.get(device.type, _TOGETHER["cuda"])
            batches[key] = _Batch([coefficients[i] for i in where], own, limit)
        batches[key].add(target, [flat(block) for block in blocks])
    for batch in batches.values():
        batch.form()
    if table is not None:
        table.combine(known)
    return directions


class _Batch:
    """Blocks of the direction that are made of the same rows, formed so many values at a time."""

    def __init__(self, coefficients: Sequence[float | Tensor], own: bool, limit: int) -> None:
        """Begin with no pieces; own says whether the sums stand in the memory of the first row."""
        self.coefficients, self.own, self.limit = coefficients, own, limit
        self.size = 0
        self.pieces: list[list[Tensor]] = []  # of the sum, and of each row

    def add(self, target: Tensor, blocks: Sequence[Block]) -> None:
        """Form a block of others."""
        line = target.view(-1)
        start, end = 0, len(line)
        while start < end:
            stop = min(end, start + self.limit - self.size)
            self.pieces.append([piece_of(block, start, stop) for block in (line, *blocks)])
            self.size += stop - start
            start = stop
            if self.size == self.limit:
                self.form()

    def form(self) -> None:
        """Form what has been added, and have no pieces."""
        if not self.pieces:
            return
        targets, first, *others = (list(pieces) for pieces in zip(*self.pieces, strict=True))
        self.pieces, self.size = [], 0
        sums = targets
        kind = torch.promote_types(targets[0].dtype, torch.float32)
        if kind is not targets[0].dtype:
            sums = [piece.to(targets[0].device, kind, copy=True) for piece in first]  # a mean's block is of that kind
        elif not self.own:
            torch._foreach_copy_(sums, first)
        scale, *factors = self.coefficients
        torch._foreach_mul_(sums, scale.to(kind) if isinstance(scale, Tensor) else scale)
        for row, factor in zip(others, factors, strict=True):
            if isinstance(factor, Tensor):  # as `alpha` it would be asked for its value
                wide = [piece.to(sums[0].device, kind) for piece in row]
                torch._foreach_add_(sums, torch._foreach_mul(wide, factor.to(kind)))
            elif factor:
                near = [piece.to(sums[0].device) for piece in row]
                torch._foreach_add_(sums, near, alpha=factor)
        if sums is not targets:
            torch._foreach_copy_(targets, sums)
