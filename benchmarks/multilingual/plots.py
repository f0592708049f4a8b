"""Pictures of runs: of one task, and of what each method gains on all of them.

In: settings. Out: files. May import: comparisons, methods, settings, matplotlib.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.multilingual.comparisons import base_of, interval, paired
from benchmarks.multilingual.methods import METHODS
from benchmarks.multilingual.settings import Setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# One colour for each method, one line style for each of its rates and strengths.
COLOURS = {
    "probe": "#8a8a8a",
    "sum": "#d1495b",
    "cold-sum": "#e5989b",
    "probe-sum": "#edae49",
    "l2sp": "#66a182",
    "sum-distillation": "#b56576",
    "sum-replay": "#e88c7d",
    "normalised-sum": "#8d6a4a",
    "recadam": "#2f4b7c",
    "ewc": "#a05195",
    "mixout": "#f95d6a",
    "lower-frozen": "#5c6b73",
    "lora": "#ff7c43",
    "pcgrad": "#488f31",
    "mgda": "#83af70",
    "upgrad": "#1b998b",
    "pcd": "#c5a880",
    "pcd-replay": "#94744a",
    "gem": "#6f1d1b",
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
    "replay": "#1d4e89",
}
OURS, OTHERS = "#0b5394", "#6e6e6e"  # in the picture of gains
FAR_BEHIND = 0.08  # gains of less are named there, and not drawn
FAR = 0.15  # below the best source score: left out of the picture of the front
STYLES = ["-", "--", ":", "-."]


def over_steps(settings: Sequence[Setting], path: Path) -> None:
    """Draw what is learnt, what it brings to unseen languages, and what is forgotten, over the steps."""
    plt = _pyplot()
    first = settings[0]
    panels = {
        "source": f"learnt: {first.metric}, languages trained on",
        "unseen": f"transferred: {first.metric}, unseen languages",
        "retrieval": "kept: retrieval@1, unseen languages",
    }
    figure, axes = plt.subplots(1, 3, figsize=(13, 4 + 0.25 * math.ceil(len(settings) / 4)), layout="constrained")
    of_method = {setting.method: [s for s in settings if s.method == setting.method] for setting in settings}
    for axis, (measure, title) in zip(axes, panels.items(), strict=True):
        for setting in settings:
            values = setting.values(measure)
            style = STYLES[of_method[setting.method].index(setting) % len(STYLES)]
            middle = values.mean(0)
            axis.plot(setting.steps, middle, style, color=colour(setting), label=setting.label, linewidth=2)
            if len(values) > 1:
                spread = values.std(0, ddof=1)
                axis.fill_between(
                    setting.steps, middle - spread, middle + spread, color=colour(setting), alpha=0.12, lw=0
                )
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("step")
        axis.set_ylim(0, None)
        _plain(axis)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw(settings: Sequence[Setting], directory: Path) -> None:
    """Draw all pictures of one task."""
    task = settings[0].task
    over_steps(settings, directory / f"{task}.png")
    front(settings, directory / f"{task}-front.png")
    languages(settings, directory / f"{task}-languages.png")
    multipliers(settings, directory / f"{task}-multipliers.png")


def front(settings: Sequence[Setting], path: Path) -> None:
    """Draw zero-shot against source score at the end, with 95 % intervals, and the settings that none beats in both.

    Settings that have learnt much less than others are named beside it: drawn, they would leave the others no room.
    """
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(10, 6), layout="constrained")
    scores = [[interval(list(setting.end(of).values())) for of in ("source", "unseen")] for setting in settings]
    places = [(source, unseen) for (source, _), (unseen, _) in scores]
    most = max(source for source, _ in places)
    handles: list[Any] = []
    for i in sorted(range(len(settings)), key=lambda i: -places[i][1]):
        if places[i][0] < most - FAR:
            where = f"{settings[i].label}: at {places[i][0]:.3f} and {places[i][1]:.3f}"
            handles += axis.plot([], [], " ", label=where)
            continue
        (source, wide), (unseen, high) = scores[i]
        halves = {"xerr": np.nan_to_num(wide), "yerr": np.nan_to_num(high)}
        style = {"color": colour(settings[i]), "elinewidth": 1, "alpha": 0.9, "label": settings[i].label}
        handles.append(axis.errorbar(source, unseen, fmt="o", **halves, **style))
    axis.plot(*zip(*unbeaten(places), strict=True), "--", color="#999999", linewidth=1, zorder=0)
    axis.set_xlabel(f"{settings[0].metric}, languages trained on")
    axis.set_ylabel(f"{settings[0].metric}, unseen languages")
    figure.legend(handles=handles, loc="outside right upper", frameon=False, title="best on unseen languages first")
    _plain(axis)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def gains(tasks: Sequence[Sequence[Setting]], against: str, path: Path) -> None:
    """Draw what each method gains on unseen languages over another, with 95 % intervals, ours in blue; task by task.

    Methods that lose far more are named with what they lose: drawn, they would leave the others no room.
    """
    plt = _pyplot()
    columns = min(len(tasks), 2)
    heights = [1 + max(map(len, tasks[i : i + columns])) for i in range(0, len(tasks), columns)]
    size = (5.5 * columns, 0.2 * sum(heights) + 0.5 * len(heights))
    options = {"height_ratios": heights, "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(len(heights), columns, figsize=size, **options)
    for axis in axes.flat[len(tasks) :]:
        axis.remove()
    for number, (axis, settings) in enumerate(zip(axes.flat, tasks, strict=False)):
        base = base_of(settings, against)
        assert base is not None  # a task is drawn where there is something to compare with
        others = [setting for setting in settings if setting is not base and paired(setting, base, "unseen")]
        found = [(*np.nan_to_num(interval(paired(other, base, "unseen"))), other) for other in others]
        found.sort(key=lambda entry: entry[0])
        for place, (gain, half, setting) in enumerate(found):
            of = _of(setting)
            if gain < -FAR_BEHIND:
                axis.text(-FAR_BEHIND, place, f"  ◂ {gain:+.3f}", va="center", fontsize=7, color=of)
            else:
                axis.errorbar(gain, place, xerr=half, fmt="o", markersize=4, elinewidth=1.5, color=of)
        axis.set_yticks(range(len(found)), [setting.label for *_, setting in found], fontsize=8)
        for tick, (*_, setting) in zip(axis.get_yticklabels(), found, strict=True):
            tick.set_color(_of(setting))
        axis.axvline(0.0, color="#333333", linewidth=0.8)
        axis.set_ylim(len(found) - heights[number // columns], len(found))
        axis.set_xlim(-FAR_BEHIND, max([FAR_BEHIND, *(gain + half for gain, half, _ in found)]))
        axis.set_title(f"{settings[0].task}: {settings[0].metric}, less that of {base.label}", fontsize=10)
        _plain(axis)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _of(setting: Setting) -> str:
    """Return the colour of what is ours, or not."""
    return OURS if METHODS[setting.method].ours else OTHERS


def unbeaten(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points than which no other is at least as high in both and higher in one, from left to right."""
    return sorted(
        {p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)},
    )


def languages(settings: Sequence[Setting], path: Path) -> None:
    """Draw a bar for each method at each language at the end, with the standard deviation over seeds."""
    plt = _pyplot()
    names = list(settings[0].last[0]["scores"])
    width = 0.85 / len(settings)
    figure, axis = plt.subplots(figsize=(max(10, 0.16 * len(settings) * len(names)), 4.5), layout="constrained")
    places = np.arange(len(names))
    for number, setting in enumerate(settings):
        scores = np.array([[point["scores"][name] for name in names] for point in setting.last])
        axis.bar(
            places + (number - (len(settings) - 1) / 2) * width,
            scores.mean(0),
            width,
            yerr=scores.std(0, ddof=1) if len(scores) > 1 else None,
            error_kw={"elinewidth": 0.7},
            color=colour(setting),
            label=setting.label,
        )
    axis.set_xticks(places, [f"{name}*" if name in settings[0].sources else name for name in names])
    axis.margins(x=0.01)
    axis.set_xlabel("* trained on")
    axis.set_ylabel(settings[0].metric)
    _plain(axis)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def multipliers(settings: Sequence[Setting], path: Path) -> None:
    """Draw the languages' multipliers and the cosines of their gradients over the steps, where they were measured."""
    sources = settings[0].sources
    shown = [s for s in settings if np.isfinite(s.over_looks("report", f"multiplier/{sources[0]}")).all()]
    if not shown:
        return
    plt = _pyplot()
    figure, axes = plt.subplots(
        2,
        len(shown),
        figsize=(1.5 + 3 * len(shown), 5.5),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for (top, bottom), setting in zip(axes.T, shown, strict=True):
        for name in sources:
            top.plot(setting.steps[1:], setting.over_looks("report", f"multiplier/{name}"), label=name)
        for first, second in itertools.combinations(sources, 2):
            cosines = setting.over_looks("report", f"cosine/{first}/{second}")
            bottom.plot(setting.steps[1:], cosines, label=f"{first}, {second}")
        top.set_title(setting.label, fontsize=10)
        bottom.axhline(0.0, color="#999999", linewidth=0.8)
        bottom.set_xlabel("step")
        for axis in (top, bottom):
            _plain(axis)
    axes[0, 0].set_ylabel("multiplier")
    axes[1, 0].set_ylabel("cosine of gradients")
    for axis in axes[:, -1]:
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def colour(setting: Setting) -> str:
    """Return the colour of a setting's method."""
    return COLOURS.get(setting.method, "#000000")


def _pyplot() -> Any:
    """Return matplotlib for files."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    return plt


def _plain(axis: "Axes") -> None:
    """Take away what distracts."""
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
