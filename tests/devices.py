"""The same tests elsewhere: what a test makes without saying where is on the device of `pytest --device`.

Random numbers with a generator of the host are drawn there, so that they are the same on every device.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class HostRandomness(TorchFunctionMode):
    """Let what is drawn from a generator be drawn where the generator is, and then be moved to the default device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch."""
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if generator is None or kwargs.get("device") is not None or any(isinstance(arg, Tensor) for arg in args):
            return func(*args, **kwargs)
        return func(*args, device=generator.device, **kwargs).to(torch.get_default_device())


@contextmanager
def default_device(device: torch.device | str) -> Iterator[None]:
    """Make a device that of all tensors and modules made without another one."""
    with torch.device(device), HostRandomness():
        yield
