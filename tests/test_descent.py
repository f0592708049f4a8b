"""Descents: what every step and every sum of steps keeps, by Lipschitz constants that hold everywhere or near θ."""

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD

from mgrad import KeepPace, LessForgetting, MinNorm, NoIncrease, ParetoNavigation, Report, Status
from mgrad.decrease import DecreaseRule
from mgrad.direction import Scale
from mgrad.problems import (
    DTLZ2,
    ZDT,
    FonsecaFleming,
    LinearRegressions,
    LogisticRegressions,
    Network,
    Problem,
    Quadratics,
    TwoValleys,
    Viennet,
    suite,
)
from mgrad.solvers import Array
from tests.reference import strong_stationarity_residual, weak_stationarity_residual
from tests.trajectories import Step, descend

EPS = 2.0**-52
ROUNDED = 2.0**-40  # of sums of some hundred products, relative to their absolute values

SUITE = [problem for problem in suite() if problem.size <= 100]
SMOOTH = [problem for problem in SUITE if problem.lipschitz.isfinite().all() and "noise" not in problem.name]
OTHERS = [problem for problem in SUITE if not problem.lipschitz.isfinite().all()]

SCALES: tuple[Scale, ...] = get_args(Scale)
RULES: list[DecreaseRule] = [KeepPace(), KeepPace(rate=0.5, margin=1.0), MinNorm(), MinNorm(power=0.5), NoIncrease()]


def curvature(problem: Problem) -> Array:
    """Return L [m]."""
    return problem.lipschitz.numpy()


def within(problem: Problem, reach: float, size: Callable[[Array, Report], float]) -> Callable[[Tensor, Report], float]:
    """Return the size of a step under the L [m] of the ball of a radius, which it does not leave; 0 where L is ∞."""

    def allowed(theta: Tensor, report: Report) -> float:
        L = problem.lipschitz_near(theta, reach).numpy()
        if not np.isfinite(L).all() or not report.direction_norm:  # 0 to the rounding of the pull's square
            return 0.0
        return min(size(L, report), reach / report.direction_norm)

    return allowed


@st.composite
def problems(draw: st.DrawFn) -> tuple[Problem, float]:
    """Draw a problem of any kind and conditioning, and a radius: ∞ where its Lipschitz constants hold everywhere."""
    if draw(st.booleans()):
        return draw(smooth_problems()), np.inf
    seed, n, m = draw(st.integers(0, 2**32 - 1)), draw(st.integers(4, 12)), draw(st.integers(2, 4))
    problem = draw(
        st.sampled_from(
            [ZDT(1, n), ZDT(3, n), DTLZ2(m, n), Viennet(), TwoValleys(), TwoValleys(0.1), Network([2] * m, seed=seed)]
        )
    )
    return problem, draw(st.sampled_from([1e-3, 0.1, 1.0]))


@st.composite
def smooth_problems(draw: st.DrawFn) -> Problem:
    """Draw a problem whose Lipschitz constants hold everywhere, of any kind and conditioning."""
    seed, n, m = draw(st.integers(0, 2**32 - 1)), draw(st.integers(2, 12)), draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["quadratics", "one Hessian", "wells", "ZDT2", "determined", "fitted", "logistic"]))
    if kind in {"quadratics", "one Hessian"}:
        condition = 10.0 ** draw(st.integers(0, 6))
        return Quadratics.random(n, m, condition=condition, shared=kind == "one Hessian", seed=seed)
    if kind == "wells":
        return FonsecaFleming(n)
    if kind == "ZDT2":
        return ZDT(2, n)
    if kind == "logistic":
        return LogisticRegressions.random([n + 8] * m, n, seed=seed)
    counts = [n + 4] * m if kind == "determined" else [2] * m
    return LinearRegressions.random(counts, n if kind == "determined" else 2 * m + n, seed=seed)


@st.composite
def starts(draw: st.DrawFn, problem: Problem) -> Tensor:
    """Draw a point near to the starts of a problem, or far away."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    first = problem.starts[draw(st.integers(0, len(problem.starts) - 1))]
    return first + draw(st.sampled_from([0.1, 1.0, 10.0])) * torch.as_tensor(rng.standard_normal(problem.size))


def rounding_of(step: Step) -> Array:
    """Return the rounding errors [m] of the losses before and after, and of the decrease that is promised."""
    report, size = step.report, step.rate
    terms = np.abs(report.gramian) @ report.multipliers + np.abs(report.correlation)
    move = size * report.gradient_norms * (EPS / size * float(step.theta.norm()) + EPS * report.direction_norm)
    return np.asarray(ROUNDED * (np.abs(step.losses) + np.abs(step.after) + size * terms) + move)


# ---------------------------------------------------------------------- one step


@given(st.data(), problems(), st.sampled_from(RULES), st.sampled_from([0.0, 0.1, 2.0]), st.floats(-6, 1))
def test_no_loss_rises_by_more_than_the_second_order_bound(
    data: st.DataObject, drawn: tuple[Problem, float], rule: DecreaseRule, strength: float, exponent: float
) -> None:
    """(9), with steps from a millionth to ten times 1/L, in both scales, towards an anchor elsewhere."""
    (problem, reach), scale = drawn, data.draw(st.sampled_from(SCALES))
    start, anchor = data.draw(starts(problem)), data.draw(starts(problem))
    size = within(problem, reach, lambda L, _: 10.0**exponent / float(L.max()))
    for step in descend(problem, start, [size] * 3, anchor=anchor, decrease=rule, strength=strength, scale=scale):
        if step.report.status is not Status.OPTIMAL or step.rate == 0:
            return
        L = problem.lipschitz_near(step.theta, reach).numpy()
        bound = -step.rate * step.report.decrease + 0.5 * L * step.rate**2 * step.report.direction_norm**2
        assert (step.after - step.losses <= bound + rounding_of(step)).all()


@given(st.data(), problems(), st.sampled_from([0.0, 0.1, 1.0]), st.floats(0.05, 0.95))
@settings(max_examples=60)
def test_every_loss_falls_at_every_step_below_the_bound(
    data: st.DataObject, drawn: tuple[Problem, float], strength: float, share: float
) -> None:
    """(9): a share of the step 2bᵢ/(Lᵢ‖d‖²) leaves (1 − share)·ηbᵢ of the decrease, wherever bᵢ > 0."""
    (problem, reach), rule = drawn, data.draw(st.sampled_from(RULES[:3]))

    def size(L: Array, report: Report) -> float:
        asked = report.decrease > 0
        if not asked.any():
            return 0.0
        return share * float((2 * report.decrease / L)[asked].min()) / report.direction_norm**2

    start = data.draw(starts(problem))
    for step in descend(problem, start, [within(problem, reach, size)] * 15, decrease=rule, strength=strength):
        if step.report.status is not Status.OPTIMAL or step.rate == 0:
            return
        asked = step.report.decrease > 0
        left = (1 - share) * step.rate * step.report.decrease
        error = rounding_of(step)
        assert (step.after <= step.losses - left + error)[asked].all()
        assert ((step.after < step.losses) | (left <= error))[asked].all()
        if step.report.relative_stationarity > 1e-6:  # margin > 0 and δ > 0: every loss is asked to fall
            assert asked.all()


@pytest.mark.parametrize("problem", [*SMOOTH, *OTHERS], ids=lambda problem: problem.name)
def test_the_optimizer_takes_the_steps_of_the_mathematics(problem: Problem) -> None:
    """So that what is shown here of θ − ηd holds for SGD in `LessForgetting`: ten steps, to rounding."""
    theta = Parameter(problem.start.clone())
    opt = LessForgetting(SGD([theta], lr=0.02), strength=0.1)
    end = problem.start
    for step in descend(problem, problem.start, [0.02] * 10, strength=0.1):
        opt.zero_grad()
        opt.backward(list(problem.losses(theta)))
        opt.step()
        end = step.end
    assert float((theta.detach() - end).norm()) <= 2.0**-30 * float((end - problem.start).norm())


# ---------------------------------------------------------------------- sums of steps: Propositions 21-24

MARGINS = [0.0, 0.5, 1.0]


def share_of_the_sum(m: int, margin: float) -> float:
    """Return ρ of (81)."""
    return 1 - margin / (4 * m)


def before_the_limit_binds(step: Step, strength: float, rule: KeepPace) -> bool:
    """Tell whether δ is large enough that the bound (10) has no part in the answer (Proposition 23)."""
    factor = 3 + rule.rate / strength if strength else 1e4**0.5
    return step.report.relative_stationarity >= factor / 1e4 and step.report.status is Status.OPTIMAL


@given(st.data(), problems(), st.sampled_from(MARGINS), st.sampled_from([0.0, 0.1, 1.0]), st.floats(0, 1))
@settings(max_examples=50)
def test_the_sum_of_the_losses_falls_and_the_conflict_free_gradient_vanishes_with_it(
    data: st.DataObject, drawn: tuple[Problem, float], margin: float, strength: float, power: float
) -> None:
    """(81)-(83), for constant steps and for steps that tend to 0 like 1/kᵖ."""
    problem, reach = drawn
    m = len(problem.names)
    rule = KeepPace(rate=data.draw(st.sampled_from([0.5, 1.0])), margin=margin)
    rho, kappa = share_of_the_sum(m, margin), rule.rate + 2 * strength

    def size(k: int) -> Callable[[Array, Report], float]:
        return lambda L, _: rule.rate * rho / (float(L.sum()) * kappa**2) * (k + 1) ** -power

    rates = [within(problem, reach, size(k)) for k in range(30)]
    assert problem.ideal is not None
    start = data.draw(starts(problem))
    room, time, least = float((problem.losses(start) - problem.ideal).sum()), 0.0, np.inf
    for step in descend(problem, start, rates, decrease=rule, strength=strength):
        if not before_the_limit_binds(step, strength, rule) or step.rate == 0:
            return
        r = step.report.strong_stationarity
        error = float(rounding_of(step).sum())
        assert step.report.decrease.sum() >= rule.rate * rho * r**2 * (1 - ROUNDED) - error / step.rate
        assert step.after.sum() <= step.losses.sum() - 0.5 * step.rate * rule.rate * rho * r**2 + error
        time, least, room = time + step.rate, min(least, r), room + error
        assert least**2 * rule.rate * rho * time <= 2 * room


@given(st.data(), problems(), st.sampled_from([0.1, 1.0]), st.floats(0.5, 1))
@settings(max_examples=40)
def test_in_the_absolute_scale_the_conflict_free_gradient_vanishes_with_the_steps(
    data: st.DataObject, drawn: tuple[Problem, float], strength: float, power: float
) -> None:
    """(84), anchored elsewhere: Σ η‖r‖² is bounded by the room for the losses and Σ η²‖p‖²."""
    problem, reach = drawn
    rho = share_of_the_sum(len(problem.names), 0.5)
    assert problem.ideal is not None
    start, anchor = data.draw(starts(problem)), data.draw(starts(problem))
    room = float((problem.losses(start) - problem.ideal).sum())
    spent = 0.0

    def size(k: int) -> Callable[[Array, Report], float]:
        return lambda L, _: rho / (2 * float(L.sum())) * (k + 1) ** -power

    rates = [within(problem, reach, size(k)) for k in range(30)]
    for step in descend(problem, start, rates, anchor=anchor, strength=strength, scale="absolute"):
        if step.report.status is not Status.OPTIMAL or step.rate == 0:
            return
        L = float(problem.lipschitz_near(step.theta, reach).sum())
        pull = step.report.pull * step.report.objective_norm
        spent += 0.5 * step.rate * rho * step.report.strong_stationarity**2
        room += 4 * L * step.rate**2 * pull**2 + float(rounding_of(step).sum())
        assert spent <= room


@given(st.data(), problems(), st.floats(0, 1))
@settings(max_examples=40)
def test_under_the_classical_rule_every_loss_falls_by_its_share_of_stationarity(
    data: st.DataObject, drawn: tuple[Problem, float], power: float
) -> None:
    """(85), without pull."""
    problem, reach = drawn
    assert problem.ideal is not None
    start = data.draw(starts(problem))
    room, time, least = float((problem.losses(start) - problem.ideal).min()), 0.0, np.inf

    def size(k: int) -> Callable[[Array, Report], float]:
        return lambda L, _: (k + 1) ** -power / float(L.max())

    rates = [within(problem, reach, size(k)) for k in range(30)]
    for step in descend(problem, start, rates, decrease=MinNorm()):
        if step.report.status is not Status.OPTIMAL or step.rate == 0:
            return
        error = rounding_of(step)
        assert (step.after <= step.losses - 0.5 * step.rate * step.report.stationarity + error).all()
        time, least = time + step.rate, min(least, step.report.stationarity)
        room += float(error.max())
        assert least * time <= 2 * room


# ---------------------------------------------------------------------- the rate, fitted


@pytest.mark.parametrize(("rule", "speed"), [(MinNorm(), 1.0), (MinNorm(rate=2.0), 2.0), (KeepPace(), 2.0)])
@pytest.mark.parametrize("first", [0.5, 1.0])
def test_stationarity_falls_like_the_power_of_the_step_number_that_the_theory_gives(
    rule: DecreaseRule, speed: float, first: float
) -> None:
    """(86): with steps first/k, δ ~ k^(−2·speed·first), for two losses of one curvature, from between them.

    The product Π(1 − speed·η)² is met to rounding, and the slope between k = 100 and 1000 is that of the theory, to
    within what is left of O(1/k).
    """
    problem = Quadratics(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.ones(2, 2))
    numbers = np.arange(10, 1000)  # so that the first steps do not overshoot
    exact, found = 1.0, []
    start = torch.tensor([0.0, exact], dtype=torch.float64)
    for step in descend(problem, start, first / numbers, decrease=rule, limit=1e12):
        assert step.report.status is Status.OPTIMAL
        assert step.report.stationarity == pytest.approx(exact**2, rel=1e-6, abs=16 * EPS)  # G has entries of 1
        found.append(step.report.stationarity)
        exact *= 1 - speed * step.rate
    slope = np.polyfit(np.log(numbers[90:]), np.log(found[90:]), 1)[0]
    assert slope == pytest.approx(-2 * speed * first, abs=0.03)


@pytest.mark.parametrize("problem", SMOOTH, ids=lambda problem: problem.name)
@pytest.mark.parametrize("power", [0.0, 0.5])
def test_the_conflict_free_gradient_falls_no_slower_than_the_theory_says(problem: Problem, power: float) -> None:
    """(83): min ‖r‖² ~ 1/Ση, fitted over 200 steps, or those that it takes to a thousandth."""
    rho, L = share_of_the_sum(len(problem.names), 0.5), float(curvature(problem).sum())
    rates = rho / (1.2**2 * L) * np.arange(1, 201) ** -power
    steps = list(descend(problem, problem.start, rates, strength=0.1, limit=1e8))
    least = np.minimum.accumulate([step.report.strong_stationarity for step in steps])
    seen = least >= 1e-3 * least[0]
    assert 2 * np.polyfit(np.log(np.cumsum(rates))[seen], np.log(least)[seen], 1)[0] <= -1


# ---------------------------------------------------------------------- where it ends, by linear programmes


def best(steps: list[Step], measure: Callable[[Report], float]) -> Step:
    """Return the step from the point where a measure is least."""
    return min(steps, key=lambda step: measure(step.report))


@pytest.mark.parametrize("strength", [0.0, 0.1])
@pytest.mark.parametrize("problem", SMOOTH, ids=lambda problem: problem.name)
def test_under_keep_pace_the_best_point_is_strongly_stationary_to_the_bound(problem: Problem, strength: float) -> None:
    """(83) without our r: some μ ≥ 1 has ‖Jᵀμ‖∞ ≤ ‖r‖ ≤ √(2(S₀ − inf S)/(ρ Ση)), by a linear programme."""
    rho, L = share_of_the_sum(len(problem.names), 0.5), float(curvature(problem).sum())
    size = rho / ((1 + 2 * strength) ** 2 * L)
    steps = list(descend(problem, problem.start, [size] * 150, strength=strength, limit=1e8))
    assert problem.ideal is not None
    room = float((problem.losses(problem.start) - problem.ideal).sum())
    J = problem.jacobian(best(steps, lambda report: report.strong_stationarity).theta).numpy()
    residual = strong_stationarity_residual(J, least=1.0)
    assert residual <= np.sqrt(2 * room / (rho * size * len(steps)))
    # In the end it is far below the bound: these losses are convex, or wells.
    first = strong_stationarity_residual(problem.jacobian(problem.start).numpy(), least=1.0)
    assert residual <= 0.1 * first


SIZES = {"ZDT": 0.2, "DTLZ2": 0.1, "two valleys": 0.5, "Viennet": 0.02, "network": 0.2}


@pytest.mark.parametrize("strength", [0.0, 0.1])
@pytest.mark.parametrize("problem", OTHERS, ids=lambda problem: problem.name)
def test_also_without_constants_that_hold_everywhere_the_best_point_is_stationary(
    problem: Problem, strength: float
) -> None:
    """Strongly, to a hundredth of what it was at the start, from the first start; the sizes of the steps are tried."""
    size = next(value for name, value in SIZES.items() if problem.name.startswith(name))
    start = problem.starts[1] if problem.name.startswith("two valleys") else problem.start
    steps = list(descend(problem, start, [size / (1 + k / 200) for k in range(400)], strength=strength, limit=1e8))
    J = problem.jacobian(best(steps, lambda report: report.strong_stationarity).theta).numpy()
    assert strong_stationarity_residual(J, least=1.0) <= 0.01 * strong_stationarity_residual(
        problem.jacobian(start).numpy(), least=1.0
    )


@pytest.mark.parametrize("rule", [MinNorm(), ParetoNavigation(tolerance=0.0)], ids=repr)
@pytest.mark.parametrize("problem", SMOOTH, ids=lambda problem: problem.name)
def test_under_the_classical_rule_the_best_point_is_weakly_stationary_to_the_bound(
    problem: Problem, rule: DecreaseRule
) -> None:
    """(85) without our δ: some a on the simplex has ‖Jᵀa‖∞ ≤ √δ, by a linear programme."""
    size = 1 / float(curvature(problem).max())
    steps = list(descend(problem, problem.start, [size] * 100, decrease=rule))
    assert problem.ideal is not None
    room = float((problem.losses(problem.start) - problem.ideal).min())
    J = problem.jacobian(best(steps, lambda report: report.stationarity).theta).numpy()
    assert weak_stationarity_residual(J) <= np.sqrt(2 * room / (size * len(steps)))


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 3), min_size=2, max_size=3), st.sampled_from([0.0, 0.1]))
@settings(max_examples=10)
def test_losses_that_are_learnt_first_do_not_stop_the_others(seed: int, counts: list[int], strength: float) -> None:
    """From where the first loss is at its minimum already, δ = 0: the others are learnt at the linear rate of (87)."""
    problem = LinearRegressions.random(counts, 3 * sum(counts), seed=seed)
    first = LinearRegressions(problem.inputs[:1], problem.targets[:1])
    start = first.nearest(problem.start)
    assert start is not None
    rho, L = share_of_the_sum(len(counts), 0.5), float(curvature(problem).sum())
    size = rho / ((1 + 2 * strength) ** 2 * L)
    mu = float(torch.linalg.matrix_norm(torch.cat(problem.inputs), -2)) ** 2 / max(counts)
    steps = list(descend(problem, start, [size] * 200, strength=strength, limit=1e8))
    sums = np.array([step.losses.sum() for step in steps])
    assert steps[0].losses[0] <= ROUNDED * sums[0]
    assert (sums <= sums[0] * (1 - size * rho * mu) ** np.arange(200) * (1 + ROUNDED) + ROUNDED * sums[0]).all()
