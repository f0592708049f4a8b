"""The gradients of many losses of one batch, from one backward pass.

In: losses, and which examples of the batch are whose. Out: a row for each. May import: jacobian, node_rules. Knows no
optimizer.

A backward pass of the sum of the losses leaves, at the output of every layer, the gradients of all of them: each in the
places of its own examples, if no layer mixes examples. There the gradient of the layer's weights, a sum over places, is
split (math.md, 130-132). The graph that autograd has recorded names every use of a parameter, in a module or out of it,
so that none is missed. Where the examples lie is not assumed: m separate passes over the same graph, whose rows are
right whatever the graph, show it, as places that the other losses' gradients do not reach.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge

from mgrad.jacobian import capture, shared_graphs, unshared
from mgrad.node_rules import Layout, Node, Part, rule_of, weight_gradients

Span = tuple[int, int]

_LEAF = "torch::autograd::AccumulateGrad"
# Of a parameter, these are the parameter still: nothing of a batch is in them.
_VIEWS = {f"{name}Backward0" for name in ("T", "Transpose", "Permute", "View", "UnsafeView", "Unsqueeze", "ToCopy")}
# What these make of an example may lie anywhere: where it did at a look says nothing of the next step.
_PICKS = ("Index", "Gather", "MaskedSelect", "MaskedScatter", "Scatter", "Take", "Sort", "Topk")
_REMEMBERED = 32  # graphs


def check_examples(
    examples: Mapping[str, int | Sequence[int]] | Sequence[int | Sequence[int]], parts: Mapping[str, Sequence[Tensor]]
) -> list[Span]:
    """Check who owns which examples of the batch.

    Args:
        examples: numbers of examples by name, or in the order of the losses; in the order in which they lie in the
            batch. Of a loss with several parts one number for each.
        parts: the losses, by name.

    Returns:
        For each part of each loss, in the order of `parts`, its first example and the one after its last.

    Raises:
        TypeError: if they are neither by name nor in order, or a number is no integer.
        ValueError: if the names are not those of the losses, or a number is not positive.
    """
    call = "opt.backward(..., examples=...)"
    if not isinstance(examples, (Mapping, Sequence)):
        raise TypeError(
            f"`{call}` must be numbers by name or in the order of the losses. Found {type(examples).__name__}. Pass "
            "how many examples of the batch are whose."
        )
    if not isinstance(examples, Mapping):
        examples = dict(zip(parts, examples, strict=True)) if len(examples) == len(parts) else {}
    if examples.keys() != parts.keys():
        raise ValueError(
            f"`{call}` must have a number for each of the losses {list(parts)}. Found {list(examples)}. Pass how many "
            "examples of the batch are whose, in their order."
        )
    spans, start = dict[str, list[Span]](), 0
    for name, value in examples.items():
        numbers = [value] if isinstance(value, int) or not isinstance(value, Sequence) else [*value]
        if any(not isinstance(number, int) or isinstance(number, bool) for number in numbers):
            raise TypeError(f"`{call}` must have integers. Found {value!r} for {name!r}. Pass numbers of examples.")
        if len(numbers) != len(parts[name]) or any(number < 1 for number in numbers):
            raise ValueError(
                f"`{call}` must have {len(parts[name])} positive number(s) for each loss. Found {value!r} for "
                f"{name!r}. Leave out a loss that has no examples."
            )
        spans[name] = []
        for number in numbers:
            spans[name].append((start, start + number))
            start += number
    return [span for name in parts for span in spans[name]]


class OnePass:
    """What is known of the graphs of earlier steps: where in them the examples lie.

    The first step with a graph takes a pass for each loss and looks on; so do the 2nd, 4th, 8th, … and those before
    all is known (a gradient that is 0 tells nothing). All others take one pass, after looking at the end of the graph
    alone: that each loss is one of its own examples.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._known: dict[Any, _Known] = {}

    def rows(
        self,
        losses: Sequence[Tensor],
        seeds: Sequence[Tensor],
        spans: Sequence[Span],
        parameters: Sequence[Tensor],
        later: Tensor | None = None,
        *,
        wait: bool = True,
    ) -> list[dict[Tensor, Tensor]]:
        """Compute the gradients of all losses (math.md, 130-132).

        Equal to one `torch.autograd.backward` for each loss, up to rounding: of sums over examples in another order.

        Args:
            losses: of one batch, scalars.
            seeds: their own gradients, by which the rows are multiplied.
            spans: from `check_examples`, for each loss.
            parameters: of which gradients are taken.
            later: a loss whose own backward pass will follow: what it shares with the others' graphs is not freed.
            wait: whether a device may be asked for values, at steps that do not look on: if a loss depends on others'
                examples there, m passes are taken instead; without asking, all rows are NaN.

        Returns:
            For each loss its row: the blocks of the parameters that took part.

        Raises:
            ValueError: for batch norm in training mode: it mixes examples. Nothing has been changed by this call.
            RuntimeError: if a gradient was accumulated behind the graph's back.

        Warns:
            UserWarning: once, at a graph whose losses cannot be separated: all its steps take m passes.

        Cost: one backward pass, the rows, a visit of every operation, and for each loss by itself a pass through what
            comes after the last weights; of the steps that look on, m backward passes over the whole batch.
        """
        graph = _Graph(losses, parameters)
        _check_mixing(graph)
        known = self._known.pop(graph.key, None) or _Known()
        self._known[graph.key] = known  # the last used is the last
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        known.steps += 1
        plan = _Plan(graph, known, max(stop for _, stop in spans))
        looks = not plan.obstacle and (plan.unknown or known.steps & (known.steps - 1) == 0)
        if not (plan.obstacle or looks):
            crossed = _crossed(plan, losses, seeds, spans)
            if not wait:
                seeds = [seed.masked_fill(crossed.to(seed.device), torch.nan) for seed in seeds]
            elif crossed:
                looks = True
        if not (plan.obstacle or looks):
            return _one_pass(plan, losses, seeds, spans, parameters, later is not None and graph.holds(later))
        watch = _Watch(plan, known, spans) if looks else None
        retained = shared_graphs([*losses, later] if later is not None else losses)
        rows = []
        for i, (loss, seed) in enumerate(zip(losses, seeds, strict=True)):
            row = dict[Tensor, Tensor]()
            with capture(parameters, row):
                if watch:
                    watch.start(i)
                try:
                    torch.autograd.backward(loss, seed, retain_graph=retained[i])
                finally:
                    if watch:
                        watch.stop()
            if watch:
                watch.learn()
            rows.append(row)
        if watch:
            plan = _Plan(graph, known, plan.total)
        known.hidden |= any(parameter not in graph.leaves for row in rows for parameter in row)
        obstacle = "a gradient that no operation of the graph accounts for" if known.hidden else plan.obstacle
        if obstacle and not known.warned:
            known.warned = True
            warnings.warn(
                f"`opt.backward(..., examples=...)` must find losses that one pass can tell apart. Found {obstacle}. "
                "The gradients are right, and take a pass over the whole batch for each loss: a forward pass each, in "
                "`opt.constraint(name)` blocks, costs less.",
                stacklevel=3,
            )
        return rows


class _Known:
    """What is known of a graph.

    Attributes:
        steps: with it, so far.
        layouts: of an operation's output, by their places, all in which its examples may lie after what was seen.
        reached: whose gradients there have been seen, a bit for each loss.
        hidden: whether gradients came behind the graph's back.
        warned: whether it was said that m passes are taken.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self.steps = 0
        self.layouts: dict[Span, set[Layout]] = {}
        self.reached: dict[Span, int] = {}
        self.hidden = self.warned = False

    def layout(self, place: Span, shape: Sequence[int], total: int, reach: int) -> Layout | bool | None:
        """Return where N examples lie in an output of this shape; None: nowhere, False: that is not yet known."""
        if place not in self.layouts:
            return False
        if not self.layouts[place]:
            return None
        fitting = {
            layout for layout in self.layouts[place] if layout.dim < len(shape) and not shape[layout.dim] % total
        }
        fitting = {Layout(dim, inner and shape[dim] != total) for dim, inner in fitting}  # the same for k = 1
        return next(iter(fitting)) if len(fitting) == 1 and self.reached[place] == reach else False


class _Graph:
    """The graphs of all losses as one.

    Attributes:
        nodes: its operations, each before those whose outputs it takes.
        children: of each its inputs: an operation and the number of its output, or None.
        outputs: of each those that are used.
        reach: of each the losses that depend on it, a bit for each.
        leaves: the parameters, by their operations' place.
        roots: the operations of the losses.
        key: what two graphs have in common that differ in numbers and sizes only.
    """

    def __init__(self, losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        """Visit every operation."""
        starts = [torch.autograd.graph.get_gradient_edge(loss).node for loss in losses]
        order = [*_visit(starts)]
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
        names = []
        for k, node in enumerate(self.nodes):
            for child in self.children[k]:
                if child is not None:
                    self.reach[child[0]] |= self.reach[k]
                    self.outputs[child[0]].add(child[1])
            names.append(node.name())
            if names[-1] == _LEAF and node.variable in numbers:
                self.leaves[node.variable] = k
                names[-1] = numbers[node.variable]
        self.names = names
        dims = [len(node._input_metadata[0].shape) if node._input_metadata else 0 for node in self.nodes]
        self.key = (tuple(names), tuple(map(tuple, self.children)), tuple(dims), tuple(self.roots))

    def at(self, k: int, places: Sequence[int]) -> list[Span]:
        """Return the children of an operation at places where there are some."""
        return [child for place in places if (child := self.children[k][place]) is not None]

    def holds(self, loss: Tensor) -> bool:
        """Tell whether a loss needs an operation of this graph."""
        inside = {node for node in self.nodes if node.name() != _LEAF}
        return any(node in inside for node in _visit([torch.autograd.graph.get_gradient_edge(loss).node]))


def _visit(starts: Sequence[Node]) -> Iterator[Node]:
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


def _check_mixing(graph: _Graph) -> None:
    """Raise for batch norm in training mode on examples of several losses."""
    for name, node, reach in zip(graph.names, graph.nodes, graph.reach, strict=True):
        if not (isinstance(name, str) and "BatchNorm" in name and _several(reach)):
            continue
        # Instance norm is a batch norm of one example, whose channels are all examples' channels.
        if getattr(node, "_saved_training", True) and node._input_metadata[0].shape[0] != 1:
            raise ValueError(
                f"`opt.backward(..., examples=...)` must find examples that do not depend on each other. Found batch "
                f"norm in training mode ({name}), which mixes those of several losses. Call .eval() on it, or give "
                "each loss a forward pass of its own and leave `examples` out."
            )


class _Plan:
    """Where a pass takes what.

    A parameter, and what is computed from parameters alone, is an *expression*: its gradients of several losses lie on
    each other. The first operation after it whose output has the examples apart is where they are taken.

    Attributes:
        taken: of each such operation the weights among its inputs, and the layout of each output (None: it belongs to
            one loss as a whole).
        weights: parameters and all other expressions.
        expressions: the others, each before those that it is made of.
        sources: of `taken` those before which nothing is to be taken.
        known: of `taken` those with a rule.
        entries: outputs by which gradients come from what one loss has for itself, or from before everything that is
            taken, to what is shared; with their layouts.
        watched: whose outputs tell where examples lie.
        unknown: whether that is not yet known of all.
        obstacle: what is in the way of one pass; "" for nothing.
    """

    def __init__(self, graph: _Graph, known: _Known, total: int) -> None:
        """Go from the parameters to the losses."""
        self.graph, self.total = graph, total
        self.taken: dict[int, tuple[list[int], list[Layout | None]]] = {}
        self.expressions: list[int] = []
        self.sources, self.known = set[int](), set[int]()
        self.entries: dict[Span, Layout | None] = {}
        self.watched: list[int] = []
        self.unknown, self.obstacle = False, ""
        self.weights = set(graph.leaves.values())
        needed = set(self.weights)
        for k in reversed(range(len(graph.nodes))):
            inputs = [(place, child[0]) for place, child in enumerate(graph.children[k]) if child is not None]
            inputs = [(place, child) for place, child in inputs if child in needed]
            wanted = [place for place, child in inputs if child in self.weights]
            if not inputs:
                continue
            needed.add(k)
            if not wanted:
                continue
            source = len(wanted) == len(inputs)
            view = source and graph.names[k] in _VIEWS and _several(graph.reach[k])
            layouts = None if view else self._layouts(k, known)
            if layouts is None:
                self.weights.add(k)
                self.expressions.insert(0, k)
                if not source or k in graph.roots:
                    self.obstacle = self.obstacle or self._describe(k)
            elif layouts:
                self.taken[k] = wanted, layouts
                if rule_of(graph.nodes[k], layouts[0], wanted):
                    self.known.add(k)
                if source:
                    self.sources.add(k)
        if any(p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None) for p in graph.leaves):
            self.obstacle = "hooks on parameters"
        if known.hidden:
            self.obstacle = "a gradient that no operation of the graph accounts for"
        self.obstacle = next(filter(None, map(self._opaque, [*self.taken, *self.expressions])), self.obstacle)
        self._enter(known, needed)

    def _enter(self, known: _Known, needed: set[int]) -> None:
        """Find where gradients enter the part of the graph that the losses share, and what there picks by values."""
        graph, inside = self.graph, {k for k in self.taken if _several(self.graph.reach[k])}
        activations = needed - self.weights
        for k in range(len(graph.nodes)):
            rows = [child for child in graph.children[k] if child and child[0] in activations]
            if k in inside:
                inside.update(child for child, _ in rows)
                if rows and graph.names[k].startswith(_PICKS):
                    self.obstacle = self.obstacle or f"what is picked by values in the shared part, by {graph.names[k]}"
                continue
            for child, output in rows:
                if child in inside and (child, output) not in self.entries:
                    layouts = self.taken[child][1] if child in self.taken else self._layouts(child, known)
                    if layouts:
                        self.entries[child, output] = layouts[output]
                    elif layouts is None:
                        self.obstacle = self.obstacle or self._describe(child)

    def _layouts(self, k: int, known: _Known) -> list[Layout | None] | None:
        """Return the layouts of all outputs of an operation: None if it is an expression, [] if that is not known."""
        graph, node = self.graph, self.graph.nodes[k]
        metadata = node._input_metadata
        if not _several(graph.reach[k]):
            return [None] * len(metadata)
        self.watched.append(k)
        found = {
            output: known.layout((k, output), metadata[output].shape, self.total, graph.reach[k])
            for output in graph.outputs[k]
        }
        if None in found.values():
            return None
        layouts = {output: layout for output, layout in found.items() if isinstance(layout, Layout)}
        if len(layouts) < len(found):
            self.unknown = True
            return []
        return [layouts.get(output) for output in range(len(metadata))]

    def _describe(self, k: int) -> str:
        """Say where examples are not apart."""
        shape = [*self.graph.nodes[k]._input_metadata[0].shape]
        return (
            f"that the output of {self.graph.names[k]}, of shape {shape}, does not have the {self.total} examples apart"
        )

    def _opaque(self, k: int) -> str:
        """Say why nothing can be taken at an operation, "" if it can."""
        node, name = self.graph.nodes[k], self.graph.names[k]
        if isinstance(node, BackwardCFunction):
            return f"weights inside a function of its own, {name}"
        if k in self.weights:
            return ""
        if k in self.known:
            rule = rule_of(node, self.taken[k][1][0], self.taken[k][0])
            assert rule is not None
            reads = [rule.reads[rule.weights.index(place)] for place in self.taken[k][0]]
            attributes = [f"_raw_saved_{label}" for label in reads if label]
        else:
            attributes = [label for label in dir(node) if label.startswith("_raw_saved_")]
        for label in attributes:
            saved = getattr(node, label)
            for one in saved if isinstance(saved, (tuple, list)) else [saved]:
                if getattr(one, "unpack_hook", None) is not None:
                    return f"activations of {name} that are checkpointed or packed otherwise, to be read once"
        return ""


class _Watch:
    """Sees in separate passes where the gradients of each loss are not 0."""

    def __init__(self, plan: _Plan, known: _Known, spans: Sequence[Span]) -> None:
        """See nothing yet."""
        self.plan, self.known, self.spans = plan, known, spans
        self.seen: list[tuple[Span, Layout, int, Tensor]] = []
        self.handles: list[Any] = []

    def start(self, loss: int) -> None:
        """Look on while this loss is backpropagated."""

        def look(k: int, outputs: Sequence[Tensor | None]) -> None:
            for output, gradient in enumerate(outputs):
                if gradient is not None and gradient.numel():
                    self._look((k, output), gradient, loss)

        for k in self.plan.watched:
            node = self.plan.graph.nodes[k]
            self.handles.append(node.register_prehook(lambda outputs, k=k: look(k, outputs)))

    def stop(self) -> None:
        """Look no longer; a hook would keep the graph alive."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def _look(self, place: Span, gradient: Tensor, loss: int) -> None:
        """Note which examples a gradient reaches, for every place where they may lie."""
        total, shape = self.plan.total, gradient.shape
        if place not in self.known.layouts:
            dims = [dim for dim, size in enumerate(shape) if size % total == 0]
            self.known.layouts[place] = {Layout(dim, inner) for dim in dims for inner in (False, True)}
            self.known.reached[place] = 0
        if not self.known.layouts[place]:
            return
        there = gradient != 0  # also where it is NaN
        for layout in self.known.layouts[place]:
            if shape[layout.dim] % total == 0:
                others = [dim for dim in range(there.ndim) if dim != layout.dim]
                along = there.any(dim=others) if others else there
                along = along.view(-1, total).any(0) if layout.inner else along.view(total, -1).any(1)
                self.seen.append((place, layout, loss, along))

    def learn(self) -> None:
        """Drop the layouts by which a gradient would have reached examples of others."""
        seen, self.seen = self.seen, []
        for place, layout, loss, along in seen:
            start, stop = self.spans[loss]
            reached = along.cpu()
            if reached[:start].any() or reached[stop:].any():
                self.known.layouts[place].discard(layout)
            elif reached.any():
                self.known.reached[place] |= 1 << loss


def _crossed(plan: _Plan, losses: Sequence[Tensor], seeds: Sequence[Tensor], spans: Sequence[Span]) -> Tensor:
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
def _one_pass(
    plan: _Plan,
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
            found = weight_gradients(nodes[k], outputs, parts, wanted, known=k in plan.known)
            for child, gradient in zip(graph.at(k, wanted), found, strict=True):
                if gradient is not None:
                    sums.add(i, child, _apart(gradient, outputs))

    # Gradients that are asked for make the pass go as far as it must: to the sources, at which it ends, as behind them
    # are only weights; and to the weights where an operation's own function computes their gradients.
    asked: dict[Span, None] = {}
    for k, (wanted, _) in plan.taken.items():
        if k not in plan.known:
            asked |= dict.fromkeys(graph.at(k, wanted))
        elif k in plan.sources:
            asked[k, 0] = None
    # Expressions that the pass runs on its way to such weights are run again afterwards.
    retain |= len(plan.known) < len(plan.taken) and any(graph.names[k] not in _VIEWS for k in plan.expressions)
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
    return [sums.row(i) for i in range(len(losses))]


class _Sums:
    """Adds up the gradients of parameters and of what is computed from them, for each loss."""

    def __init__(self, plan: _Plan, losses: int) -> None:
        """Have none."""
        self.plan, self.graph = plan, plan.graph
        self.sums: list[dict[Span, Tensor]] = [{} for _ in range(losses)]

    def add(self, loss: int, place: Span, gradient: Tensor) -> None:
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
                if block.untyped_storage().nbytes() != block.nbytes:
                    block = block.clone(memory_format=torch.contiguous_format)
                row[parameter] = block
        return unshared(row)


def _several(reach: int) -> bool:
    """Tell whether several losses are among those of a bit each."""
    return reach & (reach - 1) != 0


def _bits(number: int) -> Iterator[int]:
    """Yield the places of the bits of a number."""
    while number:
        yield (number & -number).bit_length() - 1
        number &= number - 1


def _apart(gradient: Tensor, others: Sequence[Tensor | None]) -> Tensor:
    """Return a gradient in memory that is not one of the others': these are autograd's."""
    places = {other.untyped_storage().data_ptr() for other in others if other is not None}
    return gradient.clone() if gradient.untyped_storage().data_ptr() in places else gradient
