"""The benchmark of the batched solver times it, counts its outcomes and leaves it as it was."""

import json
from pathlib import Path

import pytest

from benchmarks.solvers import batch, cli, results
from mgrad import batched


def test_run_writes_times_and_outcomes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual, path = batched.INTERIOR_STEPS, tmp_path / "batch.json"
    cli.main(["--batch", "--quick", "--sizes", "2", "5", "--out", str(path)])
    assert usual == batched.INTERIOR_STEPS
    record = json.loads(path.read_text(encoding="utf-8"))
    assert {(r["size"], r["stack"]) for r in record["time"]} == {(m, B) for m in (2, 5) for B in batch.STACKS}
    assert all(r["batched"] > 0 and r["loop"] > 0 for r in record["time"])
    assert sum(record["outcomes"]["pairs"].values()) == record["outcomes"]["instances"] > 0
    assert [(r["size"], r["instances"]) for r in record["steps"]] == [(2, 10), (5, 10)]
    assert "OPTIMAL → OPTIMAL" in capsys.readouterr().out


def test_figures_of_the_docs_are_those_of_the_committed_results() -> None:
    page = (Path(__file__).parents[3] / "docs" / "solvers.md").read_text(encoding="utf-8")
    record = results.read(results.DIRECTORY / "batch.json")
    found = record["outcomes"]
    assert batch.table(record) in page
    assert f"Of the {found['instances']} among the first {record['arguments']['instances']} instances" in page
    assert f"it called {sum(found['inaccurate'].values())} INACCURATE" in page
    assert f"{found['pairs']['UNBOUNDED → OPTIMAL']} OPTIMAL for UNBOUNDED" in page
