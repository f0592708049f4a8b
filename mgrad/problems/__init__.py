"""Synthetic problems with several losses, and what is known of their answers: for tests and benchmarks.

>>> from mgrad.problems import suite
>>> for problem in suite()[:2]:
...     print(problem, problem.losses(problem.start).shape)
<quadratics, one Hessian, condition 10, m = 2, n = 2: m = 2, n = 2> torch.Size([2])
<quadratics, different Hessians, condition 10, m = 2, n = 2: m = 2, n = 2> torch.Size([2])

May import: problems.*.
"""

import torch

from mgrad.problems.fronts import DTLZ2, ZDT, FonsecaFleming, Viennet
from mgrad.problems.network import Network
from mgrad.problems.noise import Noisy
from mgrad.problems.problem import Problem
from mgrad.problems.quadratics import Quadratics
from mgrad.problems.regressions import LinearRegressions, LogisticRegressions
from mgrad.problems.two_valleys import TwoValleys

__all__ = [
    "DTLZ2",
    "ZDT",
    "FonsecaFleming",
    "LinearRegressions",
    "LogisticRegressions",
    "Network",
    "Noisy",
    "Problem",
    "Quadratics",
    "TwoValleys",
    "Viennet",
    "suite",
]


def suite() -> list[Problem]:
    """Return the problems that tests and benchmarks go through, the same every time.

    Returns:
        New problems with different names, from 2 to 10⁵ parameters.

    Cost: under a second, and 10 MB for the largest.
    """
    small = Quadratics.random(10, 3, condition=100.0, seed=3)
    fitted = LinearRegressions.random([6, 6, 6], 40, seed=12)
    return [
        Quadratics.random(2, 2, condition=10.0, shared=True, seed=1),
        Quadratics.random(2, 2, condition=10.0, seed=2),
        small,
        Quadratics.random(20, 3, condition=1e6, shared=True, seed=4),
        Quadratics.random(100, 2, condition=1e6, seed=5),
        Quadratics.random(100_000, 2, condition=100.0, seed=6),
        FonsecaFleming(2),
        FonsecaFleming(10),
        ZDT(1),
        ZDT(2),
        ZDT(3),
        DTLZ2(),
        TwoValleys(),
        TwoValleys(0.1),
        Viennet(),
        LinearRegressions.random([20, 20], 5, scales=[1.0, 2.0], seed=10),
        LinearRegressions.random([20, 20, 20], 5, seed=11),
        fitted,
        LogisticRegressions.random([30, 30], 4, seed=13),
        LogisticRegressions.random([30, 30, 30], 4, seed=14),
        Network(),
        Noisy(small, 0.01 * torch.eye(3, dtype=torch.float64)),
        Noisy(fitted, torch.diag(torch.tensor([0.0, 0.01, 0.04], dtype=torch.float64))),
    ]
