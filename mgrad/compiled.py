"""Blocks of rows that stand in float32 on a CPU, read once each by compiled loops where numba is installed.

In: blocks. Out: their inner products; their combination. May import: kernels, where numba is.
"""

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_PART = 1 << 22  # values of all rows that are worth another thread, which does not start at once
_HELD = 1 << 23  # values of each row that are read at once: blocks that were formed on the way are kept so long
_PARTS = 4  # for each thread, as others may be held up
_PLAIN = Tensor, torch.nn.Parameter  # and no subclass, which may stand elsewhere

Part = TypeVar("Part")


class Difference(NamedTuple):
    """A block factor·(x − y) that stands nowhere.

    Attributes:
        x: its values, of any shape.
        y: as many.
        factor: a number.
    """

    x: Tensor
    y: Tensor
    factor: float


@cache
def loops() -> Any:
    """Return the compiled loops, None without numba; the first call compiles, which takes some seconds."""
    try:
        from mgrad import kernels
    except ImportError:  # not installed, not for this NumPy, or switched off
        return None
    except Exception as error:  # a library of its is missing, a processor that it does not know, …
        warnings.warn(f"numba cannot compile the loops of mgrad, which does without: {error!r}", stacklevel=2)
        return None
    return kernels


class Table:
    """Where the blocks of some rows stand, parameter by parameter; there must be `loops` to read them by.

    Args:
        count: k, the number of rows.
    """

    def __init__(self, count: int) -> None:
        """Begin with no parameters."""
        self.count = count
        self.size = 0  # values of each row
        self._held: list[Any] = []  # what the addresses are of
        self._places: list[tuple[int, ...]] = []
        self._others: list[tuple[int, ...]] = []
        self._factors: list[tuple[float, ...]] = []
        self._sizes: list[int] = []
        self._targets: list[Tensor] = []

    def add(self, blocks: Sequence[Any], target: Tensor | None = None) -> bool:
        """Take one parameter's blocks, if they can be read where they stand.

        Args:
            blocks: of each row, dense: a tensor, a `Difference`, or None for 0; anything else cannot be read here.
            target: what the combination is written to, contiguous and of the parameter's type; it may be one of the
                tensors.

        Returns:
            Whether they were taken: that needs contiguous float32, and as many values of each.
        """
        size, found = -1 if target is None else target.numel(), []
        if target is not None and target.dtype is not torch.float32:
            return False
        for block in blocks:
            if block is None:
                found.append((0, 0, 1.0))
                continue
            x, y, factor = block if type(block) is Difference else (block, None, 1.0)
            size = x.numel() if size < 0 and isinstance(x, Tensor) else size
            if not _is_plain(x, size) or not (y is None or _is_plain(y, size)):
                return False
            found.append((x.data_ptr(), 0 if y is None else y.data_ptr(), factor))
        size = max(size, 0)  # of no block at all
        places, others, factors = zip(*found, strict=True)
        self._places.append(places)
        self._others.append(others)
        self._factors.append(factors)
        self._sizes.append(size)
        self._held.append(blocks)
        self.size += size
        if target is not None:
            self._targets.append(target)
        return True

    @property
    def is_full(self) -> bool:
        """Whether it has so much that a new one should be begun."""
        return self.size >= _HELD

    def products(self) -> Tensor:
        """Return the inner products of the rows [k, k], float64: sums of float32 ones of few values (math.md, 120).

        Cost: k²n/2 multiplications, one read of each row; no memory of its own.
        """
        if not self.size:
            return torch.zeros(self.count, self.count, dtype=torch.float64, device="cpu")
        width = -(-self.count // loops().TILE) * loops().TILE
        table = self._table(width)

        def part(pieces: NDArray[np.int64]) -> NDArray[np.float64]:
            scratch = np.zeros((width + 1) * loops().BLOCK, np.float32)
            found: NDArray[np.float64] = loops().products(pieces, *table, scratch.ctypes.data)
            return found

        upper = np.triu(np.sum(self._parts(part), axis=0)[: self.count, : self.count])
        return torch.from_numpy(upper + np.triu(upper, 1).T)

    def combine(self, coefficients: Sequence[float]) -> None:
        """Write Σ coefficientsᵢ·rowᵢ to the targets; a row whose number is 0 is not read.

        Args:
            coefficients: k numbers.

        Cost: one read of each row and one write.
        """
        if not self.size:
            return
        places, others, factors = self._table(self.count)
        factors = (factors * np.array(coefficients)).astype(np.float32)
        targets = np.array([target.data_ptr() for target in self._targets], np.uint64)
        self._parts(lambda pieces: loops().combine(pieces, targets, places, others, factors))

    def _table(self, width: int) -> list[NDArray[Any]]:
        """Return addresses, those of what is subtracted, and factors; rows of zeros fill up the width."""
        tables: list[NDArray[Any]] = []
        for of, kind in ((self._places, np.uint64), (self._others, np.uint64), (self._factors, np.float32)):
            tables.append(np.zeros((len(of), width), kind))
            tables[-1][:, : self.count] = of
        return tables

    def _pieces(self) -> NDArray[np.int64]:
        """Return the blocks in pieces: of which block, from which value on, how many values."""
        most, sizes = loops().BLOCK, np.array(self._sizes, np.int64)
        counts = -(-sizes // most)
        blocks = np.repeat(np.arange(len(sizes)), counts)
        starts = most * (np.arange(len(blocks)) - np.repeat(np.cumsum(counts) - counts, counts))
        return np.stack([blocks, starts, np.minimum(most, sizes[blocks] - starts)], axis=1)

    def _parts(self, run: Callable[[NDArray[np.int64]], Part]) -> list[Part]:
        """Return what is found over parts of the pieces, in order, in at most as many threads as torch has.

        This one is one of them, and the others end here: a pool would be lost by a fork, and would not be had while
        Python is shutting down.
        """
        count = min(torch.get_num_threads(), 1 + self.count * self.size // _PART)
        parts = np.array_split(self._pieces(), _PARTS * count if count > 1 else 1)
        left, found, raised = deque(enumerate(parts)), dict[int, Part](), list[BaseException]()
        threads = [Thread(target=self._work, args=(run, left, found, raised)) for _ in range(count - 1)]
        with suppress(RuntimeError):  # no more threads are to be had
            for thread in threads:
                thread.start()
        self._work(run, left, found, raised)
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        if raised:
            raise raised[0]
        return [found[place] for place in range(len(parts))]  # in order, so that sums are the same every time

    def _work(self, run: Any, left: deque[tuple[int, Any]], found: Any, raised: list[BaseException]) -> None:
        """Run over the next part until none is left; whoever does holds the table, and so the blocks."""
        try:
            while not raised:
                try:
                    place, pieces = left.popleft()
                except IndexError:
                    break
                found[place] = run(pieces)
        except BaseException as error:  # of any thread, to be raised in the caller's
            raised.append(error)


def _is_plain(tensor: Any, size: int) -> bool:
    """Tell whether so many values of a tensor stand one after the other in float32 at its address, on the CPU."""
    return (
        type(tensor) in _PLAIN
        and tensor.dtype is torch.float32
        and tensor.is_cpu
        and tensor.numel() == size
        and tensor.is_contiguous()
        and not tensor.is_neg()
        and not tensor.is_inference()
        and (tensor.data_ptr() != 0 or size == 0)
    )
