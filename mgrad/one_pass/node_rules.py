"""What a part of the examples contributes to the gradient of a layer's weights.

In: a node of autograd's graph, the gradient that reaches its output, which examples to take. Out: gradients of what
the node's weight-like inputs are. May import: nothing of mgrad.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Node = Any  # torch.autograd.graph.Node, with what it has saved as attributes `_saved_...`


class Layout(NamedTuple):
    """Where a batch of N examples lies in a tensor: along a dimension of size N·k.

    Attributes:
        dim: the dimension, from the left.
        inner: whether the example is the faster index there, (k, N) and not (N, k).
    """

    dim: int
    inner: bool


class Part(NamedTuple):
    """Some examples of a batch, one after the other.

    Attributes:
        layout: where the batch lies; None where all of a tensor is meant.
        start: the first example.
        stop: the one after the last.
        total: N.
    """

    layout: Layout | None
    start: int
    stop: int
    total: int

    def of(self, tensor: Tensor) -> Tensor:
        """Return the part of a tensor in which the batch lies as it does in the output; a view where it can be."""
        if self.layout is None:
            return tensor
        dim, inner = self.layout
        repeats = tensor.shape[dim] // self.total
        if not inner or repeats == 1:
            return tensor.narrow(dim, self.start * repeats, (self.stop - self.start) * repeats)
        apart: Tensor = tensor.unflatten(dim, (repeats, self.total))
        return apart.narrow(dim + 1, self.start, self.stop - self.start).flatten(dim, dim + 1)

    def alone(self, tensor: Tensor) -> Tensor:
        """Return the tensor with 0 in place of all other examples."""
        if self.layout is None:
            return tensor
        dim, inner = self.layout
        size = tensor.shape[dim]
        place = torch.arange(size, device=tensor.device)
        example = place % self.total if inner else place // (size // self.total)
        others = (example < self.start) | (example >= self.stop)
        return tensor.masked_fill(others.view([size if d == dim else 1 for d in range(tensor.ndim)]), 0.0)


class Rule(NamedTuple):
    """How to take the gradients of a node's weights for some of the examples without the others.

    Attributes:
        weights: the inputs, by their place, whose gradients it takes.
        reads: of each of them the tensor that the node must have saved; None where it needs none.
        leading: from the node and its output's number of dimensions to how many of these, from the left, examples may
            lie along.
        broadcast: the inputs that may be broadcast to the output; where examples lie they must have been.
        gradients: from the node, the gradient of its output, the part and the wanted inputs to their gradients, up to
            a sum over dimensions along which an input was broadcast.
    """

    weights: tuple[int, ...]
    reads: tuple[str | None, ...]
    leading: Callable[[Node, int], int]
    broadcast: tuple[int, ...]
    gradients: Callable[[Node, Tensor, Part, Sequence[int]], list[Tensor]]


def weight_gradients(
    node: Node, outputs: Sequence[Tensor | None], parts: Sequence[Part], wanted: Sequence[int], *, ruled: bool
) -> list[Tensor | None]:
    """Return what some examples contribute to the gradients of some of a node's inputs (math.md, 132).

    Args:
        node: that has not been freed.
        outputs: the gradients of its outputs.
        parts: the examples, in each of them.
        wanted: the places of the inputs.
        ruled: whether `rule_of` has found a rule; otherwise the node's own backward function is called with 0 in place
            of the other examples, which is right for every node and reads all of them.
    """
    if ruled:
        (gradient,) = outputs
        assert gradient is not None
        return list(RULES[node.name()].gradients(node, gradient, parts[0], wanted))
    alone = (None if output is None else part.alone(output) for output, part in zip(outputs, parts, strict=True))
    found = node(*alone)
    found = found if isinstance(found, tuple) else (found,)
    return [found[place] for place in wanted]


def rule_of(node: Node, layout: Layout | None, wanted: Sequence[int]) -> Rule | None:
    """Return the rule for some inputs of a node whose examples lie as the layout says; None if there is none."""
    rule = RULES.get(node.name())
    if rule is None or any(place not in rule.weights for place in wanted):
        return None
    if layout is not None and layout.dim >= rule.leading(node, len(node._input_metadata[0].shape)):
        return None
    if node.name() == "EmbeddingBackward0" and (node._saved_sparse or node._saved_scale_grad_by_freq):
        return None  # of another kind; scaled by how often an entry is in the whole batch
    return rule if all(_spread(node, place, layout) for place in wanted if place in rule.broadcast) else None


def _spread(node: Node, place: int, layout: Layout | None) -> bool:
    """Tell whether an input that may be broadcast is the same for all examples."""
    if layout is None:
        return True
    child, output = node.next_functions[place]
    shape, whole = child._input_metadata[output].shape, node._input_metadata[0].shape
    dim = layout.dim - (len(whole) - len(shape))
    return dim < 0 or shape[dim] == 1


def _linear(node: Node, gradient: Tensor, part: Part, wanted: Sequence[int]) -> list[Tensor]:
    """Of b·β + α·X W, X [rows, in], W [in, out]: the rows' sum for b, Xᵀ gradient for W."""
    taken, last = part.of(gradient), wanted[-1]
    found = []
    for place in wanted:
        if place == 0 and node.name() == "AddmmBackward0":
            found.append(taken if node._saved_beta == 1 else taken * node._saved_beta)
            continue
        assert place == last
        inputs = part.of(node._saved_mat1 if node.name() == "AddmmBackward0" else node._saved_self)
        # In the memory order of W: that of torch.nn.Linear is a transposed view, and so is then its gradient's.
        columns = node._saved_mat2_sym_strides[0] == 1
        product = torch.mm(taken.mT, inputs).mT if columns else torch.mm(inputs.mT, taken)
        alpha = getattr(node, "_saved_alpha", 1)
        found.append(product if alpha == 1 else product * alpha)
    return found


def _embedding(node: Node, gradient: Tensor, part: Part, wanted: Sequence[int]) -> list[Tensor]:
    """Of a table: the gradients of its entries, added up where they were looked up."""
    rows, indices = part.of(gradient), part.of(node._saved_indices)
    padding = _signed(node._saved_padding_idx)
    return [torch.ops.aten.embedding_dense_backward(rows, indices, node._saved_weight_sym_argsize_0, padding, False)]


def _layer_norm(node: Node, gradient: Tensor, part: Part, wanted: Sequence[int]) -> list[Tensor]:
    """Of scale and shift."""
    tensors = (part.of(tensor).contiguous() for tensor in (gradient, node._saved_input))
    statistics = (part.of(tensor).contiguous() for tensor in (node._saved_result1, node._saved_result2))
    rows, inputs = tensors
    mean, deviation = statistics
    found = torch.ops.aten.native_layer_norm_backward(
        rows,
        inputs,
        node._saved_normalized_shape,
        mean,
        deviation,
        node._saved_weight,
        node._saved_bias,
        [False, 1 in wanted, 2 in wanted],
    )
    return [found[place] for place in wanted]


def _convolution(node: Node, gradient: Tensor, part: Part, wanted: Sequence[int]) -> list[Tensor]:
    """Of kernel and bias; transposed or not, of any number of dimensions."""
    found = torch.ops.aten.convolution_backward(
        part.of(gradient),
        part.of(node._saved_input),
        node._saved_weight,
        node._saved_bias_sym_sizes_opt,
        node._saved_stride,
        [_signed(size) for size in node._saved_padding],
        node._saved_dilation,
        node._saved_transposed,
        node._saved_output_padding,
        node._saved_groups,
        [False, 1 in wanted, 2 in wanted],
    )
    return [found[place] for place in wanted]


def _sum(node: Node, gradient: Tensor, part: Part, wanted: Sequence[int]) -> list[Tensor]:
    """Of x + α·y."""
    taken = part.of(gradient)
    return [taken * node._saved_alpha if place == 1 and node._saved_alpha != 1 else taken for place in wanted]


def _product(node: Node, gradient: Tensor, part: Part, wanted: Sequence[int]) -> list[Tensor]:
    """Of x·y."""
    others = [node._saved_other if place == 0 else node._saved_self for place in wanted]
    return [part.of(gradient) * part.of(other.expand_as(gradient)) for other in others]


def _signed(number: int) -> int:
    """Return a number that autograd shows as unsigned."""
    return number - 2**64 if number >= 2**63 else number


RULES: dict[str, Rule] = {
    "AddmmBackward0": Rule((0, 2), (None, "mat1"), lambda node, dims: 1, (0,), _linear),
    "MmBackward0": Rule((1,), ("self",), lambda node, dims: 1, (), _linear),
    "EmbeddingBackward0": Rule((0,), ("indices",), lambda node, dims: dims - 1, (), _embedding),
    "NativeLayerNormBackward0": Rule(
        (1, 2), ("input", "input"), lambda node, dims: dims - len(node._saved_normalized_shape), (), _layer_norm
    ),
    "ConvolutionBackward0": Rule((1, 2), ("input", "input"), lambda node, dims: 1, (), _convolution),
    "AddBackward0": Rule((0, 1), (None, None), lambda node, dims: dims, (0, 1), _sum),
    "MulBackward0": Rule((0, 1), ("other", "self"), lambda node, dims: dims, (0, 1), _product),
}
