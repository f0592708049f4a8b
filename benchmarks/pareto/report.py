"""Tables from the runs: `python -m benchmarks.pareto.report`.

In: the files of the problems. Out: Markdown. May import: methods, results, tables, mgrad.problems, moocore.
"""

import argparse
import itertools
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import moocore
import numpy as np
import torch

from benchmarks import results
from benchmarks.pareto.methods import OURS
from benchmarks.tables import table
from mgrad.problems import Problem, suite

DIRECTORY = Path(__file__).parent / "results"
REACHED = 1e-3  # as in `runs`
FRONTS = ("Fonseca", "ZDT", "DTLZ2", "two valleys")  # published, with losses in conflict all along
Record = dict[str, Any]


def load(directory: Path) -> list[Record]:
    """Return the records of a directory, the smallest problems first.

    Raises:
        FileNotFoundError: if there is none.
    """
    records = [results.read(path) for path in sorted(directory.glob("*.json"))]
    if not records:
        raise FileNotFoundError(
            f"`{directory}` must hold the JSON files of runs. Found none. Make some: python -m benchmarks.pareto."
        )
    return sorted(records, key=lambda record: (record["size"], record["problem"]))


def page(records: Sequence[Record]) -> str:
    """Return what the records say, as Markdown."""
    methods = _methods(records)
    known = [record for record in records if record["runs"][0]["least"] is not None]
    parts = [
        table(
            ["all problems", "reached", "median √δ", "worst √δ", "median ‖r‖", "steps", "ms a step", "risen"],
            [_summary(method, records) for method in methods],
        ),
        table(
            ["of those reached, where the nearest is known", "runs", "moved/least", "worst", "apart/least", "worst"],
            [_distances(method, known) for method in methods],
        ),
        ends(records),
        table(
            ["apart/least at the end, median", *methods],
            [[record["problem"], *(_figure(_apart(record, m)) for m in methods)] for record in known],
        ),
        table(
            ["hypervolume of the ends, share of the front's", *methods],
            [
                [record["problem"], *(_figure(_hypervolume(record, m)) for m in methods)]
                for record in records
                if record["problem"].startswith(FRONTS)
            ],
        ),
    ]
    return "\n\n".join(parts)


def _runs(records: Sequence[Record], method: str) -> list[Record]:
    """Return the runs of a method."""
    return [run for record in records for run in record["runs"] if run["method"] == method]


def ends(records: Sequence[Record]) -> str:
    """Return how stationary the worst run of each problem has become, as Markdown."""
    methods = _methods(records)
    return table(
        ["√δ at the end, worst start", *methods],
        [[record["problem"], *(_figure(_worst(record, m, "stationarity")) for m in methods)] for record in records],
    )


def _methods(records: Sequence[Record]) -> list[str]:
    """Return the methods that the records have."""
    return list(dict.fromkeys(run["method"] for record in records for run in record["runs"]))


def _summary(method: str, records: Sequence[Record]) -> list[str]:
    """Return a row on all problems."""
    runs = _runs(records, method)
    there = [run for run in runs if run["stationarity"] <= REACHED]
    return [
        f"**{method}**" if method in OURS else method,
        f"{len(there)} of {len(runs)}",
        _figure(median(run["stationarity"] for run in runs)),
        _figure(max(run["stationarity"] for run in runs)),
        _figure(median(run["strong"] for run in runs)),
        f"{median(run['reached'] for run in there):.0f}" if there else "",
        f"{1e3 * median(run['seconds'] for run in runs):.2f}",
        f"{100 * sum(run['risen'] for run in runs) / len(runs):.0f} %",
    ]


def _distances(method: str, records: Sequence[Record]) -> list[str]:
    """Return a row on how far the method went."""
    runs = [run for run in _runs(records, method) if run["stationarity"] <= REACHED and run["least"]]
    if not runs:
        return [method, "0", "", "", "", ""]
    moved, apart = ([run[name] / run["least"] for run in runs] for name in ("moved", "apart"))
    figures = [_figure(value) for value in (median(moved), max(moved), median(apart), max(apart))]
    return [f"**{method}**" if method in OURS else method, str(len(runs)), *figures]


def _worst(record: Record, method: str, name: str) -> float:
    """Return the largest figure of a method's starts."""
    return max(float(run[name]) for run in record["runs"] if run["method"] == method)


def _apart(record: Record, method: str) -> float:
    """Return the median distance from the least-forgetting point, in units of the least distance."""
    runs = [run for run in record["runs"] if run["method"] == method and run["least"]]
    return median(float(run["apart"] / run["least"]) for run in runs)


def _hypervolume(record: Record, method: str) -> float:
    """Return what the ends of all starts dominate, as a share of what the whole front does."""
    ends = [run["losses"] for run in record["runs"] if run["method"] == method and math.isfinite(run["stationarity"])]
    front, worst = _front(record["problem"])
    return _dominated(ends, worst) / _dominated(front, worst)


def _dominated(points: Sequence[Sequence[float]], worst: Sequence[float]) -> float:
    """Return the hypervolume of points [k, m], up to the reference point; what is beyond it counts for nothing."""
    return float(moocore.hypervolume(np.array(points), ref=np.array(worst))) if points else 0.0


@cache
def _front(name: str) -> tuple[list[list[float]], list[float]]:
    """Return losses [k, m] all over a front, and the reference point: the worst of the front and of all starts."""
    problem = _problems()[name]
    m = len(problem.names)
    shares = np.geomspace(1e-9, 1e9, 1000) if m == 2 else np.geomspace(1e-4, 1e4, 40)
    weights = itertools.product([1.0], *[shares] * (m - 1))
    points = [problem.pareto_point(w) for w in weights]
    front = problem.losses(torch.stack([point for point in points if point is not None]))
    return front.tolist(), torch.cat([front, problem.losses(problem.starts)]).amax(0).tolist()


@cache
def _problems() -> dict[str, Problem]:
    """Return the problems by their names."""
    return {problem.name: problem for problem in suite()}


def _figure(value: float) -> str:
    """Return a figure with two digits or so."""
    if not math.isfinite(value):
        return "ran away"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.0e}"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pareto.report", description="Tables.")
    parser.add_argument("directory", type=Path, nargs="?", default=DIRECTORY)
    print(page(load(parser.parse_args(argv).directory)))


if __name__ == "__main__":
    main()
