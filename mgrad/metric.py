"""The metric of a base optimizer: by how much it scales each entry of a gradient before it subtracts it.

In: a base optimizer's state of one parameter, as torch keeps it; it is read, never written. Out: P, a block for each
parameter. May import: groups, jacobian, values. Knows the optimizers of torch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adafactor, Adagrad, Adam, AdamW, Optimizer, RMSprop

from mgrad.groups import Groups, least_rate
from mgrad.jacobian import Row, whole
from mgrad.values import quotient

State = Mapping[str, Any]
Preconditioner = Callable[[State, State, Tensor, Tensor], Tensor]
"""From a parameter's state, its group's options, the parameter and the square of a gradient like the one to come, which
may be overwritten, to the block of P."""


def preconditioner(base: Optimizer) -> Preconditioner:
    """Return how a base scales a gradient: the diagonal P of its step −ηPd, without its momentum (math.md, 52).

    P is that of the step to come, whose second moments hold the new gradient already: a base that has no state yet has
    its metric, too.

    Args:
        base: an instance of SGD, Adam, AdamW, RMSprop, Adagrad or Adafactor of torch, or of a class derived from one.

    Returns:
        The preconditioner.

    Raises:
        ValueError: for another optimizer, whose step is not a known diagonal times the gradient.

    Source: Kingma & Ba 2015 (Adam); Duchi, Hazan & Singer 2011 (Adagrad); Shazeer & Stern 2018 (Adafactor).
    """
    for kind in type(base).__mro__:
        if kind in _KNOWN:
            return _KNOWN[kind]
    raise ValueError(
        f'`LessForgetting(metric="base")` must know the base\'s preconditioner. Found {type(base).__name__}. Use '
        f'metric="euclidean", or one of {", ".join(kind.__name__ for kind in _KNOWN)}.'
    )


def preconditioner_row(
    base: Optimizer, groups: Groups, rows: Sequence[Row], sizes: Sequence[Any] | None, *, keep: bool
) -> Row:
    """Return P for the rows of a step: the base's scaling, times its learning rates over the least of them.

    Args:
        base: the optimizer.
        groups: of it.
        rows: of the constraints, whose squares are added up, and g₀.
        sizes: of each constraint, by what its row is divided first; None where the rows are as they are.
        keep: whether a block is computed once: the base's step changes the state that P is made of.

    Returns:
        A block for each parameter, or None where no row has one.

    Raises:
        ValueError: for a base that is not known.
    """
    scaling, rate = preconditioner(base), least_rate(groups)
    of = {parameter: group for group in groups for parameter in group["params"]}
    kept: dict[Tensor, Tensor | None] = {}
    divisors = [None] * (len(rows) - 1) if sizes is None else sizes

    def row(parameter: Tensor) -> Tensor | None:
        if parameter in kept:
            return kept[parameter]
        pairs = zip(rows[:-1], divisors, strict=True)
        blocks = [(block, size) for row, size in pairs if (block := whole(row(parameter))) is not None]
        if not blocks and (alone := whole(rows[-1](parameter))) is not None:
            blocks = [(alone, None)]  # the objective's alone, of which d is a multiple there
        scaled = None
        if blocks:
            group, kind = of[parameter], torch.promote_types(parameter.dtype, torch.float32)
            square = torch.zeros_like(parameter, dtype=kind)
            for block, size in blocks:
                part = block.reshape(parameter.shape).to(kind)  # a block of the host comes in a line
                if size is not None:
                    part = part * quotient(1.0, torch.as_tensor(size, dtype=kind, device=parameter.device))
                square.addcmul_(part, part)
            scaled = scaling(base.state.get(parameter, {}), group, parameter, square)
            if rate not in {0.0, group["lr"]}:
                scaled.mul_(group["lr"] / rate)
        if keep:
            kept[parameter] = scaled
        return scaled

    return row


def _sgd(_state: State, _group: State, _parameter: Tensor, square: Tensor) -> Tensor:
    return torch.ones_like(square)


def _adam(state: State, group: State, _parameter: Tensor, square: Tensor) -> Tensor:
    beta = group["betas"][1]
    second = square.mul_(1 - beta)
    if state:
        second.add_(state["exp_avg_sq"], alpha=beta)
    if group["amsgrad"] and state:
        second = torch.maximum(second, state["max_exp_avg_sq"])
    correction = 1 - beta ** _next_step(state)
    root: Tensor = second.div_(correction).sqrt_()
    return root.add_(group["eps"]).reciprocal_()


def _rmsprop(state: State, group: State, _parameter: Tensor, square: Tensor) -> Tensor:
    alpha = group["alpha"]
    # Of the square of a centered mean the mixed term has an unknown sign: it is 0 on the average.
    second = square.mul_((1 - alpha) * (alpha if group["centered"] else 1))
    if state:
        second.add_(state["square_avg"], alpha=alpha)
        if group["centered"]:
            second.addcmul_(state["grad_avg"], state["grad_avg"], value=-(alpha**2))
    root: Tensor = second.clamp_(min=0.0).sqrt_()
    return root.add_(group["eps"]).reciprocal_()


def _adagrad(state: State, group: State, _parameter: Tensor, square: Tensor) -> Tensor:
    root: Tensor = square.add_(state["sum"]).sqrt_()
    slower = 1 + (_next_step(state) - 1) * group["lr_decay"]
    return root.add_(group["eps"]).mul_(slower).reciprocal_()


def _adafactor(state: State, group: State, parameter: Tensor, square: Tensor) -> Tensor:
    first, second = group["eps"]
    first = torch.finfo(parameter.dtype).eps if first is None else first
    step = _next_step(state)
    new = (step ** group["beta2_decay"]).to(square)
    if parameter.dim() > 1:
        row, column = square.mean(-1, keepdim=True), square.mean(-2, keepdim=True)
        if state:
            row = torch.lerp(state["row_var"].to(row), row, new)
            column = torch.lerp(state["col_var"].to(column), column, new)
        estimate = row @ column / row.mean(-2, keepdim=True).clamp(min=first)
    else:
        estimate = torch.lerp(state["variance"].to(square), square, new) if state else square
    size = (parameter.detach().norm() / parameter.numel() ** 0.5).clamp(min=second)
    slower = (1 / (group["lr"] * step.sqrt())).clamp(max=1.0)
    return estimate.clamp(min=first**2).rsqrt_().mul_(size).mul_(slower)


def _next_step(state: State) -> Tensor:
    """Return the number of the step to come, counting from 1: where torch keeps it, which may be a device."""
    step = state["step"] if state else 0.0
    return (step if isinstance(step, Tensor) else torch.tensor(step, device="cpu")).double() + 1


_KNOWN: dict[type, Preconditioner] = {
    SGD: _sgd,
    Adam: _adam,
    AdamW: _adam,
    RMSprop: _rmsprop,
    Adagrad: _adagrad,
    Adafactor: _adafactor,
}
