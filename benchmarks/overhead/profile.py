"""Where the time of a less-forgetting step goes, beside a plain one.

In: a model, a setting, a number of losses. Out: a record. May import: clock, models, steppers, mgrad.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import inf
from time import monotonic
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.optim import AdamW

from benchmarks.overhead.clock import Parts
from benchmarks.overhead.models import Model, Setting, build
from benchmarks.overhead.steppers import OURS, REFERENCE, STEPPERS
from benchmarks.overhead.times import FEWEST
from mgrad import anchor, gathering, less_forgetting

Record = dict[str, Any]
PASSES, OPTIMIZER, REST = "passes", "optimizer", "Python"
# The functions whose time is a part's; what none of them does is Python's.
PLACES = (
    (torch.autograd, "backward", PASSES),
    (Model, "loss", PASSES),
    (less_forgetting, "shared_graphs", "capture"),
    (less_forgetting, "gramian", "Gramian"),
    (anchor, "pull_back", "anchor"),
    (less_forgetting, "solve_direction", "solver"),
    (less_forgetting, "combine", "combination"),
    (AdamW, "step", OPTIMIZER),
)
# Of a `with`, whose inside is another's.
BLOCKS = ((gathering, "capture", "capture"), (less_forgetting, "capture", "capture"))
PARTS = (PASSES, "capture", "Gramian", "anchor", "solver", "combination", REST, OPTIMIZER)


def measure(name: str, setting: Setting, losses: int, repeats: int, device: str, until: float = inf) -> Record:
    """Take plain and less-forgetting steps in turns and see what takes the time.

    The anchor's time is that of θ − θ₀, also where it is computed inside of another part. Rows of their own in place of
    one sum also change what the passes cost: their difference is part of what a less-forgetting step costs more.

    Args:
        name: of the model.
        setting: of the losses.
        losses: m.
        repeats: turns.
        device: "cpu" or "cuda".
        until: as of `times.measure`.

    Returns:
        Median seconds of the two steppers by part, and the turns.
    """
    models = {stepper: build(name, losses, setting, device) for stepper in (REFERENCE, OURS)}
    steps = {stepper: STEPPERS[stepper](model) for stepper, model in models.items()}
    taken: dict[str, list[dict[str, float]]] = {stepper: [] for stepper in steps}
    for turn in range(-2, repeats):
        if turn >= FEWEST and monotonic() > until:
            break
        for stepper, step in steps.items():
            parts = Parts(device)
            with _instruments(parts, models[stepper]), parts.part(REST):
                step()
            if turn >= 0:
                taken[stepper].append(parts.seconds)
    found = {
        stepper: {part: float(np.median([parts.get(part, 0.0) for parts in turns])) for part in PARTS}
        for stepper, turns in taken.items()
    }
    cell = {"device": device, "model": name, "setting": setting, "losses": losses}
    return {**cell, "turns": len(taken[OURS]), "plain": found[REFERENCE], "ours": found[OURS]}


@contextmanager
def _instruments(parts: Parts, model: Model) -> Iterator[None]:
    """Have the functions of `PLACES` count their time."""
    with ExitStack() as stack:
        for owner, attribute, part in (*PLACES, (model.shared, "forward", PASSES)):
            stack.enter_context(patch.object(owner, attribute, _counted(parts, part, getattr(owner, attribute))))
        for owner, attribute, part in BLOCKS:
            block = _counted_borders(parts, part, getattr(owner, attribute))
            stack.enter_context(patch.object(owner, attribute, block))
        yield


def _counted(parts: Parts, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, whose time counts for a part."""

    def counted(*args: Any, **kwargs: Any) -> Any:
        with parts.part(part):
            return function(*args, **kwargs)

    return counted


def _counted_borders(parts: Parts, part: str, block: Callable[..., Any]) -> Callable[..., Any]:
    """Return the block of a `with`, whose beginning and end count for a part, but not what is done inside."""

    @contextmanager
    def counted(*args: Any) -> Iterator[None]:
        with ExitStack() as stack:
            with parts.part(part):
                stack.enter_context(block(*args))
            yield
            with parts.part(part):
                stack.close()

    return counted
