"""What a row is made of: a block for each parameter, which stands somewhere or is formed where it is read.

In: blocks. Out: their values, some or all. May import: compiled.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from mgrad.compiled import Difference

# Values from which on float64 products cost more than they are worth where float32 resolves G, and compiled loops less
# than calls of torch.
MANY = 1 << 15


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


def gradient_type(parameter: Tensor) -> torch.dtype:
    """Return the type that a parameter's `.grad` must have: its own, unless the user has set another (torch 2.10)."""
    return (hasattr(Tensor, "grad_dtype") and parameter.grad_dtype) or parameter.dtype


def readable(block: Block | None) -> Any:
    """Return a block as what loops may read, or itself."""
    return block if block is None or isinstance(block, Tensor) else block.difference() or block


def flat(block: Any) -> Any:
    """Return a block with its values in a line."""
    return block.reshape(-1) if isinstance(block, Tensor) and block.dim() != 1 else block


def piece_of(block: Block, start: int, stop: int) -> Tensor:
    """Return some values of a flat block: a view, if they stand somewhere."""
    if not isinstance(block, Tensor):
        return block.piece(start, stop)
    return block if stop - start == len(block) else block[start:stop]


def whole(block: Block | None) -> Tensor | None:
    """Return a block as a tensor of its parameter's number of values."""
    return block if block is None or isinstance(block, Tensor) else block.piece(0, block.numel())
