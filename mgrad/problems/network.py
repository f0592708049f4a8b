"""A network with more parameters than data, whose losses can all reach zero. May import: problems.problem."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mgrad.problems.problem import Problem, of_blocks, simplex

_TANH_BEND = 4 / (3 * math.sqrt(3))  # max |tanh''|


class Network(Problem):
    """fᵢ = half the mean squared error of vᵀtanh(Wx + b) on data set i, whose targets a teacher of its shape gives.

    θ = (W, b, v), row by row, n = width·(inputs + 2). The teacher is a common minimiser, of value 0; so is every point
    that fits all data, and these are the Pareto set. Which of them is nearest to θ₀ is not known (`LinearRegressions`
    is where it is). The curvature along W grows with v.

    Args:
        counts: k [m], numbers of data.
        inputs: length of x.
        width: of the hidden layer.
        seed: of data, teacher and starts.

    Raises:
        ValueError: where there are more data than parameters.

    Source: teacher and student, Gardner & Derrida 1989.

    Example:
        >>> problem = Network([4, 4], inputs=3, width=8)
        >>> problem.losses(problem.pareto_point([1.0, 1.0])).tolist()
        [0.0, 0.0]
    """

    def __init__(self, counts: Sequence[int] = (8, 8, 8), *, inputs: int = 4, width: int = 16, seed: int = 0) -> None:
        """Draw data and teacher."""
        n = width * (inputs + 2)
        if sum(counts) > n:
            raise ValueError(
                f"`Network(counts)` must have no more data than its {n} parameters. Found {sum(counts)}. Use fewer, or "
                "a greater width."
            )
        self.shape = width, inputs
        rng = np.random.default_rng(seed)
        self.counts = list(counts)
        self.inputs = torch.as_tensor(rng.standard_normal((sum(counts), inputs)))
        size = np.r_[np.full(width * inputs, inputs**-0.5), np.ones(width), np.full(width, width**-0.5)]
        self.teacher = torch.as_tensor(size * rng.standard_normal(n))
        self.targets = torch.zeros(sum(counts), dtype=torch.float64)
        self.targets = self._output(self.teacher)[0]
        super().__init__(
            f"network, k = {list(counts)}, n = {n}",
            torch.as_tensor(size * rng.standard_normal((3, n))),
            len(counts),
            "teacher and student, Gardner & Derrida 1989",
            ideal=torch.zeros(len(counts), dtype=torch.float64),
        )

    def _output(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs [..., k] of all data, the hidden layer [..., k, width] and v [..., width]."""
        width, inputs = self.shape
        W, b, v = theta.split([width * inputs, width, width], -1)
        hidden = torch.tanh(self.inputs.to(theta) @ W.unflatten(-1, self.shape).mT + b.unsqueeze(-2))
        return (hidden @ v.unsqueeze(-1)).squeeze(-1), hidden, v

    def losses(self, theta: Tensor) -> Tensor:
        """Return half the mean squared errors."""
        error = self._output(theta)[0] - self.targets.to(theta)
        return torch.stack([part.square().mean(-1) / 2 for part in error.split(self.counts, -1)], -1)

    def jacobian(self, theta: Tensor) -> Tensor:
        """Return the rows, by backpropagation written out."""
        theta = theta.detach()
        output, hidden, v = self._output(theta)
        error, X = output - self.targets.to(theta), self.inputs.to(theta)
        rows = []
        for e, H, x in zip(error.split(self.counts), hidden.split(self.counts), X.split(self.counts), strict=True):
            e = e / len(e)
            before = e[:, None] * v * (1 - H.square())
            rows.append(torch.cat([(before.T @ x).flatten(), before.sum(0), e @ H]))
        return torch.stack(rows)

    def lipschitz_near(self, theta: Tensor, radius: float) -> Tensor:
        """Return those of the ball, from the outputs' derivatives at its centre and their second ones all over it.

        Cost: the spectral norm of a matrix [kᵢ, n] for each data set.
        """
        theta = theta.detach().double().cpu()
        output, hidden, v = self._output(theta)
        errors = (output - self.targets).abs()
        steep = 1 - hidden.square()
        heaviest = float(v.abs().max()) + radius
        found = []
        for e, H, S, x in zip(*(part.split(self.counts) for part in (errors, hidden, steep, self.inputs)), strict=True):
            inside = torch.cat([x, torch.ones_like(x[:, :1])], 1)
            rows = torch.cat([((S * v)[:, :, None] * inside[:, None]).flatten(1), H], 1)  # ∂ outputs
            bends = torch.tensor(
                [of_blocks(heaviest * _TANH_BEND * k**2, k, 0.0) for k in inside.norm(dim=1).tolist()],
                dtype=torch.float64,
            )
            first = float(torch.linalg.matrix_norm(rows, 2)) + radius * float(bends.norm())
            apart = e + radius * (rows.norm(dim=1) + 0.5 * radius * bends)
            found.append((first**2 + float(apart @ bends)) / len(e))
        return torch.tensor(found, dtype=torch.float64)

    def pareto_point(self, weights: Tensor | Sequence[float]) -> Tensor:
        """Return the teacher, one of the common minimisers."""
        simplex("pareto_point(weights)", weights, len(self.names))
        return self.teacher.clone()
