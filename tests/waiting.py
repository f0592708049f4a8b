"""What makes a host wait for a device, as an error: on any device, also where there is no other than the host."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What asks for a value, or for a shape that depends on one.
ASKS = {
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.item,
    torch.ops.aten.is_nonzero,
    torch.ops.aten.equal,
    torch.ops.aten.allclose,
    torch.ops.aten.nonzero,
    torch.ops.aten.masked_select,
    torch.ops.aten.unique_dim,
    torch.ops.aten._unique2,
    torch.ops.aten.repeat_interleave,
}
MASKED = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}  # by a mask they count it first


class NoWaiting(TorchDispatchMode):
    """Raise for any operation that would wait: that asks for values, or moves tensors between devices and blocks."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        masks = packet in MASKED and any(leaf.dtype is torch.bool for leaf in tree_leaves(args[1]) if leaf is not None)
        if packet in ASKS or masks:
            raise AssertionError(f"{func} waits for the device")
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if len({tensor.device for tensor in given + made}) > 1:
            copies = packet in {torch.ops.aten._to_copy, torch.ops.aten.copy_}
            if not (copies and kwargs.get("non_blocking")):
                raise AssertionError(f"{func} moves tensors between devices")
        return result
