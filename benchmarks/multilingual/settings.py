"""The runs of a directory, by method and rate.

In: JSON files. Out: `Setting`. May import: methods.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.multilingual.methods import METHODS

MEASURES = {"source": "source", "unseen": "unseen", "retrieval": "retrieval@1", "distance": "‖θ−θ₀‖"}
LEVEL = 0.9  # of the best source score: where methods are compared at equal score


@dataclass(frozen=True)
class Setting:
    """A method at a rate, with the runs of all its seeds.

    Attributes:
        task: of the runs.
        method: its name.
        rate: learning rate of the encoder, or of the head where that alone is trained.
        strength: of its pull.
        metric: the name of the score.
        sources: languages trained on.
        curves: the points of each seed.
        memory: the most that was resident in a step, by seed, in bytes; none where it was not measured.
    """

    task: str
    method: str
    rate: float
    strength: float
    metric: str
    sources: tuple[str, ...]
    curves: dict[int, list[dict[str, Any]]]
    memory: dict[int, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The method and its rate, and the strength of its pull where that is not the method's own."""
        pull = "" if self.strength == METHODS[self.method].strength else f", {self.strength:g}"
        return f"{self.method} {self.rate:.1e}".replace(".0e", "e").replace("e-0", "e-") + pull

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

    def end(self, measure: str) -> dict[int, float]:
        """Return a measure at the end of training, by seed."""
        return {seed: float(curve[-1][measure]) for seed, curve in self.curves.items()}

    def over_looks(self, group: str, name: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Return the mean over the seeds of a figure of the steps before each look but the first; NaN without it."""
        rows = [[point.get(group, {}).get(name, np.nan) for point in curve[1:]] for curve in self.curves.values()]
        means: np.ndarray[Any, np.dtype[np.float64]] = np.array(rows, dtype=np.float64).mean(0)
        return means

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
    runs: dict[tuple[str, str, float, float], list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(directory.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        of = run["arguments"]
        runs[of["task"], of["method"], of["lr"] or of["head_lr"], of["strength"]].append(run)
    if not runs:
        raise FileNotFoundError(
            f"`{directory}` must hold the JSON files of runs. Found none. Make some: python -m benchmarks.multilingual."
        )
    order = list(METHODS)

    def place(item: tuple[tuple[str, str, float, float], object]) -> tuple[object, ...]:
        task, method, *numbers = item[0]
        return (task, order.index(method), *numbers)

    return [
        Setting(
            task,
            method,
            rate,
            strength,
            group[0]["metric"],
            tuple(group[0]["arguments"]["sources"]),
            {run["arguments"]["seed"]: run["curve"] for run in group},
            {run["arguments"]["seed"]: run["memory"] for run in group if run.get("memory")},
        )
        for (task, method, rate, strength), group in sorted(runs.items(), key=place)
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
