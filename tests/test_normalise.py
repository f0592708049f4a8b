"""Normalised rows: no unit of a loss matters, and what is reported is in the units of the losses themselves."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import Parameter
from torch.optim import SGD

from mgrad import Anchor, KeepPace, LessForgetting, MinNorm, ParetoNavigation, Status, Target, constrained_direction
from mgrad.direction import Normalise
from mgrad.solvers import rounding
from tests.asserts import assert_promised_decrease
from tests.strategies import Problem, problems, row_scales
from tests.waiting import NoWaiting

RULES = st.sampled_from([KeepPace(), MinNorm(), MinNorm(power=0.5), ParetoNavigation()])
KINDS = st.sampled_from(["gradient", "loss"])
SCALES = st.sampled_from(["relative", "absolute"])


def solve(J: Any, p: Any, losses: Any, **options: Any) -> tuple[Any, Any]:
    found = constrained_direction(torch.as_tensor(J), torch.as_tensor(p), losses=losses, **options)
    return found.direction.numpy(), found.report


def positive(m: int) -> Any:
    """Return losses that are no powers of two."""
    return 0.3 + np.arange(m) ** 1.5


@given(problems(spreads=("unit", "common")), KINDS, RULES, SCALES, st.data())
def test_the_unit_of_a_loss_changes_nothing_but_what_is_reported_in_it(
    problem: Problem, kind: Any, rule: Any, scale: Any, data: st.DataObject
) -> None:
    J, p = problem
    f, t = positive(len(J)), data.draw(row_scales(len(J), ("rows",)))
    d, report = solve(J, p, f, decrease=rule, scale=scale, normalise=kind)
    e, other = solve(J * t[:, None], p, f * t, decrease=rule, scale=scale, normalise=kind)
    # Powers of two: not a digit may differ.
    zero = ~J.any(axis=1) if kind == "gradient" else np.zeros(len(J), dtype=bool)  # whose scale is 1 in any unit
    np.testing.assert_array_equal(other.multipliers[~zero], (report.multipliers / t)[~zero])
    np.testing.assert_array_equal(other.decrease[~zero], (t * report.decrease)[~zero])
    assert other.stationarity == report.stationarity
    assert other.relative_strong_stationarity == report.relative_strong_stationarity
    terms = float(np.linalg.norm(np.abs(p) * report.pull + np.abs(J).T @ report.multipliers))
    assert float(np.linalg.norm(d - e)) <= rounding(len(J) + 1) * terms


@given(problems(spreads=("unit", "common")), KINDS, RULES, SCALES)
def test_it_is_the_direction_of_rows_that_the_user_has_scaled(
    problem: Problem, kind: Any, rule: Any, scale: Any
) -> None:
    """Against the programme without the option, on rows scaled beforehand."""
    J, p = problem
    f, lengths = positive(len(J)), np.linalg.norm(J, axis=1)
    s = 1 / f if kind == "loss" else 1 / np.where(lengths > 0, lengths, 1.0)
    d, report = solve(J, p, f, decrease=rule, scale=scale, normalise=kind)
    e, posed = solve(J * s[:, None], p, None, decrease=rule, scale=scale)
    assume(report.status is posed.status is Status.OPTIMAL)
    assume(np.array_equal(report.decrease == -np.inf, posed.decrease == -np.inf))  # on the border of the tolerance
    assert_promised_decrease(report)
    np.testing.assert_allclose(report.row_scales, s, rtol=rounding(J.shape[1]))
    # Two solves on one another, each known to √ε of its terms: `_known_to` of test_direction.py.
    norms = lengths * s
    size = posed.pull * posed.objective_norm + norms @ posed.multipliers + lengths @ report.multipliers + norms.sum()
    assert float(np.linalg.norm(d - e)) <= 1.3e-4 * size


@given(problems(rows=(1, 4), columns=(1, 5), spreads=("unit", "common")), KINDS, RULES, SCALES, st.integers(0, 2**16))
def test_in_the_base_s_metric_rows_are_normalised_in_that_metric(
    problem: Problem, kind: Any, rule: Any, scale: Any, seed: int
) -> None:
    """(50) is the programme of J√P and √P p: it is these rows that have the length 1."""
    J, p = problem
    # Groups of one entry, whose rates over the least of them are P: powers of four, with roots that have no rounding.
    rates = np.power(4.0, np.random.default_rng(seed).integers(0, 4, J.shape[1]))
    roots, f = np.sqrt(rates / rates.min()), positive(len(J))
    entries: list[torch.Tensor] = [Parameter(torch.tensor([value], dtype=torch.float64)) for value in p]
    base = SGD([{"params": [entry], "lr": rate} for entry, rate in zip(entries, rates.tolist(), strict=True)])
    anchor = Anchor([torch.zeros(1, dtype=torch.float64) for _ in entries])
    opt = LessForgetting(base, anchor=anchor, decrease=rule, scale=scale, normalise=kind, metric="base", strength=1.0)
    for i, row in enumerate(J):
        with opt.constraint(str(i)):
            (torch.from_numpy(row) @ torch.cat(entries)).backward()
    report = opt.solve({str(i): float(loss) for i, loss in enumerate(f)})
    e, posed = solve(J * roots, p * roots, f, decrease=rule, scale=scale, normalise=kind, strength=1.0)
    assume(report.status is posed.status is Status.OPTIMAL)
    assume(np.array_equal(report.decrease == -np.inf, posed.decrease == -np.inf))  # on the border of the tolerance
    np.testing.assert_allclose(report.row_scales, posed.row_scales, rtol=rounding(J.shape[1]))
    assert_promised_decrease(report)
    d = np.concatenate([entry.grad for entry in entries]) * roots
    # As above: two solves on one another.
    lengths = np.linalg.norm(J * roots, axis=1)
    size = report.pull * report.objective_norm + lengths @ (report.multipliers + posed.multipliers) + lengths.sum()
    assert float(np.linalg.norm(d - e)) <= 1.3e-4 * size


@pytest.mark.parametrize("solver", ["active_set", "device"])
def test_two_losses_by_hand(solver: Any) -> None:
    """Orthogonal rows of lengths 4 and 2: their unit vectors have δ = ½, and each loss is to fall as d·gᵢ = ‖gᵢ‖."""
    J = torch.tensor([[4.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    d, report = constrained_direction(J, normalise="gradient", solver=solver)
    assert d.tolist() == pytest.approx([1.0, 1.0])
    assert report.multipliers == pytest.approx([0.25, 0.5])
    assert report.decrease == pytest.approx([4.0, 2.0])
    assert report.predicted_decrease == pytest.approx([4.0, 2.0])
    assert report.stationarity == pytest.approx(0.5)
    assert report.gradient_norms == pytest.approx([4.0, 2.0])
    d, report = constrained_direction(J, losses=[2.0, 8.0], normalise="loss", solver=solver)
    assert d.tolist() == pytest.approx([2.0, 0.25])  # ∇ Σ log fᵢ
    assert report.multipliers == pytest.approx([0.5, 0.125])


@given(problems(spreads=("unit",)), KINDS)
def test_a_level_keeps_its_unit(problem: Problem, kind: Any) -> None:
    J, p = problem
    f = positive(len(J))
    _, report = solve(J, p, f, decrease=Target([0.25] * len(J), rate=2.0), normalise=kind)
    np.testing.assert_allclose(report.decrease, 2.0 * (f - 0.25), rtol=rounding(1))


@pytest.mark.parametrize("enforce", ["gradient", "step"])
@pytest.mark.parametrize("kind", ["gradient", "loss"])
@pytest.mark.parametrize("solver", ["active_set", "device"])
def test_a_run_does_not_depend_on_the_units_of_the_losses(kind: Any, solver: Any, enforce: Any) -> None:
    def run(units: list[float]) -> torch.Tensor:
        theta = Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        opt = LessForgetting(
            SGD([theta], lr=0.05, momentum=0.9), strength=0.5, normalise=kind, solver=solver, enforce=enforce
        )
        opt = copy.deepcopy(opt)  # a copy keeps the option
        theta = opt.param_groups[0]["params"][0]
        targets = torch.eye(3, dtype=torch.float64)[:2]
        for _ in range(5):
            opt.zero_grad()
            opt.backward([t * (1 + (theta - x).square().sum()) for t, x in zip(units, targets, strict=True)])
            opt.step()
        found: torch.Tensor = theta.detach()
        return found

    found, other = run([1.0, 1.0]), run([1024.0, 0.125])
    torch.testing.assert_close(other, found, rtol=1e-12, atol=1e-12)  # rounding of five steps of size 1
    assert not torch.equal(found, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))


def test_nothing_waits_for_the_device() -> None:
    J, f = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.ones(3)
    kinds: tuple[Normalise, ...] = ("gradient", "loss")
    for kind in kinds:
        with NoWaiting():
            constrained_direction(J, losses=f, normalise=kind, solver="device")


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_loss_that_is_not_positive_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"must have positive losses. Found {value} for the constraint '1'"):
        constrained_direction(torch.eye(2), losses=[1.0, value], normalise="loss")
    found = constrained_direction(torch.eye(2), losses=[1.0, value], normalise="loss", solver="device")
    assert found.direction.tolist() == [0.0, 0.0]
    with pytest.raises(FloatingPointError, match=r"must have positive losses. Found .* for the constraint '1'"):
        _ = found.report.status


def test_losses_that_are_not_known_are_asked_for_before_anything_changes() -> None:
    theta = Parameter(torch.ones(2))
    opt = LessForgetting(SGD([theta], lr=0.1), normalise="loss")
    with opt.constraint("en"):
        theta.square().sum().backward()
    with pytest.raises(ValueError, match=r"must know the losses of the constraints \['en'\]"):
        opt.step()
    assert theta.tolist() == [1.0, 1.0]
    opt.solve({"en": 2.0})
    assert theta.grad is not None
    assert theta.grad.tolist() == pytest.approx([1.0, 1.0])


def test_an_unknown_normalisation_is_refused() -> None:
    message = r"normalise=...\)` must be None, \"gradient\" or \"loss\". Found 'norm'"
    with pytest.raises(ValueError, match=message):
        constrained_direction(torch.eye(2), normalise="norm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        LessForgetting(SGD([Parameter(torch.ones(1))], lr=0.1), normalise="norm")  # type: ignore[arg-type]
