"""What rows from one pass cost beside rows from m: `python -m benchmarks.overhead.one_pass`.

In: models, numbers of losses, sizes of batches. Out: one_pass.json and a table. May import: models, steppers, results,
tables, mgrad.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks import results
from benchmarks.overhead.models import Model, build
from benchmarks.overhead.steppers import less_forgetting, once, one_at_a_time, plain, together
from benchmarks.tables import table
from mgrad.one_pass import OnePass, check_examples

FILE = Path(__file__).parent / "results" / "one_pass.json"
Record = dict[str, Any]
COLUMNS = {
    "m passes": "passes: m",
    "rows of m": "rows: m",
    "rows of one": "rows: one",
    "m steps": "step: m",
    "mgrad, m": "mgrad: m",
    "mgrad, one": "mgrad: one",
}


def smaller(name: str, losses: int, share: int) -> Model:
    """Return a model of the benchmark whose batches are so many times smaller."""
    model = build(name, losses, "batches", "cpu")
    inputs, labels = (tensor[:, : tensor.shape[1] // share] for tensor in (model.inputs, model.labels))
    return replace(model, inputs=inputs.contiguous(), labels=labels.contiguous())


def passes(model: Model) -> dict[str, Callable[[], Any]]:
    """Return what takes all gradients: their sum in one pass and in m, rows in m passes and in one."""
    m, known = len(model.inputs), OnePass()
    spans = check_examples([len(batch) for batch in model.inputs], {str(i): [torch.zeros(())] for i in range(m)})
    held: list[Any] = [None]  # the rows, until the next are there

    def clear() -> None:
        for parameter in model.parameters:
            parameter.grad = None

    def sum_of_one() -> None:
        clear()
        (m * cross_entropy(model.together().flatten(0, 1), model.labels.flatten())).backward()

    def sum_of_m() -> None:
        clear()
        for loss in one_at_a_time(model):
            loss()

    def rows_of_m() -> None:
        held[0] = None
        parameters = model.parameters
        held[0] = [
            torch.autograd.grad(model.loss(model.shared(batch), i), parameters) for i, batch in enumerate(model.inputs)
        ]

    def rows_of_one() -> None:
        held[0] = None
        held[0] = known.rows(model.losses_together(), [torch.ones(())] * m, spans, model.parameters)

    return {"one pass": sum_of_one, "m passes": sum_of_m, "rows of m": rows_of_m, "rows of one": rows_of_one}


def measure(name: str, losses: int, share: int, repeats: int) -> Record:
    """Time all in turns: passes beside one pass, steps beside one plain step, over all batches together."""
    taken = passes(smaller(name, losses, share))
    starts = {"one step": once, "m steps": plain, "mgrad, m": less_forgetting(), "mgrad, one": together}
    taken |= {label: start(smaller(name, losses, share)) for label, start in starts.items()}
    clock = process_time if torch.get_num_threads() == 1 else perf_counter  # the former counts every thread
    seconds: dict[str, list[float]] = {label: [] for label in taken}
    for function in taken.values():
        function()
        function()
    for turn in range(repeats):
        for label in np.roll(list(taken), turn).tolist():
            start = clock()
            taken[label]()
            seconds[label].append(clock() - start)
    times = {label: np.array(values) for label, values in seconds.items()}
    ratios = {
        label: float(np.median(times[label] / times["one step" if "step" in label or "mgrad" in label else "one pass"]))
        for label in COLUMNS
    }
    first = float(np.median(times["one pass"]))
    cell = {"model": name, "threads": torch.get_num_threads(), "share": share, "losses": losses}
    return {**cell, "one pass": first, **ratios}


def page(record: Record) -> str:
    """Return what the record says, as Markdown."""
    header = ["model", "threads", "batch of a loss", "m", "one pass, ms", *COLUMNS.values()]
    rows = [
        [
            row["model"],
            str(row["threads"]),
            f"1/{row['share']}" if row["share"] > 1 else "whole",
            str(row["losses"]),
            f"{1e3 * row['one pass']:.0f}",
            *(f"{row[label]:.2f}" for label in COLUMNS),
        ]
        for row in record["times"]
    ]
    return table(header, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is asked for, write it, and show it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead.one_pass", description=__doc__)
    add = parser.add_argument
    add("--models", nargs="+", default=["mlp", "transformer"], help="mlp transformer")
    add("--losses", nargs="+", type=int, default=[2, 3, 5, 8, 16], help="m; 2 3 5 8 16")
    add("--shares", nargs="+", type=int, default=[1, 8], help="batches so many times smaller; 1 8")
    add("--repeats", type=int, default=9, help="times of each; 9")
    add("--threads", type=int, default=2, help="of the processor; 2. With 1 processor time is taken")
    add("--add", action="store_true", help="to what the file has")
    add("--out", type=Path, default=FILE, help="file")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    record: Record = {
        "arguments": {"repeats": arguments.repeats},
        "environment": results.environment(("torch",)),
        "times": results.read(arguments.out).get("times", []) if arguments.add else [],
    }
    for name in arguments.models:
        for share in arguments.shares:
            for m in arguments.losses:
                record["times"].append(measure(name, m, share, arguments.repeats))
                results.write(arguments.out, record)
    print(page(record))


if __name__ == "__main__":
    main(None)
