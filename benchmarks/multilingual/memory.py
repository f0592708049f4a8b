"""How much memory is taken at most.

In: nothing. Out: bytes. May import: torch.
"""

import re
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """The most memory that was taken since the last reset: on the CUDA device if there is one, else of the process.

    That of the process is known on Linux alone; 0 elsewhere. It is what is resident, with Python and torch themselves.
    """

    def reset(self) -> None:
        """Begin anew."""
        if torch.get_default_device().type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif _RESET.exists():
            _RESET.write_text("5", encoding="ascii")  # see proc(5)

    def read(self) -> int:
        """Return the bytes."""
        if torch.get_default_device().type == "cuda":
            return torch.cuda.max_memory_allocated()
        found = re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text(encoding="ascii")) if _STATUS.exists() else None
        return 1024 * int(found[1]) if found else 0
