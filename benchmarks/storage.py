"""Which storage fits which card, and what each costs: `python -m benchmarks.storage`.

In: nothing. Out: two tables. May import: tables, overhead.models, multilingual.memory, mgrad.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from time import perf_counter

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW

from benchmarks.multilingual.memory import Peak
from benchmarks.overhead.models import build
from benchmarks.tables import table
from mgrad import LessForgetting, Storage

# From the one that costs least; what is first to fit is the advice.
MODES = {
    "None": Storage(),
    "bfloat16": Storage(rows="bfloat16", start="bfloat16"),
    "cpu": Storage(rows="cpu", start="cpu"),
    "sketch": Storage(rows="sketch", start="cpu"),
}
CARDS = (24, 80)  # GB of 10⁹ bytes
SIZES = (1e8, 3e8, 6e8, 1e9, 2e9, 3e9)
LOSSES = (2, 5, 16)
ROOM = 0.2  # of the card that is left for activations, windows and the rest


def needed(n: float, m: int, storage: Storage) -> float:
    """Return the GB that weights, AdamW's two moments, gradients and θ₀ take, in float32."""
    return (12 * n + storage.memory(int(n), m)) / 1e9


def advice(n: float, m: int, card: float) -> str:
    """Return the first mode that leaves room on a card, – if none does."""
    return next((name for name, storage in MODES.items() if needed(n, m, storage) <= (1 - ROOM) * card), "–")


def fits() -> str:
    """Return the table of advice."""
    header = ["n", *(f"{card} GB, m = {m}" for card in CARDS for m in LOSSES)]
    lines = [[f"{n / 1e6:.0f} M", *(advice(n, m, card) for card in CARDS for m in LOSSES)] for n in SIZES]
    return table(header, lines)


def measure(name: str, mode: str, losses: int) -> dict[str, float]:
    """Return the seconds of a step, its peak memory in gradients, and how far G and what is promised are from exact."""
    model, storage = build(name, losses, "batches", "cpu"), MODES[mode]
    opt = LessForgetting(AdamW(model.parameters, lr=1e-4), storage=storage)
    size = sum(parameter.numel() for parameter in model.parameters)

    def gradients() -> list[Tensor]:
        def loss(i: int) -> Tensor:
            return model.loss(model.shared(model.inputs[i]), i)

        if storage.rows == "sketch":
            opt.backward([partial(loss, i) for i in range(losses)])
        else:
            for i in range(losses):
                with opt.constraint(str(i)):
                    loss(i).backward()
            opt.solve()
        return [parameter.grad for parameter in model.parameters if parameter.grad is not None]

    def step() -> None:
        opt.zero_grad()
        gradients()
        opt.step()

    peak, seconds = Peak(), []
    for _ in range(3):
        step()
    opt.zero_grad()
    peak.reset()
    step()
    most = peak.read()
    for _ in range(7):
        start = perf_counter()
        step()
        seconds.append(perf_counter() - start)
    opt.zero_grad()
    found = torch.cat([block.flatten().double() for block in gradients()])
    assert opt.report is not None
    rows = []
    for i in range(losses):
        loss = model.loss(model.shared(model.inputs[i]), i)
        rows.append(torch.cat([g.flatten().double() for g in torch.autograd.grad(loss, model.parameters)]))
    J = torch.stack(rows)
    exact, lengths = J @ J.T, J.norm(dim=1)
    error = (torch.as_tensor(opt.report.gramian) - exact).abs() / lengths[:, None] / lengths
    short = (torch.as_tensor(opt.report.decrease) - J @ found) / lengths / found.norm()
    return {
        "seconds": float(np.median(seconds)),
        "memory": most / (4 * size),
        "gramian": float(error.max()),
        "short": float(short.max().clamp(min=0.0)),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print what fits, and what each mode costs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=__doc__)
    parser.add_argument("--model", default="transformer", help="of benchmarks.overhead; transformer")
    parser.add_argument("--losses", type=int, default=5, help="m; 5")
    parser.add_argument("--threads", type=int, default=2, help="of the processor; 2")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(measure(arguments.model, arguments.one, arguments.losses)))
        return
    print(fits(), end="\n\n")
    own = ["--model", arguments.model, "--losses", str(arguments.losses), "--threads", str(arguments.threads)]
    found = {}
    for mode in (mode for mode in MODES if mode != "cpu"):
        command = [sys.executable, "-m", "benchmarks.storage", "--one", mode, *own]
        found[mode] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    lines = [
        [
            mode,
            f"{row['seconds'] / found['None']['seconds']:.2f}",
            f"{row['memory'] - found['None']['memory']:+.1f}",
            f"{row['gramian']:.0e}",
            f"{row['short']:.0e}",
        ]
        for mode, row in found.items()
    ]
    print(table(["storage", "time / None", "gradients above None", "error of G", "promise short by"], lines))


if __name__ == "__main__":
    main()
