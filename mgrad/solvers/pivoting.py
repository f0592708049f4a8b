"""Block principal pivoting: fast on the well-conditioned problems that most are, and silent on the others.

In: a problem on the orthant or the simplex. Out: its minimiser, or "inaccurate". May import: solvers.problem.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dasum, daxpy, ddot, dscal, dsymv
from scipy.linalg.lapack import dposv, dpotrs

from mgrad.solvers.problem import OPTIMAL, SURE, Array, Outcome, Problem, Status, least, rounding, slacks

Free = NDArray[np.intp] | None
"""The places of the free variables; None stands for all."""

_FEW = 16  # rows of which all are tried first on the simplex: their system costs no more than a guess
_SYSTEMS = 12  # that are solved before the problem is left to the active-set method


def solve_pivoting(problem: Problem, start: Array | None, max_iterations: int) -> Outcome:
    """Minimise ½xᵀGx + qᵀx over x ≥ 0 and, on the simplex, Σ xᵢ = 1, by exchanging many variables at a time.

    Free variables whose minimiser is negative leave, until none is; then all variables whose slack is negative beyond
    rounding become free. Nothing guarantees that this ends, and dependent rows are not its business: after a few
    systems, or where the free rows are all but dependent, the outcome is INACCURATE.

    Args:
        problem: on the orthant or the simplex; a bound is left out.
        start: [m] ≥ 0, whose positive entries are a first guess of those of the answer, or None.
        max_iterations: cap on the systems solved.

    Returns:
        x [m] ≥ 0; OPTIMAL or INACCURATE; the number of systems solved; the slacks of x.

    Cost: O(k³) for each system, with k free variables; commonly 1 to 4 systems.
    Source: Portugal, Júdice & Vicente 1994; Kim & Park 2011.
    """
    gramian, linear, _, _, domain, _, _ = problem
    size, simplex = len(linear), domain == "simplex"
    free: Free
    if start is not None and dasum(start):
        free, whole = start.nonzero()[0], True  # a start is trusted more
    elif size <= _FEW if simplex else _are_most(np.signbit(linear)):
        free, whole = None, True
    else:
        free, whole = _first_guess(problem), False  # whole: whether all have been free together
    iterations, most = 0, min(_SYSTEMS, max_iterations)
    while True:
        if free is not None and not len(free):
            x = np.zeros(size)
            return x, OPTIMAL, iterations, slacks(gramian, linear, x, x)
        if iterations == most:
            break
        iterations += 1
        if free is not None and not whole and 2 * len(free) + (not simplex) > size:
            # Where half are free, all may be: that is the cheapest to see, and little leaves if it is wrong.
            free, whole = None, True
        factor, point, kappa = _minimiser(gramian, linear, simplex, free)
        if factor is None:
            break
        lowest = least(point)
        if lowest < 0 and free is None and not simplex and iterations < most and _are_most(np.signbit(point)):
            iterations += 1
            free, x = _without_one(point, factor, problem)
            lowest = least(x)
            if lowest < 0:
                point = x[free]
        elif free is None:
            x = point
        else:
            x = np.zeros(size)
            x[free] = point
        if lowest < 0:
            free = _without_negative(free, point, problem)
            continue
        known = slacks(gramian, linear, x, x)
        _, sizes, highest, least_slack = known
        if free is not None:
            more = rounding(size) * ddot(x, sizes) - kappa if simplex else 0.0
            if least_slack + more < 0:
                falling = np.signbit(highest + more)
                falling[free] = False
                if np.count_nonzero(falling):
                    falling[free] = True
                    free = falling.nonzero()[0]
                    continue
        if not simplex and -ddot(linear, x) < SURE * ddot(x, sizes):
            break  # ‖Jᵀx‖² = −qᵀx is all but lost among its terms: x may be far down a ray that rounding has bent
        return x, OPTIMAL, iterations, known
    return np.zeros(size), Status.INACCURATE, iterations, None


def _first_guess(problem: Problem) -> NDArray[np.intp]:
    """Return the variable that is best alone, and those that would lower the objective beside it, if any does."""
    gramian, linear, lengths, _, domain, _, _ = problem
    size = len(linear)
    if domain == "simplex":
        best = int(daxpy(linear, gramian.diagonal().copy(), size, 2.0).argmin())
        slope = gramian[best] + linear
        falling: NDArray[np.bool_] = slope <= slope.item(best)
        return falling.nonzero()[0]
    falling = np.signbit(linear)
    if 0 < 2 * np.count_nonzero(falling) < size:
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


@cache
def _unit(size: int) -> Array:
    """Return the unit matrix, likewise."""
    return np.eye(size)


@cache
def _others(size: int) -> NDArray[np.intp]:
    """Return the places of all variables but one, for each of them: [size, size − 1]."""
    return np.array([[place for place in range(size) if place != one] for one in range(size)])


def _without_one(point: Array, factor: Array, problem: Problem) -> tuple[NDArray[np.intp], Array]:
    """Return all variables but one, and the minimiser [m] over them, from the one over all and its factor.

    Often some combination ν > 0 of the rows all but vanishes, and the point is −tν and a rest: the others may well be
    right without the variable of the least rest. G⁻¹n shows ν.
    """
    gramian, linear, lengths, *_ = problem
    size = len(linear)
    shares = dpotrs(factor, lengths)[0]
    one = int((point / shares if least(shares) > 0 else point * lengths).argmin())
    column = dpotrs(factor, _unit(size)[one])[0]
    x = daxpy(column, point, size, -point.item(one) / column.item(one))
    # What the two have cancelled has taken digits: one refinement brings them back.
    x[one] = 0.0
    slack = dsymv(1.0, gramian.T, x, 1.0, linear)
    slack[one] = 0.0
    change = dpotrs(factor, slack)[0]
    x = daxpy(column, daxpy(change, x, size, -1.0), size, change.item(one) / column.item(one))
    x[one] = 0.0
    return _others(size)[one], x


def _without_negative(free: Free, point: Array, problem: Problem) -> NDArray[np.intp]:
    """Return the free variables without the negative ones; or the first guess where that has little sense."""
    negative = np.signbit(point)
    left = (~negative).nonzero()[0]
    if not len(left):
        return _first_guess(problem)
    if free is None:
        return left
    if problem.domain == "nonnegative" and len(free) == len(problem.linear) - 1 and _are_most(negative):
        return _first_guess(problem)
    return free[left]


def _are_most(some: NDArray[np.bool_]) -> bool:
    """Tell if more than half are true."""
    return bool(2 * np.count_nonzero(some) > len(some))
