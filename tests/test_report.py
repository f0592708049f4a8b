"""The report says what was done, to people and to loggers."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given

from mgrad import Report, constrained_direction
from mgrad.solvers import rounding
from tests.strategies import Problem, problems


def report(rows: list[list[float]], pull: list[float] | None = None) -> Report:
    objective = None if pull is None else torch.tensor(pull, dtype=torch.float64)
    return constrained_direction(torch.tensor(rows, dtype=torch.float64), objective).report


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
    assert all(isinstance(value, float) for value in figures.values())
    assert json.loads(json.dumps(figures)) == figures
    assert figures["conflicts"] == 1.0
    assert figures["optimal"] == 1.0
    for name in found.names:
        assert {f"{k}/{name}" for k in ("multiplier", "gradient_norm", "decrease", "predicted_decrease")} <= set(
            figures
        )


def test_str_names_every_constraint_and_every_conflict() -> None:
    text = str(report(CONFLICT, [1.0, 0.0]))
    lines = text.splitlines()
    assert lines[0].startswith("optimal; ")
    table = lines[3:]
    assert [line.split()[0] for line in table[1:4]] == ["0", "1", "2"]
    assert len({len(line) for line in table[:4]}) == 1  # aligned
    assert lines[-1] == "conflict 1 – 0: cosine -0.18"
    assert max(map(len, lines)) <= 120
