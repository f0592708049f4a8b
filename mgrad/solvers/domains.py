"""From the three domains to two: the orthant and the simplex.

In: a problem, and what minimises on the two. Out: its outcome. May import: solvers.problem.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dasum, ddot

from mgrad.solvers.problem import Array, Outcome, Problem, Region, Status, rounding

Minimise = Callable[[Region, int], Outcome]
"""From a region and a cap on the iterations to the outcome."""


def solve_domain(problem: Problem, minimise: Minimise, start: Array | None, max_iterations: int) -> Outcome:
    """Solve a problem on its domain by at most two solves on the orthant and the simplex (math.md, 16).

    Args:
        problem: to be solved.
        minimise: on the orthant and on the simplex.
        start: [m] ≥ 0 or None.
        max_iterations: of both solves together.

    Returns:
        The outcome; BOUND_ACTIVE where an optimum is at the bound.
    """
    if not problem.zero_rows:
        if problem.domain == "simplex":
            gramian, linear, lengths, *_ = problem
            return _on_simplex(Region(gramian, linear, lengths, True, None, start), minimise, max_iterations)
        return _nonnegative(problem, minimise, start, max_iterations)
    rows = problem.lengths.nonzero()[0]
    part = Problem(
        problem.gramian.take(rows, 0).take(rows, 1),
        problem.linear[rows],
        problem.lengths[rows],
        False,
        problem.domain,
        problem.bound,
        None if problem.linear_error is None else problem.linear_error[rows],
    )
    started = None if start is None else start[rows]
    if problem.domain == "simplex":
        return _beside_zero_rows(problem, part, rows, minimise, started, max_iterations)
    # A zero row has no influence on Gx; what is required of it beyond rounding cannot be had.
    error = 0.0 if problem.linear_error is None else problem.linear_error
    impossible = (problem.lengths == 0) & (problem.linear < -error)
    found = Outcome(np.zeros(0), Status.OPTIMAL, 0)
    if len(rows):
        found = _nonnegative(part, minimise, started, max_iterations)
    x = np.zeros(len(problem.lengths))
    x[rows] = found.x
    return Outcome(x, Status.UNBOUNDED if impossible.any() else found.status, found.iterations)


def _nonnegative(problem: Problem, minimise: Minimise, start: Array | None, cap: int) -> Outcome:
    """Solve over x ≥ 0 and, where the answer breaks the bound, again on the face where it binds."""
    gramian, q, lengths, _, _, bound, error = problem
    if bound == 0:
        required = q < (0.0 if error is None else -error)
        return Outcome(np.zeros(len(q)), Status.BOUND_ACTIVE if required.any() else Status.OPTIMAL, 0)
    free = minimise(Region(gramian, q, lengths, False, error, start), cap)
    if bound is None or (free.status is Status.OPTIMAL and ddot(free.x, lengths) <= bound):
        return free
    if free.status in {Status.INACCURATE, Status.ITERATION_LIMIT}:
        x = free.x * min(1.0, bound / (ddot(free.x, lengths) or 1.0))
        return Outcome(x, free.status, free.iterations)
    # The face where the bound binds is the simplex of the shares of the bound.
    reach = bound / lengths
    scaled = gramian * reach * reach[:, None]
    face = _on_simplex(Region(scaled, q * reach, lengths * reach, True, None, start), minimise, cap - free.iterations)
    status = Status.BOUND_ACTIVE if face.status is Status.OPTIMAL else face.status
    return Outcome(face.x * reach, status, free.iterations + face.iterations)


def _on_simplex(region: Region, minimise: Minimise, cap: int) -> Outcome:
    """Solve on the simplex, whose sum is 1 to the last digits."""
    found = minimise(region, cap)
    total = dasum(found.x)
    if abs(total - 1.0) <= rounding(len(found.x)) or not total:
        return found
    # What rounding has left of the sum is made up where a row is short, and so costs no slack its digits.
    short = found.x / region.lengths
    return Outcome(found.x + short * ((1.0 - total) / float(short.sum())), found.status, found.iterations)


def _beside_zero_rows(
    problem: Problem, part: Problem, rows: NDArray[np.intp], minimise: Minimise, start: Array | None, cap: int
) -> Outcome:
    """Solve on the simplex with zero rows: the cheapest of them is the slack of Σ xᵢ ≤ 1 over the other rows."""
    zero = (problem.lengths == 0).nonzero()[0]
    apex = int(zero[problem.linear[zero].argmin()])
    x = np.zeros(len(problem.lengths))
    if not len(rows):
        x[apex] = 1.0
        return Outcome(x, Status.OPTIMAL, 0)
    linear = part.linear - problem.linear[apex]
    free = minimise(Region(part.gramian, linear, part.lengths, False, None, start), cap)
    if free.status is Status.OPTIMAL and float(free.x.sum()) <= 1:
        x[rows] = free.x
        x[apex] = 1.0 - float(free.x.sum())
        return Outcome(x, Status.OPTIMAL, free.iterations)
    simplex = Region(part.gramian, part.linear, part.lengths, True, None, start)
    found = _on_simplex(simplex, minimise, cap - free.iterations)
    x[rows] = found.x
    return Outcome(x, found.status, free.iterations + found.iterations)
