"""Optimizers of pytorch-optimizer and schedulefree as base: as if not wrapped with one loss, along d with several."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import pytorch_optimizer
import schedulefree
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mgrad import LessForgetting
from tests.test_every_optimizer import STEPS, losses, matrices
from tests.training import flat, set_direction

pytestmark = pytest.mark.any_device

Build = Callable[[list[nn.Parameter]], Optimizer]


def theirs(name: str, **options: Any) -> Build:
    """Return one of pytorch-optimizer by its name, with a rate where it has one."""
    kind = getattr(pytorch_optimizer, name)
    rate = {"lr": 1e-2} if "lr" in inspect.signature(kind).parameters else {}
    return lambda parameters: kind(parameters, **rate, **options)


def momentum(parameters: list[nn.Parameter]) -> Optimizer:
    """Return a base for optimizers around an optimizer."""
    return torch.optim.SGD(parameters, lr=1e-2, momentum=0.9)


def muon_and_adam(name: str) -> Build:
    """Return one that wants to be told of each group whether it is for matrices."""
    kind = getattr(pytorch_optimizer, name)

    def build(parameters: list[nn.Parameter]) -> Optimizer:
        groups = [{"params": parameters[:2], "use_muon": True}, {"params": parameters[2:], "use_muon": False}]
        made: Optimizer = kind(groups, lr=1e-2)
        return made

    return build


def around_momentum(name: str) -> Build:
    """Return one that is around another."""
    kind = getattr(pytorch_optimizer, name)
    return lambda parameters: kind(momentum(parameters))


SAMPLE = [
    "ADOPT",
    "AdEMAMix",
    "AdaBelief",
    "AdaBound",
    "AdaFactor",
    "Adan",
    "AdamP",
    "AdamS",
    "CAME",
    "Conda",
    "DAdaptAdam",
    "DAdaptLion",
    "FTRL",
    "Fromage",
    "GaLore",
    "Grams",
    "Kate",
    "Kron",
    "LARS",
    "Lamb",
    "LaProp",
    "Lion",
    "MADGRAD",
    "MARS",
    "NAdam",
    "NovoGrad",
    "Prodigy",
    "QHAdam",
    "RAdam",
    "Ranger",
    "SGDW",
    "SM3",
    "SOAP",
    "SPAM",
    "ScheduleFreeAdamW",
    "SignSGD",
    "SimplifiedAdEMAMix",
    "StableAdamW",
    "Tiger",
    "Yogi",
]
USABLE: dict[str, Build] = {
    **{name: theirs(name) for name in SAMPLE},
    "AdaMuon": muon_and_adam("AdaMuon"),
    "Muon": muon_and_adam("Muon"),
    "Ranger21": theirs("Ranger21", num_iterations=STEPS),
    **{
        name: partial(getattr(schedulefree, name), lr=1e-2)
        for name in ("AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree")
    },
    **{name: around_momentum(name) for name in ("Lookahead", "OrthoGrad", "TRAC")},
}


def train(opt: Any) -> None:
    """Let a schedule-free optimizer be in its mode for training."""
    if hasattr(opt, "train"):
        opt.train()


def path(parameters: list[nn.Parameter], opt: Optimizer, backward: Callable[[int], object]) -> list[Tensor]:
    """Return the parameters after each step; some optimizers draw random numbers, of torch or of NumPy."""
    points = []
    with torch.random.fork_rng(devices=[]), patch("numpy.random.random", np.random.default_rng(0).random):
        torch.manual_seed(0)
        for step in range(STEPS):
            opt.zero_grad()
            backward(step)
            opt.step()
            points.append(flat(parameters))
    return points


@pytest.mark.parametrize("name", sorted(USABLE))
def test_one_loss_without_pull_is_as_if_the_optimizer_were_not_wrapped(name: str) -> None:
    bare, wrapped = matrices(), matrices()
    base, opt = USABLE[name](bare), LessForgetting(USABLE[name](wrapped), anchor=None, strength=0.0)
    train(base)
    train(opt.base)
    expected = path(bare, base, lambda step: losses(bare, step, 1)[0].backward())
    found = path(wrapped, opt, lambda step: opt.backward(losses(wrapped, step, 1)))
    start = flat(matrices())
    for here, there in zip(found, expected, strict=True):
        assert torch.equal(here, there)
    assert not torch.equal(found[-1], start)


@pytest.mark.parametrize("name", sorted(USABLE))
def test_several_losses_are_the_bare_optimizer_along_the_direction(name: str) -> None:
    bare, wrapped = matrices(), matrices()
    base, opt = USABLE[name](bare), LessForgetting(USABLE[name](wrapped), strength=0.3)
    train(base)
    train(opt.base)
    start = [p.detach().clone() for p in bare]

    def by_hand(step: int) -> None:
        set_direction(bare, losses(bare, step, 3), start, strength=0.3)

    expected = path(bare, base, by_hand)
    found = path(wrapped, opt, lambda step: opt.backward(losses(wrapped, step, 3)))
    for here, there in zip(found, expected, strict=True):
        # Rounding of the direction, 1e-15 of it, grows where a step divides by the gradient's own size.
        close = 1e-7 if name == "Kron" else 1e-9  # whose preconditioner is of float32
        torch.testing.assert_close(here, there, rtol=close, atol=close)


def test_sharpness_is_that_of_the_direction() -> None:
    """SAM evaluates twice in a step, the second time where the first has led it: each time d is solved for."""
    bare, wrapped = matrices(), matrices()
    base = pytorch_optimizer.SAM(bare, torch.optim.SGD, lr=1e-2)
    opt = LessForgetting(pytorch_optimizer.SAM(wrapped, torch.optim.SGD, lr=1e-2), anchor=None, strength=0.0)

    def plain(step: int) -> None:
        base.zero_grad()
        losses(bare, step, 1)[0].backward()

    def ours(step: int) -> None:
        opt.zero_grad()
        opt.backward(losses(wrapped, step, 1))

    for step in range(STEPS):
        plain(step)
        base.step(partial(plain, step))
        ours(step)
        opt.step(partial(ours, step))
        assert all(torch.equal(p, q) for p, q in zip(wrapped, bare, strict=True))


@pytest.mark.parametrize("around", [schedulefree.ScheduleFreeWrapper, pytorch_optimizer.Lookahead])
def test_an_optimizer_around_an_optimizer_may_be_around_this_one(around: Callable[[Optimizer], Any]) -> None:
    bare, wrapped = matrices(), matrices()
    opt = LessForgetting(momentum(wrapped), anchor=None, strength=0.0)
    base, outside = around(momentum(bare)), around(opt)
    train(base)
    train(outside)
    for step in range(STEPS):
        base.zero_grad()
        losses(bare, step, 1)[0].backward()
        base.step()
        opt.zero_grad()
        opt.backward(losses(wrapped, step, 1))
        outside.step()
    assert all(torch.equal(p, q) for p, q in zip(wrapped, bare, strict=True))


# ---------------------------------------------------------------------- what cannot work, and why


@pytest.mark.parametrize("name", ["AdaHessian", "SophiaH"])
def test_a_hessian_of_the_direction_is_not_to_be_had(name: str) -> None:
    """They differentiate the gradient once more, and a direction has no graph."""
    parameters = matrices()
    before = [p.detach().clone() for p in parameters]
    opt = LessForgetting(theirs(name)(parameters))
    opt.backward(losses(parameters, 0, 2))
    with pytest.raises(RuntimeError, match="does not require grad"):
        opt.step()
    assert all(torch.equal(p.detach(), b) for p, b in zip(parameters, before, strict=True))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("LOMO", ValueError, "must find a gradient. Found none"),
        ("AdaLOMO", NotImplementedError, "^$"),
    ],  # it has no step
)
def test_an_optimizer_inside_the_backward_pass_has_nothing_to_wrap(
    name: str, error: type[Exception], message: str
) -> None:
    """It steps gradient by gradient while they come: there never is a whole row."""
    model = nn.Sequential(nn.Linear(2, 2))
    opt = LessForgetting(getattr(pytorch_optimizer, name)(model, lr=1e-2))
    with pytest.raises(error, match=message):
        opt.backward([model(torch.ones(2)).sum()])
        opt.step()


def test_what_is_no_optimizer_is_refused() -> None:
    base: Any = schedulefree.ScheduleFreeWrapper(momentum(matrices()))
    with pytest.raises(TypeError, match=r"must be an instance of torch\.optim\.Optimizer\. Found ScheduleFreeWrapper"):
        LessForgetting(base)
