"""The certificate of an answer: how far multipliers are from solving their problem, in figures free of units.

In: a problem and its multipliers. Out: a `Certificate`. May import: solvers.problem.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mgrad.solvers.problem import Array, Problem, check_problem, rounding


class Certificate(NamedTuple):
    """How far an answer is from optimal, each figure relative to the sizes of its own terms (math.md, 22-25)."""

    duality_gap: float
    primal_residual: float
    dual_residual: float
    complementarity: float


def certify(
    gramian: ArrayLike,
    linear: ArrayLike | None,
    multipliers: ArrayLike,
    *,
    domain: str = "nonnegative",
    bound: float | None = None,
    linear_error: ArrayLike | None = None,
) -> Certificate:
    """Measure how far multipliers are from solving min ½xᵀGx + qᵀx (math.md, 22-25).

    Every figure is free of units: scaling the gradients changes none of them, and a perfect answer in float64
    arithmetic gives values of the order of m·2⁻⁵².

    Args:
        gramian: G [m, m].
        linear: q [m], None for 0.
        multipliers: the answer x [m] to be judged.
        domain: "nonnegative" or "simplex".
        bound: upper bound on Σ xᵢ√Gᵢᵢ, or None.
        linear_error: [m] ≥ 0, how far q may be off, None for the rounding of its own digits: a slack is not held to
            be negative within it.

    Returns:
        duality gap; primal residual (the largest violation of Gx + q ≥ 0, that is of J d ≥ b in (1), also where the
        bound permits it; on the simplex of Gx + q ≥ the mean xᵀ(Gx + q)); dual residual (violation of the domain by
        x); complementarity. All ≥ 0, 0 for a problem that is zero.

    Raises:
        ValueError: for the same inputs as `mgrad.solvers.solve`.

    Cost: O(m²).
    """
    problem = check_problem(gramian, linear, domain, bound, linear_error)
    return measure(problem, np.asarray(multipliers, dtype=np.float64))


def measure(problem: Problem, x: Array) -> Certificate:
    """Compute the certificate of x [m] for a checked problem: `certify` without its checks.

    Args:
        problem: G, q and the domain.
        x: the answer to be judged.

    Returns:
        The certificate.

    Cost: O(m²).
    """
    gramian, q, lengths, domain, bound, linear_error = problem
    slack = gramian.dot(x) + q
    absolute = np.abs(x)
    size = np.abs(gramian).dot(absolute) + np.abs(q)
    magnitude = float(absolute.dot(size))
    # A slack is known to its rounding error only; beside a row 1e12 times as long, that of a short row's optimum would
    # swamp the gap.
    known = slack + rounding(len(x)) * size
    smallest = float(x[x.argmin()])

    if domain == "simplex":
        level = float(x.dot(slack))
        gap = violation = _ratio(level - _least(known), magnitude)
        outside = max(-smallest, abs(sum(x.tolist()) - 1), 0.0)
        products = x * (slack - level)
    else:
        units = lengths
        if not _least(lengths):
            # A zero row has no length to measure its slack in; 1 keeps a decrease that it cannot give visible.
            units = np.where(lengths > 0, lengths, 1.0)
        if linear_error is not None:
            known += linear_error
        unmet = max(-_least(known / units), 0.0)
        worst = max(-_least(slack / units), 0.0)
        violation = _ratio(worst, -_least(-size / units))
        outside = 0.0 if smallest >= 0 else _ratio(-_least(x * lengths), float(absolute.dot(lengths)))
        gap, products = abs(float(x.dot(slack))), x * slack
        if bound is None:
            gain = 0.5 * unmet**2
            gap = max(_ratio(gap, magnitude), _ratio(gain, magnitude + gain))
        else:
            price = worst if unmet else 0.0  # of the bound itself
            length = float(x.dot(lengths))
            outside = max(outside, _ratio(length - bound, length))
            gap = _ratio(abs(float(x.dot(slack)) + bound * price), magnitude)
            products += price * x * lengths
    return Certificate(gap, violation, outside, _ratio(-_least(-np.abs(products)), magnitude))


def _least(values: Array) -> float:
    """Return the least of some values; NaN if there is one."""
    return float(values[values.argmin()])


def _ratio(value: float, scale: float) -> float:
    """Return value / scale, 0 for a value ≤ 0 and 1 where there is no scale."""
    return value / (scale or value) if value > 0 else 0.0
