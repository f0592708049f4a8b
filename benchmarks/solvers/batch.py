"""The batched solver beside a loop of the exact one: time for a problem, outcomes on the corners of the stress run.

In: sizes, counts, a device. Out: a record for JSON, and its text. May import: families, problems, instances, timing,
mgrad.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.solvers.families import FAMILIES, rows
from benchmarks.solvers.instances import Instance, draw
from benchmarks.solvers.problems import Problem, direction
from benchmarks.solvers.timing import loops_for, sample, undisturbed
from mgrad import BatchSolution, Status, batched, solve_batch
from mgrad.solvers import Array, solve

SIZES = [2, 5, 16, 64]
STACKS = [1, 16, 256, 4096]
ENTRIES = 2**20  # of a stack of Gramians; larger stacks are left out
DISTINCT = 24  # problems, which a stack repeats
STEPS = [14, 18, 24, 32, 40]

_STATUSES = tuple(Status)


def measure(
    sizes: Sequence[int], instances: int, repeats: int, least: float, seed: int, device: torch.device
) -> dict[str, Any]:
    """Time stacks of problems and look at the outcomes of single ones.

    Args:
        sizes: m.
        instances: of the stress run that are looked at, as far as m is within the sizes; and, of each size, of those
            for which the interior steps are counted.
        repeats: samples of each stack.
        least: seconds of work in a sample.
        seed: of the stress run.
        device: where the stacks are.

    Returns:
        "time": one record for each m and B; "outcomes": how often the exact and the batched solver end how; "steps":
        how many answers are INACCURATE after how many interior steps.
    """
    stacks = [(m, count) for m in sizes for count in STACKS if count * m * m <= ENTRIES]
    return {
        "time": [_time(m, count, repeats, least, device) for m, count in tqdm(stacks, unit="stack")],
        "outcomes": _outcomes(seed, instances, max(sizes), device),
        "steps": [_steps(seed, instances // 4, m, device) for m in tqdm(sizes, unit="size")],
    }


def text(measured: dict[str, Any]) -> str:
    """Return what was measured as lines for people."""
    lines = [table(measured), "", "exact → batched"]
    lines += [f"{count:>6}  {pair}" for pair, count in measured["outcomes"]["pairs"].items()]
    lines += [f"{count:>6}  INACCURATE on {domain}" for domain, count in measured["outcomes"]["inaccurate"].items()]
    lines += ["", "INACCURATE after interior steps"]
    lines += [f"m = {r['size']}, {r['problem']}: {r['inaccurate']} of {r['instances']}" for r in measured["steps"]]
    return "\n".join(lines)


def table(measured: dict[str, Any]) -> str:
    """Return the times for one problem as a Markdown table: stacks of B against a loop of the exact solver."""
    cells = {(r["size"], r["stack"]): r for r in measured["time"]}
    sizes, stacks = (list(dict.fromkeys(place)) for place in zip(*cells, strict=True))
    rows = {
        f"`solve_batch`, B = {B}": [cells[m, B]["batched"] if (m, B) in cells else None for m in sizes] for B in stacks
    }
    rows["`solve`"] = [median(cells[m, B]["loop"] for B in stacks if (m, B) in cells) for m in sizes]
    lines = [["µs for one problem", *(f"m = {m}" for m in sizes)], ["---"] * (len(sizes) + 1)]
    lines += [[label, *(f"{float(f'{v:.2g}'):.0f}" if v else "–" for v in values)] for label, values in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _time(m: int, count: int, repeats: int, least: float, device: torch.device) -> dict[str, Any]:
    """Time a stack of directions, from its Gramians to multipliers on the host, and the same problems in a loop."""
    problems = [direction(rows(family, m, i)[0]) for i in range(DISTINCT // len(FAMILIES)) for family in FAMILIES]
    stacked = list(islice(cycle(problems), count))
    G, q, bound = _stack([p.gramian for p in stacked], [p.linear for p in stacked], [p.bound for p in stacked], device)
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "batched": (lambda: solve_batch(G, q, bound=bound).multipliers.cpu(), count),
        "loop": (lambda: [_exact(problem) for problem in problems], len(problems)),
    }
    with undisturbed():
        loops = {name: loops_for(call, least) for name, (call, _) in calls.items()}
        samples = {name: list[float]() for name in calls}
        for _ in range(repeats):
            for name, (call, solved) in calls.items():
                samples[name].append(1e6 * sample(call, loops[name]) / solved)
    return {"size": m, "stack": count, **{name: float(f"{median(values):.4g}") for name, values in samples.items()}}


def _exact(problem: Problem) -> object:
    """Solve one problem on the host."""
    return solve(problem.gramian, problem.linear, bound=problem.bound)


def _outcomes(seed: int, instances: int, largest: int, device: torch.device) -> dict[str, Any]:
    """Count the pairs of outcomes on the instances of the stress run, and where the batched solver is INACCURATE."""
    pairs, inaccurate = Counter[str](), Counter[str]()
    drawn = [instance for i in range(instances) if (instance := draw(seed, i)).size <= largest]
    for instance in tqdm(drawn, unit="instance"):
        exact = solve(**instance.problem, linear_error=instance.linear_error).status
        found = _STATUSES[int(_batched(instance, device).status)]
        pairs[f"{exact.name} → {found.name}"] += 1
        if found is Status.INACCURATE:
            inaccurate[instance.corners["domain"]] += 1
    return {"instances": len(drawn), "pairs": dict(pairs.most_common()), "inaccurate": dict(inaccurate.most_common())}


def _batched(instance: Instance, device: torch.device) -> BatchSolution:
    """Solve an instance of the stress run as a stack of one."""
    error = None if instance.linear_error is None else torch.as_tensor(instance.linear_error, device=device)
    G, q, _ = _stack([instance.gramian], [instance.linear], [None], device)
    return solve_batch(G[0], q[0], domain=instance.domain, bound=instance.bound, linear_error=error)


def _steps(seed: int, instances: int, m: int, device: torch.device) -> dict[str, Any]:
    """Count the INACCURATE shortest vectors of all kinds of rows, by the number of interior steps."""
    grams = [draw(seed, i, [m]).gramian for i in range(instances)]
    G = torch.as_tensor(np.stack(grams), device=device)
    counts = {}
    for steps in STEPS:
        with _interior_steps(steps):
            status = solve_batch(G, domain="simplex").status
        counts[str(steps)] = int((status == _STATUSES.index(Status.INACCURATE)).sum())
    return {"size": m, "problem": "min-norm", "instances": len(grams), "inaccurate": counts}


@contextmanager
def _interior_steps(steps: int) -> Iterator[None]:
    """Let the batched solver take so many interior steps."""
    usual = batched.INTERIOR_STEPS
    batched.INTERIOR_STEPS = steps
    try:
        yield
    finally:
        batched.INTERIOR_STEPS = usual


def _stack(
    grams: Sequence[Array], linear: Sequence[Array], bounds: Sequence[float | None], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return problems as tensors; no bound is one of infinity."""
    limits = [float("inf") if bound is None else bound for bound in bounds]
    G, q = (torch.as_tensor(np.stack(values), device=device) for values in (grams, linear))
    return G, q, torch.tensor(limits, dtype=torch.float64, device=device)
