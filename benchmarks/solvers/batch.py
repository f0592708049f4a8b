"""The batched solver: how often it agrees with the exact one on the instances of the stress run, its time, its steps.

In: a number of instances, a device. Out: a record for JSON. May import: instances, timing, torch, mgrad.
"""

from collections import Counter
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.solvers.instances import Instance, draw
from benchmarks.solvers.timing import undisturbed
from mgrad import Status, batched, solve_batch
from mgrad.solvers import solve

LARGEST = 64  # m, for which the fixed work is meant
SHAPES = [(m, count) for m in (2, 5, 16, 64) for count in (1, 32, 1024) if m * m * count < 2_000_000]
STEPS = [14, 18, 24, 32, 40]
_STATUSES = list(Status)


def measure(seed: int, instances: int, repeats: int, device: str) -> dict[str, Any]:
    """Compare the batched solver with the exact one, and time both.

    Args:
        seed: of the instances.
        instances: of the stress run, of which those of m ≤ 64 are solved.
        repeats: of each time, of which the median is taken.
        device: of the tensors.

    Returns:
        How often each pair of outcomes was seen; one record of times for each shape; and for each m, how many answers
        are INACCURATE after how many interior steps, of a quarter as many instances.
    """
    drawn = (draw(seed, index) for index in tqdm(range(instances), unit="instance"))
    outcomes = Counter(_outcomes(instance, device) for instance in drawn if instance.size <= LARGEST)
    pairs = [{"batched": one, "exact": other, "count": count} for (one, other), count in outcomes.most_common()]
    times = [_times(m, count, repeats, device) for m, count in tqdm(SHAPES, unit="shape")]
    steps = [_steps(m, seed, instances // 4, device) for m in tqdm(dict(SHAPES), unit="size")]
    return {"outcomes": pairs, "times": times, "steps": steps}


def _outcomes(instance: Instance, device: str) -> tuple[str, str]:
    """Return the names of both outcomes of an instance."""
    stated = {"domain": instance.domain, "bound": instance.bound}
    G, q, error = (
        None if values is None else torch.tensor(values, device=device)
        for values in (instance.gramian, instance.linear, instance.linear_error)
    )
    assert G is not None
    found = solve_batch(G, q, linear_error=error, **stated)  # type: ignore[arg-type] # as one dictionary
    exact = solve(instance.gramian, instance.linear, linear_error=instance.linear_error, **stated)  # type: ignore[arg-type]
    return _STATUSES[int(found.status)].name, exact.status.name


def _times(m: int, count: int, repeats: int, device: str) -> dict[str, Any]:
    """Return the µs for each problem of a stack, and for each in a loop of the exact solver."""
    generator = torch.Generator().manual_seed(0)
    J = torch.randn(count, m, 4 * m + 16, dtype=torch.float64, generator=generator)
    G, q = (J @ J.mT).to(device), torch.randn(count, m, dtype=torch.float64, generator=generator).to(device)
    samples: dict[str, list[float]] = {"batched": [], "loop": []}
    with undisturbed():
        for _ in range(repeats + 1):
            samples["batched"].append(_seconds(lambda: solve_batch(G, q).status.cpu()))
            samples["loop"].append(_seconds(lambda: _loop(G, q)))
    # The first of each is for warming up.
    medians = {way: sorted(values[1:])[repeats // 2] * 1e6 / count for way, values in samples.items()}
    return {"size": m, "problems": count, **{way: float(f"{value:.3g}") for way, value in medians.items()}}


def _steps(m: int, seed: int, instances: int, device: str) -> dict[str, Any]:
    """Count the shortest vectors, of rows of every kind of the stress run, that so many interior steps do not find."""
    G = torch.as_tensor(np.stack([draw(seed, index, [m]).gramian for index in range(instances)]), device=device)
    inaccurate = {}
    for steps in STEPS:
        with patch.object(batched, "INTERIOR_STEPS", steps):
            status = solve_batch(G, domain="simplex").status
        inaccurate[str(steps)] = int((status == _STATUSES.index(Status.INACCURATE)).sum())
    return {"size": m, "instances": instances, "inaccurate": inaccurate}


def _loop(gramian: Tensor, linear: Tensor) -> None:
    """Fetch a stack and solve its problems one by one."""
    for G, q in zip(gramian.cpu().numpy(), linear.cpu().numpy(), strict=True):
        solve(G, q)


def _seconds(call: Any) -> float:
    """Return how long a call takes."""
    start = perf_counter()
    call()
    return perf_counter() - start
