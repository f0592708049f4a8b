"""What arrays on the host and tensors on a device share, so that every formula of a step is written once for both.

In: float64 NumPy arrays, or float64 tensors. Out: the same kind. May import: solvers, batched.

Formulas use what both know alike: arithmetic, `@`, `abs`, comparisons as masks of 0 and 1, `.max()`, `.clip(min=…)`,
`.diagonal()`. On a device nothing may ask for a value (no `if`, no `float`): it would wait.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from mgrad.batched import solve_batch
from mgrad.solvers import Array, Domain, Status, rounding, solve

_ORDER = tuple(Status)

Values = TypeVar("Values", Array, Tensor)
Scalar = Any
"""A float, or a tensor of no dimension on the device."""


class Solution(Protocol):
    """What both solvers answer: `mgrad.solvers.DualSolution`, or `mgrad.batched.BatchSolution` for one problem."""

    @property
    def multipliers(self) -> Any:
        """The answer [m]."""

    @property
    def status(self) -> Status | Tensor:
        """The outcome, on a device its place in `tuple(Status)`."""

    @property
    def iterations(self) -> int:
        """The work."""

    @property
    def duality_gap(self) -> Scalar:
        """See `mgrad.solvers.certify`; likewise the next three."""

    @property
    def primal_residual(self) -> Scalar:
        """Of Gx + q ≥ 0."""

    @property
    def dual_residual(self) -> Scalar:
        """Of the domain."""

    @property
    def complementarity(self) -> Scalar:
        """Of the two."""


def minimise(
    gramian: Values,
    linear: Values | None = None,
    *,
    domain: Domain = "nonnegative",
    bound: Scalar = None,
    linear_error: Values | None = None,
) -> Solution:
    """Minimise ½xᵀGx + qᵀx where the Gramian is: exactly on the host, without waiting on a device (math.md, 15).

    Args:
        gramian: G [m, m].
        linear: q [m]; None stands for 0.
        domain: "nonnegative" or "simplex".
        bound: upper bound on Σ xᵢ√Gᵢᵢ, or None.
        linear_error: [m] ≥ 0, how far q may be off; None for the rounding of its own digits.

    Returns:
        The answer of `mgrad.solvers.solve` or of `mgrad.batched.solve_batch`.

    Cost: that of the solver.
    """
    if isinstance(gramian, Tensor):
        return solve_batch(gramian, linear, domain=domain, bound=bound, linear_error=linear_error)
    return solve(gramian, linear, domain=domain, bound=bound, linear_error=linear_error)


def like(values: Sequence[float] | None, vector: Values) -> Values:
    """Return numbers, or ones where None is given, as a vector beside another one [m]."""
    if isinstance(vector, Tensor):
        if values is None:
            return torch.ones_like(vector)
        # Without `non_blocking` a copy to a GPU waits until it is done.
        return torch.tensor(values, dtype=vector.dtype, device="cpu").to(vector.device, non_blocking=True)
    return np.ones_like(vector) if values is None else np.array(values, dtype=np.float64)


def cleared(values: Values, error: Values) -> Values:
    """Set what is not above its own rounding error to 0 (math.md, Multipliers)."""
    return values * (abs(values) > error) + 0.0  # + 0.0: no −0


def filled(values: Values, where: Any, value: float) -> Values:
    """Return a copy with one value where a mask, or a flag for all, is true."""
    return values.masked_fill(where, value) if isinstance(values, Tensor) else np.where(where, value, values)


def norms(gramian: Values) -> Values:
    """Return the lengths ‖gᵢ‖ [m] of the rows."""
    found: Values = gramian.diagonal() ** 0.5
    return found


def quotient(values: Scalar, sizes: Scalar) -> Scalar:
    """Return values / sizes, and 0 where the size is 0."""
    return values * (sizes > 0) / (sizes + (sizes == 0))


def root(square: Scalar) -> Scalar:
    """Return the square root, 0 of what rounding has made negative."""
    return square.clip(min=0.0).sqrt() if isinstance(square, Tensor) else math.sqrt(max(0.0, square))


def quadratic_form(gramian: Values, coefficients: Values) -> Scalar:
    """Return aᵀGa = ‖Jᵀa‖², 0 where it is not above its own rounding error."""
    square = coefficients @ gramian @ coefficients
    error = rounding(len(coefficients)) * (coefficients @ abs(gramian) @ coefficients)
    return square * (square > error) if isinstance(square, Tensor) else float(square if square > error else 0.0)


def worst(*statuses: Status | Tensor) -> Status | Tensor:
    """Return the worst of several outcomes; on a device its place in `tuple(Status)`."""
    waiting = [status for status in statuses if isinstance(status, Tensor)]
    worst_known = max((_ORDER.index(status) for status in statuses if isinstance(status, Status)), default=0)
    return torch.stack(waiting).amax().clamp(min=worst_known) if waiting else _ORDER[worst_known]
