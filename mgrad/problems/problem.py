"""What a synthetic problem is: its losses, their gradients, and what is known of the answer.

In: parameters θ, tensors. Out: values, rows and points, tensors. May import: nothing of mgrad. Knows no optimizer.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize, minimize_scalar
from torch import Tensor

Array = NDArray[np.float64]
_FAR = 34.0  # e³⁴ = 6·10¹⁴: beyond that the lesser weight is rounding
_PRECISE: Any = {"ftol": 0.0, "gtol": 1e-15, "maxiter": 500}  # as far as rounding lets it


class Problem(ABC):
    """m losses of n parameters, with their gradients and what is known of their Pareto set.

    Losses and Jacobian take θ of any floating dtype, on any device, and answer in kind. What is known is float64, on
    the host.

    Args:
        name: of the problem.
        starts: points [k, n] to start from; the first is `start`.
        losses: m, how many losses there are.
        reference: where the problem is from.
        lipschitz: L [m] of the gradients, ‖∇fᵢ(x) − ∇fᵢ(y)‖ ≤ Lᵢ‖x − y‖ everywhere; ∞ of a loss whose curvature has no
            bound, and of all if left out; `lipschitz_near` has finite ones.
        ideal: the infimum of each loss by itself [m]; None where it is not known.

    Attributes:
        names: of the losses, as the optimizer names those of a sequence: "0", "1", ….
    """

    def __init__(
        self,
        name: str,
        starts: Tensor,
        losses: int,
        reference: str,
        *,
        lipschitz: Tensor | None = None,
        ideal: Tensor | None = None,
    ) -> None:
        """Keep what is known."""
        self.name = name
        self.starts = starts
        self.names = tuple(str(i) for i in range(losses))
        self.reference = reference
        self.lipschitz = torch.full((losses,), torch.inf, dtype=torch.float64) if lipschitz is None else lipschitz
        self.ideal = ideal

    @property
    def size(self) -> int:
        """The number n of parameters."""
        return self.starts.shape[1]

    @property
    def start(self) -> Tensor:
        """The first of the points to start from [n]."""
        return self.starts[0]

    @abstractmethod
    def losses(self, theta: Tensor) -> Tensor:
        """Return the losses, differentiable by autograd.

        Args:
            theta: θ [..., n].

        Returns:
            f [..., m].
        """

    @abstractmethod
    def jacobian(self, theta: Tensor) -> Tensor:
        """Return the gradients in closed form.

        Args:
            theta: θ [n].

        Returns:
            J [m, n], row i = ∇fᵢ; where a loss has a kink, what autograd says there.
        """

    def lipschitz_near(self, theta: Tensor, radius: float) -> Tensor:
        """Return constants that hold for the gradients between any two points of a ball (math.md, 103).

        Args:
            theta: θ [n], the centre.
            radius: ≥ 0.

        Returns:
            L [m], no more than `lipschitz`; ∞ for a loss that may have a kink in the ball.
        """
        return self.lipschitz

    def pareto_point(self, weights: Tensor | Sequence[float]) -> Tensor | None:
        """Return a Pareto-optimal point for each w: as w runs over the simplex, it runs over the Pareto set.

        Where the losses are convex it minimises Σ wᵢfᵢ; elsewhere w is no more than a place on the front.

        Args:
            weights: w [m] ≥ 0, not all 0; only their ratios matter.

        Returns:
            θ [n]; None where no parametrisation is known.
        """
        return None

    def nearest(self, theta: Tensor) -> Tensor | None:
        """Return the Pareto-optimal point that is nearest to another: from θ₀, the least-forgetting one.

        A point is Pareto-optimal where it is the nearest to itself.

        Args:
            theta: θ [n].

        Returns:
            The point [n]; None where it is not known.
        """
        return None

    def __repr__(self) -> str:
        """Show name and sizes."""
        return f"<{self.name}: m = {len(self.names)}, n = {self.size}>"


def simplex(call: str, weights: Tensor | Sequence[float], size: int) -> Tensor:
    """Bring weights to the sum 1.

    Args:
        call: as the user wrote it.
        weights: w [m].
        size: m.

    Returns:
        w / Σw, float64 on the host.

    Raises:
        ValueError: for another number of them, a negative one or one that is not finite, or all 0.
    """
    values = torch.as_tensor(weights, dtype=torch.float64).detach().cpu()
    if values.shape != (size,) or not values.isfinite().all() or values.min() < 0 or not values.any():
        raise ValueError(
            f"`{call}` must be {size} finite weights ≥ 0, not all 0. Found {values.tolist()}. Pass one for each loss."
        )
    return values / values.sum()


def of_blocks(first: float, between: float, others: float) -> float:
    """Return the larger eigenvalue of ((first, between), (between, others)).

    A symmetric matrix in blocks of no larger spectral norms has no larger a norm.
    """
    return 0.5 * (first + others + math.hypot(first - others, 2 * between))


def nearest_on_curve(curve: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """Find the point of a Pareto set of two losses that is nearest to θ.

    The curve is searched in log(w₁/w₀), evenly: where the losses are of very different curvature it moves at weights
    that are very different, too. Then within the best interval, to some 10⁻⁸ of the distance.

    Args:
        curve: w [2] → point [n], float64.
        theta: θ [n].

    Returns:
        The point [n].

    Cost: some 300 points of the curve.
    """
    theta = theta.detach().double().cpu()

    def point(u: float) -> Tensor:
        return curve(torch.tensor([1 / (1 + np.exp(u)), 1 / (1 + np.exp(-u))], dtype=torch.float64))

    def distance(u: float) -> float:
        return float((point(u) - theta).norm())

    grid = np.linspace(-_FAR, _FAR, 205)
    best = int(np.argmin([distance(u) for u in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(distance, bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    ends = [curve(torch.tensor(end, dtype=torch.float64)) for end in ([1.0, 0.0], [0.0, 1.0])]
    return min([point(float(found.x)), *ends], key=lambda at: float((at - theta).norm()))


def nearest_on_surface(
    surface: Callable[[Tensor], Tensor], move: Callable[[Tensor, Tensor, Tensor], Tensor], theta: Tensor, losses: int
) -> Tensor:
    """Find the point of a Pareto set of strictly convex losses that is nearest to θ.

    Every side of the simplex is searched by itself, two losses as a curve, more by descents over the logarithms of the
    weights from a coarse grid, with the derivatives (102). The best counts; it is where it is to some 10⁻⁸ of the
    distance.

    Args:
        surface: w [m] → P(w) [n], the minimiser of Σ wᵢfᵢ, float64.
        move: w [m], P [n], x [n] → −∇fᵢ(P)ᵀA⁻¹x [m], A the Hessian of Σ wᵢfᵢ at P.
        theta: θ [n].
        losses: m.

    Returns:
        The point [n].

    Cost: some 300 points of the surface for each pair, some 50·3ᵏ⁻¹ for each k > 2 of the losses.
    """
    theta = theta.detach().double().cpu()

    def nearest_of(face: tuple[int, ...]) -> Tensor:
        def weights(w: Tensor) -> Tensor:
            return torch.zeros(losses, dtype=torch.float64).index_copy(0, torch.tensor(face), w)

        if len(face) == 1:
            return surface(weights(torch.ones(1, dtype=torch.float64)))
        if len(face) == 2:
            return nearest_on_curve(lambda w: surface(weights(w)), theta)

        def distance(logits: Array) -> tuple[float, Array]:
            w = torch.as_tensor(np.append(logits, 0.0)).softmax(0)
            point = surface(weights(w))
            slope = move(weights(w), point, point - theta)[list(face)]
            return float((point - theta).square().sum()) / 2, (w * (slope - w @ slope))[:-1].numpy()

        free = len(face) - 1
        box = Bounds(np.full(free, -_FAR), np.full(free, _FAR))
        grid = map(np.array, product((-8.0, 0.0, 8.0), repeat=free))
        found = [minimize(distance, u, jac=True, bounds=box, options=_PRECISE) for u in grid]
        best = min(found, key=lambda one: float(one.fun))
        return surface(weights(torch.as_tensor(np.append(best.x, 0.0)).softmax(0)))

    faces = (face for size in range(1, losses + 1) for face in combinations(range(losses), size))
    return min(map(nearest_of, faces), key=lambda at: float((at - theta).norm()))
