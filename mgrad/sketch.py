"""Inner products of gradients that are not kept: random sketches of them, and losses that are backpropagated twice.

In: gradients as they appear, and losses. Out: estimates of G, and the same gradients once more, weighted. May import:
jacobian, losses. Knows no optimizer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mgrad.jacobian import Block, aside, check_dense, strangers
from mgrad.losses import check_loss

_PIECE = 1 << 17  # values that are sketched together; their places share one table of numbers
_BITS = 32  # of a random word, each the sign of one value
_SAME = 1e-2  # by which a loss may differ when it is computed again: what 16 bits and atomic additions make of it

Vectors = dict[torch.device, Tensor]
"""A sketch: its parts on the devices of the gradient, which add up."""


class Sketch:
    """A random linear map S to k numbers with E SᵀS = 1: every value is added to one of them, with a random sign.

    Places and signs are made again from the seed for every gradient, so that they take no memory of the size of the
    model (math.md, 125-127).

    Args:
        size: k.
        parameters: that the gradients are of.
        seed: of all that is random.

    Cost: of a gradient a few nanoseconds for each value; k + 2¹⁹ numbers of memory on each device.
    """

    def __init__(self, size: int, parameters: Sequence[Tensor], seed: int) -> None:
        """Draw the places."""
        self.size, self.seed, self.parameters = size, seed, parameters
        self.index = {parameter: i for i, parameter in enumerate(parameters)}
        self.places: dict[torch.device, Tensor] = {}
        for device in dict.fromkeys(parameter.device for parameter in parameters):
            # Twice in a row: a piece may begin anywhere.
            places = torch.randint(size, (_PIECE,), generator=_generator(device, seed, 0), device=device)
            self.places[device] = torch.cat([places, places])

    def add(self, vectors: Vectors, parameter: Tensor, block: Block) -> None:
        """Add a block of a gradient to the sketch of that gradient.

        Args:
            vectors: the sketch so far, empty for a new one.
            parameter: whose block it is.
            block: of any floating-point dtype.
        """
        device = parameter.device
        index = self.index[parameter]
        generator = _generator(device, self.seed, 2 * index + 1)
        if device not in vectors:
            vectors[device] = torch.zeros(self.size, dtype=torch.float64, device=device)
        flat = block.detach().reshape(-1) if isinstance(block, Tensor) else block
        length = block.numel()
        pieces = [(start, min(length, start + _PIECE)) for start in range(0, length, _PIECE)]
        host = _generator("cpu", self.seed, 2 * index + 2)
        shifts = torch.randint(_PIECE, (len(pieces),), generator=host, device="cpu")
        words = torch.empty(0, device=device)
        for k, ((start, stop), shift) in enumerate(zip(pieces, shifts.tolist(), strict=True)):
            if k % _BITS == 0:
                words = torch.randint(
                    -(2**31), 2**31, (min(length, _PIECE),), generator=generator, device=device, dtype=torch.int32
                )
            piece = flat[start:stop] if isinstance(flat, Tensor) else flat.piece(start, stop)
            signs = (words[: stop - start] << (k % _BITS)) < 0
            places = self.places[device][shift : shift + stop - start]
            vectors[device].index_add_(0, places, torch.where(signs, -piece, piece).double())

    @contextmanager
    def take(self, vectors: Vectors) -> Iterator[set[Tensor]]:
        """Add every gradient that is backpropagated inside the block as soon as it is there, and keep none.

        What stood in `.grad` before is back afterwards, also after an exception.

        Args:
            vectors: the sketch so far, empty for a new one.

        Yields:
            The parameters that have been reached, more and more; call `backward` inside.

        Raises:
            TypeError: if a gradient is sparse.
        """
        reached = set[Tensor]()

        def hand_over(parameter: Tensor) -> None:
            check_dense("opt.backward(...)", [parameter])
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None:
                reached.add(parameter)
                self.add(vectors, parameter, gradient)

        with aside(self.parameters):
            hooks = [parameter.register_post_accumulate_grad_hook(hand_over) for parameter in self.parameters]
            try:
                yield reached
            finally:
                for hook in hooks:
                    hook.remove()


def _generator(device: torch.device | str, seed: int, index: int) -> torch.Generator:
    """Return a source of random numbers for one purpose."""
    return torch.Generator(device).manual_seed((seed * 1_000_003 + index) % 2**63)


def sketched_gramian(vectors: Sequence[Vectors]) -> Tensor:
    """Return the inner products of sketches, the estimate of those of the gradients (math.md, 126).

    Args:
        vectors: k sketches; an empty one is that of 0.

    Returns:
        [k, k], float64, on the host.
    """
    devices = dict.fromkeys(device for vector in vectors for device in vector)
    size = next(len(part) for vector in vectors for part in vector.values())
    total = torch.zeros(len(vectors), size, dtype=torch.float64, device="cpu")
    for device in devices:
        for row, vector in zip(total, vectors, strict=True):
            if device in vector:
                row += vector[device].cpu()
    return total @ total.T


class Twice:
    """A loss that is backpropagated twice: a tensor keeps its graph, a function is called again with the same numbers.

    Args:
        call: how the user wrote it.
        loss: a scalar tensor, or a function without arguments that returns one.
        parameters: of which gradients are taken, on devices whose random numbers are to be the same.
    """

    def __init__(self, call: str, loss: Tensor | Callable[[], Tensor], parameters: Sequence[Tensor]) -> None:
        """Check what is there to check already."""
        self.call, self.loss, self.parameters = call, loss, parameters
        devices = dict.fromkeys(parameter.device for parameter in parameters)
        self.devices = [device for device in devices if device.type == "cuda"]
        self.value = 0.0
        self.states: list[Tensor] = []
        if not callable(loss):
            check_loss(call, loss)

    def first(self) -> None:
        """Backpropagate it.

        Raises:
            TypeError: if what a function returns is no tensor.
            ValueError: if it is no loss.
        """
        self.states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self.devices)]
        loss = self._evaluate()
        self.value = loss.item()
        torch.autograd.backward(loss, retain_graph=loss is self.loss)

    def second(self, factor: float) -> None:
        """Backpropagate it again, times a factor; leaves that are no parameters keep their gradients of the first pass.

        Raises:
            ValueError: if a function returns another loss than before.
        """
        if isinstance(self.loss, Tensor):
            self._backward_again(self.loss, factor)
            return
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.states[0])
            for device, state in zip(self.devices, self.states[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            loss = self._evaluate()
            if not abs(loss.item() - self.value) <= _SAME * abs(self.value):
                raise ValueError(
                    f"`{self.call}` must be a function that returns the same loss whenever it is called. Found "
                    f"{self.value} and then {loss.item()}. Let it use one batch: draw it outside of the function."
                )
            self._backward_again(loss, factor)

    def _backward_again(self, loss: Tensor, factor: float) -> None:
        """Backpropagate a loss times a factor; other leaves of its graph have their gradients already."""
        others = {leaf: leaf.grad for leaf in strangers(loss, self.parameters)}
        for leaf in others:
            leaf.grad = None
        try:
            torch.autograd.backward(loss, torch.full_like(loss, factor), retain_graph=loss is self.loss)
        finally:
            for leaf, gradient in others.items():
                leaf.grad = gradient

    def _evaluate(self) -> Tensor:
        """Return the loss."""
        loss = self.loss() if callable(self.loss) else self.loss
        check_loss(self.call, loss)
        return loss
