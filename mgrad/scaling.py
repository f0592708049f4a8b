"""What a `torch.amp.GradScaler` is shown of the gradients that wait for a solve: groups that hold them, too.

In: parameter groups, and tensors that wait. Out: groups to be read. May import: nothing of mgrad. Knows no optimizer.

Before a step a scaler unscales, and searches for overflow, whatever has a `.grad` in the optimizer's groups.
"""

from collections import UserDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from torch import Tensor

Groups = list[dict[str, Any]]


def groups_with(groups: Groups, waiting: Iterable[Tensor], notice: Callable[[], None]) -> Groups:
    """Return the groups, with what waits behind the parameters of the first.

    Args:
        groups: of the optimizer.
        waiting: tensors whose values are to be read and changed as gradients are.
        notice: called when somebody looks at the parameters of the first group.

    Returns:
        As many groups. What is written to one is written to that of the optimizer; its list of parameters ends with
        tensors that have those that wait as their `.grad`.

    Cost: no memory beyond the lists.
    """
    first = _Group(groups[0], [_holder(tensor) for tensor in waiting], notice)
    return [cast("dict[str, Any]", first), *groups[1:]]


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
