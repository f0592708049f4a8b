"""Solvers of the quadratic programme over the m multipliers, in float64 and without torch.

In: a Gramian and a linear term. Out: a `DualSolution` with its certificate. May import: solvers.*.
"""

from numpy.typing import ArrayLike

from mgrad.solvers.active_set import solve_active_set
from mgrad.solvers.certificate import Certificate, certify, measure
from mgrad.solvers.closed_form import LARGEST, solve_closed_form
from mgrad.solvers.domains import solve_domain
from mgrad.solvers.frank_wolfe import solve_frank_wolfe
from mgrad.solvers.pivoting import solve_pivoting
from mgrad.solvers.problem import (
    OPTIMAL,
    Array,
    Domain,
    DualSolution,
    Method,
    Problem,
    Status,
    check_method,
    check_problem,
    rounding,
    symmetric,
)

__all__ = ["Array", "Certificate", "Domain", "DualSolution", "Method", "Status", "certify", "rounding", "solve"]


def solve(
    gramian: ArrayLike,
    linear: ArrayLike | None = None,
    *,
    domain: str = "nonnegative",
    bound: float | None = None,
    method: str = "active_set",
    start: ArrayLike | None = None,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    linear_error: ArrayLike | None = None,
) -> DualSolution:
    """Minimise ½xᵀGx + qᵀx over x ≥ 0 or over the simplex (math.md, 15-29).

    Over x ≥ 0 it is the dual (2) of the direction problem; with a bound on Σ xᵢ√Gᵢᵢ it is the exact penalty (10).
    Over the simplex with q = 0 it is the min-norm point, MGDA's problem (7). G may be singular.

    Args:
        gramian: G [m, m], symmetric positive semi-definite (not checked), of any scale. Only its lower triangle counts.
        linear: q [m]; None stands for 0.
        domain: "nonnegative" (x ≥ 0) or "simplex" (x ≥ 0, Σ xᵢ = 1).
        bound: upper bound on Σ xᵢ√Gᵢᵢ in the units of √G, for the nonnegative domain alone.
        method: "active_set", exact to rounding; "frank_wolfe" (pairwise steps) or "plain_frank_wolfe", to a tolerance,
            on the simplex or within a bound.
        start: [m] ≥ 0, such as the multipliers of the step before: block pivoting begins with its positive entries,
            Frank-Wolfe with the point itself, scaled into the domain. None for no guess.
        tolerance: relative duality gap up to which an answer counts as optimal, and at which Frank-Wolfe stops; None
            stands for 4m²·2⁻⁵², or 10⁻¹² if that is less, and for 10⁻⁶ with Frank-Wolfe.
        max_iterations: cap on the systems solved, or on the steps of Frank-Wolfe; None stands for 100 + 20·m, and for
            10 000 steps.
        linear_error: [m] ≥ 0, how far q may be off, where it is the difference of larger numbers; None for the rounding
            of its own digits. A problem that is unbounded within this error alone counts as bounded.

    Returns:
        The multipliers [m] ≥ 0, the status, the iterations and the certificate. OPTIMAL and BOUND_ACTIVE promise a
        relative duality gap within the tolerance; what rounding keeps from it is INACCURATE. A multiplier of a zero row
        is 0 on the nonnegative domain; a zero row with qᵢ < 0 makes the problem UNBOUNDED there. Not every x is
        unique where G is singular: Gx is.

    Raises:
        ValueError: for a Gramian that is not square or not finite or has a negative diagonal, a linear term of another
            length, an unknown domain or method, a bound, start, tolerance, cap or error that is negative, a bound on
            the simplex, or Frank-Wolfe without a bound beside it.

    Cost: "active_set": O(m³) for each system, commonly 1 to 4 of them; Frank-Wolfe: O(m) for a pairwise step.
    Source: block principal pivoting (Portugal, Júdice & Vicente 1994) and, where that does not settle it, the
        active-set method of Lawson & Hanson (1974, ch. 23); Frank & Wolfe 1956, Lacoste-Julien & Jaggi 2015.

    Example:
        >>> solve([[1.0, 0.0], [0.0, 3.0]], domain="simplex").multipliers.round(12).tolist()
        [0.75, 0.25]
        >>> solve([[2.0, 0.0], [0.0, 2.0]], [-1.0, 1.0]).multipliers.round(12).tolist()
        [0.5, 0.0]
    """
    problem = check_problem(gramian, linear, domain, bound, linear_error)
    guess = check_method(method, start, tolerance, max_iterations, problem)
    if method == "active_set":
        size = len(problem.linear)
        limit = min(1e-12, size * rounding(size)) if tolerance is None else tolerance
        return _exact(problem, guess, limit, 100 + 20 * size if max_iterations is None else max_iterations)
    limit = 1e-6 if tolerance is None else tolerance
    cap = 10_000 if max_iterations is None else max_iterations
    x, status, iterations, _ = solve_frank_wolfe(
        symmetric(problem), guess, limit, cap, pairwise=method == "frank_wolfe"
    )
    return DualSolution(x, status, iterations, *measure(problem, x))


def _exact(problem: Problem, start: Array | None, limit: float, cap: int) -> DualSolution:
    """Let a fast method try, and the active set do what that has not settled: the certificate decides."""
    fast = solve_closed_form if len(problem.linear) <= LARGEST else solve_pivoting
    x, status, iterations, slacks = solve_domain(problem, fast, start, cap)
    if status is OPTIMAL or status is Status.BOUND_ACTIVE:
        gap, primal, dual, complementarity = measure(problem, x, slacks)
        if gap <= limit and dual <= limit:
            return DualSolution(x, status, iterations, gap, primal, dual, complementarity)
    x, status, further, _ = solve_domain(symmetric(problem), solve_active_set, start, cap - iterations)
    gap, primal, dual, complementarity = measure(problem, x)
    if status in {Status.OPTIMAL, Status.BOUND_ACTIVE} and not (gap <= limit and dual <= limit):
        status = Status.INACCURATE
    return DualSolution(x, status, iterations + further, gap, primal, dual, complementarity)
