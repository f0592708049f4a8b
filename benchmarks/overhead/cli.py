"""What a less-forgetting step costs, in time and in memory, beside plain steps and those of others.

Every run adds to the file what it measured; with --missing only what is not there yet is measured, and with --minutes
no more is begun after so long: the same command, again and again, measures all.
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import results
from benchmarks.overhead import memory, plot, profile, report, scaling, times
from benchmarks.overhead.models import MODELS
from benchmarks.overhead.peers import EVERYONE
from benchmarks.overhead.record import PARTS, Record
from benchmarks.overhead.steppers import REFERENCE, SETTINGS

PACKAGES = ("torch", "torchjd", "pytorch_optimizer", "conflictfree", "peft", "numba")
STEPS, OTHERS = 10_000_000, 5  # the n at which m varies, and the m at which n varies


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is asked for, write it, and show it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=["times", "memory", "profile"], help="times memory profile")
    add("--scaling", action="store_const", dest="parts", const=["scaling"], help="the same as --parts scaling")
    add("--models", nargs="+", choices=list(MODELS), default=[name for name in MODELS if name != "tiny"], help="all")
    add("--settings", nargs="+", choices=SETTINGS, default=SETTINGS, help="all")
    add("--losses", nargs="+", type=int, default=[2, 3, 5, 8, 16], help="m; 2 3 5 8 16")
    add("--steppers", nargs="+", choices=list(EVERYONE), default=list(EVERYONE), help="beside the reference; all")
    add("--values", nargs="+", type=float, default=[1e5, 1e6, 1e7, 1e8], help="n, for scaling; 1e5 1e6 1e7 1e8")
    add("--repeats", type=int, default=15, help="steps to time of each; 15")
    add("--minutes", type=float, default=inf, help="after which nothing more is begun; no limit")
    add("--apart", action="store_true", help="time each in turns with the reference alone: shorter runs")
    add("--missing", action="store_true", help="measure only what the file lacks")
    add("--new", action="store_true", help="begin the file anew")
    add("--threads", type=int, default=2, help="of the processor; 2")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="cpu or cuda; cpu")
    add("--out", type=Path, default=report.FILE, help="file; the plots are put beside it")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    environment = results.environment(PACKAGES)
    if arguments.device == "cuda":
        environment["device"] = torch.cuda.get_device_name()
    if arguments.new:
        arguments.out.unlink(missing_ok=True)
    record = Record(arguments.out, arguments.device, environment)
    until = monotonic() + 60 * arguments.minutes
    for part, rows in tqdm(_rows(arguments, record, until), unit="part", disable=None):
        record.add(part, rows)
        if monotonic() > until:
            print("The time is up. The same command with --missing measures what may be left.")
            break
    print(report.page(record.record))
    plot.draw(record.record, arguments.out.parent)


def _runs(steppers: list[str], apart: bool) -> list[list[str]]:
    """Return who is timed together: all, or each alone. The reference is in every run."""
    alone = [[stepper] for stepper in steppers if stepper != REFERENCE]
    return alone if apart and alone else [steppers] if steppers else []


def _rows(arguments: argparse.Namespace, record: Record, until: float) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Measure part after part of cell after cell."""
    repeats, device = arguments.repeats, arguments.device

    def wanted(part: str, **cell: Any) -> bool:
        return part in arguments.parts and not (arguments.missing and record.has(part, device=device, **cell))

    everyone = list(dict.fromkeys((REFERENCE, *arguments.steppers)))
    for name, setting, m in product(arguments.models, arguments.settings, arguments.losses):
        cell = {"model": name, "setting": setting, "losses": m}
        steppers = [stepper for stepper in everyone if wanted("times", stepper=stepper, **cell)]
        for together in _runs(steppers, arguments.apart):
            yield "times", times.measure(name, setting, m, together, repeats, device, until)
        if wanted("profile", **cell):
            yield "profile", [profile.measure(name, setting, m, repeats, device, until)]
        for stepper in everyone:
            if wanted("memory", stepper=stepper, **cell):
                yield "memory", [memory.measure(name, setting, m, stepper, device)]
    sizes = [(m, STEPS) for m in arguments.losses] + [(OTHERS, int(n)) for n in arguments.values]
    sizes = [(m, n) for m, n in dict.fromkeys(sizes) if wanted("scaling", losses=m, values=n)]
    fitting = [size for size in sizes if scaling.fits(*size, device)]
    if len(fitting) < len(sizes):
        print("too large for the memory, in (m, n):", *(size for size in sizes if size not in fitting))
    if fitting:
        yield "scaling", scaling.measure(fitting, repeats, device, until)
