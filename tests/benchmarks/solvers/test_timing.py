"""Every contender solves what it is said to solve, and what fails or is missing is said."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.solvers import cli, timing, trajectory
from benchmarks.solvers.contenders import CONTENDERS, Contender, Failed, Prepared, missing
from benchmarks.solvers.families import FAMILIES, rows
from benchmarks.solvers.problems import PROBLEMS, Problem
from mgrad import Status

# The ridge of TorchJD's projections, and the step at which its MGDA stops.
LOOSE = {"TorchJD UPGrad": 1e-3, "TorchJD DualProj": 1e-3, "TorchJD MGDA": 0.1, "mgrad frank_wolfe": 1e-6}
PRESENT = [contender for contender in CONTENDERS if contender.missing is None]


def test_only_what_mgrad_lacks_is_left_out() -> None:
    absent = [contender for contender in CONTENDERS if contender not in PRESENT]
    assert [contender.missing for contender in absent if not contender.options] == []


@pytest.mark.parametrize("contender", PRESENT, ids=lambda contender: contender.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_contender_solves_its_problems(contender: Contender, family: str) -> None:
    for name in contender.problems:
        for m in (2, 5):
            problem, before = (PROBLEMS[name](J) for J in rows(family, m, 0))
            prepared = contender.prepare(problem, before)
            excess = prepared.excess(prepared.call())
            assert -1e-12 <= excess <= LOOSE.get(contender.name, 1e-12)
            assert prepared.excess(prepared.call()) == pytest.approx(excess, abs=1e-14)  # and solves it again


def _prepare(answer: Any) -> Any:
    """Return a way to prepare a solver of one answer; an exception is raised, by the call."""

    def prepare(problem: Problem, _: Problem) -> Prepared:
        def call() -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return Prepared(call, lambda x: problem.excess(np.asarray(x)))

    return prepare


def test_failures_are_counted_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = [
        Contender("raises", _prepare(ValueError("matrix G is not positive definite")), ("cone",)),
        Contender("gives up", _prepare(Failed("exit flag -4")), ("cone",)),
        Contender("not a number", _prepare([np.nan, 0.0]), ("cone",)),
        Contender("wrong", _prepare([9.0, 9.0]), ("cone",)),
    ]
    monkeypatch.setattr(timing, "CONTENDERS", bad)
    records, absent = timing.measure([2], ["conflicting"], instances=3, repeats=2, least=0.0)
    assert absent == []
    found = {record["solver"]: record for record in records}
    assert found["raises"]["failures"] == {"matrix G is not positive definite": 3}
    assert found["gives up"]["failures"] == {"exit flag -4": 3}
    assert found["not a number"]["failures"] == {"not finite": 3}
    assert [found[name]["samples"] for name in ("raises", "gives up", "not a number")] == [0, 0, 0]
    assert found["raises"]["median"] is found["raises"]["excess"] is None
    assert (found["wrong"]["failures"], found["wrong"]["samples"]) == ({}, 6)
    assert found["wrong"]["excess"] > 1


def test_what_is_missing_is_said_in_a_line() -> None:
    assert missing("X", ["numpy", "no_such_package"]) == (
        "X is left out: no_such_package is not installed (pip install 'mgrad[bench]')"
    )
    assert missing("X", options=["domain", "colour"]) == (
        "X is left out: this mgrad has no solve(domain=..., colour=...)"
    )
    assert missing("X", ["numpy"], ["domain"]) is None


def test_turns_are_fair(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    def solver(name: str) -> Contender:
        def prepare(_: Problem, __: Problem) -> Prepared:
            return Prepared(lambda: turns.append(name), lambda _: 0.0)

        return Contender(name, prepare, ("cone",))

    monkeypatch.setattr(timing, "CONTENDERS", [solver(name) for name in "abc"])
    monkeypatch.setattr(timing, "loops_for", lambda *_: 1)
    timing.measure([2], ["agreeing"], instances=1, repeats=3, least=0.0)
    uncounted, samples = turns[3::2], turns[4::2]  # after one call of each
    assert uncounted == samples
    assert [Counter(samples[i : i + 3]) for i in (0, 3, 6)] == 3 * [Counter("abc")]
    assert samples[0::3] == ["a", "b", "c"]


def test_samples_are_as_long_as_asked() -> None:
    loops = timing.loops_for(lambda: None, 1e-4)
    assert loops > 10
    assert timing.loops_for(lambda: sum(range(200_000)), 1e-4) == 1


def test_programmes_along_a_training_run_are_those_of_its_reports() -> None:
    for report in trajectory.train(3, 5, "new"):
        solved = {name: programme.solve() for name, programme in trajectory.programmes(report).items()}
        a = solved["min-norm (7)"].multipliers
        assert a @ report.gramian @ a == pytest.approx(report.stationarity)
        pace = 1 + solved["conflict-free (3)"].multipliers
        np.testing.assert_allclose(report.gramian @ pace, report.decrease, rtol=1e-9)
        np.testing.assert_allclose(solved["direction (2)"].multipliers, report.multipliers, rtol=1e-7, atol=1e-9)
        assert all(solution.status is Status.OPTIMAL for solution in solved.values())
        assert report.conflicts


def test_command_writes_what_was_measured_and_on_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "timing.json"
    cli.main(["--quick", "--sizes", "2", "3", "--steps", "2", "--out", str(path)])
    record = json.loads(path.read_text(encoding="utf-8"))
    timed = record["timing"]
    assert timed["arguments"] == {"sizes": [2, 3], "families": list(FAMILIES), "instances": 2, "repeats": 1}
    assert {"python", "numpy", "scipy", "torch", "daqp", "quadprog"} <= set(timed["environment"]["versions"])
    assert timed["environment"]["threads"] == 1
    cells = [
        (problem, family, m, one.name)
        for one in PRESENT
        for problem in one.problems
        for family in FAMILIES
        for m in (2, 3)
    ]
    found = [(r["problem"], r["family"], r["size"], r["solver"]) for r in timed["records"]]
    assert sorted(found) == sorted(cells)
    assert all(r["median"] is None or (r["median"] > 0 and r["samples"] == 2) for r in timed["records"])
    output = capsys.readouterr().out
    assert "| cone, µs" in output
    assert all(line in output for line in timed["absent"] + record["trajectory"]["absent"])
    before = record["timing"]
    cli.main(["--quick", "--trajectory", "--steps", "3", "--out", str(path)])
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["timing"] == before
    assert [run["steps"] for run in record["trajectory"]["runs"]] == [3, 3, 3, 3]


def test_batched_solver_is_set_beside_the_exact_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "batch.json"
    cli.main(["--batch", "--quick", "--out", str(path)])
    record = json.loads(path.read_text(encoding="utf-8"))
    agreed = sum(pair["count"] for pair in record["outcomes"] if pair["batched"] == pair["exact"])
    assert agreed >= 0.9 * sum(pair["count"] for pair in record["outcomes"]) > 0
    assert all(one["batched"] > 0 and one["loop"] > 0 for one in record["times"])
    assert [list(one["inaccurate"]) for one in record["steps"]] == [["14", "18", "24", "32", "40"]] * 4
    assert "### Batched" in capsys.readouterr().out
