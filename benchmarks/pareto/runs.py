"""Descend: every problem, every method, every start, at the best of a few rates.

In: problems and counts. Out: a record for each problem. May import: methods, mgrad.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from benchmarks.pareto.methods import AGAINST_NOISE, METHODS
from mgrad import KeepPace, constrained_direction
from mgrad.problems import Noisy, Problem

Record = dict[str, Any]
RATES = (0.1, 0.3, 1.0)  # times 1/max L where the Lipschitz constants are known, else times 1/max ‖gᵢ(θ₀)‖
REACHED = 1e-3  # √δ/max ‖gᵢ(θ₀)‖ that counts as stationary
LOOKS, PATH = 25, 60  # points of a curve, and of a path in the plane


def descend(problem: Problem, methods: Iterable[str], steps: int, seeds: int, progress: "tqdm[Any]") -> Record:
    """Run methods on a problem.

    Args:
        problem: to be solved.
        methods: by name.
        steps: of each run.
        seeds: how many of the problem's starts.
        progress: told of each method.

    Returns:
        What is known of the problem, and a run for each method and start, at the method's best rate.
    """
    runs = []
    goals = [(start, problem.nearest(start)) for start in problem.starts[:seeds]]
    for method in methods:
        for start, nearest in goals:
            rates = [rate * _unit(problem, start) for rate in RATES]
            tried = [_run(problem, {**METHODS, **AGAINST_NOISE}[method], start, nearest, rate, steps) for rate in rates]
            best = min(tried, key=lambda run: run["stationarity"])
            runs.append({"method": method, **best})
        progress.update()
    return {
        "problem": problem.name,
        "size": problem.size,
        "losses": len(problem.names),
        "reference": problem.reference,
        "runs": runs,
    }


def _unit(problem: Problem, start: Tensor) -> float:
    """Return the rate that all rates are multiples of."""
    if problem.lipschitz.isfinite().all():
        return 1 / float(problem.lipschitz.max())
    return 1 / float(problem.jacobian(start).norm(dim=1).max())


def _run(
    problem: Problem, make: Callable[[], Any], start: Tensor, nearest: Tensor | None, rate: float, steps: int
) -> Record:
    """Descend from a start, at a rate that decays like 1/t."""
    direction, theta = make(), start.clone()
    size = float(problem.jacobian(start).norm(dim=1).max()) or 1.0
    looks = set(np.unique(np.geomspace(1, steps, LOOKS).round().astype(int)).tolist())
    places = set(np.linspace(0, steps, PATH).round().astype(int).tolist()) if problem.size == 2 else set()
    curve, path, seconds, reached, risen = [], [], [], None, 0
    before = problem.losses(theta)
    for step in range(steps + 1):
        if step in places:
            path.append([float(f"{x:.4g}") for x in theta.tolist()])
        if step in looks or step == steps:
            stationarity = _stationarity(problem, theta) / size
            curve.append([step, float(f"{stationarity:.3g}")])
            if reached is None and stationarity <= REACHED:
                reached = step
        if step == steps:
            break
        rows = problem.batch(step).jacobian(theta) if isinstance(problem, Noisy) else problem.jacobian(theta)
        began = time.perf_counter()
        d = direction(rows, theta - start)
        seconds.append(time.perf_counter() - began)
        moved = theta - rate / (1 + 10 * step / steps) * d
        if not moved.isfinite().all() or float(moved.norm()) > 1e6 * (1 + float(start.norm())):
            stationarity = np.inf  # it has run away
            break
        theta = moved
        now = problem.losses(theta)
        risen += int((now > before + 1e-12 * before.abs()).sum())
        before = now
    return {
        "rate": rate,
        "stationarity": stationarity,
        "strong": _strong(problem, theta) / size,
        "risen": risen / (steps * len(before)),
        "losses": [float(f"{loss:.5g}") for loss in before.tolist()],
        "reached": reached,
        "seconds": float(np.median(seconds)),
        **_distances(start, nearest, theta),
        "curve": curve,
        "path": path,
    }


def _stationarity(problem: Problem, theta: Tensor) -> float:
    """Return √δ of the true gradients."""
    report = constrained_direction(problem.jacobian(theta)).report
    return float(np.sqrt(report.stationarity))


def _strong(problem: Problem, theta: Tensor) -> float:
    """Return ‖r‖ of the true gradients."""
    return constrained_direction(problem.jacobian(theta), decrease=KeepPace(margin=0.0)).report.strong_stationarity


def _distances(start: Tensor, nearest: Tensor | None, theta: Tensor) -> dict[str, float | None]:
    """Return how far θ is from where it started, and from the Pareto-optimal point nearest to that."""
    moved = float((theta - start).norm())
    if nearest is None:
        return {"moved": moved, "least": None, "apart": None}
    return {"moved": moved, "least": float((nearest - start).norm()), "apart": float((theta - nearest).norm())}
