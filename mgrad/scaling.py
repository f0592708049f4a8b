"""What a `torch.amp.GradScaler` is shown of the gradients that wait for a solve, and what it has found there.

In: parameter groups, and tensors that wait. Out: groups to be read; whether a scaler has met an overflow. May import:
nothing of mgrad. Knows no optimizer.

Before a step a scaler unscales, and searches for overflow, whatever has a `.grad` in the optimizer's groups. Of the
step that it then skips nothing tells.
"""

from collections import UserDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

Groups = list[dict[str, Any]]

# The witness, shown beside what waits: a scaler that unscales changes it, whoever only looks does not. Its square adds
# nothing to a norm.
_WITNESS = 2.0**-66


class Look:
    """A look from outside at the gradients of one step while they wait; none yet at first."""

    def __init__(self) -> None:
        """Show nothing."""
        self._witness: Tensor | None = None
        # All that stood in `.grad` at any look: behind which parameter, and how often it had been changed.
        self._seen: dict[Tensor, tuple[Tensor, int]] = {}

    def groups(self, groups: Groups, waiting: Sequence[Tensor]) -> Groups:
        """Return the groups, with what waits behind the parameters of the first.

        Args:
            groups: of the optimizer.
            waiting: tensors whose values are to be read and changed as gradients are, at least one.

        Returns:
            As many groups. What is written to one is written to that of the optimizer; its list of parameters ends
            with tensors that have those that wait, and the witness, as their `.grad`.

        Cost: no memory beyond the lists.
        """
        if self._witness is None:
            self._witness = torch.full((1,), _WITNESS, dtype=torch.float32, device=waiting[0].device)

        def notice() -> None:
            parameters = [p for group in groups for p in group["params"] if p.requires_grad]
            self._seen |= {p.grad: (p, p.grad._version) for p in parameters if p.grad is not None}

        first = _Group(groups[0], [_holder(tensor) for tensor in (*waiting, self._witness)], notice)
        return [cast("dict[str, Any]", first), *groups[1:]]

    def has_overflow(self, waiting: Iterable[Tensor]) -> bool:
        """Tell whether a scaler has unscaled what waits, and it is of a step that was then skipped.

        Args:
            waiting: the gradients of the step so far.

        Returns:
            Whether something is not finite of what waits or stood beside it; or no longer stands there as it was: what
            cleared it cannot have reached the rest. False also where the scale was 1, which changes nothing.

        Cost: 0 where nobody has looked; else a read of each.
        """
        if self._witness is None or self._witness.item() == _WITNESS:
            return False
        if any(p.grad is not grad or grad._version != before for grad, (p, before) in self._seen.items()):
            return True
        return not all(block.isfinite().all() for blocks in (self._seen, waiting) for block in blocks)


class _Group(UserDict[str, Any]):
    """A parameter group that shows further tensors among its parameters, and is the group otherwise."""

    def __init__(self, group: dict[str, Any], further: Sequence[Tensor], notice: Callable[[], None]) -> None:
        """Keep the group itself, not a copy."""
        self.data = group
        self.further = further
        self.notice = notice

    def __getitem__(self, key: str) -> Any:
        """Return an option of the group."""
        if key != "params":
            return self.data[key]
        self.notice()
        return [*self.data[key], *self.further]


def _holder(tensor: Tensor) -> Tensor:
    """Return a tensor that has another as its `.grad`, in the memory of that one."""
    holder = tensor.detach()
    holder.grad = tensor
    return holder
