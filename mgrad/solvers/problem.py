"""The quadratic programme over the multipliers: its statement, its answer and the certificate of an answer.

In: a Gramian and a linear term as float64 arrays. Out: `DualSolution`, whose residuals `certify` computes.
May import: nothing of mgrad, no torch.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Domain = Literal["nonnegative", "simplex"]

EPSILON = float(np.finfo(np.float64).eps)


class Status(Enum):
    """How a solve ended, from the best to the worst outcome."""

    OPTIMAL = "optimal"
    BOUND_ACTIVE = "optimal within the bound, which binds: not every required decrease can be promised"
    INACCURATE = "stopped by rounding short of the optimum: see the duality gap"
    UNBOUNDED = "unbounded: no direction gives every required decrease"
    ITERATION_LIMIT = "stopped by the iteration limit before the optimum"


class Certificate(NamedTuple):
    """How far an answer is from optimal, each figure relative to the sizes of its own terms (math.md, 22-25)."""

    duality_gap: float
    primal_residual: float
    dual_residual: float
    complementarity: float


@dataclass(frozen=True)
class DualSolution:
    """The answer of `mgrad.solvers.solve`: multipliers [m], how the solve ended, and the certificate."""

    multipliers: Array
    status: Status
    iterations: int
    duality_gap: float
    primal_residual: float
    dual_residual: float
    complementarity: float


def check_problem(
    gramian: ArrayLike, linear: ArrayLike | None, domain: str, bound: float | None
) -> tuple[Array, Array, Domain]:
    """Check the shapes and values of a problem and return it as float64 arrays.

    Args:
        gramian: G [m, m], symmetric; that it is positive semi-definite is not checked.
        linear: q [m]; None stands for 0.
        domain: "nonnegative" or "simplex".
        bound: upper bound on Σ xᵢ√Gᵢᵢ, for the nonnegative domain alone.

    Returns:
        G, q and the domain.

    Raises:
        ValueError: for a wrong shape, a value that is not finite, an unknown domain or a negative bound.
    """
    quadratic = np.asarray(gramian, dtype=np.float64)
    if quadratic.ndim != 2 or quadratic.shape[0] != quadratic.shape[1] or not quadratic.size:
        raise ValueError(
            f"`gramian` must be a square matrix [m, m] with m ≥ 1. Found shape {list(quadratic.shape)}. "
            "Pass J @ J.T of the gradient rows J."
        )
    size = quadratic.shape[0]
    q = np.zeros(size) if linear is None else np.asarray(linear, dtype=np.float64)
    if q.shape != (size,):
        raise ValueError(
            f"`linear` must have one value for each row of the Gramian, [{size}]. Found shape {list(q.shape)}. "
            "Pass a vector of that length."
        )
    if not (np.isfinite(quadratic).all() and np.isfinite(q).all()):
        raise ValueError(
            "`gramian` and `linear` must be finite. Found NaN or infinity. Check the gradients that they come from."
        )
    if (np.diagonal(quadratic) < 0).any():
        raise ValueError(
            f"`gramian` must have a diagonal ≥ 0. Found {np.diagonal(quadratic).min():.3g}. "
            "Pass J @ J.T of the gradient rows J."
        )
    if domain == "nonnegative":
        if bound is not None and not bound >= 0:
            raise ValueError(f"`bound` must be a number ≥ 0 or None. Found {bound}. Leave it out for no bound.")
        return quadratic, q, "nonnegative"
    if domain == "simplex":
        if bound is not None:
            raise ValueError(
                f"`bound` must be None on the simplex, whose sum is 1. Found {bound}. Leave it out, or use "
                'domain="nonnegative".'
            )
        return quadratic, q, "simplex"
    raise ValueError(f'`domain` must be "nonnegative" or "simplex". Found {domain!r}. Choose one of the two.')


def check_linear_error(linear_error: ArrayLike | None, size: int) -> Array:
    """Check the error of a linear term and return it as a float64 array.

    Args:
        linear_error: [m] ≥ 0; None stands for 0.
        size: m.

    Returns:
        The error [m].

    Raises:
        ValueError: for a wrong shape, or a value that is negative or not finite.
    """
    error = np.zeros(size) if linear_error is None else np.asarray(linear_error, dtype=np.float64)
    if error.shape != (size,) or not (np.isfinite(error) & (error >= 0)).all():
        raise ValueError(
            f"`linear_error` must be [{size}] finite values ≥ 0. Found shape {list(error.shape)}, values {error}. "
            "Pass the largest error of each entry of `linear`."
        )
    return error


def certify(
    gramian: ArrayLike,
    linear: ArrayLike | None,
    multipliers: ArrayLike,
    *,
    domain: str = "nonnegative",
    bound: float | None = None,
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

    Returns:
        duality gap; primal residual (the largest violation of Gx + q ≥ 0, that is of J d ≥ b in (1), also where the
        bound permits it; on the simplex of Gx + q ≥ the mean xᵀ(Gx + q)); dual residual (violation of the domain by
        x); complementarity. All ≥ 0, 0 for a problem that is zero.

    Raises:
        ValueError: for the same inputs as `mgrad.solvers.solve`.

    Cost: O(m²).
    """
    quadratic, q, domain = check_problem(gramian, linear, domain, bound)
    x = np.asarray(multipliers, dtype=np.float64)
    norms = np.sqrt(np.diagonal(quadratic))
    # A zero row has no length to measure its slack in; 1 keeps a required decrease that it cannot give visible.
    lengths = np.where(norms > 0, norms, 1.0)
    slack = quadratic @ x + q
    size = np.abs(quadratic) @ np.abs(x) + np.abs(q)
    magnitude = float(np.abs(x) @ size)

    if domain == "simplex":
        level = float(x @ slack)
        # A slack is known to its rounding error only; beside a row 1e12 times as long, that of a short row's optimum
        # would swamp the gap.
        gap = max(0.0, float((level - slack - rounding(len(x)) * size).max()))
        violation, largest = gap, magnitude  # the same question, once more: is any slack below the mean?
        outside = max(float(np.maximum(-x, 0).max()), abs(float(x.sum()) - 1))
        complementarity = np.abs(x * (slack - level)).max()
    else:
        length = float(x @ norms)
        violation, largest = max(0.0, -float((slack / lengths).min())), float((size / lengths).max())
        binds = bound is not None and length >= bound * (1 - rounding(len(x)))
        multiplier = -violation if binds else 0.0  # of the bound itself
        gap = abs(float(x @ slack) - multiplier * (length if bound is None else bound))
        complementarity = np.abs(x * (slack - multiplier * norms)).max()
        excess = 0.0 if bound is None else length - bound
        outside = _ratio(max(0.0, excess, float((-x * norms).max())), float(np.abs(x) @ norms))
    return Certificate(
        _ratio(abs(gap), magnitude), _ratio(violation, largest), outside, _ratio(float(complementarity), magnitude)
    )


def rounding(terms: int) -> float:
    """Return the rounding error of a sum of so many terms, relative to the sum of their absolute values."""
    return 4 * terms * EPSILON


def _ratio(value: float, scale: float) -> float:
    """Return value / scale, and 0 for 0 / 0."""
    return value / scale if value else 0.0
