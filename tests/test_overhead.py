"""The benchmark of a step's cost: all its steppers train the same losses, and its page says what was measured."""

from pathlib import Path

import pytest
import torch

from benchmarks import results
from benchmarks.overhead import report
from benchmarks.overhead.models import Setting, build
from benchmarks.overhead.steppers import REFERENCE, SETTINGS, STEPPERS, torchjd
from benchmarks.overhead.times import measure


@pytest.mark.parametrize("setting", SETTINGS)
def test_where_no_losses_conflict_all_rules_without_vmap_step_alike(setting: Setting) -> None:
    """Equal losses: KeepPace's direction is their sum's gradient, as are the two plain steppers', and UPGrad's a fifth.

    AdamW's first step does not depend on the length of a gradient, up to its epsilon 1e-8 beside gradients of 1e-3
    and more, so that all steps are equal up to 1e-5 of the rate 1e-4, and the rounding of weights of size 1.
    """
    after = {}
    for name in (REFERENCE, "one pass", "less-forgetting", "TorchJD UPGrad, no vmap"):
        model = build("tiny", 5, setting, "cpu")
        for tensor in (model.inputs, model.labels):
            tensor.copy_(tensor[:1].expand_as(tensor).clone())
        for head in model.heads:
            head.load_state_dict(model.heads[0].state_dict())
        before = torch.cat([p.detach().flatten() for p in model.shared.parameters()])
        STEPPERS[name](model)()
        after[name] = torch.cat([p.detach().flatten() for p in model.shared.parameters()]) - before
    plain = after.pop(REFERENCE)
    assert plain.abs().min() > 5e-5
    for change in after.values():
        assert (change - plain).abs().max() < 1e-6


def test_vmap_changes_nothing_but_time() -> None:
    models = [build("tiny", 3, "heads", "cpu") for _ in range(2)]
    for model, chunk in zip(models, (None, 1), strict=True):
        torchjd("MGDA", chunk)(model)()
    for one, other in zip(*(model.parameters for model in models), strict=True):
        assert (one - other).abs().max() < 1e-6


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_reference_is_one_and_the_quartiles_are_in_order(setting: Setting) -> None:
    rows = measure("tiny", setting, 2, 3, "cpu")
    assert [row["stepper"] for row in rows] == list(STEPPERS)
    assert rows[0]["ratio"] == 1.0
    assert all(0 < row["low"] <= row["ratio"] <= row["high"] for row in rows)


def test_tables_of_the_docs_are_those_of_the_results() -> None:
    text = (Path(__file__).parents[1] / "docs" / "overhead.md").read_text(encoding="utf-8")
    assert report.page(results.read(report.FILE)) in text
