"""The rows of the Jacobian: taking them from autograd, their inner products, their combination.

In: parameters and what autograd leaves in `.grad`. Out: G, on the host or on their device, and one block of the
direction per parameter.
May import: nothing of mgrad. Knows no optimizer.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import Node

Row = Callable[[Tensor], Tensor | None]
"""A row of the Jacobian: from a parameter to the row's block, shaped like the parameter; None stands for 0."""

# Values of each row that are converted to float64 at a time. A few rows of them fit a CPU's last-level cache and still
# keep its threads busy; on a GPU they fill the device.
_BLOCK = {"cpu": 1 << 18, "cuda": 1 << 20}
_SHARES = 16  # of such a block, each multiplied by itself
_PIECE = 1 << 15  # values whose products are summed in float32: few enough to lose little, enough to be cheap
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

    Cost: no memory beyond the row itself.
    """
    outside = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = row.get(parameter)
    try:
        yield
        check_dense("opt.constraint(...)", parameters)
        row.update({parameter: parameter.grad for parameter in parameters if parameter.grad is not None})
    finally:
        for parameter, gradient in zip(parameters, outside, strict=True):
            parameter.grad = gradient


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


def gramian(rows: Sequence[Row], parameters: Sequence[Tensor], home: torch.device, metric: Row | None = None) -> Tensor:
    """Compute the inner products of the rows in float64, reading each row once.

    Args:
        rows: k rows; a block of any floating-point dtype, on its parameter's device.
        parameters: over which the products are summed.
        home: where the sums over each device's parameters are added up. Where it is the device of all parameters,
            nothing is transferred and nothing waits.
        metric: P, by whose entries the products are weighted (math.md, 50); None for 1.

    Returns:
        [k, k], float64, at home; what comes from other devices comes in one transfer each.

    Cost: k²n multiplications; k blocks of memory besides the rows.
    """
    if metric is None:
        return _sums(rows, parameters, home, lambda window: _products(window, window))
    return _sums([*rows, metric], parameters, home, lambda window: _products(window[:-1] * window[-1], window[:-1]))


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
        block = vector(parameter)
        if block is not None:
            others = [row(parameter) for row in rows]
            total += torch.stack([_inner(other, block) for other in (*others, block)]).to(home)
    return total


def _inner(first: Tensor | None, second: Tensor) -> Tensor:
    """Return the inner product of two blocks: of pieces in their own type, and of these in float64."""
    if first is None:
        return torch.zeros((), dtype=torch.float64, device=second.device)
    kind = torch.promote_types(second.dtype, torch.float32)
    x, y = first.detach().reshape(-1).to(kind), second.detach().reshape(-1).to(kind)
    if x.device.type == "cpu":
        parts = zip(x.split(_PIECE), y.split(_PIECE), strict=True)
        return torch.tensor(sum(a.dot(b).item() for a, b in parts), dtype=torch.float64, device="cpu")
    whole = len(x) - len(x) % _PIECE
    pieces = torch.linalg.vecdot(x[:whole].view(-1, _PIECE), y[:whole].view(-1, _PIECE))
    total: Tensor = pieces.sum(dtype=torch.float64) + x[whole:].dot(y[whole:])
    return total


def _sums(
    rows: Sequence[Row], parameters: Sequence[Tensor], home: torch.device, product: Callable[[Tensor], Tensor]
) -> Tensor:
    """Sum a product of the rows [k, block] over all blocks."""
    sizes = Counter[torch.device]()
    for parameter in parameters:
        sizes[parameter.device] += parameter.numel()
    sums = {device: _Sum(len(rows), size, device, product) for device, size in sizes.items()}
    for parameter in parameters:
        sums[parameter.device].add([row(parameter) for row in rows])
    total = product(torch.empty(len(rows), 0, dtype=torch.float64, device=home))
    for partial in sums.values():
        total += partial.total().to(home)
    return total


def _products(first: Tensor, second: Tensor) -> Tensor:
    """Return the inner products of two stacks of rows [k, block]: in shares, as BLAS splits no sum among threads."""
    shares = _SHARES if first.shape[1] % _SHARES == 0 else 1
    left, right = (rows.unflatten(1, (shares, -1)).transpose(0, 1) for rows in (first, second))
    total: Tensor = (left @ right.mT).sum(0)
    return total


class _Sum:
    """A product summed on one device: the rows flow through a window of float64 values [k, block]."""

    def __init__(self, rows: int, size: int, device: torch.device, product: Callable[[Tensor], Tensor]) -> None:
        """Start with no sum, for rows of so many values."""
        block = min(size, _BLOCK.get(device.type, _BLOCK["cuda"]))
        self.product = product
        self.window = torch.empty(rows, block, dtype=torch.float64, device=device)
        self.filled = 0
        self.sum = product(self.window[:, :0])

    def add(self, blocks: Sequence[Tensor | None]) -> None:
        """Add the products of one parameter's blocks, one for each row."""
        flat = [None if block is None else block.detach().reshape(-1) for block in blocks]
        length, start = max((block.numel() for block in flat if block is not None), default=0), 0
        while start < length:
            stop = min(length, start + self.window.shape[1] - self.filled)
            for row, block in zip(self.window, flat, strict=True):
                part = row[self.filled : self.filled + stop - start]
                if block is None:
                    part.zero_()
                else:
                    part.copy_(block[start:stop])
            self.filled += stop - start
            start = stop
            if self.filled == self.window.shape[1]:
                self._empty()

    def total(self) -> Tensor:
        """Return the sum over all that was added."""
        self._empty()
        return self.sum

    def _empty(self) -> None:
        """Add the product of what is in the window and start it anew."""
        self.sum += self.product(self.window[:, : self.filled])
        self.filled = 0


@torch.no_grad()
def combine(
    rows: Sequence[Row], coefficients: Sequence[float | Tensor], parameter: Tensor, *, keep: bool = False
) -> Tensor | None:
    """Compute one block of Σ coefficientsᵢ·rowᵢ, in place in the first row that has one.

    Args:
        rows: k rows; the block of the first is overwritten.
        coefficients: k numbers, or tensors of no dimension on the parameter's device.
        parameter: whose block is computed.
        keep: whether the rows are needed afterwards: the block is then a new tensor.

    Returns:
        The block with the dtype of the parameter, or None where no row has one. Below float32 the sum is taken in
        float32.

    Cost: one pass over each row; a number that is 0 saves it.
    """
    present = [(block, c) for row, c in zip(rows, coefficients, strict=True) if (block := row(parameter)) is not None]
    if not present:
        return None
    first, scale = present[0]
    total = first.to(torch.promote_types(first.dtype, torch.float32), copy=keep).mul_(scale)
    for block, coefficient in present[1:]:
        if isinstance(coefficient, Tensor):
            total.addcmul_(block, coefficient)  # as `alpha` it would be asked for its value
        elif coefficient:
            total.add_(block, alpha=coefficient)
    return total.to(parameter.dtype)


def shared_graphs(losses: Sequence[Tensor]) -> list[bool]:
    """Tell for each loss whether its graph shares an operation with that of a later loss.

    Only such a graph must be retained after its backward pass; the leaves, which hold the parameters, do not count.

    Args:
        losses: in the order in which they will be backpropagated.

    Returns:
        One flag for each loss.

    Cost: one visit of each operation of the graphs.
    """
    seen: set[Node] = set()
    flags = []
    for loss in reversed(losses):
        shared, fresh, queue = False, set[Node](), [loss.grad_fn]
        while queue:
            node = queue.pop()
            if node is None or node in fresh or node.name() == "torch::autograd::AccumulateGrad":
                continue
            if node in seen:
                shared = True
                continue
            fresh.add(node)
            queue += [following for following, _ in node.next_functions]
        seen |= fresh
        flags.append(shared)
    return flags[::-1]
