"""The methods compared, as data: what each does, its strength, and the rate that it was found to do best at.

In: a base optimizer. Out: something with the calls of `LessForgetting` that the trainer makes. May import: keeping,
steppers, mgrad, torchjd.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.multilingual.keeping import Keeping, Objective
from benchmarks.multilingual.steppers import (
    Annealed,
    LowRank,
    Mixout,
    Projected,
    Start,
    Stepper,
    Summed,
    Weighted,
    freeze_lower_half,
)
from mgrad import HalfBatches, LessForgetting, MinNorm, SmoothGramian, SmoothRows


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        description: for --help.
        rates: its own learning rate, by task: the best on the sources' development templates. Of the encoder, or of the
            head where that alone is trained. Other tasks take that of the one that they are like, untuned.
        build: makes the stepper.
        strength: its default.
        frozen: the share of the steps, from the start, in which the encoder stays as it is.
        momentum: of AdamW.
        halves: whether each batch is backpropagated in two halves.
        cold: whether the head always starts from random weights, also where that of others is trained first.
        keeps: whether it needs strings of other languages.
        objective: what is backpropagated outside of the constraints, made of these strings.
        ours: whether it is less-forgetting: `LessForgetting` with an objective.
    """

    description: str
    rates: dict[str, float]
    build: Callable[[Start], Stepper]
    strength: float = 0.0
    frozen: float = 0.0
    momentum: float = 0.9
    halves: bool = False
    cold: bool = False
    keeps: bool = False
    objective: Callable[[Keeping], Objective] | None = None
    ours: bool = False


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


def _ewc(start: Start) -> Stepper:
    """Build plain fine-tuning with the penalty of EWC; F is scaled to mean 1, to have the strengths of L2-SP."""
    assert start.keeping is not None
    fisher = [torch.as_tensor(weight) for weight in start.keeping.fisher().weights(start.anchored)]
    mean = sum(float(weight.sum()) for weight in fisher) / sum(weight.numel() for weight in fisher)
    return Summed(start.base, start.anchored, start.strength, [weight / mean for weight in fisher])


def _lower_frozen(start: Start) -> Stepper:
    """Build plain fine-tuning of the upper half."""
    freeze_lower_half(start.encoder)
    return Summed(start.base, [])


def _descent(name: str) -> Callable[[Start], Stepper]:
    """Return what builds one of TorchJD's ways to put gradients together."""

    def build(start: Start) -> Stepper:
        from torchjd import aggregation  # not needed by the others

        return Weighted(start.base, getattr(aggregation, f"{name}Weighting")())

    return build


OWN = {"slots": 2e-4, "intents": 5e-5}  # the rates of `less-forgetting`, which its variants share
PLAIN = {"slots": 1e-4, "intents": 1e-4}  # those of `sum`


METHODS = {
    "probe": Method("linear probe, encoder frozen", {"slots": 1e-2, "intents": 1e-2}, _summed, frozen=1.0),
    "sum": Method("plain fine-tuning on the sum of the losses", {"slots": 1e-4, "intents": 1e-4}, _summed),
    "cold-sum": Method(
        "plain fine-tuning from a head of random weights, whatever --probe says", PLAIN, _summed, cold=True
    ),
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
    "recadam": Method(
        "plain fine-tuning, a pull to the start that fades (RecAdam)",
        PLAIN,
        lambda start: Annealed(start.base, start.anchored, start.strength, start.steps),
        strength=1000.0,
    ),
    "ewc": Method("plain fine-tuning, an L2 penalty weighed by the Fisher information", PLAIN, _ewc, 0.1, keeps=True),
    "mixout": Method(
        "plain fine-tuning, each weight the starting one with a probability, the strength",
        PLAIN,
        lambda start: Mixout(start.base, start.anchored, start.strength),
        strength=0.7,
    ),
    "lower-frozen": Method("plain fine-tuning of the upper half of the layers", PLAIN, _lower_frozen),
    "lora": Method(
        "low-rank changes of the linear layers",
        {"slots": 1e-3, "intents": 1e-3},
        lambda start: LowRank(start.base, start.encoder),
    ),
    "pcgrad": Method("PCGrad, by TorchJD", PLAIN, _descent("PCGrad")),
    "mgda": Method("MGDA, by TorchJD", PLAIN, _descent("MGDA")),
    "upgrad": Method("UPGrad, by TorchJD", PLAIN, _descent("UPGrad")),
    "pcd": Method("PCD, by TorchJD, the first source is the primary objective", PLAIN, _descent("PCD")),
    "pcd-replay": Method(
        "PCD, by TorchJD, the loss of `replay` is the primary objective",
        PLAIN,
        _descent("PCD"),
        keeps=True,
        objective=Keeping.translation,
    ),
    "gem": Method(
        "the sum's gradient less its part against that of the loss of `replay` (GEM with one memory)",
        PLAIN,
        lambda start: Projected(start.base),
        keeps=True,
        objective=Keeping.translation,
    ),
    "less-forgetting": Method(
        "mgrad.LessForgetting, KeepPace, relative strength",
        OWN,
        _ours(),
        strength=0.1,
        ours=True,
    ),
    "min-norm": Method(
        "mgrad.LessForgetting, MinNorm, relative strength",
        {"slots": 2e-4, "intents": 2e-4},
        _ours(decrease=MinNorm()),
        strength=0.1,
        ours=True,
    ),
    "smooth-rows": Method(
        "less-forgetting with noise=SmoothRows(), AdamW without momentum",
        OWN,
        _ours(noise=SmoothRows()),
        strength=0.1,
        momentum=0.0,
        ours=True,
    ),
    "smooth-gramian": Method(
        "less-forgetting with noise=SmoothGramian()",
        OWN,
        _ours(noise=SmoothGramian()),
        strength=0.1,
        ours=True,
    ),
    "half-batches": Method(
        "less-forgetting with noise=HalfBatches()",
        OWN,
        _ours(noise=HalfBatches()),
        strength=0.1,
        halves=True,
        ours=True,
    ),
    "by-gradient": Method(
        'less-forgetting with normalise="gradient"',
        OWN,
        _ours(normalise="gradient"),
        strength=0.1,
        ours=True,
    ),
    "by-gradient-distillation": Method(
        "by-gradient, less forgetting of what strings of other languages are encoded as",
        OWN,
        _ours(anchor=None, normalise="gradient"),
        strength=0.1,
        keeps=True,
        objective=Keeping.distillation,
        ours=True,
    ),
    "by-gradient-replay": Method(
        "by-gradient, less forgetting of how strings of other languages are translated",
        PLAIN,
        _ours(anchor=None, normalise="gradient"),
        strength=0.5,
        keeps=True,
        objective=Keeping.translation,
        ours=True,
    ),
    "by-loss": Method(
        'less-forgetting with normalise="loss"',
        OWN,
        _ours(normalise="loss"),
        strength=0.1,
        ours=True,
    ),
    "enforced": Method(
        'less-forgetting with enforce="step", metric="base"',
        OWN,
        _ours(enforce="step", metric="base"),
        strength=0.1,
        ours=True,
    ),
    "fisher": Method(
        "less-forgetting with a FisherAnchor",
        OWN,
        _fisher,
        strength=0.1,
        keeps=True,
        ours=True,
    ),
    "distillation": Method(
        "less-forgetting of what strings of other languages are encoded as",
        OWN,
        _ours(anchor=None),
        strength=0.1,
        keeps=True,
        objective=Keeping.distillation,
        ours=True,
    ),
    "replay": Method(
        "less-forgetting of how strings of other languages are translated",
        {"slots": 2e-4, "intents": 1e-4},
        _ours(anchor=None),
        strength=0.1,
        keeps=True,
        objective=Keeping.translation,
        ours=True,
    ),
}
