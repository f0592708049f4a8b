"""Tables and plots, from the files of runs: `python -m benchmarks.multilingual.report DIRECTORY`.

In: JSON files. Out: Markdown and pictures. May import: comparisons, plots, settings, tables.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.multilingual import comparisons, plots
from benchmarks.multilingual.methods import METHODS
from benchmarks.multilingual.settings import LEVEL, MEASURES, Setting, best_rates, load
from benchmarks.tables import number, table


def summary(settings: Sequence[Setting]) -> str:
    """Return the tables of one task that compare methods, as Markdown: at the end, and at equal source score."""
    first = settings[0]
    seeds = max(len(setting.curves) for setting in settings)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    level = LEVEL * max(float(setting.values("source").mean(0).max()) for setting in settings)
    note = (
        f"Source: {first.metric} on {', '.join(first.sources)}, trained on. Unseen: the same on languages "
        "never trained on. Retrieval@1: cross-lingual knowledge kept in the unseen languages; the starting model has "
        f"{number(first.values('retrieval')[:, 0].mean())}. ‖θ−θ₀‖: how far the weights moved. Dev: as "
        f"source, on templates to choose by. All {spread}."
    )
    return "\n\n".join(
        [
            f"### {first.task}: after {first.steps[-1]} steps",
            note,
            table(
                ["method and rate", *MEASURES.values(), "dev"],
                [
                    [setting.label, *(_at_end(setting, measure) for measure in (*MEASURES, "dev"))]
                    for setting in settings
                ],
            ),
            f"### {first.task}: when the source score first reaches {level:.2f}",
            f"That is {LEVEL:.0%} of the best. Between looks, straight lines.",
            table(["method and rate", "step", *MEASURES.values()], [_level_row(s, level) for s in settings]),
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
        return number(np.mean(values))

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
                        *(_at_end(setting, measure) for measure in ("stationarity", "strong_stationarity")),
                        *(mean(setting, "report", name) for name in columns.values()),
                    ]
                    for setting in settings
                ],
            ),
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables of a directory's runs and write them with the plots of each task beside the runs."""
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
    parser.add_argument(
        "--against", choices=list(METHODS), metavar="METHOD", default="sum", help="what the others are compared with"
    )
    arguments = parser.parse_args(argv)
    settings = load(arguments.directory)
    if arguments.best:
        settings = best_rates(settings, arguments.rates)
    page = []
    tasks = list(dict.fromkeys(setting.task for setting in settings))
    groups = [[setting for setting in settings if setting.task == task] for task in tasks]
    for group in groups:
        plots.draw(group, arguments.directory)
        compared = comparisons.page(group, arguments.against)
        page += [summary(group), compared, details(group)]
        print(f"\n{summary(group)}\n\n{compared}\n")
    (arguments.directory / "tables.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    compared_with = [g for g in groups if len(g) > 1 and comparisons.base_of(g, arguments.against)]
    if compared_with:
        plots.gains(compared_with, arguments.against, arguments.directory / "gains.png")
    print(
        f"{arguments.directory}: for each task, as {tasks[0]}, {tasks[0]}.png shows scores over the steps, -front.png "
        "zero-shot against source scores, -languages.png each language, -multipliers.png multipliers and conflicts; "
        f"gains.png what others gain over {arguments.against} on all tasks; tables.md adds languages and directions."
    )


def _at_end(setting: Setting, measure: str) -> str:
    """Return mean ± standard deviation over the seeds at the end of training."""
    return _spread(setting.values(measure)[:, -1])


def _level_row(setting: Setting, level: float) -> list[str]:
    """Return a row of the table at equal source score."""
    found = setting.at_level(level)
    if found is None:
        return [setting.label, "not reached", *["" for _ in MEASURES]]
    step, measures = found
    return [setting.label, f"{step:.0f}", *(number(value) for value in measures.values())]


def _spread(values: "np.ndarray[Any, Any]") -> str:
    """Return mean ± standard deviation, or the one value."""
    if len(values) == 1 or not math.isfinite(values.mean()):
        return number(values.mean())
    return f"{number(values.mean())} ± {number(values.std(ddof=1))}"


if __name__ == "__main__":
    main()
