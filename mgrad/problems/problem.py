"""What a synthetic problem is: its losses, their gradients, and what is known of the answer.

In: parameters θ, tensors. Out: values, rows and points, tensors. May import: nothing of mgrad. Knows no optimizer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor


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
            bound, and of all if left out.
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

    grid = np.linspace(-34.0, 34.0, 205)  # e³⁴ = 6·10¹⁴: beyond that the lesser weight is rounding
    best = int(np.argmin([distance(u) for u in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(distance, bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    ends = [curve(torch.tensor(end, dtype=torch.float64)) for end in ([1.0, 0.0], [0.0, 1.0])]
    return min([point(float(found.x)), *ends], key=lambda at: float((at - theta).norm()))
