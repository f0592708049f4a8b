"""The code of docs/recipes.md, to be run as it stands there, and the loop by hand that it is compared with."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.nn import Dropout, Module
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from mgrad import Report, constrained_direction
from tests.training import flat

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")

# Gradients of size 1 have rounding errors of some 1e-15. Adam makes steps of up to RATE/EPSILON = 0.1 times them, which
# the pull, some 15 times the distance from θ₀, doubles from one step to the next: 1e-14 in six. At the usual ε of 1e-8
# it would blow up what is 0 but for rounding, such as the gradient of a key's bias. The steps are of size 1e-3.
RATE, EPSILON = 1e-3, 1e-2
SAME: dict[str, Any] = dict(rtol=0.0, atol=1e-13)


def blocks(section: str) -> list[str]:
    """Return the Python blocks of a section; those of the page's head for an empty name."""
    sections = {part.split("\n", 1)[0]: part for part in PAGE.split("\n## ")[1:]}
    text = sections[section] if section else PAGE.split("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run(code: str, names: dict[str, Any]) -> None:
    """Run a block of the page."""
    exec(compile(code, "docs/recipes.md", "exec"), names)


def start(*, seed: int = 0, exact: bool = True) -> dict[str, Any]:
    """Return the names that the page's head defines: with float64, no dropout and EPSILON if exact, and fixed batches.

    The order is mixed, so that some batches lack a language. The data are the same for every seed; the model is not.
    """
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    run(blocks("")[0], names)
    order = torch.Generator().manual_seed(3)
    examples: Any = [names["examples"][i] for i in torch.randperm(len(names["examples"]), generator=order).tolist()]
    names["examples"] = examples
    names["loader"] = DataLoader(examples, batch_size=6, collate_fn=names["by_language"])
    torch.manual_seed(seed)
    names["model"] = type(names["model"])(names["model"].config)
    if exact:
        names["AdamW"] = partial(AdamW, eps=EPSILON)
        names["model"].double()
        for module in names["model"].modules():
            if isinstance(module, Dropout):
                module.p = 0.0
    return names


def means(model: Module, batches: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the model's own loss for each language."""
    return {language: model(**batch).loss for language, batch in batches.items()}


def by_hand(
    parameters: Sequence[Tensor],
    base: Optimizer,
    steps: Iterable[Callable[[], Mapping[str, Tensor]]],
    *,
    objective: Callable[[], Tensor] | None = None,
    new: Collection[Tensor] = (),
    clip: float = math.inf,
    schedule: LRScheduler | None = None,
) -> Iterator[Report]:
    """Train by the mathematics alone: the direction of flattened gradients, written to `.grad` of the bare base.

    Each step is a function that returns its losses; yields the report of each. What is new is not anchored.
    """
    started = [parameter.detach().clone() for parameter in parameters]
    anchored = [all(parameter is not other for other in new) for parameter in parameters]
    for losses in steps:
        named = losses()
        gradients = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in named.values()]
        pull = [(p.detach() - value) * held for p, value, held in zip(parameters, started, anchored, strict=True)]
        if objective is not None:
            apart = torch.autograd.grad(objective(), parameters, materialize_grads=True)
            pull = [one + other for one, other in zip(pull, apart, strict=True)]
        jacobian = torch.stack([flat(row) for row in gradients])
        direction, report = constrained_direction(jacobian, flat(pull), strength=0.1, scale="relative")
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, block in zip(parameters, direction.split(sizes), strict=True):
            parameter.grad = block.view_as(parameter).clone()
        clip_grad_norm_(parameters, clip)
        base.step()
        if schedule is not None:
            schedule.step()
        yield replace(report, names=tuple(named))


def assert_same(actual: Module, expected: Module) -> None:
    """The weights are the same up to rounding."""
    torch.testing.assert_close(dict(actual.named_parameters()), dict(expected.named_parameters()), **SAME)


def assert_same_figures(actual: Mapping[str, float], report: Report) -> None:
    """A log holds the figures of the report, but for the solver's own, which are rounding errors."""
    certificate = {"duality_gap", "primal_residual", "dual_residual", "complementarity"}
    expected = {name: value for name, value in report.to_dict().items() if name not in certificate}
    found = {name: float(actual[name]) for name in expected}
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)  # some logs are of float32


def scalars(folder: str) -> dict[int, dict[str, float]]:
    """Return what the event files below a folder hold, by step and name."""
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for file in Path(folder).rglob("events.*"):
        events = EventAccumulator(str(file)).Reload()
        for name in events.Tags()["scalars"]:
            for event in events.Scalars(name):
                found[event.step][name] = event.value
    return found
