"""The three quadratic programmes that are timed, made from gradient rows as mgrad makes them.

In: J [m, n]. Out: `Problem`. May import: numpy, mgrad.solvers, mgrad.stationarity.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mgrad.solvers import Array, Domain, DualSolution, solve
from mgrad.stationarity import conflict_free, pareto_stationarity

MARGIN = 0.5  # of KeepPace
LIMIT = 1e4  # of `LessForgetting`: where the multipliers are bounded


@dataclass(frozen=True)
class Problem:
    """Minimise ½xᵀGx + qᵀx over x ≥ 0 or the simplex.

    Attributes:
        gramian: G [m, m].
        linear: q [m].
        domain: of x.
        bound: on Σ xᵢ√Gᵢᵢ, where mgrad sets it: far from the answer. None on the simplex.
        rows: J [m, n].
        pull: p [n], where there is one.
    """

    gramian: Array
    linear: Array
    domain: Domain
    bound: float | None
    rows: Array
    pull: Array | None = None

    @cached_property
    def optimum(self) -> DualSolution:
        """The certified answer; of the problem without its bound, as the others solve it."""
        return solve(self.gramian, self.linear, domain=self.domain)

    @cached_property
    def scale(self) -> float:
        """What a difference of objectives is measured in: M of the certificate (math.md, 22) at the optimum.

        Where the optimum is x = 0 that is 0; so it is at least what one multiplier alone can move, max qᵢ²/Gᵢᵢ.
        """
        x, lengths = self.optimum.multipliers, np.diagonal(self.gramian)
        magnitude = float(x @ (np.abs(self.gramian) @ x + np.abs(self.linear)))
        alone = float((self.linear**2 / np.where(lengths > 0, lengths, np.inf)).max())
        return max(magnitude, alone) or 1.0

    def objective(self, x: Array) -> float:
        """Return ½xᵀGx + qᵀx."""
        return float(0.5 * x @ self.gramian @ x + self.linear @ x)

    def excess(self, x: Array) -> float:
        """Return how far above the optimum x is after clipping to the domain, relative to `scale`."""
        inside = np.maximum(x, 0.0)
        if self.domain == "simplex":
            inside /= inside.sum()
        return (self.objective(inside) - self.objective(self.optimum.multipliers)) / self.scale


def cone(J: Array) -> Problem:
    """Project the sum of the gradients on the dual cone of the rows: x ≥ 0, q = G·1 (math.md, 3, with floor 0)."""
    G = J @ J.T
    return Problem(G, G.sum(axis=1), "nonnegative", LIMIT * float(np.sqrt(np.diagonal(G)).sum()), J)


def direction(J: Array) -> Problem:
    """Ask for the decrease b of KeepPace against a pull p: x ≥ 0, q = c − b (math.md, 2).

    p is as long as r and points against the sum of the rows at length 1, turned aside by as much again: back to where
    training came from.
    """
    G, m = J @ J.T, len(J)
    pace, _ = conflict_free(G, np.ones(m), MARGIN * pareto_stationarity(G).stationarity, LIMIT)
    norms = np.sqrt(np.diagonal(G))
    back = (J / norms[:, None]).sum(axis=0)
    aside = np.random.default_rng(m).standard_normal(len(back))
    back /= np.linalg.norm(back)
    pull = -back + aside / np.linalg.norm(aside)
    pull *= np.sqrt(pace @ G @ pace) / np.linalg.norm(pull)
    b = G @ pace
    bound = LIMIT * (float(np.linalg.norm(pull)) + float((b / norms).max()))
    return Problem(G, J @ pull - b, "nonnegative", bound, J, pull)


def min_norm(J: Array) -> Problem:
    """Find the shortest vector in the hull of the rows: simplex, q = 0 (math.md, 7)."""
    return Problem(J @ J.T, np.zeros(len(J)), "simplex", None, J)


PROBLEMS: dict[str, Callable[[Array], Problem]] = {"cone": cone, "direction": direction, "min-norm": min_norm}
