"""Keeping the promise of a step: the smallest change of what the base has done under which every loss falls enough.

In: the rows of a step, what they promise, and where the parameters stood before the base's step. Out: the parameters,
corrected, and a `StepReport`. May import: jacobian, step_report, solvers, values. Knows no optimizer.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mgrad.jacobian import Row, along, combine, norm, whole
from mgrad.solvers import Array, rounding
from mgrad.step_report import PendingStepReport, StepReport
from mgrad.values import Scalar, cleared, filled, minimise, norms, quotient, root


@dataclass
class Promise:
    """What a direction promises: in a step u of learning rate η, J u ≤ −ηb (math.md, 53).

    Attributes:
        names: of the constraints.
        rows: of the Jacobian.
        parameters: that they are over.
        still: of these, what no step moves, of learning rate 0.
        metric: P, in which the correction is smallest, or None for 1.
        gramian: J P Jᵀ [m, m], an array or a tensor on the device.
        decrease: b [m], likewise.
        error: [m], likewise: to which the direction itself keeps J d ≥ b.
        limit: of the multipliers.
        home: where inner products are added up.
    """

    names: Sequence[str]
    rows: Sequence[Row]
    parameters: Sequence[Tensor]
    still: Set[Tensor]
    metric: Row | None
    gramian: Any
    decrease: Any
    error: Any
    limit: float
    home: torch.device

    def __post_init__(self) -> None:
        """Remember the direction that is in `.grad`."""
        self.length = norm(self._gradients(), self.home)

    def share(self) -> Scalar:
        """Return how much of the direction's length is left in `.grad`: less than 1 where it has been clipped; 1 of 0.

        Measured: a gradient's version does not tell of all that changes it, such as a GradScaler.
        """
        return quotient(norm(self._gradients(), self.home), self.length) + (self.length == 0)

    @torch.no_grad()
    def keep(self, before: Mapping[Tensor, Tensor], rate: float, share: Scalar) -> StepReport:
        """Correct the parameters so that the step from `before` keeps the promise, if it does not yet.

        Args:
            before: the parameters before the base's step.
            rate: η ≥ 0.
            share: of the direction that the base was given.

        Returns:
            The account of the step.

        Raises:
            FloatingPointError: on the host, if the base's step is not finite; the parameters are then back where they
                were.

        Cost: one read of the rows, the step and where it began; another of the rows where there is something
            to correct.
        """
        products, squares = along([*self.rows, before.get], lambda p: p - before[p], self.parameters, self.home)
        change: Any = products[:, :-1].sum(0)  # J u
        length: Any = squares[:, -1].sum().sqrt()
        error: Any = self._step_error(*squares.sqrt().tensor_split([-2, -1], dim=1))
        waiting = isinstance(self.gramian, Tensor)
        if not waiting:
            change, length, error, share = change.numpy(), float(length), error.numpy(), float(share)
            self._check_finite(np.append(change, length), before)
        asked = self.decrease > -math.inf
        promised = rate * share * filled(self.decrease, ~asked, 0.0)
        error = error + rounding(1) * (abs(change) + abs(promised)) + rate * share * self.error
        linear = cleared(-promised - change, error) * asked
        # (10) for (53), where nothing pulls and −linear is required.
        bound = self.limit * quotient((-linear).clip(min=0.0), norms(self.gramian)).max()
        solution = minimise(self.gramian * asked * asked[:, None], linear, bound=bound, linear_error=error)
        multipliers = solution.multipliers
        figures: dict[str, Any] = dict(
            learning_rate=rate,
            promised=filled(promised, ~asked, -math.inf),
            base_decrease=-change,
            decrease=self.gramian @ multipliers - change,
            error=error,
            multipliers=multipliers,
            step_norm=length,
            correction_norm=root(multipliers @ self.gramian @ multipliers),
            status=solution.status,
            duality_gap=solution.duality_gap,
            primal_residual=solution.primal_residual,
        )
        if waiting:
            report = PendingStepReport(self.names, figures)
            self._correct(multipliers, report.void)
            return report
        if multipliers.any():
            self._correct(multipliers, None)
        return StepReport(names=tuple(self.names), **figures)

    def _correct(self, multipliers: Any, void: Tensor | None) -> None:
        """Add −PJᵀμ to the parameters, nothing where the flag is true."""
        for parameter in self.parameters:
            (block,) = combine(self.rows, list(multipliers), [parameter], keep=True)
            if block is None:
                continue
            if (scaling := whole(self.metric(parameter)) if self.metric is not None else None) is not None:
                block.mul_(scaling)
            if void is not None:
                block.masked_fill_(void, 0.0)
            parameter.sub_(block)

    def _step_error(self, rows: Tensor, start: Tensor, step: Tensor) -> Tensor:
        """Return by how much rounding may change J u [m] (math.md, 55).

        Of lengths by parameter: of the rows [K, m], of where the step began [K, 1] and of the step [K, 1].
        """
        known = [(torch.finfo(p.dtype).eps * (p not in self.still), max(1, p.numel()) ** 0.5) for p in self.parameters]
        precisions, roots = torch.tensor(known, dtype=torch.float64, device="cpu").to(self.home, non_blocking=True).T
        coarse = rows * precisions[:, None]
        error: Tensor = 2 * (coarse * start / roots[:, None]).norm(dim=0) + (step * coarse).sum(0)
        return error

    def _check_finite(self, figures: Array, before: Mapping[Tensor, Tensor]) -> None:
        """Put the parameters back and raise if figures of the base's step are not finite."""
        if np.isfinite(figures).all():
            return
        for parameter, values in before.items():
            parameter.copy_(values)
        raise FloatingPointError(
            "`opt.step()` must bring a finite step of the base. Found NaN, infinity or an overflow in float64. The "
            "parameters are back where they were, the base's state is not: load a checkpoint, and lower the rate."
        )

    def _gradients(self) -> list[Tensor]:
        """Return what is in `.grad`."""
        return [p.grad.detach() for p in self.parameters if p.grad is not None]
