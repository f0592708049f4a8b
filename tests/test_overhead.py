"""The benchmark of a step's cost: all its steppers train the same losses, and its page says what was measured."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import results
from benchmarks.overhead import cli, clock, fits, memory, plot, profile, report, scaling
from benchmarks.overhead.models import Model, Setting, build
from benchmarks.overhead.peers import EVERYONE, torchjd, torchjd_engine
from benchmarks.overhead.record import Record
from benchmarks.overhead.steppers import OURS, REFERENCE, SETTINGS
from benchmarks.overhead.times import measure


def equal_losses(setting: Setting) -> Model:
    """Return a model whose five losses are one."""
    model = build("tiny", 5, setting, "cpu")
    for tensor in (model.inputs, model.labels):
        tensor.copy_(tensor[:1].expand_as(tensor).clone())
    for head in model.heads:
        head.load_state_dict(model.heads[0].state_dict())
    return model


def change(model: Model, stepper: str) -> torch.Tensor:
    """Return the change of the shared part by one step."""
    before = nn.utils.parameters_to_vector(model.shared.parameters()).detach()
    EVERYONE[stepper](model)()
    return nn.utils.parameters_to_vector(model.shared.parameters()).detach() - before


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("stepper", [name for name in EVERYONE if name.endswith("no vmap") or "TorchJD" not in name])
def test_where_no_losses_conflict_all_rules_without_vmap_step_alike(stepper: str, setting: Setting) -> None:
    """Equal losses: every direction is a multiple of their gradient.

    AdamW's first step does not depend on the length of a gradient, up to its epsilon 1e-8 beside gradients of 1e-3
    and more, so that all steps are equal up to 1e-5 of the rate 1e-4, and two roundings of weights below 1 in either.
    """
    plain = change(equal_losses(setting), REFERENCE)
    assert plain.abs().min() > 5e-5
    assert (change(equal_losses(setting), stepper) - plain).abs().max() <= 1e-9 + 4 * 2.0**-25


@pytest.mark.parametrize("setting", SETTINGS)
def test_torchjd_without_vmap_or_rows_takes_the_same_steps(setting: Setting) -> None:
    ways = (torchjd("UPGrad", None), torchjd("UPGrad", 1), torchjd_engine("UPGradWeighting"))
    models = [build("tiny", 3, setting, "cpu") for _ in ways]
    for model, way in zip(models, ways, strict=True):
        way(model)()
    for others in zip(*(model.shared.parameters() for model in models), strict=True):
        for other in others[1:]:
            assert (others[0] - other).abs().max() < 1e-6


def test_adapters_train_nothing_else_of_the_multilingual_model() -> None:
    """A of 8 × 384 and B of 384 × 8, on queries and values of 12 layers; a head of 384 → 16 with its bias."""
    model = build("adapters", 2, "batches", "cpu")
    assert sum(p.numel() for p in model.parameters) == 12 * 2 * 2 * 8 * 384 + 384 * 16 + 16
    before = {name: p.clone() for name, p in model.shared.named_parameters()}
    EVERYONE[OURS](model)()
    moved = [name for name, p in model.shared.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) == 12 * 2 * 2
    assert all("lora_" in name for name in moved)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_reference_is_one_and_the_quartiles_are_in_order(setting: Setting) -> None:
    rows = measure("tiny", setting, 2, [OURS, "ConFIG"], 3, "cpu")
    assert [row["stepper"] for row in rows] == [REFERENCE, OURS, "ConFIG"]
    assert rows[0]["ratio"] == 1.0
    assert all(0 < row["low"] <= row["ratio"] <= row["high"] for row in rows)


def test_no_turn_begins_after_the_third_where_the_time_is_up() -> None:
    assert measure("tiny", "heads", 2, [OURS], 9, "cpu", until=0.0)[0]["turns"] == 3


def test_what_a_peer_cannot_do_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(model: Model) -> Any:
        raise torch.OutOfMemoryError("no more\nthan that")

    monkeypatch.setitem(EVERYONE, "ConFIG", out_of_memory)
    rows = measure("tiny", "heads", 2, ["ConFIG", OURS], 3, "cpu")
    assert [row.get("failed") for row in rows] == [None, "OutOfMemoryError: no more", None]
    page = report.page({"environments": {"cpu": {}}, "times": rows, "memory": [], "profile": [], "scaling": []})
    assert re.search(r"\| ConFIG +\| failed +\|", page)


def test_a_device_is_timed_by_its_own_events(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        """Counts what is recorded; milliseconds are what lies between."""

        count = 0.0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.at, self.waited = -1.0, False

        def record(self) -> None:
            self.at = Event.count

        def synchronize(self) -> None:
            self.waited = True

        def elapsed_time(self, end: "Event") -> float:
            assert end.waited
            return end.at - self.at

    def work() -> None:
        Event.count += 500.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert clock.seconds(work, "cuda") == 0.5


def test_every_moment_belongs_to_the_innermost_part(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(clock, "perf_counter", lambda: now[0])
    parts = clock.Parts("cpu")
    with parts.part("outer"):
        now[0] += 1.0
        with parts.part("inner"):
            now[0] += 2.0
        now[0] += 4.0
    now[0] += 8.0
    with parts.part("inner"):
        now[0] += 16.0
    assert parts.seconds == {"outer": 5.0, "inner": 18.0}


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_part_of_a_step_is_found_in_the_profile(setting: Setting) -> None:
    """A function of mgrad that has another name now would leave its part at 0."""
    row = profile.measure("tiny", setting, 2, 3, "cpu")
    assert all(row["ours"][part] > 0 for part in profile.PARTS)
    plain = {part for part in profile.PARTS if row["plain"][part] > 0}
    assert plain == {profile.PASSES, profile.OPTIMIZER, profile.REST}


def test_memory_is_that_of_the_model_in_a_new_process() -> None:
    """The least: weights, gradient, AdamW's two moments. The most here: as much again, and 20 MB of the allocator."""
    row = memory.measure("mlp", "heads", 2, REFERENCE, "cpu")
    values = sum(p.numel() for p in build("mlp", 2, "heads", "cpu").parameters)
    assert row["values"] == values
    for which in ("bytes", "used"):
        assert 4 * 4 * values <= row[which] <= 2 * 4 * 4 * values + 2e7


def test_a_process_that_fails_leaves_its_last_words() -> None:
    row = memory.measure("tiny", "heads", 2, "no such stepper", "cpu")
    assert row["failed"] == "KeyError: 'no such stepper'"
    assert "bytes" not in row


def test_a_fit_finds_the_coefficients_of_exact_data() -> None:
    """t = 1 µs + 2 ns·n at m = 5, and 3 ms·m + 4 ms·m² at n = 10⁷, where both parts take the same."""
    sizes = [(5, n) for n in (10**5, 10**6)] + [(m, 10**7) for m in (2, 3, 8)]
    times = {(m, n): 1e-6 + 2e-9 * n if m == 5 else 3e-3 * m + 4e-3 * m**2 for m, n in sizes}
    times[5, 10**7] = 3e-3 * 5 + 4e-3 * 25
    times[5, 10**6] = 0.5
    rows = [
        {"losses": m, "values": n, "bandwidth": 1e10, **{part: [t, t, t] for part in scaling.PARTS}}
        for (m, n), t in times.items()
    ]
    found = {(fit.part, fit.along): fit for fit in fits.fits(rows)}
    for part in scaling.PARTS:
        assert np.allclose(found[part, "losses"].coefficients, (3e-3, 4e-3))
        assert np.allclose(found[part, "losses"].seconds([2.0, 16.0]), (0.022, 1.072))


def test_scaling_leaves_out_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_available", lambda device: 2 * 4 * (2 * 10**6 + 2 * scaling.COPIED) + 1)
    assert scaling.fits(2, 10**6, "cpu")
    assert not scaling.fits(2, 10**6 + 1, "cpu")


def run(file: Path, *arguments: str) -> dict[str, Any]:
    """Return the record after a short run on the tiny model, with as many threads as there are."""
    threads = str(torch.get_num_threads())
    cli.main(["--models", "tiny", "--repeats", "3", "--threads", threads, "--out", str(file), *arguments])
    return results.read(file)


def test_runs_add_up_in_one_file_and_missing_measures_only_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    steps = ["--parts", "times", "profile", "--settings", "heads", "--steppers", OURS]
    first = run(file, *steps, "--losses", "2")
    second = run(file, *steps, "--losses", "2", "3", "--missing")
    assert second["times"][:2] == first["times"]
    third = run(file, *steps, "ConFIG", "PCGrad", "--losses", "2", "--missing", "--apart")
    assert third["profile"] == second["profile"]
    assert [(row["losses"], row["stepper"]) for row in third["times"]] == [
        *((2, REFERENCE), (2, OURS), (3, REFERENCE), (3, OURS), (2, "ConFIG"), (2, "PCGrad"))
    ]
    assert third["times"][1:4] == second["times"][1:]  # each new one has come with a reference of its own
    anew = run(file, *steps, "--losses", "3", "--new")
    assert [row["losses"] for row in anew["times"]] == [3, 3]


def test_nothing_is_begun_after_the_time_is_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = run(tmp_path / "record.json", "--parts", "profile", "--losses", "2", "3", "--minutes", "0")
    assert [(row["losses"], row["turns"]) for row in record["profile"]] == [(2, 3)]
    assert "The time is up." in capsys.readouterr().out


def test_a_record_is_shown_as_tables_and_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaling, "COPIED", 1000)
    monkeypatch.setattr(scaling, "TURN", 0.0)
    monkeypatch.setattr(cli, "STEPS", 3000)
    monkeypatch.setattr(memory, "_elsewhere", lambda cell, environment: (len(cell["stepper"]) * 1000, 79))
    file = tmp_path / "record.json"
    run(file, "--losses", "2", "5")
    record = run(file, "--scaling", "--losses", "2", "5", "8", "--values", "1e3", "2e3")
    assert len(record["times"]) == len(record["memory"]) == 2 * 2 * len(EVERYONE)
    assert [(row["losses"], row["values"]) for row in record["scaling"]] == [
        *((2, 3000), (5, 3000), (8, 3000), (5, 1000), (5, 2000))
    ]
    assert report.page(record) in capsys.readouterr().out
    names = {f"{part}.png" for part in ("times", "memory", "profile", "scaling")}
    assert {path.name for path in tmp_path.iterdir()} == {*names, "record.json"}
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_a_file_of_another_environment_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    Record(file, "cpu", {"threads": 2}).add("times", [])
    Record(file, "cuda", {"threads": 1}).add("times", [])
    with pytest.raises(ValueError, match="must be of one environment for each device"):
        Record(file, "cpu", {"threads": 1})


def test_memory_is_counted_from_the_reference_of_the_same_cell() -> None:
    rows = [
        {"device": "cpu", "model": "mlp", "setting": "heads", "losses": m, "stepper": s, "bytes": b, "values": 100}
        for m, s, b in ((2, REFERENCE, 1000), (2, OURS, 1800), (5, OURS, 9000))
    ]
    assert [report.gradients(row, rows) for row in rows] == [0.0, 2.0, None]
    assert report.gradients(rows[1], rows, "used") is None
    rows = [row | {"used": 500 * (i + 1)} for i, row in enumerate(rows)]
    assert [report.gradients(row, rows, "used") for row in rows] == [0.0, 1.25, None]


def test_least_are_two_readings_of_the_rows_and_two_points_and_one_writing() -> None:
    cell = {"device": "cpu", "model": "transformer", "setting": "heads", "losses": 5, "values": 10**6}
    times = [cell | {"stepper": s, "ratio": r, "seconds": 0.5} for s, r in ((REFERENCE, 1.0), (OURS, 1.2))]
    moved = 4 * 10**6 * (5 + 2 + 5 + 2 + 1)
    record = {
        "times": times,
        "memory": [],
        "scaling": [{"device": "cuda", "bandwidth": 1e12}, {"device": "cpu", "bandwidth": 1e9}],
    }
    assert f"| 1.05    | 1.20  | not met | +{moved / 1e9 / 0.5:.2f} " in "".join(report._bars(record))
    assert "| not met |  " in "".join(report._bars(record | {"scaling": []}))


def test_every_stepper_has_a_look_of_its_own() -> None:
    assert len({plot.look(name) for name in EVERYONE}) == len(EVERYONE)


def test_tables_of_the_docs_are_those_of_the_results() -> None:
    text = (Path(__file__).parents[1] / "docs" / "overhead.md").read_text(encoding="utf-8")
    for file in ("overhead.json", "again.json", "models/overhead.json"):
        assert report.page(results.read(report.FILE.parent / file)) in text


@pytest.mark.gpu
@pytest.mark.parametrize("setting", SETTINGS)
def test_all_is_measured_on_a_device(setting: Setting) -> None:
    rows = measure("tiny", setting, 2, list(EVERYONE), 3, "cuda")
    assert all(row["ratio"] > 0 for row in rows)
    assert memory.measure("tiny", setting, 2, OURS, "cuda")["bytes"] > 0
    assert profile.measure("tiny", setting, 2, 3, "cuda")["ours"]["Gramian"] > 0
    assert scaling.measure([(2, 10**6)], 3, "cuda")[0]["bandwidth"] > 0
