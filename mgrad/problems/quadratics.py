"""Convex quadratics: the Pareto set is known for any number of parameters and any condition.

May import: problems.problem.
"""

from collections.abc import Sequence
from itertools import chain, combinations, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize
from torch import Tensor

from mgrad.problems.problem import Problem, nearest_on_curve, simplex

Array = NDArray[np.float64]
_PRECISE: Any = {"ftol": 0.0, "gtol": 1e-15, "maxiter": 500}  # as far as rounding lets it


class Quadratics(Problem):
    """fᵢ = ½(θ − cᵢ)ᵀHᵢ(θ − cᵢ), Hᵢ = P diag(hᵢ) P, P = 1 − 2vvᵀ/‖v‖² a reflection or 1 (math.md, 90).

    With one Hessian for all, up to factors, the Pareto set is the convex hull of the centres; with different ones it is
    the curve (the surface for m > 2) of the minimisers of Σ wᵢfᵢ.

    Args:
        centres: c [m, n], where each loss is least.
        curvatures: h [m, n] > 0, the eigenvalues of the Hessians.
        mirror: v [n] ≠ 0, so that the Hessians are not diagonal; None for P = 1.
        starts: points to start from [k, n]; 0 if left out.
        name: of the problem.

    Raises:
        ValueError: for shapes that do not fit or a curvature ≤ 0.

    Cost: O(mn) of every method, also with a mirror; `nearest` with one Hessian 2ᵐ least-squares problems, with
        different ones some 300 Pareto points for each pair, and some 50·3ᵏ⁻¹ for each k > 2 of the losses.

    Example:
        >>> import torch
        >>> problem = Quadratics(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.ones(2, 2))
        >>> problem.losses(torch.zeros(2)).tolist(), problem.nearest(torch.tensor([0.5, 2.0])).tolist()
        ([0.5, 0.5], [0.5, 0.0])
    """

    def __init__(
        self,
        centres: Tensor,
        curvatures: Tensor,
        *,
        mirror: Tensor | None = None,
        starts: Tensor | None = None,
        name: str = "quadratics",
    ) -> None:
        """Keep the data in float64."""
        if centres.ndim != 2 or curvatures.shape != centres.shape or not (curvatures > 0).all():
            raise ValueError(
                "`Quadratics(centres, curvatures)` must be of one shape [m, n], the curvatures positive. Found "
                f"{list(centres.shape)} and {list(curvatures.shape)}, the least {float(curvatures.min())}. Pass one "
                "row for each loss."
            )
        m, n = centres.shape
        self.centres, self.curvatures = centres.double(), curvatures.double()
        self.mirror = None if mirror is None else mirror.double() / mirror.double().norm()
        ratios = self.curvatures / self.curvatures[0]
        self.shared = bool((ratios == ratios[:, :1]).all())
        super().__init__(
            name,
            torch.zeros(1, n, dtype=torch.float64) if starts is None else starts.double(),
            m,
            "convex quadratics; the Pareto set is derived in docs/math.md",
            lipschitz=self.curvatures.amax(1),
            ideal=torch.zeros(m, dtype=torch.float64),
        )

    @classmethod
    def random(
        cls, n: int, m: int, *, condition: float, shared: bool = False, mirrored: bool = True, seed: int = 0
    ) -> "Quadratics":
        """Draw centres, and curvatures from 1/condition to 1, evenly in the logarithm and in any order.

        Args:
            n: number of parameters.
            m: number of losses.
            condition: of each Hessian, ≥ 1.
            shared: whether the losses have one Hessian.
            mirrored: whether the Hessians are not diagonal.
            seed: of the random numbers.

        Returns:
            The problem, with three points to start from.
        """
        rng = np.random.default_rng(seed)
        values = np.geomspace(1 / condition, 1.0, n)
        orders = [rng.permutation(n) for _ in range(m)]
        curvatures = np.stack([values[orders[0] if shared else order] for order in orders])
        kind = "one Hessian" if shared else "different Hessians"
        return cls(
            torch.as_tensor(rng.standard_normal((m, n))),
            torch.as_tensor(curvatures),
            mirror=torch.as_tensor(rng.standard_normal(n)) if mirrored else None,
            starts=torch.as_tensor(3 * rng.standard_normal((3, n))),
            name=f"quadratics, {kind}, condition {condition:g}, m = {m}, n = {n}",
        )

    def _reflect(self, x: Tensor) -> Tensor:
        """Return P x for x [..., n]."""
        if self.mirror is None:
            return x
        v = self.mirror.to(x)
        return torch.sub(x, (x @ v).unsqueeze(-1) * v, alpha=2)

    def losses(self, theta: Tensor) -> Tensor:
        """Return ½(θ − cᵢ)ᵀHᵢ(θ − cᵢ)."""
        apart = self._reflect(theta.unsqueeze(-2) - self.centres.to(theta))
        return (self.curvatures.to(theta) * apart.square()).sum(-1) / 2

    def jacobian(self, theta: Tensor) -> Tensor:
        """Return the rows Hᵢ(θ − cᵢ)."""
        apart = self._reflect(theta.detach() - self.centres.to(theta))
        return self._reflect(self.curvatures.to(theta) * apart)

    def pareto_point(self, weights: Tensor | Sequence[float]) -> Tensor:
        """Return (Σ wᵢHᵢ)⁻¹ Σ wᵢHᵢcᵢ, the minimiser of Σ wᵢfᵢ (math.md, 90)."""
        w = simplex("pareto_point(weights)", weights, len(self.names))
        parts = w[:, None] * self.curvatures
        return self._reflect((parts * self._reflect(self.centres)).sum(0) / parts.sum(0))

    def nearest(self, theta: Tensor) -> Tensor:
        """Return the nearest point of the hull (one Hessian), of the curve (m = 2), or of the surface (m > 2).

        On the surface it is the best of many local searches, on it and on each of its sides (math.md, 102).
        """
        theta = theta.detach().double().cpu()
        if self.shared:
            return nearest_in_hull(self.centres, theta)
        found = []
        for size in range(2, len(self.names) + 1):
            for face in map(list, combinations(range(len(self.names)), size)):
                some = Quadratics(self.centres[face], self.curvatures[face], mirror=self.mirror)
                found.append(nearest_on_curve(some.pareto_point, theta) if size == 2 else some._nearest_inside(theta))
        return min(found, key=lambda at: float((at - theta).norm()))

    def _nearest_inside(self, theta: Tensor) -> Tensor:
        """Return the nearest of what descents find over the logarithms of the weights, from a coarse grid."""
        m = len(self.names)

        def distance(logits: Array) -> tuple[float, Array]:
            w = torch.as_tensor(np.append(logits, 0.0)).softmax(0)
            point = self.pareto_point(w)
            curvature = (w[:, None] * self.curvatures).sum(0)
            apart = self._reflect(self._reflect(point - theta) / curvature)
            slope = -self.jacobian(point) @ apart
            return float((point - theta).square().sum()) / 2, (w * (slope - w @ slope))[:-1].numpy()

        box = Bounds(np.full(m - 1, -34.0), np.full(m - 1, 34.0))
        grid = map(np.array, product((-8.0, 0.0, 8.0), repeat=m - 1))
        found = [minimize(distance, u, jac=True, bounds=box, options=_PRECISE) for u in grid]
        best = min(found, key=lambda one: float(one.fun))
        return self.pareto_point(torch.as_tensor(np.append(best.x, 0.0)).softmax(0))


def nearest_in_hull(corners: Tensor, theta: Tensor) -> Tensor:
    """Find the point of a convex hull that is nearest to θ, by trying every face.

    The projection on the affine span of some corners counts if it is between them; the nearest of those is it.

    Args:
        corners: [m, n] float64.
        theta: θ [n] float64.

    Returns:
        The point [n].

    Cost: 2ᵐ least-squares problems.
    """
    m = len(corners)
    candidates: list[Tensor] = list(corners)
    for face in chain.from_iterable(combinations(range(m), size) for size in range(2, m + 1)):
        first, *others = (corners[i] for i in face)
        edges = torch.stack(others) - first
        shares = torch.linalg.pinv(edges).T @ (theta - first)
        if shares.min() >= 0 and shares.sum() <= 1:
            candidates.append(first + shares @ edges)
    return min(candidates, key=lambda at: float((at - theta).norm()))
