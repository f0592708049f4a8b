"""The rules for the decrease b that is required of every constraint loss.

In: a `Situation`, the Gramian [m, m] with its δ and the losses, arrays or tensors. Out: a `Requirement` of the same
kind. May import: stationarity, solvers, values.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from mgrad.solvers import Status, rounding
from mgrad.stationarity import conflict_free
from mgrad.values import Scalar, cleared, filled, like, quotient


class Situation(NamedTuple):
    """What a rule may know of the constraints at the present point: their model of first order, up to rotations.

    Attributes:
        gramian: G = J Jᵀ [m, m], an array or a tensor, in squared gradient units; of the rows sᵢgᵢ where they are
            normalised.
        stationarity: δ ≥ 0 of the same rows.
        names: of the m constraints.
        losses: f [m], of the same kind as the Gramian; None where they are not known.
        limit: of multipliers (math.md, 10), > 0.
        row_scales: s [m] > 0 (math.md, 70), of the same kind as the Gramian; None for 1. What a rule takes from the
            losses, it multiplies by s.
        declared: the names of all constraints, of which the m are those that this step has; None for no others.
    """

    gramian: Any
    stationarity: Scalar
    names: Sequence[str]
    losses: Any = None
    limit: float = 1e4
    row_scales: Any = None
    declared: Sequence[str] | None = None


class Requirement(NamedTuple):
    """What a rule asks: arrays, or tensors on the Gramian's device.

    Attributes:
        decrease: b [m]; −∞ where nothing at all is required.
        pace: the coefficients [m] of r (math.md, 3), which sets the scale of a relative pull.
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

    def __call__(self, situation: Situation, /) -> Requirement:
        """Return the decrease required of the constraints."""
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
        TypeError: for weights that are one number or a string.
        ValueError: for a rate ≤ 0, a margin outside [0, 1], or weights that are not positive and finite; when called,
            for weights that do not fit the constraints.

    Source: GEM (Lopez-Paz & Ranzato 2017), UPGrad (Quinton & Rey 2024); the floor is derived in math.md.

    Example:
        >>> import numpy as np
        >>> rule = KeepPace(margin=0.0)
        >>> rule(Situation(np.eye(2), 0.5, ["en", "de"])).decrease.tolist()
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
            for value in _numbers("KeepPace(weights=...)", "weight", self.weights):
                if not (value > 0 and math.isfinite(value)):
                    raise ValueError(
                        f"`KeepPace(weights=...)` must be positive and finite. Found {value}. "
                        "Leave a loss out instead of giving it no weight."
                    )

    def __call__(self, situation: Situation, /) -> Requirement:
        """Return b = rate·J r with the coefficients of r."""
        gramian, delta = situation.gramian, situation.stationarity
        weights = like(_in_order("KeepPace(weights=...)", "weight", self.weights, situation), gramian.diagonal())
        pace, solution = conflict_free(gramian, weights, self.margin * delta * weights.min(), situation.limit)
        error = rounding(len(situation.names)) * (abs(gramian) @ pace)
        decrease = cleared(gramian @ pace, error)
        return Requirement(self.rate * decrease, pace, solution.status, solution.iterations, self.rate * error)


@dataclass(frozen=True)
class MinNorm:
    """Require the same decrease rate·δᵖs¹⁻ᵖ, s = max ‖gᵢ‖², of every loss (math.md, 8).

    With power 1 the classical rule b = rate·δ, which MGDA's direction meets. One vanishing gradient makes δ = 0 and so
    stops the learning of all losses: see `KeepPace`. A power below 1 asks for more where δ is small; with ½ the
    direction keeps a length of rate·√s at least while δ > 0, and gradients that conflict to the end come within reach
    of the Pareto set in finite time (math.md, Proposition 11). Steps that do not shrink then go to and fro across it.

    Args:
        rate: share that is required, > 0, without unit.
        power: p in [½, 1]. Below ½ the direction would grow without end as δ → 0.

    Raises:
        ValueError: for a rate ≤ 0 or a power outside [½, 1].

    Source: Désidéri 2012; Sener & Koltun 2018; the power is derived in math.md.

    Example:
        >>> import numpy as np
        >>> situation = Situation(np.eye(2), 0.25, ["en", "de"])
        >>> MinNorm()(situation).decrease.tolist(), MinNorm(power=0.5)(situation).decrease.tolist()
        ([0.25, 0.25], [0.5, 0.5])
    """

    knows_tensors: ClassVar[bool] = True

    rate: float = 1.0
    power: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        _check_rate("MinNorm", self.rate)
        if not 0.5 <= self.power <= 1:
            raise ValueError(
                f"`MinNorm(power=...)` must be in [0.5, 1]. Found {self.power}. Use 1.0, the default, when in doubt."
            )

    def __call__(self, situation: Situation, /) -> Requirement:
        """Return b = rate·δᵖs¹⁻ᵖ for every constraint."""
        squares, delta = situation.gramian.diagonal(), situation.stationarity
        # As δ times a factor without unit: gradients of another scale give the same digits.
        grown = delta * quotient(squares.max(), delta) ** (1 - self.power)
        return _required(situation, self.rate * grown * like(None, squares))


@dataclass(frozen=True)
class NoIncrease:
    """Require that no loss rises: b = 0 (math.md, 12).

    Gradient episodic memory (GEM) with the roles that the user gives: the objective is what is learnt, the constraints
    what is kept. d is the projection of the pull on {J d ≥ 0}. Without a pull nothing moves.

    Source: Lopez-Paz & Ranzato 2017, eq. 8-11 (without its margin).

    Example:
        >>> import numpy as np
        >>> NoIncrease()(Situation(np.eye(2), 0.5, ["en", "de"])).decrease.tolist()
        [0.0, 0.0]
    """

    knows_tensors: ClassVar[bool] = True

    def __call__(self, situation: Situation, /) -> Requirement:
        """Return b = 0 for every constraint."""
        return _required(situation, 0.0 * like(None, situation.gramian.diagonal()))


@dataclass(frozen=True)
class ParetoNavigation:
    """Require rate·δ of every loss until the Pareto set is near, and nothing there (math.md, 13).

    Away from the Pareto set this is `MinNorm`. Within the tolerance b = −∞: d is the pull itself, losses may rise, and
    the objective is lowered along the Pareto set, as far as one may go without leaving its neighbourhood.

    Args:
        rate: share of δ that is required, > 0, without unit.
        tolerance: the Pareto set is near where √δ ≤ tolerance·max ‖gᵢ‖, ≥ 0. The default is where the multipliers of
            equally long gradients begin to reach the default `limit`; mini-batches may need more.

    Raises:
        ValueError: for a rate ≤ 0 or a tolerance < 0.

    Source: Ye & Liu 2022, whose tolerance is absolute.

    Example:
        >>> import numpy as np
        >>> rule = ParetoNavigation()
        >>> rule(Situation(np.eye(2), 0.5, ["en", "de"])).decrease.tolist()
        [0.5, 0.5]
        >>> rule(Situation(np.array([[1.0, -1.0], [-1.0, 1.0]]), 0.0, ["en", "de"])).decrease.tolist()
        [-inf, -inf]
    """

    knows_tensors: ClassVar[bool] = True

    rate: float = 1.0
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        """Check the options."""
        _check_rate("ParetoNavigation", self.rate)
        if not (self.tolerance >= 0 and math.isfinite(self.tolerance)):
            raise ValueError(
                f"`ParetoNavigation(tolerance=...)` must be ≥ 0 and finite. Found {self.tolerance}. Use 0.01, the "
                "default, when in doubt."
            )

    def __call__(self, situation: Situation, /) -> Requirement:
        """Return b = rate·δ for every constraint, or −∞ within the tolerance."""
        squares, delta = situation.gramian.diagonal(), situation.stationarity
        near = delta <= self.tolerance**2 * squares.max()
        return _required(situation, filled(self.rate * delta * like(None, squares), near, -math.inf))


@dataclass(frozen=True)
class Target:
    """Require of every loss that it falls to its level, or rises to it at most: bᵢ = rate·(fᵢ − levelᵢ) (math.md, 14).

    The dynamic barrier: a loss above its level falls to it exponentially, one below may rise towards it. With
    scale="absolute" this is a constrained optimizer, least forgetting subject to fᵢ ≤ levelᵢ, and λ/strength are the
    Lagrange multipliers of that problem at the limit. The requirements may contradict each other, and near a
    minimum of a loss above its level d grows like bᵢ/‖gᵢ‖: choose levels that can be reached.

    Args:
        levels: of the losses, by name or in order, in their own units; infinity for a loss of which nothing is
            required.
        rate: of the approach, > 0: the distance from the level shrinks by the factor 1 − η·rate in a step of size η,
            to first order. Its unit is that of gradients squared by that of losses: it is not free of scale.

    Raises:
        TypeError: for levels that are one number or a string.
        ValueError: for a rate ≤ 0, or a level that is NaN or −infinity; when called, for levels that do not fit the
            constraints, and where the values of the losses are not known.

    Source: Gong, Liu & Liu 2021.

    Example:
        >>> import numpy as np
        >>> rule = Target({"en": 0.5, "de": 1.0}, rate=2.0)
        >>> rule(Situation(np.eye(2), 0.5, ["en", "de"], losses=np.array([0.75, 0.75]))).decrease.tolist()
        [0.5, -0.5]
    """

    knows_tensors: ClassVar[bool] = True

    levels: Mapping[str, float] | Sequence[float]
    rate: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        _check_rate("Target", self.rate)
        for value in _numbers("Target(levels)", "level", self.levels):
            if not value > -math.inf:
                raise ValueError(
                    f"`Target(levels)` must be numbers. Found {value}. Give each loss a level, or infinity to "
                    "require nothing of it."
                )

    def __call__(self, situation: Situation, /) -> Requirement:
        """Return bᵢ = rate·(fᵢ − levelᵢ)."""
        levels = _in_order("Target(levels)", "level", self.levels, situation)
        if situation.losses is None:
            raise ValueError(
                f"`Target(levels)` must know the losses of the constraints {list(situation.names)}. Found no values. "
                "Use opt.backward(losses), or pass them: opt.solve(losses={name: value})."
            )
        excess = situation.losses - like(levels, situation.gramian.diagonal())
        if situation.row_scales is not None:
            excess = situation.row_scales * excess
        return _required(situation, self.rate * excess)


@dataclass(frozen=True)
class Proportional:
    """Require of every loss the decrease of its own gradient step: bᵢ = rate·‖gᵢ‖² (math.md, 40).

    No loss slows down for the others: where gradients conflict the requirements may contradict each other. The bounded
    multipliers then give the nearest thing (math.md, 11), and `Report.unmet` says which promise could not be made.

    Args:
        rate: share of ‖gᵢ‖² that is required, > 0, without unit.

    Raises:
        ValueError: for a rate ≤ 0.

    Source: Gong, Liu & Liu 2021, the form rate·‖∇f‖² of their barrier.

    Example:
        >>> import numpy as np
        >>> Proportional(rate=0.5)(Situation(np.diag([4.0, 2.0]), 4 / 3, ["en", "de"])).decrease.tolist()
        [2.0, 1.0]
    """

    knows_tensors: ClassVar[bool] = True

    rate: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        _check_rate("Proportional", self.rate)

    def __call__(self, situation: Situation, /) -> Requirement:
        """Return bᵢ = rate·‖gᵢ‖²."""
        return _required(situation, self.rate * situation.gramian.diagonal())


def _required(situation: Situation, decrease: Any) -> Requirement:
    """Return a decrease b [m] beside the r of `KeepPace`: one strength of a relative pull means the same under all."""
    return KeepPace()(situation)._replace(decrease=decrease, error=None)


def _numbers(call: str, what: str, values: Mapping[str, float] | Sequence[float]) -> Iterable[float]:
    """Return the numbers of an option that has one for each constraint; raise for one that is none of that kind."""
    numbers = values.values() if isinstance(values, Mapping) else values
    if isinstance(numbers, str) or not isinstance(numbers, Iterable):
        raise TypeError(
            f"`{call}` must be numbers, by name or in order. Found {values!r}. Give each constraint a {what}."
        )
    return numbers


def _in_order(
    call: str, what: str, values: Mapping[str, float] | Sequence[float] | None, situation: Situation
) -> list[float] | None:
    """Return an option, by name or in order, in the order of the step's constraints; None for None."""
    if values is None:
        return None
    names = situation.names if situation.declared is None else situation.declared
    if isinstance(values, Mapping):
        if set(values) != set(names):
            raise ValueError(
                f"`{call}` must name every constraint once. Found {sorted(values)} for the constraints "
                f"{sorted(names)}. Give each of them a {what}."
            )
    elif len(values) != len(names):
        raise ValueError(
            f"`{call}` must have one {what} for each constraint. Found {len(values)} for {len(names)} constraints. "
            f"Give each of them a {what}."
        )
    else:
        values = dict(zip(names, values, strict=True))
    return [values[name] for name in situation.names]


def _check_rate(rule: str, rate: float) -> None:
    """Raise for a rate that is not positive and finite."""
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(
            f"`{rule}(rate=...)` must be positive and finite. Found {rate}. Use 1.0, the default, when in doubt."
        )
