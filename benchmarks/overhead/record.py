"""The record to which every run of the benchmark adds.

In: rows of measurements. Out: a JSON file. May import: results.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import results

Row = dict[str, Any]
_CELL = ("device", "model", "setting", "losses", "stepper", "values")  # of which a part's rows have some
PARTS = ("times", "memory", "profile", "scaling")


class Record:
    """Rows by part and cell; a cell that is measured again replaces what was there.

    Args:
        file: to go on with, if it exists.
        device: "cpu" or "cuda".
        environment: of this run: what was measured elsewhere is in another file.

    Raises:
        ValueError: if the file's rows of this device come from another environment.
    """

    def __init__(self, file: Path, device: str, environment: Row) -> None:
        self.file = file
        self.record: dict[str, Any] = {"environments": {}, **{part: [] for part in PARTS}} | results.read(file)
        before = self.record["environments"].setdefault(device, environment)
        if before != environment:
            raise ValueError(
                f"`--out {file}` must be of one environment for each device. Found {before} in it, and {environment} "
                "here. Give another file, or begin this one anew with --new."
            )

    def add(self, part: str, rows: Iterable[Row]) -> None:
        """Add the rows of a part and write the file."""
        known = {_cell(row): row for row in self.record[part]}
        known.update((_cell(row), row) for row in rows)
        self.record[part] = list(known.values())
        results.write(self.file, self.record)

    def has(self, part: str, **cell: Any) -> bool:
        """Tell whether a part has a row of this cell."""
        return any(_cell(row) == _cell(cell) for row in self.record[part])


def of_device(record: dict[str, Any], device: str) -> dict[str, list[Row]]:
    """Return the rows of a device by part."""
    return {part: [row for row in record[part] if row["device"] == device] for part in PARTS}


def _cell(row: Row) -> tuple[Any, ...]:
    """Return what names the row, but not the parameters' number where that was found out."""
    return tuple(row.get(key) for key in _CELL if not (key == "values" and "stepper" in row))
