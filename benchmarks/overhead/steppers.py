"""Training steps with AdamW: plain ones and mgrad's; those of others are in `peers`.

In: a `Model`. Out: a function that takes a step. May import: models, mgrad.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from benchmarks.overhead.models import Model, Setting
from mgrad import LessForgetting

Step = Callable[[], None]
Stepper = Callable[[Model], Step]
RATE = 1e-4


def plain(model: Model) -> Step:
    """Take m backward passes into one `.grad`: what all others are measured by."""
    opt = AdamW(model.parameters, lr=RATE)

    def step() -> None:
        opt.zero_grad()
        for loss in one_at_a_time(model):
            loss()
        opt.step()

    return step


def once(model: Model) -> Step:
    """Take one pass over all batches together, or over the sum of the losses."""
    opt = AdamW(model.parameters, lr=RATE)

    def step() -> None:
        opt.zero_grad()
        if model.has_batches:
            logits = model.together().flatten(0, 1)
            (len(model.labels) * torch.nn.functional.cross_entropy(logits, model.labels.flatten())).backward()
        else:
            sum(model.losses(), start=torch.zeros((), device=model.inputs.device)).backward()
        opt.step()

    return step


def less_forgetting(**options: Any) -> Stepper:
    """Return less-forgetting steps, with options of `LessForgetting`."""

    def start(model: Model) -> Step:
        opt = LessForgetting(AdamW(model.parameters, lr=RATE), **options)

        def step() -> None:
            opt.zero_grad()
            if model.has_batches:
                for i, loss in enumerate(one_at_a_time(model)):
                    with opt.constraint(str(i)):
                        loss()
            else:
                opt.backward(model.losses())
            opt.step()

        return step

    return start


def together(model: Model) -> Step:
    """Take a less-forgetting step from one pass over all batches together, batch norm in evaluation mode.

    Where the losses share a batch there is nothing to separate: the step is `less_forgetting`'s.
    """
    if not model.has_batches:
        return less_forgetting()(model)
    opt = LessForgetting(AdamW(model.parameters, lr=RATE))
    for module in model.shared.modules():
        module.train("BatchNorm" not in type(module).__name__)

    def step() -> None:
        opt.zero_grad()
        opt.backward(model.losses_together(), examples=[len(batch) for batch in model.inputs])
        opt.step()

    return step


def one_at_a_time(model: Model) -> list[Step]:
    """Return for each loss a function that backpropagates it, its forward pass included where that is its own."""
    if model.has_batches:
        return [lambda i=i, x=x: model.loss(model.shared(x), i).backward() for i, x in enumerate(model.inputs)]  # type: ignore[misc]
    losses: list[Tensor] = model.losses()
    last = len(losses) - 1
    return [lambda i=i, loss=loss: loss.backward(retain_graph=i < last) for i, loss in enumerate(losses)]  # type: ignore[misc]


REFERENCE = "m backward passes"
OURS = "less-forgetting"
STEPPERS: dict[str, Stepper] = {
    REFERENCE: plain,
    "one pass": once,
    OURS: less_forgetting(),
    "less-forgetting, one pass": together,
    "less-forgetting, solved on the device": less_forgetting(solver="device"),
}
SETTINGS: tuple[Setting, ...] = ("batches", "heads")
