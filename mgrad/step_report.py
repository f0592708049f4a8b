"""What one step of the base did to the promise of its direction, and what was done about it.

In: the small arrays of a correction, or tensors, which are fetched when they are looked at. Out: numbers for people and
loggers. May import: pending, solvers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mgrad.pending import Pending
from mgrad.solvers import Array, Status


@dataclass(frozen=True, eq=False)
class StepReport:
    """The account of one step u of the base and of its correction v = −PJᵀμ (math.md, 53-54).

    All decreases are of the losses, to first order: of u it is −J u.

    Attributes:
        names: of the constraints, in the order of every array below.
        learning_rate: η, the least of the base's groups.
        promised: ηb [m], times the share of the direction that clipping has left; −∞ where nothing is.
        base_decrease: −J u [m], what the base's step brings.
        decrease: −J(u + v) [m], what the corrected step brings.
        error: [m], a shortfall of as much is rounding (math.md, 55).
        multipliers: μ [m] ≥ 0, of the promises that the correction is held to; 0 also where mending others mends it.
        step_norm: ‖u‖.
        correction_norm: √(vᵀP⁻¹v), which is ‖v‖ in the Euclidean metric.
        status: the outcome of the solve.
        duality_gap: of μ, relative, see `mgrad.solvers.certify`; likewise the next.
        primal_residual: the largest shortfall of −J(u + v) ≥ ηb.
    """

    names: tuple[str, ...]
    learning_rate: float
    promised: Array
    base_decrease: Array
    decrease: Array
    error: Array
    multipliers: Array
    step_norm: float
    correction_norm: float
    status: Status
    duality_gap: float
    primal_residual: float

    @property
    def broken(self) -> tuple[str, ...]:
        """The constraints whose promise the base's step broke."""
        short = self.promised - self.base_decrease > self.error
        return tuple(name for name, missing in zip(self.names, short, strict=True) if missing)

    def to_dict(self) -> dict[str, float]:
        """Return every figure as a flat mapping of finite floats, for TensorBoard, W&B or a JSON line.

        Each name begins with `step/`, so that those of `Report.to_dict` can stand beside them.
        """
        figures = {
            "learning_rate": self.learning_rate,
            "step_norm": self.step_norm,
            "correction_norm": self.correction_norm,
            "broken": len(self.broken),
            "optimal": self.status is Status.OPTIMAL,
            "duality_gap": self.duality_gap,
            "primal_residual": self.primal_residual,
        }
        columns = {
            "promised": self.promised,
            "base_decrease": self.base_decrease,
            "decrease": self.decrease,
            "multiplier": self.multipliers,
        }
        for label, values in columns.items():
            known = [(name, float(value)) for name, value in zip(self.names, values, strict=True) if value > -np.inf]
            figures |= {f"{label}/{name}": value for name, value in known}
        return {f"step/{name}": float(value) for name, value in figures.items()}

    def __str__(self) -> str:
        """Return a short table for people."""
        width = max(10, *(len(name) for name in self.names))
        lines = [
            f"{self.status.value}; relative duality gap {self.duality_gap:.1e}",
            f"step ‖u‖ {self.step_norm:.3g}, corrected by {self.correction_norm:.3g}",
            f"{'constraint':<{width}}  {'promised':>10}  {'base step':>10}  {'corrected':>10}  {'multiplier':>10}",
        ]
        rows = zip(self.names, self.promised, self.base_decrease, self.decrease, self.multipliers, strict=True)
        lines += [
            f"{name:<{width}}  {promised:>10.3g}  {base:>10.3g}  {corrected:>10.3g}  {multiplier:>10.3g}"
            for name, promised, base, corrected, multiplier in rows
        ]
        return "\n".join(lines)


class PendingStepReport(Pending, StepReport):
    """A step report whose figures are still on a device."""

    def _raise(self, figures: Mapping[str, Array]) -> None:
        """Raise: a step that is not finite is not corrected."""
        raise FloatingPointError(
            "the base's step must be finite, and its products with the gradients too, in float64. Found NaN, infinity "
            "or an overflow. That step was not corrected: skip such batches, or lower the rate."
        )
