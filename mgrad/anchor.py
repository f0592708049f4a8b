"""Forgetting objectives in closed form: how far the parameters have moved from where they stood.

In: parameters and where they stood. Out: ∇f₀ block by block, and f₀. May import: compiled. Knows no optimizer.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from mgrad.compiled import Difference


class Anchor:
    """The objective f₀ = ½‖θ − θ₀‖²: forgetting as the distance from the starting weights (math.md, 5).

    Its gradient θ − θ₀ is computed where it is needed; there is no backward pass. A parameter group with
    `"anchor": 0.0` (a new classification head) is not anchored; another value multiplies its part of f₀. Objectives of
    this kind add up, and a number times one is one: `0.1 * Anchor() + FisherAnchor(fisher, model)`.

    Args:
        reference: θ₀, one tensor for each anchored parameter, in the order of the optimizer's parameter groups; None
            for the weights at the time of wrapping. The tensors are copied.

    Raises:
        TypeError: if the reference is not a sequence of tensors.

    Cost: memory of θ₀, n values; time of one subtraction.
    Source: L2-SP (Li, Grandvalet & Davoine 2018).

    Example:
        >>> head = torch.nn.Linear(2, 2)
        >>> start = [torch.zeros_like(parameter) for parameter in head.parameters()]
        >>> anchor = Anchor(reference=start)
    """

    def __init__(self, reference: Sequence[Tensor] | None = None) -> None:
        """Keep the reference, if one is given."""
        if reference is not None and not (
            isinstance(reference, Sequence) and all(isinstance(tensor, Tensor) for tensor in reference)
        ):
            raise TypeError(
                f"`Anchor(reference=...)` must be a list of tensors. Found {type(reference).__name__}. "
                "Pass list(pretrained_model.parameters())."
            )
        self.reference = reference

    @property
    def is_fixed(self) -> bool:
        """Whether it holds tensors of its own, which cannot know a parameter that comes later."""
        return self.reference is not None

    def __add__(self, other: "Anchor") -> "Anchor":
        """Return the sum of two objectives."""
        return SumOfAnchors([(1.0, self), (1.0, other)]) if isinstance(other, Anchor) else NotImplemented

    def __radd__(self, other: int) -> "Anchor":
        """Return the objective itself where `sum` begins, at 0."""
        return self if other == 0 else NotImplemented

    def __mul__(self, factor: float) -> "Anchor":
        """Return a multiple of the objective."""
        return SumOfAnchors([(factor, self)]) if isinstance(factor, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def weights(self, parameters: Sequence[Tensor]) -> list[Tensor | float]:
        """Return F of f₀ = ½ Σ F(θ − θ₀)², a number or a tensor for each parameter (math.md, 60).

        Args:
            parameters: the anchored parameters, in order.

        Returns:
            One factor for each parameter: 1.
        """
        return [1.0 for _ in parameters]

    def start(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return θ₀ for the parameters: copies with their dtype and device.

        Args:
            parameters: the anchored parameters, in order.

        Returns:
            One tensor for each parameter, owned by the caller.

        Raises:
            ValueError: if the reference does not fit the parameters in number or shape.
        """
        reference = parameters if self.reference is None else self.reference
        if len(reference) != len(parameters):
            raise ValueError(
                f"`Anchor(reference=...)` must have one tensor for each anchored parameter. Found {len(reference)} "
                f'for {len(parameters)} parameters. Give groups that have no reference "anchor": 0.0.'
            )
        for k, (tensor, parameter) in enumerate(zip(reference, parameters, strict=True)):
            if tensor.shape != parameter.shape:
                raise ValueError(
                    f"`Anchor(reference=...)` must have the shapes of the anchored parameters. Found "
                    f"{list(tensor.shape)} for parameter {k} of shape {list(parameter.shape)}. Pass the tensors in "
                    "the order of the optimizer's parameters."
                )
        return [
            tensor.detach().to(device=parameter.device, dtype=parameter.dtype, copy=True)
            for tensor, parameter in zip(reference, parameters, strict=True)
        ]


class SumOfAnchors(Anchor):
    """The sum of multiples of objectives of this kind, which is one itself (math.md, 61).

    Args:
        parts: a factor ≥ 0 and an objective each.

    Raises:
        ValueError: for a factor that is negative or not finite.
    """

    def __init__(self, parts: Sequence[tuple[float, Anchor]]) -> None:
        """Check the factors."""
        for factor, _ in parts:
            if not 0 <= factor < float("inf"):
                raise ValueError(
                    f"`factor * Anchor()` must have a factor ≥ 0 and finite. Found {factor}. Leave out what is not to "
                    "pull."
                )
        super().__init__()
        self.parts = list(parts)

    @property
    def is_fixed(self) -> bool:
        """Whether one of them is."""
        return any(anchor.is_fixed for _, anchor in self.parts)

    def weights(self, parameters: Sequence[Tensor]) -> list[Tensor | float]:
        """Return ΣF of the parts."""
        columns = zip(*(anchor.weights(parameters) for _, anchor in self.parts), strict=True)
        factors = [factor for factor, _ in self.parts]
        return [sum(f * weight for f, weight in zip(factors, column, strict=True)) for column in columns]

    def start(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return the point in which the sum is least: ΣFθ₀/ΣF of the parts, and of the first where no part weighs."""
        starts = [anchor.start(parameters) for _, anchor in self.parts]
        if not any(anchor.is_fixed and _references(anchor) for _, anchor in self.parts):
            return starts[0]  # all stand where the parameters do
        centres = starts[0]
        total = [self.parts[0][0] * weight for weight in self.parts[0][1].weights(parameters)]
        for (factor, anchor), start in zip(self.parts[1:], starts[1:], strict=True):
            for k, weight in enumerate(anchor.weights(parameters)):
                total[k] = total[k] + factor * weight
                weights = factor * weight, total[k]
                part, whole = (torch.as_tensor(x, dtype=torch.float64, device=start[k].device) for x in weights)
                share = part / whole
                centres[k] += share.nan_to_num(0.0) * (start[k] - centres[k])
        return centres


def _references(anchor: Anchor) -> bool:
    """Tell whether an objective is anchored elsewhere than where the parameters stand."""
    if isinstance(anchor, SumOfAnchors):
        return any(_references(part) for _, part in anchor.parts)
    return anchor.reference is not None


def pull_back(parameter: Tensor, start: Tensor, weight: Tensor | float) -> Tensor:
    """Return the block F(θ − θ₀) of ∇f₀, a new tensor (math.md, 60).

    Args:
        parameter: a block of θ.
        start: the same block of θ₀, on any device; in bfloat16, where the parameter has more digits, it stands for all
            that is rounded to it: where θ may be one of these, nothing pulls (math.md, 124).
        weight: of F, ≥ 0, times the factor of the group.

    Returns:
        A tensor shaped like the parameter, of the wider type of the two.
    """
    block = _way(parameter, start)
    if isinstance(weight, Tensor) and weight.dtype is not block.dtype:
        return block * weight
    return block if isinstance(weight, float) and weight == 1.0 else block.mul_(weight)


def moved(parameter: Tensor, start: Tensor, weight: Tensor | float) -> Tensor:
    """Return the part ½ΣF(θ − θ₀)² of f₀ of one parameter (math.md, 60).

    Args:
        parameter: a block of θ.
        start: as of `pull_back`; likewise the weight.
        weight: of F.

    Returns:
        A float64 tensor of no dimension.
    """
    return 0.5 * (_way(parameter, start).double().square() * weight).sum()


def _way(parameter: Tensor, start: Tensor) -> Tensor:
    """Return θ − θ₀, or the way from the nearest of all that θ₀ may have been (math.md, 124), a new tensor."""
    near = start.to(parameter.device, non_blocking=parameter.device.type != "cpu")  # there it must have come
    way = torch.sub(parameter.detach(), near)
    if near.dtype is torch.bfloat16 and parameter.dtype is not torch.bfloat16:
        reach = near.abs().to(way.dtype).mul_(2.0**-8)
        way.sub_(way.clamp(-reach, reach))
    return way


class Pull:
    """A block of g₀, F(θ − θ₀) and gradients beside it, that is formed piece by piece where it is read."""

    def __init__(self, parameter: Tensor, start: Tensor, weight: Tensor | float, losses: Sequence[Tensor]) -> None:
        """Keep what it is formed of.

        Args:
            parameter: a block of θ.
            start: the same block of θ₀.
            weight: as of `pull_back`.
            losses: the same block of gradients that are added.
        """
        self.parameter, self.start, self.weight, self.losses = parameter, start, weight, losses

    def numel(self) -> int:
        """Return the number of values."""
        return self.parameter.numel()

    @cached_property
    def _lines(self) -> tuple[Tensor, Tensor, Tensor | float, list[Tensor]]:
        """The same with the values in a line."""
        weight, start = self.weight, self.start
        line = weight.expand_as(start).reshape(-1) if isinstance(weight, Tensor) else weight
        losses = [block.detach().reshape(-1) for block in self.losses]
        return self.parameter.detach().reshape(-1), start.reshape(-1), line, losses

    def piece(self, start: int, stop: int) -> Tensor:
        """Return some of the values, a new tensor."""
        part = slice(start, stop)
        parameter, reference, weight, losses = self._lines
        block = pull_back(parameter[part], reference[part], weight[part] if isinstance(weight, Tensor) else weight)
        for loss in losses:
            block.add_(loss[part])
        return block

    def difference(self) -> Difference | None:
        """Return θ and θ₀, if there is nothing else to it."""
        if self.losses or isinstance(self.weight, Tensor) or self.start.dtype is not self.parameter.dtype:
            return None
        return Difference(self.parameter, self.start, self.weight)
