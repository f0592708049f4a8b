"""Where the parameters of an optimizer stood when they were anchored, and how strongly each is pulled back there.

In: an anchor, and parameter groups. Out: θ₀, F and the anchor's part of g₀, by parameter; what a checkpoint has of θ₀.
May import: anchor, groups, storage. Knows no optimizer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mgrad.anchor import Anchor, Pull, moved, pull_back
from mgrad.groups import Groups, check_anchor
from mgrad.storage import Storage


class Starts:
    """θ₀ and F of every anchored parameter.

    Attributes:
        anchor: the objective, None where there is none and nothing is anchored.
        start: θ₀ by parameter, as it is kept.
    """

    def __init__(self, anchor: Anchor | None, storage: Storage, groups: Groups) -> None:
        """Anchor the parameters of groups at their present weights, or those of the anchor's own.

        Args:
            anchor: the objective, None for none.
            storage: how θ₀ is kept.
            groups: of the optimizer; those with "anchor" 0 are left out.

        Raises:
            ValueError: if the anchor's own tensors do not fit.
        """
        self.anchor, self.storage = anchor, storage
        self.start: dict[Tensor, Tensor] = {}
        self._weight: dict[Tensor, Tensor | float] = {}
        if anchor is not None:
            self._add(anchor, _anchored(groups))

    def extend(self, group: Mapping[str, Any]) -> None:
        """Anchor a further group at its present weights.

        Args:
            group: as of an optimizer.

        Raises:
            ValueError: if it is to be anchored and the anchor has tensors of its own, which cannot know it.
        """
        anchored = _anchored([group])
        if self.anchor is None or not anchored:
            return
        if self.anchor.is_fixed:
            raise ValueError(
                "`opt.add_param_group(group)` must not be anchored where the anchor has tensors of its own. Found "
                f'"anchor" {group.get("anchor", 1.0)}. Give the group "anchor": 0.0.'
            )
        self._add(self.anchor, anchored)

    def _add(self, anchor: Anchor, parameters: Sequence[Tensor]) -> None:
        """Keep θ₀ and F of some parameters."""
        starts = list(map(self.storage.keep_start, anchor.start(parameters)))
        weights = anchor.weights(parameters)
        self.start |= zip(parameters, starts, strict=True)
        self._weight |= zip(parameters, weights, strict=True)

    def strengths(self, groups: Groups) -> dict[Tensor, float]:
        """Return by what the groups multiply the anchor, by parameter; 0 without one.

        Args:
            groups: of the optimizer, as they are now.

        Raises:
            ValueError: for an "anchor" that is no number ≥ 0.
            RuntimeError: for an anchored parameter without a start.
        """
        strengths = {}
        for k, group in enumerate(groups):
            check_anchor(group)
            strength = group.get("anchor", 1.0) if self.anchor is not None else 0.0
            for parameter in group["params"]:
                if strength and parameter.requires_grad and parameter not in self.start:
                    raise RuntimeError(
                        f"a parameter must have a starting point to be anchored. Found one of shape "
                        f"{list(parameter.shape)} in group {k} without. Add it by opt.add_param_group(...) and not by "
                        'opt.base, anchored from the start, or give the group "anchor": 0.0.'
                    )
                strengths[parameter] = strength
        return strengths

    def pull(self, parameter: Tensor, strength: float, losses: Sequence[Tensor]) -> Pull:
        """Return a block of g₀: the anchor's, times a strength, and gradients beside it."""
        start, weight = self._of(parameter)
        return Pull(parameter, start, strength * weight, losses)

    def pull_back(self, parameter: Tensor, strength: float) -> Tensor:
        """Return the anchor's block alone, a new tensor."""
        start, weight = self._of(parameter)
        return pull_back(parameter, start, strength * weight)

    def moved(self, parameter: Tensor, strength: float) -> Tensor:
        """Return a parameter's part of f₀."""
        start, weight = self._of(parameter)
        return moved(parameter, start, strength * weight)

    def _of(self, parameter: Tensor) -> tuple[Tensor, Any]:
        """Return θ₀ and F of a parameter, which follow it where the model was moved after it was wrapped."""
        if self.storage.start != "cpu":
            self.start[parameter] = self.start[parameter].to(parameter.device)
        if isinstance(weight := self._weight[parameter], Tensor):
            self._weight[parameter] = weight.to(parameter.device)
        return self.start[parameter], self._weight[parameter]

    def state_dict(self, places: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return θ₀ by the parameters' places."""
        return {i: self.start[parameter] for i, parameter in enumerate(places) if parameter in self.start}

    def check_state_dict(self, state: Mapping[int, Tensor], places: Sequence[Tensor]) -> None:
        """Check that a `state_dict` fits.

        Args:
            state: of it.
            places: the optimizer's parameters in order.

        Raises:
            ValueError: for a place without a parameter, one of another shape, or one of which the anchor lacks F.
        """
        for i, start in state.items():
            if i >= len(places) or start.shape != places[i].shape:
                found = "no such parameter" if i >= len(places) else f"shape {list(places[i].shape)}"
                raise ValueError(
                    f"`opt.load_state_dict(...)` must fit the optimizer's parameters. Found {found} for the anchor "
                    f"{i} of shape {list(start.shape)}. Build the optimizer with the groups that were saved."
                )
            self._further(places[i])  # an error where it is not known

    def load_state_dict(self, state: Mapping[int, Tensor], places: Sequence[Tensor]) -> None:
        """Take θ₀ over from a `state_dict` that fits; what it lacks stays."""
        for i, start in state.items():
            parameter = places[i]
            self._weight |= self._further(parameter)
            whole = start.detach().to(device=parameter.device, dtype=parameter.dtype, copy=True)
            self.start[parameter] = self.storage.keep_start(whole)

    def _further(self, parameter: Tensor) -> dict[Tensor, Tensor | float]:
        """Return F of a parameter that a saved group anchored and this one does not, by it; nothing of another."""
        if self.anchor is None or parameter in self._weight:
            return {}
        return {parameter: self.anchor.weights([parameter])[0]}


def _anchored(groups: Groups) -> list[Tensor]:
    """Return the parameters of the groups that are anchored, in order."""
    return [parameter for group in groups if group.get("anchor", 1.0) for parameter in group["params"]]
