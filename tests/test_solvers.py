"""The solver solves its three domains, says truly how far it got, and knows no special size."""

from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from mgrad.solvers import Array, Status, certify, rounding, solve
from tests.asserts import assert_certified, assert_recertified, assert_same_direction
from tests.reference import (
    dot,
    exact,
    exact_direction,
    exact_gramian,
    exact_matrix,
    exact_min_norm,
    exact_product,
    exact_quadratic_programme,
    has_ray,
    quadprog_direction,
)
from tests.strategies import Problem, jacobians, nearly_opposite, problems, row_scales, stationary

SMALL = (1, 4)  # rows that the exact reference can enumerate

# ---------------------------------------------------------------- x ≥ 0


@given(problems(rows=SMALL, columns=(1, 6)))
def test_nonnegative_answer_is_the_exact_one(problem: Problem) -> None:
    J, p = problem
    found = solve(J @ J.T, J @ p)  # b = 0: d = 0 is feasible
    assert found.status is Status.OPTIMAL
    reference = exact_quadratic_programme(exact_gramian(J), exact_product(J, p))
    assert reference is not None
    assert_certified(found, J)
    d, y = p + J.T @ found.multipliers, np.array([float(value) for value in reference])
    assert_same_direction(J, p, np.zeros(len(J)), (d, found.multipliers), (p + J.T @ y, y))


@given(problems(rows=(1, 12), columns=(1, 12), spreads=("unit", "common")), st.data())
def test_direction_is_that_of_quadprog(problem: Problem, data: st.DataObject) -> None:
    J, p = problem
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    toward = rng.standard_normal(J.shape[1]) * np.abs(J).max()
    b = J @ toward - rng.random(len(J)) * np.linalg.norm(J, axis=1) * np.linalg.norm(toward)  # met by `toward`
    expected = quadprog_direction(J, p, b)
    assert expected is not None
    found = solve(J @ J.T, J @ p - b)
    d = p + J.T @ found.multipliers
    assert_certified(found, J)
    # quadprog's own tolerance is of the order of √ε in d, relative to what d is made of.
    size = float(np.linalg.norm(np.abs(p) + np.abs(J).T @ found.multipliers + np.abs(expected)))
    assert float(np.linalg.norm(d - expected)) <= 1e-7 * size


@given(problems(rows=(1, 8), columns=(1, 8), spreads=("unit", "common")))
def test_pull_alone_is_a_nonnegative_least_squares_problem(problem: Problem) -> None:
    J, p = problem
    lengths = np.where(J.any(axis=1), np.linalg.norm(J, axis=1), 1.0)
    unit = float(np.abs(p).max()) or 1.0
    y, residual = nnls((J / lengths[:, None]).T, -p / unit)  # ‖Jᵀλ + p‖ = ‖d‖ is what the dual minimises with b = 0
    d = p + J.T @ solve(J @ J.T, J @ p).multipliers
    size = unit * float(np.linalg.norm(np.abs(p / unit) + np.abs(J / lengths[:, None]).T @ y))
    assert abs(float(np.linalg.norm(d)) - unit * residual) <= 1e-7 * size  # √ε: both are least to second order


@given(row_scales(1), st.floats(-4, 4))
@example(np.array([2.0]), -5e-324)  # divided by the length of the row, it is 0
def test_one_row_has_the_closed_form(scale: Array, q: float) -> None:
    G = float(scale[0]) ** 2 * 3
    smallest = float(np.finfo(np.float64).tiny)  # below it digits are lost
    assert solve([[G]], [q]).multipliers[0] == pytest.approx(max(0.0, -q / G), rel=rounding(1), abs=smallest)


def test_three_rows_of_which_no_pair_is_sure_are_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Next to dependent rows: what rounds a pair is not what rounds the three."""
    monkeypatch.setattr("mgrad.solvers.closed_form._pair_on_orthant", lambda *_: None)
    found = solve(np.eye(3), np.array([1.0, -1.0, -1.0]))
    assert found.multipliers.tolist() == [0.0, 1.0, 1.0]
    assert found.status is Status.OPTIMAL


@given(st.integers(0, 2**32 - 1), row_scales(2))
def test_two_rows_have_the_closed_form(seed: int, scales: Array) -> None:
    J = np.random.default_rng(seed).standard_normal((2, 3))
    q = np.random.default_rng(seed + 1).standard_normal(2)
    cosine = J[0] @ J[1] / np.linalg.norm(J[0]) / np.linalg.norm(J[1])
    assume(abs(cosine) < 0.99)
    both = np.linalg.solve(J @ J.T, -q)
    if (both >= 0).all():
        expected = both
    else:  # one of the two alone, whichever brings the lower value −q²/2G
        alone = np.maximum(-q, 0) / np.diagonal(J @ J.T)
        expected = np.where(np.arange(2) == np.argmax(alone * np.maximum(-q, 0)), alone, 0)
    found = solve((J @ J.T) * np.outer(scales, scales), q * scales)
    # Condition number of a 2x2 Gramian of unit diagonal: (1 + |cos|)/(1 − |cos|) < 200.
    np.testing.assert_allclose(found.multipliers * scales, expected, rtol=200 * rounding(5), atol=200 * rounding(5))


@given(problems(rows=SMALL, columns=(1, 4)), st.data())
def test_unbounded_is_said_exactly_where_a_ray_exists(problem: Problem, data: st.DataObject) -> None:
    J, _ = problem
    unit = np.where(J.any(axis=1), np.abs(J).max(axis=1), 1.0)
    J = np.round(3 * J / unit[:, None])  # integers: a ray is one or it is not
    q = np.array(data.draw(st.lists(st.integers(-2, 2), min_size=len(J), max_size=len(J))), dtype=np.float64)
    ray = has_ray(J, q)
    assert (exact_direction(J, np.zeros(J.shape[1]), -q) is None) is ray  # the two references agree
    assert solve(J @ J.T, q).status is (Status.UNBOUNDED if ray else Status.OPTIMAL)


@pytest.mark.parametrize("exponent", [-40, 0, 40])
def test_opposite_rows_that_must_both_fall_are_unbounded(exponent: int) -> None:
    J = np.array([[1.0, 2.0], [-(2.0**exponent), -(2.0 ** (exponent + 1))]])
    assert solve(J @ J.T, [-1.0, -(2.0**exponent)]).status is Status.UNBOUNDED


def test_what_falls_for_ever_within_the_error_of_the_linear_term_alone_is_not_unbounded() -> None:
    # q = Gw of opposite rows that cancel all but 2⁻²⁰: what differs between its entries is the rounding of Gw.
    G, q = np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([-(2.0**-20), 2.0**-20 - 2.0**-52])
    found = solve(G, q)
    assert found.status is Status.UNBOUNDED  # so it is, if every digit of q counts
    found = solve(G, q, linear_error=[2.0**-51, 2.0**-51])
    assert found.status is Status.OPTIMAL
    assert found.multipliers == pytest.approx([2.0**-20, 0.0], rel=rounding(2) * 2.0**20)
    assert solve([[0.0]], [-(2.0**-52)], linear_error=[2.0**-51]).status is Status.OPTIMAL
    assert solve([[0.0]], [-(2.0**-50)], linear_error=[2.0**-51]).status is Status.UNBOUNDED


def test_zero_row_gets_no_multiplier_and_is_unbounded_only_where_it_must_fall() -> None:
    G = np.diag([1.0, 0.0])
    for q in (0.0, 1.0):
        found = solve(G, [-1.0, q])
        assert (found.status, found.multipliers.tolist()) == (Status.OPTIMAL, [1.0, 0.0])
    assert solve(G, [-1.0, -1.0]).status is Status.UNBOUNDED
    assert solve(np.zeros((2, 2)), [0.0, 1.0]).status is Status.OPTIMAL


# ---------------------------------------------------------------- bounded


def _objective(G: Array, q: Array, x: Array) -> float:
    return float(0.5 * x @ G @ x + q @ x)


@given(problems(rows=SMALL, columns=(1, 5)), st.floats(-12, 6))
def test_bounded_answer_is_the_exact_one(problem: Problem, share: float) -> None:
    J, p = problem
    norms = np.sqrt(np.diagonal(J @ J.T))
    assume(norms.all() and p.any())
    b = J @ p + norms**2 * 2.0**-3  # may well ask for the impossible
    bound = 2.0**share * float(np.linalg.norm(p))
    q = J @ p - b
    found = solve(J @ J.T, q, bound=bound)
    assert_certified(found, J)
    G, normal, level = exact_gramian(J), exact(norms), Fraction(bound)
    reference = exact_quadratic_programme(G, exact(q))
    within = reference is not None and dot(normal, reference) <= level * (1 + Fraction(rounding(len(J))))
    if reference is None or not within:
        reference = exact_quadratic_programme(G, exact(q), normal, level)
        assert reference is not None
    # Both are feasible to rounding; on the face, as for x ≥ 0, ‖Jᵀ(x − x')‖² ≤ (x + x')ᵀ(t + t'), with t the rounding
    # errors of Gx + q − κn, where |κ| ≤ max (|G|x + |q|)ᵢ/nᵢ.
    assert float(norms @ found.multipliers) <= bound * (1 + rounding(len(J)))
    y = np.array([float(value) for value in reference])
    terms = np.abs(J) @ (np.abs(J).T @ (found.multipliers + y)) + np.abs(q)
    error = rounding(sum(J.shape)) * (terms + norms * float((terms / norms).max()))
    apart = J.T @ (found.multipliers - y)
    assert apart @ apart <= (found.multipliers + y) @ error


@given(problems(rows=(1, 6), columns=(1, 6), spreads=("unit", "common")))
def test_larger_bounds_never_give_a_larger_objective(problem: Problem) -> None:
    J, p = problem
    G, q = J @ J.T, J @ p - np.diagonal(J @ J.T)
    unit = float(np.linalg.norm(p)) + float(np.abs(J).max()) or 1.0
    answers = [solve(G, q, bound=unit * 2.0**k).multipliers for k in range(-6, 7, 3)]
    values = [_objective(G, q, x) for x in answers]
    noise = [rounding(sum(J.shape)) * float(x @ (np.abs(G) @ x) + np.abs(q) @ x) for x in answers]
    for k in range(len(values) - 1):
        assert values[k + 1] <= values[k] + noise[k] + noise[k + 1]


@given(problems(rows=(1, 6), columns=(1, 6)))
def test_bound_that_does_not_bind_changes_nothing(problem: Problem) -> None:
    J, p = problem
    free = solve(J @ J.T, J @ p)
    bound = 2 * float(free.multipliers @ np.linalg.norm(J, axis=1)) + 1
    np.testing.assert_array_equal(solve(J @ J.T, J @ p, bound=bound).multipliers, free.multipliers)


def test_bound_of_zero_leaves_no_multiplier() -> None:
    found = solve(np.eye(2), [-1.0, 0.0], bound=0.0)
    assert found.multipliers.tolist() == [0.0, 0.0]
    assert found.status is Status.BOUND_ACTIVE  # the decrease that q asks for is not brought


@pytest.mark.parametrize("exponent", [-40, 0, 40])
def test_bound_makes_an_unbounded_problem_end_at_it(exponent: int) -> None:
    scale = 2.0**exponent
    found = solve(scale**2 * np.array([[1.0, -1.0], [-1.0, 1.0]]), scale**2 * np.array([-1.0, -1.0]), bound=8 * scale)
    assert found.status is Status.BOUND_ACTIVE
    assert found.multipliers.tolist() == [4.0, 4.0]
    assert found.primal_residual > 0.1  # it says what it could not promise


# ---------------------------------------------------------------- simplex


@given(jacobians(rows=SMALL, columns=(1, 6)))
def test_simplex_answer_is_the_exact_one(J: Array) -> None:
    found = solve(J @ J.T, domain="simplex")
    a = found.multipliers
    assert found.status is Status.OPTIMAL
    assert (a >= 0).all()
    assert abs(a.sum() - 1) <= rounding(len(a))
    delta, best = exact_min_norm(J)
    G, x = exact_gramian(J), exact(a)
    value = dot(x, [dot(row, x) for row in G])
    # aᵀGa ≥ δ; above it by at most the errors of the slacks, summed with either coefficients: ε(Σ aᵢnᵢ + Σ a'ᵢnᵢ)².
    norms = np.linalg.norm(J, axis=1)
    reach = float(norms @ a) + float(norms @ np.array([float(share) for share in best]))
    assert value <= delta + Fraction(rounding(sum(J.shape)) * reach**2), (float(value), float(delta))


@given(jacobians(rows=(1, 32), columns=(1, 16), spreads=("unit", "common")))
def test_simplex_answer_is_certified(J: Array) -> None:
    assert_certified(solve(J @ J.T, domain="simplex"), J)


@given(jacobians(rows=(1, 16), columns=(1, 16)))
def test_simplex_is_never_unbounded(J: Array) -> None:
    assert solve(J @ J.T, domain="simplex").status is Status.OPTIMAL


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10))
def test_simplex_of_two_rows_has_the_closed_form(seed: int, ratio: float) -> None:
    J = np.random.default_rng(seed).standard_normal((2, 3)) * [[1.0], [ratio]]
    G = J @ J.T
    distance = float((J[0] - J[1]) @ (J[0] - J[1]))
    assume(distance > 0.1)
    share = float(np.clip((G[1, 1] - G[0, 1]) / distance, 0, 1))
    a = solve(G, domain="simplex").multipliers
    size = float(np.abs(G).sum()) / distance  # the condition of the quotient
    np.testing.assert_allclose(a, [share, 1 - share], atol=size * rounding(5), rtol=0)


@given(problems(rows=SMALL, columns=(1, 5), spreads=("unit", "common")))
def test_simplex_with_a_linear_term_is_the_exact_one(problem: Problem) -> None:
    J, p = problem
    found = solve(J @ J.T, J @ p, domain="simplex")
    assert_certified(found, J)
    one = Fraction(1)
    reference = exact_quadratic_programme(exact_gramian(J), exact_product(J, p), [one] * len(J), one)
    assert reference is not None
    G, q = J @ J.T, J @ p
    y = np.array([float(value) for value in reference])
    size = float(np.abs(G).max() + np.abs(q).max() + np.abs(J).max() * np.linalg.norm(p))
    assert _objective(G, q, found.multipliers) <= _objective(G, q, y) + rounding(sum(J.shape)) * size


# ---------------------------------------------------------------- degenerate rows


@given(jacobians(kinds=("random", "agreeing", "conflicting"), rows=(1, 5)), st.data())
def test_duplicated_row_changes_no_direction(J: Array, data: st.DataObject) -> None:
    p = np.random.default_rng(0).standard_normal(J.shape[1]) * np.abs(J).max()
    twice = np.vstack([J, J[data.draw(st.integers(0, len(J) - 1))]])
    x, y = solve(J @ J.T, J @ p).multipliers, solve(twice @ twice.T, twice @ p).multipliers
    padded = np.append(x, 0.0)  # also a solution of the longer problem
    zeros = np.zeros(len(twice))
    assert_same_direction(twice, p, zeros, (p + twice.T @ padded, padded), (p + twice.T @ y, y))


@given(st.integers(0, 2**32 - 1), st.integers(2, 16), row_scales(16))
def test_rank_one_is_solved_without_a_ridge(seed: int, m: int, scales: Array) -> None:
    rng = np.random.default_rng(seed)
    J = np.outer(rng.choice([-1.0, 1.0, 2.0], m) * scales[:m], rng.integers(1, 4, 3))
    q = J @ rng.standard_normal(3) * float(np.abs(J).max())
    found = solve(J @ J.T, q)
    assert_certified(found, J)


@given(st.integers(0, 2**32 - 1), st.integers(3, 64))
def test_more_rows_than_dimensions_are_solved(seed: int, m: int) -> None:
    J = np.random.default_rng(seed).standard_normal((m, 2))
    assert_certified(solve(J @ J.T, J @ np.array([3.0, -1.0])), J)
    assert_certified(solve(J @ J.T, domain="simplex"), J)


@given(stationary(rows=(2, 4)))
def test_stationary_rows_have_a_hull_through_zero(case: tuple[Array, Array]) -> None:
    J, mu = case
    assert exact_min_norm(J)[0] == 0
    a = solve(J @ J.T, domain="simplex").multipliers
    size = float(np.abs(J).T @ a @ (np.abs(J).T @ (a + mu / mu.sum())))
    assert float((J.T @ a) @ (J.T @ a)) <= rounding(sum(J.shape)) * size


# ---------------------------------------------------------------- equivariance


@given(problems(rows=(1, 6), columns=(1, 6)), st.integers(-40, 40))
def test_scaling_all_gradients_keeps_the_multipliers_bit_for_bit(problem: Problem, exponent: int) -> None:
    G, q, scale = problem.J @ problem.J.T, problem.J @ problem.p, 2.0 ** (2 * exponent)
    for domain in ("nonnegative", "simplex"):
        before, after = solve(G, q, domain=domain), solve(scale * G, scale * q, domain=domain)
        np.testing.assert_array_equal(after.multipliers, before.multipliers)
        assert (after.status, after.iterations) == (before.status, before.iterations)
        assert after.duality_gap == before.duality_gap


@given(problems(rows=(1, 6), columns=(1, 6), spreads=("unit",)), st.data())
def test_scaling_one_gradient_scales_its_multiplier_inversely(problem: Problem, data: st.DataObject) -> None:
    J, p = problem
    scales = data.draw(row_scales(len(J)))
    before = solve(J @ J.T, J @ p).multipliers
    after = solve((J @ J.T) * np.outer(scales, scales), (J @ p) * scales).multipliers
    np.testing.assert_array_equal(after * scales, before)


@given(problems(rows=(2, 6), columns=(1, 6)), st.randoms(use_true_random=False))
def test_order_of_the_rows_changes_no_direction(problem: Problem, random: Random) -> None:
    J, p = problem
    order = list(range(len(J)))
    random.shuffle(order)
    x = solve(J @ J.T, J @ p).multipliers
    y = np.empty_like(x)
    y[order] = solve(J[order] @ J[order].T, J[order] @ p).multipliers
    assert_same_direction(J, p, np.zeros(len(J)), (p + J.T @ x, x), (p + J.T @ y, y))


# ---------------------------------------------------------------- the certificate


@given(problems(rows=SMALL, columns=(1, 4), spreads=("unit",)), st.data())
def test_certificate_is_what_rational_arithmetic_gives(problem: Problem, data: st.DataObject) -> None:
    J, _ = problem
    J = np.round(J * 4) / 4
    G, m = J @ J.T, len(J)
    integers = st.lists(st.integers(-4, 4), min_size=m, max_size=m)
    q, x = (np.array(data.draw(integers), dtype=np.float64) for _ in range(2))
    slack = [dot(row, exact(x)) + value for row, value in zip(exact_matrix(G), exact(q), strict=True)]
    size = [
        dot([abs(g) for g in row], exact(np.abs(x))) + abs(value)
        for row, value in zip(exact_matrix(G), exact(q), strict=True)
    ]
    magnitude = dot(exact(np.abs(x)), size)
    found = certify(G, q, x)

    def close(value: float) -> object:
        return pytest.approx(value, rel=rounding(m), abs=rounding(m))

    lengths = exact(np.where(np.diagonal(G) > 0, np.sqrt(np.diagonal(G)), 1.0))
    unmet = max(
        Fraction(0), *((-s - Fraction(rounding(m)) * a) / n for s, a, n in zip(slack, size, lengths, strict=True))
    )
    gain = unmet**2 / 2
    gap = float(max(abs(dot(exact(x), slack)) / (magnitude or 1), gain / (magnitude + gain) if gain else Fraction(0)))
    products = [abs(a * s) for a, s in zip(exact(x), slack, strict=True)]
    assert found.duality_gap == close(gap)
    assert found.complementarity == close(float(max(products) / magnitude) if magnitude else 0.0)
    largest = max(s / n for s, n in zip(size, lengths, strict=True))
    assert found.primal_residual == close(float(unmet / largest) if largest else 0.0)
    assert (found.dual_residual > 0) == bool((x * np.sqrt(np.diagonal(G)) < 0).any())


@pytest.mark.parametrize("size", [2, 3, 5, 9])
@pytest.mark.parametrize("options", [{}, {"bound": 0.1}, {"domain": "simplex"}], ids=["free", "bounded", "simplex"])
def test_only_the_lower_triangle_counts(size: int, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(size)
    J, q = rng.standard_normal((size, 20)), rng.standard_normal(size)
    for rows in (J, np.vstack([J[:-1], -J[0]])):  # the last: dependent, for the method that is exact on these, too
        G = rows @ rows.T
        G[np.triu_indices(size, 1)] = G.T[np.triu_indices(size, 1)]
        uneven = G + np.triu(rng.standard_normal((size, size)), 1)
        methods = ["active_set", "frank_wolfe"] if options else ["active_set"]
        for method in methods:
            expected, found = (solve(matrix, q, method=method, **options) for matrix in (G, uneven))
            assert found.multipliers.tolist() == expected.multipliers.tolist()
            assert found[1:] == expected[1:]
        assert certify(uneven, q, np.ones(size), **options) == certify(G, q, np.ones(size), **options)


@given(problems(rows=(1, 6), columns=(1, 6)))
def test_solution_carries_its_own_certificate(problem: Problem) -> None:
    G, q = problem.J @ problem.J.T, problem.J @ problem.p
    assert_recertified(G, q, solve(G, q))
    assert_recertified(G, q, solve(G, q, domain="simplex"), domain="simplex")
    assert_recertified(G, q, solve(G, q, bound=1.0), bound=1.0)


@given(problems(rows=(2, 6), columns=(2, 6), kinds=("random",), spreads=("unit", "common")), st.floats(0.01, 0.5))
def test_certificate_sees_a_wrong_multiplier(problem: Problem, error: float) -> None:
    J, p = problem
    x = solve(J @ J.T, J @ p - np.diagonal(J @ J.T)).multipliers
    i = int(np.argmax(x * np.linalg.norm(J, axis=1)))
    assume(x[i] > 0)
    wrong = x.copy()
    wrong[i] *= 1 + error
    # Complementarity of i alone: xᵢ²Gᵢᵢ·error of the magnitude, of which xᵢ²Gᵢᵢ is at least a share of 1/m² less q's.
    assert certify(J @ J.T, J @ p - np.diagonal(J @ J.T), wrong).complementarity > 1e-9


def test_certificate_of_an_answer_outside_the_domain_says_so() -> None:
    assert certify(np.eye(2), [0.0, 0.0], [-1.0, 1.0]).dual_residual > 0.1
    assert certify(np.eye(2), None, [0.5, 0.6], domain="simplex").dual_residual == pytest.approx(0.1)
    assert certify(np.eye(2), [-1.0, -1.0], [1.0, 1.0], bound=1.0).dual_residual == pytest.approx(0.5)


def test_certificate_of_the_zero_problem_is_zero() -> None:
    assert certify(np.zeros((2, 2)), None, [1.0, 0.0]) == (0, 0, 0, 0)


# ---------------------------------------------------------------- cases that broke others, and this one


def test_gramian_that_is_not_positive_definite_needs_no_ridge() -> None:
    # quadprog, given this Gramian as GEM gives it, stops with "matrix G is not positive definite".
    J = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [-1.0, 0.0, 1.0], [0.0, 2.0, 4.0]])
    found = solve(J @ J.T, J @ np.array([-1.0, -1.0, -1.0]))
    assert_certified(found, J)
    d = np.array([-1.0, -1.0, -1.0]) + J.T @ found.multipliers
    assert (J @ d >= -rounding(7) * 30).all()


@pytest.mark.parametrize("exponent", [-40, -20, 0, 20, 40])
def test_small_gradients_are_not_taken_for_a_ridge(exponent: int) -> None:
    # With G + 1e-8·I and gradients of 1e-12, the ridge alone decides and both multipliers come out equal.
    G = np.array([[1.0, -0.5], [-0.5, 4.0]]) * 4.0**exponent
    assert solve(G, domain="simplex").multipliers == pytest.approx([4.5 / 6, 1.5 / 6], rel=rounding(3))


def test_limit_of_iterations_is_kept_and_gives_a_feasible_point() -> None:
    rng = np.random.default_rng(0)
    J = rng.standard_normal((12, 20))
    q = J @ rng.standard_normal(20) - 3
    needed = solve(J @ J.T, q).iterations
    assert needed > 1
    for limit in range(needed):
        found = solve(J @ J.T, q, max_iterations=limit)
        assert found.status is Status.ITERATION_LIMIT
        assert found.iterations <= limit
        assert (found.multipliers >= 0).all()
    found = solve(np.eye(3), domain="simplex", max_iterations=0)
    assert (found.status, found.iterations) == (Status.ITERATION_LIMIT, 0)
    assert found.multipliers.sum() == pytest.approx(1, rel=rounding(3))
    assert found.duality_gap > 0.1


# Found by random search: rows opposite to 10⁻⁶ and of very different lengths. The Gramians stand here as they came out.
NOT_CYCLING = [
    [0.0003659457851725137, -0.007602281465792076, -4179419966.7192874, 996.4515361440964],
    [-0.007602281465792076, 5.144801080956336, 2828383776016.6367, -674339.7521706744],
    [-4179419966.7192874, 2828383776016.6367, 1.5549201336573976e24, -3.707221298844874e17],
    [996.4515361440964, -674339.7521706744, -3.707221298844874e17, 88387110444.58952],
]
NOT_UNBOUNDED = [
    [2.556038098318812, -1.8098779334983546e-12, -2.556036776772517],
    [-1.8098779334983546e-12, 2.5783302106010293e-24, 1.8098768325289953e-12],
    [-2.556036776772517, 1.8098768325289953e-12, 2.556035455226927],
]


@pytest.mark.parametrize("G", [NOT_CYCLING, NOT_UNBOUNDED], ids=["cycling", "unbounded"])
def test_opposite_rows_of_very_different_lengths_are_solved_on_the_simplex(G: list[list[float]]) -> None:
    found = solve(G, domain="simplex")
    assert found.status is Status.OPTIMAL
    assert found.duality_gap <= len(G) * rounding(len(G))


# Of two wells seen from far away (the smaller gradient is 10⁻¹⁶² long): what is left of its square is the least number.
UNDERFLOWING = [[9.214879094766737e-298, 7.9230309999917e-311], [7.9230309999917e-311, 5e-324]]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("options", [{}, {"bound": 1.0}, {"domain": "simplex"}], ids=["free", "bounded", "simplex"])
def test_squares_that_underflow_are_solved_all_the_same(size: int, options: dict[str, Any]) -> None:
    """An exception came out of the closed form: neither a rest of 0 nor its share of 0 was below the other."""
    G = np.diag([5e-324] * size)
    G[:2, :2] = UNDERFLOWING
    for q in (-np.diag(G), np.full(size, -5e-324)):
        found = solve(G, q * (options.get("domain") is None), **options)
        assert found.status in {Status.OPTIMAL, Status.BOUND_ACTIVE}
        assert np.isfinite(found.multipliers).all()


def test_opposite_rows_among_rows_of_all_lengths_are_solved_on_the_simplex_or_said_not_to_be() -> None:
    # In the corral of the two, κ hangs on the difference of variables of 10⁷: once taken for a reason to leave it.
    inaccurate = 0
    for seed in range(600):
        rng = np.random.default_rng(seed)
        J = rng.standard_normal((8, 10))
        J[rng.integers(1, 8)] = -J[0]
        J *= 10.0 ** rng.uniform(-12, 12, (8, 1))
        found = solve(J @ J.T, domain="simplex")
        if found.status is Status.INACCURATE:
            inaccurate += 1
            assert found.duality_gap > 8 * rounding(8)
        else:
            assert_certified(found, J)
    assert inaccurate <= 3


@given(nearly_opposite())
def test_nearly_opposite_rows_are_solved_to_the_rounding_of_the_gramian(J: Array) -> None:
    G = J @ J.T
    found = solve(G, domain="simplex")
    assert found.status is Status.OPTIMAL
    # As for the exact rows, but G is what it was rounded to: δ is known to ε(Σ aᵢnᵢ + Σ a'ᵢnᵢ)², for either Gramian.
    delta, best = exact_min_norm(J)
    x = exact(found.multipliers)
    value = dot(x, [dot(row, x) for row in exact_gramian(J)])
    norms = np.linalg.norm(J, axis=1)
    reach = float(norms @ found.multipliers) + float(norms @ np.array([float(share) for share in best]))
    assert value <= delta + Fraction(rounding(sum(J.shape)) * reach**2)
    # G may be singular to rounding and q = Jp not: within a bound there is an answer all the same. Its value is known
    # to rounding, and a violation s of a row of length 1 is worth s²/2 of it.
    p = np.random.default_rng(0).standard_normal(J.shape[1])
    found = solve(G, J @ p, bound=1e4 * float(np.linalg.norm(p)))
    tolerance = len(J) * rounding(len(J))
    assert max(found.duality_gap, found.complementarity, found.dual_residual) <= tolerance
    if found.status is not Status.BOUND_ACTIVE:
        assert found.status is Status.OPTIMAL
        assert found.primal_residual <= np.sqrt(2 * tolerance)


def test_what_is_just_beyond_rounding_is_solved_and_not_left() -> None:
    # Two opposite rows whose slack is between what the solver and what the certificate once took for rounding.
    G = [[1.596164831787556, -1.5961648317876298], [-1.5961648317876298, 1.5961648317877037]]
    found = solve(G, [2.3043647654463992, -2.3043647654465165], bound=18528.605679554636)
    assert found.status is not Status.INACCURATE
    assert found.duality_gap <= 2 * rounding(2)


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([[1.0, 0.0]],), {}, r"`gramian` must be a square matrix.*Found shape \[1, 2\]"),
        (([1.0],), {}, r"`gramian` must be a square matrix.*Found shape \[1\]"),
        ((np.zeros((0, 0)),), {}, r"m ≥ 1\. Found shape \[0, 0\]"),
        (
            (np.eye(2), [1.0]),
            {},
            r"`linear` must have one value for each row of the Gramian, \[2\]\. Found shape \[1\]",
        ),
        (([[float("nan")]],), {}, "must be finite. Found NaN or infinity"),
        (([[1.0]], [float("inf")]), {}, "must be finite. Found NaN or infinity"),
        (([[-1.0]],), {}, "`gramian` must have a diagonal ≥ 0. Found -1"),
        (([[1.0]],), {"bound": -1.0}, r"`bound` must be a number ≥ 0 or None\. Found -1\.0"),
        (([[1.0]],), {"bound": float("nan")}, r"`bound` must be a number ≥ 0 or None\. Found nan"),
        (([[1.0]],), {"domain": "simplex", "bound": 1.0}, r"`bound` must be None on the simplex.*Found 1\.0"),
        (([[1.0]],), {"domain": "ball"}, r'`domain` must be "nonnegative" or "simplex"\. Found \'ball\''),
    ],
)
def test_bad_input_is_named_with_what_was_found(
    arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        solve(*arguments, **options)
    gramian, linear = (*arguments, None)[:2]
    with pytest.raises(ValueError, match=message):
        certify(gramian, linear, [0.0], **options)


@pytest.mark.parametrize("error", [[1.0], [[1.0, 1.0]], [-1.0, 0.0], [float("nan"), 0.0], [float("inf"), 0.0]])
def test_bad_error_of_the_linear_term_is_named_with_what_was_found(error: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"`linear_error` must be \[2\] finite values ≥ 0\. Found shape \["):
        solve(np.eye(2), linear_error=error)


@settings(max_examples=20)
@given(problems())
def test_input_is_not_modified(problem: Problem) -> None:
    G, q = problem.J @ problem.J.T, problem.J @ problem.p
    before = G.copy(), q.copy()
    solve(G, q)
    solve(G, q, bound=1.0)
    solve(G, domain="simplex")
    np.testing.assert_array_equal(G, before[0])
    np.testing.assert_array_equal(q, before[1])


# ---------------------------------------------------------------- other methods, starts


@given(problems(rows=(1, 8), columns=(1, 8), spreads=("unit", "common")), st.sampled_from([1e-2, 1e-4, 1e-6]))
def test_frank_wolfe_meets_the_gap_that_it_was_asked_for(problem: Problem, tolerance: float) -> None:
    J, p = problem
    G, q = J @ J.T, J @ p
    unit = float(np.linalg.norm(p)) + float(np.abs(J).max()) or 1.0
    choices: list[dict[str, Any]] = [{"domain": "simplex"}, {"bound": 4 * unit}]
    for options in choices:
        found = solve(G, q, method="frank_wolfe", tolerance=tolerance, **options)
        assert found.status in {Status.OPTIMAL, Status.BOUND_ACTIVE, Status.ITERATION_LIMIT}
        assert (found.duality_gap <= tolerance) or found.status is Status.ITERATION_LIMIT
        assert found.dual_residual <= len(J) * rounding(len(J))
        assert_recertified(G, q, found, **options)
        best = solve(G, q, **options)
        x, y = found.multipliers, best.multipliers
        noise = rounding(sum(J.shape)) * float(x @ (np.abs(G) @ x + np.abs(q)) + y @ (np.abs(G) @ y + np.abs(q)))
        assert _objective(G, q, y) <= _objective(G, q, x) + noise


def test_pairwise_steps_reach_a_face_and_plain_ones_zigzag_towards_it() -> None:
    J = np.array([[-1.0, 1.0], [1.3, 1.0], [0.2, 2.0]])  # the nearest point to 0 is (0, 1), between the first two
    G, start = J @ J.T, [0.0, 0.0, 1.0]
    pairwise = solve(G, domain="simplex", method="frank_wolfe", tolerance=1e-10, start=start)
    assert pairwise.status is Status.OPTIMAL
    limit = 10 * pairwise.iterations
    plain = solve(G, domain="simplex", method="plain_frank_wolfe", tolerance=1e-10, start=start, max_iterations=limit)
    assert (plain.status, plain.iterations) == (Status.ITERATION_LIMIT, limit)
    assert plain.duality_gap > 1e-6


@pytest.mark.parametrize("method", ["frank_wolfe", "plain_frank_wolfe"])
def test_cap_of_frank_wolfe_fires(method: str) -> None:
    # MGDA's published loop never counts, and so may not return.
    G = [[1.0, 0.999999], [0.999999, 1.0000001]]
    found = solve(G, [0.0, -1e-7], domain="simplex", method=method, tolerance=0.0, max_iterations=3)
    assert found.iterations <= 3


@given(jacobians(rows=(2, 8), columns=(2, 8), spreads=("unit",)))
def test_start_at_the_answer_needs_no_more_work(J: Array) -> None:
    G = J @ J.T
    cold = solve(G, domain="simplex", method="frank_wolfe", tolerance=1e-4)
    warm = solve(G, domain="simplex", method="frank_wolfe", tolerance=1e-4, start=cold.multipliers)
    assert warm.iterations <= 1
    exact = solve(G, domain="simplex")
    again = solve(G, domain="simplex", start=exact.multipliers)
    assert again.iterations <= max(exact.iterations, 1)
    norms = np.linalg.norm(J, axis=1)
    error = rounding(sum(J.shape)) * float(norms @ (exact.multipliers + again.multipliers)) ** 2
    apart = J.T @ (exact.multipliers - again.multipliers)
    assert float(apart @ apart) <= error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "newton"}, r"`method` must be \"active_set\", .*Found \'newton\'"),
        ({"method": "frank_wolfe"}, "must have a domain with corners. Found x ≥ 0 without a bound"),
        ({"tolerance": -1.0}, r"`tolerance` must be a relative duality gap ≥ 0\. Found -1\.0"),
        ({"max_iterations": -1}, r"`max_iterations` must be ≥ 0\. Found -1"),
        ({"start": [1.0]}, r"`start` must be \[2\] finite values ≥ 0\. Found shape \[1\]"),
        ({"start": [1.0, -1.0]}, r"`start` must be \[2\] finite values ≥ 0\."),
    ],
)
def test_bad_option_is_named_with_what_was_found(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(np.eye(2), **options)
