"""The function whose gradient the direction is while its multipliers are held: what a line search lowers.

In: what a closure returns, and the multipliers of a solve. Out: value and gradient of φ = α·f₀ + Σ λᵢfᵢ.
May import: nothing of mgrad. Knows no optimizer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lagrangian:
    """φ = α·f₀ + Σ λᵢfᵢ, in which α and λ are those of where it was taken (math.md, 104).

    Attributes:
        multipliers: λ by name, numbers or tensors of no dimension.
        pull: α, likewise.
    """

    multipliers: Mapping[str, Any]
    pull: Any

    @torch.no_grad()
    def value(self, losses: Mapping[str, Sequence[Tensor]], forgetting: Sequence[Tensor]) -> Tensor:
        """Return φ, in float64 on the device of the first loss.

        Args:
            losses: fᵢ by name; of several parts their mean.
            forgetting: the parts of f₀, which are added up.

        Returns:
            A tensor of no dimension, without a graph.
        """
        device = next(iter(losses.values()))[0].device
        terms = [
            part.to(device, torch.float64).reshape(()) * self.multipliers[name] / len(parts)
            for name, parts in losses.items()
            for part in parts
        ]
        terms += [part.to(device, torch.float64).reshape(()) * self.pull for part in forgetting]
        return torch.stack(terms).sum()

    def backward(self, losses: Mapping[str, Sequence[Tensor]], objective: Tensor | None) -> None:
        """Backpropagate φ, without what is known of f₀ in closed form.

        Args:
            losses: as of `value`, checked, as is the next.
            objective: a part of f₀ with a graph.

        Raises:
            ValueError: if the names are not those of the multipliers.

        Cost: one backward pass.
        """
        if losses.keys() != self.multipliers.keys():
            raise ValueError(
                f"`opt.step(closure)` must evaluate the same losses within a step. Found {sorted(losses)} after "
                f"{sorted(self.multipliers)}. Draw the batches before the step, not in the closure."
            )
        parts = [(part, self.multipliers[name] / len(pair)) for name, pair in losses.items() for part in pair]
        if objective is not None:
            parts.append((objective, self.pull))
        weights = [
            torch.as_tensor(weight, dtype=part.dtype, device=part.device).expand_as(part) for part, weight in parts
        ]
        torch.autograd.backward([part for part, _ in parts], weights)


def returned_losses(found: Any) -> tuple[Any, Any] | None:
    """Tell losses, which are still to be backpropagated, from whatever else a closure returns.

    Args:
        found: what it returned.

    Returns:
        The losses, a mapping or a sequence, and the objective or None, where `found` is losses or a pair of both; else
        None.
    """
    if isinstance(found, (tuple, list)) and len(found) == 2 and _several(found[0]) and not _several(found[1]):
        return found[0], found[1]
    return (found, None) if _several(found) else None


def _several(found: Any) -> bool:
    """Tell a mapping or a sequence from a loss."""
    return isinstance(found, (Mapping, tuple, list))
