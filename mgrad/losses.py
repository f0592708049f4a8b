"""The losses and names that users pass: what they must be.

In: losses and names as the user wrote them. Out: the same, checked. May import: nothing of mgrad. Knows no optimizer.
"""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor


def check_names(constraints: Iterable[str]) -> tuple[str, ...]:
    """Check the names declared when wrapping.

    Args:
        constraints: the option as the user wrote it.

    Returns:
        The names in their order.

    Raises:
        TypeError: for a single string, or a name that is no string.
        ValueError: for no name, or one that occurs twice.
    """
    call = "LessForgetting(constraints=...)"
    if isinstance(constraints, str):
        raise TypeError(f"`{call}` must be a list of names. Found the string {constraints!r}. Put it into a list.")
    names = tuple(constraints)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"`{call}` must be a list of strings. Found {type(name).__name__}. Use str({name!r}).")
        if names.count(name) > 1:
            raise ValueError(f"`{call}` must name every constraint once. Found {name!r} twice. Leave one out.")
    if not names:
        raise ValueError(f"`{call}` must name at least one constraint. Found none. Leave it out to allow any names.")
    return names


def named_losses(constraints: Mapping[str, Tensor] | Sequence[Tensor]) -> dict[str, Tensor]:
    """Give every loss of `backward` its name.

    Args:
        constraints: the losses as the user wrote them.

    Returns:
        The losses by name, in their order; those of a sequence are named "0", "1", ….

    Raises:
        TypeError: if they are neither a mapping nor a sequence.
        ValueError: if there is none.
    """
    if isinstance(constraints, Mapping):
        losses = dict(constraints)
    elif isinstance(constraints, Sequence):
        losses = {str(i): loss for i, loss in enumerate(constraints)}
    else:
        raise TypeError(
            f"`opt.backward(constraints)` must be a mapping or a sequence of losses. Found "
            f"{type(constraints).__name__}. Pass one scalar loss for each constraint: they are not summed."
        )
    if not losses:
        raise ValueError(
            "`opt.backward(constraints)` must hold at least one loss. Found none. Pass one scalar loss for each "
            "constraint."
        )
    return losses


def check_loss(call: str, loss: Tensor) -> None:
    """Check that a loss can be backpropagated: a real scalar tensor that needs a gradient.

    Args:
        call: how the user wrote it.
        loss: as passed.

    Raises:
        TypeError: if it is no tensor.
        ValueError: if it is no scalar, not real, or needs no gradient.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"`{call}` must be a tensor. Found {type(loss).__name__}. Pass the loss, not its value.")
    if loss.numel() != 1:
        raise ValueError(f"`{call}` must be a scalar. Found shape {list(loss.shape)}. Take its mean or sum.")
    if not loss.is_floating_point():
        raise ValueError(f"`{call}` must be real. Found {loss.dtype}. Take its real part, or its absolute value.")
    if not loss.requires_grad:
        raise ValueError(
            f"`{call}` must need a gradient. Found requires_grad False. Compute it from the model, outside of "
            "torch.no_grad() and without .item() or .detach()."
        )


def loss_call(name: str) -> str:
    """Return how the user wrote a constraint loss of `backward`."""
    return f"opt.backward({{{name!r}: ...}})"
