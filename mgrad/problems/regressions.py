"""Regressions, one loss for each data set, with a known answer. May import: problems.problem."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mgrad.problems.problem import Problem, nearest_on_surface, simplex


def _shares(w: Tensor, counts: Sequence[int]) -> Tensor:
    """Return wᵢ/kᵢ for each row of the data sets [Σ kᵢ]."""
    sizes = torch.tensor(counts)
    return (w / sizes).repeat_interleave(sizes)


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

    Cost: of `nearest`: a least-squares problem over all data, or some 300 for each pair of losses, and some 50·3ᵏ⁻¹ for
        each k > 2 of them.

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
        factors = _shares(w, self._counts).sqrt()
        solution: Tensor = torch.linalg.lstsq(factors[:, None] * self._rows, factors * self._answers).solution
        return solution

    def nearest(self, theta: Tensor) -> Tensor:
        """Return the nearest common minimiser (math.md, 97), or the nearest point of the curve or surface (102)."""
        if self.fits:
            return self._fitted(theta.detach().double().cpu())
        return nearest_on_surface(self.pareto_point, self._move, theta, len(self.names))

    def _move(self, w: Tensor, point: Tensor, apart: Tensor) -> Tensor:
        """Return −∇fᵢ(P)ᵀA⁻¹x [m] (math.md, 102)."""
        hessian = (_shares(w, self._counts)[:, None] * self._rows).T @ self._rows
        move: Tensor = torch.linalg.solve(hessian, apart)
        return -self.jacobian(point) @ move

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

    Cost: of `pareto_point`: some ten Newton steps, O(n³ + n²Σkᵢ) each; of `nearest` some 300 such points for each
        pair of losses, and some 50·3ᵏ⁻¹ for each k > 2 of them.

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
        self._rows, self._counts = torch.cat(self.inputs), [len(X) for X in self.inputs]
        self._labels = torch.cat(
            [torch.sigmoid(X @ answer) for X, answer in zip(self.inputs, self.answers, strict=True)]
        )
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
        z = theta @ self._rows.to(theta).T
        terms = -logsigmoid(-z) - self._labels.to(theta) * z
        return torch.stack([part.mean(-1) for part in terms.split(self._counts, -1)], -1)

    def jacobian(self, theta: Tensor) -> Tensor:
        """Return the rows Xᵢᵀ(σ(Xᵢθ) − pᵢ)/kᵢ."""
        rows = self._rows.to(theta)
        apart = (torch.sigmoid(rows @ theta.detach()) - self._labels.to(theta)).split(self._counts)
        return torch.stack([e @ X / len(X) for e, X in zip(apart, rows.split(self._counts), strict=True)])

    def pareto_point(self, weights: Tensor | Sequence[float]) -> Tensor:
        """Return the minimiser of Σ wᵢfᵢ, by Newton's method with steps halved until the sum falls."""
        w = simplex("pareto_point(weights)", weights, len(self.names))
        theta = w @ self.answers
        for _ in range(100):
            move: Tensor = torch.linalg.solve(self._hessian(w, theta), w @ self.jacobian(theta))
            length, step = float(move.norm() / (1 + theta.norm())), 1.0
            if length > 2.0**-20:  # the fall of the sum by a shorter move is rounding
                value = w @ self.losses(theta)
                while w @ self.losses(theta - step * move) > value:
                    step /= 2
            theta = theta - step * move
            if length <= 2.0**-27:  # the next would be of the order of its square
                break
        return theta

    def _hessian(self, w: Tensor, theta: Tensor) -> Tensor:
        """Return that of Σ wᵢfᵢ [n, n]."""
        p = torch.sigmoid(self._rows @ theta)
        return ((p * (1 - p) * _shares(w, self._counts))[:, None] * self._rows).T @ self._rows

    def _move(self, w: Tensor, point: Tensor, apart: Tensor) -> Tensor:
        """Return −∇fᵢ(P)ᵀA⁻¹x [m] (math.md, 102)."""
        move: Tensor = torch.linalg.solve(self._hessian(w, point), apart)
        return -self.jacobian(point) @ move

    def nearest(self, theta: Tensor) -> Tensor:
        """Return the nearest point of the curve or surface (math.md, 102)."""
        return nearest_on_surface(self.pareto_point, self._move, theta, len(self.names))
