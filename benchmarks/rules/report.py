"""Tables from the results: `python -m benchmarks.rules.report`.

In: rules.json. Out: Markdown. May import: command, tables.
"""

import math
from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.tables import table

FILE = Path(__file__).parent / "results" / "rules.json"
COLUMNS = {
    "half": "steps to half",
    "mean": "mean left",
    "worst": "worst left",
    "best": "best left",
    "stationarity": "√δ",
    "strong": "‖r‖",
    "distance": "‖θ−θ₀‖",
    "risen": "risen",
}


def page(record: dict[str, Any]) -> str:
    """Return what the record says, as Markdown."""
    parts = []
    for problem, noise in dict.fromkeys((run["problem"], run["noise"]) for run in record["runs"]):
        label = f"{problem}{f', noise {noise:g}' if noise else ''}"
        rows = [
            [run["rule"], *(_number(name, run[name]) for name in COLUMNS)]
            for run in record["runs"]
            if (run["problem"], run["noise"]) == (problem, noise)
        ]
        parts.append(table([label, *COLUMNS.values()], rows))
    return "\n\n".join(parts)


def _number(name: str, value: float) -> str:
    """Return a figure with two digits or so."""
    if not math.isfinite(value):
        return "never"
    if name == "half":
        return f"{value:.0f}"
    if name == "risen":
        return f"{100 * value:.1f} %"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.1e}"


main = command.show("rules", page, FILE)

if __name__ == "__main__":
    main(None)
