"""The rules for the decrease b that is required of every constraint loss.

In: the Gramian [m, m] and its δ, arrays or tensors. Out: a `Requirement` of the same kind.
May import: stationarity, solvers, values.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from mgrad.solvers import Array, Status, rounding
from mgrad.stationarity import conflict_free
from mgrad.values import Scalar, Values, cleared, like


class Requirement(NamedTuple):
    """What a rule asks: arrays, or tensors on the Gramian's device.

    Attributes:
        decrease: b [m].
        pace: the coefficients [m] of r (math.md, 3).
        status: how finding them ended; on a device the place in `tuple(Status)`.
        iterations: that it took.
        error: [m] ≥ 0, how far b may be off, where it is the difference of larger numbers; None for the rounding of its
            own digits.
    """

    decrease: Any
    pace: Any
    status: Status | Tensor
    iterations: int
    error: Any = None


class DecreaseRule(Protocol):
    """A rule for b: anything that can be called like this and returns a `Requirement`.

    For `solver="device"` it must know tensors as well as arrays, never ask one for its value (which waits), and say so
    by an attribute `knows_tensors = True`.
    """

    def __call__(self, gramian: Array, stationarity: float, names: Sequence[str], limit: float) -> Requirement:
        """Return the decrease required of the constraints `names`, with Gramian [m, m] and δ = `stationarity`."""
        ...


@dataclass(frozen=True)
class KeepPace:
    """Require of every loss the decrease that plain fine-tuning without its conflicts would bring (math.md, 3-4).

    r is the gradient Σ wᵢ∇fᵢ of plain fine-tuning, corrected as little as possible until every loss falls by at least
    margin·δ·min w; the requirement is b = rate·J r. With no conflict r is that gradient itself. Unlike `MinNorm`, a
    loss that is at its minimum does not stop the others.

    Args:
        rate: share of r's decrease that is required, > 0, without unit.
        margin: share of the least decrease that could be had of all losses at once, in [0, 1]. With 0 losses may
            rise by second-order terms along the border of the cone of common descent.
        weights: w > 0 of the losses in plain fine-tuning, by name or in order; None for 1 each (their sum).

    Raises:
        ValueError: for a rate ≤ 0, a margin outside [0, 1], or weights that are not positive and finite; when called,
            for weights that do not fit the constraints.

    Source: GEM (Lopez-Paz & Ranzato 2017), UPGrad (Quinton & Rey 2024); the floor is derived in math.md.

    Example:
        >>> import numpy as np
        >>> rule = KeepPace(margin=0.0)
        >>> rule(np.eye(2), 0.5, ["en", "de"], 1e4).decrease.tolist()
        [1.0, 1.0]
    """

    knows_tensors: ClassVar[bool] = True

    rate: float = 1.0
    margin: float = 0.5
    weights: Mapping[str, float] | Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        _check_rate("KeepPace", self.rate)
        if not 0 <= self.margin <= 1:
            raise ValueError(
                f"`KeepPace(margin=...)` must be in [0, 1]. Found {self.margin}. Use 0.5, the default, when in doubt."
            )
        if self.weights is not None:
            values = self.weights.values() if isinstance(self.weights, Mapping) else self.weights
            for value in values:
                if not (value > 0 and math.isfinite(value)):
                    raise ValueError(
                        f"`KeepPace(weights=...)` must be positive and finite. Found {value}. "
                        "Leave a loss out instead of giving it no weight."
                    )

    def __call__(self, gramian: Values, stationarity: Scalar, names: Sequence[str], limit: float) -> Requirement:
        """Return b = rate·J r with the coefficients of r."""
        weights = like(self._weights(names), gramian.diagonal())
        pace, solution = conflict_free(gramian, weights, self.margin * stationarity * weights.min(), limit)
        error = rounding(len(names)) * (abs(gramian) @ pace)
        decrease = cleared(gramian @ pace, error)
        return Requirement(self.rate * decrease, pace, solution.status, solution.iterations, self.rate * error)

    def _weights(self, names: Sequence[str]) -> list[float] | None:
        """Return w in the order of the constraints; None for 1 each."""
        if self.weights is None:
            return None
        if isinstance(self.weights, Mapping):
            if set(self.weights) != set(names):
                raise ValueError(
                    f"`KeepPace(weights=...)` must name every constraint once. Found {sorted(self.weights)} for the "
                    f"constraints {sorted(names)}. Give each of them a weight."
                )
            return [self.weights[name] for name in names]
        if len(self.weights) != len(names):
            raise ValueError(
                f"`KeepPace(weights=...)` must have one weight for each constraint. Found {len(self.weights)} for "
                f"{len(names)} constraints. Give each of them a weight."
            )
        return list(self.weights)


@dataclass(frozen=True)
class MinNorm:
    """Require the same decrease rate·δ of every loss, as MGDA's direction brings it (math.md, 8).

    The classical rule. One vanishing gradient makes δ = 0 and so stops the learning of all losses: see `KeepPace`.

    Args:
        rate: share of δ that is required, > 0, without unit.

    Raises:
        ValueError: for a rate ≤ 0.

    Source: Désidéri 2012; Sener & Koltun 2018.

    Example:
        >>> import numpy as np
        >>> MinNorm()(np.eye(2), 0.5, ["en", "de"], 1e4).decrease.tolist()
        [0.5, 0.5]
    """

    knows_tensors: ClassVar[bool] = True

    rate: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        _check_rate("MinNorm", self.rate)

    def __call__(self, gramian: Values, stationarity: Scalar, names: Sequence[str], limit: float) -> Requirement:
        """Return b = rate·δ for every constraint, with the coefficients of r, which sets the scale of the pull."""
        plain = KeepPace()(gramian, stationarity, names, limit)
        decrease = self.rate * stationarity * like(None, gramian.diagonal())
        return plain._replace(decrease=decrease, error=None)


def _check_rate(rule: str, rate: float) -> None:
    """Raise for a rate that is not positive and finite."""
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(
            f"`{rule}(rate=...)` must be positive and finite. Found {rate}. Use 1.0, the default, when in doubt."
        )
