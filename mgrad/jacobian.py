"""The rows of the Jacobian: taking them from autograd, their inner products, their combination.

In: parameters and what autograd leaves in `.grad`. Out: G, on the host or on their device, and one block of the
direction per parameter.
May import: compiled. Knows no optimizer.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import Node

from mgrad import compiled
from mgrad.compiled import Difference, Table


class Lazy(Protocol):
    """A block that is formed piece by piece where it is read, and never stands in memory as a whole."""

    def numel(self) -> int:
        """Return the number of its values."""

    def piece(self, start: int, stop: int) -> Tensor:
        """Return some of its values, flat, as a new tensor."""

    def difference(self) -> Difference | None:
        """Return what it is the difference of, if it is one."""


Block = Tensor | Lazy
Row = Callable[[Tensor], Block | None]
"""A row of the Jacobian: from a parameter to the row's block, as large as the parameter; None stands for 0. A tensor is
on the parameter's device, of any floating-point dtype."""

# Values of all rows together that are looked at at once, up to so many of each. On a CPU they fit its cache and keep
# its threads busy, and what Python does for them is little beside reading them; a GPU they fill.
_WINDOW = {"cpu": (1 << 21, 1 << 19), "cuda": (1 << 24, 1 << 20)}
_TOGETHER = {"cpu": 1 << 19, "cuda": 1 << 22}  # values of the direction that are formed together
_HELD = 1 << 23  # values of each row that loops are given at once: blocks formed on the way are kept so long
_SHARE = 1 << 13  # values of a window whose products are summed in its own type
_PIECE = 1 << 15  # values whose products are summed in float32: few enough to lose little, enough to be cheap
_FEW = 8  # rows of which half of the products take as long as all
# Values from which on float64 products cost more than they are worth where float32 resolves G, and compiled loops less
# than calls of torch.
_MANY = 1 << 15
# What a sum of a share may lose, relative to the lengths (math.md, 120): BLAS adds up eight at a time at least.
_LOSS = _SHARE / 8 * 2.0**-24
_RESOLVED = 1 / 16  # by which quadratic forms of G may be wrong at worst (math.md, 121)
_SAFE = 1e-28, 1e28  # what a sum of squares lies between where no float32 square that counts is 0 or infinite


@contextmanager
def capture(parameters: Sequence[Tensor], row: dict[Tensor, Tensor]) -> Iterator[None]:
    """Take over what is backpropagated inside the block as (more of) one row, without a copy.

    Gradients that stood in `.grad` before are put aside and are back afterwards, also after an exception; the row is
    then left as autograd left it.

    Args:
        parameters: those whose `.grad` belongs to the row.
        row: the row so far; receives the blocks of the parameters that took part.

    Yields:
        Nothing; call `backward` inside.

    Raises:
        TypeError: if a gradient is sparse.

    Cost: no memory beyond the row itself; a copy of gradients that share theirs.
    """
    outside = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = row.get(parameter)
    try:
        yield
        check_dense("opt.constraint(...)", parameters)
        row.update(unshared({parameter: parameter.grad for parameter in parameters if parameter.grad is not None}))
    finally:
        for parameter, gradient in zip(parameters, outside, strict=True):
            parameter.grad = gradient


def unshared(row: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
    """Set the blocks of a row apart, so that each can be written by itself.

    Where parameters of one size are added as views, autograd leaves them one gradient in one memory.

    Args:
        row: is changed: blocks that share the memory of an earlier one are copied.

    Returns:
        The row.
    """
    seen = set[int]()
    for parameter, block in row.items():
        place = block.untyped_storage().data_ptr()
        if place in seen:
            row[parameter] = block.clone()
        seen.add(place)
    return row


def check_dense(call: str, parameters: Sequence[Tensor]) -> None:
    """Raise for a gradient that is sparse.

    Args:
        call: the name that the user wrote.
        parameters: whose `.grad` is looked at.

    Raises:
        TypeError: for the first sparse gradient.
    """
    for k, parameter in enumerate(parameters):
        if parameter.grad is not None and parameter.grad.layout is not torch.strided:
            raise TypeError(
                f"`{call}` must find dense gradients. Found a sparse one for parameter {k}, of shape "
                f"{list(parameter.shape)}. Build its layer with sparse=False."
            )


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
        narrow = metric is None and device.type == "cpu" and size >= _MANY
        narrow = narrow and all(parameter.dtype is not torch.float64 for parameter in here)
        products = _single(rows, here) if narrow else None
        if products is None or not _is_resolved(products, rows, here, size):
            products = _products(everything, here, size, torch.float64, metric is not None)
        total += products.to(home)
    return total


def _single(rows: Sequence[Row], parameters: Sequence[Tensor]) -> Tensor:
    """Return the inner products of the rows on a CPU, in float32: by loops where they can be had, else by BLAS."""
    if compiled.loops() is None:
        return _products(rows, parameters, sum(parameter.numel() for parameter in parameters), torch.float32, False)
    table, rest = Table(len(rows)), []
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device="cpu")
    for parameter in parameters:
        if not table.add([_readable(row(parameter)) for row in rows]):
            rest.append(parameter)
        if table.size >= _HELD:
            total += table.products()
            table = Table(len(rows))
    total += table.products()
    if rest:
        total += _products(rows, rest, sum(parameter.numel() for parameter in rest), torch.float32, False)
    return total


def _readable(block: Block | None) -> Any:
    """Return a block as what loops may read, or itself."""
    return block if block is None or isinstance(block, Tensor) else block.difference() or block


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
        flat = [None if block is None else _flat(block) for block in blocks]
        start, end = 0, parameter.numel() if any(block is not None for block in blocks) else 0
        while start < end:
            stop = min(end, start + length - filled)
            if len(zeros) < stop - start and any(block is None for block in blocks):
                zeros = window.new_zeros(stop - start)
            for parts, block in zip(fill, flat, strict=True):
                parts.append(zeros[: stop - start] if block is None else _piece(block, start, stop))
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


def _flat(block: Any) -> Any:
    """Return a block with its values in a line."""
    return block.reshape(-1) if isinstance(block, Tensor) and block.dim() != 1 else block


def _piece(block: Block, start: int, stop: int) -> Tensor:
    """Return some values of a flat block: a view, if they stand somewhere."""
    if not isinstance(block, Tensor):
        return block.piece(start, stop)
    return block if stop - start == len(block) else block[start:stop]


def whole(block: Block | None) -> Tensor | None:
    """Return a block as a tensor of its parameter's number of values."""
    return block if block is None or isinstance(block, Tensor) else block.piece(0, block.numel())


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
        A block with the dtype of the parameter for each, or None where no row has one. Below float32 the sums are
        taken in float32.

    Cost: one pass over each row; a number that is 0 saves it. The sums stay in the cache of a core, or are formed by a
        few launches on a device.
    """
    directions: list[Tensor | None] = []
    batches: dict[Any, _Batch] = {}  # by what they have in common
    known = [f for f in coefficients if not isinstance(f, Tensor) and abs(f) <= torch.finfo(torch.float32).max]
    many = sum(parameter.numel() for parameter in parameters if parameter.device.type == "cpu") >= _MANY
    table = Table(len(rows)) if many and len(known) == len(rows) and compiled.loops() is not None else None
    for parameter in parameters:
        every = [row(parameter) for row in rows]
        present = [(i, block) for i, block in enumerate(every) if block is not None]
        if not present:
            directions.append(None)
            continue
        where, blocks = zip(*present, strict=True)
        first, kind, device = blocks[0], parameter.dtype, parameter.device
        own = isinstance(first, Tensor) and not keep and first.is_contiguous() and first.dtype is kind
        target = first.detach() if own else torch.empty(parameter.shape, dtype=kind, device=device)
        directions.append(target)
        if table is not None and table.add([_readable(block) for block in every], target):
            if own:
                torch.autograd.graph.increment_version(target)  # autograd is to know what is overwritten
            if table.size >= _HELD:
                table.combine(known)
                table = Table(len(rows))
            continue
        key = device, kind, own, where
        if key not in batches:
            limit = _TOGETHER.get(device.type, _TOGETHER["cuda"])
            batches[key] = _Batch([coefficients[i] for i in where], own, limit)
        batches[key].add(target, [_flat(block) for block in blocks])
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
            self.pieces.append([_piece(block, start, stop) for block in (line, *blocks)])
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


def shared_graphs(losses: Sequence[Tensor]) -> list[bool]:
    """Tell for each loss whether its graph shares an operation with that of a later loss.

    Only such a graph must be retained after its backward pass; the leaves, which hold the parameters, do not count.

    Args:
        losses: in the order in which they will be backpropagated.

    Returns:
        One flag for each loss.

    Cost: one visit of each operation of the graphs.
    """
    leaf = -1
    owners: dict[Node, int] = {}  # the last of the losses that an operation is of
    flags = []
    for place, loss in enumerate(reversed(losses)):
        shared, queue = False, [] if loss.grad_fn is None else [loss.grad_fn]
        while queue:
            node = queue.pop()
            owner = owners.get(node)
            if owner is None:
                edges = node.next_functions
                owners[node] = place if edges else leaf
                queue += [following for following, _ in edges if following is not None]
            elif owner not in {place, leaf}:
                shared = True
        flags.append(shared)
    return flags[::-1]
