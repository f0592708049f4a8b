"""Where one pass takes the gradients of weights, and what is in its way.

In: a graph, and what is known of it. Out: operations, with the layouts of their outputs. May import: one_pass.graph,
one_pass.known, one_pass.node_rules.
"""

from torch.autograd.function import BackwardCFunction

from mgrad.one_pass.graph import Graph, Output, several
from mgrad.one_pass.known import Known
from mgrad.one_pass.node_rules import Layout, rule_of

# Of a parameter, these are the parameter still: nothing of a batch is in them.
VIEWS = {f"{name}Backward0" for name in ("T", "Transpose", "Permute", "View", "UnsafeView", "Unsqueeze", "ToCopy")}
_CHECKPOINT = "CheckpointFunction"  # is refused in a pass that ends where it is asked to
# What these make of an example may lie anywhere: where it did at a look says nothing of the next step.
_PICKS = ("Index", "Gather", "MaskedSelect", "MaskedScatter", "Scatter", "Take", "Sort", "Topk")


class Plan:
    """Where a pass takes what.

    A parameter, and what is computed from parameters alone, is an *expression*: its gradients of several losses lie on
    each other. The first operation after it whose output has the examples apart is where they are taken.

    Attributes:
        taken: of each such operation the weights among its inputs, and the layout of each output (None: it belongs to
            one loss as a whole).
        weights: parameters and all other expressions.
        expressions: the others, each before those that it is made of.
        sources: of `taken` those before which nothing is to be taken.
        ruled: of `taken` those with a rule.
        entries: outputs by which gradients come from what one loss has for itself, or from before everything that is
            taken, to what is shared; with their layouts.
        watched: whose outputs tell where examples lie.
        unknown: whether that is not yet known of all.
        obstacle: what is in the way of one pass; "" for nothing.
    """

    def __init__(self, graph: Graph, known: Known, total: int) -> None:
        """Go from the parameters to the losses."""
        self.graph, self.total = graph, total
        self.taken: dict[int, tuple[list[int], list[Layout | None]]] = {}
        self.expressions: list[int] = []
        self.sources, self.ruled = set[int](), set[int]()
        self.entries: dict[Output, Layout | None] = {}
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
            view = source and graph.names[k] in VIEWS and several(graph.reach[k])
            layouts = None if view else self._layouts(k, known)
            if layouts is None:
                self.weights.add(k)
                self.expressions.insert(0, k)
                if not source or k in graph.roots:
                    self.obstacle = self.obstacle or self._describe(k)
            elif layouts:
                self.taken[k] = wanted, layouts
                if rule_of(graph.nodes[k], layouts[0], wanted):
                    self.ruled.add(k)
                if source:
                    self.sources.add(k)
        if any(p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None) for p in graph.leaves):
            self.obstacle = "hooks on parameters"
        if any(graph.nodes[k].variable._backward_hooks for k in graph.strangers):
            self.obstacle = "hooks on tensors that are no parameters"
        if any(str(graph.names[k]).startswith(_CHECKPOINT) for k in graph.above(graph.strangers)):
            self.obstacle = "reentrant checkpointing on the way to tensors that are no parameters"
        if known.hidden:
            self.obstacle = "a gradient that no operation of the graph accounts for"
        self.obstacle = next(filter(None, map(self._opaque, [*self.taken, *self.expressions])), self.obstacle)
        self._enter(known, needed)

    def _enter(self, known: Known, needed: set[int]) -> None:
        """Find where gradients enter the part of the graph that the losses share, and what there picks by values."""
        graph, inside = self.graph, {k for k in self.taken if several(self.graph.reach[k])}
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

    def _layouts(self, k: int, known: Known) -> list[Layout | None] | None:
        """Return the layouts of all outputs of an operation: None if it is an expression, [] if that is not known."""
        graph, node = self.graph, self.graph.nodes[k]
        metadata = node._input_metadata
        if not several(graph.reach[k]):
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
        if k in self.ruled:
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
