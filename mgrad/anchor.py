"""Forgetting objectives: how far the model has moved from what it knew.

In: parameters and where they stood. Out: ∇f₀ block by block. May import: nothing of mgrad. Knows no optimizer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Anchor:
    """The objective f₀ = ½‖θ − θ₀‖²: forgetting as the distance from the starting weights (math.md, 5).

    Its gradient θ − θ₀ is computed where it is needed; there is no backward pass. A parameter group with
    `"anchor": 0.0` (a new classification head) is not anchored; another value multiplies its part of f₀.

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

    def gradient(self, parameter: Tensor, start: Tensor, strength: float) -> Tensor:
        """Return the block strength·(θ − θ₀) of ∇f₀, a new tensor.

        Args:
            parameter: a block of θ.
            start: the same block of θ₀.
            strength: the group's factor, ≥ 0.

        Returns:
            A tensor shaped like the parameter.
        """
        return torch.sub(parameter.detach(), start).mul_(strength)
