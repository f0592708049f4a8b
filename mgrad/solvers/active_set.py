"""Primal active-set method: slow, and right on Gramians of any rank and any scale.

In: a problem on the orthant or the simplex. Out: the minimiser, how the solve ended, the iterations.
May import: solvers.problem.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from mgrad.solvers.problem import Array, Outcome, Problem, Status, rounding

_WELL_DEFINED = 2.0**-32  # share of every variable that a ridge may change and still be of no account


def solve_active_set(problem: Problem, _start: Array | None, max_iterations: int) -> Outcome:
    """Minimise ½xᵀGx + qᵀx over x ≥ 0 and, on the simplex, Σ xᵢ = 1 (math.md, 17-21).

    Like Lawson & Hanson's NNLS, but on the Gramian, for any q, and with the equality. What is minimised has C + ρI in
    place of the Gramian C of unit diagonal, with ρ below the rounding error of C's own products: strictly convex in
    floating point too, so that dependent rows need no case of their own. Where the answer shows that ρ is of no
    account, its effect is removed; where ρ decides, the answer tells a ray from a rounding error.

    Args:
        problem: on the orthant or the simplex; a bound is left out. What falls for ever within the error of its q
            alone does not count as unbounded.
        max_iterations: cap on the systems solved.

    Returns:
        x [m] ≥ 0; OPTIMAL, UNBOUNDED (only on the orthant: x is then far down a ray) or ITERATION_LIMIT; the number
        of systems solved; None.

    Cost: O(k³) for each system, with k free variables.
    Source: Lawson & Hanson 1974, ch. 23, with the proximal term of Rockafellar 1976 at the size of rounding errors.
    """
    gramian, linear, lengths, _, domain, _, error = problem
    unit = float(lengths.min()) if domain == "simplex" else 1.0
    v = unit / lengths if domain == "simplex" else None
    scaled = linear / lengths / unit
    ridge = rounding(len(linear)) / 2
    system = gramian / lengths / lengths[:, None]
    np.fill_diagonal(system, 1 + ridge)

    y, corral, status, iterations = _descend(system, scaled, v, max_iterations)
    if corral is not None and v is None:
        free = corral.free
        removed = ridge * corral.solve(y[free])  # what the ridge has kept y from
        if (np.abs(removed) <= _WELL_DEFINED * y[free]).all():
            y[free] += removed
        elif _is_ray(system, free, removed):
            # Its slope is taken as flat as the errors of q allow. Where it may be 0, none of it is needed.
            allowed = rounding(len(y)) * np.abs(scaled) + (0.0 if error is None else error / lengths)
            if float((scaled + allowed)[free] @ removed) < 0:
                status = Status.UNBOUNDED
            else:
                y = _retreat(system, scaled, y, free, removed)
    return unit * y / lengths, status, iterations, None


class _Corral(NamedTuple):
    """The free variables [k], a basis of their directions [k, k or k − 1] and the system's factor in that basis."""

    free: NDArray[np.intp]
    basis: Array
    factor: Array

    def solve(self, slope: Array) -> Array:
        """Return the direction [k] of the face whose curvature is `slope` [k]."""
        return np.asarray(self.basis @ lapack.dpotrs(self.factor, self.basis.T @ slope, lower=1)[0])


def _descend(
    system: Array, linear: Array, normal: Array | None, max_iterations: int
) -> tuple[Array, _Corral | None, Status, int]:
    """Return y, the corral whose minimiser it is (None at the start), how it ended, and after how many systems."""
    # The variable of the most negative slack is freed and the minimiser on the free ones sought, until no slack is
    # negative. One that brings nothing but rounding, so that the free variables have been the same before, rests until
    # another brings progress.
    y, corral = np.zeros(len(linear)), None
    if normal is not None:
        vertex = int(np.argmin(0.5 * np.diagonal(system) / normal**2 + linear / normal))
        y[vertex] = 1 / normal[vertex]
    magnitudes = np.abs(system)
    resting = np.zeros(len(y), dtype=bool)
    seen = {(y > 0).tobytes()}
    iterations = 0
    while True:
        slack, error = _slack(system, magnitudes, linear, normal, y)
        falling = (slack < -error) & ~resting & (y == 0)
        if not falling.any():
            return y, corral, Status.OPTIMAL, iterations
        entering = int(np.argmin(np.where(falling, slack, np.inf)))
        point, free = y, y > 0
        free[entering] = True
        while True:
            if iterations == max_iterations:
                return y, corral, Status.ITERATION_LIMIT, iterations
            iterations += 1
            found = _minimiser(system, linear, normal, free.nonzero()[0])
            if found is None:  # not positive semi-definite to rounding: nothing can be said of this face
                break
            target, reached = found
            blocked = (target <= 0) & free
            if not blocked.any():
                break
            steps = point[blocked] / (point[blocked] - target[blocked])
            point = np.maximum(point + steps.min() * (target - point), 0.0)
            point[blocked.nonzero()[0][steps == steps.min()]] = 0.0
            free = point > 0
        if found is None or free.tobytes() in seen:
            resting[entering] = True
        else:
            seen.add(free.tobytes())
            resting[:] = False
            y, corral = target, reached


def _slack(system: Array, magnitudes: Array, linear: Array, normal: Array | None, y: Array) -> tuple[Array, Array]:
    """Return the slacks [m] of y and their rounding errors [m]."""
    slack = system @ y + linear
    # Half of what the certificate takes for rounding: what is left alone here must be nothing there.
    error = rounding(len(y)) / 2 * (magnitudes @ y + np.abs(linear))
    if normal is not None:
        # κ as the mean under y, as in the certificate: it is known to the rounding error of the objective.
        share = y / float(normal @ y)
        slack = slack - float(share @ slack) * normal
        error = error + float(share @ error) * normal
    return slack, error


def _minimiser(
    system: Array, linear: Array, normal: Array | None, free: NDArray[np.intp]
) -> tuple[Array, _Corral] | None:
    """Return the minimiser [m] over the free variables, on the hyperplane if any; None where nothing is definite."""
    # On the hyperplane the variable of the largest normal is written in terms of the others, which keeps the sum to
    # rounding whatever the lengths of the rows. One refinement makes small variables as accurate as large ones.
    size = len(free)
    basis, origin = np.eye(size), np.zeros(size)
    if normal is not None:
        v = normal[free]
        reference = int(v.argmax())
        origin[reference] = 1 / v[reference]
        basis[reference] = -v / v[reference]
        basis = np.delete(basis, reference, axis=1)
    block = system[np.ix_(free, free)]
    factor, failed = lapack.dpotrf(basis.T @ block @ basis, lower=1) if basis.size else (basis, 0)
    if failed:
        return None
    inside, point = np.zeros(basis.shape[1]), origin
    for _ in range(2 if basis.size else 0):
        inside = inside - lapack.dpotrs(factor, basis.T @ (block @ point + linear[free]), lower=1)[0]
        point = origin + basis @ inside
    target = np.zeros(len(linear))
    target[free] = point
    return target, _Corral(free, basis, factor)


def _is_ray(system: Array, free: NDArray[np.intp], direction: Array) -> bool:
    """Tell if a direction [k] stays in the orthant and has no curvature, to rounding."""
    if direction.min() < -(2.0**-10) * direction.max():
        return False
    block = system[np.ix_(free, free)]
    size = np.abs(direction)
    return bool(direction @ block @ direction <= 2 * rounding(len(system)) * (size @ np.abs(block) @ size))


def _retreat(system: Array, linear: Array, y: Array, free: NDArray[np.intp], ray: Array) -> Array:
    """Go back along a ray until a variable reaches 0, and to the minimiser on those that are left."""
    rising = ray > 0
    y = y.copy()
    y[free] -= (y[free][rising] / ray[rising]).min() * ray
    left = (y > rounding(len(y)) * y.max()).nonzero()[0]
    found = _minimiser(system, linear, None, left)
    return np.maximum(y, 0.0) if found is None or found[0].min() < 0 else found[0]
