"""The synthetic problems: their gradients, and that what is said to be known of them is true."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, target
from hypothesis import strategies as st
from scipy.optimize import minimize, nnls
from torch import Tensor

from mgrad.problems import (
    DTLZ2,
    ZDT,
    FonsecaFleming,
    LinearRegressions,
    LogisticRegressions,
    Network,
    Noisy,
    Problem,
    Quadratics,
    TwoValleys,
    Viennet,
    suite,
)
from mgrad.solvers import Array
from tests.reference import weak_stationarity_residual

SUITE = suite()
SMALL = [problem for problem in SUITE if problem.size <= 100]
LARGE = 2.0**-40  # beside rounding errors of some hundred operations, 2⁻⁴⁵; small beside any mistake

every_problem = pytest.mark.parametrize("problem", SUITE, ids=lambda problem: problem.name)
every_small_problem = pytest.mark.parametrize("problem", SMALL, ids=lambda problem: problem.name)


def points(problem: Problem, count: int = 5, seed: int = 0) -> list[Tensor]:
    """Return the starts, and points about them."""
    rng = np.random.default_rng(seed)
    about = torch.as_tensor(rng.standard_normal((count, problem.size)))
    return [*problem.starts, *(problem.starts[k % len(problem.starts)] + x for k, x in enumerate(about))]


def places(problem: Problem, count: int = 5, seed: int = 0) -> list[Tensor]:
    """Return weights all over the simplex, and some near its corners."""
    m = len(problem.names)
    drawn = list(torch.as_tensor(np.random.default_rng(seed).dirichlet(np.ones(m), count)))
    return [*drawn, *(torch.eye(m, dtype=torch.float64) + 2.0**-50)]


def known(values: Tensor | None) -> Tensor:
    """Return what is known."""
    assert values is not None
    return values


def parametrised(problems: list[Problem]) -> list[Problem]:
    """Return those whose Pareto set is parametrised."""
    return [problem for problem in problems if problem.pareto_point([1.0] * len(problem.names)) is not None]


# ---------------------------------------------------------------------- losses and gradients


@every_problem
def test_the_jacobian_is_that_of_autograd(problem: Problem) -> None:
    for theta in points(problem):
        theta.requires_grad_()
        rows = [torch.autograd.grad(loss, theta, retain_graph=True)[0] for loss in problem.losses(theta)]
        expected, found = torch.stack(rows), problem.jacobian(theta)
        assert not found.requires_grad
        assert ((found - expected).norm(dim=1) <= LARGE * expected.norm(dim=1)).all()


def test_the_jacobian_where_the_valleys_meet_is_that_of_autograd() -> None:
    """At y = 0 both halves count, and in a valley the logarithm is cut off."""
    problem, tau = TwoValleys(), math.tanh(2.0)
    for theta in ([1.0, 0.0], [2 * tau - 7, 2.0], [7 - 2 * tau, 2.0]):
        at = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
        rows = [torch.autograd.grad(loss, at, retain_graph=True)[0] for loss in problem.losses(at)]
        torch.testing.assert_close(problem.jacobian(at), torch.stack(rows))


@every_problem
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_jacobian_are_of_the_dtype_of_the_parameters(problem: Problem, dtype: torch.dtype) -> None:
    theta = problem.start
    for of in (problem.losses, problem.jacobian):
        expected, found = of(theta), of(theta.to(dtype))
        assert found.dtype == dtype
        if dtype == torch.float32:
            torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@every_problem
def test_losses_and_jacobian_stay_on_the_device_of_the_parameters(problem: Problem) -> None:
    """ "meta" is a device that cannot be mixed with the host."""
    theta = problem.start.to("meta")
    assert problem.losses(theta).device.type == "meta"
    assert problem.jacobian(theta).device.type == "meta"


@pytest.mark.gpu
@every_problem
def test_losses_and_jacobian_are_the_same_on_a_gpu(problem: Problem) -> None:
    for of in (problem.losses, problem.jacobian):
        expected = of(problem.start)
        torch.testing.assert_close(of(problem.start.cuda()).cpu(), expected)


@every_small_problem
def test_losses_of_many_points_are_those_of_each(problem: Problem) -> None:
    stack = torch.stack(points(problem)[:6])
    many = problem.losses(stack.unflatten(0, (2, 3)))
    assert many.shape == (2, 3, len(problem.names))
    torch.testing.assert_close(many.flatten(0, 1), torch.stack([problem.losses(theta) for theta in stack]))


@every_problem
def test_shapes_and_names_fit(problem: Problem) -> None:
    m = len(problem.names)
    assert problem.starts.shape[1] == problem.size
    assert problem.starts.dtype == torch.float64
    assert problem.losses(problem.start).shape == (m,)
    assert problem.jacobian(problem.start).shape == (m, problem.size)
    for values in (problem.lipschitz, problem.ideal):
        assert values is None or values.shape == (m,)
    assert problem.reference


def test_the_suite_is_the_same_every_time_and_its_names_differ() -> None:
    assert len({problem.name for problem in SUITE}) == len(SUITE)
    for problem, other in zip(SUITE, suite(), strict=True):
        assert repr(problem) == repr(other)
        assert torch.equal(problem.starts, other.starts)
        assert torch.equal(problem.losses(problem.start), other.losses(problem.start))


# ---------------------------------------------------------------------- what is known


@pytest.mark.parametrize("problem", parametrised(SMALL), ids=lambda problem: problem.name)
def test_pareto_points_are_stationary(problem: Problem) -> None:
    """By a linear programme, relative to the gradients a unit away."""
    for w in places(problem):
        theta = known(problem.pareto_point(w))
        size = float(problem.jacobian(problem.start).norm(dim=1).max())
        assert weak_stationarity_residual(problem.jacobian(theta).numpy()) <= LARGE * size


@pytest.mark.parametrize("problem", parametrised(SMALL), ids=lambda problem: problem.name)
def test_no_point_is_better_than_a_pareto_point_in_every_loss(problem: Problem) -> None:
    everywhere = torch.stack([*points(problem, 200), *(known(problem.pareto_point(w)) for w in places(problem, 50, 1))])
    for w in places(problem):
        theta = known(problem.pareto_point(w))
        rng = np.random.default_rng(1)
        near = theta + 0.1 * torch.as_tensor(rng.standard_normal((200, problem.size)))
        losses = problem.losses(theta)
        others = problem.losses(torch.cat([everywhere, near]))
        assert not (others < losses - LARGE * (1 + losses.abs())).all(1).any()


CONVEX = [p for p in parametrised(SMALL) if isinstance(p, Quadratics | LinearRegressions | LogisticRegressions)]


@pytest.mark.parametrize("problem", CONVEX, ids=lambda problem: problem.name)
def test_for_convex_losses_the_point_of_some_weights_minimises_the_weighted_sum(problem: Problem) -> None:
    for w in places(problem):
        J = problem.jacobian(known(problem.pareto_point(w)))
        size = problem.jacobian(problem.start).norm(dim=1).max()
        assert ((w / w.sum()) @ J).norm() <= LARGE * size


NEAREST = [problem for problem in SMALL if problem.nearest(problem.start) is not None]


@pytest.mark.parametrize("problem", NEAREST, ids=lambda problem: problem.name)
def test_the_nearest_pareto_point_is_nearer_than_any_other(problem: Problem) -> None:
    others = torch.stack([known(problem.pareto_point(w)) for w in places(problem, 100)])
    for theta in points(problem, 2):
        nearest = known(problem.nearest(theta))
        size = float(problem.jacobian(theta).norm(dim=1).max())
        # A point of a curve is found to 10⁻⁸ of its distance.
        assert weak_stationarity_residual(problem.jacobian(nearest).numpy()) <= 1e-7 * size
        assert (nearest - theta).norm() <= (1 + 1e-12) * (others - theta).norm(dim=1).min()


@pytest.mark.parametrize("problem", NEAREST, ids=lambda problem: problem.name)
def test_a_pareto_point_is_the_nearest_to_itself(problem: Problem) -> None:
    for w in places(problem, 3)[:3]:
        theta = known(problem.pareto_point(w))
        assert (known(problem.nearest(theta)) - theta).norm() <= 1e-7 * (1 + theta.norm())


@st.composite
def surfaces(draw: st.DrawFn) -> Problem:
    """Draw a problem whose Pareto set is a surface of minimisers of Σ wᵢfᵢ."""
    m, n, seed = draw(st.integers(3, 4)), draw(st.integers(2, 6)), draw(st.integers(0, 2**32 - 1))
    kind = draw(st.sampled_from(["quadratics", "quadratics", "linear", "logistic"]))
    if kind == "linear":
        return LinearRegressions.random([n + 2] * 3, n, scales=[1.0, draw(st.sampled_from([0.1, 1.0])), 3.0], seed=seed)
    if kind == "logistic":
        return LogisticRegressions.random([n + 2] * 3, n, seed=seed)
    return Quadratics.random(n, m, condition=10.0 ** draw(st.integers(0, 4)), seed=seed)


@given(surfaces(), st.sampled_from([0.1, 1.0, 3.0]), st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_the_nearest_point_of_a_surface_keeps_the_conditions_of_the_optimum_and_no_search_finds_a_nearer(
    problem: Problem, length: float, seed: int
) -> None:
    """With A the Hessian of Σ wᵢfᵢ, −A⁻¹∇fᵢ is where a growing wᵢ moves P: never towards θ, and across where wᵢ > 0.

    The weights are found from P by least squares, the Hessian by autograd. The search draws weights all over the
    simplex and near its sides, and goes on from the best by the method of Nelder and Mead, without derivatives.
    """
    rng, m = np.random.default_rng(seed), len(problem.names)
    theta = length * torch.as_tensor(rng.standard_normal(problem.size))
    nearest = known(problem.nearest(theta))
    apart, distance = nearest - theta, float((nearest - theta).norm())
    J = problem.jacobian(nearest)
    sizes = J.norm(dim=1)
    assume(distance > 1e-3 * float(theta.norm()))  # from the set itself there is no direction
    assume(float(sizes.min()) > 1e-6 * float(problem.jacobian(theta).norm(dim=1).max()))  # a corner has no gradient
    shares, _ = nnls(np.vstack([(J / sizes[:, None]).numpy().T, np.ones(m)]), np.r_[np.zeros(problem.size), 1.0])
    w = torch.as_tensor(shares) / sizes
    hessian = torch.autograd.functional.hessian(lambda at: w @ problem.losses(at), nearest)
    moves = -torch.linalg.solve(hessian, J.T).T
    cosines = moves @ apart / (moves.norm(dim=1) * distance)
    assert (cosines >= -1e-5).all()
    assert (cosines[w > 1e-9 * w.max()].abs() <= 1e-5).all()

    def far(logits: Array) -> float:
        point = known(problem.pareto_point(torch.as_tensor(np.append(logits, 0.0)).softmax(0)))
        return float((point - theta).norm())

    drawn = rng.uniform(-12, 12, (200, m - 1))
    best = sorted(drawn, key=far)[:3]
    least = min(float(minimize(far, at, method="Nelder-Mead").fun) for at in best)
    assert distance <= (1 + 1e-9) * least


@every_small_problem
def test_gradients_differ_by_no_more_than_the_lipschitz_constants(problem: Problem) -> None:
    rng = np.random.default_rng(0)
    for theta in points(problem, 10):
        for length in (2.0**-10, 1.0, 8.0):
            other = theta + length * torch.as_tensor(rng.standard_normal(problem.size))
            apart = (problem.jacobian(theta) - problem.jacobian(other)).norm(dim=1)
            scale = problem.jacobian(theta).norm(dim=1)
            assert (apart <= (1 + LARGE) * problem.lipschitz * (theta - other).norm() + LARGE * scale).all()


def curvature(problem: Problem, theta: Tensor) -> Tensor:
    """Return the spectral norms [m] of the Hessians, by autograd."""
    hessians = [
        torch.autograd.functional.hessian(lambda at, i=i: problem.losses(at)[i], theta, vectorize=True)
        for i in range(len(problem.names))
    ]
    norms: Tensor = torch.linalg.matrix_norm(torch.stack(hessians), 2)
    return norms


def tails(problem: Problem, first: float, rest: float) -> Tensor:
    """Return a point with one value in front of many."""
    return torch.tensor([first, *[rest] * (problem.size - 1)], dtype=torch.float64)


# By the beginning of the name: points of curvature near the constants, and for those that are ∞ of any curvature.
STEEP: dict[str, Callable[[Problem], list[Tensor]]] = {
    "ZDT": lambda p: [tails(p, math.acosh(2.0), 0.0), tails(p, 40.0, 0.0), tails(p, 0.0, 1e16)],
    "DTLZ2": lambda p: [torch.tensor([0.0] * 2 + [1e8] * (p.size - 2), dtype=torch.float64)],
    "Viennet": lambda p: [tails(p, 0.19592167661759927**0.5, 0.0), tails(p, 1e8, 0.0)],
    "two valleys": lambda p: [tails(p, -5.0 + 2e-4, 5.0), tails(p, 5.0 - 2e-4, 5.0)],
    "network": lambda p: [torch.cat([p.start[:-16], 1e4 * p.start[-16:]])],
}


@every_small_problem
def test_the_lipschitz_constants_are_no_larger_than_they_must_be(problem: Problem) -> None:
    """They are the largest curvatures at some point: where a loss is least, at 0, or at a point of `STEEP`.

    To 1 % for ZDT2, whose constant bounds two blocks and what is between them, largest at different points.
    """
    corners = [problem.pareto_point(w) for w in places(problem, 0)]
    steep = [point for name, of in STEEP.items() if problem.name.startswith(name) for point in of(problem)]
    for i, bound in enumerate(problem.lipschitz.tolist()):
        largest = 0.0
        for theta in (*corners, *steep, torch.zeros_like(problem.start)):
            if theta is None:  # where the Pareto set is not parametrised
                continue
            largest = max(largest, float(curvature(problem, theta)[i]))
        if bound < math.inf:
            assert (0.99 if problem.name.startswith("ZDT2") else 1 - 1e-9) * bound <= largest <= (1 + 1e-9) * bound
        else:
            assert largest > 1e5


@st.composite
def curved(draw: st.DrawFn) -> Problem:
    """Draw a problem whose curvature is not constant."""
    m, n, seed = draw(st.integers(2, 4)), draw(st.integers(4, 6)), draw(st.integers(0, 2**32 - 1))
    makes: list[Callable[[], Problem]] = [
        lambda: FonsecaFleming(n),
        lambda: ZDT(1, n),
        lambda: ZDT(2, n),
        lambda: ZDT(3, n),
        lambda: DTLZ2(m, n),
        Viennet,
        TwoValleys,
        lambda: TwoValleys(0.1),
        lambda: LogisticRegressions.random([n + 2] * m, n, seed=seed),
        lambda: Network([2] * m, inputs=2, width=3, seed=seed),
    ]
    return draw(st.sampled_from(makes))()


@given(st.data(), curved(), st.sampled_from([0.0, 1e-3, 0.1, 1.0, 10.0]))
@settings(max_examples=500)
def test_no_curvature_in_a_ball_is_above_the_lipschitz_constants_of_the_ball(
    data: st.DataObject, problem: Problem, radius: float
) -> None:
    """Between any two points of a convex set gradients differ by no more than the largest curvature in it allows."""
    coordinates = st.lists(st.floats(-10, 10), min_size=problem.size, max_size=problem.size)
    theta = torch.tensor(data.draw(coordinates), dtype=torch.float64)
    way = torch.tensor(data.draw(coordinates), dtype=torch.float64)
    share = data.draw(st.floats(0, 1))
    near = problem.lipschitz_near(theta, radius)
    assert (near <= (1 + LARGE) * problem.lipschitz).all()
    assert (problem.lipschitz_near(theta, share * radius) <= (1 + LARGE) * near).all()
    assume(near.isfinite().any())
    length = float(way.norm())
    found = curvature(problem, theta + share * radius / length * way if length else theta)
    ratio = torch.where(near.isfinite(), found / near, 0.0)
    target(float(ratio.max()))
    assert (ratio <= 1 + LARGE).all()


@every_small_problem
def test_the_lipschitz_constants_of_a_point_are_at_most_twice_the_curvature_somewhere(problem: Problem) -> None:
    """Balls of radius 0 about starts, Pareto points, and the points of `STEEP`."""
    steep = [point for name, of in STEEP.items() if problem.name.startswith(name) for point in of(problem)]
    found = [problem.pareto_point(w) for w in places(problem, 3)]
    centres = [*problem.starts, *steep, torch.zeros_like(problem.start), *(at for at in found if at is not None)]
    ratios = torch.stack([curvature(problem, at) / problem.lipschitz_near(at, 0.0) for at in centres])
    assert (ratios.nan_to_num(0.0).amax(0) >= 0.5).all()


def test_where_a_gradient_jumps_there_is_no_lipschitz_constant() -> None:
    """The halves of the two valleys meet at y = 0; beside it there are constants."""
    problem = TwoValleys()
    for x in (-3.0, 0.0, 12.0):
        above, below = (torch.tensor([x, y], dtype=torch.float64) for y in (1e-9, -1e-9))
        assert ((problem.jacobian(above) - problem.jacobian(below)).norm(dim=1) > 1).all()
        assert problem.lipschitz_near(above, 1e-8).isinf().all()
        assert problem.lipschitz_near(torch.tensor([x, -1.0]), 0.5).isfinite().all()


@every_small_problem
def test_no_loss_is_below_its_infimum(problem: Problem) -> None:
    losses = problem.losses(torch.stack(points(problem, 1000)))
    assert (losses >= known(problem.ideal) - LARGE * (1 + losses.abs())).all()


@pytest.mark.parametrize("problem", parametrised(SMALL), ids=lambda problem: problem.name)
def test_every_loss_comes_near_its_infimum_at_a_corner_of_the_pareto_set(problem: Problem) -> None:
    """The weights are 2⁻⁵⁰ from the corners: for DTLZ2 that leaves 2⁻²⁵."""
    corners = torch.stack([problem.losses(known(problem.pareto_point(w))) for w in places(problem, 0)])
    assert (corners.amin(0) - known(problem.ideal) <= 2.0**-24).all()


# ---------------------------------------------------------------------- by hand, from the publications


def front_of_zdt(number: int) -> Callable[[Tensor], Tensor]:
    """Return f₁ as a function of f₀ on the front."""
    return {
        1: lambda x: 1 - x.sqrt(),
        2: lambda x: 1 - x.square(),
        3: lambda x: 1 - x.sqrt() - x * (10 * math.pi * x).sin(),
    }[number]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_front_of_zdt_is_the_published_one(number: int) -> None:
    problem = ZDT(number, 5)
    front = torch.stack([problem.losses(known(problem.pareto_point(w))) for w in places(problem, 100)])
    torch.testing.assert_close(front[:, 1], front_of_zdt(number)(front[:, 0]))
    # At the published variables x, of which the last are at √(1 + θ²) − 1.
    theta = torch.tensor([0.0, 0.75, 0.75, -0.75, -0.75], dtype=torch.float64)
    x, g = 0.5, 1 + 9 / 4 * (4 * 0.25)
    expected = {1: g * (1 - math.sqrt(x / g)), 2: g * (1 - (x / g) ** 2), 3: g * (1 - math.sqrt(x / g))}[number]
    assert problem.losses(theta).tolist() == pytest.approx([x, expected])


def test_the_front_of_dtlz2_is_the_sphere() -> None:
    for m in (2, 3, 5):
        problem = DTLZ2(m, m + 3)
        for w in places(problem):
            losses = problem.losses(known(problem.pareto_point(w)))
            torch.testing.assert_close(losses, (w / w.sum()).sqrt(), atol=1e-7, rtol=1e-7)
    # By hand: cos cos, cos sin, sin of angles of 45°, and g = 4.
    half = math.sqrt(0.5)
    found = DTLZ2(3, 3).losses(torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([5 * half * half, 5 * half * half, 5 * half])


def test_the_front_of_fonseca_and_fleming_is_the_published_one() -> None:
    """f₁ = 1 − exp(−(2 − √(−log(1 − f₀)))²)."""
    problem = FonsecaFleming(7)
    for w in places(problem, 20):
        first, second = problem.losses(known(problem.pareto_point(w)))
        assert float(second) == pytest.approx(1 - math.exp(-((2 - math.sqrt(-math.log1p(-first))) ** 2)), abs=1e-7)


def test_the_pareto_set_of_the_two_valleys_is_where_the_authors_draw_it() -> None:
    """In the middle, to 10⁻⁴; at the ends it is lower than they draw. A start has the value of toy.py."""
    problem = TwoValleys()
    assert known(problem.pareto_point([1.0, 1.0])).tolist() == pytest.approx([0.0, -8.3552], abs=1e-4)
    ends = torch.stack([known(problem.pareto_point([1.0, 0.0])), known(problem.pareto_point([0.0, 1.0]))])
    straight = torch.tensor([[7.0, -8.3552], [-7.0, -8.3552]], dtype=torch.float64)
    assert (problem.losses(ends).diagonal() < problem.losses(straight).diagonal()).all()
    assert TwoValleys(0.1).losses(problem.start)[0] == pytest.approx(0.1 * float(problem.losses(problem.start)[0]))
    x = y = 9.0  # written as it is there
    first = math.log(max(abs(0.5 * (-x - 7) - math.tanh(-y)), 5e-6)) + 6
    second = math.log(max(abs(0.5 * (-x + 3) + math.tanh(-y) + 2), 5e-6)) + 6
    expected = [first * math.tanh(y * 0.5), second * math.tanh(y * 0.5)]
    assert problem.losses(torch.tensor([x, y], dtype=torch.float64)).tolist() == pytest.approx(expected)


def test_the_losses_of_viennet_are_least_where_they_should_be() -> None:
    problem = Viennet()
    origin, other = torch.tensor([[0.0, 0.0], [-2.0, -1.0]], dtype=torch.float64)
    ideal = known(problem.ideal)
    assert problem.losses(origin)[[0, 2]].tolist() == pytest.approx(ideal[[0, 2]].tolist())
    assert problem.losses(other)[1] == pytest.approx(float(ideal[1]))


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_viennet_is_stationary_where_its_radial_losses_disagree(x: float, y: float) -> None:
    """(94), against the linear programme."""
    s = x * x + y * y
    first, third = 0.5 + math.cos(s), 1.1 * math.exp(-s) - 1 / (s + 1) ** 2
    if first * third < 0:
        J = Viennet().jacobian(torch.tensor([x, y], dtype=torch.float64))
        assert weak_stationarity_residual(J.numpy()) <= LARGE * float(J.norm())


def test_fitted_regressions_have_all_losses_zero_at_the_nearest_point_and_it_is_orthogonal() -> None:
    problem = LinearRegressions.random([3, 4], 10, seed=5)
    for theta in points(problem):
        nearest = known(problem.nearest(theta))
        assert problem.losses(nearest).max() <= 2.0**-80
        rows = torch.cat(problem.inputs)
        move = nearest - theta  # in the span of the data
        assert (move - torch.linalg.pinv(rows) @ rows @ move).norm() <= LARGE * move.norm()


def test_the_mirror_changes_the_axes_and_nothing_else() -> None:
    """The quadratics of P c at P θ are those of c at θ."""
    plain, v = Quadratics.random(6, 3, condition=100.0, mirrored=False), torch.arange(1.0, 7.0, dtype=torch.float64)
    P = torch.eye(6, dtype=torch.float64) - 2 * torch.outer(v, v) / (v @ v)
    mirrored = Quadratics(plain.centres @ P, plain.curvatures, mirror=v)
    torch.testing.assert_close(mirrored.losses(plain.starts @ P), plain.losses(plain.starts))
    w = [0.2, 0.3, 0.5]
    torch.testing.assert_close(mirrored.pareto_point(w), P @ plain.pareto_point(w))


def test_a_large_problem_has_its_pareto_point_known() -> None:
    problem = next(problem for problem in SUITE if problem.size == 100_000)
    w = torch.tensor([0.75, 0.25], dtype=torch.float64)
    J = problem.jacobian(known(problem.pareto_point(w)))
    assert (w @ J).norm() <= LARGE * J.norm()
    nearest = known(problem.nearest(problem.start))
    assert (nearest - problem.start).norm() <= (known(problem.pareto_point(w)) - problem.start).norm()


# ---------------------------------------------------------------------- noise


def test_the_noise_of_a_batch_has_the_covariance_that_was_asked_for() -> None:
    """Means of N numbers: six standard deviations of each entry of the covariance, of each coordinate of the mean."""
    C = torch.tensor([[0.5, -0.25, 0.0], [-0.25, 0.25, 0.1], [0.0, 0.1, 1.0]], dtype=torch.float64)
    problem = Quadratics.random(500, 3, condition=10.0)
    noisy = Noisy(problem, C)
    exact = problem.jacobian(problem.start)
    noise = torch.stack([noisy.batch(t).jacobian(problem.start) - exact for t in range(40)])  # [40, 3, 500]
    count = 40 * 500
    found = torch.einsum("tik,tjk->ij", noise, noise) / count
    deviation = ((C.diagonal()[:, None] * C.diagonal() + C.square()) / count).sqrt()
    assert ((found - C).abs() <= 6 * deviation).all()
    assert (noise.mean((0, 2)).abs() <= 6 * (C.diagonal() / count).sqrt()).all()
    assert (torch.einsum("ik,jk->ij", noise[0], noise[1]) / 500).abs().max() <= 6 * 500**-0.5


def test_a_batch_is_the_same_whenever_it_is_asked_for_and_other_batches_are_others() -> None:
    noisy = Noisy(FonsecaFleming(4), torch.eye(2))
    theta = noisy.start + 1
    assert torch.equal(noisy.batch(7).losses(theta), noisy.batch(7).losses(theta))
    assert not torch.equal(noisy.batch(7).losses(theta), noisy.batch(8).losses(theta))
    assert not torch.equal(
        noisy.batch(7).losses(theta), Noisy(noisy.problem, torch.eye(2), seed=1).batch(7).losses(theta)
    )


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_the_gradient_of_a_batch_is_that_of_its_losses(step: int) -> None:
    batch = Noisy(FonsecaFleming(4), torch.eye(2)).batch(step)
    theta = batch.start.clone().requires_grad_()
    rows = [torch.autograd.grad(loss, theta, retain_graph=True)[0] for loss in batch.losses(theta)]
    torch.testing.assert_close(batch.jacobian(theta), torch.stack(rows))


# ---------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Quadratics(torch.ones(2, 3), torch.zeros(2, 3)), "must be of one shape"),
        (lambda: ZDT(4), "must be number 1, 2 or 3"),
        (lambda: DTLZ2(3, 2), "must have 2 ≤ m ≤ n"),
        (lambda: LinearRegressions([torch.ones(4, 2)], [torch.ones(4)]), "must have independent rows"),
        (lambda: LogisticRegressions([torch.ones(4, 2)], torch.ones(1, 2)), "must have n = 2 independent rows"),
        (lambda: Network([50, 50], inputs=2, width=8), "must have no more data"),
        (lambda: Noisy(Viennet(), torch.eye(2)), "must be symmetric"),
        (lambda: Noisy(Viennet(), -torch.eye(3)), "must be positive semidefinite"),
        (lambda: FonsecaFleming().pareto_point([1.0, -1.0]), "finite weights ≥ 0"),
        (lambda: FonsecaFleming().pareto_point([0.0, 0.0]), "finite weights ≥ 0"),
        (lambda: Network().pareto_point([1.0]), "3 finite weights"),
    ],
)
def test_wrong_input_says_what_is_wrong(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
