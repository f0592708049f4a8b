"""The block in which an encoder runs in bfloat16, also on a CPU that has no instructions for it.

In: a device. Out: a context. May import: torch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def bfloat16(device: str) -> Iterator[None]:
    """Run linear layers in bfloat16: `torch.autocast`, which is far slower on a CPU without such instructions.

    There the same products are taken in float32: of factors rounded to bfloat16, with sums in float32, rounded to
    bfloat16, forward and backward. So runs of different machines differ by the order of sums alone.
    """
    with torch.autocast(device, torch.bfloat16):
        if device == "cpu" and not _has_instructions():
            with Rounded():
                yield
        else:
            yield


class Rounded(TorchFunctionMode):
    """Takes each linear layer's product in float32, of factors that are bfloat16's."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Make any other call as it is."""
        if func is not torch.nn.functional.linear:
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            rounded = {name: _round(part) for name, part in (kwargs or {}).items()}
            return func(*map(_round, args), **rounded).bfloat16()


def _round(part: Tensor | None) -> Tensor | None:
    """Round to bfloat16, and its gradient too."""
    return None if part is None else part.bfloat16().float()


def _has_instructions() -> bool:
    """Return whether oneDNN takes products of bfloat16 on this CPU."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
