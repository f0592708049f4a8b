"""Regressions, one loss for each data set, with a known answer. May import: problems.problem."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mgrad.problems.problem import Problem, nearest_on_curve, simplex


class LinearRegressions(Problem):
    """fᵢ = ‖Xᵢθ − yᵢ‖²/2kᵢ, kᵢ the number of rows of Xᵢ (math.md, 96).

    Either all data can be fitted together, having independent rows: then every loss can be 0, and the Pareto set is the
    affine set of common minimisers. Or every data set determines θ by itself: then it is the curve or surface of
    weighted least-squares solutions, for Hessians XᵢᵀXᵢ/kᵢ that do not commute.

    Args:
        inputs: X, m tensors [kᵢ, n].
        targets: y, m tensors [kᵢ].
        starts: points to start from [k, n]; 0 if left out.
        name: of the problem.

    Raises:
        ValueError: where neither is so.

    Cost: of `nearest`: a least-squares problem over all data, or some 300 (m = 2 alone).

    Example:
        >>> problem = LinearRegressions([torch.eye(3)[:1], torch.eye(3)[1:2]], [torch.ones(1), -torch.ones(1)])
        >>> problem.nearest(torch.tensor([0.0, 0.0, 5.0])).round(decimals=12).tolist()
        [1.0, -1.0, 5.0]
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        targets: Sequence[Tensor],
        *,
        starts: Tensor | None = None,
        name: str = "linear regressions",
    ) -> None:
        """Find out which of the two it is."""
        self.inputs, self.targets = [X.double() for X in inputs], [y.double() for y in targets]
        n = self.inputs[0].shape[1]
        rows, answers = torch.cat(self.inputs), torch.cat(self.targets)
        self.fits = bool(torch.linalg.matrix_rank(rows) == len(rows))
        if not self.fits and any(torch.linalg.matrix_rank(X) < n for X in self.inputs):
            raise ValueError(
                "`LinearRegressions(inputs)` must have independent rows all together, or n independent rows in each. "
                f"Found {[list(X.shape) for X in self.inputs]}. The Pareto set would not be known."
            )
        self._rows, self._answers = rows, answers
        self._counts = [len(X) for X in self.inputs]
        if self.fits:
            ideal = torch.zeros(len(self.inputs), dtype=torch.float64)
        else:
            ideal = torch.stack(
                [
                    (X @ torch.linalg.lstsq(X, y).solution - y).square().mean() / 2
                    for X, y in zip(self.inputs, self.targets, strict=True)
                ]
            )
        super().__init__(
            name,
            torch.zeros(1, n, dtype=torch.float64) if starts is None else starts.double(),
            len(self.inputs),
            "least squares; the Pareto set is derived in docs/math.md",
            lipschitz=torch.stack([torch.linalg.matrix_norm(X, 2) ** 2 / len(X) for X in self.inputs]),
            ideal=ideal,
        )

    @classmethod
    def random(
        cls, counts: Sequence[int], n: int, *, scales: Sequence[float] | None = None, seed: int = 0
    ) -> "LinearRegressions":
        """Draw inputs, and targets that contradict each other where they can.

        Args:
            counts: k [m], numbers of data.
            n: number of parameters.
            scales: by which the inputs of each data set are multiplied; 1 if left out.
            seed: of the random numbers.

        Returns:
            The problem, with three points to start from.
        """
        rng = np.random.default_rng(seed)
        factors = [1.0] * len(counts) if scales is None else scales
        inputs = [torch.as_tensor(s * rng.standard_normal((k, n))) for s, k in zip(factors, counts, strict=True)]
        targets = [torch.as_tensor(rng.standard_normal(k)) for k in counts]
        kind = "all fitted together" if sum(counts) <= n else "each determined"
        return cls(
            inputs,
            targets,
            starts=torch.as_tensor(rng.standard_normal((3, n))),
            name=f"linear regressions, {kind}, k = {list(counts)}, n = {n}",
        )

    def losses(self, theta: Tensor) -> Tensor:
        """Return half the mean squared residuals."""
        residual = theta @ self._rows.to(theta).T - self._answers.to(theta)
        return torch.stack([part.square().mean(-1) / 2 for part in residual.split(self._counts, -1)], -1)

    def jacobian(self, theta: Tensor) -> Tensor:
        """Return the rows Xᵢᵀ(Xᵢθ − yᵢ)/kᵢ."""
        theta = theta.detach()
        pairs = [(X.to(theta), y.to(theta)) for X, y in zip(self.inputs, self.targets, strict=True)]
        return torch.stack([(X @ theta - y) @ X / len(X) for X, y in pairs])

    def pareto_point(self, weights: Tensor | Sequence[float]) -> Tensor:
        """Return the weighted least-squares solution; where all can be fitted, the one nearest to `start`."""
        w = simplex("pareto_point(weights)", weights, len(self.names))
        if self.fits:
            return self._fitted(self.start)
        factors = (w / torch.tensor(self._counts)).sqrt().repeat_interleave(torch.tensor(self._counts))
        solution: Tensor = torch.linalg.lstsq(factors[:, None] * self._rows, factors * self._answers).solution
        return solution

    def nearest(self, theta: Tensor) -> Tensor | None:
        """Return the nearest common minimiser (math.md, 97), or the nearest point of the curve (m = 2); else None."""
        if self.fits:
            return self._fitted(theta.detach().double().cpu())
        return nearest_on_curve(self.pareto_point, theta) if len(self.names) == 2 else None

    def _fitted(self, theta: Tensor) -> Tensor:
        """Return θ + X⁺(y − Xθ) for all data together."""
        move: Tensor = torch.linalg.pinv(self._rows) @ (self._answers - self._rows @ theta)
        return theta + move


class LogisticRegressions(Problem):
    """fᵢ = mean over the data of log(1 + eᶻ) − pz, z = xᵀθ, with labels p that are probabilities (math.md, 98).

    The labels are those of a true answer, p = σ(xᵀθᵢ*): so θᵢ* is where fᵢ is least, with the mean entropy of p as its
    value. Every data set determines θ by itself: the Pareto set is the curve of the minimisers of Σ wᵢfᵢ, which
    Newton's method finds to rounding.

    Args:
        inputs: X, m tensors [kᵢ, n] of rank n.
        answers: θ* [m, n].
        starts: points to start from [k, n]; 0 if left out.
        name: of the problem.

    Raises:
        ValueError: for inputs of a rank below n.

    Cost: of `pareto_point`: some ten Newton steps, O(n³ + n²Σkᵢ) each; of `nearest` some 300 of these (m = 2 alone).

    Example:
        >>> problem = LogisticRegressions([torch.eye(2), torch.eye(2)], torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        >>> problem.pareto_point([1.0, 1.0]).abs().max() < 1e-12
        tensor(True)
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        answers: Tensor,
        *,
        starts: Tensor | None = None,
        name: str = "logistic regressions",
    ) -> None:
        """Make the labels."""
        self.inputs, self.answers = [X.double() for X in inputs], answers.double()
        n = self.answers.shape[1]
        if any(torch.linalg.matrix_rank(X) < n for X in self.inputs):
            raise ValueError(
                f"`LogisticRegressions(inputs)` must have n = {n} independent rows each. Found "
                f"{[list(X.shape) for X in self.inputs]}. The Pareto set would not be known."
            )
        self.labels = [torch.sigmoid(X @ answer) for X, answer in zip(self.inputs, self.answers, strict=True)]
        super().__init__(
            name,
            torch.zeros(1, n, dtype=torch.float64) if starts is None else starts.double(),
            len(self.inputs),
            "logistic regression on the probabilities of a true answer; docs/math.md",
            lipschitz=torch.stack([torch.linalg.matrix_norm(X, 2) ** 2 / (4 * len(X)) for X in self.inputs]),
        )
        self.ideal = torch.stack([self.losses(answer)[i] for i, answer in enumerate(self.answers)])

    @classmethod
    def random(cls, counts: Sequence[int], n: int, *, seed: int = 0) -> "LogisticRegressions":
        """Draw inputs and true answers.

        Args:
            counts: k [m], numbers of data, ≥ n.
            n: number of parameters.
            seed: of the random numbers.

        Returns:
            The problem, with three points to start from.
        """
        rng = np.random.default_rng(seed)
        return cls(
            [torch.as_tensor(rng.standard_normal((k, n))) for k in counts],
            torch.as_tensor(rng.standard_normal((len(counts), n))),
            starts=torch.as_tensor(2 * rng.standard_normal((3, n))),
            name=f"logistic regressions, k = {list(counts)}, n = {n}",
        )

    def losses(self, theta: Tensor) -> Tensor:
        """Return the mean cross-entropies."""
        pairs = [(theta @ X.to(theta).T, p.to(theta)) for X, p in zip(self.inputs, self.labels, strict=True)]
        return torch.stack([(-logsigmoid(-z) - p * z).mean(-1) for z, p in pairs], -1)

    def jacobian(self, theta: Tensor) -> Tensor:
        """Return the rows Xᵢᵀ(σ(Xᵢθ) − pᵢ)/kᵢ."""
        theta = theta.detach()
        pairs = [(X.to(theta), p.to(theta)) for X, p in zip(self.inputs, self.labels, strict=True)]
        return torch.stack([(torch.sigmoid(X @ theta) - p) @ X / len(X) for X, p in pairs])

    def pareto_point(self, weights: Tensor | Sequence[float]) -> Tensor:
        """Return the minimiser of Σ wᵢfᵢ, by Newton's method with steps halved until the sum falls."""
        w = simplex("pareto_point(weights)", weights, len(self.names))
        theta = w @ self.answers
        for _ in range(100):
            slopes = [(p * (1 - p) / len(p))[:, None] * X for p, X in self._curvature(theta)]
            hessian = sum(v * (S.T @ X) for v, S, X in zip(w, slopes, self.inputs, strict=True))
            gradient = w @ self.jacobian(theta)
            move = torch.linalg.solve(torch.as_tensor(hessian), gradient)
            value, step = w @ self.losses(theta), 1.0
            while w @ self.losses(theta - step * move) > value and step > 2.0**-40:
                step /= 2
            if step * move.norm() <= 2.0**-50 * (1 + theta.norm()) or step <= 2.0**-40:
                break
            theta = theta - step * move
        return theta

    def _curvature(self, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return σ(Xᵢθ) with Xᵢ."""
        return [(torch.sigmoid(X @ theta), X) for X in self.inputs]

    def nearest(self, theta: Tensor) -> Tensor | None:
        """Return the nearest point of the curve (m = 2); else None."""
        return nearest_on_curve(self.pareto_point, theta) if len(self.names) == 2 else None
