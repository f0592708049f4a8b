"""The tables of the docs are what the report prints from the runs that lie beside the example."""

from pathlib import Path

import pytest

from benchmarks.multilingual import bars, comparisons, report, settings

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "multilingual" / "results"


def rows(text: str) -> list[str]:
    """Return the rows of the tables, without their alignment."""
    return [" ".join(line.split()) for line in text.splitlines() if line.startswith("|") and "---" not in line]


@pytest.mark.parametrize("task", ["slots", "intents"])
def test_tables_of_the_study_are_made_from_its_runs(task: str) -> None:
    runs = settings.best_rates(settings.load(RESULTS / task), [2e-4])
    expected = rows(report.summary(runs)) + rows(report.details(runs))
    found = rows((ROOT / "docs" / "multilingual-log.md").read_text(encoding="utf-8"))
    assert [row for row in expected if row not in found] == []


@pytest.mark.parametrize("study", ["lead", "options"])
def test_tables_of_other_settings_are_made_from_their_runs(study: str) -> None:
    text = report.summary(settings.load(RESULTS / study))
    expected = rows(text[: text.index("first reaches")])
    found = rows((ROOT / "docs" / "multilingual-log.md").read_text(encoding="utf-8"))
    assert [row for row in expected if row not in found] == []


@pytest.mark.parametrize("task", ["slots", "intents"])
def test_tables_of_kept_translations_are_made_from_their_runs(task: str) -> None:
    runs = [setting for setting in settings.load(RESULTS / "regime") if setting.task == task]
    text = report.summary(runs)
    expected = rows(text[: text.index("first reaches")]) + rows(comparisons.over_seeds(runs, "sum"))
    found = rows((ROOT / "docs" / "multilingual-log.md").read_text(encoding="utf-8"))
    assert [row for row in expected if row not in found] == []


@pytest.mark.parametrize("task", ["slots", "intents", "questions", "pairs"])
def test_tables_of_the_protocol_are_made_from_its_runs(task: str) -> None:
    runs = [setting for setting in settings.load(RESULTS / "study" / "final") if setting.task == task]
    text = report.summary(runs)
    expected = rows(text[: text.index("first reaches")]) + rows(comparisons.over_seeds(runs, "sum"))
    expected += rows(bars.page(RESULTS / "study" / "tune", runs))
    found = rows((ROOT / "docs" / "multilingual.md").read_text(encoding="utf-8"))
    assert [row for row in expected if row not in found] == []
    assert {tuple(run.curves) for run in runs} == {(1, 2, 3, 4, 5)}


@pytest.mark.parametrize("task", ["slots", "intents"])
def test_tables_of_the_ten_seeds_that_confirm_are_made_from_their_runs(task: str) -> None:
    runs = [setting for setting in settings.load(RESULTS / "study" / "confirm") if setting.task == task]
    found = rows((ROOT / "docs" / "multilingual-log.md").read_text(encoding="utf-8"))
    assert [row for row in rows(comparisons.over_seeds(runs, "sum")) if row not in found] == []
    assert {tuple(sorted(run.curves)) for run in runs} == {tuple(range(6, 16))}


@pytest.mark.parametrize(
    ("study", "tasks"),
    [
        ("before", ["slots", "intents", "pairs"]),
        ("constant", ["questions", "pairs"]),
        ("fading", ["slots", "intents", "questions", "pairs"]),
    ],
)
def test_tables_of_other_rates_are_made_from_their_runs(study: str, tasks: list[str]) -> None:
    runs = settings.load(RESULTS / "study" / study)
    assert {run.task for run in runs} == set(tasks)
    found = rows((ROOT / "docs" / "multilingual-log.md").read_text(encoding="utf-8"))
    for task in tasks:
        expected = rows(comparisons.over_seeds([run for run in runs if run.task == task], "sum"))
        assert [row for row in expected if row not in found] == []
    assert {tuple(run.curves) for run in runs} == {(1, 2, 3, 4, 5)}


def test_the_table_of_the_demo_is_made_from_its_runs() -> None:
    expected = rows(report.summary(settings.load(RESULTS / "demo")))
    found = rows((ROOT / "README.md").read_text(encoding="utf-8"))
    assert [row for row in expected if row not in found] == []
