"""What a less-forgetting step costs, in time and in memory, beside plain steps and those of others."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import results
from benchmarks.overhead import report, times
from benchmarks.overhead.models import MODELS
from benchmarks.overhead.steppers import SETTINGS


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is asked for, write it, and show it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS), default=[name for name in MODELS if name != "tiny"], help="all")
    add("--losses", nargs="+", type=int, default=[2, 5, 16], help="m; 2 5 16")
    add("--repeats", type=int, default=15, help="steps to time of each; 15")
    add("--threads", type=int, default=2, help="of the processor; 2")
    add("--device", default="cpu", help="cpu or cuda; cpu")
    add("--out", type=Path, default=report.FILE, help="file")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    cells = [(name, setting, m) for name in arguments.models for setting in SETTINGS for m in arguments.losses]
    record: dict[str, Any] = {
        "arguments": {"repeats": arguments.repeats, "device": arguments.device},
        "environment": results.environment(("torch", "torchjd")),
        "times": [],
        "memory": [],
    }
    for name, setting, m in tqdm(cells, unit="cell"):
        record["times"] += times.measure(name, setting, m, arguments.repeats, arguments.device)
        record["memory"] += times.memory(name, setting, m, arguments.device)
    results.write(arguments.out, record)
    print(report.page(record))
