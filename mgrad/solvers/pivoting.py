"""Block principal pivoting: fast on the well-conditioned problems that most are, and silent on the others.

In: a problem on the orthant or on a face of it. Out: its minimiser, or "inaccurate". May import: solvers.problem.
"""

import numpy as np
from scipy.linalg import lapack

from mgrad.solvers.problem import Array, Outcome, Region, Status, rounding

_SYSTEMS = 12  # that are solved before the problem is left to the active-set method
_CURVATURE = 2.0**-32  # least squared sine between a free row and the span of the others


def solve_pivoting(region: Region, max_iterations: int) -> Outcome:
    """Minimise ½xᵀGx + qᵀx over x ≥ 0 and, with a normal, normalᵀx = level, by exchanging many variables at a time.

    Free variables whose minimiser is negative all leave, until none is; then all variables whose slack is negative
    beyond rounding become free. Nothing guarantees that this ends, and dependent rows are not its business: after a
    few systems, or where the free rows are all but dependent, the outcome is INACCURATE.

    Args:
        region: the orthant, or a face of it.
        max_iterations: cap on the systems solved.

    Returns:
        x [m] ≥ 0; OPTIMAL or INACCURATE; the number of systems solved.

    Cost: O(k³) for each system, with k free variables; commonly 1 to 4 systems.
    Source: Portugal, Júdice & Vicente 1994; Kim & Park 2011.
    """
    gramian, linear, _, normal, level, _, start = region
    size = len(linear)
    absolute, terms, falls = np.abs(gramian), np.abs(linear), -linear
    if start is not None:
        free = start.nonzero()[0]
    elif normal is None:
        free = (falls > 0).nonzero()[0]
    else:
        free = np.arange(size)
    iterations = 0
    while True:
        x = np.zeros(size)
        kappa = 0.0
        while len(free):
            if iterations == min(_SYSTEMS, max_iterations):
                return Outcome(x, Status.INACCURATE, iterations)
            iterations += 1
            whole = len(free) == size
            block = gramian.T if whole else gramian[free[:, None], free].T
            if normal is None:
                right = falls if whole else falls[free]
                factor, point, failed = lapack.dposv(block, right, lower=1, overwrite_a=not whole)
            else:
                right = np.array((falls, normal) if whole else (falls[free], normal[free])).T
                factor, points, failed = lapack.dposv(block, right, lower=1, overwrite_a=not whole)
                toward, along = points[:, 0], points[:, 1]
                kappa = (level - float(toward.dot(right[:, 1]))) / float(along.dot(right[:, 1]))
                point = toward + kappa * along
            if failed:
                return Outcome(x, Status.INACCURATE, iterations)
            if point[point.argmin()] >= 0:
                x[free] = point
                break
            free = free[point > 0]
        slack = gramian.dot(x) + linear
        error = absolute.dot(x) + terms
        if normal is not None:
            slack -= kappa * normal
            error += float(x.dot(error)) / level * normal
        slack += rounding(size) * error
        if slack[slack.argmin()] < 0:
            unmet = slack < 0
            unmet[free] = False
            if unmet.any():
                free = (unmet | (x > 0)).nonzero()[0]
                continue
        if normal is None and len(free):
            pivots = factor.diagonal()
            if _least(pivots * pivots / (gramian.diagonal() if whole else gramian.diagonal()[free])) < _CURVATURE:
                return Outcome(x, Status.INACCURATE, iterations)
        return Outcome(x, Status.OPTIMAL, iterations)


def _least(values: Array) -> float:
    """Return the least of some values."""
    return float(values[values.argmin()])
