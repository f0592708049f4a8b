"""Gradient noise of a known covariance, around any problem. May import: problems.problem."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mgrad.problems.problem import Problem


class Noisy(Problem):
    """A problem seen through batches: that of step t has the losses fᵢ(θ) + ξᵢᵀ(θ − start), with ξ drawn for t.

    So its gradients are ∇fᵢ + ξᵢ everywhere, unbiased, with E ξᵢₖξⱼₖ = Cᵢⱼ in each coordinate k and no correlation
    between coordinates or steps: E (J + ξ)(J + ξ)ᵀ = JJᵀ + nC (math.md, 99). Losses, Jacobian and what is known are
    those of the problem itself, the mean of the batches.

    Args:
        problem: without noise.
        covariance: C [m, m] between the losses, positive semidefinite.
        seed: of the noise.

    Raises:
        ValueError: for a covariance of another shape, not symmetric, or with a negative eigenvalue.

    Example:
        >>> from mgrad.problems import FonsecaFleming
        >>> noisy = Noisy(FonsecaFleming(), 0.01 * torch.eye(2))
        >>> torch.equal(noisy.batch(3).jacobian(torch.ones(2)), noisy.batch(3).jacobian(torch.ones(2)))
        True
    """

    def __init__(self, problem: Problem, covariance: Tensor, *, seed: int = 0) -> None:
        """Take a root of the covariance."""
        m, C = len(problem.names), covariance.double()
        if C.shape != (m, m) or not torch.equal(C, C.T):
            raise ValueError(
                f"`Noisy(problem, covariance)` must be symmetric, [{m}, {m}]. Found shape {list(C.shape)}. Pass the "
                "covariance between the losses."
            )
        values, vectors = torch.linalg.eigh(C)
        if values.min() < -m * 2.0**-50 * values.abs().max():
            raise ValueError(
                "`Noisy(problem, covariance)` must be positive semidefinite. Found the eigenvalue "
                f"{float(values.min())}. Pass a covariance."
            )
        super().__init__(
            f"{problem.name}, with noise",
            problem.starts,
            m,
            problem.reference,
            lipschitz=problem.lipschitz,
            ideal=problem.ideal,
        )
        self.problem, self.covariance, self.seed = problem, C, seed
        self._root = vectors * values.clamp(min=0.0).sqrt()

    def batch(self, step: int) -> Problem:
        """Return the problem of one step, the same whenever it is asked for.

        Args:
            step: t ≥ 0.

        Returns:
            The problem with tilted losses; what was known of the problem is not known of it.
        """
        rng = np.random.default_rng([self.seed, step])
        return _Tilted(self.problem, self._root @ torch.as_tensor(rng.standard_normal((len(self.names), self.size))))

    def losses(self, theta: Tensor) -> Tensor:
        """Return those of the problem."""
        return self.problem.losses(theta)

    def jacobian(self, theta: Tensor) -> Tensor:
        """Return that of the problem."""
        return self.problem.jacobian(theta)

    def lipschitz_near(self, theta: Tensor, radius: float) -> Tensor:
        """Return those of the problem."""
        return self.problem.lipschitz_near(theta, radius)

    def pareto_point(self, weights: Tensor | Sequence[float]) -> Tensor | None:
        """Return that of the problem."""
        return self.problem.pareto_point(weights)

    def nearest(self, theta: Tensor) -> Tensor | None:
        """Return that of the problem."""
        return self.problem.nearest(theta)


class _Tilted(Problem):
    """The losses fᵢ(θ) + ξᵢᵀ(θ − start)."""

    def __init__(self, problem: Problem, tilt: Tensor) -> None:
        """Keep ξ [m, n]."""
        super().__init__(
            f"{problem.name}, a batch", problem.starts, len(tilt), problem.reference, lipschitz=problem.lipschitz
        )
        self.problem, self.tilt = problem, tilt

    def losses(self, theta: Tensor) -> Tensor:
        """Return the tilted losses."""
        return self.problem.losses(theta) + (theta - self.start.to(theta)) @ self.tilt.to(theta).T

    def jacobian(self, theta: Tensor) -> Tensor:
        """Return the rows with their noise."""
        return self.problem.jacobian(theta) + self.tilt.to(theta)

    def lipschitz_near(self, theta: Tensor, radius: float) -> Tensor:
        """Return those of the problem, which a tilt does not change."""
        return self.problem.lipschitz_near(theta, radius)
