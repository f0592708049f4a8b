"""Primal active-set method for the small quadratic programmes: exact to rounding, without a ridge.

In: a quadratic term of unit diagonal, a linear term and, for the simplex, the normal of its hyperplane.
Out: the minimiser, how the solve ended, the iterations. May import: solvers.problem.
"""

import numpy as np
from scipy.linalg import lapack

from mgrad.solvers.problem import Array, Status, rounding


def solve_active_set(
    quadratic: Array, linear: Array, normal: Array | None, max_iterations: int, linear_error: Array | float = 0.0
) -> tuple[Array, Status, int]:
    """Minimise ½yᵀCy + qᵀy over y ≥ 0 and, with a normal v > 0, vᵀy = 1 (math.md, 18-21).

    Like Lawson & Hanson's NNLS, but on the Gramian, for any q, and with the equality. A variable is freed when its
    slack is negative beyond rounding; then the minimiser on the free variables is approached as far as y ≥ 0 allows.
    The free columns stay linearly independent (on the simplex affinely, as in Wolfe's corrals): a column that depends
    on them moves along the null direction until one of them leaves, so that a singular C needs no ridge.

    Args:
        quadratic: C [m, m], positive semi-definite to rounding; its diagonal entries are 1, or 0 where v is 1.
        linear: q [m].
        normal: v [m] in (0, 1], or None for the orthant alone.
        max_iterations: cap on the number of variables freed.
        linear_error: [m] ≥ 0, how far q may be off besides the rounding of its own digits: what falls for ever within
            this error alone does not count as unbounded.

    Returns:
        y [m]; OPTIMAL, UNBOUNDED (only without a normal: y is then the last point reached) or ITERATION_LIMIT;
        the number of variables freed.

    Cost: O(k³) for each variable freed, with k free variables.
    Source: Lawson & Hanson 1974, ch. 23; Wolfe 1976.
    """
    size = len(linear)
    y, free = np.zeros(size), list[int]()
    if normal is not None:
        vertex = int(np.argmin(0.5 * np.diagonal(quadratic) / normal**2 + linear / normal))
        y[vertex], free = 1 / normal[vertex], [vertex]
    resting = np.zeros(size, dtype=bool)  # freed without progress: rounding, not descent
    seen = {frozenset(free)}

    for iteration in range(max_iterations):
        slack, error = _slack(quadratic, linear, normal, y)
        falling = (slack < -error) & ~resting
        falling[free] = False
        if not falling.any():
            return y, Status.OPTIMAL, iteration
        entering = int(np.argmin(np.where(falling, slack, np.inf)))

        start, followed = y, False
        while (null := _null_direction(quadratic, normal, free, entering)) is not None:
            y, leaving = _follow(y, null)
            if leaving is None:
                break
            free, followed = [i for i in free if i != leaving], True
        if null is not None:
            if normal is None and _falls_for_ever(quadratic, linear, slack, error + linear_error, start, null):
                return y, Status.UNBOUNDED, iteration
            resting[entering] = True
            continue
        free = [*free, entering]
        y, free = _descend(quadratic, linear, normal, y, free)

        move = y - start
        progress = followed or -(slack @ move + 0.5 * move @ quadratic @ move) > 0
        if progress and frozenset(free) not in seen:
            resting[:] = False
            seen.add(frozenset(free))
        else:
            resting[entering] = True
    return y, Status.ITERATION_LIMIT, max_iterations


def _slack(quadratic: Array, linear: Array, normal: Array | None, y: Array) -> tuple[Array, Array]:
    """Return the slacks Cy + q − κv [m] and their rounding errors [m]."""
    slack = quadratic @ y + linear
    error = rounding(len(y)) * (np.abs(quadratic) @ y + np.abs(linear))
    if normal is not None:
        # κ as the mean under y, as in the certificate: it is known to the rounding error of the objective.
        share = y / float(normal @ y)
        slack = slack - float(share @ slack) * normal
        error = error + float(share @ error) * normal
    return slack, error


def _system(quadratic: Array, normal: Array | None, columns: list[int]) -> tuple[Array, Array]:
    """Return C + vvᵀ on some columns [k, k] and v [k], v scaled to the largest entry 1 (0 on the orthant).

    On the hyperplane vvᵀ adds a constant to the objective; it makes the matrix of affinely independent columns
    positive definite.
    """
    block = quadratic[np.ix_(columns, columns)]
    if normal is None:
        return block, np.zeros(len(columns))
    v = normal[columns] / normal[columns].max()
    return block + np.outer(v, v), v


def _null_direction(quadratic: Array, normal: Array | None, free: list[int], entering: int) -> Array | None:
    """Return a direction [m], 1 at `entering`, 0 outside of it and `free`, of no curvature to rounding, if any.

    Of all such directions (within the hyperplane, if there is one) it is that of the least curvature.
    """
    system, v = _system(quadratic, normal, [*free, entering])
    sizes = np.abs(system)
    null = np.ones(len(system))
    floor = np.zeros(len(system))
    if free:
        factor, failed = lapack.dpotrf(system[:-1, :-1], lower=1)
        if failed:
            return None
        null[:-1] = -lapack.dpotrs(factor, system[:-1, -1], lower=1)[0]
        if normal is not None:
            along = lapack.dpotrs(factor, v[:-1], lower=1)[0]
            null[:-1] -= (v @ null) / (v[:-1] @ along) * along
        inverse = lapack.dpotrs(factor, np.eye(len(free)), lower=1)[0]
        floor[:-1] = np.abs(inverse) @ (sizes[:-1] @ np.abs(null))
    if null @ system @ null > rounding(len(quadratic)) * (np.abs(null) @ sizes @ np.abs(null)):
        return None
    if normal is None:
        # Entries below their own rounding error would hide that nothing ends the step.
        null[np.abs(null) <= rounding(len(quadratic)) * floor] = 0.0
    direction = np.zeros(len(quadratic))
    direction[[*free, entering]] = null
    return direction


def _follow(y: Array, direction: Array) -> tuple[Array, int | None]:
    """Go along `direction` until a variable reaches 0 and return it; None, and no step, if none falls."""
    falling = np.flatnonzero(direction < 0)
    if not len(falling):
        return y, None
    steps = -y[falling] / direction[falling]
    leaving = int(falling[np.argmin(steps)])
    y = np.maximum(y + steps.min() * direction, 0.0)
    y[leaving] = 0.0
    return y, leaving


def _falls_for_ever(quadratic: Array, linear: Array, slack: Array, error: Array, y: Array, direction: Array) -> bool:
    """Tell if a null direction that nothing ends gains more than rounding: slope²/2γ, γ the error of its curvature."""
    size = np.abs(direction)
    curvature = rounding(len(y)) * float(size @ np.abs(quadratic) @ size)
    magnitude = float(y @ (np.abs(quadratic) @ y + np.abs(linear)))
    slope = float(slack @ direction + error @ size)  # as flat as the errors of the slacks allow
    return slope < 0 and slope**2 > 2 * curvature * rounding(len(y)) * magnitude


def _descend(
    quadratic: Array, linear: Array, normal: Array | None, y: Array, free: list[int]
) -> tuple[Array, list[int]]:
    """Go to the minimiser on the free variables; those that reach 0 on the way leave."""
    while free:
        target = _minimiser(quadratic, linear, normal, free)
        if target is None:
            # Dependent to rounding, where no null direction was seen: the newest column is given up.
            free = free[:-1]
            continue
        blocked = target <= 0
        current = np.zeros_like(y)
        if not blocked.any():
            current[free] = target
            return current, free
        steps = y[free][blocked] / (y[free][blocked] - target[blocked])
        moved = y[free] + steps.min() * (target - y[free])
        moved[np.flatnonzero(blocked)[steps == steps.min()]] = 0.0
        current[free] = np.maximum(moved, 0.0)
        y, free = current, [i for i in free if current[i] > 0]
    return np.zeros_like(y), free


def _minimiser(quadratic: Array, linear: Array, normal: Array | None, free: list[int]) -> Array | None:
    """Minimise over the free variables [k], on the hyperplane if there is one, with one step of refinement."""
    system, v = _system(quadratic, normal, free)
    factor, failed = lapack.dpotrf(system, lower=1)
    if failed:
        return None
    along = lapack.dpotrs(factor, v, lower=1)[0]
    block = quadratic[np.ix_(free, free)]  # without vvᵀ, whose terms would swamp the residual of small variables
    point, level = np.zeros(len(free)), 0.0
    for _ in range(2):
        change = lapack.dpotrs(factor, level * v - linear[free] - block @ point, lower=1)[0]
        if normal is not None:
            missing = 1 / normal[free].max() - v @ point
            shift = (missing - v @ change) / (v @ along)
            change, level = change + shift * along, level + shift - missing
        point = point + change
    return point
