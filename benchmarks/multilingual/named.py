"""Which of our methods to name, by more seeds: `python -m benchmarks.multilingual.named`.

One tuning run tells methods apart badly. What `study` has chosen for each of ours is run with more seeds, still without
a target; and while the two that promise most are nearer to each other than two standard errors, these two with more. A
run that is there is not made again. In: the directory of `study`. Out: JSON files in `tune`. May import: study,
settings, methods, tasks, scipy.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean

from scipy import stats

from benchmarks.multilingual.methods import METHODS
from benchmarks.multilingual.settings import Setting, load
from benchmarks.multilingual.study import choose, promises, try_out
from benchmarks.multilingual.tasks import TASKS

SEEDS = range(16, 27)  # none of them of final runs
ROUNDS = (3, 7, 11)  # how many of them
SURE = 2  # standard errors


def main(argv: Sequence[str] | None = None) -> None:
    """Make the runs of each task, and say which is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.multilingual.named", description=__doc__)
    of_commands = [name for name, task in TASKS.items() if not isinstance(task.source, str)]
    parser.add_argument("--tasks", nargs="+", choices=of_commands, metavar="TASK", default=of_commands)
    parser.add_argument("--output", type=Path, default=Path("results/study"), help="directory of `study`")
    arguments, others = parser.parse_known_args(argv)
    for task in arguments.tasks:
        settle(task, arguments.output / "tune", others)
        order = ranked(task, arguments.output / "tune")
        for setting in order:
            found = promises(setting)
            print(f"{task}: {setting.label}, {mean(found.values()):.4f} over {len(found)} seeds", flush=True)
        if len(order) > 1:
            apart, error = difference(*order[:2])
            print(f"{task}: the first two are {apart:.4f} apart, with a standard error of {error:.4f}", flush=True)


def settle(task: str, directory: Path, others: Sequence[str] = ()) -> None:
    """Make the runs that tell our methods apart, those that have been tuned."""
    asked = ranked(task, directory)
    for count in ROUNDS:
        for of in asked:
            try_out(task, of.method, of.rate, of.strength, SEEDS[:count], directory, others)
        asked = ranked(task, directory)[:2]
        if len(asked) < 2 or are_apart(*asked):
            break


def ranked(task: str, directory: Path, methods: Iterable[str] = METHODS) -> list[Setting]:
    """Return what was chosen for each of ours among some methods; what promises most, over all of its seeds, first."""
    tried = {setting.method for setting in load(directory) if setting.task == task}
    chosen = [choose(directory, name, task) for name in methods if METHODS[name].ours and name in tried]
    return sorted(chosen, key=lambda setting: mean(promises(setting).values()), reverse=True)


def are_apart(first: Setting, second: Setting) -> bool:
    """Tell whether one promises more than the other by more than the seeds that both have leave open."""
    apart, error = difference(first, second)
    return abs(apart) > SURE * error


def difference(first: Setting, second: Setting) -> tuple[float, float]:
    """Return by how much one promises more than the other, paired by seed, and the standard error of that."""
    ours, theirs = promises(first), promises(second)
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    return mean(differences), float(stats.sem(differences))


if __name__ == "__main__":
    main()
