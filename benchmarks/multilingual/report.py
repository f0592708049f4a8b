"""Tables and the plot, from the files of runs: `python -m benchmarks.multilingual.report DIRECTORY`.

In: JSON files. Out: Markdown and a picture. May import: tables, matplotlib, scipy.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.tables import table

MEASURES = {"source": "source", "unseen": "unseen", "retrieval": "retrieval@1", "distance": "‖θ−θ₀‖"}
LEVEL = 0.9  # of the best source score: where methods are compared at equal score
# One colour for each method, one line style for each rate, from its own to others.
COLOURS = {
    "probe": "#8a8a8a",
    "sum": "#d1495b",
    "probe-sum": "#edae49",
    "l2sp": "#66a182",
    "sum-distillation": "#b56576",
    "sum-replay": "#e88c7d",
    "normalised-sum": "#8d6a4a",
    "less-forgetting": "#00798c",
    "min-norm": "#7a5c99",
    "smooth-rows": "#2e86de",
    "smooth-gramian": "#54a0ff",
    "half-batches": "#5f27cd",
    "by-gradient": "#b8860b",
    "by-gradient-distillation": "#3d2c8d",
    "by-gradient-replay": "#0b3c5d",
    "by-loss": "#d2691e",
    "enforced": "#222f3e",
    "fisher": "#10ac84",
    "distillation": "#ee5253",
    "replay": "#c44569",
}
STYLES = ["-", "--", ":", "-."]


@dataclass(frozen=True)
class Setting:
    """A method at a rate, with the runs of all its seeds.

    Attributes:
        task: of the runs.
        method: its name.
        rate: learning rate of the encoder, or of the head where that alone is trained.
        metric: the name of the score.
        sources: languages trained on.
        curves: the points of each seed.
    """

    task: str
    method: str
    rate: float
    metric: str
    sources: tuple[str, ...]
    curves: dict[int, list[dict[str, Any]]]

    @property
    def label(self) -> str:
        """The method and its rate."""
        return f"{self.method} {self.rate:.0e}".replace("e-0", "e-")

    @property
    def steps(self) -> list[int]:
        """The steps at which every seed was looked at."""
        return [point["step"] for point in self._first]

    @property
    def last(self) -> list[dict[str, Any]]:
        """The points of all seeds at the end of training."""
        return [curve[-1] for curve in self.curves.values()]

    @property
    def _first(self) -> list[dict[str, Any]]:
        """Return the curve of the first seed."""
        return next(iter(self.curves.values()))

    def values(self, measure: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Return a measure as [seeds, looks]; NaN where it was not taken."""
        return np.array([[point[measure] for point in curve] for curve in self.curves.values()], dtype=np.float64)

    def at_end(self, measure: str) -> str:
        """Return mean ± standard deviation over the seeds at the end of training."""
        return _spread(self.values(measure)[:, -1])

    def at_level(self, level: float) -> tuple[float, dict[str, float]] | None:
        """Return the step at which the mean source score first reaches a level, and the other measures there.

        Between looks everything is taken to change in a straight line. None if the level is never reached.
        """
        source = self.values("source").mean(0)
        reached = np.flatnonzero(source >= level)
        if not len(reached):
            return None
        after = int(reached[0])
        before = max(after - 1, 0)
        share = 1.0 if after == before else (level - source[before]) / (source[after] - source[before])

        def between(values: Any) -> float:
            return float(values[before] + share * (values[after] - values[before]))

        return between(self.steps), {measure: between(self.values(measure).mean(0)) for measure in MEASURES}


def load(directory: Path) -> list[Setting]:
    """Read the runs of a directory.

    Raises:
        FileNotFoundError: if there is none.
    """
    runs: dict[tuple[str, str, float], list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(directory.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        of = run["arguments"]
        runs[of["task"], of["method"], of["lr"] or of["head_lr"]].append(run)
    if not runs:
        raise FileNotFoundError(
            f"`{directory}` must hold the JSON files of runs. Found none. Make some: python -m benchmarks.multilingual."
        )
    order = list(COLOURS)
    return [
        Setting(
            task,
            method,
            rate,
            group[0]["metric"],
            tuple(group[0]["arguments"]["sources"]),
            {run["arguments"]["seed"]: run["curve"] for run in group},
        )
        for (task, method, rate), group in sorted(runs.items(), key=lambda i: (i[0][0], order.index(i[0][1]), i[0][2]))
    ]


def best_rates(settings: Sequence[Setting], rates: Sequence[float] = ()) -> list[Setting]:
    """Return of each method the rate that does best on the sources' development templates at the end, and other rates.

    Compared on the seeds that all rates of the method have: a grid may be run with one seed and the best with more.
    """
    methods: dict[tuple[str, str], list[Setting]] = defaultdict(list)
    for setting in settings:
        methods[setting.task, setting.method].append(setting)
    best = []
    for group in methods.values():
        common = set.intersection(*(set(setting.curves) for setting in group))
        scores = [round(sum(setting.curves[seed][-1]["dev"] for seed in common), 9) for setting in group]
        best.append(group[scores.index(max(scores))])  # of equals the lowest rate
    return [setting for setting in settings if setting in best or setting.rate in rates]


def summary(settings: Sequence[Setting]) -> str:
    """Return the tables of one task that compare methods, as Markdown: at the end, and at equal source score."""
    first = settings[0]
    seeds = max(len(setting.curves) for setting in settings)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    level = LEVEL * max(float(setting.values("source").mean(0).max()) for setting in settings)
    note = (
        f"Source: {first.metric} on {', '.join(first.sources)}, trained on. Unseen: the same on languages "
        "never trained on. Retrieval@1: cross-lingual knowledge kept in the unseen languages; the starting model has "
        f"{_number(first.values('retrieval')[:, 0].mean())}. ‖θ−θ₀‖: how far the weights moved. Dev: what rates are "
        f"chosen by. All {spread}."
    )
    return "\n\n".join(
        [
            f"### {first.task}: after {first.steps[-1]} steps",
            note,
            table(
                ["method and rate", *MEASURES.values(), "dev"],
                [[setting.label, *(setting.at_end(measure) for measure in (*MEASURES, "dev"))] for setting in settings],
            ),
            f"### {first.task}: when the source score first reaches {level:.2f}",
            f"That is {LEVEL:.0%} of the best. Between looks, straight lines.",
            table(["method and rate", "step", *MEASURES.values()], [_level_row(s, level) for s in settings]),
        ]
    )


def differences(settings: Sequence[Setting], baseline: Setting) -> str:
    """Return a table of one task, as Markdown: what each method has more than a baseline at the end, seed by seed."""
    others = [s for s in settings if s is not baseline and len(set(s.curves) & set(baseline.curves)) > 1]
    measures = {key: name for key, name in MEASURES.items() if key != "distance"}
    rows = [[other.label, *(_paired(other, baseline, measure) for measure in measures)] for other in others]
    return "\n\n".join(
        [
            f"### {baseline.task}: more than {baseline.label}",
            "Means of the differences between runs of one seed, ± half of their 95 % interval (Student's t).",
            table(["method and rate", *measures.values()], rows),
        ]
    )


def details(settings: Sequence[Setting]) -> str:
    """Return the tables of one task that go into detail, as Markdown: by language, and the directions."""
    first = settings[0]
    languages = first.last[0]["scores"]
    columns = {f"multiplier {k}": f"multiplier/{k}" for k in first.sources}
    columns |= {"pairs in conflict": "conflicts", "smallest cosine": "smallest_cosine", "optimal": "optimal"}

    def mean(setting: Setting, group: str, name: str) -> str:
        values = [point[group].get(name, math.nan) for point in setting.last]
        return _number(np.mean(values))

    return "\n\n".join(
        [
            f"### {first.task}: {first.metric} by language at the end",
            table(
                ["method and rate", *languages],
                [[setting.label, *(mean(setting, "scores", name) for name in languages)] for setting in settings],
            ),
            f"### {first.task}: stationarity and directions at the end",
            "√δ and ‖r‖: of the same utterances for all methods. The others: means over the steps since the last look.",
            table(
                ["method and rate", "√δ/max‖gᵢ‖", "‖r‖/max‖gᵢ‖", *columns],
                [
                    [
                        setting.label,
                        *(setting.at_end(measure) for measure in ("stationarity", "strong_stationarity")),
                        *(mean(setting, "report", name) for name in columns.values()),
                    ]
                    for setting in settings
                ],
            ),
        ]
    )


def plot(settings: Sequence[Setting], path: Path) -> None:
    """Draw what is learnt, what it brings to unseen languages, and what is forgotten, over the steps."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    first = settings[0]
    panels = {
        "source": f"learnt: {first.metric}, languages trained on",
        "unseen": f"transferred: {first.metric}, unseen languages",
        "retrieval": "kept: retrieval@1, unseen languages",
    }
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    rates = {setting.method: sorted(s.rate for s in settings if s.method == setting.method) for setting in settings}
    for axis, (measure, title) in zip(axes, panels.items(), strict=True):
        for setting in settings:
            values = setting.values(measure)
            style = STYLES[rates[setting.method].index(setting.rate) % len(STYLES)]
            middle = values.mean(0)
            axis.plot(setting.steps, middle, style, color=COLOURS[setting.method], label=setting.label, linewidth=2)
            if len(values) > 1:
                spread = values.std(0, ddof=1)
                axis.fill_between(
                    setting.steps, middle - spread, middle + spread, color=COLOURS[setting.method], alpha=0.12, lw=0
                )
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("step")
        axis.set_ylim(0, None)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables of a directory's runs and write them with one plot for each task beside the runs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.multilingual.report", description="Tables and plots of the runs in a directory."
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--best", action="store_true", help="of each method only the rate that is best on the development templates"
    )
    parser.add_argument(
        "--rates", nargs="+", type=float, metavar="RATE", default=[], help="and, with --best, all methods at these"
    )
    parser.add_argument("--against", metavar="METHOD", help="what the others are compared with, seed by seed")
    arguments = parser.parse_args(argv)
    settings = load(arguments.directory)
    if arguments.best:
        settings = best_rates(settings, arguments.rates)
    page = []
    for task in dict.fromkeys(setting.task for setting in settings):
        group = [setting for setting in settings if setting.task == task]
        plot(group, arguments.directory / f"{task}.png")
        shown = [summary(group), *(differences(group, s) for s in group if s.method == arguments.against)]
        page += [*shown, details(group)]
        print("\n" + "\n\n".join(shown) + "\n")
    (arguments.directory / "tables.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print(f"{arguments.directory}: {task}.png shows this over the steps; tables.md adds languages and directions.")


def _level_row(setting: Setting, level: float) -> list[str]:
    """Return a row of the table at equal source score."""
    found = setting.at_level(level)
    if found is None:
        return [setting.label, "not reached", *["" for _ in MEASURES]]
    step, measures = found
    return [setting.label, f"{step:.0f}", *(_number(value) for value in measures.values())]


def _paired(setting: Setting, baseline: Setting, measure: str) -> str:
    """Return mean ± half the 95 % interval of the differences at the end, over the seeds that both have."""
    seeds = sorted(set(setting.curves) & set(baseline.curves))
    gaps = np.array([setting.curves[seed][-1][measure] - baseline.curves[seed][-1][measure] for seed in seeds])
    half = stats.sem(gaps) * stats.t.ppf(0.975, len(gaps) - 1)
    return f"{gaps.mean():+.3f} ± {half:.3f}"


def _spread(values: "np.ndarray[Any, Any]") -> str:
    """Return mean ± standard deviation, or the one value."""
    if len(values) == 1 or not math.isfinite(values.mean()):
        return _number(values.mean())
    return f"{_number(values.mean())} ± {_number(values.std(ddof=1))}"


def _number(value: float) -> str:
    """Return a number with the digits that matter here."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


if __name__ == "__main__":
    main()
