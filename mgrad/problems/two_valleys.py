"""The toy problem with two valleys on which CAGrad and Nash-MTL are shown. May import: problems.problem."""

import math
from collections.abc import Sequence

import torch
from scipy.optimize import brentq
from torch import Tensor

from mgrad.problems.problem import Problem, nearest_on_curve, of_blocks, simplex

_LOWER = 5e-6


class TwoValleys(Problem):
    """Each loss has a narrow valley above y = 0, a bowl below, and they meet at y = 0, where both are 0 (math.md, 95).

    With θ = (x, y), τ = tanh y and the centres ±7 of the bowls, for the signs + and −,

        f = c·(log max(|½(−x ∓ 7) ± τ|, 5·10⁻⁶) + 6) + e·(((x ∓ 7)² + (y + 8)²/10)/10 − 20),
        c = max(0, tanh ½y),   e = max(0, tanh(−½y)),

    that is |½(x + 7) − τ| and |½(x − 7) + τ| in the logarithms. The Pareto set is a curve of the lower half,
    −7 ≤ x ≤ 7, with y = −8.3551 in the middle (the authors draw a straight line, at −8.3552) and −8.4345 at the
    ends; in the upper half there are other stationary points, in the valleys, whose floors are kinks.

    Args:
        scale: of the first loss: 1 for CAGrad, 0.1 for Nash-MTL.

    Source: Liu et al. 2021 (CAGrad), toy.py; Navon et al. 2022 (Nash-MTL), whose starts come after those of CAGrad.

    Example:
        >>> TwoValleys().pareto_point([1.0, 1.0])
        tensor([ 0.0000, -8.3551], dtype=torch.float64)
    """

    def __init__(self, scale: float = 1.0) -> None:
        """Set starts and scale."""
        self.scale = torch.tensor([scale, 1.0], dtype=torch.float64)
        starts = [[-8.5, 7.5], [-8.5, -5.0], [9.0, 9.0], [-7.5, -0.5], [9.0, -1.0], [0.0, 0.0]]
        super().__init__(
            f"two valleys, scale {scale:g}",
            torch.tensor(starts, dtype=torch.float64),
            2,
            "Liu et al. 2021, Conflict-averse gradient descent; Navon et al. 2022, Multi-task learning as a bargaining "
            "game",
        )
        ends = [self.pareto_point(end) for end in ([1.0, 0.0], [0.0, 1.0])]
        self.ideal = torch.stack([self.losses(end)[i] for i, end in enumerate(ends)])

    @staticmethod
    def _parts(theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the insides of the logarithms, without |·|, and the bowls [..., 2]; tanh y and tanh ½y [..., 1]."""
        x, y = theta[..., :1], theta[..., 1:]
        side = torch.tensor([1.0, -1.0], dtype=theta.dtype, device=theta.device)
        inside = 0.5 * (x + 7 * side) - side * y.tanh()
        bowl = ((x - 7 * side).square() + 0.1 * (y + 8).square()) / 10 - 20
        return inside, bowl, y.tanh(), (0.5 * y).tanh()

    def losses(self, theta: Tensor) -> Tensor:
        """Return the two losses."""
        inside, bowl, _, half = self._parts(theta)
        valley = inside.abs().clamp(min=_LOWER).log() + 6
        return self.scale.to(theta) * (valley * half.clamp(min=0.0) + bowl * (-half).clamp(min=0.0))

    def jacobian(self, theta: Tensor) -> Tensor:
        """Return the rows; at y = 0 the sum of those of either side, as autograd does."""
        theta = theta.detach()
        inside, bowl, tau, half = self._parts(theta)
        side = torch.tensor([1.0, -1.0], dtype=theta.dtype, device=theta.device)
        kept = torch.where(inside.abs() >= _LOWER, 1 / inside, 0.0)
        above, below = (half >= 0).to(theta), (half <= 0).to(theta)
        turn = 0.5 * (1 - half.square())
        valley = inside.abs().clamp(min=_LOWER).log() + 6
        by_x = half * (above * 0.5 * kept - below * (theta[0] - 7 * side) / 5)
        by_y = turn * (above * valley - below * bowl)
        by_y = by_y - half * (above * side * (1 - tau.square()) * kept + below * (theta[1] + 8) / 50)
        return self.scale.to(theta)[:, None] * torch.stack([by_x, by_y], 1)

    def lipschitz_near(self, theta: Tensor, radius: float) -> Tensor:
        """Return those of the ball; ∞ where it meets y = 0, or where |…| in a logarithm may come down to 5·10⁻⁶."""
        theta = theta.detach().double().cpu()
        x, y = theta.tolist()
        inside, bowl, *_ = self._parts(theta)
        low, high = abs(y) - radius, abs(y) + radius
        if low <= 0:
            return torch.full((2,), math.inf, dtype=torch.float64)
        size = math.tanh(0.5 * high)  # of c or e, whose derivatives come to slope and bend
        slope = 0.5 * _slope_of_tanh(0.5 * low)
        bend = slope * size
        found = []
        for centre, u, height in zip((7.0, -7.0), inside.abs().tolist(), bowl.tolist(), strict=True):
            if y < 0:
                along, down = (abs(x - centre) + radius) / 5, (abs(y + 8) + radius) / 50  # of the bowl's gradient
                most = abs(height) + math.hypot(along, down) * radius
                found.append(of_blocks(size / 5, slope * along, bend * most + 2 * slope * down + size / 50))
            else:
                steep, curved = math.hypot(0.5, _slope_of_tanh(low)), 2 * math.tanh(high) * _slope_of_tanh(low)
                least, most = u - steep * radius, u + steep * radius
                if least < _LOWER:
                    found.append(math.inf)
                    continue
                valley = max(abs(math.log(least) + 6), abs(math.log(most) + 6))
                share = steep / least
                found.append(size * (curved / least + share**2) + 2 * slope * share + bend * valley)
        return self.scale * torch.tensor(found, dtype=torch.float64)

    def pareto_point(self, weights: Tensor | Sequence[float]) -> Tensor:
        """Return the minimiser of the weighted bowls, w of the losses without scale: x = 7(w₀ − w₁), y by (95)."""
        w = simplex("pareto_point(weights)", weights, 2)
        x = 7 * float(w[0] - w[1])

        def slope(y: float) -> float:
            half = torch.tensor(0.5 * y, dtype=torch.float64).tanh().item()
            mean = (49 - x * x + 0.1 * (y + 8) ** 2) / 10 - 20
            return 0.5 * (1 - half * half) * mean + half * (y + 8) / 50

        return torch.tensor([x, float(brentq(slope, -9.0, -8.0, xtol=1e-15))], dtype=torch.float64)

    def nearest(self, theta: Tensor) -> Tensor:
        """Return the nearest point of the curve."""
        return nearest_on_curve(self.pareto_point, theta)


def _slope_of_tanh(y: float) -> float:
    """Return 1 − tanh² y for y ≥ 0, without overflow or cancellation."""
    small = math.exp(-2 * y)
    return 4 * small / (1 + small) ** 2
