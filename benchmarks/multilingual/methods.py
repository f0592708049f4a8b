"""The methods compared, as data: what each does, its strength, and the rate that it was found to do best at.

In: a base optimizer. Out: something with the four calls of `LessForgetting` that the trainer makes. May import: mgrad.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.optim import Optimizer

from mgrad import LessForgetting, MinNorm, Report


class Stepper(Protocol):
    """What the trainer calls, in this order, at every step."""

    def zero_grad(self) -> None:
        """Forget the last step's gradients."""

    def constraint(self, name: str) -> AbstractContextManager[None]:
        """Return the block in which one language's loss is backpropagated."""

    def solve(self) -> Report | None:
        """Make the gradients ready."""

    def step(self) -> object:
        """Take the step."""


class Summed:
    """Plain fine-tuning on the sum of the losses, with a pull back to the start.

    Args:
        base: the optimizer.
        anchored: the parameters that are pulled.
        strength: of the penalty strength/2·‖θ − θ₀‖²; 0 for none.
    """

    def __init__(self, base: Optimizer, anchored: Sequence[Tensor], strength: float = 0.0) -> None:
        self.strength = strength
        self.start = [(parameter, parameter.detach().clone()) for parameter in anchored if strength]
        self.zero_grad = base.zero_grad
        self.step = base.step

    def constraint(self, name: str) -> AbstractContextManager[None]:
        """Let the gradients add up."""
        return nullcontext()

    def solve(self) -> None:
        """Add the gradient of the penalty."""
        for parameter, start in self.start:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self.strength)


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        description: for --help.
        rates: its own learning rate, by task: the best on the sources' development templates. Of the encoder, or of the
            head where that alone is trained.
        build: makes the stepper of a base optimizer, the anchored parameters and a strength.
        strength: its default.
        frozen: the share of the steps, from the start, in which the encoder stays as it is.
    """

    description: str
    rates: dict[str, float]
    build: Callable[[Optimizer, Sequence[Tensor], float], Stepper]
    strength: float = 0.0
    frozen: float = 0.0


METHODS = {
    "probe": Method("linear probe, encoder frozen", {"slots": 1e-2, "intents": 1e-2}, Summed, frozen=1.0),
    "sum": Method("plain fine-tuning on the sum of the losses", {"slots": 1e-4, "intents": 1e-4}, Summed),
    "probe-sum": Method(
        "linear probe for a third of the steps, then plain fine-tuning",
        {"slots": 1e-4, "intents": 1e-4},
        Summed,
        frozen=1 / 3,
    ),
    "l2sp": Method(
        "plain fine-tuning with an L2 penalty to the start", {"slots": 1e-4, "intents": 5e-5}, Summed, strength=0.1
    ),
    "less-forgetting": Method(
        "mgrad.LessForgetting, KeepPace, relative strength",
        {"slots": 2e-4, "intents": 5e-5},
        lambda base, _, strength: LessForgetting(base, strength=strength),
        strength=0.1,
    ),
    "min-norm": Method(
        "mgrad.LessForgetting, MinNorm, relative strength",
        {"slots": 2e-4, "intents": 2e-4},
        lambda base, _, strength: LessForgetting(base, decrease=MinNorm(), strength=strength),
        strength=0.1,
    ),
}
