"""What the comparison is held to, and whether it is met: `python -m benchmarks.multilingual.bars DIRECTORY`.

In: the directory of `study`. Out: Markdown. May import: comparisons, methods, named, settings, tables.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.multilingual.comparisons import interval, kept, paired, percent
from benchmarks.multilingual.methods import METHODS
from benchmarks.multilingual.named import ranked
from benchmarks.multilingual.settings import Setting, load
from benchmarks.tables import number, table

PLAIN = "sum"
KEPT = 0.95  # of the starting model's retrieval@1
LOST = 0.01  # of plain fine-tuning's source score


def page(tuned: Path, final: Sequence[Setting]) -> str:
    """Return the table of one task: ours that the tuning runs promise most of, beside all that is not ours.

    Args:
        tuned: the directory of the tuning runs.
        final: the settings of the task that were scored on the targets, plain fine-tuning among them.
    """
    task = final[0].task
    by_method = {setting.method: setting for setting in final}
    ours = by_method[ranked(task, tuned, by_method)[0].method]
    plain = by_method[PLAIN]
    others = {name: score(setting) for name, setting in by_method.items() if not METHODS[name].ours}
    best = max(others, key=others.__getitem__)
    gain, half = interval(paired(ours, plain, "unseen"))
    source = interval(paired(ours, plain, "source"))[0]
    low = "–" if math.isnan(half) else f"{gain - half:+.3f}"
    rows = [
        (f"unseen, above the best of {len(others)} not ours, {best}", number(others[best]), score(ours) > others[best]),
        ("gain over plain fine-tuning, lower end of its interval, above", "0", gain > half),
        ("retrieval@1 kept, at least", percent(KEPT), kept(ours) >= KEPT),
        ("source less plain fine-tuning's, at least", f"{-LOST:+.3f}", source >= -LOST),
    ]
    found = [number(score(ours)), low, percent(kept(ours)), f"{source:+.3f}"]
    return table(
        [f"{task}: {ours.label}", "bar", "found", ""],
        [[what, bar, value, "met" if met else "not met"] for (what, bar, met), value in zip(rows, found, strict=True)],
    )


def score(setting: Setting) -> float:
    """Return the mean score on the languages never trained on, over the seeds, at the end."""
    return interval(list(setting.end("unseen").values()))[0]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of each task."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.multilingual.bars", description="What the study is held to, and what it found."
    )
    parser.add_argument("directory", type=Path, help="of `python -m benchmarks.multilingual.study`")
    directory = parser.parse_args(argv).directory
    settings = load(directory / "final")
    for task in dict.fromkeys(setting.task for setting in settings):
        final = [setting for setting in settings if setting.task == task]
        methods = {setting.method for setting in final}
        if PLAIN in methods and any(METHODS[method].ours for method in methods):
            print(page(directory / "tune", final), end="\n\n")
        else:
            print(f"{task}: nothing to hold yet, there must be final runs of `{PLAIN}` and of one of ours", end="\n\n")


if __name__ == "__main__":
    main()
