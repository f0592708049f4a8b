"""Plots from the results: `python -m benchmarks.overhead.plot`.

In: overhead.json. Out: PNG. May import: report, fits, models, peers, profile, record, results, scaling, steppers,
matplotlib.
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from benchmarks import results
from benchmarks.overhead import fits
from benchmarks.overhead.models import MODELS
from benchmarks.overhead.peers import EVERYONE
from benchmarks.overhead.profile import PARTS
from benchmarks.overhead.record import of_device
from benchmarks.overhead.report import FILE, gradients
from benchmarks.overhead.scaling import PARTS as SCALED
from benchmarks.overhead.scaling import traffic
from benchmarks.overhead.steppers import SETTINGS

mpl.use("agg")
from matplotlib import pyplot as plt

Row = dict[str, Any]
# By how a name begins; of Okabe and Ito, whom the colour-blind can follow.
COLOURS = {
    "m backward": "#999999",
    "one pass": "#999999",
    "less-forgetting": "#000000",
    "TorchJD UPGrad": "#D55E00",
    "TorchJD MGDA": "#E69F00",
    "TorchJD PCD": "#CC79A7",
    "PCGrad": "#0072B2",
    "ConFIG": "#009E73",
}
LINES = ("-", "--", ":", "-.")  # of those of one colour
LIMIT, GOAL = "#999999", 0.7


def draw(record: Row, folder: Path) -> None:
    """Draw all that the record has, for each device."""
    folder.mkdir(parents=True, exist_ok=True)
    for device in record["environments"]:
        on = of_device(record, device)
        for part, paint in (("times", _times), ("memory", _memory), ("profile", _profile), ("scaling", _scaling)):
            if on[part]:
                figure = paint(on[part])
                figure.savefig(folder / f"{part}{'' if device == 'cpu' else '-' + device}.png", dpi=100)
                plt.close(figure)


def look(name: str) -> tuple[str, str]:
    """Return the colour and the line of a stepper."""
    alike = [other for other in EVERYONE if _colour(other) == _colour(name)]
    return _colour(name), LINES[alike.index(name) % len(LINES)]


def _colour(name: str) -> str:
    """Return the colour of the family."""
    return next(colour for begin, colour in COLOURS.items() if name.startswith(begin))


def _times(rows: Sequence[Row]) -> Any:
    """Draw ratios to m plain passes with their quartiles."""

    def point(row: Row) -> tuple[float, float, float] | None:
        return None if "failed" in row else (row["low"], row["ratio"], row["high"])

    return _steppers(rows, "time of a step / m plain passes", point, "log")


def _memory(rows: Sequence[Row]) -> Any:
    """Draw gradients above m plain passes."""

    def point(row: Row) -> tuple[float, float, float] | None:
        found = None if "failed" in row else gradients(row, rows)
        return None if found is None else (found, found, found)

    figure = _steppers(rows, "gradients above m plain passes (thick: m)", point, "linear")
    sizes = sorted({row["losses"] for row in rows})
    for axis in figure.axes:
        axis.plot(sizes, sizes, color=LIMIT, linewidth=5, alpha=0.3, zorder=0)
    return figure


def _steppers(
    rows: Sequence[Row], label: str, point: Callable[[Row], tuple[float, float, float] | None], scale: str
) -> Any:
    """Draw a point for each stepper against m, in a panel for each setting and model."""
    models = [model for model in MODELS if any(row["model"] == model for row in rows)]
    settings = [setting for setting in SETTINGS if any(row["setting"] == setting for row in rows)]
    size = (3.1 * len(models) + 2.9, 3.0 * len(settings) + 0.4)
    figure, axes = plt.subplots(
        len(settings), len(models), figsize=size, sharex=True, layout="constrained", squeeze=False
    )
    lines: dict[str, Any] = {}
    for (i, setting), (j, model) in ((s, m) for s in enumerate(settings) for m in enumerate(models)):
        axis, steps = axes[i][j], count()
        chosen = [row for row in rows if (row["setting"], row["model"]) == (setting, model)]
        names = [name for name in EVERYONE if any(row["stepper"] == name for row in chosen)]
        for name in names:
            own = sorted((row for row in chosen if row["stepper"] == name), key=lambda row: row["losses"])
            points = [(row["losses"], *found) for row in own if (found := point(row)) is not None]
            if not points:
                continue
            m, low, middle, high = np.array(points, dtype=float).T
            m = m * 1.02 ** (next(steps) - len(names) / 2)  # beside one another
            colour, line = look(name)
            spread = (middle - low, high - middle)
            width = 2.4 if name.startswith("less") else 1.3
            style = {"color": colour, "linestyle": line, "linewidth": width, "marker": "o", "markersize": 3}
            lines[name] = axis.errorbar(m, middle, spread, elinewidth=0.8, **style)
        axis.set(title=f"{model}, {setting}", xscale="log", yscale=scale)
        _ticks(axis, sorted({row["losses"] for row in rows}), scale)
    figure.supxlabel("m, losses", fontsize=10)
    figure.supylabel(label, fontsize=10)
    ordered = [name for name in EVERYONE if name in lines]
    figure.legend([lines[name] for name in ordered], ordered, loc="outside right center", frameon=False, fontsize=9)
    return figure


def _ticks(axis: Axes, sizes: Sequence[int], scale: str) -> None:
    """Write plain numbers at the ticks."""
    axis.set_xticks(sizes, map(str, sizes))
    axis.set_xlim(sizes[0] / 1.3, sizes[-1] * 1.3)
    if scale == "log":
        low, high = axis.get_ylim()
        numbers = [x for x in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 30, 50) if low <= x <= high]
        axis.set_yticks(numbers, map(str, numbers))
    axis.minorticks_off()
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _profile(rows: Sequence[Row]) -> Any:
    """Draw what each part takes more than in a plain step; what it takes less goes down."""
    models = [model for model in MODELS if any(row["model"] == model for row in rows)]
    settings = [setting for setting in SETTINGS if any(row["setting"] == setting for row in rows)]
    size = (2.7 * len(models) + 1.8, 3.0 * len(settings) + 0.4)
    figure, axes = plt.subplots(
        len(settings), len(models), figsize=size, sharey="row", layout="constrained", squeeze=False
    )
    colours = dict(zip(PARTS, plt.get_cmap("tab10").colors, strict=False))
    bars: dict[str, Any] = {}
    for (i, setting), (j, model) in ((s, m) for s in enumerate(settings) for m in enumerate(models)):
        axis = axes[i][j]
        chosen = [row for row in rows if (row["setting"], row["model"]) == (setting, model)]
        chosen.sort(key=lambda row: row["losses"])
        up, down = np.zeros(len(chosen)), np.zeros(len(chosen))
        for part in PARTS:
            more = [100 * (row["ours"][part] - row["plain"][part]) / sum(row["plain"].values()) for row in chosen]
            height = np.array(more)
            bars[part] = axis.bar(range(len(chosen)), height, 0.7, np.where(height > 0, up, down), color=colours[part])
            up, down = up + height.clip(min=0), down + height.clip(max=0)
        axis.plot(range(len(chosen)), up + down, "k_", markersize=16)
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(title=f"{model}, {setting}")
        axis.set_xticks(range(len(chosen)), [str(row["losses"]) for row in chosen])
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("m, losses", fontsize=10)
    figure.supylabel("% of a plain step, more (all together: –)", fontsize=10)
    figure.legend(bars.values(), bars.keys(), loc="outside right center", frameon=False, fontsize=9)
    return figure


def _scaling(rows: Sequence[Row]) -> Any:
    """Draw seconds and shares of the bandwidth against n and m, what fits them, and what the bandwidth allows."""
    fitted = fits.fits(rows)
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), sharex="col", layout="constrained")
    bandwidth = float(np.median([row["bandwidth"] for row in rows]))
    colours = dict(zip(SCALED, ("#0072B2", "#D55E00"), strict=True))
    for column, along in enumerate(("values", "losses")):
        other = "losses" if along == "values" else "values"
        counts = [row[other] for row in rows]
        at = max(dict.fromkeys(counts), key=counts.count)
        chosen = sorted((row for row in rows if row[other] == at), key=lambda row: row[along])
        sizes = np.array([row[along] for row in chosen], dtype=float)
        above, below = axes[0][column], axes[1][column]
        for part in SCALED:
            low, middle, high = np.array([row[part] for row in chosen]).T
            above.errorbar(sizes, middle, (middle - low, high - middle), fmt="o", color=colours[part], label=part)
            bytes_ = [traffic(part, row["losses"], row["values"]) for row in chosen]
            above.plot(sizes, np.array(bytes_) / bandwidth, ":", color=colours[part], label=f"{part}, by the bandwidth")
            for fit in fitted:
                if (fit.part, fit.along) == (part, along):
                    fine = np.geomspace(sizes[0], sizes[-1])
                    above.plot(fine, fit.seconds(fine), "-", color=colours[part], linewidth=1, label=str(fit))
            below.plot(sizes, [100 * fits.share(row, part) for row in chosen], "o-", color=colours[part], label=part)
        below.axhline(100 * GOAL, color=LIMIT, linestyle="--", label=f"goal, {100 * GOAL:.0f} %")
        fixed = f"m = {at}" if along == "values" else f"n = {at:.0e}"
        above.set(xscale="log", yscale="log", title=fixed, ylabel="seconds" if column == 0 else "")
        below.set(xlabel="n, values of a row" if along == "values" else "m, rows", ylim=(0, None))
        below.set_ylabel("% of the bandwidth of a copy" if column == 0 else "")
        if along == "losses":
            below.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
            below.minorticks_off()
        for axis in (above, below):
            axis.legend(frameon=False, fontsize=8)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the plots of a file beside it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead.plot", description="Plots.")
    parser.add_argument("file", type=Path, nargs="?", default=FILE)
    file = parser.parse_args(argv).file
    draw(results.read(file), file.parent)


if __name__ == "__main__":
    main()
