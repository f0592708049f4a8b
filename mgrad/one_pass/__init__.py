"""The gradients of many losses of one batch, from one backward pass.

In: losses, and which examples of the batch are whose. Out: a row for each. May import: its own files, which import
jacobian. Knows no optimizer.

A backward pass of the sum of the losses leaves, at the output of every layer, the gradients of all of them: each in the
places of its own examples, if no layer mixes examples. There the gradient of the layer's weights, a sum over places, is
split (math.md, 130-132). The graph that autograd has recorded names every use of a parameter, in a module or out of it,
so that none is missed. Where the examples lie is not assumed: m separate passes over the same graph, whose rows are
right whatever the graph, show it, as places that the other losses' gradients do not reach.
"""

from mgrad.one_pass.examples import check_examples
from mgrad.one_pass.passes import OnePass

__all__ = ["OnePass", "check_examples"]
