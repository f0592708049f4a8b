"""What the Gramian and the combination cost against n and m, beside what the memory could give.

In: sizes. Out: records. May import: clock, mgrad.jacobian.
"""

from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.overhead.clock import seconds
from benchmarks.overhead.times import FEWEST
from mgrad.jacobian import Row, combine, gramian

Record = dict[str, Any]
SHARE = 0.5  # of the memory that is available: more is not taken
BLOCK = 1 << 20  # values of a parameter, as of a layer of 1024 units
COPIED = 1 << 26  # values: far more than any cache holds
TURN = 0.02  # seconds that are timed at a time, at least
BYTES = 4
PARTS = ("gramian", "combination")


def fits(losses: int, values: int, device: str) -> bool:
    """Tell whether the rows of this size, and what is copied, fit the memory."""
    return BYTES * (losses * values + 2 * COPIED) < SHARE * _available(device)


def measure(cells: Sequence[tuple[int, int]], repeats: int, device: str, until: float = inf) -> list[Record]:
    """Time the Gramian and the combination of random rows of float32 in turns, and a copy in every turn.

    Args:
        cells: (m, n) each.
        repeats: turns.
        device: "cpu" or "cuda".
        until: as of `times.measure`.

    Returns:
        Of each cell its median seconds with quartiles, and the bandwidth: the bytes that a copy reads and writes in a
        second, the median of the run.
    """
    memory = torch.empty(max(m * n for m, n in cells), device=device).normal_()
    # Written to: pages of zeros that nobody has written would all be one page, and that in a cache.
    source, target = torch.ones(COPIED, device=device), torch.ones(COPIED, device=device)
    taken: dict[tuple[str, int, int], list[float]] = {}
    copies = []
    for turn in range(-1, repeats):  # the first is not counted
        if turn >= FEWEST and monotonic() > until:
            break
        copy = seconds(lambda: target.copy_(source), device)
        copies += [copy] if turn >= 0 else []
        for m, n in cells:
            for part, second in _once(memory[: m * n].view(m, n), device):
                taken.setdefault((part, m, n), []).extend([second] if turn >= 0 else [])
    bandwidth = 2 * BYTES * COPIED / float(np.median(copies))
    records = []
    for m, n in cells:
        cell = {"device": device, "losses": m, "values": n, "turns": len(copies), "bandwidth": bandwidth}
        parts = {part: np.quantile(taken[part, m, n], [0.25, 0.5, 0.75]).tolist() for part in PARTS}
        records.append(cell | parts)
    return records


def traffic(part: str, losses: int, values: int) -> int:
    """Return the bytes that a part must move: every row is read once; the combination is written over the first."""
    return BYTES * values * (losses + (part == "combination"))


def _once(rows: Tensor, device: str) -> Iterator[tuple[str, float]]:
    """Yield the seconds of both for rows [m, n]; small ones are repeated until there is something to time."""
    blocks = [row.split(BLOCK) for row in rows]
    parameters = blocks[0]  # as good as any
    lookups: list[Row] = [dict(zip(parameters, row, strict=True)).get for row in blocks]
    # What one adds the next takes away: the rows stay as independent as they are, and G as well resolved.
    both = [[1.0, *[sign / len(rows)] * (len(rows) - 1)] for sign in (1.0, -1.0)]

    home = torch.device(device)
    times = 2 * max(1, round(TURN / 2 / (1e-9 * rows.numel() + 1e-5)))
    grams = seconds(lambda: [gramian(lookups, parameters, home) for _ in range(times)], device)
    combinations = seconds(lambda: [combine(lookups, both[k % 2], parameters) for k in range(times)], device)
    yield from (("gramian", grams / times), ("combination", combinations / times))


def _available(device: str) -> int:
    """Return the bytes that are free."""
    if device != "cpu":
        return torch.cuda.mem_get_info()[0]
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))
