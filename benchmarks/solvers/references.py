"""Independent answers to the instances of the stress run. Whatever they are, a point of the domain bounds the minimum.

In: an `Instance`. Out: points of its domain. May import: instances, numpy, scipy; daqp and quadprog where installed.
"""

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import chain, combinations
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import linprog, nnls

from benchmarks.solvers.instances import Instance
from mgrad.solvers import Array

ENUMERATED = 6  # rows at most, whose 64 subsets are all tried


class Scaled(NamedTuple):
    """The problem in variables y = x·nᵢ/unit that make it easy: unit diagonal, linear terms of size 1.

    Attributes:
        quadratic: C [m, m].
        linear: [m].
        normal: [m] of the hyperplane or of the bound.
        level: of it; None where there is neither.
        equality: whether it is a hyperplane.
        back: x/y [m].
    """

    quadratic: Array
    linear: Array
    normal: Array
    level: float | None
    equality: bool
    back: Array


def answers(instance: Instance) -> Iterator[tuple[str, Array | str]]:
    """Yield the name of each reference with its answer, moved into the domain; or with the reason why there is none."""
    scaled = _scale(instance)
    for name, (package, solver) in REFERENCES.items():
        if find_spec(package) is None or (solver is _subsets and instance.size > ENUMERATED):
            continue
        try:
            y = solver(scaled)
        except Exception as error:  # whatever it is, it is the result
            yield name, re.sub(r"^\d+-th", "a", str(error)) or type(error).__name__
        else:
            if y is not None:
                with np.errstate(all="ignore"):
                    x = instance.inside(y * scaled.back)
                yield name, x if np.isfinite(x).all() else "not finite"


def ray_or_room(instance: Instance) -> str:
    """Ask two linear programmes about a minimum over x ≥ 0 that is said to be unbounded.

    Returns:
        "room" if some direction d of moderate length meets J d ≥ −q with something to spare: then the minimum is
        finite, and no rounding of G makes it otherwise. "ray" if some x ≥ 0 has Jᵀx = 0 and qᵀx < 0, to the tolerance
        of the programme: then it is not. "undecided" if neither is seen.
    """
    lengths = np.where(instance.lengths > 0, instance.lengths, 1.0)
    rows, slope = instance.rows / lengths[:, None], instance.linear / lengths
    slope = slope / (np.abs(slope).max() or 1.0)
    n = rows.shape[1]
    room = linprog(
        np.append(np.zeros(n), -1.0),
        A_ub=np.hstack([-rows, np.ones((len(rows), 1))]),
        b_ub=slope,
        bounds=[(-1e2, 1e2)] * n + [(None, 1.0)],
    )
    if room.x is not None:
        d = room.x[:-1]
        if (rows @ d + slope).min() > 1e-3:
            return "room"
    ray = linprog(slope, A_eq=rows.T, b_eq=np.zeros(n), bounds=(0, 1))
    return "ray" if ray.fun is not None and ray.fun < -1e-6 else "undecided"


def _scale(instance: Instance) -> Scaled:
    norms = instance.lengths
    shortest = float(norms[norms > 0].min(initial=np.inf))
    simplex = instance.domain == "simplex"
    unit = shortest if simplex and np.isfinite(shortest) else 1.0
    lengths = np.where(norms > 0, norms, unit)
    size = 1.0 if simplex else instance.natural_length
    back = unit * size / lengths
    quadratic = instance.gramian / lengths / lengths[:, None]
    linear = instance.linear / lengths / (unit * size)
    if simplex:
        return Scaled(quadratic, linear, unit / lengths, 1.0, True, back)
    level = None if instance.bound is None else instance.bound / size
    return Scaled(quadratic, linear, (norms > 0).astype(np.float64), level, False, back)


def _subsets(problem: Scaled) -> Array | None:
    """Try every set of free variables, with and without the bound binding, and return the best point that is found."""
    m = len(problem.linear)
    best: Array | None = None
    lowest = np.inf
    for free in chain.from_iterable(combinations(range(m), k) for k in range(m + 1)):
        for on_face in (True,) if problem.equality else (False,) if problem.level is None else (False, True):
            y = _stationary_point(problem, list(free), on_face)
            value = float(0.5 * y @ problem.quadratic @ y + problem.linear @ y)
            if (y >= 0).all() and value < lowest and _keeps_level(problem, y):
                best, lowest = y, value
    return best


def _stationary_point(problem: Scaled, free: list[int], on_face: bool) -> Array:
    """Return the least-squares solution of the conditions for a minimum on some variables, the others 0."""
    k = len(free)
    system, right = problem.quadratic[np.ix_(free, free)], -problem.linear[free]
    if on_face:
        v = problem.normal[free]
        system = np.block([[system, v[:, None]], [v, np.zeros((1, 1))]])
        right = np.append(right, problem.level or 0.0)
    y = np.zeros(len(problem.linear))
    y[free] = np.linalg.lstsq(system, right)[0][:k]
    return y


def _keeps_level(problem: Scaled, y: Array) -> bool:
    """Tell whether y keeps the bound or the hyperplane well enough to be moved onto it."""
    if problem.level is None:
        return True
    above = float(problem.normal @ y) - problem.level
    return abs(above) <= 1e-9 * problem.level if problem.equality else above <= 1e-9 * problem.level


def _daqp(problem: Scaled) -> Array:
    import daqp

    m, rows = len(problem.linear), problem.level is not None
    upper = np.append(np.full(m, 1e30), [problem.level] if rows else [])
    lower = np.append(np.zeros(m), [problem.level if problem.equality else -1e30] if rows else [])
    sense = np.append(np.zeros(m), [5 if problem.equality else 0] if rows else []).astype(np.int32)
    A = np.ascontiguousarray(problem.normal[None, :]) if rows else np.zeros((0, m))
    y, _, flag, _ = daqp.solve(np.ascontiguousarray(problem.quadratic), problem.linear, A, upper, lower, sense)
    if flag != 1:
        raise RuntimeError(f"exit flag {flag}")
    return np.asarray(y)


def _quadprog(problem: Scaled) -> Array:
    import quadprog

    m = len(problem.linear)
    C, b = np.eye(m), np.zeros(m)
    if problem.level is not None:
        sign = 1.0 if problem.equality else -1.0
        C, b = np.column_stack([sign * problem.normal, C]), np.append(sign * problem.level, b)
    y = quadprog.solve_qp(problem.quadratic, -problem.linear, C, b, int(problem.equality))[0]
    return np.asarray(y)


def _nnls(problem: Scaled) -> Array | None:
    """Solve the problems without a level, and min-norm on the simplex, as least squares."""
    C, q = problem.quadratic, problem.linear
    if problem.equality and not q.any():
        C, q = C + np.outer(problem.normal, problem.normal), -problem.normal
    elif problem.level is not None:
        return None
    factor = cholesky(C, lower=True)
    return np.asarray(nnls(factor.T, -solve_triangular(factor, q, lower=True))[0])


REFERENCES: dict[str, tuple[str, Callable[[Any], Array | None]]] = {
    "all subsets (m ≤ 6)": ("numpy", _subsets),
    "DAQP": ("daqp", _daqp),
    "quadprog": ("quadprog", _quadprog),
    "SciPy nnls": ("scipy", _nnls),
}
