"""The memory that a step takes at most, in a process of its own.

In: a model, a setting, a number of losses, a stepper. Out: a record. May import: models, peers, multilingual.memory,
mgrad.compiled.
"""

import json
import os
import subprocess
import sys
from typing import Any

import torch

from benchmarks.multilingual.memory import Peak
from benchmarks.overhead.models import Setting, build
from benchmarks.overhead.peers import EVERYONE
from mgrad import compiled

Record = dict[str, Any]
# With this glibc maps every large block by itself and unmaps it when it is free: what is resident is what is in use.
_MAPPED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}


def measure(name: str, setting: Setting, losses: int, stepper: str, device: str) -> Record:
    """Measure the peak of a stepper's third step in a new process, on a CPU in two.

    Returns:
        The bytes above what the process held before there was a model, with the model and the optimizer's state: as
        glibc keeps memory by itself, and where it keeps none of what is free; and n. Of a process that did not end
        well, its last words.
    """
    cell = {"device": device, "model": name, "setting": setting, "losses": losses, "stepper": stepper}
    measured: Record = {}
    for which, environment in (("bytes", {}), ("used", _MAPPED))[: 2 if device == "cpu" else 1]:
        found = _elsewhere(cell, environment)
        if isinstance(found, str):
            return cell | {"failed": found}
        measured[which], measured["values"] = found
    return cell | measured


def _elsewhere(cell: Record, environment: dict[str, str]) -> tuple[int, int] | str:
    """Return what `_peak` finds in a new process, or that process's last words."""
    command = [sys.executable, "-m", "benchmarks.overhead.memory", json.dumps(cell)]
    process = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | environment)
    if process.returncode:
        return [f"the process ended with {process.returncode}", *process.stderr.splitlines()][-1]
    peak, values = process.stdout.split()[-2:]
    return int(peak), int(values)


def _peak(cell: Record) -> tuple[int, int]:
    """Return the peak of a step, and n."""
    start, peak = EVERYONE[cell["stepper"]], Peak()
    # Modules that the stepper loads, and what they keep, are not of this model.
    small = start(build("tiny", cell["losses"], cell["setting"], cell["device"]))
    small()
    small()
    compiled.loops()  # of large models only
    del small
    with torch.device(cell["device"]):
        peak.reset()
        before = peak.read()
    model = build(cell["model"], cell["losses"], cell["setting"], cell["device"])
    step = start(model)
    step()
    step()
    with torch.device(cell["device"]):
        peak.reset()
        step()
        most = peak.read()
    return most - before, sum(parameter.numel() for parameter in model.parameters)


if __name__ == "__main__":
    print(*_peak(json.loads(sys.argv[1])))
