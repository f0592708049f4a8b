"""The records of the timing, looked up by problem, family, size and solver. May import: nothing of this package."""

from collections.abc import Iterable
from statistics import median
from typing import Any

Record = dict[str, Any]


class Times:
    """The records of the timing, looked up by problem, family, size and solver."""

    def __init__(self, records: Iterable[Record]) -> None:
        """Sort them."""
        self.records = list(records)
        self._cells = {(r["problem"], r["family"], r["size"], r["solver"]): r for r in self.records}

    def values(self, key: str) -> list[Any]:
        """Return what a key takes as its values, in order."""
        return list(dict.fromkeys(record[key] for record in self.records))

    def get(self, problem: str, family: str, size: int, solver: str) -> float | None:
        """Return the median time in µs, None where there is none."""
        record = self._cells.get((problem, family, size, solver))
        return None if record is None else record["median"]

    def middle(self, problem: str, size: int, solver: str) -> float | None:
        """Return the median of the families' median times."""
        times = [self.get(problem, family, size, solver) for family in self.values("family")]
        known = [time for time in times if time is not None]
        return median(known) if known else None

    def ratio(self, problem: str, family: str, size: int, first: str, second: str) -> float | None:
        """Return how many times longer the first solver takes than the second."""
        one, other = (self.get(problem, family, size, solver) for solver in (first, second))
        return None if one is None or other is None else one / other
