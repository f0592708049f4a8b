"""What is logged and shown is what the report says."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from torch.optim import AdamW

from tests.recipes.page import (
    EPSILON,
    RATE,
    assert_same,
    assert_same_figures,
    blocks,
    by_hand,
    means,
    run,
    scalars,
    start,
)


def test_event_file_lines_and_progress_bar_hold_the_reports() -> None:
    names, other = start(), start()
    run(blocks("Watch and log")[0], names)
    parameters = list(other["model"].parameters())
    found: list[dict[str, float]] = []

    def losses(batches: Any) -> Mapping[str, Tensor]:
        values = means(other["model"], batches)
        found.append({f"loss/{language}": value.item() for language, value in values.items()})
        return values

    steps = [partial(losses, batches) for batches in other["loader"]]
    new = list(other["model"].classifier.parameters())
    reports = list(by_hand(parameters, AdamW(parameters, lr=RATE, eps=EPSILON), steps, new=new))
    assert_same(names["model"], other["model"])

    lines = [json.loads(line) for line in Path("report.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line.pop("step") for line in lines] == list(range(len(reports)))
    board = scalars("runs")
    for step, (line, report) in enumerate(zip(lines, reports, strict=True)):
        assert_same_figures(line, report)
        logged = {name: value for name, value in line.items() if name.startswith("loss/")}
        assert logged == pytest.approx(found[step])
        assert board[step] == {name: float(np.float32(value)) for name, value in line.items()}

    last = reports[-1]
    shown = dict(part.split("=") for part in names["bar"].postfix.split(", "))
    expected = {
        **dict(zip(last.names, last.multipliers, strict=True)),
        "stationarity": last.relative_strong_stationarity,
    }
    assert shown == {name: f"{value:.3g}" for name, value in expected.items()}
    assert names["figures"] == lines[-1]
