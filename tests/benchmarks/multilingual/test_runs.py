"""Runs from the command line to files, tables and the plot, with a small BERT that transformers loads from a folder."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.multilingual import __main__ as command
from benchmarks.multilingual import hub, report
from benchmarks.multilingual.memory import Peak
from benchmarks.multilingual.methods import METHODS
from benchmarks.multilingual.steppers import Start, Summed
from benchmarks.multilingual.train import Model, Run, train
from mgrad import LessForgetting

SIZES = ["--steps", "4", "--evaluations", "2", "--batch", "4", "--train-size", "16", "--dev-size", "4"]
SIZES += ["--source-size", "4", "--target-size", "4", "--retrieval-size", "8", "--sources", "en", "de"]
SIZES += ["--targets", "es", "hi", "--threads", "1"]
REPEATED = ["probe", "sum", "less-forgetting"]


@pytest.fixture(scope="module")
def output(folder_of_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of small runs of every method; of some with two seeds and two rates."""
    path = tmp_path_factory.mktemp("runs")
    command.main([*_arguments(folder_of_bert, path), "--methods", *METHODS])
    command.main(
        [*_arguments(folder_of_bert, path), "--methods", *REPEATED, "--lr", "own", "1e-2", "--seeds", "0", "1"]
    )
    return path


def _arguments(folder_of_bert: Path, output: Path) -> list[str]:
    return ["--model", str(folder_of_bert), "--output", str(output), "--lr", "own", *SIZES]


def read(output: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((output / f"{name}.json").read_text(encoding="utf-8"))
    return record


def run_of(record: dict[str, Any], **changes: Any) -> Run:
    lists = {key: tuple(value) for key, value in record["arguments"].items() if isinstance(value, list)}
    return Run(**(record["arguments"] | lists | changes))


def test_every_run_has_its_file_and_a_probe_has_one_rate(output: Path) -> None:
    names = {path.stem for path in output.glob("*.json")}
    expected = {f"slots-{method}-{METHODS[method].rates['slots']:g}-seed0" for method in METHODS}
    for method in REPEATED:
        for rate in (METHODS[method].rates["slots"], 1e-2):
            expected |= {f"slots-{method}-{rate:g}-seed{seed}" for seed in (0, 1)}
    assert names == expected


def test_ours_are_those_that_report_directions_with_a_pull(output: Path) -> None:
    names = {method: f"slots-{method}-{of.rates['slots']:g}-seed0" for method, of in METHODS.items()}
    reporting = {method for method, name in names.items() if read(output, name)["curve"][-1]["report"]}
    assert {method for method, of in METHODS.items() if of.ours} == reporting - {"normalised-sum"}


def test_a_record_holds_arguments_versions_and_curves(output: Path) -> None:
    record = read(output, "slots-less-forgetting-0.01-seed1")
    assert record["arguments"]["sources"] == ["en", "de"]
    assert record["arguments"]["seed"] == 1
    assert record["versions"]["torch"] == torch.__version__
    start, middle, end = record["curve"]
    assert [point["step"] for point in record["curve"]] == [0, 2, 4]
    assert set(end["scores"]) == {"en", "de", "es", "hi"}
    assert end["source"] == pytest.approx((end["scores"]["en"] + end["scores"]["de"]) / 2)
    assert end["unseen"] == pytest.approx((end["scores"]["es"] + end["scores"]["hi"]) / 2)
    assert start["distance"] == 0.0 < middle["distance"]
    assert {"multiplier/en", "multiplier/de", "relative_strong_stationarity", "duality_gap"} <= set(end["report"])
    assert set(end["loss"]) == {"en", "de"}
    assert 0 <= end["stationarity"] <= 1
    assert 0 <= end["retrieval"] <= 1


def test_all_methods_start_from_the_same_model_and_data(output: Path) -> None:
    starts = [
        {key: read(output, path.stem)["curve"][0][key] for key in ("dev", "scores", "retrieval", "distance")}
        for path in sorted(output.glob("*seed0.json"))
    ]
    assert all(start == starts[0] for start in starts)


def test_a_run_made_again_is_the_same(folder_of_bert: Path, output: Path) -> None:
    record = read(output, "slots-less-forgetting-0.01-seed0")
    again = train(run_of(record), hub.load(str(folder_of_bert)))
    for point in (*again["curve"], *record["curve"]):
        point.pop("training_seconds")
    assert json.loads(json.dumps(again["curve"])) == record["curve"]


@pytest.mark.parametrize("method", ["probe-sum", "lora", "less-forgetting"])
def test_linear_rates_fall_to_0_and_the_first_are_those_that_were_given(
    method: str, folder_of_bert: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[list[float]] = []

    def step(self: Any, closure: None = None) -> None:
        taken.append([group["lr"] for group in self.param_groups])

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    changes = {"method": method, "lr": 1e-2, "head_lr": 1e-3, "steps": 4, "evaluations": 1}
    train(run_of(read(output, "slots-sum-0.0001-seed0"), schedule="linear", **changes), hub.load(str(folder_of_bert)))
    shares = [1.0, 0.75, 0.5, 0.25]
    frozen = round(METHODS[method].frozen * 4)
    assert taken == [[1e-3 * s] if k < frozen else [1e-2 * s, 1e-3 * s] for k, s in enumerate(shares)]


class StoppedError(Exception):
    """What a run is stopped by."""


@pytest.mark.parametrize("method", ["probe-sum", "mixout", "smooth-rows", "by-gradient-distillation", "pcd-replay"])
@pytest.mark.parametrize("step", [1, 2])
def test_a_run_that_was_stopped_goes_on_from_its_last_look(
    method: str, step: int, folder_of_bert: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(
        read(output, "slots-sum-0.0001-seed0"),
        method=method,
        lr=1e-2,
        strength=0.5,
        steps=6,
        evaluations=6,
        probe=2,
        schedule="linear",
    )
    backbone = hub.load(str(folder_of_bert))
    checkpoint = tmp_path / "a.checkpoint"
    with monkeypatch.context() as patch:
        count = 0

        def stop(self: Model, examples: Any) -> Tensor:
            nonlocal count
            if len(examples) == run.batch:  # of a training step
                count += 1
                if count > len(run.sources) * step:
                    raise StoppedError
            return loss(self, examples)

        loss = Model.loss
        patch.setattr(Model, "loss", stop)
        with pytest.raises(StoppedError):
            train(run, backbone, checkpoint)
    assert checkpoint.exists()
    resumed = train(run, backbone, checkpoint)
    whole = train(run, backbone)
    assert [file.name for file in tmp_path.iterdir()] == []
    assert len(resumed["curve"]) == 7
    for point in (*resumed["curve"], *whole["curve"]):
        assert point.pop("training_seconds") >= 0
    assert resumed["curve"] == whole["curve"]


def test_a_checkpoint_of_another_run_is_not_taken(folder_of_bert: Path, output: Path, tmp_path: Path) -> None:
    record = read(output, "slots-sum-0.0001-seed0")
    checkpoint = tmp_path / "a.checkpoint"
    torch.save({"run": dataclasses.asdict(run_of(record, seed=5))}, checkpoint)
    again = train(run_of(record), hub.load(str(folder_of_bert)), checkpoint)
    assert again["curve"][-1]["scores"] == record["curve"][-1]["scores"]
    assert not checkpoint.exists()


def test_the_memory_of_steps_is_measured() -> None:
    peak = Peak()
    held = torch.ones(10_000_000)
    peak.reset()
    before = peak.read()
    more = torch.ones(40_000_000)
    assert peak.read() - before >= more.nbytes / 2
    del more, held
    peak.reset()
    assert peak.read() < before + 40_000_000


def test_a_run_of_before_an_argument_is_still_there(folder_of_bert: Path, output: Path, tmp_path: Path) -> None:
    record = read(output, "slots-sum-0.0001-seed0")
    del record["arguments"]["data"], record["arguments"]["longest"]
    (tmp_path / "slots-sum-0.0001-seed0.json").write_text(json.dumps(record), encoding="utf-8")
    before = (tmp_path / "slots-sum-0.0001-seed0.json").stat().st_mtime_ns
    command.main([*_arguments(folder_of_bert, tmp_path), "--methods", "sum"])
    assert (tmp_path / "slots-sum-0.0001-seed0.json").stat().st_mtime_ns == before


def test_a_stronger_pull_stays_nearer_to_the_start(folder_of_bert: Path, output: Path) -> None:
    record = read(output, "slots-less-forgetting-0.01-seed0")
    pulled = train(run_of(record, strength=1.0), hub.load(str(folder_of_bert)))["curve"][-1]["distance"]
    assert pulled < record["curve"][-1]["distance"]


def test_a_probe_leaves_the_encoder_where_it_is(output: Path) -> None:
    curve = read(output, "slots-probe-0.01-seed0")["curve"]
    assert [point["distance"] for point in curve] == [0.0, 0.0, 0.0]
    assert curve[-1]["retrieval"] == curve[0]["retrieval"]
    assert curve[-1]["loss"]["en"] < curve[1]["loss"]["en"]


def test_a_run_that_is_there_is_not_made_again(
    folder_of_bert: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(command, "train", fail)
    command.main([*_arguments(folder_of_bert, output), "--methods", *METHODS])


def test_a_run_of_other_arguments_is_not_overwritten(
    folder_of_bert: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main([*_arguments(folder_of_bert, output), "--methods", "sum", "--batch", "2"])
    assert "--output must not hold runs of other arguments. Found slots-sum-" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sources", "en", "es"], "--targets must be languages that are not trained on. Found ['es']"),
        (["--evaluations", "5"], "--evaluations must be at most --steps. Found 5 for 4 steps."),
        (["--lr", "fast"], "--lr must be positive numbers or own. Found 'fast'."),
        (["--lr", "0"], "--lr must be positive numbers or own. Found '0'."),
        (["--steps", "0"], "argument --steps: invalid positive int value: '0'"),
        (["--probe", "-1"], "--probe must be at least 0. Found -1."),
        (["--methods", "magic"], "invalid choice: 'magic'"),
        (["--targets", "tlh"], "--sources and --targets must be of en, de, "),
        (["--task", "ner"], "--data must be given for ner, nli, paraphrase and qa alone. Found [] for ner."),
        (
            ["--data", "wikiann"],
            "--data must be given for ner, nli, paraphrase and qa alone. Found ['wikiann'] for slots.",
        ),
    ],
)
def test_wrong_flags_say_what_is_wrong(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(["--output", str(tmp_path), *SIZES, *flags])
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_help_explains_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = capsys.readouterr().out
    for field in dataclasses.fields(Run):
        if field.name not in {"method", "seed", "retrieval"}:
            assert f"--{field.name.replace('_', '-')}" in text
    assert all(method in "".join(text.split()) for method in METHODS)  # lines break at hyphens


def test_a_prefix_is_put_before_every_text(folder_of_bert: Path) -> None:
    plain, prefixed = hub.load(str(folder_of_bert)), hub.load(str(folder_of_bert), prefix="abc")
    [short], [long] = plain.tokenize([("xy",)]), prefixed.tokenize([("xy",)])
    assert len(long.ids) == len(short.ids) + 3
    assert [span for span in long.spans if span[0] < span[1]] == [(0, 1), (1, 2)]


# ---------------------------------------------------------------------- methods


def weights() -> list[Tensor]:
    return [torch.nn.Parameter(torch.tensor([3.0, 4.0]))]


def test_the_sum_adds_gradients_and_the_penalty_pulls_to_the_start() -> None:
    parameters = weights()
    stepper = Summed(torch.optim.SGD(parameters, lr=1.0), parameters, strength=0.5)
    parameters[0].data += 2.0
    for name in ("en", "de"):
        with stepper.constraint(name):
            parameters[0].sum().backward()
    stepper.solve({})
    assert parameters[0].grad is not None
    assert parameters[0].grad.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("method", ["less-forgetting", "min-norm"])
def test_the_methods_of_the_library_are_the_library(method: str) -> None:
    stepper = METHODS[method].build(Start(torch.optim.SGD(weights(), lr=0.1), [], 0.25, None, torch.nn.Identity(), 1))
    assert isinstance(stepper, LessForgetting)
    assert stepper.strength == 0.25


def test_tables_and_a_plot_are_written_beside_the_runs(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([str(output), "--best", "--rates", "1e-2", "--against", "sum"])
    text = (output / "tables.md").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert text.partition("### slots: span F1 by language")[0].strip() in printed
    assert "mean ± standard deviation over 2 seeds" in text
    assert "multiplier en" in text
    assert "### slots: over the seeds, at the end" in printed
    assert "### slots: cosines of the languages' gradients" in printed
    for kind in ("", "-front", "-languages", "-multipliers"):
        assert (output / f"slots{kind}.png").stat().st_size > 10_000
