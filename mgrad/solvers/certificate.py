"""The certificate of an answer: how far multipliers are from solving their problem, in figures free of units.

In: a problem and its multipliers. Out: a `Certificate`. May import: solvers.problem.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg.blas import dasum, daxpy, ddot, idamax

from mgrad.solvers.problem import Array, Problem, Slacks, check_problem, least, slacks


class Certificate(NamedTuple):
    """How far an answer is from optimal, each figure relative to the sizes of its own terms (math.md, 22-25)."""

    duality_gap: float
    primal_residual: float
    dual_residual: float
    complementarity: float


Figures = tuple[float, float, float, float]


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
        gramian: G [m, m], of which the lower triangle counts.
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
    x = np.asarray(multipliers, dtype=np.float64)
    if x.shape != problem.linear.shape:
        raise ValueError(
            f"`multipliers` must have one value for each row of the Gramian, {list(problem.linear.shape)}. Found shape "
            f"{list(x.shape)}. Pass the answer as it came."
        )
    return Certificate(*measure(problem, x))


def measure(problem: Problem, x: Array, known: Slacks | None = None) -> Figures:
    """Compute the certificate of x [m] for a checked problem: `certify` without its checks.

    Args:
        problem: G, q and the domain.
        x: the answer to be judged.
        known: its slacks, if they have been computed: of an x ≥ 0.

    Returns:
        The figures of the certificate.

    Cost: O(m²).
    """
    gramian, q, lengths, zero_rows, domain, bound, linear_error = problem
    size, smallest, absolute = len(q), 0.0, x
    if known is None:
        smallest = least(x)
        absolute = x if smallest >= 0 else np.abs(x)
        known = slacks(gramian, q, x, absolute)
    # A slack is known to its rounding error only; beside a row 1e12 times as long, that of a short row's optimum would
    # swamp the gap.
    slack, sizes, highest, least_slack = known
    magnitude = ddot(absolute, sizes)
    total = ddot(x, slack)
    products = x * slack

    if domain == "simplex":
        gap = violation = _ratio(total - least_slack, magnitude)
        outside = max(abs((dasum(x) if smallest >= 0 else float(x.sum())) - 1), -smallest)
        products = daxpy(x, products, size, -total)
    else:
        # A zero row has no length to measure its slack in; 1 keeps a decrease that it cannot give visible.
        units = np.where(lengths > 0, lengths, 1.0) if zero_rows else lengths
        if linear_error is not None:
            highest = highest + linear_error
            least_slack = least(highest)
        unmet = violation = outside = 0.0
        if least_slack < 0:
            unmet = -least(highest / units)
            violation = _ratio(unmet, _largest(sizes / units))  # both may underflow
        if smallest < 0:
            outside = _ratio(-least(x * lengths), ddot(absolute, lengths))
        if bound is None:
            gap = abs(total) / (magnitude or 1.0)
            if unmet:
                gain = 0.5 * unmet**2
                gap = max(gap, _ratio(gain, magnitude + gain))
        else:
            length = ddot(x, lengths)
            if length > bound:
                outside = max(outside, _ratio(length - bound, length))
            price = -least(slack / units) if unmet else 0.0  # of the bound itself
            gap = _ratio(abs(total + bound * price), magnitude)
            if price:
                products += price * x * lengths
    return gap, violation, outside, _largest(products) / (magnitude or 1.0)


def _largest(values: Array) -> float:
    """Return the largest absolute value of some."""
    return abs(values.item(idamax(values)))


def _ratio(value: float, scale: float) -> float:
    """Return value / scale, 0 for a value ≤ 0 and 1 where there is no scale."""
    return 0.0 if value <= 0 else value / (scale or value)
