"""What the tests of the optimizer share: bases, a small model with losses that conflict, training, equality of bits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Linear, Module, Sequential, Tanh
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from mgrad import LessForgetting, constrained_direction

Base = Callable[[Any], Optimizer]

BASES: dict[str, Base] = {
    "SGD": partial(SGD, lr=0.1),
    "SGD-momentum": partial(SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": partial(Adam, lr=0.01),
    "AdamW": partial(AdamW, lr=0.01),
    "AdamW-foreach": partial(AdamW, lr=0.01, foreach=True),
    "AdamW-fused": partial(AdamW, lr=0.01, fused=True),
    "AdamW-amsgrad": partial(AdamW, lr=0.01, amsgrad=True),
    "RMSprop": partial(RMSprop, lr=0.01, momentum=0.9, centered=True),
    "Adagrad": partial(Adagrad, lr=0.1),
}
every_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


def new_model(seed: int = 0) -> Sequential:
    """Return a small network in float64."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # the same numbers on every device
        torch.manual_seed(seed)
        model = Sequential(Linear(3, 4), Tanh(), Linear(4, 1)).double()
    return model.to(torch.get_default_device())


def losses(model: Module, step: int) -> dict[str, Tensor]:
    """Return three regressions on the batch of a step, each with a graph of its own; "en" and "de" contradict."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    targets = {"en": x[:, :1], "de": x[:, 1:2] - x[:, :1], "fr": x[:, 2:]}
    return {name: (model(x) - target).square().mean() for name, target in targets.items()}


def objective(model: Module) -> Tensor:
    """Return a forgetting loss, or any loss for a plain backward outside of the blocks."""
    answers: Tensor = model(torch.ones(2, 3, dtype=torch.float64))
    return answers.square().sum()


def flat(blocks: Iterable[Tensor]) -> Tensor:
    """Return all values in one row of float64."""
    return torch.cat([block.detach().double().reshape(-1) for block in blocks])


def set_direction(
    parameters: Sequence[Tensor], losses: Iterable[Tensor], start: Iterable[Tensor], **options: Any
) -> None:
    """Write to `.grad` the direction by the mathematics alone: from stacked gradients, with the pull θ − θ₀."""
    found = list(losses)
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True) for loss in found]
    J, pull = torch.stack([flat(row) for row in rows]), flat(parameters) - flat(start)
    values = [loss.item() for loss in found]
    d, _ = constrained_direction(J, pull, losses=values, scale="relative", **options)
    for p, part in zip(parameters, d.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p).to(p.dtype, copy=True)


def train(model: Module, opt: LessForgetting, steps: Iterable[int]) -> None:
    """Take the steps, each with its own batch."""
    for step in steps:
        opt.zero_grad()
        opt.backward(losses(model, step))
        opt.step()


def weights(model: Module) -> list[Tensor]:
    """Return copies of the parameters."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def gradients(model: Module) -> list[Tensor | None]:
    """Return copies of `.grad`."""
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]


def assert_identical(actual: Any, expected: Any, path: str = "") -> None:
    """Compare tensors bit for bit, in whatever dicts and lists they are."""
    assert type(actual) is type(expected), path
    if isinstance(expected, Tensor):
        assert actual.dtype == expected.dtype, path
        assert torch.equal(actual, expected), path
    elif isinstance(expected, Mapping):
        assert list(actual) == list(expected), path
        for key in expected:
            assert_identical(actual[key], expected[key], f"{path}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), path
        for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_identical(one, other, f"{path}[{i}]")
    else:
        assert actual == expected, path
