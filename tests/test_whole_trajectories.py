"""Whole descents do not depend on order, axes, units, precision or the day: what holds for a direction adds up."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, AdamW

from mgrad import KeepPace, LessForgetting, MinNorm, NoIncrease, ParetoNavigation, Proportional, Report
from mgrad.decrease import DecreaseRule
from mgrad.problems import LinearRegressions, LogisticRegressions, Problem, Quadratics, suite
from tests.strategies import orthogonal
from tests.training import Base, assert_identical
from tests.trajectories import descend

RULES: list[DecreaseRule] = [
    KeepPace(),
    MinNorm(),
    MinNorm(power=0.5),
    NoIncrease(),
    ParetoNavigation(),
    Proportional(),
]
rules = st.sampled_from(RULES)
scales = st.sampled_from(["relative", "absolute"])
strengths = st.sampled_from([0.0, 0.1, 1.0])
seeds = st.integers(0, 2**32 - 1)
STEPS = 20

# Steps well below 1/L neither amplify rounding errors nor reach stationarity, where directions hang on the last digits:
# what 20 steps leave is some hundred roundings of numbers of the size of the way.
CLOSE = 2.0**-40


def path(problem: Problem, start: Tensor, rate: float, **options: Any) -> list[Tensor]:
    """Return the points on the way."""
    return [step.end for step in descend(problem, start, [rate] * STEPS, **options)]


def assert_close(found: list[Tensor], expected: list[Tensor], start: Tensor) -> None:
    """Every point is the same beside the way from the start."""
    size = float(start.norm()) + max(float((theta - start).norm()) for theta in expected)
    for theta, other in zip(found, expected, strict=True):
        assert (theta - other).norm() <= CLOSE * size


@given(seeds, st.permutations(range(3)), rules, scales, strengths)
@settings(max_examples=30)
def test_the_order_of_the_constraints_does_not_matter(
    seed: int, order: list[int], rule: DecreaseRule, scale: Any, strength: float
) -> None:
    problem = Quadratics.random(6, 3, condition=10.0, seed=seed)
    other = Quadratics(problem.centres[order], problem.curvatures[order], mirror=problem.mirror)
    start, anchor = problem.starts[0], problem.starts[1]
    options = {"anchor": anchor, "decrease": rule, "scale": scale, "strength": strength}
    assert_close(path(other, start, 0.02, **options), path(problem, start, 0.02, **options), start)


@given(seeds, st.data(), rules, scales, strengths)
@settings(max_examples=30)
def test_the_axes_of_the_parameters_do_not_matter(
    seed: int, data: st.DataObject, rule: DecreaseRule, scale: Any, strength: float
) -> None:
    Q = torch.as_tensor(data.draw(orthogonal(5)))
    problem: Problem
    rotated: Problem
    if data.draw(st.booleans()):
        problem = linear = LinearRegressions.random([9, 9, 9], 5, seed=seed)
        rotated = LinearRegressions([X @ Q.T for X in linear.inputs], linear.targets)
    else:
        problem = logistic = LogisticRegressions.random([9, 9, 9], 5, seed=seed)
        rotated = LogisticRegressions([X @ Q.T for X in logistic.inputs], logistic.answers @ Q.T)
    start, anchor = problem.starts[0], problem.starts[1]
    options: dict[str, Any] = {"decrease": rule, "scale": scale, "strength": strength}
    expected = [Q @ theta for theta in path(problem, start, 0.02, anchor=anchor, **options)]
    assert_close(path(rotated, Q @ start, 0.02, anchor=Q @ anchor, **options), expected, start)


@given(seeds, st.integers(-30, 30), st.integers(-30, 30), rules, scales, strengths)
@settings(max_examples=30)
def test_the_units_of_losses_and_parameters_change_no_bit(
    seed: int, losses: int, parameters: int, rule: DecreaseRule, scale: Any, strength: float
) -> None:
    """Losses times s, parameters times t: the same points times t, for steps times t²/s and a strength of s/t²."""
    s, t = 2.0**losses, 2.0**parameters
    problem = Quadratics.random(6, 3, condition=10.0, mirrored=False, seed=seed)
    other = Quadratics(t * problem.centres, s / t**2 * problem.curvatures)
    start, anchor = problem.starts[0], problem.starts[1]
    expected = path(problem, start, 2.0**-5, anchor=anchor, decrease=rule, scale=scale, strength=strength)
    absolute = strength * s / t**2 if scale == "absolute" else strength
    found = path(other, t * start, 2.0**-5 * t**2 / s, anchor=t * anchor, decrease=rule, scale=scale, strength=absolute)
    assert_identical(found, [t * theta for theta in expected])


# ---------------------------------------------------------------------- in the optimizer


def train(problem: Problem, base: Base, dtype: torch.dtype, **options: Any) -> tuple[list[Tensor], list[Report]]:
    """Return points and reports of twenty steps of the optimizer."""
    theta = Parameter(problem.start.to(dtype, copy=True))
    opt = LessForgetting(base([theta]), strength=0.1, **options)
    points, reports = [], []
    for _ in range(STEPS):
        opt.zero_grad()
        reports.append(opt.backward(list(problem.losses(theta))))
        opt.step()
        points.append(theta.detach().clone())
    return points, reports


BASES: dict[str, Base] = {
    "SGD": lambda parameters: SGD(parameters, lr=0.02),
    "momentum": lambda parameters: SGD(parameters, lr=0.005, momentum=0.9),
    "AdamW": lambda parameters: AdamW(parameters, lr=0.02),
}
every_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)
TAME = [p for p in suite() if p.size <= 100 and not p.name.startswith(("ZDT", "two valleys", "Viennet"))]


@every_base
@pytest.mark.parametrize("problem", TAME, ids=lambda problem: problem.name)
def test_float32_takes_the_way_of_float64(problem: Problem, base: Base) -> None:
    """To some thousand roundings of float32, beside the way: at n = 100 a product has a hundred of them."""
    single, _ = train(problem, base, torch.float32)
    double, _ = train(problem, base, torch.float64)
    size = float(problem.start.norm()) + max(float((theta - problem.start).norm()) for theta in double)
    for theta, other in zip(single, double, strict=True):
        assert theta.dtype == torch.float32
        assert (theta - other).norm() <= 2.0**-12 * size


@every_base
@pytest.mark.parametrize("enforce", ["gradient", "step"])
def test_a_second_run_is_the_first_bit_for_bit(base: Base, enforce: Any) -> None:
    for problem in TAME:
        points, reports = train(problem, base, torch.float64, enforce=enforce)
        again, others = train(problem, base, torch.float64, enforce=enforce)
        assert_identical(again, points)
        assert [report.to_dict() for report in others] == [report.to_dict() for report in reports]
        assert all(np.array_equal(a.multipliers, b.multipliers) for a, b in zip(others, reports, strict=True))
