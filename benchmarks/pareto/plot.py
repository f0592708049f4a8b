"""Pictures of the runs: paths over contours, ends on fronts, stationarity against steps.

In: the files of the problems. Out: PNG. May import: report, matplotlib, mgrad.problems.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes

from benchmarks.pareto.report import DIRECTORY, Record, load
from mgrad.problems import Problem, suite

mpl.use("Agg")
from matplotlib import pyplot as plt

COLOURS = {
    "KeepPace": "#0072b2",
    "MinNorm": "#b07cc6",
    "ParetoNavigation": "#5d4037",
    "sum": "#d1495b",
    "TorchJD UPGrad": "#e8a51c",
    "TorchJD MGDA": "#2e9e6b",
}
MARKERS = dict(zip(COLOURS, "osD^vP", strict=True))
WIDTHS = dict(zip(COLOURS, (4.0, 3.2, 2.6, 2.0, 1.5, 1.0), strict=True))  # so that what lies below is still seen
PATHS = 2  # starts whose paths are drawn
FRONTS = ("Fonseca-Fleming, n = 10", "ZDT1", "ZDT2", "ZDT3")
OVERVIEW = (
    "Fonseca-Fleming, n = 2",
    "quadratics, different Hessians, condition 10, m = 2, n = 2",
    "linear regressions, all fitted together, k = [6, 6, 6], n = 40",
)
CURVES = (
    "quadratics, different Hessians, condition 10, m = 2, n = 2",
    "quadratics, different Hessians, condition 100, m = 3, n = 10",
    "logistic regressions, k = [30, 30, 30], n = 4",
    "linear regressions, all fitted together, k = [6, 6, 6], n = 40",
    "ZDT1, n = 10",
    "two valleys, scale 1",
)


def trajectories(records: Sequence[Record], file: Path) -> None:
    """Draw the paths of the problems in the plane over the contours of the mean loss, and the Pareto set."""
    problems = {problem.name: problem for problem in suite()}
    plane = [record for record in records if record["size"] == 2]
    if not plane:
        return
    rows = -(-len(plane) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(12, 4.1 * rows + 0.3), constrained_layout=True, squeeze=False)
    for axis in axes.flat[len(plane) :]:
        axis.set_visible(False)
    for axis, record in zip(axes.flat, plane, strict=False):
        _paths(axis, record, problems[record["problem"]])
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _paths(axis: Axes, record: Record, problem: Problem, methods: Sequence[str] = tuple(COLOURS)) -> None:
    """Draw the paths of one problem."""
    starts = list(dict.fromkeys(tuple(run["path"][0]) for run in record["runs"]))[:PATHS]
    runs = [run for run in record["runs"] if run["method"] in methods and tuple(run["path"][0]) in starts]
    points = np.array([point for run in runs for point in run["path"]])
    shown = _pareto_set(problem)
    if shown is not None:  # what runs far away is cut off
        points = np.concatenate([np.array(starts), shown])
    middle, reach = (points.max(0) + points.min(0)) / 2, 0.62 * np.ptp(points, axis=0).max()
    x, y = (np.linspace(middle[i] - reach, middle[i] + reach, 200) for i in range(2))
    grid = torch.tensor(np.stack(np.meshgrid(x, y), -1))
    mean = problem.losses(grid).mean(-1).numpy()
    levels = np.quantile(mean, np.linspace(0, 1, 18)[1:-1])
    axis.contour(x, y, mean, levels=np.unique(levels), colors="#c8c8c8", linewidths=0.7, linestyles="solid")
    if shown is not None:
        axis.plot(*shown.T, color="black", linewidth=3, alpha=0.8, label="Pareto set", solid_capstyle="round")
    for method in methods:
        for k, run in enumerate(run for run in runs if run["method"] == method):
            path, colour = np.array(run["path"]), COLOURS[method]
            axis.plot(*path.T, color=colour, linewidth=WIDTHS[method], label=method if k == 0 else None)
            axis.plot(
                *path[-1],
                MARKERS[method],
                color=colour,
                markersize=5 + WIDTHS[method],
                markeredgecolor="white",
                zorder=3,
            )
    axis.plot(*np.array(starts).T, "x", color="black", markersize=7, label="start", zorder=4)
    axis.set_title(record["problem"].replace(", m = 2, n = 2", ""), fontsize=9)
    axis.set_aspect("equal")
    axis.set_xlim(x[0], x[-1])
    axis.set_ylim(y[0], y[-1])
    axis.tick_params(labelsize=7)


def _pareto_set(problem: Problem) -> "np.ndarray[Any, Any] | None":
    """Return points of a Pareto set of two losses, in order."""
    if len(problem.names) != 2:
        return None
    shares = 1 / (1 + np.exp(-np.linspace(-20, 20, 400)))
    found = [problem.pareto_point([float(share), float(1 - share)]) for share in (0.0, *shares, 1.0)]
    return np.array([point.tolist() for point in found if point is not None])


def overview(records: Sequence[Record], file: Path) -> None:
    """Draw the paths of two problems and √δ of a third, in one row that can be read at half its pixels."""
    problems = {problem.name: problem for problem in suite()}
    chosen = [record for name in OVERVIEW for record in records if record["problem"] == name]
    if len(chosen) < len(OVERVIEW):
        return
    methods = [method for method in COLOURS if method != "ParetoNavigation"]  # near MinNorm's all the way
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 3.4), constrained_layout=True)
    for axis, record in zip(axes[:2], chosen, strict=False):
        _paths(axis, record, problems[record["problem"]], methods)
    _curves(axes[2], chosen[2], methods)
    for axis, title in zip(axes, ("Fonseca-Fleming", "two quadratics", "√δ by step, three regressions"), strict=True):
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8.5, columnspacing=1.2
    )
    figure.savefig(file, dpi=200)
    plt.close(figure)


def fronts(records: Sequence[Record], file: Path) -> None:
    """Draw where the runs end, over the front in the plane of the losses."""
    problems = {problem.name: problem for problem in suite()}
    chosen = [record for name in FRONTS for record in records if record["problem"].startswith(name)]
    if not chosen:
        return
    figure, axes = plt.subplots(
        1, len(chosen), figsize=(3.8 * len(chosen), 4.0), constrained_layout=True, squeeze=False
    )
    for axis, record in zip(axes[0], chosen, strict=True):
        problem = problems[record["problem"]]
        shown = _pareto_set(problem)
        if shown is not None:
            front = problem.losses(torch.tensor(shown)).numpy()
            axis.plot(*front.T, ".", color="black", markersize=2.5, label="Pareto front")
        for method, colour in COLOURS.items():
            ends = np.array([run["losses"] for run in record["runs"] if run["method"] == method])
            size = 5 + 2.2 * WIDTHS[method]
            axis.plot(*ends.T, MARKERS[method], color=colour, markersize=size, label=method, markeredgecolor="white")
        axis.set_title(record["problem"], fontsize=9)
        axis.set_xlabel("loss 1")
        axis.set_ylabel("loss 2")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def stationarity(records: Sequence[Record], file: Path) -> None:
    """Draw √δ against steps, the median of the starts."""
    chosen = [record for name in CURVES for record in records if record["problem"] == name]
    if not chosen:
        return
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.8), constrained_layout=True, sharex=True)
    for axis, record in zip(axes.flat, chosen, strict=False):
        _curves(axis, record)
    for axis in axes[:, 0]:
        axis.set_ylabel("√δ / max ‖gᵢ(θ₀)‖")
    for axis in axes[-1]:
        axis.set_xlabel("step")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _curves(axis: Axes, record: Record, methods: Sequence[str] = tuple(COLOURS)) -> None:
    """Draw √δ of one problem."""
    for method in methods:
        runs = [run for run in record["runs"] if run["method"] == method and np.isfinite(run["stationarity"])]
        if runs:
            steps = [step for step, _ in runs[0]["curve"]]
            values = np.median([[value for _, value in run["curve"]] for run in runs], axis=0)
            axis.loglog(
                steps, np.maximum(values, 1e-9), color=COLOURS[method], label=method, linewidth=0.5 + WIDTHS[method]
            )
    axis.set_title(record["problem"], fontsize=8)
    axis.grid(alpha=0.25)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw beside the files the pictures that there is something for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pareto.plot", description="Pictures.")
    parser.add_argument("directory", type=Path, nargs="?", default=DIRECTORY)
    directory = parser.parse_args(argv).directory
    records = load(directory)
    for draw in (trajectories, overview, fronts, stationarity):
        draw(records, directory / f"{draw.__name__}.png")


if __name__ == "__main__":
    main()
