"""Tables from the results: `python -m benchmarks.overhead.report`.

In: overhead.json. Out: Markdown. May import: command, tables, fits, models, peers, profile, record, scaling,
steppers.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.overhead.fits import fits, share
from benchmarks.overhead.models import MODELS
from benchmarks.overhead.peers import EVERYONE
from benchmarks.overhead.profile import PARTS
from benchmarks.overhead.record import of_device
from benchmarks.overhead.scaling import BYTES
from benchmarks.overhead.scaling import PARTS as SCALED
from benchmarks.overhead.steppers import OURS, REFERENCE
from benchmarks.tables import number, table

FILE = Path(__file__).parent / "results" / "overhead.json"
Row = dict[str, Any]
# What a step may cost on this model: of the time of m plain passes, by m over batches and at any m with heads; of the
# memory of m gradients more.
MODEL, TIMES, HEADS, MEMORY = "transformer", {5: 1.05, 16: 1.08}, 1.05, 1.05


def page(record: Row) -> str:
    """Return what the record says, as Markdown."""
    parts = [*_bars(record)]
    for device in record["environments"]:
        on = of_device(record, device)
        where = "" if device == "cpu" else f"{device}, "
        for model, setting in _pairs(on["times"] + on["memory"]):
            times, memory = (
                [row for row in on[part] if (row["model"], row["setting"]) == (model, setting)]
                for part in ("times", "memory")
            )
            used = [row for row in memory if "used" in row]
            for rows, what, cell in (
                (times, "time / m passes", time_cell),
                (memory, "gradients above m passes", memory_cell),
                (used, "gradients above m passes, in use", partial(memory_cell, which="used")),
            ):
                if rows:
                    parts.append(_steppers(f"{where}{model}, {setting}: {what}", rows, cell))
        parts += [_profile(where, model, setting, on["profile"]) for model, setting in _pairs(on["profile"])]
        parts += _scaling(where, on["scaling"])
    return "\n\n".join(parts)


def time_cell(row: Row, rows: Sequence[Row]) -> str:
    """Return a ratio with its quartiles."""
    return f"{row['ratio']:.2f} ({row['low']:.2f}–{row['high']:.2f})"


def memory_cell(row: Row, rows: Sequence[Row], which: str = "bytes") -> str:
    """Return a number of gradients."""
    found = gradients(row, rows, which)
    return "" if found is None else f"{found:.1f}"


def gradients(row: Row, rows: Sequence[Row], which: str = "bytes") -> float | None:
    """Return the bytes, or those in use, above the reference's of the same cell, in gradients: of n float32 values."""
    keys = ("device", "model", "setting", "losses")
    for other in rows:
        if other["stepper"] == REFERENCE and which in other and all(other[key] == row[key] for key in keys):
            return float((row[which] - other[which]) / (BYTES * row["values"])) if which in row else None
    return None


def _pairs(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return the models with their settings, in order."""
    found = {(row["model"], row["setting"]) for row in rows}
    return sorted(found, key=lambda pair: (pair[1], list(MODELS).index(pair[0])))


def _steppers(title: str, rows: Sequence[Row], cell: Any) -> str:
    """Return a table of steppers and numbers of losses."""
    columns = sorted({row["losses"] for row in rows})
    names = [name for name in EVERYONE if any(row["stepper"] == name for row in rows)]
    cells = {(row["stepper"], row["losses"]): "failed" if "failed" in row else cell(row, rows) for row in rows}
    lines = [[name, *(cells.get((name, m), "") for m in columns)] for name in names]
    return table([title, *(f"m = {m}" for m in columns)], lines)


def _bars(record: Row) -> list[str]:
    """Return a table of what a step may cost and does, as far as it was measured."""
    lines = []

    def rows(part: str, setting: str, m: int) -> dict[str, Row]:
        chosen = {"device": "cpu", "model": MODEL, "setting": setting, "losses": m}
        found = [row for row in record[part] if chosen.items() <= row.items()]
        return {row["stepper"]: row for row in found if "failed" not in row}

    for m, bar in TIMES.items():
        for setting, most in (("batches", bar), ("heads", HEADS)):
            if OURS in (found := rows("times", setting, m)):
                ratio, least = found[OURS]["ratio"], _least(record, found[REFERENCE])
                what = f"{setting}, m = {m}: time / m passes"
                lines.append([what, f"{most:.2f}", f"{ratio:.2f}", _met(ratio, most), least])
        memory = rows("memory", "batches", m)
        for which, what in (("bytes", "gradients"), ("used", "gradients, in use")):
            above = gradients(memory[OURS], list(memory.values()), which) if OURS in memory else None
            if above is not None:
                most = MEMORY * m
                lines.append([f"batches, m = {m}: {what}", f"{most:.2f}", f"{above:.2f}", _met(above, most), ""])
    return [table([MODEL, "at most", "found", "", "reading and writing alone"], lines)] if lines else []


def _least(record: Row, reference: Row) -> str:
    """Return what G and d add at the bandwidth of a copy: m rows, θ and θ₀ are read for each, and d is written."""
    copies = [row["bandwidth"] for row in record["scaling"] if row["device"] == reference["device"]]
    if not copies or "values" not in reference:
        return ""
    moved = BYTES * reference["values"] * (2 * (reference["losses"] + 2) + 1)
    return f"+{moved / copies[0] / reference['seconds']:.2f}"


def _met(found: float, bar: float) -> str:
    """Return whether a bar is met."""
    return "met" if found <= bar else "not met"


def _profile(where: str, model: str, setting: str, rows: Sequence[Row]) -> str:
    """Return a table of what each part takes more than in a plain step, in hundredths of a plain step."""
    rows = [row for row in rows if (row["model"], row["setting"]) == (model, setting)]
    rows.sort(key=lambda row: row["losses"])
    lines = [[part, *(_percent(row, [part]) for row in rows)] for part in PARTS]
    lines.append(["all", *(_percent(row, PARTS) for row in rows)])
    title = f"{where}{model}, {setting}: more than a plain step"
    return table([title, *(f"m = {row['losses']}" for row in rows)], lines)


def _percent(row: Row, parts: Sequence[str]) -> str:
    """Return what some parts take more, in hundredths of the plain step."""
    more = sum(row["ours"][part] - row["plain"][part] for part in parts)
    return f"{100 * more / sum(row['plain'].values()):+.1f} %"


def _scaling(where: str, rows: Sequence[Row]) -> list[str]:
    """Return a table of milliseconds and shares of the bandwidth, and what fits them."""
    if not rows:
        return []
    rows = sorted(rows, key=lambda row: (row["losses"], row["values"]))
    lines = []
    for row in rows:
        cells = [(number(1000 * row[part][1]), f"{100 * share(row, part):.0f} %") for part in SCALED]
        lines.append([str(row["losses"]), f"{row['values']:.0e}", *(cell for pair in cells for cell in pair)])
    header = [f"{where}m", "n", *(f"{part}, {what}" for part in SCALED for what in ("ms", "of the bandwidth"))]
    copies = sorted({f"{row['bandwidth'] / 1e9:.1f}" for row in rows}, key=float)
    notes = [f"- bandwidth of a copy: {' to '.join(dict.fromkeys((copies[0], copies[-1])))} GB/s"]
    return [table(header, lines), "\n".join(notes + [f"- {fit}" for fit in fits(rows)])]


main = command.show("overhead", page, FILE)

if __name__ == "__main__":
    main(None)
