"""One backward pass of all losses, in which the gradients of weights are taken apart for each.

In: a plan. Out: a row for each loss. May import: jacobian, one_pass.examples, one_pass.graph, one_pass.node_rules,
one_pass.plan.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from mgrad.jacobian import capture, gradient_type, unshared
from mgrad.one_pass.examples import Span
from mgrad.one_pass.graph import Output
from mgrad.one_pass.node_rules import Part, weight_gradients
from mgrad.one_pass.plan import VIEWS, Plan


def crossed(plan: Plan, losses: Sequence[Tensor], seeds: Sequence[Tensor], spans: Sequence[Span]) -> Tensor:
    """Tell whether a loss reaches examples of others, where its gradient enters what is shared; [] of truth values."""
    found = torch.zeros((), dtype=torch.int64, device=losses[0].device)
    for i, loss in enumerate(losses):
        entries = {place: layout for place, layout in plan.entries.items() if plan.graph.reach[place[0]] >> i & 1}
        edges = [GradientEdge(plan.graph.nodes[k], output) for k, output in entries]
        gradients = torch.autograd.grad(loss, edges, seeds[i], retain_graph=True, allow_unused=True) if edges else ()
        for layout, gradient in zip(entries.values(), gradients, strict=True):
            if gradient is not None:
                own = Part(layout, *spans[i], plan.total).of(gradient)
                found += (gradient.count_nonzero() - own.count_nonzero()).to(found.device)
    return found != 0


@torch.no_grad()
def backward_together(
    plan: Plan,
    losses: Sequence[Tensor],
    seeds: Sequence[Tensor],
    spans: Sequence[Span],
    parameters: Sequence[Tensor],
    retain: bool,
) -> list[dict[Tensor, Tensor]]:
    """Backpropagate the sum of the losses and take the weights' gradients on the way, apart for each loss."""
    graph, nodes = plan.graph, plan.graph.nodes
    sums, done = _Sums(plan, len(losses)), set[int]()

    def take(k: int, outputs: Sequence[Tensor | None]) -> None:
        done.add(k)
        wanted, layouts = plan.taken[k]
        for i in _bits(graph.reach[k]):
            parts = [Part(layout, *spans[i], plan.total) for layout in layouts]
            found = weight_gradients(nodes[k], outputs, parts, wanted, ruled=k in plan.ruled)
            for child, gradient in zip(graph.at(k, wanted), found, strict=True):
                if gradient is not None:
                    sums.add(i, child, _apart(gradient, outputs))

    # Gradients that are asked for make the pass go as far as it must: to the sources, at which it ends, as behind them
    # are only weights; and to the weights where an operation's own function computes their gradients.
    asked: dict[Output, None] = {}
    for k, (wanted, _) in plan.taken.items():
        if k not in plan.ruled:
            asked |= dict.fromkeys(graph.at(k, wanted))
        elif k in plan.sources:
            asked[k, 0] = None
    asked |= dict.fromkeys((k, 0) for k in graph.strangers)
    # Expressions that the pass runs on its way to such weights, or to other leaves, are run again afterwards.
    further = len(plan.ruled) < len(plan.taken) or bool(graph.strangers)
    retain |= further and any(graph.names[k] not in VIEWS for k in plan.expressions)
    handles = [nodes[k].register_prehook(lambda outputs, k=k: take(k, outputs)) for k in plan.taken]
    behind = dict[Tensor, Tensor]()
    try:
        with capture(parameters, behind):
            edges = [GradientEdge(nodes[k], output) for k, output in asked]
            found = torch.autograd.grad(losses, edges, seeds, retain_graph=retain, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()  # a hook would keep the graph alive
    if behind:
        raise RuntimeError(
            "`opt.backward(..., examples=...)` must find every gradient in the graph of the losses. Found one of shape "
            f"{[*next(iter(behind)).shape]} that was accumulated behind it. Leave `examples` out."
        )
    for (k, _), gradient in zip(asked, found, strict=True):
        if k in plan.taken and k not in done and gradient is not None:
            take(k, [gradient])
        elif k in graph.strangers and gradient is not None:
            torch.autograd.backward(nodes[k].variable, gradient)  # adds up in `.grad` as ever
    return [sums.row(i) for i in range(len(losses))]


class _Sums:
    """Adds up the gradients of parameters and of what is computed from them, for each loss."""

    def __init__(self, plan: Plan, losses: int) -> None:
        """Have none."""
        self.plan, self.graph = plan, plan.graph
        self.sums: list[dict[Output, Tensor]] = [{} for _ in range(losses)]

    def add(self, loss: int, place: Output, gradient: Tensor) -> None:
        """Add a gradient at an operation's output, as autograd would: in its shape and type."""
        metadata = self.graph.nodes[place[0]]._input_metadata[place[1]]
        gradient = gradient.sum_to_size(metadata.shape).to(metadata.dtype)
        before = self.sums[loss].get(place)
        self.sums[loss][place] = gradient if before is None else before + gradient

    def row(self, loss: int) -> dict[Tensor, Tensor]:
        """Pull what was computed from parameters back to them; return their blocks, each in memory of its own."""
        sums = self.sums[loss]
        for k in self.plan.expressions:
            node = self.graph.nodes[k]
            outputs = [sums.pop((k, output), None) for output in range(len(node._input_metadata))]
            if any(output is not None for output in outputs):
                found = node(*outputs)
                found = found if isinstance(found, tuple) else (found,)
                for child, gradient in zip(self.graph.children[k], found, strict=True):
                    if child is not None and child[0] in self.plan.weights and gradient is not None:
                        self.add(loss, child, gradient)
        row = dict[Tensor, Tensor]()
        for parameter, k in self.graph.leaves.items():
            if (block := sums.pop((k, 0), None)) is not None:
                block = block.to(gradient_type(parameter))
                if block.untyped_storage().nbytes() != block.nbytes:
                    block = block.clone(memory_format=torch.contiguous_format)
                row[parameter] = block
        return unshared(row)


def _bits(number: int) -> Iterator[int]:
    """Yield the places of the bits of a number."""
    while number:
        yield (number & -number).bit_length() - 1
        number &= number - 1


def _apart(gradient: Tensor, others: Sequence[Tensor | None]) -> Tensor:
    """Return a gradient in memory that is not one of the others': these are autograd's."""
    places = {other.untyped_storage().data_ptr() for other in others if other is not None}
    return gradient.clone() if gradient.untyped_storage().data_ptr() in places else gradient
