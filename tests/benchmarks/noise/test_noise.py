"""The study of noise measures what it says, and its tables in the docs are those of the committed results."""

from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.noise import report, study
from benchmarks.noise.__main__ import main

ROOT = Path(__file__).parents[3]


def test_half_batches_learn_what_noise_keeps_from_a_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "RATES", (0.1,))
    monkeypatch.setattr(study, "LONGER", ())
    monkeypatch.setattr(study, "SIZES", {"fittable": 40})
    runs = study.measure(steps=80, seeds=1)
    assert len(runs) == 2 * (1 + len(study.OPTIONS))
    strong = {r["option"]: r for r in runs if r["noise"] == 3.0}
    assert 2 * strong["HalfBatches()"]["mean"] < strong["as they come"]["mean"]
    assert strong["HalfBatches()"]["seen"] < 0.5 * strong["as they come"]["seen"]


def test_command_writes_what_it_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--steps", "2", "--seeds", "1", "--out", str(tmp_path / "n.json")])
    report.main([str(tmp_path / "n.json")])
    assert capsys.readouterr().out.count(report.page(results.read(tmp_path / "n.json"))) == 2


def test_tables_of_the_docs_are_made_from_the_committed_results() -> None:
    assert report.page(results.read(report.FILE)) in (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
