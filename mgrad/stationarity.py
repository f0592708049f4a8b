"""How far from Pareto stationarity the constraints are: weakly (δ) and strongly (‖r‖).

In: the Gramian of the constraint gradients [m, m], an array or a tensor. Out: coefficients of the rows [m], and δ.
May import: solvers, values.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mgrad.solvers import Array, Status, rounding
from mgrad.values import Scalar, Solution, Values, cleared, minimise, norms, quadratic_form


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
    stationarity, solution = shortest_vector(np.asarray(gramian, dtype=np.float64))
    assert isinstance(solution.status, Status)
    return ParetoStationarity(float(stationarity), solution.multipliers, solution.status, solution.iterations)


def shortest_vector(gramian: Values) -> tuple[Scalar, Solution]:
    """Compute δ and the solution for its coefficients a [m], as `pareto_stationarity` does, where the Gramian is.

    Args:
        gramian: G [m, m], an array or a tensor.

    Returns:
        δ ≥ 0, 0 where it is below its own rounding error, and the solution.

    Cost: one solve over m variables.
    """
    solution = minimise(gramian, domain="simplex")
    return quadratic_form(gramian, solution.multipliers), solution


def conflict_free(gramian: Values, weights: Values, floor: Scalar, limit: float) -> tuple[Values, Solution]:
    """Correct Σ wᵢ∇fᵢ as little as possible until every loss falls by at least `floor` (math.md, 3).

    r = argmin ½‖r − Jᵀw‖² subject to J r ≥ floor. With floor 0 it is the projection of the gradient of plain
    fine-tuning on the dual cone of the rows. r = 0 exactly at strongly Pareto-stationary points.

    Args:
        gramian: G [m, m], an array or a tensor.
        weights: w [m] > 0.
        floor: least decrease of every loss, ≥ 0 in squared gradient units; a floor ≤ δ min w can be met.
        limit: the correction is kept within Σ νᵢ‖gᵢ‖ ≤ limit·Σ wᵢ‖gᵢ‖.

    Returns:
        Coefficients w + ν [m] with r = Jᵀ(w + ν), and the solution for ν.

    Cost: O(m³) for each correction νᵢ > 0; O(m²) where there is no conflict.
    Source: GEM (Lopez-Paz & Ranzato 2017, eq. 11) and UPGrad's cone (Quinton & Rey 2024), with a floor.
    """
    slack = gramian @ weights - floor
    error = rounding(len(weights)) * (abs(gramian) @ weights + floor)
    # What is below its own rounding error is no conflict: at a stationary point it would be corrected without end. And
    # a zero row cannot fall: nothing can be asked of it.
    slack = cleared(slack, error) * (gramian.diagonal() != 0)
    solution = minimise(gramian, slack, bound=limit * (weights @ norms(gramian)), linear_error=error)
    return weights + solution.multipliers, solution
