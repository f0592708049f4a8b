"""Tables from the results: `python -m benchmarks.overhead.report`.

In: overhead.json. Out: Markdown. May import: command, tables.
"""

from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.tables import table

FILE = Path(__file__).parent / "results" / "overhead.json"


def page(record: dict[str, Any]) -> str:
    """Return what the record says, as Markdown: of each setting its times and its memory."""
    parts = []
    for setting in dict.fromkeys(row["setting"] for row in record["times"]):
        for part, first in (("times", "time / m passes"), ("memory", "gradients above m passes")):
            rows = [row for row in record[part] if row["setting"] == setting]
            columns = list(dict.fromkeys((row["model"], row["losses"]) for row in rows))
            cells = {(row["stepper"], row["model"], row["losses"]): _cell(row) for row in rows}
            steppers = dict.fromkeys(row["stepper"] for row in rows)
            header = [f"{setting}: {first}", *(f"{model}, m = {m}" for model, m in columns)]
            parts.append(table(header, [[s, *(cells[(s, *column)] for column in columns)] for s in steppers]))
    return "\n\n".join(parts)


def _cell(row: dict[str, Any]) -> str:
    """Return a ratio with its quartiles, or a number of gradients."""
    if "ratio" in row:
        return f"{row['ratio']:.2f} ({row['low']:.2f}–{row['high']:.2f})"
    return f"{row['gradients']:.1f}"


main = command.show("overhead", page, FILE)

if __name__ == "__main__":
    main(None)
