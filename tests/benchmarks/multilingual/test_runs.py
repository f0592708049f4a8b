"""Runs from the command line to files, tables and the plot, with a small BERT that transformers loads from a folder."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from benchmarks.multilingual import __main__ as command
from benchmarks.multilingual import hub, report
from benchmarks.multilingual.methods import METHODS, Start, Summed
from benchmarks.multilingual.train import Run, train
from mgrad import LessForgetting

SIZES = ["--steps", "4", "--evaluations", "2", "--batch", "4", "--train-size", "16", "--dev-size", "4"]
SIZES += ["--source-size", "4", "--target-size", "4", "--retrieval-size", "8", "--sources", "en", "de"]
SIZES += ["--targets", "es", "hi", "--threads", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where a BERT of random weights, with a tokenizer of characters, is saved."""
    path = tmp_path_factory.mktemp("bert")
    characters = sorted({chr(i) for i in range(33, 0x250)} | {chr(i) for i in range(0x900, 0x980)})
    vocabulary = {piece: i for i, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def output(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of small runs of every method, two seeds."""
    path = tmp_path_factory.mktemp("runs")
    command.main([*_arguments(folder, path), "--methods", *METHODS, "--seeds", "0", "1"])
    return path


def _arguments(folder: Path, output: Path) -> list[str]:
    return ["--model", str(folder), "--output", str(output), "--lr", "own", "1e-2", *SIZES]


def read(output: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((output / f"{name}.json").read_text(encoding="utf-8"))
    return record


def run_of(record: dict[str, Any], **changes: Any) -> Run:
    lists = {key: tuple(value) for key, value in record["arguments"].items() if isinstance(value, list)}
    return Run(**(record["arguments"] | lists | changes))


def test_every_run_has_its_file_and_a_probe_has_one_rate(output: Path) -> None:
    names = {path.stem for path in output.glob("*.json")}
    expected = {"slots-probe-0.01-seed0", "slots-probe-0.01-seed1"}
    for method in set(METHODS) - {"probe"}:
        for rate in (METHODS[method].rates["slots"], 1e-2):
            expected |= {f"slots-{method}-{rate:g}-seed{seed}" for seed in (0, 1)}
    assert names == expected


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


def test_a_run_made_again_is_the_same(folder: Path, output: Path) -> None:
    record = read(output, "slots-less-forgetting-0.01-seed0")
    again = train(run_of(record), hub.load(str(folder)))
    for point in (*again["curve"], *record["curve"]):
        point.pop("training_seconds")
    assert json.loads(json.dumps(again["curve"])) == record["curve"]


def test_a_stronger_pull_stays_nearer_to_the_start(folder: Path, output: Path) -> None:
    record = read(output, "slots-less-forgetting-0.01-seed0")
    pulled = train(run_of(record, strength=1.0), hub.load(str(folder)))["curve"][-1]["distance"]
    assert pulled < record["curve"][-1]["distance"]


def test_a_probe_leaves_the_encoder_where_it_is(output: Path) -> None:
    curve = read(output, "slots-probe-0.01-seed0")["curve"]
    assert [point["distance"] for point in curve] == [0.0, 0.0, 0.0]
    assert curve[-1]["retrieval"] == curve[0]["retrieval"]
    assert curve[-1]["loss"]["en"] < curve[1]["loss"]["en"]


def test_a_run_that_is_there_is_not_made_again(folder: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(command, "train", fail)
    command.main([*_arguments(folder, output), "--methods", *METHODS])


def test_a_run_of_other_arguments_is_not_overwritten(
    folder: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main([*_arguments(folder, output), "--methods", "sum", "--batch", "2"])
    assert "--output must not hold runs of other arguments. Found slots-sum-" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sources", "en", "es"], "--targets must be languages that are not trained on. Found ['es']"),
        (["--evaluations", "5"], "--evaluations must be at most --steps. Found 5 for 4 steps."),
        (["--lr", "fast"], "--lr must be positive numbers or own. Found 'fast'."),
        (["--lr", "0"], "--lr must be positive numbers or own. Found '0'."),
        (["--steps", "0"], "argument --steps: invalid positive int value: '0'"),
        (["--methods", "magic"], "invalid choice: 'magic'"),
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


def test_a_prefix_is_put_before_every_text(folder: Path) -> None:
    plain, prefixed = hub.load(str(folder)), hub.load(str(folder), prefix="abc")
    [short], [long] = plain.tokenize(["xy"]), prefixed.tokenize(["xy"])
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
    stepper = METHODS[method].build(Start(torch.optim.SGD(weights(), lr=0.1), [], 0.25, None))
    assert isinstance(stepper, LessForgetting)
    assert stepper.strength == 0.25


# ---------------------------------------------------------------------- tables


def made_up(method: str, source: list[float], retrieval: list[float], seed: int = 0) -> report.Setting:
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
            "report": {},
        }
        for i, (s, r) in enumerate(zip(source, retrieval, strict=True))
    ]
    return report.Setting("slots", method, 1e-4, "span F1", ("en",), {seed: curve})


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


def test_differences_are_those_of_runs_of_one_seed() -> None:
    sources = {"sum": [0.8, 0.7, 0.9, 0.4], "l2sp": [0.85, 0.7, 1.0]}
    settings = []
    for method, ends in sources.items():
        runs = [made_up(method, [0.0, end], [0.9, 0.5], seed) for seed, end in enumerate(ends)]
        settings.append(dataclasses.replace(runs[0], curves={k: c for run in runs for k, c in run.curves.items()}))
    baseline, other = settings
    interval = stats.ttest_rel(sources["l2sp"], sources["sum"][:3]).confidence_interval()  # seed 3 is of one alone
    middle, half = (interval.high + interval.low) / 2, (interval.high - interval.low) / 2
    assert f"| l2sp 1e-4       | {middle:+.3f} ± {half:.3f} |" in report.differences([baseline, other], baseline)


def test_the_best_rate_is_that_of_the_development_templates() -> None:
    better, worse = made_up("sum", [0.0, 0.8], [0.9, 0.3]), made_up("sum", [0.0, 0.7], [0.9, 0.9])
    assert report.best_rates([worse, better]) == [better]
    lucky = dataclasses.replace(worse, curves=worse.curves | made_up("sum", [0.0, 1.0], [0.9, 0.9], seed=1).curves)
    assert report.best_rates([lucky, better]) == [better]  # compared on the seed that both have


def test_tables_and_a_plot_are_written_beside_the_runs(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([str(output), "--best", "--rates", "1e-2", "--against", "sum"])
    text = (output / "tables.md").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert text.partition("### slots: span F1 by language")[0].strip() in printed
    assert "mean ± standard deviation over 2 seeds" in text
    assert "multiplier en" in text
    assert "### slots: more than sum 1e-2" in text
    assert (output / "slots.png").stat().st_size > 10_000


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold the JSON files of runs\. Found none\. Make some"):
        report.main([str(tmp_path)])
