"""Every optimizer of torch.optim as base: with one loss as if it were not wrapped, with several along the direction."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mgrad import LessForgetting
from tests.training import flat, set_direction

pytestmark = pytest.mark.any_device

REFUSED = {
    "SparseAdam": "takes sparse gradients alone, and a direction is dense",
}
CLASSES: dict[str, Callable[..., Optimizer]] = {
    name: kind
    for name, kind in inspect.getmembers(torch.optim, inspect.isclass)
    if issubclass(kind, Optimizer) and kind is not Optimizer
}
USABLE = sorted(set(CLASSES) - set(REFUSED))
STEPS = 6


def matrices(seed: int = 0) -> list[nn.Parameter]:
    """Return parameters that every optimizer takes: Muon wants matrices."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (3, 4), (2, 2)]
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]


def losses(parameters: list[nn.Parameter], step: int, count: int) -> list[Tensor]:
    """Return losses of a step, with other data at each."""
    first, second, third = parameters
    generator = torch.Generator().manual_seed(100 + step)
    found = []
    for _ in range(count):
        x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        y = torch.randn(5, 4, generator=generator, dtype=torch.float64)
        found.append((torch.tanh(x @ first.T) @ second.T @ first.T - y).square().mean() + (third - 1).square().mean())
    return found


def take(opt: Optimizer, backward: Callable[[], Tensor]) -> None:
    """Take a step: by a closure where the optimizer wants one."""

    def closure() -> float:
        opt.zero_grad()
        return backward().item()

    if isinstance(opt, torch.optim.LBFGS) or (
        isinstance(opt, LessForgetting) and isinstance(opt.base, torch.optim.LBFGS)
    ):
        opt.step(closure)
    else:
        closure()
        opt.step()


def path(parameters: list[nn.Parameter], opt: Optimizer, backward: Callable[[int], Tensor]) -> Iterator[Tensor]:
    """Yield the parameters after each step."""
    for step in range(STEPS):
        take(opt, partial(backward, step))
        yield flat(parameters)


@pytest.mark.parametrize("name", USABLE)
def test_one_loss_without_pull_is_as_if_the_optimizer_were_not_wrapped(name: str) -> None:
    bare, wrapped = matrices(), matrices()
    base = CLASSES[name](bare, lr=1e-2)
    opt = LessForgetting(CLASSES[name](wrapped, lr=1e-2), anchor=None, strength=0.0)

    def plain(step: int) -> Tensor:
        (loss,) = losses(bare, step, 1)
        loss.backward()
        return loss

    def ours(step: int) -> Tensor:
        (loss,) = losses(wrapped, step, 1)
        opt.backward([loss])
        return loss

    start = flat(matrices())
    for expected, found in zip(path(bare, base, plain), path(wrapped, opt, ours), strict=True):
        assert torch.equal(found, expected)
        assert not torch.equal(found, start)


@pytest.mark.parametrize("name", USABLE)
def test_several_losses_are_the_bare_optimizer_along_the_direction(name: str) -> None:
    bare, wrapped = matrices(), matrices()
    base = CLASSES[name](bare, lr=1e-2)
    opt = LessForgetting(CLASSES[name](wrapped, lr=1e-2), strength=0.3)
    start = [p.detach().clone() for p in bare]

    def by_hand(step: int) -> Tensor:
        found = losses(bare, step, 3)
        set_direction(bare, found, start, strength=0.3)
        return sum(found, start=torch.zeros(()))

    def ours(step: int) -> Tensor:
        found = losses(wrapped, step, 3)
        opt.backward(found)
        return sum(found, start=torch.zeros(()))

    for expected, found in zip(path(bare, base, by_hand), path(wrapped, opt, ours), strict=True):
        # Rounding of the direction, 1e-15 of it, grows where a step divides by the gradient's own size.
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in USABLE if name != "LBFGS"])  # which has tests of its own
def test_a_closure_that_returns_the_losses_is_backward_and_step(name: str) -> None:
    one, other = matrices(), matrices()
    first, second = (LessForgetting(CLASSES[name](parameters, lr=1e-2), strength=0.3) for parameters in (one, other))
    for step in range(STEPS):
        first.step(partial(losses, one, step, 3))
        second.zero_grad()
        second.backward(losses(other, step, 3))
        second.step()
        assert all(torch.equal(p, q) for p, q in zip(one, other, strict=True))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_work_says_so_and_changes_nothing(name: str) -> None:
    parameters = matrices()
    before = [p.detach().clone() for p in parameters]
    opt: Any = LessForgetting(CLASSES[name](parameters, lr=1e-2))
    opt.backward(losses(parameters, 0, 2))
    with pytest.raises(RuntimeError, match="does not support dense gradients"):
        opt.step()
    assert all(torch.equal(p.detach(), b) for p, b in zip(parameters, before, strict=True))
