"""Block principal pivoting: fast on the well-conditioned problems that most are, and silent on the others.

In: a problem on the orthant or the simplex. Out: its minimiser, or "inaccurate". May import: solvers.problem.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dasum, daxpy, ddot, dscal
from scipy.linalg.lapack import dposv, dpotri

from mgrad.solvers.problem import SINE, Array, Outcome, Region, Status, least, rounding, slacks

Free = NDArray[np.intp] | None
"""The places of the free variables; None stands for all."""

_SYSTEMS = 12  # that are solved before the problem is left to the active-set method


def solve_pivoting(region: Region, max_iterations: int) -> Outcome:
    """Minimise ½xᵀGx + qᵀx over x ≥ 0 and, on the simplex, Σ xᵢ = 1, by exchanging many variables at a time.

    Free variables whose minimiser is negative leave, until none is; then all variables whose slack is negative beyond
    rounding become free. Nothing guarantees that this ends, and dependent rows are not its business: after a few
    systems, or where the free rows are all but dependent, the outcome is INACCURATE.

    Args:
        region: the orthant or the simplex.
        max_iterations: cap on the systems solved.

    Returns:
        x [m] ≥ 0 with its slacks; OPTIMAL or INACCURATE; the number of systems solved.

    Cost: O(k³) for each system, with k free variables; commonly 1 to 4 systems.
    Source: Portugal, Júdice & Vicente 1994; Kim & Park 2011. Goldfarb & Idnani 1983 for the steepest edge.
    """
    gramian, linear, lengths, simplex, _, start = region
    size = len(linear)
    if not simplex and least(linear) >= 0:
        x = np.zeros(size)
        return Outcome(x, Status.OPTIMAL, 0, slacks(gramian, linear, x, x))
    free: Free
    if start is None or not dasum(start):
        free, whole = _first_guess(region), False  # whole: whether all have been free together
    else:
        free, whole = start.nonzero()[0], True  # a start is trusted more
    iterations = 0
    while True:
        if not whole and free is not None and 2 * len(free) + (not simplex) > size:
            # Where half are free, all may be: that is the cheapest to see, and little leaves if it is wrong.
            free, whole = None, True
        if iterations == min(_SYSTEMS, max_iterations):
            return Outcome(np.zeros(size), Status.INACCURATE, iterations)
        iterations += 1
        factor, point, kappa = _minimiser(gramian, linear, simplex, free)
        if factor is None:
            return Outcome(np.zeros(size), Status.INACCURATE, iterations)
        if least(point) < 0:
            free = _without_negative(free, point, factor, region)
            continue
        if free is None:
            x = point
            known = slacks(gramian, linear, x, x)
        else:
            x = np.zeros(size)
            x[free] = point
            known = slacks(gramian, linear, x, x)
            _, sizes, highest = known
            if simplex:
                highest = highest + (rounding(size) * ddot(x, sizes) - kappa)
            if least(highest) < 0:
                falling = np.signbit(highest)
                falling[free] = False
                if np.count_nonzero(falling):
                    falling[free] = True
                    free = falling.nonzero()[0]
                    continue
            lengths = lengths[free]
        if not simplex and least(factor.diagonal() / lengths) < SINE:
            return Outcome(x, Status.INACCURATE, iterations)
        return Outcome(x, Status.OPTIMAL, iterations, known)


def _first_guess(region: Region) -> NDArray[np.intp]:
    """Return the variable that is best alone, and those that would lower the objective beside it."""
    gramian, linear, lengths, simplex, *_ = region
    size = len(linear)
    if simplex:
        best = int(daxpy(linear, gramian.diagonal().copy(), size, 2.0).argmin())
        slope = gramian[best] + linear
        falling: NDArray[np.bool_] = slope <= slope.item(best)
        return falling.nonzero()[0]
    falling = np.signbit(linear)
    if 2 * np.count_nonzero(falling) < size:
        best = int((linear / lengths).argmin())
        alone = -linear.item(best) / gramian.item(best, best)
        falling = np.signbit(daxpy(gramian[best], linear.copy(), size, alone))
        falling[best] = True
    return falling.nonzero()[0]


def _minimiser(gramian: Array, linear: Array, simplex: bool, free: Free) -> tuple[Array | None, Array, float]:
    """Return the factor of the free rows' system (None if it has none), their minimiser, and κ of the sum."""
    if free is None:
        block = gramian.T
    else:
        block, linear = gramian.take(free, 0).take(free, 1).T, linear[free]
    if not simplex:
        factor, point, failed = dposv(block, linear)
        return None if failed else factor, dscal(-1.0, point), 0.0
    ones = _ones(len(linear))
    common = linear.item(0)  # a part of q that all share has no influence, and might be all there is
    if common:
        linear = linear - common
    if not dasum(linear):
        factor, point, failed = dposv(block, ones)
        kappa = 1 / (ddot(point, ones) or np.inf)
        return None if failed else factor, dscal(kappa, point), kappa + common
    factor, points, failed = dposv(block, np.array((-linear, ones)).T)
    origin, slope = points.T
    kappa = (1 - ddot(origin, ones)) / (ddot(slope, ones) or np.inf)
    return None if failed else factor, origin + kappa * slope, kappa + common


@cache
def _ones(size: int) -> Array:
    """Return a vector of ones, which takes longer to make than to keep."""
    return np.ones(size)


def _without_negative(free: Free, point: Array, factor: Array, region: Region) -> NDArray[np.intp]:
    """Return the free variables without the negative ones; or, where most are negative on the orthant, a better set."""
    negative = np.signbit(point)
    size = len(region.linear)
    crowded = not region.simplex and 2 * np.count_nonzero(negative) > len(point)
    if crowded and free is None:
        # Only the one whose bound is furthest broken, in the metric of G: without it the others may well be right.
        leaving = (point / np.sqrt(dpotri(factor)[0].diagonal())).argmin()
        negative[:] = False
        negative[leaving] = True
    left = (~negative).nonzero()[0]
    if not len(left) or (crowded and free is not None and len(free) == size - 1):
        return _first_guess(region)
    return left if free is None else free[left]
