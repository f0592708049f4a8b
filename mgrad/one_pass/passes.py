"""One pass for all losses where it can be, a pass for each where it must.

In: losses, and which examples of the batch are whose. Out: a row for each. May import: jacobian, one_pass.examples,
one_pass.graph, one_pass.known, one_pass.plan, one_pass.together, one_pass.watch.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mgrad.jacobian import capture, shared_graphs
from mgrad.one_pass.examples import Span
from mgrad.one_pass.graph import Graph, check_mixing
from mgrad.one_pass.known import Known
from mgrad.one_pass.plan import Plan
from mgrad.one_pass.together import backward_together, crossed
from mgrad.one_pass.watch import Watch

_REMEMBERED = 32  # graphs


class OnePass:
    """What is known of the graphs of earlier steps: where in them the examples lie.

    The first step with a graph takes a pass for each loss and looks on; so do the 2nd, 4th, 8th, … and those before
    all is known (a gradient that is 0 tells nothing). All others take one pass, after looking at the end of the graph
    alone: that each loss is one of its own examples.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._known: dict[Any, Known] = {}

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
        Other leaves of the graph, such as parameters of another optimizer, have their gradients added to `.grad` by it.

        Args:
            losses: of one batch, scalars.
            seeds: their own gradients, by which the rows are multiplied.
            spans: from `check_examples`, for each loss.
            parameters: of which gradients are taken.
            later: a loss whose own backward pass will follow: what it shares with the others' graphs is not freed.
            wait: whether a device may be asked for values, at steps that do not look on: if a loss depends on others'
                examples there, m passes are taken instead; without asking, all rows are NaN. Where there are other
                leaves, in whose `.grad` a NaN would stay, it is asked all the same.

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
        graph = Graph(losses, parameters)
        check_mixing(graph)
        known = self._known.pop(graph.key, None) or Known()
        self._known[graph.key] = known  # the last used is the last
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        known.steps += 1
        plan = Plan(graph, known, max(stop for _, stop in spans))
        looks = not plan.obstacle and (plan.unknown or known.steps & (known.steps - 1) == 0)
        if not (plan.obstacle or looks):
            across = crossed(plan, losses, seeds, spans)
            if not (wait or graph.strangers):
                seeds = [seed.masked_fill(across.to(seed.device), torch.nan) for seed in seeds]
            elif across:
                looks = True
        if not (plan.obstacle or looks):
            return backward_together(plan, losses, seeds, spans, parameters, later is not None and graph.holds(later))
        watch = Watch(plan, known, spans) if looks else None
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
            plan = Plan(graph, known, plan.total)
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
