"""How the rows of a step and θ₀ are kept: as they are, in half the bytes, or on the host.

In: blocks of a row or of θ₀. Out: blocks that take less memory on the device, and formed piece by piece where they are
read. May import: jacobian. Knows no optimizer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mgrad.jacobian import gradient_type

Place = Literal["bfloat16", "cpu"]


class OnHost:
    """A block on the host, whose pieces are copied to its device where they are read."""

    def __init__(self, block: Tensor) -> None:
        """Copy it, without waiting where the device is a CUDA device: what is queued there goes on meanwhile."""
        self.device, line = block.device, block.detach().reshape(-1)
        # 1, or ∞ where a value is not finite. A scaler of gradients cannot reach the values, whose copies it would not
        # wait for: it unscales this, and every piece is multiplied by it.
        self.factor = 1.0 / line.isfinite().all().float()[None]
        if block.device.type != "cuda":
            self.values, self.ready = line.cpu(), None
            return
        stream = _streams.setdefault(block.device, torch.cuda.Stream(block.device))
        stream.wait_stream(torch.cuda.current_stream(block.device))
        with torch.cuda.stream(stream):
            # torch keeps pinned memory that is free again for the next step.
            self.values = torch.empty(line.shape, dtype=line.dtype, device="cpu", pin_memory=True)
            self.values.copy_(line, non_blocking=True)
            line.record_stream(stream)
            self.ready = stream.record_event()

    def numel(self) -> int:
        """Return the number of values."""
        return len(self.values)

    def arrived(self) -> Tensor:
        """Return the values on the host, all of them, as they were copied."""
        if self.ready is not None:
            self.ready.synchronize()
        return self.values

    def piece(self, start: int, stop: int) -> Tensor:
        """Return some of the values on the device."""
        if self.ready is not None:
            self.ready.wait(torch.cuda.current_stream(self.device))
        return self.values[start:stop].to(self.device, non_blocking=True, copy=True).mul_(self.factor)

    def difference(self) -> None:
        """Say that it is none."""


_streams: dict[torch.device, torch.cuda.Stream] = {}  # on which copies to the host run beside the backward passes

Block = Tensor | OnHost

# rows of a Storage → an option and its value that cannot be had with them, and what it must do.
_REFUSED = [
    (("bfloat16", "cpu", "sketch"), "noise", "SmoothRows", "average rows, which it keeps itself"),
    (("bfloat16", "cpu", "sketch"), "noise", "HalfBatches", "compare the halves of a row as they are"),
    (("sketch",), "enforce", "step", "have the rows when the base has taken its step"),
    (("sketch",), "metric", "base", "have the squares of the rows before their products"),
    (("cpu",), "solver", "device", "never wait for the host"),
    (("sketch",), "solver", "device", "know the multipliers on the host before the second pass"),
]


@dataclass(frozen=True)
class Storage:
    """Where a step keeps what is of the model's size (docs/how-to.md has a table of when to use which).

    Args:
        rows: None keeps every gradient as autograd left it; "bfloat16" rounds it at the end of each block of its
            constraint, by 2⁻⁸ of each value at most, which for one block changes G by 2⁻⁷‖gᵢ‖‖gⱼ‖ and what is promised
            of loss i by 2⁻⁸‖gᵢ‖‖d‖ at most (math.md, 123); of several blocks the errors add up, and many small ones may
            be lost in a large sum: put the micro-batches of a constraint into one; "cpu" keeps it on the host, in
            pinned memory, and copies it while the next backward pass runs; "sketch" keeps no gradient at all, `sketch`
            numbers of each instead, and takes a second, weighted backward pass (math.md, 125-127): give `opt.backward`
            functions that return the losses. What a forward pass changes, such as the running means of a BatchNorm, it
            then changes twice. Rows in bfloat16 a GradScaler finds on the host alone: on a GPU torch cannot unscale
            them, and needs no scaler in bfloat16.
        start: None keeps θ₀ as it is; "bfloat16" rounds it: the objective is then ½ the squared distance from all that
            θ₀ may have been, which is 0 at θ₀, too (math.md, 124); "cpu" keeps it on the host. `opt.start` shows what
            is kept, which is then no teacher for `Distillation`.
        sketch: k, the numbers that are kept of each gradient where rows="sketch".

    Raises:
        ValueError: for another value, or a sketch of less than 1.

    Cost: `memory` has the bytes. "bfloat16": a read and half a write of each row; "cpu": a copy of each there and two
        back; "sketch": a second forward and backward pass for each constraint with a multiplier above 0.
    Source: derived in math.md; Charikar, Chen & Farach-Colton 2002 for the sketch.

    Example:
        >>> Storage(rows="bfloat16", start="cpu")
        Storage(rows='bfloat16', start='cpu', sketch=65536)
    """

    rows: Literal["bfloat16", "cpu", "sketch"] | None = None
    start: Place | None = None
    sketch: int = 1 << 16

    def __post_init__(self) -> None:
        """Check the options."""
        for option, value, known in (
            ("rows", self.rows, (None, "bfloat16", "cpu", "sketch")),
            ("start", self.start, (None, "bfloat16", "cpu")),
        ):
            if value not in known:
                names = ", ".join("None" if name is None else f'"{name}"' for name in known)
                raise ValueError(
                    f"`Storage({option}=...)` must be one of {names}. Found {value!r}. Choose one of them."
                )
        if not (isinstance(self.sketch, int) and self.sketch >= 1):
            raise ValueError(
                f"`Storage(sketch=...)` must be a whole number ≥ 1. Found {self.sketch!r}. Use 65536, the default: two "
                "to three percent of error."
            )

    def memory(self, n: int, m: int, precision: int = 4) -> int:
        """Return the bytes on the device that gradients and θ₀ take at most in a step, `.grad` included.

        Args:
            n: the number of parameters.
            m: the number of constraints.
            precision: bytes of a parameter.

        Returns:
            The bytes, without a few windows and blocks of gradients that are on their way.
        """
        row = precision * n
        half = min(2 * n, row)
        rows = {None: m * row, "bfloat16": m * half + row, "cpu": 2 * row, "sketch": row + 8 * (m + 1) * self.sketch}
        start = {None: row, "bfloat16": half, "cpu": 0}
        return rows[self.rows] + start[self.start]

    def check_options(self, *, average: str | None, enforce: str, metric: str, solver: str) -> None:
        """Raise for options of `LessForgetting` that ask for rows that are not there.

        Args:
            average: the name of an option against noise that keeps or compares rows itself, or None.
            enforce: as of `LessForgetting`; likewise the next.
            metric: in which the rows are multiplied.
            solver: where the step is solved.

        Raises:
            ValueError: for the first that does not fit.
        """
        known = {"noise": average, "enforce": enforce, "metric": metric, "solver": solver}
        for rows, option, value, reason in _REFUSED:
            if self.rows in rows and known[option] == value:
                raise ValueError(
                    f'`LessForgetting(storage=Storage(rows="{self.rows}"), {option}={value!r})` must {reason}. Choose '
                    "one of the two."
                )

    def kept(self, row: dict[Tensor, Tensor]) -> dict[Tensor, Block]:
        """Return a complete row in the memory that it is to take; its gradients are given up block by block.

        Args:
            row: is emptied.
        """
        return {parameter: _kept(row.pop(parameter), self.rows) for parameter in list(row)}

    def keep_start(self, start: Tensor) -> Tensor:
        """Return a block of θ₀ as it is kept; the same tensor, if that is how it is."""
        kept = _kept(start, self.start)
        return kept if isinstance(kept, Tensor) else kept.arrived().view(start.shape)


def opened(row: Mapping[Tensor, Block]) -> dict[Tensor, Tensor]:
    """Return a row that was kept as gradients again, to which more can be added."""
    found = {}
    for parameter, block in row.items():
        tensor = block if isinstance(block, Tensor) else block.piece(0, block.numel()).view(parameter.shape)
        found[parameter] = tensor.to(gradient_type(parameter))
    return found


def _kept(block: Tensor, place: str | None) -> Block:
    """Return a block where it is to be kept."""
    if place == "bfloat16" and block.dtype in (torch.float32, torch.float64):
        return block.to(torch.bfloat16)
    return OnHost(block) if place == "cpu" and block.device.type != "cpu" else block
