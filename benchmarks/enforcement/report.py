"""Tables from the results: `python -m benchmarks.enforcement.report`.

In: enforcement.json. Out: Markdown. May import: command, tables.
"""

from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.tables import table

FILE = Path(__file__).parent / "results" / "enforcement.json"
COLUMNS = {
    "broken": "promise broken",
    "rising": "rises, first order",
    "risen": "has risen",
    "corrected": "corrected",
}


def page(record: dict[str, Any]) -> str:
    """Return what the record says, as Markdown."""
    parts = []
    for problem in dict.fromkeys(row["problem"] for row in record["promises"]):
        rows = [
            [row["base"], row["setting"], *(f"{100 * row[name]:.1f} %" for name in COLUMNS), f"{row['fall']:.2e}"]
            for row in record["promises"]
            if row["problem"] == problem
        ]
        first = next(row for row in record["promises"] if row["problem"] == problem)
        parts.append(f"`{problem}`: {first['steps']} steps, {first['seeds']} seed{'s' if first['seeds'] > 1 else ''}.")
        parts.append(table([problem, "promise", *COLUMNS.values(), "mean fall"], rows))
    rows = [[name, f"{1e3 * row['median']:.0f}", f"{row['ratio']:.3f}"] for name, row in record["cost"].items()]
    parts.append(table(["a step, AdamW, 5 losses", "ms", "times as long as it is"], rows))
    return "\n\n".join(parts)


main = command.show("enforcement", page, FILE)

if __name__ == "__main__":
    main(None)
