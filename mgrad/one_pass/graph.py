"""The graph that autograd has recorded of some losses, and what in it forbids to tell them apart.

In: losses and parameters. Out: operations by their places. May import: jacobian, one_pass.node_rules.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mgrad.jacobian import LEAF
from mgrad.one_pass.node_rules import Node

Output = tuple[int, int]
"""An operation's place in the graph, and the number of one of its outputs."""


class Graph:
    """The graphs of all losses as one.

    Attributes:
        nodes: its operations, each before those whose outputs it takes.
        children: of each its inputs: an operation and the number of its output, or None.
        outputs: of each those that are used.
        reach: of each the losses that depend on it, a bit for each.
        leaves: the parameters, by their operations' place.
        strangers: the places of leaves that are no parameters, such as those of another optimizer.
        roots: the operations of the losses.
        key: what two graphs have in common that differ in numbers and sizes only.
    """

    def __init__(self, losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        """Visit every operation."""
        starts = [torch.autograd.graph.get_gradient_edge(loss).node for loss in losses]
        order = [*visit(starts)]
        self.nodes: list[Any] = order[::-1]
        place = {node: k for k, node in enumerate(self.nodes)}
        self.children = [
            [None if child is None else (place[child], output) for child, output in node.next_functions]
            for node in self.nodes
        ]
        self.roots = [place[node] for node in starts]
        self.reach, self.outputs = [0] * len(self.nodes), [set[int]() for _ in self.nodes]
        for i, root in enumerate(self.roots):
            self.reach[root] |= 1 << i
            self.outputs[root].add(0)
        numbers = {parameter: number for number, parameter in enumerate(parameters)}
        self.leaves: dict[Tensor, int] = {}
        self.strangers: list[int] = []
        names = []
        for k, node in enumerate(self.nodes):
            for child in self.children[k]:
                if child is not None:
                    self.reach[child[0]] |= self.reach[k]
                    self.outputs[child[0]].add(child[1])
            names.append(node.name())
            if names[-1] == LEAF:
                if node.variable in numbers:
                    self.leaves[node.variable] = k
                    names[-1] = numbers[node.variable]
                else:
                    self.strangers.append(k)
        self.names = names
        dims = [len(node._input_metadata[0].shape) if node._input_metadata else 0 for node in self.nodes]
        self.key = (tuple(names), tuple(map(tuple, self.children)), tuple(dims), tuple(self.roots))

    def at(self, k: int, places: Sequence[int]) -> list[Output]:
        """Return the children of an operation at places where there are some."""
        return [child for place in places if (child := self.children[k][place]) is not None]

    def above(self, places: Iterable[int]) -> set[int]:
        """Return the places from which some are reached, and these."""
        found = set(places)
        for k in reversed(range(len(self.nodes))):
            if any(child is not None and child[0] in found for child in self.children[k]):
                found.add(k)
        return found

    def holds(self, loss: Tensor) -> bool:
        """Tell whether a loss needs an operation of this graph."""
        inside = {node for node in self.nodes if node.name() != LEAF}
        return any(node in inside for node in visit([torch.autograd.graph.get_gradient_edge(loss).node]))


def visit(starts: Sequence[Node]) -> Iterator[Node]:
    """Yield every operation once, after those whose outputs it takes."""
    seen = set[Any]()
    for start in starts:
        stack = [(start, iter(start.next_functions))] if start not in seen else []
        seen.add(start)
        while stack:
            node, children = stack[-1]
            for child, _ in children:
                if child is not None and child not in seen:
                    seen.add(child)
                    stack.append((child, iter(child.next_functions)))
                    break
            else:
                stack.pop()
                yield node


def check_mixing(graph: Graph) -> None:
    """Raise for batch norm in training mode on examples of several losses."""
    for name, node, reach in zip(graph.names, graph.nodes, graph.reach, strict=True):
        if not (isinstance(name, str) and "BatchNorm" in name and several(reach)):
            continue
        # Instance norm is a batch norm of one example, whose channels are all examples' channels.
        if getattr(node, "_saved_training", True) and node._input_metadata[0].shape[0] != 1:
            raise ValueError(
                f"`opt.backward(..., examples=...)` must find examples that do not depend on each other. Found batch "
                f"norm in training mode ({name}), which mixes those of several losses. Call .eval() on it, or give "
                "each loss a forward pass of its own and leave `examples` out."
            )


def several(reach: int) -> bool:
    """Tell whether several losses are among those of a bit each."""
    return reach & (reach - 1) != 0
