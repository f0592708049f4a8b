"""Seconds and memory of a step.

In: a model, a setting, a number of losses. Out: records. May import: models, steppers, multilingual.memory.
"""

import json
import subprocess
import sys
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.multilingual.memory import Peak
from benchmarks.overhead.models import Setting, build
from benchmarks.overhead.steppers import REFERENCE, STEPPERS, Step

Record = dict[str, Any]


def measure(name: str, setting: Setting, losses: int, repeats: int, device: str) -> list[Record]:
    """Time all steppers in turns, each on a model of its own; the first who is called differs from turn to turn.

    Returns:
        Of each its median seconds, and the median and the quartiles of the ratio to the reference of the same turn.
    """
    steps = {stepper: start(build(name, losses, setting, device)) for stepper, start in STEPPERS.items()}
    for step in steps.values():
        step()
        step()
    seconds: dict[str, list[float]] = {stepper: [] for stepper in steps}
    names = list(steps)
    for turn in range(repeats):
        at = turn % len(names)
        for stepper in names[at:] + names[:at]:
            seconds[stepper].append(_seconds(steps[stepper], device))
    by = np.array(seconds[REFERENCE])
    records = []
    for stepper, taken in seconds.items():
        low, middle, high = np.quantile(np.array(taken) / by, [0.25, 0.5, 0.75]).tolist()
        cell = {"model": name, "setting": setting, "losses": losses, "stepper": stepper}
        records.append({**cell, "seconds": float(np.median(taken)), "low": low, "ratio": middle, "high": high})
    return records


def memory(name: str, setting: Setting, losses: int, device: str) -> list[Record]:
    """Measure the peak of every stepper's third step, each in a process of its own.

    Returns:
        Of each the bytes above the reference's, in gradients: of n values in float32.
    """
    cell = {"model": name, "setting": setting, "losses": losses}
    found = {stepper: _elsewhere({**cell, "stepper": stepper, "device": device}) for stepper in STEPPERS}
    return [
        {**cell, "stepper": stepper, "gradients": (peak - found[REFERENCE][0]) / (4 * size)}
        for stepper, (peak, size) in found.items()
    ]


def _elsewhere(cell: Record) -> tuple[int, int]:
    """Return the peak in bytes, and n, from a new process."""
    command = [sys.executable, "-m", "benchmarks.overhead.times", json.dumps(cell)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(lines[-2]), int(lines[-1])


def _seconds(step: Step, device: str) -> float:
    """Return the seconds of one step: by the device's own clock if it has one."""
    if device == "cpu":
        start = perf_counter()
        step()
        return perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    step()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def _main(text: str) -> None:
    """Print the peak of a step, and n."""
    cell = json.loads(text)
    torch.set_default_device(cell["device"])
    model = build(cell["model"], cell["losses"], cell["setting"], cell["device"])
    step, peak = STEPPERS[cell["stepper"]](model), Peak()
    step()
    step()
    peak.reset()
    step()
    print(peak.read(), sum(parameter.numel() for parameter in model.parameters))


if __name__ == "__main__":
    _main(sys.argv[1])
