"""Methods compared over seeds: intervals, paired tests, costs, and which languages conflict.

In: settings of one task. Out: Markdown. May import: methods, settings, tables, tasks, scipy.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from benchmarks.multilingual.methods import METHODS
from benchmarks.multilingual.settings import Setting
from benchmarks.multilingual.tasks import TASKS
from benchmarks.tables import number, table

CONFIDENCE = 0.95
NOTE = (
    "Mean ± half of the 95 % confidence interval (Student's t over seeds). Differences are paired by seed, p of the "
    "paired t-test, two-sided, not corrected for the number of methods."
)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % confidence interval by Student's t; NaN of fewer than two."""
    if len(values) < 2:
        return float(np.mean(values)), math.nan
    width = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values)), float(width)


def p_value(differences: Sequence[float]) -> float:
    """Return the two-sided p of a paired t-test, given the differences; NaN where they do not vary."""
    if len(differences) < 2 or np.ptp(differences) == 0:
        return math.nan
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def page(settings: Sequence[Setting], against: str) -> str:
    """Return all tables of one task."""
    return "\n\n".join([over_seeds(settings, against), costs(settings, against), conflicts(settings)]).strip()


def over_seeds(settings: Sequence[Setting], against: str) -> str:
    """Return intervals of the scores on unseen languages, and paired differences from one method.

    Where that has several rates, its own.
    """
    base = base_of(settings, against)
    rows = []
    for setting in settings:
        row = [setting.label, _pm(list(setting.end("unseen").values()))]
        for measure in ("unseen", "source"):
            differences = [] if base is None or base is setting else paired(setting, base, measure)
            row += [_pm(differences, sign=True), _p(p_value(differences))] if differences else ["", ""]
        rows.append([*row, percent(kept(setting))])
    name = base.label if base else against
    columns = ["unseen", f"unseen less that of {name}", "p", "source less", "p", "retrieval@1 kept"]
    return "\n\n".join(
        [
            f"### {settings[0].task}: over the seeds, at the end",
            NOTE,
            table(["method and rate", *columns], rows),
        ]
    )


def paired(setting: Setting, base: Setting, measure: str) -> list[float]:
    """Return the differences of a measure at the end, of the seeds that both have."""
    ours, theirs = setting.end(measure), base.end(measure)
    return [ours[seed] - theirs[seed] for seed in sorted(set(ours) & set(theirs))]


def kept(setting: Setting) -> float:
    """Return the share of the starting model's retrieval@1 that is there at the end, NaN where it was not measured."""
    shares = [
        curve[-1]["retrieval"] / curve[0]["retrieval"] for curve in setting.curves.values() if curve[0]["retrieval"]
    ]
    return float(np.mean(shares)) if shares else math.nan


def percent(share: float) -> str:
    """Return a share as it is shown."""
    return "–" if math.isnan(share) else f"{100 * share:.0f} %"


def costs(settings: Sequence[Setting], against: str) -> str:
    """Return time and memory of a step."""
    base = base_of(settings, against)
    rows = []
    for setting in settings:
        seconds = seconds_of_a_step(setting)
        ratio = seconds / seconds_of_a_step(base) if base else math.nan
        memory = max(setting.memory.values(), default=0)
        rows.append([setting.label, number(seconds), number(ratio), number(memory / 1e9) if memory else "–"])
    name = base.label if base else against
    return "\n\n".join(
        [
            f"### {settings[0].task}: what a step costs",
            "Means over seeds, of runs that may have shared the machine. Memory: the most that was resident in a step.",
            table(["method and rate", "seconds", f"times {name}", "memory, GB"], rows),
        ]
    )


def seconds_of_a_step(setting: Setting) -> float:
    """Return the mean time of a training step."""
    return float(np.mean([point["training_seconds"] / point["step"] for point in setting.last]))


def conflicts(settings: Sequence[Setting]) -> str:
    """Return the mean cosine of each pair of languages' gradients, nothing where none was measured."""
    pairs = list(itertools.combinations(settings[0].sources, 2))
    rows = []
    for setting in settings:
        means = [setting.over_looks("report", f"cosine/{a}/{b}").mean() for a, b in pairs]
        if np.isfinite(means).any():
            rows.append([setting.label, *(number(mean) for mean in means)])
    if not rows:
        return ""
    return "\n\n".join(
        [
            f"### {settings[0].task}: cosines of the languages' gradients",
            "Means over all steps; below 0 is a conflict.",
            table(["method and rate", *(f"{a}, {b}" for a, b in pairs)], rows),
        ]
    )


def base_of(settings: Sequence[Setting], against: str) -> Setting | None:
    """Return the setting of a method that others are compared with: at its own rate, or else at its first."""
    found = [setting for setting in settings if setting.method == against]
    own = [setting for setting in found if setting.rate == METHODS[against].rates[TASKS[setting.task].like]]
    return next(iter(own + found), None)


def _pm(values: Sequence[float], *, sign: bool = False) -> str:
    """Return mean ± half an interval."""
    mean, half = interval(values)
    shown = f"{mean:+.3f}" if sign else number(mean)
    return shown if math.isnan(half) else f"{shown} ± {number(half)}"


def _p(value: float) -> str:
    """Return a p-value."""
    return "" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"
