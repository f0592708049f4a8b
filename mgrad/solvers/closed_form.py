"""Up to three rows, in closed form: on plain numbers, of which so few take less time than one call of numpy.

In: a problem on the orthant or the simplex, m ≤ 3. Out: its minimiser, or "inaccurate". May import: solvers.problem.
"""

import numpy as np

from mgrad.solvers.problem import OPTIMAL, SURE, Array, Outcome, Problem, Status

LARGEST = 3  # m

Vector = list[float]
Matrix = list[Vector]
_OTHERS = ((1, 2), (0, 2), (0, 1))


def solve_closed_form(problem: Problem, _start: Array | None, max_iterations: int) -> Outcome:
    """Minimise ½xᵀGx + qᵀx over x ≥ 0 and, on the simplex, Σ xᵢ = 1, for m ≤ 3.

    If the minimiser without x ≥ 0 has negative entries, one of these is 0 at the answer: else the segment from it to
    that minimiser would lead downhill. So it is the best of those of the smaller problems without such a variable.
    Where rows are all but dependent the outcome is INACCURATE.

    Args:
        problem: on the orthant or the simplex; a bound is left out.
        max_iterations: 0, or more.

    Returns:
        x [m] ≥ 0; OPTIMAL or INACCURATE; 1 iteration, or 0 if no more is allowed or nothing lowers the objective;
        None.

    Cost: at most four systems, of three unknowns or two.
    """
    G, q = problem.gramian.tolist(), problem.linear.tolist()
    simplex = problem.domain == "simplex"
    if not simplex and min(q) >= 0:
        return np.zeros(len(q)), OPTIMAL, 0, None
    if max_iterations < 1:
        return np.zeros(len(q)), Status.INACCURATE, 0, None
    x = _on_simplex(G, q) if simplex else _on_orthant(G, q)
    if x is None:
        return np.zeros(len(q)), Status.INACCURATE, 1, None
    return np.array(x), OPTIMAL, 1, None


def _on_orthant(G: Matrix, q: Vector) -> Vector | None:
    """Return the minimiser over x ≥ 0 for some qᵢ < 0; None where rows are all but dependent."""
    if len(q) == 1:
        return [-q[0] / G[0][0]]
    if len(q) == 2:
        return _pair_on_orthant(G, q, 0, 1)
    factor = _factor(G)
    if factor is None:
        return None
    x = _solved(factor, [-q[0], -q[1], -q[2]])
    if min(x) >= 0:
        return x
    pairs = [_pair_on_orthant(G, q, *_OTHERS[i]) for i in (0, 1, 2) if x[i] < 0]
    # Where such a minimiser is, the objective is ½qᵀx. Next to dependent rows rounding may leave none.
    found = [pair for pair in pairs if pair is not None]
    return min(found, key=lambda x: q[0] * x[0] + q[1] * x[1] + q[2] * x[2], default=None)


def _pair_on_orthant(G: Matrix, q: Vector, i: int, j: int) -> Vector | None:
    """Return the minimiser over xᵢ, xⱼ ≥ 0, the others being 0."""
    a, b, c, p, r = G[i][i], G[j][i], G[j][j], q[i], q[j]
    share = b / a
    rest = c - share * b
    if rest <= SURE * c:  # also where both are 0: of the smallest numbers there are, squares underflow
        return None
    second = (share * p - r) / rest
    first = -p / a - share * second
    if first < 0 or second < 0:
        first, second = max(-p / a, 0.0), max(-r / c, 0.0)
        if p * first < r * second:
            second = 0.0
        else:
            first = 0.0
    x = [0.0] * len(q)
    x[i], x[j] = first, second
    return x


def _on_simplex(G: Matrix, q: Vector) -> Vector | None:
    """Return the minimiser on the simplex; None where rows are all but dependent."""
    if len(q) == 1:
        return [1.0]
    if len(q) == 2:
        return _pair_on_simplex(G, q, 0, 1)[1]
    factor = _factor(G)
    if factor is None:
        return None
    # What all of q share has no influence, and might be all there is.
    origin, slope = _solved(factor, [0.0, q[0] - q[1], q[0] - q[2]]), _solved(factor, [1.0, 1.0, 1.0])
    kappa = (1 - sum(origin)) / sum(slope)
    x = [origin[0] + kappa * slope[0], origin[1] + kappa * slope[1], origin[2] + kappa * slope[2]]
    if min(x) >= 0:
        return x
    return min(_pair_on_simplex(G, q, *_OTHERS[i]) for i in (0, 1, 2) if x[i] < 0)[1]


def _pair_on_simplex(G: Matrix, q: Vector, i: int, j: int) -> tuple[float, Vector]:
    """Return the least objective where xᵢ + xⱼ = 1, the others being 0, and its x."""
    a, b, c, p, r = G[i][i], G[j][i], G[j][j], q[i], q[j]
    first, second = max(c - b + r - p, 0.0), max(a - b + p - r, 0.0)  # times the curvature, which is their sum
    total = first + second
    first, second = (first / total, second / total) if total > 0 else (0.0, 1.0)
    x = [0.0] * len(q)
    x[i], x[j] = first, second
    return first * (0.5 * a * first + b * second + p) + second * (0.5 * c * second + r), x


def _factor(G: Matrix) -> tuple[float, ...] | None:
    """Return L and D of G = L D Lᵀ, of three rows; None where they are all but dependent."""
    (a, *_), (b, d, _), (c, e, f) = G
    lower, last = b / a, c / a
    second = d - lower * b
    if second <= SURE * d:
        return None
    middle = (e - last * b) / second
    third = f - last * c - middle * middle * second
    if third <= SURE * f:
        return None
    return a, second, third, lower, last, middle


def _solved(factor: tuple[float, ...], right: Vector) -> Vector:
    """Solve a system of three unknowns by its factor."""
    a, second, third, lower, last, middle = factor
    x, y, z = right
    y -= lower * x
    z = (z - last * x - middle * y) / third
    y = y / second - middle * z
    return [x / a - lower * y - last * z, y, z]
