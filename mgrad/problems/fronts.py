"""Test problems of multi-objective optimization with known fronts, smooth and without bounds on the variables.

Where the published form bounds a variable, it is squashed: x = σ(θ) for a variable that moves along the front, so that
the ends of the front are at infinity, and √(1 + θ²) − 1, a smooth |θ|, for one that is 0 on the front.
May import: problems.problem.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mgrad.problems.problem import Problem, of_blocks, simplex


def _starts(n: int, seed: int) -> Tensor:
    """Draw three points [3, n] to start from."""
    return torch.as_tensor(np.random.default_rng(seed).standard_normal((3, n)))


class FonsecaFleming(Problem):
    """f = 1 − exp(−‖θ ∓ a‖²), a = 1/√n in every coordinate: two wells, neither convex (math.md, 91).

    The Pareto set is the segment from −a to a; no other point is even weakly stationary. Far away the gradients vanish.

    Args:
        n: number of parameters.

    Source: Fonseca & Fleming 1995.

    Example:
        >>> FonsecaFleming(4).nearest(torch.tensor([1.0, -1.0, 0.5, 0.1])).tolist()
        [0.15..., 0.15..., 0.15..., 0.15...]
    """

    def __init__(self, n: int = 2) -> None:
        """Set the centres."""
        self.centres = torch.tensor([[1.0], [-1.0]], dtype=torch.float64).expand(2, n) / math.sqrt(n)
        starts = _starts(n, 1) * torch.tensor([[1.0], [0.5], [2.0]], dtype=torch.float64) / math.sqrt(n)
        super().__init__(
            f"Fonseca-Fleming, n = {n}",
            starts,
            2,
            "Fonseca & Fleming 1995, An overview of evolutionary algorithms in multiobjective optimization",
            lipschitz=torch.full((2,), 2.0, dtype=torch.float64),
            ideal=torch.zeros(2, dtype=torch.float64),
        )

    def losses(self, theta: Tensor) -> Tensor:
        """Return 1 − exp(−‖θ ∓ a‖²)."""
        return 1 - torch.exp(-(theta.unsqueeze(-2) - self.centres.to(theta)).square().sum(-1))

    def jacobian(self, theta: Tensor) -> Tensor:
        """Return the rows 2(θ ∓ a)·exp(−‖θ ∓ a‖²)."""
        apart = theta.detach() - self.centres.to(theta)
        return 2 * apart * torch.exp(-apart.square().sum(1, keepdim=True))

    def pareto_point(self, weights: Tensor | Sequence[float]) -> Tensor:
        """Return (w₀ − w₁)a."""
        return simplex("pareto_point(weights)", weights, 2) @ self.centres

    def nearest(self, theta: Tensor) -> Tensor:
        """Return the projection on the segment."""
        end = 1 / math.sqrt(self.size)
        return theta.detach().double().cpu().mean().clamp(-end, end).expand(self.size)


# Where the front of ZDT3 is: intervals of f₀, from one minimum of 1 − √x − x sin 10πx to the next lower one.
_PIECES = torch.tensor(
    [
        [0.0, 0.0830015349269116],
        [0.1822287280293998, 0.2577623633878303],
        [0.4093136748086568, 0.4538821040888302],
        [0.6183967944392659, 0.6525117038046625],
        [0.8233317983266328, 0.8518328654364139],
    ],
    dtype=torch.float64,
)
_ZDT3_LEAST = -0.7733690123266405

# The largest first and second derivatives along θ of x = σ(θ) and of what the losses make of it (math.md, 100 and 103).
_LOGISTIC_BEND = 1 / (6 * math.sqrt(3))
_ROOT_SLOPE, _ROOT_SHARE = 1 / (3 * math.sqrt(3)), (6 + math.sqrt(21)) / 15  # of √x; where that bends most
_ROOT_BEND = 0.25 * math.sqrt(_ROOT_SHARE) * (1 - _ROOT_SHARE) * (3 * _ROOT_SHARE - 1)
_SQUARE_SHARE = (15 - math.sqrt(33)) / 24
_SQUARE_BEND = 2 * _SQUARE_SHARE**2 * (1 - _SQUARE_SHARE) * (2 - 3 * _SQUARE_SHARE)
_WAVE_BEND = 33.5669227193  # of x·sin 10πx


class ZDT(Problem):
    """f₀ = x, f₁ = g·φ(x, g), x = σ(θ₀), g = 1 + 9/(n − 1) Σ (√(1 + θ_k²) − 1) over k ≥ 1 (math.md, 92).

    φ = 1 − √(x/g) is number 1, convex; 1 − (x/g)² number 2, concave; 1 − √(x/g) − (x/g) sin 10πx number 3, in pieces.
    The Pareto set is θ_k = 0 for k ≥ 1 with any θ₀, in number 3 with σ(θ₀) in five intervals. Beyond their ends some
    points of the line are still stationary: those where f₁ falls with x. In numbers 1 and 3 the curvature of √(xg)
    along θ₀ grows with √g; that of number 2 is bounded by (100).

    Args:
        number: 1, 2 or 3.
        n: number of parameters, ≥ 2.

    Raises:
        ValueError: for another number or size.

    Source: Zitzler, Deb & Thiele 2000.

    Example:
        >>> ZDT(2, 3).losses(torch.zeros(3)).tolist()
        [0.5, 0.75]
    """

    def __init__(self, number: int, n: int = 10) -> None:
        """Check number and size."""
        if number not in {1, 2, 3} or n < 2:
            raise ValueError(
                f"`ZDT(number, n)` must be number 1, 2 or 3 with n ≥ 2. Found {number} and {n}. Choose one of "
                "the three."
            )
        self.number = number
        slope = 9 / (n - 1)
        second = of_blocks(_SQUARE_BEND, math.sqrt(slope / 54), 2 * slope) if number == 2 else math.inf
        super().__init__(
            f"ZDT{number}, n = {n}",
            _starts(n, number + 1),
            2,
            "Zitzler, Deb & Thiele 2000, Comparison of multiobjective evolutionary algorithms",
            lipschitz=torch.tensor([_LOGISTIC_BEND, second], dtype=torch.float64),
            ideal=torch.tensor([0.0, _ZDT3_LEAST if number == 3 else 0.0], dtype=torch.float64),
        )

    def _height(self, theta: Tensor) -> Tensor:
        """Return g [...]."""
        tail = theta[..., 1:]
        return 1 + 9 * (torch.hypot(tail, torch.ones_like(tail)) - 1).mean(-1)

    def losses(self, theta: Tensor) -> Tensor:
        """Return x and g·φ(x, g)."""
        x, g = torch.sigmoid(theta[..., 0]), self._height(theta)
        second = g - x.square() / g if self.number == 2 else g - (x * g).sqrt()
        if self.number == 3:
            second = second - x * torch.sin(10 * math.pi * x)
        return torch.stack([x, second], -1)

    def jacobian(self, theta: Tensor) -> Tensor:
        """Return the rows, by the chain rule through x and g."""
        theta = theta.detach()
        x, g, tail = torch.sigmoid(theta[0]), self._height(theta), theta[1:]
        if self.number == 2:
            by_x, by_g = -2 * x / g, 1 + (x / g).square()
        else:
            by_x, by_g = -0.5 * (g / x).sqrt(), 1 - 0.5 * (x / g).sqrt()
        if self.number == 3:
            angle = 10 * math.pi * x
            by_x = by_x - torch.sin(angle) - angle * torch.cos(angle)
        rows = torch.zeros(2, self.size, dtype=theta.dtype, device=theta.device)
        rows[:, 0] = torch.stack([torch.ones_like(x), by_x]) * x * torch.sigmoid(-theta[0])
        rows[1, 1:] = by_g * 9 / len(tail) * tail / torch.hypot(tail, torch.ones_like(tail))
        return rows

    def lipschitz_near(self, theta: Tensor, radius: float) -> Tensor:
        """Return those of the ball; the curvature of f₁ grows with the largest √g in it, but for number 2."""
        if self.number == 2:
            return self.lipschitz
        slope, tail = 9 / (self.size - 1), theta.detach().double().cpu()[1:]
        steepest = float((slope * tail / torch.hypot(tail, torch.ones_like(tail))).norm())
        rise = min(3 * math.sqrt(slope), steepest + 0.5 * slope * radius)  # ‖∇g‖ has either bound
        height = float(self._height(theta.detach().double().cpu())) + rise * radius
        first = _ROOT_BEND * math.sqrt(height) + (_WAVE_BEND if self.number == 3 else 0.0)
        between = _ROOT_SLOPE * math.sqrt(0.5 * slope * (1 - 1 / height))
        return torch.tensor([_LOGISTIC_BEND, of_blocks(first, between, slope)], dtype=torch.float64)

    def pareto_point(self, weights: Tensor | Sequence[float]) -> Tensor:
        """Return the point with x = w₁, in number 3 with x at that share of the length of the intervals; w > 0."""
        share = simplex("pareto_point(weights)", weights, 2)[1]
        point = torch.zeros(self.size, dtype=torch.float64)
        if self.number == 3:
            lengths = _PIECES[:, 1] - _PIECES[:, 0]
            before = lengths.cumsum(0) - lengths
            piece = int((before <= share * lengths.sum()).sum()) - 1
            share = _PIECES[piece, 0] + share * lengths.sum() - before[piece]
        point[0] = torch.logit(share)
        return point

    def nearest(self, theta: Tensor) -> Tensor:
        """Return θ₀, in number 3 the nearest of the intervals, with zeros after it."""
        point = torch.zeros(self.size, dtype=torch.float64)
        point[0] = first = theta.detach().double().cpu()[0]
        if self.number == 3:
            within = first.clamp(*torch.logit(_PIECES).unbind(1))
            point[0] = within[(within - first).abs().argmin()]
        return point


class DTLZ2(Problem):
    """f = (1 + g)·s(φ), s the direction of the angles φ_j = ½πσ(θ_j), g = Σ θ_k² over k ≥ m − 1 (math.md, 93).

    The front is the part of the unit sphere where all losses are positive, the Pareto set θ_k = 0 for k ≥ m − 1; no
    other point is even weakly stationary, and each of these strongly. The curvature along an angle grows with g.

    Args:
        m: number of losses, ≥ 2.
        n: number of parameters, ≥ m.

    Raises:
        ValueError: for other sizes.

    Source: Deb, Thiele, Laumanns & Zitzler 2002; the distance variables are x − ½.

    Example:
        >>> problem = DTLZ2(3, 5)
        >>> problem.losses(problem.pareto_point([0.25, 0.25, 0.5])).square()
        tensor([0.2500, 0.2500, 0.5000], dtype=torch.float64)
    """

    def __init__(self, m: int = 3, n: int = 12) -> None:
        """Check the sizes."""
        if not 2 <= m <= n:
            raise ValueError(f"`DTLZ2(m, n)` must have 2 ≤ m ≤ n. Found {m} and {n}. Choose at least m parameters.")
        super().__init__(
            f"DTLZ2, m = {m}, n = {n}",
            _starts(n, 5),
            m,
            "Deb, Thiele, Laumanns & Zitzler 2002, Scalable multi-objective optimization test problems",
            ideal=torch.zeros(m, dtype=torch.float64),
        )

    def _angles(self, theta: Tensor) -> Tensor:
        """Return φ [..., m − 1]."""
        return 0.5 * math.pi * torch.sigmoid(theta[..., : len(self.names) - 1])

    @staticmethod
    def _direction(angles: Tensor) -> Tensor:
        """Return s(φ) [..., m]: s_k is the product of the first m − 1 − k cosines and, from k = 1 on, a sine."""
        one = torch.ones_like(angles[..., :1])
        cosines = torch.cat([one, angles.cos().cumprod(-1)], -1)
        return cosines.flip(-1) * torch.cat([one, angles.sin().flip(-1)], -1)

    def losses(self, theta: Tensor) -> Tensor:
        """Return (1 + g)·s."""
        g = theta[..., len(self.names) - 1 :].square().sum(-1, keepdim=True)
        return (1 + g) * self._direction(self._angles(theta))

    def jacobian(self, theta: Tensor) -> Tensor:
        """Return the rows, by the chain rule through φ and g."""
        theta, m = theta.detach(), len(self.names)
        angles, tail = self._angles(theta), theta[m - 1 :]
        s = self._direction(angles)
        cosines = torch.cat([torch.ones_like(angles[:1]), angles.cos().cumprod(0)])
        # s_k has the cosines of the angles before m − 1 − k, and the sine of that one.
        turned = -s[:, None] * angles.tan() * s.new_ones(m, m - 1).tril(-1).flip(0)
        k = torch.arange(1, m)
        turned[k, m - 1 - k] = cosines[m - k]
        slope = angles * torch.sigmoid(-theta[: m - 1])
        return torch.cat([(1 + tail.square().sum()) * turned * slope, 2 * s[:, None] * tail], 1)

    def lipschitz_near(self, theta: Tensor, radius: float) -> Tensor:
        """Return those of the ball; the curvature grows with the largest g in it."""
        tail = float(theta.detach().double().cpu()[len(self.names) - 1 :].norm()) + radius
        angles = (math.pi / 8) ** 2 + 0.5 * math.pi * _LOGISTIC_BEND
        bound = of_blocks((1 + tail * tail) * angles, 0.25 * math.pi * tail, 2.0)
        return torch.full((len(self.names),), bound, dtype=torch.float64)

    def pareto_point(self, weights: Tensor | Sequence[float]) -> Tensor:
        """Return the point with f = √w; w > 0."""
        m = len(self.names)
        front = simplex("pareto_point(weights)", weights, m).sqrt()
        point = torch.zeros(self.size, dtype=torch.float64)
        for j in range(m - 1):  # the angle between the sine, f_{m−1−j}, and the rest of the front before it
            angle = torch.atan2(front[m - 1 - j], front[: m - 1 - j].norm())
            point[j] = torch.logit(angle / (0.5 * math.pi))
        return point

    def nearest(self, theta: Tensor) -> Tensor:
        """Return the angles with zeros after them."""
        point = theta.detach().double().cpu().clone()
        point[len(self.names) - 1 :] = 0.0
        return point


class Viennet(Problem):
    """Three losses of two parameters, whose Pareto set is in pieces of dimension two (math.md, 94).

    f₀ = ½s + sin s, f₁ = (3x − 2y + 4)²/8 + (x − y + 1)²/27 + 15, f₂ = 1/(s + 1) − 1.1e⁻ˢ with s = x² + y². f₀ and f₂
    have gradients along (x, y), so that every point where one of them rises with s and the other falls is stationary.
    The curvature of f₀ grows with s.

    Source: Viennet, Fonteix & Marc 1996, without the bounds |x|, |y| ≤ 3.

    Example:
        >>> Viennet().losses(torch.zeros(2, dtype=torch.float64)).tolist()
        [0.0, 17.037037037037038, -0.10000000000000009]
    """

    def __init__(self) -> None:
        """Set the starts."""
        super().__init__(
            "Viennet",
            torch.tensor([[2.5, 2.0], [-2.0, 2.5], [1.0, -2.0]], dtype=torch.float64),
            3,
            "Viennet, Fonteix & Marc 1996, Multicriteria optimization using a genetic algorithm",
            lipschitz=torch.tensor([math.inf, 3.392689789244476, 0.6178712679284499], dtype=torch.float64),  # (101)
            ideal=torch.tensor([0.0, 15.0, 1.0 - 1.1], dtype=torch.float64),
        )

    def losses(self, theta: Tensor) -> Tensor:
        """Return the three losses."""
        x, y = theta[..., 0], theta[..., 1]
        s = x.square() + y.square()
        second = (3 * x - 2 * y + 4).square() / 8 + (x - y + 1).square() / 27 + 15
        return torch.stack([0.5 * s + s.sin(), second, 1 / (s + 1) - 1.1 * torch.exp(-s)], -1)

    def jacobian(self, theta: Tensor) -> Tensor:
        """Return the rows."""
        theta = theta.detach()
        x, y = theta
        s = x.square() + y.square()
        steep, flat = (3 * x - 2 * y + 4) / 4, 2 * (x - y + 1) / 27
        radial = torch.stack([0.5 + s.cos(), 1.1 * torch.exp(-s) - 1 / (s + 1).square()])
        first, third = 2 * radial[:, None] * theta
        return torch.stack([first, torch.stack([3 * steep + flat, -2 * steep - flat]), third])

    def lipschitz_near(self, theta: Tensor, radius: float) -> Tensor:
        """Return those of the ball; the curvature of f₀ grows with the largest s in it."""
        s = (float(theta.detach().double().norm()) + radius) ** 2
        near = self.lipschitz.clone()
        near[0] = 1 + 2 * math.hypot(1, 2 * s)
        return near
