"""Where descents end: the nearest minimiser, the navigated Pareto set, the levels; each known in closed form."""

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mgrad import ParetoNavigation, Status, Target
from mgrad.problems import LinearRegressions, Problem, Quadratics
from mgrad.solvers import Array
from tests.trajectories import descend

ROUNDED = 2.0**-40


def point(seed: int, size: int) -> Tensor:
    """Draw a point."""
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(size))


# ---------------------------------------------------------------------- the nearest minimiser: Propositions 10 and 22


@st.composite
def fitted(draw: st.DrawFn) -> LinearRegressions:
    """Draw regressions that can be fitted together, their data of a condition of at most 3."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    total, rng = sum(counts), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = total + draw(st.integers(1, 8))
    U, V = np.linalg.qr(rng.standard_normal((total, total)))[0], np.linalg.qr(rng.standard_normal((n, total)))[0]
    rows = torch.as_tensor(U * rng.uniform(1, 3, total) @ V.T)
    targets = torch.as_tensor(rng.standard_normal(total))
    return LinearRegressions(rows.split(counts), targets.split(counts))


def gradient_descent(problem: Problem, start: Tensor, steps: int) -> Tensor:
    """Return where plain gradient descent on the sum of the losses ends."""
    theta = start
    for _ in range(steps):
        theta = theta - problem.jacobian(theta).sum(0) / problem.lipschitz.sum()
    return theta


@given(fitted(), st.integers(0, 99), st.sampled_from([1.0, 2.0]))
@settings(max_examples=12)
def test_the_limit_is_the_minimiser_nearest_to_the_anchor_wherever_it_starts(
    problem: LinearRegressions, seed: int, strength: float
) -> None:
    """In the absolute scale with decreasing steps, gradient descent from the anchor being the reference.

    What is orthogonal to the data shrinks by Π(1 − η·strength), to rounding. What is in their span is bounded by the
    losses, ‖X⁺e‖ ≤ √(2kS)/σ, and these by the recursion of (84) with (87), which leaves O(η). (It is O(η) itself in
    what is seen, where the bound has O(√η).)
    """
    m, k = len(problem.names), max(len(X) for X in problem.inputs)
    anchor, start = point(seed, problem.size), 2 * point(seed + 1, problem.size)
    nearest = gradient_descent(problem, anchor, 600)
    L, rho = float(problem.lipschitz.sum()), 1 - 0.5 / (4 * m)
    rows = torch.cat(problem.inputs)
    sigma = float(torch.linalg.matrix_norm(rows, -2))
    rates = rho / (2 * L) / (1 + np.arange(700) / 40) ** 0.75
    bound, left, end = float(problem.losses(start).sum()), 1.0, start
    for step in descend(problem, start, rates, anchor=anchor, strength=strength, scale="absolute", limit=1e8):
        pull = step.report.pull * step.report.objective_norm
        if step.report.status is Status.OPTIMAL:
            bound = bound * (1 - step.rate * rho * sigma**2 / k) + 4 * L * step.rate**2 * pull**2
        else:
            bound = float(step.after.sum())
        left, end = left * (1 - step.rate * strength), step.end
        assert step.after.sum() <= bound * (1 + ROUNDED) + ROUNDED
    onto = torch.linalg.pinv(rows) @ rows
    across = (end - nearest) - onto @ (end - nearest)
    before = (start - nearest) - onto @ (start - nearest)
    assert (across - left * before).norm() <= ROUNDED * start.norm()
    assert (onto @ (end - nearest)).norm() <= (2 * k * bound) ** 0.5 / sigma + ROUNDED
    assert (end - nearest).norm() <= 0.1 * (start - nearest).norm()  # which says something


@given(fitted(), st.integers(0, 99), st.sampled_from([0.0, 0.1, 1.0]))
@settings(max_examples=12)
def test_from_the_anchor_itself_the_relative_scale_ends_there_too_with_constant_steps(
    problem: LinearRegressions, seed: int, strength: float
) -> None:
    """Nothing ever leaves the span of the data, and (87) is linear: ‖θ − nearest‖ ≤ √(2kS)/σ."""
    m, k = len(problem.names), max(len(X) for X in problem.inputs)
    anchor = point(seed, problem.size)
    size = (1 - 0.5 / (4 * m)) / (float(problem.lipschitz.sum()) * (1 + 2 * strength) ** 2)
    *_, last = descend(problem, anchor, [size] * 300, strength=strength, limit=1e8)
    sigma = float(torch.linalg.matrix_norm(torch.cat(problem.inputs), -2))
    reached = float((2 * k * last.after.sum()) ** 0.5) / sigma
    nearest = gradient_descent(problem, anchor, 600)
    assert (last.end - nearest).norm() <= reached + ROUNDED * anchor.norm()
    first = (1 - size * (1 - 0.5 / (4 * m)) * sigma**2 / k) ** 300 * float(problem.losses(anchor).sum())
    assert last.after.sum() <= first * (1 + ROUNDED) + ROUNDED


# ---------------------------------------------------------------------- navigation: Proposition 24


@given(st.integers(0, 2**32 - 1), st.integers(2, 3), st.integers(2, 5), st.booleans())
@settings(max_examples=8)
def test_navigation_ends_at_the_least_forgetting_pareto_point(seed: int, m: int, n: int, elsewhere: bool) -> None:
    """(88): from the set to τ + η·strength·‖θ − θ₀‖, from the point to that in the first order of both.

    The second order of τ is given a tenth, and the steps along the set, to and fro, twice the stride across.
    """
    rng = np.random.default_rng(seed)
    centres, ones = torch.as_tensor(2 * rng.standard_normal((m, n))), torch.ones(m, n, dtype=torch.float64)
    problem, anchor = Quadratics(centres, ones), torch.as_tensor(2 * rng.standard_normal(n))
    start = anchor + torch.as_tensor(rng.standard_normal(n)) if elsewhere else anchor
    rule, best = ParetoNavigation(rate=5.0, tolerance=0.1), problem.nearest(anchor)  # a rate that is soon back
    assert best is not None
    rates = 0.1 / (1 + np.arange(600) / 50) ** 0.75
    steps = list(descend(problem, start, rates, anchor=anchor, decrease=rule, strength=1.0, scale="absolute"))
    tail = steps[-50:]
    tau = max(rule.tolerance * float(step.report.gradient_norms.max()) for step in tail)
    stride = max(step.rate * float((step.theta - anchor).norm()) for step in tail)
    assume(stride <= tau / 4)  # as (88) needs: the centres are not close together beside their distance from θ₀
    for step in tail:
        hull = problem.nearest(step.end)
        assert hull is not None
        assert (step.end - hull).norm() <= (tau + stride) * (1 + ROUNDED)
        assert (step.end - best).norm() <= 1.1 * tau + 3 * stride


# ---------------------------------------------------------------------- levels: Proposition 12


def nearest_in_balls(centres: Array, radii: Array, anchor: Array) -> Array:
    """Return the point of the intersection of two balls, which is not empty, that is nearest to another.

    It is that point, its projection on one of the balls, or on the sphere in which both borders meet.
    """
    candidates = [anchor]
    for centre, radius in zip(centres, radii, strict=True):
        away = anchor - centre
        candidates.append(centre + min(1.0, radius / float(np.linalg.norm(away))) * away)
    axis = centres[1] - centres[0]
    between = float(np.linalg.norm(axis))
    axis /= between
    along = (radii[0] ** 2 - radii[1] ** 2 + between**2) / (2 * between)
    height = radii[0] ** 2 - along**2
    if height >= 0:
        away = anchor - centres[0]
        across = away - (away @ axis) * axis
        candidates.append(centres[0] + along * axis + np.sqrt(height) * across / np.linalg.norm(across))
    inside = [x for x in candidates if (np.linalg.norm(x - centres, axis=1) <= radii * (1 + 1e-12)).all()]
    return min(inside, key=lambda x: float(np.linalg.norm(x - anchor)))


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.floats(0.7, 1.5), st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=12)
def test_under_target_the_limit_is_the_nearest_point_of_the_levels(
    seed: int, n: int, reach: float, strength: float
) -> None:
    """Two balls that meet, from anywhere, with constant steps of half the curvature 1 + Σ λ* of the Lagrangian.

    That is strongly convex with modulus 1, with the multipliers μ of the last step and with those of the solution:
    ‖θ − x*‖² ≤ ‖θ − x*‖·‖d‖/strength + (λ* + μ)ᵀ|f − level|.
    """
    rng = np.random.default_rng(seed)
    centres, anchor = rng.standard_normal((2, n)), 2 * rng.standard_normal(n)
    radii = reach * np.linalg.norm(centres[1] - centres[0]) * np.array([1.0, 0.9])
    best = nearest_in_balls(centres, radii, anchor)
    # λ* from 0 = x* − θ₀ + Σ λᵢ(x* − cᵢ), over the borders that x* is on.
    on = np.linalg.norm(best - centres, axis=1) >= radii * (1 - 1e-9)
    exact = np.zeros(2)
    exact[on] = np.linalg.lstsq((best - centres[on]).T, anchor - best)[0]
    curved = 1 + float(exact.sum())
    assume(curved <= 8)
    problem = Quadratics(torch.as_tensor(centres), torch.ones(2, n, dtype=torch.float64))
    *_, last = descend(
        problem,
        torch.as_tensor(anchor + rng.standard_normal(n)),
        [0.5 / (strength * curved)] * int(40 * curved),
        anchor=torch.as_tensor(anchor),
        decrease=Target((0.5 * radii**2).tolist(), rate=strength),
        strength=strength,
        scale="absolute",
    )
    excess = np.abs(last.losses - 0.5 * radii**2)
    apart = last.report.direction_norm / strength
    apart += np.sqrt((exact + last.report.multipliers / strength) @ excess + 1e-15)
    assert np.linalg.norm(last.theta.numpy() - best) <= apart
    assert apart <= 1e-3  # which says something


def test_the_absolute_scale_keeps_a_remainder_with_a_constant_step() -> None:
    """So that the decreasing steps above are needed. (84) with (87) bounds it by O(√η), and it is seen to be O(η)."""
    problem = LinearRegressions.random([3, 2], 12, seed=3)
    anchor, sizes, apart = problem.starts[0], [0.02, 0.01, 0.005], []
    nearest = problem.nearest(anchor)
    assert nearest is not None
    for size in sizes:
        *_, last = descend(problem, anchor, [size] * int(12 / size), strength=1.0, scale="absolute")
        apart.append(float((last.end - nearest).norm()))
    assert min(apart) >= 0.1 * min(sizes)
    assert np.polyfit(np.log(sizes), np.log(apart), 1)[0] >= 0.5
