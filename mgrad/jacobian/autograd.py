"""Taking rows from autograd.

In: parameters, and what is backpropagated. Out: rows; which graphs are still wanted. May import: nothing of mgrad.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

LEAF = "torch::autograd::AccumulateGrad"
"""The name of the operation that adds a gradient to a leaf's `.grad`."""


@contextmanager
def capture(parameters: Sequence[Tensor], row: dict[Tensor, Tensor]) -> Iterator[None]:
    """Take over what is backpropagated inside the block as (more of) one row, without a copy.

    Gradients that stood in `.grad` before are put aside and are back afterwards, also after an exception; the row is
    then left as autograd left it.

    Args:
        parameters: those whose `.grad` belongs to the row.
        row: the row so far; receives the blocks of the parameters that took part.

    Yields:
        Nothing; call `backward` inside.

    Raises:
        TypeError: if a gradient is sparse.

    Cost: no memory beyond the row itself; a copy of gradients that share theirs.
    """
    with aside(parameters):
        for parameter in parameters:
            parameter.grad = row.get(parameter)
        yield
        check_dense("opt.constraint(...)", parameters)
        row.update(unshared({parameter: parameter.grad for parameter in parameters if parameter.grad is not None}))


@contextmanager
def aside(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Put what stands in `.grad` aside; it is back afterwards, also after an exception.

    Args:
        parameters: whose `.grad` is None at the beginning of the block, and for it to set.

    Yields:
        Nothing.

    Cost: a copy of gradients that share their memory, which backward passes inside might write to.
    """
    outside = unshared({parameter: parameter.grad for parameter in parameters if parameter.grad is not None})
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.grad = outside.get(parameter)


def unshared(row: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
    """Set the blocks of a row apart, so that each can be written by itself and is nobody else's.

    Where parameters of one size are added as views, autograd leaves them one gradient in one memory. Those of
    `DistributedDataParallel` may be views of its buckets, which the next backward pass writes to.

    Args:
        row: is changed: blocks that share the memory of an earlier one, or are parts of a larger one, are copied.

    Returns:
        The row.
    """
    seen = set[int]()
    for parameter, block in row.items():
        if block.layout is not torch.strided:
            continue  # has no one memory
        memory = block.untyped_storage()
        if memory.data_ptr() in seen or memory.nbytes() > block.nbytes:
            row[parameter] = block.clone()
        seen.add(memory.data_ptr())
    return row


def check_dense(call: str, parameters: Sequence[Tensor]) -> None:
    """Raise for a gradient that is sparse.

    Args:
        call: the name that the user wrote.
        parameters: whose `.grad` is looked at.

    Raises:
        TypeError: for the first sparse gradient.
    """
    for k, parameter in enumerate(parameters):
        if parameter.grad is not None and parameter.grad.layout is not torch.strided:
            raise TypeError(
                f"`{call}` must find dense gradients. Found a sparse one for parameter {k}, of shape "
                f"{list(parameter.shape)}. Build its layer with sparse=False."
            )


def strangers(loss: Tensor, parameters: Collection[Tensor]) -> list[Tensor]:
    """Return the leaves of a loss's graph that are none of the parameters, such as those of another optimizer.

    Args:
        loss: a scalar.
        parameters: whose gradients are taken.

    Cost: one visit of each operation of the graph.
    """
    found, seen = set[Tensor](), set[Node]()
    queue: list[Any] = [] if loss.grad_fn is None else [loss.grad_fn]
    while queue:
        node = queue.pop()
        if node not in seen:
            seen.add(node)
            queue += [following for following, _ in node.next_functions if following is not None]
            if node.name() == LEAF:
                found.add(node.variable)
    return [*found.difference(parameters)]


def shared_graphs(losses: Sequence[Tensor]) -> list[bool]:
    """Tell for each loss whether its graph shares an operation with that of a later loss.

    Only such a graph must be retained after its backward pass; the leaves, which hold the parameters, do not count.

    Args:
        losses: in the order in which they will be backpropagated.

    Returns:
        One flag for each loss.

    Cost: one visit of each operation of the graphs.
    """
    leaf = -1
    owners: dict[Node, int] = {}  # the last of the losses that an operation is of
    flags = []
    for place, loss in enumerate(reversed(losses)):
        shared, queue = False, [] if loss.grad_fn is None else [loss.grad_fn]
        while queue:
            node = queue.pop()
            owner = owners.get(node)
            if owner is None:
                edges = node.next_functions
                owners[node] = place if edges else leaf
                queue += [following for following, _ in edges if following is not None]
            elif owner not in {place, leaf}:
                shared = True
        flags.append(shared)
    return flags[::-1]
