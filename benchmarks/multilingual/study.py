"""The comparison by its protocol: `python -m benchmarks.multilingual.study`.

Settings are chosen for each method among as many, on development templates of the sources and on development languages.
Where the best rate is the lowest or the highest of a method, one beyond it is tried, too: what a grid leaves out is not
a method's fault. Then seeds that were not used for that are scored on the targets. A run that is there is not made
again; which of ours is named for a task, `named` says.
In: tasks and methods. Out: JSON files in `tune` and `final`. May import: the command line, methods, settings, tasks.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.multilingual.__main__ import make
from benchmarks.multilingual.methods import METHODS
from benchmarks.multilingual.settings import Setting, load
from benchmarks.multilingual.tasks import TASKS

DEVELOPMENT = ["pt", "uk", "tr"]  # neither trained on, nor replayed, nor scored
ROAD = ["--precision", "bfloat16", "--probe", "300", "--steps", "120"]
TUNE = ["--targets", *DEVELOPMENT, "--target-size", "100", "--dev-size", "100", "--evaluations", "1"]
FIRST = 0  # the seed by which settings are chosen
FINAL = ["--evaluations", "3", "--seeds", "1", "2", "3", "4", "5"]
CONSTANT = ("slots", "intents")  # made before rates could fall; the others end quietly (docs/multilingual-log.md)
RATES = [5e-5, 1e-4, 2e-4, 4e-4]  # of a method with nothing else to choose
# Of the others: rates and strengths, four together.
GRIDS: dict[str, tuple[list[float], list[float]]] = {
    "probe": ([1e-2], []),  # of its head
    "lora": ([5e-4, 1e-3, 2e-3, 4e-3], []),
    "l2sp": ([1e-4, 2e-4], [0.03, 0.3]),
    "ewc": ([1e-4, 2e-4], [0.03, 0.3]),
    "recadam": ([1e-4, 2e-4], [300, 3000]),
    "mixout": ([1e-4, 2e-4], [0.5, 0.9]),
    "less-forgetting": ([1e-4, 2e-4], [0.03, 0.1]),
    "fisher": ([1e-4, 2e-4], [0.1, 0.3]),
    "enforced": ([1e-4, 2e-4], [0.03, 0.1]),
    "by-gradient": ([1e-4, 2e-4], [0.03, 0.1]),
    "distillation": ([1e-4, 2e-4], [0.1, 0.5]),
    "replay": ([1e-4, 2e-4], [0.1, 0.5]),
    "by-gradient-distillation": ([1e-4, 2e-4], [0.1, 0.5]),
    "by-gradient-replay": ([1e-4, 2e-4], [0.5, 1]),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Choose each method's setting, then make its final runs, method by method."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.multilingual.study", description=__doc__)
    of_commands = [name for name, task in TASKS.items() if not isinstance(task.source, str)]
    parser.add_argument("--tasks", nargs="+", choices=of_commands, metavar="TASK", default=of_commands)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), metavar="METHOD", default=list(METHODS))
    parser.add_argument("--tune-only", action="store_true", help="make no final runs")
    parser.add_argument("--output", type=Path, default=Path("results/study"), help="directory of both kinds of runs")
    arguments, others = parser.parse_known_args(argv)
    for method in arguments.methods:
        for task in arguments.tasks:
            chosen = choose(tune(task, method, arguments.output, others), method, task)
            print(f"{task}: chosen {chosen.label}, {promises(chosen)[FIRST]:.3f}", flush=True)
            if not arguments.tune_only:
                options = [*_options(task, method, chosen.rate, chosen.strength), *FINAL]
                make([*options, *others, "--output", str(arguments.output / "final")])


def tune(task: str, method: str, output: Path, others: Sequence[str] = ()) -> Path:
    """Make the runs among which a method's setting is chosen, and return their directory."""
    directory = output / "tune"

    def run(rate: float, strength: float) -> None:
        try_out(task, method, rate, strength, [FIRST], directory, others)

    rates, strengths = GRIDS.get(method, (RATES, []))
    for strength in strengths or [METHODS[method].strength]:
        for rate in rates:
            run(rate, strength)
    if len(rates) > 1:
        best = choose(directory, method, task)
        if best.rate == min(rates):
            run(best.rate / 2, best.strength)
        if best.rate == max(rates):
            run(best.rate * 2, best.strength)
    return directory


def choose(directory: Path, method: str, task: str) -> Setting:
    """Return the setting of a method that promises most by the first seed, in the runs of a directory."""
    tried = [setting for setting in load(directory) if setting.method == method and setting.task == task]
    return max(tried, key=lambda setting: promises(setting)[FIRST])


def promises(setting: Setting) -> dict[int, float]:
    """Return the mean of the scores on the sources and on the development languages, at the end, by seed."""
    dev, unseen = setting.end("dev"), setting.end("unseen")
    return {seed: (dev[seed] + unseen[seed]) / 2 for seed in dev}


def try_out(
    task: str,
    method: str,
    rate: float,
    strength: float,
    seeds: Sequence[int],
    directory: Path,
    others: Sequence[str] = (),
) -> None:
    """Make tuning runs of a setting."""
    options = [*_options(task, method, rate, strength), *TUNE, "--seeds", *map(str, seeds)]
    make([*options, *others, "--output", str(directory)])


def _options(task: str, method: str, rate: float, strength: float) -> list[str]:
    """Return the flags of a method's runs with a rate and a strength, of both kinds."""
    of_encoder = "own" if METHODS[method].frozen == 1.0 else f"{rate:g}"
    of_method = ["--methods", method, "--lr", of_encoder, "--strength", f"{strength:g}"]
    return ["--task", task, *of_method, *ROAD, "--schedule", "constant" if task in CONSTANT else "linear"]


if __name__ == "__main__":
    main()
