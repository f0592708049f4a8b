"""The methods compared: from gradients to a direction.

In: the Jacobian, and how far θ is from θ₀. Out: what is subtracted, times the rate. May import: mgrad, torchjd.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from mgrad import KeepPace, MinNorm, NoIncrease, ParetoNavigation, Proportional, constrained_direction
from mgrad.decrease import DecreaseRule

Direction = Callable[[Tensor, Tensor], Tensor]
"""From J [m, n] and θ − θ₀ [n] to d [n]."""


def _ours(rule: DecreaseRule, strength: float = 0.1, relative: bool = True) -> Callable[[], Direction]:
    """Return what makes our direction under a rule."""
    scale = "relative" if relative else "absolute"
    return lambda: (
        lambda rows, moved: (
            constrained_direction(rows, moved, decrease=rule, strength=strength, scale=scale).direction  # type: ignore[arg-type]
        )
    )


def _smoothed() -> Direction:
    """Return ours on rows averaged over ten steps or so, as SmoothRows(0.9) has them once it is under way."""
    ours, mean = _ours(KeepPace())(), torch.zeros(())

    def direction(rows: Tensor, moved: Tensor) -> Tensor:
        nonlocal mean
        mean = torch.lerp(mean, rows, 0.1) if mean.ndim else rows
        return ours(mean, moved)

    return direction


def _gem() -> Direction:
    """Return gradient episodic memory: the last loss is learnt, the others must not rise."""
    rule = NoIncrease()
    return lambda rows, moved: constrained_direction(rows[:-1], rows[-1], decrease=rule).direction


def _torchjd(name: str) -> Callable[[], Direction]:
    """Return what makes an aggregator of TorchJD."""

    def make() -> Direction:
        from torchjd import aggregation

        found = getattr(aggregation, name)()
        if name == "PCD":  # the first row leads, the others must fall
            return lambda rows, moved: found(torch.cat([moved[None], rows]))
        return lambda rows, moved: found(rows)

    return make


METHODS: dict[str, Callable[[], Direction]] = {
    "KeepPace": _ours(KeepPace()),
    "KeepPace, strength ½": _ours(KeepPace(), strength=0.5),
    "MinNorm": _ours(MinNorm()),
    "MinNorm, power ½": _ours(MinNorm(power=0.5)),
    "Proportional": _ours(Proportional()),
    "ParetoNavigation": _ours(ParetoNavigation(tolerance=1e-3), strength=1.0, relative=False),
    "sum": lambda: lambda rows, moved: rows.sum(0),
    "L2-SP": lambda: lambda rows, moved: rows.sum(0) + 0.1 * moved,
    "GEM": _gem,
}
if find_spec("torchjd") is not None:
    METHODS |= {f"TorchJD {name}": _torchjd(name) for name in ("MGDA", "UPGrad", "PCD")}
AGAINST_NOISE = {"KeepPace, strength 0": _ours(KeepPace(), strength=0.0), "KeepPace, smoothed rows": _smoothed}
OURS = ("KeepPace", "KeepPace, strength ½", "MinNorm", "MinNorm, power ½", "Proportional", "ParetoNavigation")
