"""Tables and statistics of runs, on curves that were made up."""

import dataclasses
import itertools
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.multilingual import comparisons, plots, report, settings
from benchmarks.multilingual.methods import METHODS


def made_up(method: str, source: list[float], retrieval: list[float], seed: int = 0) -> settings.Setting:
    curve = [
        {
            "step": 10 * i,
            "dev": s,
            "source": s,
            "unseen": s / 2,
            "retrieval": r,
            "distance": float(i),
            "strong_stationarity": 1.0,
            "scores": {"en": s, "es": s / 2},
            "training_seconds": 0.0,
            "report": {},
        }
        for i, (s, r) in enumerate(zip(source, retrieval, strict=True))
    ]
    return settings.Setting("slots", method, 1e-4, METHODS[method].strength, "span F1", ("en",), {seed: curve})


def test_measures_at_a_level_are_interpolated_between_looks() -> None:
    found = made_up("sum", [0.0, 0.4, 0.8], [0.9, 0.7, 0.3]).at_level(0.5)
    assert found is not None
    step, measures = found
    assert step == pytest.approx(12.5)
    assert measures == pytest.approx({"source": 0.5, "unseen": 0.25, "retrieval": 0.6, "distance": 1.25})
    assert made_up("sum", [0.0, 0.4], [0.9, 0.7]).at_level(0.5) is None


def test_tables_say_where_a_level_is_not_reached() -> None:
    text = report.summary([made_up("sum", [0.0, 0.8], [0.9, 0.3]), made_up("probe", [0.0, 0.4], [0.9, 0.9])])
    assert "when the source score first reaches 0.72" in text
    rows = [line for line in text.splitlines() if line.startswith("| probe")]
    assert "not reached" in rows[1]
    assert len({len(line) for line in text.splitlines() if line.startswith("| ")}) == 2  # two aligned tables


def test_the_best_rate_is_that_of_the_development_templates() -> None:
    better, worse = made_up("sum", [0.0, 0.8], [0.9, 0.3]), made_up("sum", [0.0, 0.7], [0.9, 0.9])
    assert settings.best_rates([worse, better]) == [better]
    lucky = dataclasses.replace(worse, curves=worse.curves | made_up("sum", [0.0, 1.0], [0.9, 0.9], seed=1).curves)
    assert settings.best_rates([lucky, better]) == [better]  # compared on the seed that both have


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold the JSON files of runs\. Found none\. Make some"):
        report.main([str(tmp_path)])


def seeds(method: str, *ends: float, first: int = 0) -> settings.Setting:
    """Return a setting with one run for each score at the end, of seeds from the first on."""
    runs = [made_up(method, [0.0, end], [0.8, 0.4], seed) for seed, end in enumerate(ends, start=first)]
    return dataclasses.replace(runs[0], curves={seed: c for run in runs for seed, c in run.curves.items()})


def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(3.0, 2.0, size=(500, 5))
    held = sum(abs(mean - 3.0) <= half for mean, half in map(comparisons.interval, draws.tolist()))
    # Five standard deviations of a share of 0.95 among 500.
    assert abs(held / 500 - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 500)
    mean, half = comparisons.interval([2.0])
    assert mean == 2.0
    assert math.isnan(half)


def test_the_test_is_paired() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 6))
    found = comparisons.p_value((first - second).tolist())
    assert found == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert math.isnan(comparisons.p_value([0.5]))
    assert math.isnan(comparisons.p_value([0.5, 0.5]))


def test_differences_are_of_the_seeds_that_both_have() -> None:
    ours, theirs = seeds("l2sp", 0.5, 0.6, 0.9), seeds("sum", 0.5, 0.7, first=1)
    assert comparisons.paired(ours, theirs, "source") == pytest.approx([0.1, 0.2])
    rows = [
        line.split("|") for line in comparisons.over_seeds([ours, theirs], "sum").splitlines() if line.startswith("|")
    ][2:]
    assert rows[0][3].strip().startswith("+0.075")  # unseen is half of source
    assert rows[0][5].strip().startswith("+0.150")
    assert rows[0][7].strip() == "50 %"
    assert rows[1][3].strip() == ""


def test_costs_are_those_of_a_step() -> None:
    slow = made_up("l2sp", [0.0, 0.5], [0.8, 0.4])
    for setting, seconds in ((slow, 30.0), (fast := made_up("sum", [0.0, 0.5], [0.8, 0.4]), 20.0)):
        setting.curves[0][-1]["training_seconds"] = seconds
    assert comparisons.seconds_of_a_step(slow) == pytest.approx(3.0)
    slow = dataclasses.replace(slow, memory={0: 2_500_000_000})
    rows = [line.split("|") for line in comparisons.costs([fast, slow], "sum").splitlines() if line.startswith("|")][2:]
    assert [cell.strip() for cell in rows[1][2:5]] == ["3.00", "1.50", "2.50"]
    assert rows[0][4].strip() == "–"


def test_cosines_are_means_over_the_looks_and_seeds() -> None:
    setting = made_up("less-forgetting", [0.0, 0.5, 0.6], [0.8, 0.4, 0.4])
    setting = dataclasses.replace(setting, sources=("en", "de"))
    assert comparisons.conflicts([setting]) == ""
    for point, cosine in zip(setting.curves[0][1:], (0.2, -0.6), strict=True):
        point["report"]["cosine/en/de"] = cosine
    assert "-0.200" in comparisons.conflicts([setting])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = plots.unbeaten(points)
    for first, second in itertools.pairwise(front):
        assert first[0] < second[0]
        assert first[1] > second[1]
    for point in points:
        assert any(best[0] >= point[0] and best[1] >= point[1] for best in front)


def test_the_picture_of_the_front_names_what_has_hardly_learnt_and_leaves_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [made_up("probe", [0.0, 0.64], [0.9, 0.9]), made_up("sum", [0.0, 0.8], [0.9, 0.3])]
    runs.append(made_up("l2sp", [0.0, 0.9], [0.9, 0.3]))
    monkeypatch.setattr(plt, "close", lambda figure: None)
    plots.front(runs, tmp_path / "front.png")
    figure = plt.gcf()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [runs[2].label, runs[1].label, f"{runs[0].label}: at 0.640 and 0.320"]
    low, high = figure.axes[0].get_xlim()
    assert 0.64 < low < 0.8 < 0.9 < high
    monkeypatch.undo()
    plt.close(figure)


def test_the_picture_of_gains_shows_each_method_over_another_task_by_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Unseen is half of source: +0.04, −0.05 and, named beside it, −0.20.
    scores = {"sum": 0.8, "less-forgetting": 0.88, "l2sp": 0.7, "probe": 0.4}
    slots = [made_up(method, [0.0, score], [0.9, 0.9]) for method, score in scores.items()]
    far = made_up("l2sp", [0.0, 1.0], [0.9, 0.9])  # +0.10, beyond what is shown otherwise
    elsewhere = made_up("ewc", [0.0, 0.8], [0.9, 0.9], seed=1)  # no seed to compare by
    intents = [dataclasses.replace(setting, task="intents") for setting in (slots[0], far, elsewhere)]
    monkeypatch.setattr(plt, "close", lambda figure: None)
    plots.gains([slots, intents], "sum", tmp_path / "gains.png")
    figure = plt.gcf()
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == [slots[i].label for i in (3, 2, 1)]
    assert [label.get_text() for label in right.get_yticklabels()] == [intents[1].label]
    assert right.get_xlim()[1] == pytest.approx(0.1)
    drawn = [point for bars in left.containers for point in bars[0].get_xydata()]
    assert np.allclose(drawn, [(-0.05, 1), (0.04, 2)], rtol=0, atol=1e-12)
    assert [text.get_text().strip() for text in left.texts] == ["◂ -0.200"]
    colours = [label.get_color() for label in left.get_yticklabels()]
    assert colours == [plots.OTHERS, plots.OTHERS, plots.OURS]
    monkeypatch.undo()
    plt.close(figure)
