"""The constrained less-forgetting direction: from G, c and a rule to λ and its report.

In: the Gramian and its companions, float64, arrays or tensors; or J and g₀. Out: `Solved`; or `Direction`.
May import: decrease, stationarity, report, solvers, values.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mgrad.decrease import DecreaseRule, KeepPace, Requirement, Situation
from mgrad.report import PendingReport, Report
from mgrad.solvers import Array, rounding
from mgrad.stationarity import shortest_vector
from mgrad.values import Scalar, Values, cleared, filled, like, minimise, norms, quotient, root, worst

Scale = Literal["relative", "absolute"]
Solver = Literal["active_set", "device"]
Normalise = Literal["gradient", "loss"]


class Direction(NamedTuple):
    """The direction d [n], to be subtracted from the parameters, and its report."""

    direction: Tensor
    report: Report


def constrained_direction(
    jacobian: Tensor,
    objective_gradient: Tensor | None = None,
    *,
    losses: Tensor | Sequence[float] | None = None,
    decrease: DecreaseRule = KeepPace(),  # noqa: B008 - frozen
    strength: float = 1.0,
    scale: Scale = "absolute",
    limit: float = 1e4,
    normalise: Normalise | None = None,
    solver: Solver = "active_set",
) -> Direction:
    """Find d = argmin ½‖d − p‖² subject to J d ≥ b, the mathematics of `LessForgetting` alone (math.md, 1).

    p is the pull of the objective: strength·g₀ ("absolute"), or strength·‖r‖·g₀/‖g₀‖ ("relative").

    Args:
        jacobian: J [m, n], real floating point, row i = ∇fᵢ of constraint i; it is not modified.
        objective_gradient: g₀ = ∇f₀ [n], or None for no objective.
        losses: f [m], the values of the constraints, for a rule that asks for them (`Target`) and for normalise="loss";
            None where neither does.
        decrease: the rule for b.
        strength: of the pull, ≥ 0.
        scale: "absolute" or "relative".
        limit: the multipliers are kept within Σ λᵢ‖gᵢ‖ ≤ limit·(‖p‖ + max bᵢ⁺/‖gᵢ‖), > 0.
        normalise: "gradient" poses the programme for gᵢ/‖gᵢ‖, "loss" for gᵢ/fᵢ = ∇log fᵢ, fᵢ > 0: d then does not
            depend on the units of any loss, and has none of its own (math.md, 70-71). None for gᵢ.
        solver: "active_set" solves exactly, on the host; "device" where J is, with fixed work and without ever waiting
            for it: the report then fetches its numbers at the first look.

    Returns:
        d [n] with the dtype and device of J, to be *subtracted* from the parameters; 0 where the rule asks for nothing
        and nothing pulls. The constraints are named "0", "1", ….

    Raises:
        TypeError: if the Jacobian is not a real floating-point tensor, or the rule knows no tensors.
        ValueError: for wrong shapes, values that are not finite, wrong options, or normalise="loss" without losses or
            with one that is not positive. With solver="device" such values give a direction of 0, and looking at the
            report raises a FloatingPointError.

    Cost: m²n multiplications for G, then solves over m variables.
    Source: derived in math.md; Gong et al. 2021 and Ye & Liu 2022 for the form of (1).

    Example:
        >>> constrained_direction(torch.tensor([[1.0, 0.0], [-0.5, 1.0]])).direction
        tensor([0.5000, 1.0000])
    """
    check_options("constrained_direction", strength, scale, limit, solver, decrease, normalise)
    if not isinstance(jacobian, Tensor) or not jacobian.is_floating_point():
        found = jacobian.dtype if isinstance(jacobian, Tensor) else type(jacobian).__name__
        raise TypeError(
            f"`constrained_direction(jacobian)` must be a real floating-point tensor. Found {found}. "
            "Stack the gradients as rows of one tensor."
        )
    if jacobian.ndim != 2 or not len(jacobian):
        raise ValueError(
            f"`constrained_direction(jacobian)` must have shape [m, n] with m ≥ 1. Found {list(jacobian.shape)}. "
            "Pass one row for each constraint."
        )
    if objective_gradient is not None and objective_gradient.shape != jacobian.shape[1:]:
        raise ValueError(
            "`constrained_direction(jacobian, objective_gradient)` must have one gradient value for each column "
            f"of the Jacobian, [{jacobian.shape[1]}]. Found {list(objective_gradient.shape)}. Flatten it first."
        )
    rows = jacobian.detach().double()
    objective = torch.zeros_like(rows[0]) if objective_gradient is None else objective_gradient.detach().to(rows)
    known: Any = None
    if losses is not None:
        # Numbers begin on the host, whatever torch's default device is.
        known = losses if isinstance(losses, Tensor) else torch.as_tensor(losses, dtype=torch.float64, device="cpu")
        known = known.detach().to(rows.device, torch.float64, non_blocking=rows.device.type != "cpu")
    if known is not None and known.shape != jacobian.shape[:1]:
        raise ValueError(
            "`constrained_direction(losses=...)` must have one value for each row of the Jacobian, "
            f"[{len(jacobian)}]. Found shape {list(known.shape)}. Pass the losses in the order of the rows."
        )
    for label, values in (("jacobian", rows), ("objective_gradient", objective), ("losses=...", known)):
        if values is not None and solver != "device" and not values.isfinite().all():
            raise ValueError(
                f"`constrained_direction({label})` must be finite. Found NaN or infinity. Check the loss behind it."
            )
    products: list[Any] = [rows @ rows.T, rows @ objective, objective.norm()]
    if solver != "device":
        products = [products[0].cpu().numpy(), products[1].cpu().numpy(), products[2].item()]
        known = None if known is None else known.cpu().numpy()
    solved = solve_direction(
        *products,
        losses=known,
        names=[str(i) for i in range(len(rows))],
        decrease=decrease,
        strength=strength,
        scale=scale,
        limit=limit,
        normalise=normalise,
    )
    direction = objective * solved.pull + torch.as_tensor(solved.multipliers, device=rows.device) @ rows
    if solved.void is not None:
        direction.masked_fill_(solved.void, 0.0)
    return Direction(direction.to(jacobian.dtype), solved.report)


class Solved(NamedTuple):
    """The answer of a step, where its Gramian is.

    Attributes:
        report: of the step.
        multipliers: λ [m] in d = Σ λᵢgᵢ + αg₀, an array or a tensor.
        decrease: b [m], likewise.
        error: of J d [m], likewise, from rounding: b is kept to it.
        pull: α.
        void: a flag on the device, true where something is not finite: d is then 0. None on the host.
    """

    report: Report
    multipliers: Any
    decrease: Any
    error: Any
    pull: Scalar
    void: Tensor | None

    def brought(self, products: Array) -> tuple[Array, Array]:
        """Return how much of b d brings for rows of other products, such as a step's, and to which error.

        Args:
            products: [m + 1, m + 1], of the rows and g₀.
        """
        gramian, correlation = products[:-1, :-1], self.pull * products[:-1, -1]
        error = _rounding_of(gramian, correlation, self.multipliers)
        return np.minimum(self.decrease, correlation + gramian @ self.multipliers), error


def solve_direction(
    gramian: Values,
    correlation: Values,
    objective_norm: Scalar,
    *,
    losses: Any = None,
    names: Sequence[str],
    decrease: Callable[..., Requirement],
    strength: float,
    scale: Scale,
    limit: float,
    normalise: Normalise | None = None,
    declared: Sequence[str] | None = None,
) -> Solved:
    """Solve the dual (2) for the multipliers, given J and g₀ through their inner products alone.

    The work is done where these are. On a device nothing waits for it.

    Args:
        gramian: G = J Jᵀ [m, m], float64, an array or a tensor; an array is finite.
        correlation: J g₀ [m], with g₀ as it is, before any scaling.
        objective_norm: ‖g₀‖ ≥ 0.
        losses: f [m], of the kind of the Gramian; None where they are not known.
        names: of the m constraints.
        decrease: the rule for b.
        strength: of the pull, ≥ 0.
        scale: of the pull.
        limit: of the multipliers.
        normalise: by what each row is divided.
        declared: the names of all constraints, where the step may lack some.

    Returns:
        The report, and what the direction is made of.

    Raises:
        TypeError: if the rule returns no `Requirement` of m decreases.
        ValueError: by the rule, if it does not fit the constraints; with normalise="loss" if the losses are not known
            or, on the host, one is not positive.

    Cost: three solves over m variables.
    """
    scales = _row_scales(normalise, gramian, losses, names)
    original, gramian = gramian, gramian * scales * scales[:, None]
    stationarity, weak = shortest_vector(gramian)
    requirement = decrease(Situation(gramian, stationarity, names, losses, limit, scales, declared))
    if not isinstance(requirement, Requirement) or len(requirement.decrease) != len(names):
        found = type(requirement).__name__
        if isinstance(requirement, Requirement):
            found = f"a decrease of {len(requirement.decrease)}"
        raise TypeError(
            f"`{decrease!r}` must return a Requirement of {len(names)} decreases. Found {found}. Return "
            "Requirement(b, pace, Status.OPTIMAL, 0), pace the coefficients of the gradient that sets the pull's scale."
        )
    b, pace = requirement.decrease, requirement.pace
    strong = root(pace @ gramian @ pace)

    # ‖g₀‖⁰ is 1 where the Gramian is.
    pull = strength * (quotient(strong, objective_norm) if scale == "relative" else objective_norm**0)
    c = pull * scales * correlation
    # Where nothing is required, the row is 0 to the solver: its multiplier is 0, and it is in no other's way.
    free = b == -math.inf
    asked, finite = ~free, filled(b, free, 0.0)
    linear = cleared(c - finite, rounding(1) * (abs(c) + abs(finite))) * asked
    reach = quotient(b.clip(min=0.0), norms(gramian)).max()
    bound = limit * (pull * objective_norm + reach)
    solution = minimise(gramian * asked * asked[:, None], linear, bound=bound, linear_error=requirement.error)
    multipliers = solution.multipliers
    squared_norm = (pull * objective_norm) ** 2 + 2 * (c @ multipliers) + multipliers @ gramian @ multipliers
    # Back to the units of the losses (math.md, 71).
    multipliers, b, c = scales * multipliers, b / scales, pull * correlation
    figures: dict[str, Any] = dict(
        multipliers=multipliers,
        gramian=original,
        correlation=c,
        decrease=b,
        predicted_decrease=c + original @ multipliers,
        row_scales=scales,
        stationarity=stationarity,
        strong_stationarity=strong,
        objective_norm=objective_norm,
        pull=pull,
        direction_norm=root(squared_norm),
        status=worst(weak.status, requirement.status, solution.status),
        iterations=weak.iterations + requirement.iterations + solution.iterations,
        duality_gap=solution.duality_gap,
        primal_residual=solution.primal_residual,
        dual_residual=solution.dual_residual,
        complementarity=solution.complementarity,
    )
    error = _rounding_of(original, c, multipliers)
    if isinstance(gramian, Tensor):
        report = PendingReport(names, figures)
        return Solved(report, multipliers, b, error, pull, report.void)
    return Solved(Report(names=tuple(names), **figures), multipliers, b, error, pull, None)


def _rounding_of(gramian: Any, correlation: Any, multipliers: Any) -> Any:
    """Return the rounding error of J d = Gλ + c [m]."""
    return rounding(len(multipliers) + 1) * (abs(correlation) + abs(gramian) @ abs(multipliers))


def _row_scales(normalise: Normalise | None, gramian: Any, losses: Any, names: Sequence[str]) -> Any:
    """Return s [m] > 0, by which the rows are multiplied (math.md, 70); on a device NaN for a loss ≤ 0."""
    if normalise is None:
        return like(None, gramian.diagonal())
    if normalise == "gradient":
        lengths = norms(gramian)
        return 1 / (lengths + (lengths == 0))  # a zero row is one, whatever its scale
    if losses is None:
        raise ValueError(
            f'`normalise="loss"` must know the losses of the constraints {list(names)}. Found no values. '
            "Use opt.backward(losses), or pass them: opt.solve(losses={name: value})."
        )
    if isinstance(losses, Tensor):
        return 1 / filled(losses, losses <= 0, math.nan)
    for name, loss in zip(names, losses, strict=True):
        if not loss > 0:
            raise ValueError(
                f'`normalise="loss"` must have positive losses. Found {loss} for the constraint {name!r}. Use '
                'normalise="gradient", or leave out a loss that has reached 0.'
            )
    return 1 / losses


def check_options(
    call: str,
    strength: float,
    scale: str,
    limit: float,
    solver: str,
    decrease: DecreaseRule,
    normalise: str | None = None,
) -> None:
    """Check the options that the optimizer and the function share.

    Args:
        call: the name that the user wrote.
        strength: of the pull.
        scale: of the pull.
        limit: of the multipliers.
        solver: where to solve.
        decrease: the rule.
        normalise: by what rows are divided.

    Raises:
        TypeError: for a strength or limit that is no number, or a rule that is none or does not know tensors where it
            must.
        ValueError: for a strength < 0, an unknown scale, solver or normalisation, or a limit ≤ 0.
    """
    for option, value in (("strength", strength), ("limit", limit)):
        if not isinstance(value, (int, float)):
            raise TypeError(
                f"`{call}({option}=...)` must be a number. Found {type(value).__name__}. Leave it out for the default."
            )
    if not (strength >= 0 and math.isfinite(strength)):
        raise ValueError(
            f"`{call}(strength=...)` must be ≥ 0 and finite. Found {strength}. Use 0 for no pull of the objective."
        )
    if scale not in ("relative", "absolute"):
        raise ValueError(
            f'`{call}(scale=...)` must be "relative" or "absolute". Found {scale!r}. Choose one of the two.'
        )
    if not (limit > 0 and math.isfinite(limit)):
        raise ValueError(
            f"`{call}(limit=...)` must be positive and finite. Found {limit}. Use 1e4, the default, when in doubt."
        )
    if solver not in {"active_set", "device"}:
        raise ValueError(
            f'`{call}(solver=...)` must be "active_set" or "device". Found {solver!r}. Leave it out for the exact one.'
        )
    if normalise not in (None, "gradient", "loss"):
        raise ValueError(
            f'`{call}(normalise=...)` must be None, "gradient" or "loss". Found {normalise!r}. Choose one of the three.'
        )
    if not callable(decrease) or isinstance(decrease, type):
        raise TypeError(
            f"`{call}(decrease=...)` must be a rule such as KeepPace(). Found {decrease!r}. Pass an instance."
        )
    if solver == "device" and not getattr(decrease, "knows_tensors", False):
        raise TypeError(
            f'`{call}(decrease=..., solver="device")` must be a rule that knows tensors. Found {decrease!r} without '
            '`knows_tensors = True`. Write it for tensors too (see DecreaseRule), or use solver="active_set".'
        )
