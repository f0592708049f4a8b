"""What takes the steps of the methods that `LessForgetting` is compared with.

In: a base optimizer. Out: something with the calls of `LessForgetting` that the trainer makes. May import: keeping,
mgrad, torchjd.
"""

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.multilingual.keeping import Keeping
from mgrad import Report

RANK, ALPHA = 8, 16.0  # of the low-rank factors
_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")  # where a parameter's name says its layer


class Stepper(Protocol):
    """What the trainer calls, in this order, at every step; and to go on from a checkpoint.

    Attributes:
        base: the optimizer whose learning rates the trainer sets.
    """

    base: Optimizer

    def zero_grad(self) -> None:
        """Forget the last step's gradients."""

    def constraint(self, name: str) -> AbstractContextManager[None]:
        """Return the block in which one language's loss is backpropagated."""

    def solve(self, losses: Mapping[str, float]) -> Report | None:
        """Make the gradients ready."""

    def step(self) -> object:
        """Take the step."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on, the weights apart."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, with a stepper that was built of the same start."""


class Start(NamedTuple):
    """What a stepper is built from.

    Attributes:
        base: the optimizer, of two groups: the encoder and the head.
        anchored: the parameters that are pulled.
        strength: of the pull.
        keeping: what knowledge is kept by, where the method asks for it.
        encoder: that is trained.
        steps: that will be taken.
    """

    base: Optimizer
    anchored: Sequence[Tensor]
    strength: float
    keeping: Keeping | None
    encoder: nn.Module
    steps: int


class Summed:
    """Plain fine-tuning on the sum of the losses, with a pull back to the start.

    Args:
        base: the optimizer.
        anchored: the parameters that are pulled.
        strength: of the penalty strength/2·Σ F(θ − θ₀)²; 0 for none.
        weights: F, 1 if not given.
    """

    def __init__(
        self,
        base: Optimizer,
        anchored: Sequence[Tensor],
        strength: float = 0.0,
        weights: Sequence[Tensor | float] | None = None,
    ) -> None:
        self.base, self.strength = base, strength
        of = [1.0] * len(anchored) if weights is None else weights
        pulled = zip(anchored, of, strict=True) if strength else ()
        self.start = [(parameter, parameter.detach().clone(), weight) for parameter, weight in pulled]

    def zero_grad(self) -> None:
        """Forget the last step's gradients."""
        self.base.zero_grad()

    def constraint(self, name: str) -> AbstractContextManager[None]:
        """Let the gradients add up."""
        return nullcontext()

    def solve(self, losses: Mapping[str, float]) -> None:
        """Add the gradient of the penalty."""
        for parameter, start, weight in self.start:
            if parameter.grad is not None:
                parameter.grad.add_((parameter.detach() - start) * weight, alpha=self.strength)

    def step(self) -> None:
        """Take the base's step."""
        self.base.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the base's state."""
        self.base.load_state_dict(state_dict)


class Annealed(Summed):
    """RecAdam: a step of the base, and one back to the start that fades, in the shares λ and 1 − λ.

    λ = 1/(1 + exp(−k(t − t₀))) at step t; θ ← θ + λ·(the base's step) − (1 − λ)·rate·strength·(θ − θ₀). What is not
    anchored takes the base's step. Here t₀ is a quarter of the steps and k = 20 / steps.

    Source: Chen et al. 2020, Recall and learn.
    """

    def __init__(self, base: Optimizer, anchored: Sequence[Tensor], strength: float, steps: int) -> None:
        super().__init__(base, anchored, strength)
        self.steps, self.taken = steps, 0

    def solve(self, losses: Mapping[str, float]) -> None:
        """Leave the gradients as they are: the penalty is no part of the loss."""

    @torch.no_grad()
    def step(self) -> None:
        """Take the two steps."""
        share = 1 / (1 + math.exp(-20 * (self.taken / self.steps - 0.25)))
        rate = self.base.param_groups[0]["lr"]
        before = [parameter.detach().clone() for parameter, _, _ in self.start]
        self.base.step()
        for (parameter, start, _), old in zip(self.start, before, strict=True):
            parameter.copy_(old + share * (parameter - old) - (1 - share) * rate * self.strength * (old - start))
        self.taken += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state and the number of steps taken."""
        return super().state_dict() | {"taken": self.taken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load both."""
        self.taken = state_dict["taken"]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "taken"})


class Mixout(Summed):
    """Gradients at weights of which each is, with probability p, the starting one: θ₀ + (1 − mask)(θ − θ₀)/(1 − p).

    One mask for a step, the same for all languages.

    Source: Lee et al. 2020, Mixout.
    """

    def __init__(self, base: Optimizer, anchored: Sequence[Tensor], probability: float) -> None:
        super().__init__(base, anchored, probability)
        self.masks: list[tuple[Tensor, Tensor]] = []  # how much of θ − θ₀ is left, and θ

    @torch.no_grad()
    def zero_grad(self) -> None:
        """Forget the last step's gradients and draw the mixture."""
        super().zero_grad()
        for parameter, start, _ in self.start:
            left = (torch.rand_like(parameter) >= self.strength).to(parameter) / (1 - self.strength)
            self.masks.append((left, parameter.detach().clone()))
            parameter.copy_(start + left * (parameter - start))

    @torch.no_grad()
    def solve(self, losses: Mapping[str, float]) -> None:
        """Bring the weights back, and the gradients to them."""
        for (parameter, _, _), (left, weights) in zip(self.start, self.masks, strict=True):
            parameter.copy_(weights)
            if parameter.grad is not None:
                parameter.grad.mul_(left)
        self.masks.clear()


class LowRank(Summed):
    """LoRA: of the encoder only B and A are trained, in W = W₀ + (alpha/rank)·B A for the weight of each linear layer.

    The weights are kept as a whole, and the gradients of B and A are taken from theirs: steps are those of LoRA, time
    and memory are not.

    Source: Hu et al. 2022, LoRA.
    """

    def __init__(self, base: Optimizer, encoder: nn.Module) -> None:
        matrices = [module.weight for module in encoder.modules() if isinstance(module, nn.Linear)]
        group = base.param_groups[0]
        for parameter in group["params"]:
            parameter.requires_grad_(any(parameter is matrix for matrix in matrices))
        self.factors = []
        for matrix in matrices:
            down = nn.Parameter(torch.empty(RANK, matrix.shape[1], device=matrix.device))
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            up = nn.Parameter(torch.zeros(matrix.shape[0], RANK, device=matrix.device))
            self.factors.append((matrix, matrix.detach().clone(), up, down))
        group["params"] = [factor for _, _, *pair in self.factors for factor in pair]
        super().__init__(base, [])

    def zero_grad(self) -> None:
        """Forget the last step's gradients, those of the whole weights too."""
        super().zero_grad()
        for matrix, *_ in self.factors:
            matrix.grad = None

    @torch.no_grad()
    def solve(self, losses: Mapping[str, float]) -> None:
        """Give the factors their gradients, by the chain rule."""
        scale = ALPHA / RANK
        for matrix, _, up, down in self.factors:
            if matrix.grad is not None:
                up.grad = scale * matrix.grad @ down.T
                down.grad = scale * up.T @ matrix.grad

    @torch.no_grad()
    def step(self) -> None:
        """Step on the factors and write the weights anew."""
        super().step()
        for matrix, start, up, down in self.factors:
            matrix.copy_(start + ALPHA / RANK * up @ down)

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state and the factors."""
        return super().state_dict() | {"factors": [(up.detach(), down.detach()) for _, _, up, down in self.factors]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load both."""
        for (_, _, up, down), (saved_up, saved_down) in zip(self.factors, state_dict["factors"], strict=True):
            up.copy_(saved_up)
            down.copy_(saved_down)
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "factors"})


class Separate(Summed):
    """Gradients of the languages that are kept apart until they are put together."""

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base, [])
        self.parameters = [parameter for group in base.param_groups for parameter in group["params"]]
        self.rows: dict[str, list[Tensor]] = {}

    @contextmanager
    def constraint(self, name: str) -> Iterator[None]:
        """Take the gradients that appear in the block as a row."""
        yield
        self.rows[name] = self.outside()
        self.base.zero_grad()

    def outside(self) -> list[Tensor]:
        """Return the gradients that are there now, nothing if there is none."""
        if all(p.grad is None for p in self.parameters):
            return []
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]

    def combine(self, weights: Sequence[float]) -> None:
        """Make the weighted sum of the rows the gradient, and forget the rows."""
        for parameter, first, *others in zip(self.parameters, *self.rows.values(), strict=True):
            parameter.grad = first.mul_(weights[0])
            for weight, other in zip(weights[1:], others, strict=True):
                first.add_(other, alpha=weight)
        self.rows.clear()


class Weighted(Separate):
    """A direction of Jacobian descent: weights of the languages' gradients made of their inner products.

    What is backpropagated outside of the languages' blocks is one gradient more, the first of all.

    Args:
        base: the optimizer.
        weighting: a `torchjd` weighting of Gramians.
    """

    def __init__(self, base: Optimizer, weighting: Callable[[Tensor], Tensor]) -> None:
        super().__init__(base)
        self.weighting = weighting

    def solve(self, losses: Mapping[str, float]) -> None:
        """Put the gradients together."""
        if outside := self.outside():
            self.rows = {"": outside, **self.rows}
        rows = list(self.rows.values())
        gramian = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        for i, first in enumerate(rows):
            for j, second in enumerate(rows[: i + 1]):
                gramian[i, j] = gramian[j, i] = dot(first, second)
        self.combine(self.weighting(gramian).tolist())

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state and the weighting, which may have one."""
        return super().state_dict() | {"weighting": copy.deepcopy(self.weighting)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load both."""
        self.weighting = state_dict["weighting"]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "weighting"})


class Projected(Separate):
    """GEM with one memory: the gradient of the sum, less its part against the gradient of what is to be kept.

    What is backpropagated outside of the languages' blocks is the loss on the memory.

    Source: Lopez-Paz and Ranzato 2017, (11); for one memory, Chaudhry et al. 2019, (10).
    """

    def solve(self, losses: Mapping[str, float]) -> None:
        """Put the gradients together and project."""
        memory = self.outside()
        self.combine([1.0] * len(self.rows))
        summed = [p.grad for p in self.parameters if p.grad is not None]
        if memory and (against := dot(summed, memory)) < 0:
            share = float(against / dot(memory, memory))
            for gradient, kept in zip(summed, memory, strict=True):
                gradient.sub_(kept, alpha=share)


def freeze_lower_half(encoder: nn.Module) -> None:
    """Freeze the embeddings and the lower half of the layers, the smaller one of an odd number.

    Raises:
        ValueError: if the parameters' names do not tell layers.
    """
    layers = {name: int(found[1]) for name, _ in encoder.named_parameters() if (found := _LAYER.search(name))}
    if not layers:
        raise ValueError(
            "`--methods lower-frozen` must find layers in the names of the model's parameters. Found none. Leave the "
            "method out."
        )
    frozen = (max(layers.values()) + 1) // 2
    for name, parameter in encoder.named_parameters():
        if layers[name] < frozen if name in layers else "embedding" in name:
            parameter.requires_grad_(False)


def dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Return the inner product of two gradients in float64, a scalar."""
    return torch.stack(
        [torch.vdot(a.flatten(), b.flatten()).double() for a, b in zip(first, second, strict=True)]
    ).sum()
