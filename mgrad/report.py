"""What one step did: multipliers, required and predicted decrease, stationarity, conflicts and certificate.

In: the small arrays of a solve, or tensors, which are fetched when they are looked at. Out: numbers and text for
people and loggers. May import: pending, solvers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mgrad.pending import Pending
from mgrad.solvers import Array, Status, rounding


@dataclass(frozen=True, eq=False)
class Report:
    """The account of one direction d = αg₀ + Jᵀλ (math.md, 1-2).

    With noise=SmoothGramian() or HalfBatches() inner products are the estimates Ĝ and ĉ (math.md, 76-79), and all that
    is made of them is a statement on expectations.

    Attributes:
        names: of the constraints, in the order of every array below.
        multipliers: λ [m] ≥ 0, one for each constraint.
        gramian: G = J Jᵀ [m, m] of the constraint gradients, in squared gradient units.
        correlation: c = J p [m] with the pull p = αg₀, in squared gradient units.
        decrease: required b [m]: loss i is to fall by at least η·bᵢ in a step of size η, to first order; −∞ where the
            rule requires nothing.
        predicted_decrease: J d [m], what d brings.
        row_scales: s [m] > 0, by which the rows were multiplied for the solve, 1 where they are not normalised
            (math.md, 70). All arrays are in the units of the losses themselves; δ, ‖r‖ and the certificate are of the
            rows sᵢgᵢ.
        stationarity: δ ≥ 0, the squared norm of the shortest vector in the hull of the rows sᵢgᵢ; 0 at weakly
            Pareto-stationary points.
        strong_stationarity: ‖r‖ ≥ 0, the norm of the conflict-free gradient of these; 0 at strongly stationary points.
        objective_norm: ‖g₀‖ before scaling; with the default anchor alone, the distance from θ₀.
        pull: α ≥ 0, by which g₀ was multiplied.
        direction_norm: ‖d‖.
        status: the worst outcome of the solves of this step.
        iterations: of all solves together.
        duality_gap: of the multipliers, relative, see `mgrad.solvers.certify`; likewise the next three.
        primal_residual: the largest violation of J d ≥ b.
        dual_residual: the largest violation of λ ≥ 0 and of its bound.
        complementarity: the largest λᵢ(J d − b)ᵢ.
    """

    names: tuple[str, ...]
    multipliers: Array
    gramian: Array
    correlation: Array
    decrease: Array
    predicted_decrease: Array
    row_scales: Array
    stationarity: float
    strong_stationarity: float
    objective_norm: float
    pull: float
    direction_norm: float
    status: Status
    iterations: int
    duality_gap: float
    primal_residual: float
    dual_residual: float
    complementarity: float

    @property
    def gradient_norms(self) -> Array:
        """‖gᵢ‖ of every constraint [m]."""
        return np.sqrt(np.diagonal(self.gramian))

    @property
    def cosines(self) -> Array:
        """Cosine [m, m] of each pair of constraint gradients; < 0 is a conflict; 0 beside a zero gradient."""
        norms = self.gradient_norms
        lengths = np.where(norms > 0, norms, 1.0)
        return self.gramian / lengths / lengths[:, None]

    @property
    def conflicts(self) -> tuple[tuple[str, str, float], ...]:
        """The pairs of constraints whose gradients have a cosine < 0, the worst first."""
        cosines = self.cosines
        pairs = [
            (self.names[i], self.names[j], float(cosines[i, j]))
            for i in range(len(self.names))
            for j in range(i)
            if cosines[i, j] < 0
        ]
        return tuple(sorted(pairs, key=lambda pair: pair[2]))

    @property
    def active(self) -> tuple[str, ...]:
        """The constraints with λᵢ > 0."""
        return tuple(name for name, value in zip(self.names, self.multipliers, strict=True) if value > 0)

    @property
    def unmet(self) -> tuple[tuple[str, float], ...]:
        """The constraints whose required decrease d does not bring, and how much is missing, b − J d > 0.

        A lack counts where it is more than the rounding of J d and more than the residual of a certified answer
        (math.md, 41); a loss without a gradient of which a decrease is required is always among them.
        """
        m = len(self.names)
        asked = self.decrease > -np.inf
        missing = np.where(asked, self.decrease - self.predicted_decrease, 0.0).clip(min=0.0)
        lengths, certified = self.gradient_norms, m * rounding(m)
        sizes = np.abs(self.gramian) @ self.multipliers + np.abs(self.correlation) + missing
        units = np.where(lengths > 0, lengths, 1.0)
        allowed = rounding(m) * sizes + certified * units * float((sizes / units).max())
        lacking = (lengths == 0) & (missing > 0)
        if self.primal_residual > certified:
            lacking |= missing > allowed
        return tuple((self.names[i], float(missing[i])) for i in lacking.nonzero()[0])

    @property
    def relative_stationarity(self) -> float:
        """√δ / max ‖sᵢgᵢ‖ in [0, 1], free of units; 0 where every gradient is 0."""
        return float(np.sqrt(self.stationarity)) / self._largest_norm

    @property
    def relative_strong_stationarity(self) -> float:
        """‖r‖ / max ‖sᵢgᵢ‖, free of units; 0 where every gradient is 0."""
        return self.strong_stationarity / self._largest_norm

    @property
    def _largest_norm(self) -> float:
        """Return max ‖sᵢgᵢ‖, or 1 where it is 0."""
        return float((self.row_scales * self.gradient_norms).max()) or 1.0

    def to_dict(self) -> dict[str, float]:
        """Return the figures as a flat mapping of finite floats, for TensorBoard, W&B or a JSON line.

        Matrices, `row_scales` and a requirement of nothing, b = −∞, are left out.

        Example:
            >>> import torch, mgrad
            >>> report = mgrad.constrained_direction(torch.eye(2)).report
            >>> report.to_dict()["multiplier/0"]
            1.0
        """
        figures = {
            "stationarity": self.stationarity,
            "relative_stationarity": self.relative_stationarity,
            "strong_stationarity": self.strong_stationarity,
            "relative_strong_stationarity": self.relative_strong_stationarity,
            "objective_norm": self.objective_norm,
            "pull": self.pull,
            "direction_norm": self.direction_norm,
            "conflicts": len(self.conflicts),
            "smallest_cosine": self.cosines.min(),
            "iterations": self.iterations,
            "optimal": self.status is Status.OPTIMAL,
            "unmet": len(self.unmet),
            "duality_gap": self.duality_gap,
            "primal_residual": self.primal_residual,
            "dual_residual": self.dual_residual,
            "complementarity": self.complementarity,
        }
        columns = {
            "multiplier": self.multipliers,
            "gradient_norm": self.gradient_norms,
            "decrease": self.decrease,
            "predicted_decrease": self.predicted_decrease,
        }
        for label, values in columns.items():
            known = [(name, float(value)) for name, value in zip(self.names, values, strict=True) if value > -np.inf]
            figures |= {f"{label}/{name}": value for name, value in known}
        return {name: float(value) for name, value in figures.items()}

    def __str__(self) -> str:
        """Return a short table for people."""
        width = max(10, *(len(name) for name in self.names))
        lines = [
            f"{self.status.value}; {self.iterations} iterations, relative duality gap {self.duality_gap:.1e}",
            f"of max ‖sᵢgᵢ‖: √δ {self.relative_stationarity:.2e}, ‖r‖ {self.relative_strong_stationarity:.2e}",
            f"objective ‖g₀‖ {self.objective_norm:.3g}, pull {self.pull:.3g}; direction ‖d‖ {self.direction_norm:.3g}",
            f"{'constraint':<{width}}  {'gradient':>9}  {'multiplier':>10}  {'required':>10}  {'predicted':>10}",
        ]
        rows = zip(
            self.names, self.gradient_norms, self.multipliers, self.decrease, self.predicted_decrease, strict=True
        )
        lines += [
            f"{name:<{width}}  {norm:>9.3g}  {multiplier:>10.3g}  {required:>10.3g}  {predicted:>10.3g}"
            for name, norm, multiplier, required, predicted in rows
        ]
        lines += [f"unmet {name}: {missing:.3g} short of what is required" for name, missing in self.unmet]
        lines += [f"conflict {first} – {second}: cosine {cosine:.2f}" for first, second, cosine in self.conflicts]
        return "\n".join(lines)


class PendingReport(Pending, Report):
    """A report whose figures are still on a device.

    Looking raises a FloatingPointError where a gradient, or what came of it, is not finite.
    """

    def _raise(self, figures: Mapping[str, Array]) -> None:
        """Raise with the first constraint whose gradient is not finite."""
        if np.isnan(figures["row_scales"]).any() and np.isfinite(figures["gramian"]).all():
            name = self.names[int(np.isnan(figures["row_scales"]).argmax())]
            raise FloatingPointError(
                f'`normalise="loss"` must have positive losses. Found one that is not for the constraint {name!r}. The '
                'direction of that step was 0: use normalise="gradient", or leave out a loss that has reached 0.'
            )
        squares = [*np.diagonal(figures["gramian"]), figures["objective_norm"]]
        labels = [*(f"constraint {name!r}" for name in self.names), "the objective"]
        found = next((x for x, square in zip(labels, squares, strict=True) if not np.isfinite(square)), "every loss")
        raise FloatingPointError(
            f"the gradient of {found} must be finite, and its squared norm too, in float64. Found NaN, infinity or an "
            "overflow. The direction of that step was 0: skip such batches, lower the rate, or scale the losses down."
        )
