"""What is measured of one pass is what mgrad does, and what the docs say was measured."""

from pathlib import Path

import torch

from benchmarks import results
from benchmarks.overhead import one_pass
from benchmarks.overhead.models import build
from benchmarks.overhead.steppers import less_forgetting, together


def test_steps_from_one_pass_are_those_from_m() -> None:
    """AdamW steps do not depend on the length of a gradient: its rounding, 1e-5, moves them by 1e-5 of the rate 1e-4.

    What is left are two roundings of weights below 1 at each of five steps, in either model.
    """
    models = [build("tiny", 5, "batches", "cpu") for _ in range(2)]
    steps = [start(model) for start, model in zip((less_forgetting(), together), models, strict=True)]
    for _ in range(5):
        for step in steps:
            step()
    for one, other in zip(*(model.parameters for model in models), strict=True):
        assert (one - other).abs().max() <= 5 * (1e-9 + 4 * 2.0**-25)


def test_all_passes_leave_the_same_gradient() -> None:
    model = build("tiny", 3, "batches", "cpu")
    taken, sums = one_pass.passes(model), {}
    for label in ("one pass", "m passes"):
        taken[label]()
        sums[label] = [p.grad for p in model.parameters]
    for one, other in zip(*sums.values(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_table_of_the_docs_is_that_of_the_results() -> None:
    text = (Path(__file__).parents[1] / "docs" / "one-pass.md").read_text(encoding="utf-8")
    assert one_pass.page(results.read(one_pass.FILE)) in text
