"""Seconds, by the processor's clock or by the device's own.

In: a function. Out: seconds. May import: torch.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

import torch


def seconds(work: Callable[[], object], device: str) -> float:
    """Return the seconds that some work takes: between two events on the device, if it has them."""
    if device == "cpu":
        start = perf_counter()
        work()
        return perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()  # also so that the next begins with nothing to wait for
    return float(begin.elapsed_time(end)) / 1000


class Parts:
    """Where the time goes: every moment belongs to the innermost part that is open.

    On a device it is waited for at every border: the parts then add up, to more than the work takes undisturbed.

    Attributes:
        seconds: of each part.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done inside for a part."""
        self._border()
        self._open.append(name)
        try:
            yield
        finally:
            self._border()
            self._open.pop()

    def _border(self) -> None:
        """Count the time since the last border."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        now = perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
