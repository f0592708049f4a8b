"""The constrained less-forgetting direction: from G, c and a rule to λ and its report.

In: the Gramian and its companions, float64. Out: `Report`. May import: decrease, stationarity, report, solvers.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mgrad.decrease import DecreaseRule, KeepPace
from mgrad.report import Report
from mgrad.solvers import Array, Status, rounding, solve
from mgrad.stationarity import pareto_stationarity

Scale = Literal["relative", "absolute"]


class Direction(NamedTuple):
    """The direction d [n], to be subtracted from the parameters, and its report."""

    direction: Tensor
    report: Report


def constrained_direction(
    jacobian: Tensor,
    objective_gradient: Tensor | None = None,
    *,
    decrease: DecreaseRule = KeepPace(),  # noqa: B008 - frozen
    strength: float = 1.0,
    scale: Scale = "absolute",
    limit: float = 1e4,
) -> Direction:
    """Find d = argmin ½‖d − p‖² subject to J d ≥ b, the mathematics of `LessForgetting` alone (math.md, 1).

    p is the pull of the objective: strength·g₀ ("absolute"), or strength·‖r‖·g₀/‖g₀‖ ("relative").

    Args:
        jacobian: J [m, n], real floating point, row i = ∇fᵢ of constraint i; it is not modified.
        objective_gradient: g₀ = ∇f₀ [n], or None for no objective.
        decrease: the rule for b.
        strength: of the pull, ≥ 0.
        scale: "absolute" or "relative".
        limit: the multipliers are kept within Σ λᵢ‖gᵢ‖ ≤ limit·(‖p‖ + max bᵢ/‖gᵢ‖), > 0.

    Returns:
        d [n] with the dtype and device of J, to be *subtracted* from the parameters; 0 where the rule asks for nothing
        and nothing pulls. The constraints are named "0", "1", ….

    Raises:
        TypeError: if the Jacobian is not a real floating-point tensor.
        ValueError: for wrong shapes, values that are not finite, or wrong options.

    Cost: m²n multiplications for G, then solves over m variables.
    Source: derived in math.md; Gong et al. 2021 and Ye & Liu 2022 for the form of (1).

    Example:
        >>> constrained_direction(torch.tensor([[1.0, 0.0], [-0.5, 1.0]])).direction
        tensor([0.5000, 1.0000])
    """
    check_options("constrained_direction", strength, scale, limit)
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
    for label, values in (("jacobian", rows), ("objective_gradient", objective)):
        if not values.isfinite().all():
            raise ValueError(
                f"`constrained_direction({label})` must be finite. Found NaN or infinity. Check the loss behind it."
            )
    names = [str(i) for i in range(len(rows))]
    report = solve_direction(
        (rows @ rows.T).cpu().numpy(),
        (rows @ objective).cpu().numpy(),
        float(objective.norm()),
        names=names,
        decrease=decrease,
        strength=strength,
        scale=scale,
        limit=limit,
    )
    multipliers = torch.as_tensor(report.multipliers, device=rows.device)
    return Direction((report.pull * objective + multipliers @ rows).to(jacobian.dtype), report)


def solve_direction(
    gramian: Array,
    correlation: Array,
    objective_norm: float,
    *,
    names: Sequence[str],
    decrease: DecreaseRule,
    strength: float,
    scale: Scale,
    limit: float,
) -> Report:
    """Solve the dual (2) for the multipliers, given J and g₀ through their inner products alone.

    Args:
        gramian: G = J Jᵀ [m, m], finite.
        correlation: J g₀ [m], with g₀ as it is, before any scaling.
        objective_norm: ‖g₀‖ ≥ 0.
        names: of the m constraints.
        decrease: the rule for b.
        strength: of the pull, ≥ 0.
        scale: of the pull.
        limit: of the multipliers.

    Returns:
        The report; the direction is d = pull·g₀ + Jᵀ·multipliers.

    Raises:
        ValueError: by the rule, if it does not fit the constraints.

    Cost: three solves over m variables.
    """
    weak = pareto_stationarity(gramian)
    requirement = decrease(gramian, weak.stationarity, names, limit)
    b, pace = requirement.decrease, requirement.pace
    strong = math.sqrt(max(0.0, float(pace @ gramian @ pace)))

    pull = strength
    if scale == "relative":
        pull = strength * strong / objective_norm if objective_norm > 0 else 0.0
    c = pull * correlation
    linear = c - b
    linear[np.abs(linear) <= rounding(1) * (np.abs(c) + np.abs(b))] = 0.0

    norms = np.sqrt(np.diagonal(gramian))
    reach = float((b[norms > 0] / norms[norms > 0]).max(initial=0.0))
    solution = solve(gramian, linear, bound=limit * (pull * objective_norm + reach), linear_error=requirement.error)
    multipliers = solution.multipliers
    squared_norm = (pull * objective_norm) ** 2 + 2 * float(c @ multipliers) + multipliers @ gramian @ multipliers
    return Report(
        names=tuple(names),
        multipliers=multipliers,
        gramian=gramian,
        correlation=c,
        decrease=b,
        predicted_decrease=c + gramian @ multipliers,
        stationarity=weak.stationarity,
        strong_stationarity=strong,
        objective_norm=objective_norm,
        pull=pull,
        direction_norm=math.sqrt(max(0.0, float(squared_norm))),
        status=_worst(weak.status, requirement.status, solution.status),
        iterations=weak.iterations + requirement.iterations + solution.iterations,
        duality_gap=solution.duality_gap,
        primal_residual=solution.primal_residual,
        dual_residual=solution.dual_residual,
        complementarity=solution.complementarity,
    )


def check_options(call: str, strength: float, scale: str, limit: float) -> None:
    """Check the options that the optimizer and the function share.

    Args:
        call: the name that the user wrote.
        strength: of the pull.
        scale: of the pull.
        limit: of the multipliers.

    Raises:
        TypeError: for a strength or limit that is no number.
        ValueError: for a strength < 0, an unknown scale or a limit ≤ 0.
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


def _worst(*statuses: Status) -> Status:
    """Return the worst of several outcomes."""
    return max(statuses, key=list(Status).index)
