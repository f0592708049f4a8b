"""`Target` as a constrained optimizer: min ½‖θ − θ₀‖² subject to fᵢ(θ) ≤ levelᵢ, x* and λ* (math.md, 45)."""

from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import NonlinearConstraint, minimize
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD

from mgrad import Anchor, LessForgetting, Report, Status, Target
from mgrad.direction import Solver
from mgrad.solvers import Array
from tests.asserts import assert_same_direction
from tests.reference import exact_direction
from tests.strategies import jacobians
from tests.training import assert_identical

SOLVERS: tuple[Solver, ...] = get_args(Solver)


def optimizer(theta: Parameter, start: Array, levels: list[float], step: float, **options: Any) -> LessForgetting:
    """Return SGD under Target in the absolute scale, anchored at `start`."""
    return LessForgetting(
        SGD([theta], lr=step),
        anchor=Anchor([torch.as_tensor(start)]),
        decrease=Target(levels, rate=options.pop("rate", 1.0)),
        scale="absolute",
        **options,
    )


# ---------------------------------------------------------------------- affine losses: a quadratic programme


class Programme(NamedTuple):
    """Losses Aθ − a with levels 0, θ₀ and another point to start from."""

    A: Array
    a: Array
    anchor: Array
    start: Array


@st.composite
def programmes(draw: st.DrawFn) -> Programme:
    """Draw a programme of small integers and eighths: what follows is exact in float64."""
    A = draw(jacobians(rows=(1, 4), columns=(1, 5), spreads=("unit",)))
    m, n = A.shape
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    points = [rng.integers(-16, 17, size).astype(np.float64) / 8 for size in (m, n, n)]
    return Programme(np.round(8 * A) / 8, *points)


def one_step(problem: Programme, rate: float, step: float, solver: Solver) -> tuple[Array, Report]:
    theta = Parameter(torch.as_tensor(problem.start).clone())
    levels = [0.0] * len(problem.A)
    opt = optimizer(theta, problem.anchor, levels, step, rate=rate, strength=rate, solver=solver)
    values = torch.as_tensor(problem.A) @ theta - torch.as_tensor(problem.a)
    report = opt.backward(list(values))
    opt.step()
    return theta.detach().numpy(), report


@given(programmes(), st.sampled_from([0.5, 1.0, 4.0]), st.sampled_from(SOLVERS))
def test_one_step_solves_a_quadratic_programme(problem: Programme, rate: float, solver: Solver) -> None:
    """With rate = strength = 1/η, from any point: the solution in fractions, and its multipliers."""
    A, a, anchor, start = problem
    assume(A.any(axis=1).all())
    end, report = one_step(problem, rate, 1 / rate, solver)
    required = A @ anchor - a  # exact
    reference = exact_direction(A, np.zeros(len(anchor)), required)
    if reference is None:
        assert report.status is not Status.OPTIMAL
        return
    assume(report.status is Status.OPTIMAL)
    z, mu = (np.array([float(value) for value in part]) for part in reference)
    # Of the numbers that the step was computed from, those about `start` are the largest.
    terms = np.abs(start - anchor) + np.abs(start)
    assert_same_direction(A, terms, np.abs(A) @ terms + np.abs(a), (anchor - end, report.multipliers / rate), (z, mu))


@given(programmes(), st.sampled_from([0.25, 1.0]), st.sampled_from([0.125, 0.5, 1.0]))
def test_every_excess_shrinks_by_the_promised_factor(problem: Programme, rate: float, step: float) -> None:
    """Proposition 12 (i), which has no second order here: f⁺ ≤ (1 − η·rate)·f for levels of 0."""
    A, a, _, start = problem
    end, report = one_step(problem, rate, step, "active_set")
    assume(report.status is Status.OPTIMAL)
    terms = np.abs(A) @ (np.abs(start) + np.abs(end) + np.abs(A).T @ report.multipliers) + np.abs(a)
    assert (A @ end - a <= (1 - step * rate) * (A @ start - a) + 64 * 2.0**-52 * terms).all()


# ---------------------------------------------------------------------- convex losses


class Quadratics(NamedTuple):
    """Losses ½(θ − cᵢ)ᵀ diag(hᵢ) (θ − cᵢ)."""

    centres: Array
    curvatures: Array

    def losses(self, theta: Tensor) -> Tensor:
        centres, curvatures = torch.as_tensor(self.centres), torch.as_tensor(self.curvatures)
        return (0.5 * curvatures * (theta - centres).square()).sum(1)

    def values(self, theta: Array) -> Array:
        return np.asarray((0.5 * self.curvatures * (theta - self.centres) ** 2).sum(1))

    def jacobian(self, theta: Array) -> Array:
        return self.curvatures * (theta - self.centres)


def solve_exactly(problem: Quadratics, anchor: Array, levels: Array) -> tuple[Array, Array]:
    """Return x* and λ*: SLSQP finds the active losses, Newton's method on their conditions the digits."""

    def distance(x: Array) -> float:
        return 0.5 * float((x - anchor) @ (x - anchor))

    options: Any = {  # whose types are beyond the stubs
        "jac": lambda x: x - anchor,
        "constraints": NonlinearConstraint(problem.values, -np.inf, levels, jac=problem.jacobian),
        "method": "SLSQP",
        "tol": 1e-14,
    }
    found = minimize(distance, anchor + 0.1, **options)
    x = np.asarray(found.x)
    active = levels - problem.values(x) < 1e-6
    n, k = len(x), int(active.sum())
    multipliers = np.linalg.lstsq(problem.jacobian(x)[active].T, anchor - x)[0]
    for _ in range(20):
        J = problem.jacobian(x)[active]
        hessian = np.diag(1 + multipliers @ problem.curvatures[active])
        system = np.block([[hessian, J.T], [J, np.zeros((k, k))]])
        residual = np.r_[x - anchor + J.T @ multipliers, (problem.values(x) - levels)[active]]
        move = np.linalg.solve(system, -residual)
        x, multipliers = x + move[:n], multipliers + move[n:]
    full = np.zeros(len(levels))
    full[active] = multipliers
    # The conditions themselves, which for convex losses are enough.
    assert np.abs(x - anchor + problem.jacobian(x).T @ full).max() < 1e-13
    assert (full >= 0).all()
    assert (problem.values(x) <= levels + 1e-13).all()
    return x, full


CASES: dict[str, tuple[Quadratics, list[float], list[float]]] = {
    "one ball": (Quadratics(np.array([[3.0, 4.0]]), np.ones((1, 2))), [0.0, 0.0], [2.0]),
    "two ellipses, both active": (
        Quadratics(np.array([[2.0, 0.0, 0.5], [0.0, 2.0, -0.5]]), np.array([[1.0, 2.0, 0.5], [2.0, 0.5, 1.0]])),
        [-1.0, -1.0, 0.0],
        [2.0, 1.5],
    ),
    "three, one of them slack": (
        Quadratics(
            np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]),
            np.array([[2.0, 0.5, 1.0], [1.0, 2.0, 0.5], [0.5, 1.0, 2.0]]),
        ),
        [1.0, 1.0, -2.0],
        [3.0, 3.0, 2.5],
    ),
    "all levels met at the anchor": (
        Quadratics(np.array([[1.0, 0.0], [0.0, 1.0]]), np.ones((2, 2))),
        [0.25, 0.25],
        [1.0, 2.0],
    ),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("strength", [0.5, 2.0])
@pytest.mark.parametrize(("problem", "anchor", "levels"), CASES.values(), ids=CASES)
def test_the_limit_is_the_constrained_minimum_with_its_multipliers(
    problem: Quadratics, anchor: list[float], levels: list[float], strength: float, solver: Solver
) -> None:
    """Constant steps will do: the direction tends to 0 with its requirements."""
    theta0, limits = np.array(anchor), np.array(levels)
    best, exact = solve_exactly(problem, theta0, limits)
    theta = Parameter(torch.as_tensor(theta0 + np.array([1.0, -0.5, 0.25])[: len(theta0)]))
    opt = optimizer(theta, theta0, levels, 0.2 / strength, rate=strength, strength=strength, solver=solver)
    for _ in range(200 if solver == "active_set" else 100):
        opt.zero_grad()
        report = opt.backward(list(problem.losses(theta)))
        before = theta.detach().numpy().copy()
        opt.step()
    multipliers, excess = report.multipliers / strength, problem.values(before) - limits
    # The Lagrangian is strongly convex with modulus 1, in θ at μ and at λ*; the two inequalities add up to
    # ‖θ − x*‖² ≤ ‖θ − x*‖·‖d‖/strength + (λ* − μ)ᵀ(f − level).
    length = report.direction_norm / strength
    apart = length + np.sqrt(np.abs(exact - multipliers) @ np.abs(excess) + 1e-15)
    assert float(np.linalg.norm(before - best)) <= apart
    assert apart <= 1e-5  # which says something
    # d/strength = θ − θ₀ + Jᵀμ and 0 = x* − θ₀ + J*ᵀλ*: what Jᵀ(μ − λ*) is off.
    off = length + (1 + float((exact @ problem.curvatures).max())) * apart
    rows = problem.jacobian(before)
    active = (exact > 0) | (multipliers > 0)
    if active.any():
        smallest = float(np.linalg.svd(rows[active], compute_uv=False).min())
        assert float(np.linalg.norm(multipliers - exact)) <= off / smallest
    else:
        assert not exact.any()


def test_one_ball_by_hand() -> None:
    """The point of the ball of radius 2 about (3, 4) that is nearest to 0, and λ = distance/radius − 1."""
    problem, anchor, levels = CASES["one ball"]
    x, multipliers = solve_exactly(problem, np.array(anchor), np.array(levels))
    assert x == pytest.approx([1.8, 2.4])
    assert multipliers == pytest.approx([1.5])


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 6), st.sampled_from([0.5, 2.0]))
def test_levels_that_can_be_reached_are_never_contradictory(seed: int, m: int, n: int, rate: float) -> None:
    """Proposition 12 (iv): for convex losses, from wherever one starts."""
    rng = np.random.default_rng(seed)
    problem = Quadratics(rng.standard_normal((m, n)), rng.uniform(0.1, 2.0, (m, n)))
    reached = rng.standard_normal(n)
    levels = problem.values(reached) + 0.125
    theta = Parameter(torch.as_tensor(4 * rng.standard_normal(n)))
    opt = optimizer(theta, np.zeros(n), levels.tolist(), 0.1, rate=rate)
    report = opt.backward(list(problem.losses(theta)))
    assert report.status is Status.OPTIMAL
    assert report.unmet == ()


# ---------------------------------------------------------------------- the forms of the optimizer


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["numbers", "tensors", "a dimension of 1"])
def test_blocks_take_the_same_step_as_backward_once_told_the_losses(solver: Solver, kind: str) -> None:
    problem, anchor, levels = CASES["two ellipses, both active"]
    ends = []
    for blocks in (False, True):
        theta = Parameter(torch.as_tensor(np.array(anchor) + 0.5))
        opt = optimizer(theta, np.array(anchor), levels, 0.1, solver=solver)
        values = dict(zip(["en", "de"], problem.losses(theta), strict=True))
        if blocks:
            for name, value in values.items():
                with opt.constraint(name):
                    value.backward(retain_graph=True)
            told: dict[str, Any] = {name: value.detach() for name, value in values.items()}
            if kind == "numbers":
                told = {name: value.item() for name, value in told.items()}
            elif kind == "a dimension of 1":
                told = {name: value.reshape(1) for name, value in told.items()}
            opt.solve(dict(reversed(told.items())))  # by name, in any order
        else:
            opt.backward(values)
        opt.step()
        ends.append(theta.detach().clone())
    assert_identical(ends[0], ends[1])


def test_losses_that_a_rule_does_not_ask_for_change_nothing() -> None:
    ends = []
    for told in (None, {"0": 1e6}):
        theta = Parameter(torch.ones(2))
        opt = LessForgetting(SGD([theta], lr=0.1))
        with opt.constraint("0"):
            theta.square().sum().backward()
        opt.solve(told)
        opt.step()
        ends.append(theta.detach().clone())
    assert_identical(ends[0], ends[1])


def test_a_loss_that_is_not_finite_on_the_device_is_a_step_of_nothing() -> None:
    theta = Parameter(torch.ones(2))
    opt = LessForgetting(SGD([theta], lr=0.1), decrease=Target([0.0]), solver="device")
    report = opt.backward([theta.sum() + torch.inf])
    opt.step()
    assert theta.tolist() == [1.0, 1.0]
    with pytest.raises(FloatingPointError, match="must be finite"):
        str(report)
