"""The methods compared, as data: what each does, its strength, and the rate that it was found to do best at.

In: a base optimizer. Out: something with the four calls of `LessForgetting` that the trainer makes. May import:
keeping, mgrad.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor
from torch.optim import Optimizer

from benchmarks.multilingual.keeping import Keeping, Objective
from mgrad import HalfBatches, LessForgetting, MinNorm, Report, SmoothGramian, SmoothRows


class Stepper(Protocol):
    """What the trainer calls, in this order, at every step."""

    def zero_grad(self) -> None:
        """Forget the last step's gradients."""

    def constraint(self, name: str) -> AbstractContextManager[None]:
        """Return the block in which one language's loss is backpropagated."""

    def solve(self, losses: Mapping[str, float]) -> Report | None:
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

    def solve(self, losses: Mapping[str, float]) -> None:
        """Add the gradient of the penalty."""
        for parameter, start in self.start:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self.strength)


class Start(NamedTuple):
    """What a stepper is built from.

    Attributes:
        base: the optimizer.
        anchored: the parameters that are pulled.
        strength: of the pull.
        keeping: what knowledge is kept by, where the method asks for it.
    """

    base: Optimizer
    anchored: Sequence[Tensor]
    strength: float
    keeping: Keeping | None


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        description: for --help.
        rates: its own learning rate, by task: the best on the sources' development templates. Of the encoder, or of the
            head where that alone is trained.
        build: makes the stepper.
        strength: its default.
        frozen: the share of the steps, from the start, in which the encoder stays as it is.
        momentum: of AdamW.
        halves: whether each batch is backpropagated in two halves.
        keeps: whether it needs strings of other languages.
        objective: what is backpropagated outside of the constraints, made of these strings.
    """

    description: str
    rates: dict[str, float]
    build: Callable[[Start], Stepper]
    strength: float = 0.0
    frozen: float = 0.0
    momentum: float = 0.9
    halves: bool = False
    keeps: bool = False
    objective: Callable[[Keeping], Objective] | None = None


def _summed(start: Start) -> Stepper:
    """Build plain fine-tuning."""
    return Summed(start.base, start.anchored, start.strength)


def _ours(**options: Any) -> Callable[[Start], Stepper]:
    """Return what builds `LessForgetting` with some options."""
    return lambda start: LessForgetting(start.base, strength=start.strength, **options)


def _fisher(start: Start) -> Stepper:
    """Build `LessForgetting` with the Fisher information of what is to be kept."""
    assert start.keeping is not None
    return LessForgetting(start.base, strength=start.strength, anchor=start.keeping.fisher())


OWN = {"slots": 2e-4, "intents": 5e-5}  # the rates of `less-forgetting`, which its variants share


METHODS = {
    "probe": Method("linear probe, encoder frozen", {"slots": 1e-2, "intents": 1e-2}, _summed, frozen=1.0),
    "sum": Method("plain fine-tuning on the sum of the losses", {"slots": 1e-4, "intents": 1e-4}, _summed),
    "probe-sum": Method(
        "linear probe for a third of the steps, then plain fine-tuning",
        {"slots": 1e-4, "intents": 1e-4},
        _summed,
        frozen=1 / 3,
    ),
    "l2sp": Method(
        "plain fine-tuning with an L2 penalty to the start", {"slots": 1e-4, "intents": 5e-5}, _summed, strength=0.1
    ),
    "sum-distillation": Method(
        "plain fine-tuning on the sum of the losses and of what the distillation of `distillation` asks",
        {"slots": 1e-4, "intents": 1e-4},
        _summed,
        keeps=True,
        objective=Keeping.distillation,
    ),
    "sum-replay": Method(
        "plain fine-tuning on the sum of the losses and of that of `replay`",
        {"slots": 1e-4, "intents": 1e-4},
        _summed,
        keeps=True,
        objective=Keeping.translation,
    ),
    "normalised-sum": Method(
        "plain fine-tuning on the sum of the losses, each gradient scaled to length 1, less its conflicts",
        {"slots": 2e-4, "intents": 1e-4},
        _ours(anchor=None, normalise="gradient"),
    ),
    "less-forgetting": Method(
        "mgrad.LessForgetting, KeepPace, relative strength",
        OWN,
        _ours(),
        strength=0.1,
    ),
    "min-norm": Method(
        "mgrad.LessForgetting, MinNorm, relative strength",
        {"slots": 2e-4, "intents": 2e-4},
        _ours(decrease=MinNorm()),
        strength=0.1,
    ),
    "smooth-rows": Method(
        "less-forgetting with noise=SmoothRows(), AdamW without momentum",
        OWN,
        _ours(noise=SmoothRows()),
        strength=0.1,
        momentum=0.0,
    ),
    "smooth-gramian": Method(
        "less-forgetting with noise=SmoothGramian()", OWN, _ours(noise=SmoothGramian()), strength=0.1
    ),
    "half-batches": Method(
        "less-forgetting with noise=HalfBatches()", OWN, _ours(noise=HalfBatches()), strength=0.1, halves=True
    ),
    "by-gradient": Method('less-forgetting with normalise="gradient"', OWN, _ours(normalise="gradient"), strength=0.1),
    "by-gradient-distillation": Method(
        "by-gradient, less forgetting of what strings of other languages are encoded as",
        OWN,
        _ours(anchor=None, normalise="gradient"),
        strength=0.1,
        keeps=True,
        objective=Keeping.distillation,
    ),
    "by-gradient-replay": Method(
        "by-gradient, less forgetting of how strings of other languages are translated",
        {"slots": 2e-4, "intents": 1e-4},
        _ours(anchor=None, normalise="gradient"),
        strength=0.5,
        keeps=True,
        objective=Keeping.translation,
    ),
    "by-loss": Method('less-forgetting with normalise="loss"', OWN, _ours(normalise="loss"), strength=0.1),
    "enforced": Method(
        'less-forgetting with enforce="step", metric="base"', OWN, _ours(enforce="step", metric="base"), strength=0.1
    ),
    "fisher": Method("less-forgetting with a FisherAnchor", OWN, _fisher, strength=0.1, keeps=True),
    "distillation": Method(
        "less-forgetting of what strings of other languages are encoded as",
        OWN,
        _ours(anchor=None),
        strength=0.1,
        keeps=True,
        objective=Keeping.distillation,
    ),
    "replay": Method(
        "less-forgetting of how strings of other languages are translated",
        OWN,
        _ours(anchor=None),
        strength=0.1,
        keeps=True,
        objective=Keeping.translation,
    ),
}
