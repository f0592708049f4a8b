"""The report says what was done, to people and to loggers."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mgrad import KeepPace, NoIncrease, ParetoNavigation, Proportional, Report, Status, Target, constrained_direction
from mgrad.decrease import DecreaseRule
from mgrad.direction import Solver
from mgrad.solvers import rounding
from tests.strategies import Problem, problems


def report(rows: list[list[float]], pull: list[float] | None = None) -> Report:
    objective = None if pull is None else torch.tensor(pull, dtype=torch.float64)
    return constrained_direction(torch.tensor(rows, dtype=torch.float64), objective).report


KEEP_PACE = KeepPace()
CONFLICT = [[3.0, 4.0], [-4.0, 2.0], [0.0, 0.0]]


def test_norms_and_cosines_are_those_of_the_rows() -> None:
    found = report(CONFLICT)
    assert found.gradient_norms == pytest.approx([5.0, np.sqrt(20.0), 0.0])
    cosine = -4 / (5 * np.sqrt(20.0))
    assert found.cosines == pytest.approx(np.array([[1, cosine, 0], [cosine, 1, 0], [0, 0, 0]]), rel=rounding(2))


def test_conflicts_are_the_pairs_with_a_negative_cosine_the_worst_first() -> None:
    found = report([[1.0, 0.0], [-0.5, 1.0], [-1.0, 0.1]])
    assert [pair[:2] for pair in found.conflicts] == [("2", "0"), ("1", "0")]
    assert found.conflicts[0][2] == pytest.approx(-1 / np.sqrt(1.01))
    assert report([[1.0, 0.0], [0.5, 1.0]]).conflicts == ()


def test_active_constraints_are_those_with_a_multiplier() -> None:
    found = report([[1.0, 0.0], [0.0, 1.0]], [0.0, 5.0])
    assert found.active == ("0",)
    assert found.multipliers.tolist() == [1.0, 0.0]


def test_stationarity_is_relative_to_the_longest_gradient() -> None:
    found = report([[3.0, 0.0], [0.0, 4.0]])
    assert found.stationarity == pytest.approx(144 / 25)
    assert found.relative_stationarity == pytest.approx(12 / 5 / 4)
    assert found.relative_strong_stationarity == pytest.approx(5 / 4)
    zero = report([[0.0, 0.0]])
    assert (zero.relative_stationarity, zero.relative_strong_stationarity) == (0.0, 0.0)


@given(problems())
def test_its_figures_agree_with_each_other(problem: Problem) -> None:
    found = report(problem.J.tolist(), problem.p.tolist())
    d = found.pull * problem.p + problem.J.T @ found.multipliers
    terms = np.abs(found.pull * problem.p) + np.abs(problem.J).T @ found.multipliers
    error = rounding(sum(problem.J.shape)) * float(np.linalg.norm(terms))
    assert abs(found.direction_norm**2 - d @ d) <= 2 * error * float(np.linalg.norm(terms))
    assert (np.abs(found.predicted_decrease - problem.J @ d) <= error * np.linalg.norm(problem.J, axis=1)).all()


def test_to_dict_is_flat_and_survives_json() -> None:
    found = report(CONFLICT, [1.0, 0.0])
    figures = found.to_dict()
    assert {type(value) for value in figures.values()} == {float}  # torch.load(weights_only=True) knows no other
    assert json.loads(json.dumps(figures)) == figures
    assert figures["conflicts"] == 1.0
    assert figures["optimal"] == 1.0
    for name in found.names:
        assert {f"{k}/{name}" for k in ("multiplier", "gradient_norm", "decrease", "predicted_decrease")} <= set(
            figures
        )


def test_reports_are_compared_as_objects_and_can_be_kept_in_sets() -> None:
    first, second = report(CONFLICT, [1.0, 0.0]), report(CONFLICT, [1.0, 0.0])
    assert first != second
    assert len({first, second, first}) == 2


def test_str_names_every_constraint_and_every_conflict() -> None:
    text = str(report(CONFLICT, [1.0, 0.0]))
    lines = text.splitlines()
    assert lines[0].startswith("optimal; ")
    table = lines[3:]
    assert [line.split()[0] for line in table[1:4]] == ["0", "1", "2"]
    assert len({len(line) for line in table[:4]}) == 1  # aligned
    assert lines[-1] == "conflict 1 – 0: cosine -0.18"
    assert max(map(len, lines)) <= 120


# ---------------------------------------------------------------------- what could not be promised

BOTH: tuple[Solver, ...] = ("active_set", "device")
solvers = pytest.mark.parametrize("solver", BOTH)


@solvers
def test_unmet_are_the_requirements_that_contradict_each_other(solver: Solver) -> None:
    """Of g and −g, of length 2, one falls by what the other rises: each lacks ‖g‖² = 2·2, and no direction does better.

    By (11) it is the largest lack in units of ‖gᵢ‖ that counts: of the third, of length 3, 3·2 may lack as well.
    """
    rows = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    found = constrained_direction(rows, decrease=Proportional(), solver=solver).report
    assert found.status is Status.BOUND_ACTIVE
    assert [name for name, _ in found.unmet] == ["0", "1", "2"]
    # Up to ‖d‖²/2B with d ≈ (0, 1) and B = 10⁴·3.
    assert [missing for _, missing in found.unmet] == pytest.approx([4.0, 4.0, 6.0], abs=1e-4)
    assert found.to_dict()["unmet"] == 3.0
    assert [line for line in str(found).splitlines() if line.startswith("unmet")] == [
        "unmet 0: 4 short of what is required",
        "unmet 1: 4 short of what is required",
        "unmet 2: 6 short of what is required",
    ]
    rows[2, 1] = 1.0  # asked for 1 only, which is less than 2: it keeps its promise
    found = constrained_direction(rows, torch.ones(2), decrease=Proportional(), solver=solver).report
    assert [name for name, _ in found.unmet] == ["0", "1"]


@solvers
@pytest.mark.parametrize("size", [1e12, 1.0, 1e-20])
def test_a_loss_without_a_gradient_that_is_asked_to_fall_is_unmet(solver: Solver, size: float) -> None:
    """However small what is missing is beside the terms of another, whose gradient is small: b/‖g‖ = 10²⁰."""
    rows = torch.tensor([[size, 0.0], [0.0, 0.0]], dtype=torch.float64)
    found = constrained_direction(rows, losses=[1.0, 3.0], decrease=Target([0.0, 2.5]), solver=solver).report
    assert found.status is Status.UNBOUNDED
    assert found.unmet == (("1", 0.5),)
    assert found.predicted_decrease[0] == pytest.approx(1.0)


def test_what_is_within_the_error_of_the_requirement_is_not_unmet() -> None:
    """The primal residual knows that error, the report does not."""
    rows = torch.tensor([[2.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    found = constrained_direction(rows, decrease=Proportional()).report
    assert found.unmet
    assert dataclasses.replace(found, primal_residual=0.0).unmet == ()


@given(
    problems(),
    st.sampled_from([KEEP_PACE, Proportional(), NoIncrease(), ParetoNavigation()]),
    st.sampled_from(BOTH),
)
def test_a_promise_is_unmet_exactly_where_the_solve_says_so(
    problem: Problem, rule: DecreaseRule, solver: Solver
) -> None:
    found = constrained_direction(
        torch.as_tensor(problem.J), torch.as_tensor(problem.p), decrease=rule, solver=solver
    ).report
    if found.status is Status.OPTIMAL:
        assert found.unmet == ()
    if found.status is Status.BOUND_ACTIVE:
        assert found.unmet
    lacking = dict(found.unmet)
    for name, b, brought in zip(found.names, found.decrease, found.predicted_decrease, strict=True):
        assert lacking.get(name, 0.0) in {0.0, b - brought}


@solvers
def test_a_requirement_of_nothing_is_shown_as_such(solver: Solver) -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    found = constrained_direction(rows, torch.ones(2), decrease=ParetoNavigation(), solver=solver)
    assert found.direction.tolist() == [1.0, 1.0]
    report = found.report
    assert report.status is Status.OPTIMAL
    assert report.decrease.tolist() == [-np.inf, -np.inf]
    assert report.multipliers.tolist() == [0.0, 0.0]
    figures = (report.duality_gap, report.primal_residual, report.dual_residual, report.complementarity)
    assert figures == (0.0, 0.0, 0.0, 0.0)
    assert report.unmet == ()
    assert "decrease/0" not in report.to_dict()
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == report.to_dict()
    table = str(report).splitlines()[3:6]
    assert len({len(line) for line in table}) == 1
    assert table[1].split()[3] == "-inf"
