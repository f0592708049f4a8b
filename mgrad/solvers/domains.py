"""From the three domains to two: the orthant, and its face on a hyperplane.

In: a problem, and what minimises on the orthant and on the face. Out: its outcome. May import: solvers.problem.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mgrad.solvers.problem import Array, Outcome, Problem, Region, Status

Minimise = Callable[[Region, int], Outcome]
"""From a region and a cap on the iterations to the outcome."""


def solve_domain(problem: Problem, minimise: Minimise, start: Array | None, max_iterations: int) -> Outcome:
    """Solve a problem on its domain by at most two solves on the orthant or the face (math.md, 16).

    Args:
        problem: to be solved.
        minimise: on the orthant and on the face.
        start: [m] ≥ 0 or None.
        max_iterations: of both solves together.

    Returns:
        The outcome; BOUND_ACTIVE where an optimum is at the bound.
    """
    rows = problem.lengths.nonzero()[0]
    if len(rows) == len(problem.lengths):
        if problem.domain == "simplex":
            return _on_simplex(problem, minimise, start, max_iterations)
        return _nonnegative(problem, minimise, start, max_iterations)
    part = Problem(
        problem.gramian[np.ix_(rows, rows)],
        problem.linear[rows],
        problem.lengths[rows],
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
    gramian, q, lengths, _, bound, error = problem
    if bound == 0:
        required = q < (0.0 if error is None else -error)
        return Outcome(np.zeros(len(q)), Status.BOUND_ACTIVE if required.any() else Status.OPTIMAL, 0)
    free = minimise(Region(gramian, q, lengths, None, 0.0, error, start), cap)
    if bound is None or (free.status is Status.OPTIMAL and float(free.x.dot(lengths)) <= bound):
        return free
    if free.status in {Status.INACCURATE, Status.ITERATION_LIMIT}:
        x = free.x * min(1.0, bound / (float(free.x.dot(lengths)) or 1.0))
        return Outcome(x, free.status, free.iterations)
    face = minimise(Region(gramian, q, lengths, lengths, bound, error, start), cap - free.iterations)
    status = Status.BOUND_ACTIVE if face.status is Status.OPTIMAL else face.status
    length = float(face.x.dot(lengths))
    x = face.x * (bound / length) if length > 0 else face.x  # what rounding has left of the sum
    return Outcome(x, status, free.iterations + face.iterations)


def _on_simplex(problem: Problem, minimise: Minimise, start: Array | None, cap: int) -> Outcome:
    """Solve on the face Σ xᵢ = 1."""
    gramian, q, lengths, *_ = problem
    found = minimise(Region(gramian, q, lengths, np.ones(len(q)), 1.0, None, start), cap)
    x = found.x
    total = sum(x.tolist())  # of few numbers: faster than numpy's
    if total not in (0.0, 1.0):
        # What rounding has left of the sum is made up where a row is short, and so costs no slack its digits.
        short = x / lengths
        x = x + short * ((1.0 - total) / float(short.sum()))
    return Outcome(x, found.status, found.iterations)


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
    free = minimise(Region(part.gramian, linear, part.lengths, None, 0.0, None, start), cap)
    if free.status is Status.OPTIMAL and float(free.x.sum()) <= 1:
        x[rows] = free.x
        x[apex] = 1.0 - float(free.x.sum())
        return Outcome(x, Status.OPTIMAL, free.iterations)
    found = _on_simplex(part, minimise, start, cap - free.iterations)
    x[rows] = found.x
    return Outcome(x, found.status, free.iterations + found.iterations)
