"""Looking on while each loss has a pass of its own: where in the graph its gradients are not 0.

In: gradients at the outputs of operations. Out: layouts are ruled out. May import: one_pass.examples, one_pass.graph,
one_pass.known, one_pass.node_rules, one_pass.plan.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mgrad.one_pass.examples import Span
from mgrad.one_pass.graph import Output
from mgrad.one_pass.known import Known
from mgrad.one_pass.node_rules import Layout
from mgrad.one_pass.plan import Plan


class Watch:
    """Sees in separate passes where the gradients of each loss are not 0."""

    def __init__(self, plan: Plan, known: Known, spans: Sequence[Span]) -> None:
        """See nothing yet."""
        self.plan, self.known, self.spans = plan, known, spans
        self.seen: list[tuple[Output, Layout, int, Tensor]] = []
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

    def _look(self, place: Output, gradient: Tensor, loss: int) -> None:
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
