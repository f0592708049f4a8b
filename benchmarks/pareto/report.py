"""Tables from the runs: `python -m benchmarks.pareto.report`.

In: the files of the problems. Out: Markdown. May import: methods, results, tables, mgrad.problems, moocore.
"""

import argparse
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import moocore
import torch

from benchmarks import results
from benchmarks.pareto.methods import OURS
from benchmarks.tables import table
from mgrad.problems import Problem, suite

DIRECTORY = Path(__file__).parent / "results"
REACHED = 1e-3  # as in `runs`
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
    methods = list(dict.fromkeys(run["method"] for record in records for run in record["runs"]))
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
        table(
            ["√δ at the end, worst start", *methods],
            [[record["problem"], *(_figure(_worst(record, m, "stationarity")) for m in methods)] for record in records],
        ),
        table(
            ["apart/least at the end, median", *methods],
            [[record["problem"], *(_figure(_apart(record, m)) for m in methods)] for record in known],
        ),
        table(
            ["hypervolume of the ends, share", *methods],
            [[record["problem"], *(_figure(_hypervolume(record, m)) for m in methods)] for record in records],
        ),
    ]
    return "\n\n".join(parts)


def _runs(records: Sequence[Record], method: str) -> list[Record]:
    """Return the runs of a method."""
    return [run for record in records for run in record["runs"] if run["method"] == method]


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
    """Return what the ends of all starts dominate, as a share of the box from the ideal to the worst of the starts."""
    problem = _problems()[record["problem"]]
    assert problem.ideal is not None
    worst = problem.losses(problem.starts).amax(0)
    ends = [run["losses"] for run in record["runs"] if run["method"] == method and math.isfinite(run["stationarity"])]
    if not ends:
        return 0.0
    shares = (torch.tensor(ends, dtype=torch.float64) - problem.ideal) / (worst - problem.ideal)
    return float(moocore.hypervolume(shares.numpy(), ref=[1.0] * len(worst)))


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
