"""Tables from the results: `python -m benchmarks.noise.report`.

In: noise.json. Out: Markdown. May import: command, tables.
"""

from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.tables import table

FILE = Path(__file__).parent / "results" / "noise.json"
COLUMNS = {
    "rate": "rate",
    "mean": "mean left",
    "worst": "worst left",
    "strong": "‖r‖",
    "distance": "‖θ−θ₀‖",
    "idle": "idle",
    "seen": "‖r‖ seen/true",
    "risen": "against a loss",
}


def page(record: dict[str, Any]) -> str:
    """Return what the record says, as Markdown."""
    parts = []
    for problem, noise in dict.fromkeys((run["problem"], run["noise"]) for run in record["runs"]):
        rows = [
            [run["option"], *(_number(name, run[name]) for name in COLUMNS)]
            for run in record["runs"]
            if (run["problem"], run["noise"]) == (problem, noise)
        ]
        parts.append(table([f"{problem}, noise {noise:g}", *COLUMNS.values()], rows))
    return "\n\n".join(parts)


def _number(name: str, value: float | None) -> str:
    """Return a figure with two digits or so; nothing where there is none."""
    if value is None:
        return ""
    if name == "rate":
        return f"{value:g}"
    if name == "risen":
        return f"{100 * value:.0f} %"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.1e}"


main = command.show("noise", page, FILE)

if __name__ == "__main__":
    main(None)
