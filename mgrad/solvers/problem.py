"""The quadratic programme over the multipliers: its statement, its answer, and the checks of what a user passes.

In: a Gramian and a linear term. Out: `Problem`, which every method solves, and `DualSolution`, their answer.
May import: nothing of mgrad, no torch.

Here and wherever a solve passes each time, BLAS is called by its own name: for a few numbers numpy's operators take
several times as long as what they do.
"""

import math
from enum import Enum
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.blas import dasum, daxpy, dsymv

Array = NDArray[np.float64]
Domain = Literal["nonnegative", "simplex"]
Method = Literal["active_set", "frank_wolfe", "plain_frank_wolfe"]
_DOMAINS, _METHODS = get_args(Domain), get_args(Method)

Slacks = tuple[Array, Array, Array, float]
"""Of some x [m]: Gx + q as computed; |G||x| + |q|, the absolute values that it is the sum of; the highest that Gx + q
may be, within the rounding error of that sum; and the least of these."""

EPSILON = float(np.finfo(np.float64).eps)
SURE = 2.0**-32  # least square of a length, relative to the terms of which it is the sum, that is not rounding


class Status(Enum):
    """How a solve ended, from the best to the worst outcome."""

    OPTIMAL = "optimal"
    BOUND_ACTIVE = "optimal within the bound, which binds: not every required decrease can be promised"
    INACCURATE = "stopped by rounding short of the optimum: see the duality gap"
    UNBOUNDED = "unbounded: no direction gives every required decrease"
    ITERATION_LIMIT = "stopped by the iteration limit before the optimum"


OPTIMAL = Status.OPTIMAL  # an enumeration takes its time to look up a member


class Problem(NamedTuple):
    """min ½xᵀGx + qᵀx over a domain, checked (math.md, 15).

    Without zero rows and a bound, the domain is the orthant or the simplex (math.md, 16), which is what the methods of
    the active set solve.

    Attributes:
        gramian: G [m, m].
        linear: q [m].
        lengths: nᵢ = √Gᵢᵢ [m].
        zero_rows: whether a length is 0.
        domain: "nonnegative" or "simplex".
        bound: upper bound on Σ xᵢnᵢ, or None.
        linear_error: [m] ≥ 0, how far q may be off; None for the rounding of its own digits.
    """

    gramian: Array
    linear: Array
    lengths: Array
    zero_rows: bool
    domain: str
    bound: float | None
    linear_error: Array | None


Outcome = tuple[Array, Status, int, Slacks | None]
"""What a method says of a problem: x [m] ≥ 0, how it ended, the iterations; the slacks of x where it knows them."""


class DualSolution(NamedTuple):
    """The answer of `mgrad.solvers.solve`: multipliers [m], how the solve ended, and the certificate."""

    multipliers: Array
    status: Status
    iterations: int
    duality_gap: float
    primal_residual: float
    dual_residual: float
    complementarity: float


def check_problem(
    gramian: ArrayLike, linear: ArrayLike | None, domain: str, bound: float | None, linear_error: ArrayLike | None
) -> Problem:
    """Check the shapes and values of a problem.

    Args:
        gramian: G [m, m], symmetric; neither that nor that it is positive semi-definite is checked.
        linear: q [m]; None stands for 0.
        domain: "nonnegative" or "simplex".
        bound: upper bound on Σ xᵢ√Gᵢᵢ, for the nonnegative domain alone.
        linear_error: [m] ≥ 0; None stands for the rounding of q's own digits.

    Returns:
        The problem, in float64.

    Raises:
        ValueError: for a wrong shape, a value that is not finite, an unknown domain, a negative bound or error.

    Cost: O(m²).
    """
    quadratic = np.asarray(gramian, np.float64, order="C")
    shape = quadratic.shape
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(
            f"`gramian` must be a square matrix [m, m] with m ≥ 1. Found shape {list(shape)}. "
            "Pass J @ J.T of the gradient rows J."
        )
    size = len(quadratic)
    q = np.zeros(size) if linear is None else np.asarray(linear, np.float64)
    if q.shape != (size,):
        raise ValueError(
            f"`linear` must have one value for each row of the Gramian, [{size}]. Found shape {list(q.shape)}. "
            "Pass a vector of that length."
        )
    # The sum may overflow, which alone does not make an entry infinite.
    if not (
        math.isfinite(dasum(quadratic.ravel()) + dasum(q)) or (np.isfinite(quadratic).all() and np.isfinite(q).all())
    ):
        raise ValueError(
            "`gramian` and `linear` must be finite. Found NaN or infinity. Check the gradients that they come from."
        )
    diagonal = quadratic.diagonal()
    shortest = least(diagonal)
    if shortest < 0:
        raise ValueError(
            f"`gramian` must have a diagonal ≥ 0. Found {shortest:.3g}. Pass J @ J.T of the gradient rows J."
        )
    if domain not in _DOMAINS:
        raise ValueError(f'`domain` must be "nonnegative" or "simplex". Found {domain!r}. Choose one of the two.')
    if bound is not None:
        if domain == "simplex":
            raise ValueError(
                f"`bound` must be None on the simplex, whose sum is 1. Found {bound}. Leave it out, or use "
                'domain="nonnegative".'
            )
        if not bound >= 0:
            raise ValueError(f"`bound` must be a number ≥ 0 or None. Found {bound}. Leave it out for no bound.")
    error = None if linear_error is None else _check_nonnegative("linear_error", linear_error, size)
    return Problem(quadratic, q, np.sqrt(diagonal), shortest == 0, domain, bound, error)


def check_method(
    method: str, start: ArrayLike | None, tolerance: float | None, max_iterations: int | None, problem: Problem
) -> Array | None:
    """Check what a user asks of a method and return the start [m] as float64.

    Args:
        method: one of `Method`.
        start: [m] ≥ 0, or None.
        tolerance: ≥ 0, or None.
        max_iterations: ≥ 0, or None.
        problem: the problem to be solved.

    Returns:
        The start, or None.

    Raises:
        ValueError: for an unknown method, Frank-Wolfe on a domain without a bound, a start that does not fit or has
            negative or infinite entries, a negative tolerance or cap.
    """
    if method not in _METHODS:
        raise ValueError(
            f'`method` must be "active_set", "frank_wolfe" or "plain_frank_wolfe". Found {method!r}. '
            'Use "active_set", the default, when in doubt.'
        )
    if method != "active_set" and problem.domain == "nonnegative" and problem.bound is None:
        raise ValueError(
            f"`method={method!r}` must have a domain with corners. Found x ≥ 0 without a bound. "
            'Pass `bound`, or use method="active_set".'
        )
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(
            f"`tolerance` must be a relative duality gap ≥ 0. Found {tolerance}. Leave it out for the default."
        )
    if max_iterations is not None and not max_iterations >= 0:
        raise ValueError(f"`max_iterations` must be ≥ 0. Found {max_iterations}. Leave it out for the default.")
    return None if start is None else _check_nonnegative("start", start, len(problem.linear))


def _check_nonnegative(name: str, values: ArrayLike, size: int) -> Array:
    """Return values as float64 [m], or raise if they are not m finite numbers ≥ 0."""
    checked = np.asarray(values, dtype=np.float64)
    if checked.shape != (size,) or not (least(checked) >= 0 and math.isfinite(checked.item(checked.argmax()))):
        raise ValueError(
            f"`{name}` must be [{size}] finite values ≥ 0. Found shape {list(checked.shape)}, values {checked}. "
            "Pass one for each row of the Gramian."
        )
    return checked


def slacks(gramian: Array, linear: Array, x: Array, absolute: Array) -> Slacks:
    """Return what is known of the slacks of x.

    Args:
        gramian: G [m, m], of which the lower triangle is read.
        linear: q [m].
        x: [m].
        absolute: |x|, which for the answers of a solver is x itself.

    Cost: O(m²).
    """
    size = len(x)
    slack = dsymv(1.0, gramian.T, x, 1.0, linear)
    sizes = dsymv(1.0, abs(gramian).T, absolute, 1.0, abs(linear))
    highest = daxpy(sizes, slack.copy(), size, rounding(size))
    return slack, sizes, highest, least(highest)


def symmetric(problem: Problem) -> Problem:
    """Return a problem whose upper triangle is the lower one, which is the one that counts."""
    lower = np.tril(problem.gramian)
    return problem._replace(gramian=lower + np.tril(lower, -1).T)


def rounding(terms: int) -> float:
    """Return the rounding error of a sum of so many terms, relative to the sum of their absolute values."""
    return 4 * terms * EPSILON


def least(values: Array) -> float:
    """Return the least of some values; NaN if there is one."""
    return float(values.item(values.argmin()))
