"""What is known of a graph from earlier steps: where in it the examples lie.

In: layouts that were not ruled out. Out: the one that is left. May import: one_pass.graph, one_pass.node_rules.
"""

from collections.abc import Sequence

from mgrad.one_pass.graph import Output
from mgrad.one_pass.node_rules import Layout


class Known:
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
        self.layouts: dict[Output, set[Layout]] = {}
        self.reached: dict[Output, int] = {}
        self.hidden = self.warned = False

    def layout(self, place: Output, shape: Sequence[int], total: int, reach: int) -> Layout | bool | None:
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
