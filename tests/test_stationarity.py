"""δ is the squared distance of the hull of the rows from 0, and r the nearest vector in the cone of common descent."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mgrad import Status, pareto_stationarity
from mgrad.solvers import Array, rounding
from mgrad.stationarity import conflict_free
from tests.asserts import assert_same_direction, slack_error
from tests.reference import exact_direction, exact_min_norm, strong_stationarity_residual
from tests.strategies import Stationary, jacobians, row_scales, stationary

SMALL = (1, 4)


def _reach(J: Array, a: Array) -> float:
    return float(np.linalg.norm(J, axis=1) @ a)


def _conflict_free(J: Array, margin: float = 0.0) -> tuple[Array, Array, float]:
    """Return r [n], its coefficients [m] and its floor for w = 1."""
    floor = margin * pareto_stationarity(J @ J.T).stationarity
    coefficients, solution = conflict_free(J @ J.T, np.ones(len(J)), floor, 1e4)
    assert solution.status is Status.OPTIMAL
    return J.T @ coefficients, coefficients, floor


# ---------------------------------------------------------------- δ


@given(jacobians(rows=SMALL, columns=(1, 6)))
def test_delta_is_the_exact_squared_length_of_the_shortest_vector(J: Array) -> None:
    found = pareto_stationarity(J @ J.T)
    assert found.status is Status.OPTIMAL
    delta, best = exact_min_norm(J)
    # Both quadratic forms are least up to the rounding of G: ε(Σ aᵢnᵢ + Σ a'ᵢnᵢ)².
    reach = _reach(J, found.multipliers) + _reach(J, np.array([float(share) for share in best]))
    assert abs(Fraction(found.stationarity) - delta) <= Fraction(rounding(sum(J.shape)) * reach**2)


@given(jacobians(kinds=("antiparallel", "zero"), rows=SMALL))
def test_opposite_or_zero_gradients_are_weakly_stationary(J: Array) -> None:
    found = pareto_stationarity(J @ J.T)
    delta, best = exact_min_norm(J)
    assert delta == 0
    # The rounding of G, at the answer and at the exact one.
    reach = _reach(J, found.multipliers) + _reach(J, np.array([float(share) for share in best]))
    assert found.stationarity <= rounding(sum(J.shape)) * reach**2


@given(stationary())
def test_strongly_stationary_gradients_are_weakly_stationary(case: Stationary) -> None:
    J, mu = case
    found = pareto_stationarity(J @ J.T)
    reach = _reach(J, found.multipliers) + _reach(J, mu / mu.sum())
    assert found.stationarity <= rounding(sum(J.shape)) * reach**2


@given(jacobians(kinds=("agreeing",), rows=(1, 6), columns=(1, 6)))
def test_gradients_that_agree_are_stationary_only_where_one_is_zero(J: Array) -> None:
    # All entries are ≥ 0: ‖Jᵀa‖² ≥ Σ aᵢ²nᵢ² ≥ min nᵢ²/m.
    shortest = float((J**2).sum(axis=1).min())
    assert pareto_stationarity(J @ J.T).stationarity >= shortest / len(J) * (1 - rounding(sum(J.shape)))


@given(jacobians())
def test_delta_is_no_longer_than_the_shortest_gradient(J: Array) -> None:
    shortest = float(np.diagonal(J @ J.T).min())
    assert pareto_stationarity(J @ J.T).stationarity <= shortest * (1 + rounding(sum(J.shape)))


@given(jacobians(spreads=("unit", "common")))
def test_every_loss_falls_by_delta_along_the_shortest_vector(J: Array) -> None:  # Lemma A
    found = pareto_stationarity(J @ J.T)
    a = found.multipliers
    error = rounding(sum(J.shape)) * (np.abs(J) @ (np.abs(J).T @ a) + _reach(J, a) ** 2)
    change = J @ (J.T @ a) - found.stationarity
    assert (change >= -error).all()
    assert (a * np.abs(change) <= a * error).all()


@given(jacobians(), st.integers(-40, 40))
def test_delta_has_the_unit_of_a_squared_gradient(J: Array, exponent: int) -> None:
    before, after = pareto_stationarity(J @ J.T), pareto_stationarity(4.0**exponent * (J @ J.T))
    assert after.stationarity == 4.0**exponent * before.stationarity
    np.testing.assert_array_equal(after.multipliers, before.multipliers)


@given(jacobians(spreads=("unit", "common")), st.data())
def test_delta_does_not_depend_on_the_order(J: Array, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(J))))
    first, second = (pareto_stationarity(K @ K.T) for K in (J, J[order]))
    reach = _reach(J, first.multipliers) + _reach(J[order], second.multipliers)
    assert abs(first.stationarity - second.stationarity) <= rounding(sum(J.shape)) * reach**2


def test_rows_that_are_all_zero_have_a_delta_of_zero() -> None:
    found = pareto_stationarity(np.zeros((3, 3)))
    assert found.stationarity == 0
    assert found.multipliers.sum() == 1


def test_wrong_gramian_is_refused() -> None:
    with pytest.raises(ValueError, match="`gramian` must be a square matrix"):
        pareto_stationarity([[1.0, 2.0]])
    with pytest.raises(ValueError, match="`gramian` and `linear` must be finite"):
        pareto_stationarity([[np.nan]])


# ---------------------------------------------------------------- r


@given(jacobians(rows=SMALL, columns=(1, 6)), st.sampled_from([0.0, 0.5]))
def test_conflict_free_gradient_is_the_exact_nearest_one(J: Array, margin: float) -> None:
    floor = margin * float(exact_min_norm(J)[0])
    assume(floor == 0 or floor > 1e-6 * float(np.diagonal(J @ J.T).min()))
    coefficients, solution = conflict_free(J @ J.T, np.ones(len(J)), floor, 1e12)
    assume(solution.status is Status.OPTIMAL)
    plain, b = J.T @ np.ones(len(J)), np.where(J.any(axis=1), floor, 0.0)
    reference = exact_direction(J, plain, b)
    assert reference is not None
    d, y = (np.array([float(value) for value in part]) for part in reference)
    x = coefficients - 1
    assert_same_direction(J, np.abs(J).T @ np.ones(len(J)), b, (J.T @ coefficients, x), (d, y))


@given(jacobians(spreads=("unit", "common")), st.sampled_from([0.0, 0.5, 1.0]))
def test_conflict_free_gradient_lets_every_loss_fall_by_the_floor(J: Array, margin: float) -> None:
    r, coefficients, floor = _conflict_free(J, margin)
    error = slack_error(J, np.zeros(J.shape[1]), np.full(len(J), floor), coefficients)
    assert (J @ r >= floor - error).all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(0, 50), row_scales(1, ("unit", "common")))
def test_correction_of_collinear_gradients_that_all_but_cancel_is_as_short_as_their_sum(
    seed: int, m: int, bits: int, scale: Array
) -> None:
    # Then Gw is the difference of larger numbers; what differs between its entries is rounding, not conflict.
    J = np.random.default_rng(seed).standard_normal((m, 1))
    J[-1] = 2.0**-bits - J[:-1].sum()
    J *= scale
    r, coefficients, _ = _conflict_free(J)
    total, error = abs(float(J.sum())), rounding(m) * _reach(J, np.ones(m))
    assert _reach(J, coefficients - 1) <= total + error
    assert abs(float(r[0])) <= error + total * bool((J > 0).all() or (J < 0).all())


@given(jacobians(kinds=("agreeing",)), st.sampled_from([0.0, 0.5, 1.0]))
def test_without_conflict_nothing_is_corrected(J: Array, margin: float) -> None:
    np.testing.assert_array_equal(_conflict_free(J, margin)[1], np.ones(len(J)))


@given(stationary())
def test_conflict_free_gradient_vanishes_at_strong_stationarity(case: Stationary) -> None:
    J, mu = case
    r, coefficients, _ = _conflict_free(J)
    # μᵀJr = 0 and Jr ≥ −t bound (Jr)ᵢ by Σ μⱼtⱼ/μᵢ; ‖r‖² = (w + ν)ᵀJr.
    error = slack_error(J, np.zeros(J.shape[1]), np.zeros(len(J)), coefficients)
    assert r @ r <= (coefficients / mu).sum() * (mu @ error) + coefficients @ error


@given(jacobians(rows=(1, 6), columns=(1, 6), spreads=("unit",)))
def test_conflict_free_gradient_vanishes_only_at_strong_stationarity(J: Array) -> None:
    J = J[J.any(axis=1)]
    assume(len(J))
    r, coefficients, _ = _conflict_free(J)
    residual = strong_stationarity_residual(J)  # over μ ≥ 1; (w + ν)ᵢnᵢ/min wⱼnⱼ ≥ 1 is one such μ
    norms = np.linalg.norm(J, axis=1)
    # The linear programme knows its answer to 1e-7 (HiGHS's tolerances).
    assert np.linalg.norm(r) / norms.min() >= residual - 1e-6 * (1 + (coefficients * norms).sum() / norms.min())


@given(jacobians(kinds=("random", "conflicting"), rows=(2, 5), columns=(2, 6), spreads=("unit", "common")))
def test_zero_gradient_changes_nothing_for_the_others(J: Array) -> None:
    assume(J.any(axis=1).all())
    more = np.vstack([J, np.zeros(J.shape[1])])
    (r, x, _), (s, y, _) = _conflict_free(J), _conflict_free(more)
    plain, zeros = np.abs(J).T @ np.ones(len(J)), np.zeros(len(J))
    assert_same_direction(J, plain, zeros, (r, x - 1), (s, y[:-1] - 1))
