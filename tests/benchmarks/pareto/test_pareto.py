"""The benchmark of Pareto stationarity: its runs are what they say, and a problem that is there is not run again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tqdm import tqdm

from benchmarks.pareto import plot, report, runs
from benchmarks.pareto.__main__ import file_name, main
from benchmarks.pareto.methods import METHODS
from mgrad.problems import Problem, suite

ROOT = Path(__file__).parents[3]
PLANE = "quadratics, one Hessian, condition 10, m = 2, n = 2"


def problem(name: str) -> Problem:
    return next(problem for problem in suite() if problem.name == name)


@pytest.fixture(scope="module")
def record() -> report.Record:
    return runs.descend(problem(PLANE), METHODS, steps=200, seeds=1, progress=tqdm(disable=True))


def test_every_method_is_run_from_every_start(record: report.Record) -> None:
    assert [run["method"] for run in record["runs"]] == list(METHODS)
    for run in record["runs"]:
        assert run["rate"] in runs.RATES  # the largest Lipschitz constant is 1
        assert run["path"][0] == [float(f"{x:.4g}") for x in problem(PLANE).start.tolist()]
        assert run["curve"][-1] == [200, pytest.approx(run["stationarity"], rel=0.005)]


def test_figures_are_those_of_the_end(record: report.Record) -> None:
    """By closed forms: the Pareto set is a segment, and δ of two rows has a formula."""
    at, nearest = problem(PLANE), problem(PLANE).nearest(problem(PLANE).start)
    assert nearest is not None
    for run in record["runs"]:
        theta = torch.tensor(run["path"][-1], dtype=torch.float64)
        assert run["moved"] == pytest.approx(float((theta - at.start).norm()), abs=1e-3)
        assert run["apart"] == pytest.approx(float((theta - nearest).norm()), abs=1e-3)
        assert run["least"] == pytest.approx(float((nearest - at.start).norm()))
    best = {run["method"]: run for run in record["runs"]}
    a, b = at.jacobian(torch.tensor(best["TorchJD PCD"]["path"][-1], dtype=torch.float64))
    share = float(((b - a) @ b / (a - b).square().sum()).clamp(0, 1))
    size = float(at.jacobian(at.start).norm(dim=1).max())
    shortest = float((share * a + (1 - share) * b).norm()) / size
    assert best["TorchJD PCD"]["stationarity"] == pytest.approx(shortest, rel=1e-2)
    assert best["KeepPace"]["stationarity"] < 1e-3
    assert best["TorchJD PCD"]["moved"] == 0.0  # it is as long as the pull, which is 0 at θ₀


def test_what_points_dominate_is_the_union_of_rectangles() -> None:
    points = [[0.2, 0.7], [0.6, 0.1], [0.7, 0.8], [0.1, 1.2]]  # the third is dominated, the fourth out
    assert report._dominated(points, [1.0, 1.0]) == pytest.approx(0.8 * 0.3 + 0.4 * 0.9 - 0.4 * 0.3)
    assert report._dominated([], [1.0, 1.0]) == 0.0


@pytest.mark.parametrize("name", ["ZDT1, n = 10", "ZDT2, n = 10"])
def test_hypervolumes_are_shares_of_that_of_the_front(name: str) -> None:
    """By the area over the published front: f₁ = 1 − √f₀ or 1 − f₀², up to the worst of the starts."""
    worst = problem(name).losses(problem(name).starts).amax(0).clamp(min=1.0).tolist()
    over = worst[0] * worst[1] - (1 / 3 if "ZDT1" in name else 2 / 3)
    one, away = (
        {"method": method, "losses": losses, "stationarity": stationarity}
        for method, losses, stationarity in (("one", [0.25, 0.9], 0.0), ("away", [0.0, 0.0], np.inf))
    )
    made = {"problem": name, "runs": [one, away]}
    expected = (worst[0] - 0.25) * (worst[1] - 0.9) / over
    assert report._hypervolume(made, "one") == pytest.approx(expected, rel=0.01)  # of a thousand points
    assert report._hypervolume(made, "away") == 0.0


def test_what_runs_away_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "RATES", (1e9,))
    found = runs.descend(problem(PLANE), ["sum"], steps=50, seeds=1, progress=tqdm(disable=True))
    assert np.isinf(found["runs"][0]["stationarity"])


def test_a_problem_that_is_there_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--steps", "3", "--seeds", "1", "--problems", "Fonseca", "--out", str(tmp_path)]
    main(arguments)
    path = tmp_path / file_name("Fonseca-Fleming, n = 2")
    before = path.read_text(encoding="utf-8")
    assert json.loads(before)["arguments"] == {"steps": 3, "seeds": 1}
    main(arguments)
    assert path.read_text(encoding="utf-8") == before
    assert capsys.readouterr().out.count(report.page(report.load(tmp_path))) == 2
    for draw in (plot.trajectories, plot.fronts):
        assert (tmp_path / f"{draw.__name__}.png").stat().st_size > 10_000
    assert not (tmp_path / "stationarity.png").exists()  # none of its problems


def test_tables_of_the_docs_are_made_from_the_committed_results() -> None:
    page = report.page(report.load(report.DIRECTORY))
    assert page in (ROOT / "docs" / "pareto.md").read_text(encoding="utf-8")
    ends = report.ends(report.load(report.DIRECTORY / "long"))
    assert ends in (ROOT / "docs" / "pareto.md").read_text(encoding="utf-8")
