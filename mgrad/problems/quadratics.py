"""Convex quadratics: the Pareto set is known for any number of parameters and any condition.

May import: problems.problem.
"""

from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np
import torch
from torch import Tensor

from mgrad.problems.problem import Problem, nearest_on_surface, simplex


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
        """Return the nearest point of the hull (one Hessian), or of the curve or surface (math.md, 102)."""
        theta = theta.detach().double().cpu()
        if self.shared:
            return nearest_in_hull(self.centres, theta)
        return nearest_on_surface(self.pareto_point, self._move, theta, len(self.names))

    def _move(self, w: Tensor, point: Tensor, apart: Tensor) -> Tensor:
        """Return −∇fᵢ(P)ᵀA⁻¹x [m] (math.md, 102)."""
        return -self.jacobian(point) @ self._reflect(self._reflect(apart) / (w @ self.curvatures))


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
