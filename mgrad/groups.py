"""What is read in the parameter groups of an optimizer, beside what torch reads there.

In: parameter groups. Out: parameters, their learning rates, where something is not finite; or an error. May import:
jacobian. Knows no optimizer.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mgrad.jacobian import Row, whole

Groups = Sequence[Mapping[str, Any]]


def check_groups(groups: Groups) -> None:
    """Check that groups can be wrapped.

    Args:
        groups: of the base.

    Raises:
        ValueError: for a group that maximises, or an `"anchor"` that is no number ≥ 0.
        TypeError: for a complex or a sharded parameter.
    """
    for group in groups:
        if group.get("maximize"):
            raise ValueError(
                "`LessForgetting(base)` must minimise. Found a parameter group with maximize=True. Negate the losses "
                "instead."
            )
        for parameter in group["params"]:
            if parameter.is_complex():
                raise TypeError(
                    f"`LessForgetting(base)` must have real parameters. Found one of {parameter.dtype} with shape "
                    f"{list(parameter.shape)}. Keep it as two real ones (torch.view_as_real)."
                )
            if hasattr(parameter, "to_local"):  # a DTensor: inner products of a part are not those of the whole
                raise TypeError(
                    f"`LessForgetting(base)` must have whole parameters. Found a {type(parameter).__name__} of shape "
                    f"{list(parameter.shape)}, of which each process has a part. Use DistributedDataParallel."
                )
        check_anchor(group)


def check_anchor(group: Mapping[str, Any]) -> None:
    """Check by what a group multiplies the anchor.

    Args:
        group: of the base; its `"anchor"` may have been set since it was wrapped.

    Raises:
        ValueError: if that is no number ≥ 0.
    """
    anchor = group.get("anchor", 1.0)
    if not (isinstance(anchor, (int, float)) and anchor >= 0 and math.isfinite(anchor)):
        raise ValueError(
            f'`"anchor"` of a parameter group must be a number ≥ 0. Found {anchor!r}. Use 0.0 to leave the group out '
            "of the anchor."
        )


def every_parameter(groups: Groups) -> list[Tensor]:
    """Return the parameters in the order of the groups: by their places there a checkpoint knows them."""
    return [parameter for group in groups for parameter in group["params"]]


def trainable(groups: Groups) -> list[Tensor]:
    """Return the parameters that want a gradient, each once, in the order of the groups."""
    return [parameter for parameter in dict.fromkeys(every_parameter(groups)) if parameter.requires_grad]


def least_rate(groups: Groups) -> float:
    """Return η, the least learning rate of the groups that is not 0; 0 where all are."""
    return min((float(group["lr"]) for group in groups if group["lr"] > 0), default=0.0)


def still(groups: Groups) -> set[Tensor]:
    """Return the parameters of learning rate 0, which no step moves; none where all have that, and nothing tells."""
    if not least_rate(groups):
        return set()
    return {parameter for group in groups if not group["lr"] > 0 for parameter in group["params"]}


def not_finite(row: Row, groups: Groups) -> str | None:
    """Return where a row is not finite, the first parameter by its name or number, group and shape; None: nowhere."""
    for k, group in enumerate(groups):
        labels = group.get("param_names", [f"parameter {i}" for i in range(len(group["params"]))])
        for label, parameter in zip(labels, group["params"], strict=True):
            block = whole(row(parameter)) if parameter.requires_grad else None
            if block is not None and not block.isfinite().all():
                return f"{label} of group {k}, shape {list(parameter.shape)}"
    return None
