"""The losses and names that users pass: what they must be.

In: losses and names as the user wrote them. Out: the same, checked. May import: nothing of mgrad. Knows no optimizer.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

Loss = Tensor | tuple[Tensor, Tensor] | Callable[[], Tensor]
"""A loss, one on each half of a batch, or a function that returns it."""

OBJECTIVE = "opt.backward(..., objective=...)"
"""How the user wrote the objective."""


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


def named_losses(constraints: Mapping[str, Loss] | Sequence[Loss], parts: int = 1) -> dict[str, tuple[Any, ...]]:
    """Give every loss of `backward` its name.

    Args:
        constraints: the losses as the user wrote them.
        parts: that each of them must have: 1 for a loss itself, 2 for a pair.

    Returns:
        The parts of the losses by name, in their order; those of a sequence are named "0", "1", ….

    Raises:
        TypeError: if they are neither a mapping nor a sequence, or one of them is no pair where it must be.
        ValueError: if there is none.
    """
    if isinstance(constraints, Mapping):
        losses: dict[str, Any] = dict(constraints)
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
    if parts == 1:
        return {name: (loss,) for name, loss in losses.items()}  # checked with the others
    for name, pair in losses.items():
        if not (isinstance(pair, (tuple, list)) and len(pair) == parts):
            raise TypeError(
                f"`{loss_call(name)}` must be a pair of losses with noise=HalfBatches(). Found {type(pair).__name__}. "
                "Pass the losses on two halves of the batch."
            )
    return {name: tuple(pair) for name, pair in losses.items()}


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
        advice = "Pass what it returns" if callable(loss) else "Pass the loss, not its value"
        if loss is None:
            advice = "Leave out what has no loss this time (LessForgetting(missing=True))"
        raise TypeError(f"`{call}` must be a tensor. Found {type(loss).__name__}. {advice}.")
    if loss.numel() != 1:
        raise ValueError(f"`{call}` must be a scalar. Found shape {list(loss.shape)}. Take its mean or sum.")
    if not loss.is_floating_point():
        raise ValueError(f"`{call}` must be real. Found {loss.dtype}. Take its real part, or its absolute value.")
    if not loss.requires_grad:
        raise ValueError(
            f"`{call}` must need a gradient. Found requires_grad False. Compute it from the model, outside of "
            "torch.no_grad() and without .item() or .detach()."
        )


def loss_values(losses: Mapping[str, float | Tensor], names: Sequence[str], device: torch.device | None) -> Tensor:
    """Put the values of the losses, as passed to `solve`, into one vector.

    Args:
        losses: numbers or scalar tensors by name.
        names: of the constraints, in their order.
        device: where the vector is to be, without waiting for it: nothing is asked of the values then. None for the
            host.

    Returns:
        f [m] in float64.

    Raises:
        TypeError: if the losses are no mapping, or one is neither a real number nor a real tensor.
        ValueError: for other names, or a tensor that is no scalar.
        FloatingPointError: on the host, for a value that is not finite.
    """
    call = "opt.solve(losses=...)"
    if not isinstance(losses, Mapping):
        raise TypeError(
            f"`{call}` must be a mapping from names to values. Found {type(losses).__name__}. Pass {{name: value}} of "
            "every constraint."
        )
    if set(losses) != set(names):
        raise ValueError(
            f"`{call}` must name every constraint once. Found {sorted(losses)} for the constraints {sorted(names)}. "
            "Pass the value of each of them."
        )
    values = []
    for name in names:
        value, call = losses[name], f"opt.solve(losses={{{name!r}: ...}})"
        if not (isinstance(value, Real) or (isinstance(value, Tensor) and not value.is_complex())):
            found = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"`{call}` must be a real number. Found {found}. Pass the value of the loss.")
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"`{call}` must be a scalar. Found shape {list(value.shape)}. Take its mean or sum.")
        if device is None:
            check_finite(call, float(value))
        if not isinstance(value, Tensor):
            value = torch.full((), float(value), dtype=torch.float64, device=device or "cpu")
        home = device or torch.device("cpu")
        values.append(value.detach().reshape(()).to(home, torch.float64, non_blocking=home.type != "cpu"))
    return torch.stack(values)


def check_finite(call: str, value: float) -> None:
    """Check that a loss has a value that can be stepped on.

    Args:
        call: how the user wrote it.
        value: of the loss.

    Raises:
        FloatingPointError: if it is NaN or infinite.
    """
    if not math.isfinite(value):
        raise FloatingPointError(f"`{call}` must be finite. Found {value}. Skip this batch, or lower the rate.")


def loss_call(name: str) -> str:
    """Return how the user wrote a constraint loss of `backward`."""
    return f"opt.backward({{{name!r}: ...}})"
