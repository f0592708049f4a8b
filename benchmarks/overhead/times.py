"""Seconds of a step, beside those of m plain backward passes.

In: a model, a setting, a number of losses, steppers. Out: records. May import: clock, models, peers, steppers.
"""

from collections.abc import Sequence
from math import inf
from time import monotonic
from typing import Any

import numpy as np

from benchmarks.overhead.clock import seconds
from benchmarks.overhead.models import Model, Setting, build
from benchmarks.overhead.peers import EVERYONE
from benchmarks.overhead.steppers import REFERENCE, Step

Record = dict[str, Any]
FEWEST = 3  # turns, also where the time is up


def measure(
    name: str,
    setting: Setting,
    losses: int,
    steppers: Sequence[str],
    repeats: int,
    device: str,
    until: float = inf,
) -> list[Record]:
    """Time the reference and some steppers in turns, each on a model of its own; another is the first in every turn.

    Args:
        name: of the model.
        setting: of the losses.
        losses: m.
        steppers: of `EVERYONE`.
        repeats: turns.
        device: "cpu" or "cuda".
        until: from this time on, by the monotonic clock, no turn is begun after the third.

    Returns:
        Of each n, its median seconds, and the median and the quartiles of the ratio to the reference of the same turn;
        of one that raised, its error.
    """
    models = {stepper: build(name, losses, setting, device) for stepper in dict.fromkeys((REFERENCE, *steppers))}
    values = sum(parameter.numel() for parameter in models[REFERENCE].parameters)
    started = {stepper: _start(stepper, model) for stepper, model in models.items()}
    steps = {stepper: step for stepper, step in started.items() if not isinstance(step, str)}
    taken = _turns(steps, repeats, device, until)
    by = np.array(taken[REFERENCE])
    records = []
    for stepper, step in started.items():
        cell = {"device": device, "model": name, "setting": setting, "losses": losses, "stepper": stepper}
        cell["values"] = values
        if isinstance(step, str):
            records.append({**cell, "failed": step})
            continue
        low, middle, high = np.quantile(np.array(taken[stepper]) / by, [0.25, 0.5, 0.75]).tolist()
        found = {"seconds": float(np.median(taken[stepper])), "low": low, "ratio": middle, "high": high}
        records.append({**cell, "turns": len(by), **found})
    return records


def _start(stepper: str, model: Model) -> Step | str:
    """Return the step after two that are not counted; the error of one that raises."""
    try:
        step = EVERYONE[stepper](model)
        step()
        step()
    except RuntimeError as error:  # what a peer cannot do, or has no memory for, is a result
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return step


def _turns(steps: dict[str, Step], repeats: int, device: str, until: float) -> dict[str, list[float]]:
    """Return the seconds of every step in every turn."""
    taken: dict[str, list[float]] = {stepper: [] for stepper in steps}
    names = list(steps)
    for turn in range(repeats):
        if turn >= FEWEST and monotonic() > until:
            break
        at = turn % len(names)
        for stepper in names[at:] + names[:at]:
            taken[stepper].append(seconds(steps[stepper], device))
    return taken
