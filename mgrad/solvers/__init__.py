"""Solvers of the quadratic programme over the m multipliers, in float64 and without torch.

In: a Gramian and a linear term. Out: a `DualSolution` with its certificate. May import: solvers.*.
"""

import numpy as np
from numpy.typing import ArrayLike

from mgrad.solvers.active_set import solve_active_set
from mgrad.solvers.problem import (
    Array,
    Certificate,
    Domain,
    DualSolution,
    Status,
    certify,
    check_linear_error,
    check_problem,
    rounding,
)

__all__ = ["Array", "Certificate", "Domain", "DualSolution", "Status", "certify", "rounding", "solve"]


def solve(
    gramian: ArrayLike,
    linear: ArrayLike | None = None,
    *,
    domain: str = "nonnegative",
    bound: float | None = None,
    linear_error: ArrayLike | None = None,
    max_iterations: int | None = None,
) -> DualSolution:
    """Minimise ½xᵀGx + qᵀx over x ≥ 0 or over the simplex (math.md, 15-21).

    Over x ≥ 0 it is the dual (2) of the direction problem; with a bound on Σ xᵢ√Gᵢᵢ it is the exact penalty (10).
    Over the simplex with q = 0 it is the min-norm point, MGDA's problem (7). G may be singular.

    Args:
        gramian: G [m, m], symmetric positive semi-definite (not checked), of any scale.
        linear: q [m]; None stands for 0.
        domain: "nonnegative" (x ≥ 0) or "simplex" (x ≥ 0, Σ xᵢ = 1).
        bound: upper bound on Σ xᵢ√Gᵢᵢ in the units of √G, for the nonnegative domain alone.
        linear_error: [m] ≥ 0, how far q may be off, where it is the difference of larger numbers; None for the rounding
            of its own digits. A problem that is unbounded within this error alone counts as bounded.
        max_iterations: cap on the number of variables freed; None stands for 100 + 20·m.

    Returns:
        The multipliers [m] ≥ 0, the status, the iterations and the certificate. OPTIMAL and BOUND_ACTIVE promise a
        relative duality gap of at most 4m²·2⁻⁵²; what rounding keeps from it is INACCURATE. A multiplier of a zero row
        is 0 on the nonnegative domain; a zero row with qᵢ < 0 makes the problem UNBOUNDED there. Not every x is
        unique where G is singular: Gx is.

    Raises:
        ValueError: for a Gramian that is not square or not finite or has a negative diagonal, a linear term of another
            length, an unknown domain, a bound that is negative or given on the simplex, an error that is negative.

    Cost: O(m³) for each variable freed, commonly about as many as there are multipliers > 0.
    Source: the active-set method of Lawson & Hanson (1974, ch. 23) with the corrals of Wolfe (1976).

    Example:
        >>> solve([[1.0, 0.0], [0.0, 3.0]], domain="simplex").multipliers.round(12).tolist()
        [0.75, 0.25]
        >>> solve([[2.0, 0.0], [0.0, 2.0]], [-1.0, 1.0]).multipliers.tolist()
        [0.5, 0.0]
    """
    quadratic, q, checked = check_problem(gramian, linear, domain, bound)
    error = check_linear_error(linear_error, len(q))
    cap = 100 + 20 * len(q) if max_iterations is None else max_iterations
    if checked == "simplex":
        x, status, iterations = _on_simplex(quadratic, q, cap)
    else:
        x, status, iterations = _nonnegative(quadratic, q, error, bound, cap)
    certificate = certify(quadratic, q, x, domain=checked, bound=bound)
    if status in {Status.OPTIMAL, Status.BOUND_ACTIVE} and certificate.duality_gap > len(q) * rounding(len(q)):
        status = Status.INACCURATE
    return DualSolution(x, status, iterations, *certificate)


def _on_simplex(gramian: Array, linear: Array, cap: int) -> tuple[Array, Status, int]:
    """Solve over the simplex in variables that give G a unit diagonal (math.md, 17)."""
    norms = np.sqrt(np.diagonal(gramian))
    unit = float(norms[norms > 0].min(initial=np.inf))
    unit = unit if np.isfinite(unit) else 1.0
    lengths = np.where(norms > 0, norms, unit)  # the variable of a zero row has no scale of its own
    normal = unit / lengths
    y, status, iterations = solve_active_set(gramian / lengths / lengths[:, None], linear / lengths / unit, normal, cap)
    x = y * normal
    return x / x.sum(), status, iterations


def _nonnegative(
    gramian: Array, linear: Array, error: Array, bound: float | None, cap: int
) -> tuple[Array, Status, int]:
    """Solve over x ≥ 0 and, where the answer breaks the bound, again on the hyperplane where it binds (math.md, 16)."""
    norms = np.sqrt(np.diagonal(gramian))
    rows = np.flatnonzero(norms > 0)
    x = np.zeros(len(norms))
    impossible = bool((linear[norms == 0] < -error[norms == 0]).any())
    if not len(rows) or bound == 0:
        status = Status.BOUND_ACTIVE if (linear < -error).any() else Status.OPTIMAL
        return x, Status.UNBOUNDED if impossible else status, 0
    lengths = norms[rows]
    quadratic = gramian[np.ix_(rows, rows)] / lengths / lengths[:, None]
    q = linear[rows] / lengths
    y, status, iterations = solve_active_set(quadratic, q, None, cap, error[rows] / lengths)
    if bound is not None and (status is not Status.OPTIMAL or y.sum() > bound):
        y, outcome, more = solve_active_set(quadratic, q / bound, np.ones(len(rows)), cap)
        y, iterations = bound * y, iterations + more
        status = Status.BOUND_ACTIVE if outcome is Status.OPTIMAL else outcome
    x[rows] = y / lengths
    return x, Status.UNBOUNDED if impossible else status, iterations
