"""The stress run: many instances, every corner, nothing dropped.

In: a seed and how many. Out: a record for JSON. May import: instances, checks, mgrad.solvers.
"""

import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from tqdm import tqdm

from benchmarks.solvers.checks import SOLVED, Outcome, examine
from benchmarks.solvers.instances import draw
from mgrad.solvers import solve

CHUNK = 100  # instances that a process takes at a time
SHOWN = 20  # indices that are kept of each remark
BANDS = {"1": 1, "2–4": 4, "5–8": 8, "9–16": 16, "17–32": 32, "33–64": 64, "65–128": 128}  # m, up to
_SOLVED = {status.name for status in SOLVED}


def outcome(index: int, seed: int, sizes: Sequence[int] = ()) -> Outcome:
    """Draw one instance, solve and check it."""
    return examine(draw(seed, index, sizes), solve)


def run(seed: int, instances: int, sizes: Sequence[int], processes: int) -> Iterator[Outcome]:
    """Yield the outcome of every instance, in any order."""
    task = partial(outcome, seed=seed, sizes=tuple(sizes))
    if processes == 1:
        yield from tqdm(map(task, range(instances)), total=instances, unit="instance")
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from tqdm(pool.imap_unordered(task, range(instances), CHUNK), total=instances, unit="instance")


def summary(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Gather outcomes by corner; violations are kept whole.

    Returns:
        "all" and "corners" → group → name: counts of statuses, the worst figures of solved instances and the slowest
        instance; "references": what each came to; "remarks": how often, and the first indices; "violations": all.
    """
    everything, references = _Corner(), dict[str, Counter[str]]()
    corners: dict[str, dict[str, _Corner]] = {}
    remarks: dict[str, list[int]] = {}
    violations = []
    for one in outcomes:
        everything.add(one)
        for group, name in (*one.corners.items(), ("m", _band(one.size))):
            corners.setdefault(group, {}).setdefault(name, _Corner()).add(one)
        for name, result in one.references.items():
            references.setdefault(name, Counter())[result] += 1
        for remark in one.remarks:
            remarks.setdefault(remark, []).append(one.index)
        violations += [
            {"index": one.index, "m": one.size, **one.corners, "violation": violation} for violation in one.violations
        ]
    return {
        "all": everything.record(),
        "corners": {
            group: {name: names[name].record() for name in sorted(names, key=lambda name: (BANDS.get(name, 0), name))}
            for group, names in corners.items()
        },
        "references": {name: dict(results.most_common()) for name, results in sorted(references.items())},
        "remarks": {
            remark: {"instances": len(indices), "first": sorted(indices)[:SHOWN]}
            for remark, indices in sorted(remarks.items())
        },
        "violations": sorted(violations, key=lambda violation: int(violation["index"])),
    }


class _Corner:
    """The figures of the instances of one corner."""

    def __init__(self) -> None:
        """Start with none."""
        self.statuses = Counter[str]()
        self.violations = 0
        self.gap = self.primal = self.seconds = 0.0
        self.slowest = -1

    def add(self, one: Outcome) -> None:
        """Take in an outcome."""
        self.statuses[one.status] += 1
        self.violations += bool(one.violations)
        if one.status in _SOLVED:
            self.gap, self.primal = max(self.gap, one.gap), max(self.primal, one.primal)
        if one.seconds > self.seconds:
            self.seconds, self.slowest = one.seconds, one.index

    def record(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "instances": self.statuses.total(),
            "statuses": dict(self.statuses.most_common()),
            "violated": self.violations,
            "worst_gap": float(f"{self.gap:.3g}"),
            "worst_primal": float(f"{self.primal:.3g}"),
            "slowest_ms": float(f"{1e3 * self.seconds:.3g}"),
            "slowest": self.slowest,
        }


def _band(m: int) -> str:
    """Return the band of sizes that m belongs to."""
    return next(name for name, largest in BANDS.items() if m <= largest)
