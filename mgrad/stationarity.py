"""How far from Pareto stationarity the constraints are: weakly (δ) and strongly (‖r‖).

In: the Gramian of the constraint gradients [m, m]. Out: coefficients of the rows [m]. May import: solvers.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mgrad.solvers import Array, DualSolution, Status, rounding, solve


class ParetoStationarity(NamedTuple):
    """δ, the coefficients on the simplex that give it [m], and how the solve ended."""

    stationarity: float
    multipliers: Array
    status: Status
    iterations: int


def pareto_stationarity(gramian: ArrayLike) -> ParetoStationarity:
    """Find the shortest vector of the convex hull of the gradient rows: δ = min aᵀGa over the simplex (math.md, 7).

    δ = 0 exactly at weakly Pareto-stationary points of the constraints, those where no direction lets every loss fall
    at first order. It is the squared norm of the direction of MGDA.

    Args:
        gramian: G = J Jᵀ [m, m] of the rows ∇fᵢ, in squared gradient units.

    Returns:
        δ ≥ 0 in squared gradient units, 0 where it is below its own rounding error; the coefficients a [m] ≥ 0 of sum
        1 (not unique where G is singular); the solver's status and iterations.

    Raises:
        ValueError: if the Gramian is not square, not finite, or has a negative diagonal.

    Cost: O(m³) for each coefficient > 0.
    Source: Désidéri 2012 (MGDA); Sener & Koltun 2018, eq. 3.

    Example:
        >>> round(pareto_stationarity([[1.0, 0.0], [0.0, 3.0]]).stationarity, 12)
        0.75
        >>> pareto_stationarity([[4.0, -2.0], [-2.0, 1.0]]).stationarity
        0.0
    """
    quadratic = np.asarray(gramian, dtype=np.float64)
    solution = solve(quadratic, domain="simplex")
    a = solution.multipliers
    stationarity = float(a @ quadratic @ a)
    if stationarity <= rounding(len(a)) * float(a @ np.abs(quadratic) @ a):
        stationarity = 0.0
    return ParetoStationarity(stationarity, a, solution.status, solution.iterations)


def conflict_free(gramian: Array, weights: Array, floor: float, limit: float) -> tuple[Array, DualSolution]:
    """Correct Σ wᵢ∇fᵢ as little as possible until every loss falls by at least `floor` (math.md, 3).

    r = argmin ½‖r − Jᵀw‖² subject to J r ≥ floor. With floor 0 it is the projection of the gradient of plain
    fine-tuning on the dual cone of the rows. r = 0 exactly at strongly Pareto-stationary points.

    Args:
        gramian: G [m, m].
        weights: w [m] > 0.
        floor: least decrease of every loss, ≥ 0 in squared gradient units; a floor ≤ δ min w can be met.
        limit: the correction is kept within Σ νᵢ‖gᵢ‖ ≤ limit·Σ wᵢ‖gᵢ‖.

    Returns:
        Coefficients w + ν [m] with r = Jᵀ(w + ν), and the solution for ν.

    Cost: O(m³) for each correction νᵢ > 0; O(m²) where there is no conflict.
    Source: GEM (Lopez-Paz & Ranzato 2017, eq. 11) and UPGrad's cone (Quinton & Rey 2024), with a floor.
    """
    slack = gramian @ weights - floor
    error = rounding(len(weights)) * (np.abs(gramian) @ weights + floor)
    # What is below its own rounding error is no conflict: at a stationary point it would be corrected without end.
    slack[np.abs(slack) <= error] = 0.0
    # A zero row cannot fall: nothing can be asked of it.
    slack[np.diagonal(gramian) == 0] = 0.0
    bound = limit * float(weights @ np.sqrt(np.diagonal(gramian)))
    solution = solve(gramian, slack, bound=bound, linear_error=error)
    return weights + solution.multipliers, solution
