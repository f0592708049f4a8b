"""Slow, obvious twins of what mgrad computes, each by another way. Fractions are exact: their answers have no error."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import chain, combinations

import numpy as np
import quadprog
from scipy.optimize import linprog

from mgrad.solvers import Array

Exact = list[Fraction]


def exact(values: Array) -> Exact:
    """Return a vector of floats as the rational numbers that they are."""
    return [Fraction(float(value)) for value in values]


def exact_matrix(values: Array) -> list[Exact]:
    """Return a matrix of floats as the rational numbers that they are."""
    return [exact(row) for row in values]


def dot(x: Sequence[Fraction], y: Sequence[Fraction]) -> Fraction:
    """Return xᵀy."""
    return sum((a * b for a, b in zip(x, y, strict=True)), start=Fraction(0))


def exact_gramian(J: Array) -> list[Exact]:
    """Return J Jᵀ without rounding."""
    rows = exact_matrix(J)
    return [[dot(x, y) for y in rows] for x in rows]


def exact_product(J: Array, p: Array) -> Exact:
    """Return J p without rounding."""
    return [dot(row, exact(p)) for row in exact_matrix(J)]


def exact_quadratic_programme(
    G: list[Exact], q: Exact, normal: Exact | None = None, level: Fraction = Fraction(1)
) -> Exact | None:
    """Minimise ½xᵀGx + qᵀx over x ≥ 0, and normalᵀx = level if given, by trying every set of free variables.

    A minimiser with independent free columns exists wherever there is a minimiser, so that sets with a singular system
    can be left out. None if there is no minimiser: the problem is unbounded.
    """
    m = len(q)
    for free in chain.from_iterable(combinations(range(m), size) for size in range(m + 1)):
        system = [[*(G[i][j] for j in free), *([-normal[i]] if normal else [])] for i in free]
        right = [-q[i] for i in free]
        if normal:
            system.append([*(normal[j] for j in free), Fraction(0)])
            right.append(level)
        solved = _solve(system, right)
        if solved is None:
            continue
        kappa = solved[-1] if normal else Fraction(0)
        x = [Fraction(0)] * m
        for i, value in zip(free, solved, strict=False):
            x[i] = value
        slack = [dot(G[i], x) + q[i] - (kappa * normal[i] if normal else 0) for i in range(m)]
        if min(x) >= 0 and min(slack) >= 0:
            return x
    return None


def exact_direction(J: Array, p: Array, b: Array) -> tuple[Exact, Exact] | None:
    """Return d and one λ of (1)-(2) without rounding, None where no direction is feasible."""
    c = exact_product(J, p)
    multipliers = exact_quadratic_programme(exact_gramian(J), [x - y for x, y in zip(c, exact(b), strict=True)])
    if multipliers is None:
        return None
    columns = zip(*exact_matrix(J), strict=True)
    return [x + dot(column, multipliers) for x, column in zip(exact(p), columns, strict=True)], multipliers


def exact_min_norm(J: Array) -> tuple[Fraction, Exact]:
    """Return δ of (7) and one of its coefficient vectors, without rounding."""
    G = exact_gramian(J)
    a = exact_quadratic_programme(G, [Fraction(0)] * len(G), [Fraction(1)] * len(G))
    assert a is not None, "the simplex is compact"
    return dot(a, [dot(row, a) for row in G]), a


def quadprog_direction(J: Array, p: Array, b: Array) -> Array | None:
    """Return d of (1) by the dual method of Goldfarb & Idnani on the primal problem itself, None where infeasible."""
    kept = np.abs(J).any(axis=1)
    if (b[~kept] > 0).any():
        return None
    if not kept.any():
        return p
    norms = np.linalg.norm(J[kept], axis=1)
    length = float(np.linalg.norm(p) + np.abs(b[kept] / norms).max()) or 1.0  # the method has absolute tolerances
    try:
        solved = quadprog.solve_qp(np.eye(len(p)), p / length, (J[kept] / norms[:, None]).T, b[kept] / norms / length)
    except ValueError as error:
        assert "inconsistent" in str(error)
        return None
    return length * np.asarray(solved[0], dtype=np.float64)


def weak_stationarity_residual(J: Array) -> float:
    """Return min ‖Jᵀa‖∞ over the simplex, by a linear programme: 0 exactly at weak stationarity."""
    return _shortest(J, least=0.0, total=1.0)


def strong_stationarity_residual(J: Array, *, least: float | None = None) -> float:
    """Return min ‖Jᵀμ‖∞ over μ ≥ least, by a linear programme: 0 exactly at strong stationarity.

    Where no least is given, it is 1 for the rows at length 1.
    """
    if least is not None:
        return _shortest(J, least=least)
    norms = np.linalg.norm(J, axis=1)
    return _shortest(J / np.where(norms > 0, norms, 1.0)[:, None], least=1.0)


def _shortest(J: Array, *, least: float, total: float | None = None) -> float:
    """Return min ‖Jᵀμ‖∞ over μ ≥ least, of the sum total if that is given."""
    scale = float(np.abs(J).max()) or 1.0  # the method has absolute tolerances
    m, n = J.shape
    ones = np.ones((n, 1))
    found = linprog(
        np.r_[np.zeros(m), 1.0],
        A_ub=np.block([[J.T / scale, -ones], [-J.T / scale, -ones]]),
        b_ub=np.zeros(2 * n),
        A_eq=None if total is None else np.r_[np.ones(m), 0.0][None],
        b_eq=None if total is None else [total],
        bounds=[(least, None)] * m + [(0, None)],
    )
    assert found.fun is not None, found.message
    return scale * float(found.fun)


def has_ray(J: Array, q: Array) -> bool:
    """Tell whether ½xᵀGx + qᵀx falls for ever over x ≥ 0: some x ≥ 0 has Jᵀx = 0 and qᵀx < 0 (a linear programme)."""
    norms = np.linalg.norm(J, axis=1)
    lengths = np.where(norms > 0, norms, 1.0)
    slope = q / lengths
    found = linprog(
        slope / (np.abs(slope).max() or 1.0), A_eq=(J / lengths[:, None]).T, b_eq=np.zeros(J.shape[1]), bounds=(0, 1)
    )
    assert found.fun is not None, found.message
    return bool(found.fun < -1e-6)


def _solve(matrix: list[Exact], right: Exact) -> Exact | None:
    """Solve a square system by elimination; None where it is singular."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for k in range(size):
        pivot = next((i for i in range(k, size) if rows[i][k]), None)
        if pivot is None:
            return None
        rows[k], rows[pivot] = rows[pivot], rows[k]
        for i in range(size):
            if i != k and rows[i][k]:
                factor = rows[i][k] / rows[k][k]
                rows[i] = [x - factor * y for x, y in zip(rows[i], rows[k], strict=True)]
    return [rows[i][size] / rows[i][i] for i in range(size)]
