"""The command line: which runs to make. Each writes one JSON file; tables and the plot are made from those files."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path

import torch

from benchmarks import results
from benchmarks.multilingual import e5, report
from benchmarks.multilingual.backbone import Backbone
from benchmarks.multilingual.data.words import WORDS
from benchmarks.multilingual.methods import METHODS
from benchmarks.multilingual.tasks import TASKS
from benchmarks.multilingual.train import Run, train

E5 = "multilingual-e5-small"
SOURCES = ["en", "de", "fr"]
TARGETS = ["es", "it", "ru", "zh-CN", "ar", "hi", "th", "ko", "el", "vi", "fi", "hu"]
# What --demo sets, sized for 2 cores and a few minutes.
DEMO = {
    "methods": ["cold-sum", "sum", "by-gradient-replay"],
    "lr": ["own"],
    "probe": 300,
    "targets": ["es", "ru", "zh-CN", "ar", "hi", "fi"],
    "steps": 100,
    "output": Path("results/demo"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Make the runs that are not there yet, then show what all runs of the output directory say."""
    report.main([str(make(argv))])


def make(argv: Sequence[str] | None = None) -> Path:
    """Make the runs that are not there yet, and return their directory."""
    parser = _parser()
    if parser.parse_args(argv).demo:
        parser.set_defaults(**DEMO)
    arguments = parser.parse_args(argv)
    runs = _plan(parser, arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    missing = [(path, run) for path, run in runs.items() if not _is_there(parser, path, run)]
    if missing:
        with torch.device(arguments.device):
            backbone = _load(arguments)
            for number, (path, run) in enumerate(missing, start=1):
                print(f"run {number} of {len(missing)}: {path.stem}", flush=True)
                _write(path, train(run, backbone, path.with_suffix(".checkpoint")))
    output: Path = arguments.output
    return output


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.multilingual",
        description="Fine-tune a multilingual encoder on several source languages with several methods, and measure "
        "what each learns, what cross-lingual knowledge it keeps, and how it does on languages never trained on. A "
        "run that is already in the output directory is not made again; one that was stopped goes on at its last look.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    methods = "; ".join(f"{name}: {method.description}" for name, method in METHODS.items())
    add("--demo", action="store_true", help="a small comparison of a few minutes; the other flags still hold")
    tasks = "; ".join(f"{name}: {task.description}" for name, task in TASKS.items())
    add("--task", choices=list(TASKS), metavar="TASK", default="slots", help=tasks)
    add(
        "--data",
        nargs="+",
        metavar="PLACE",
        default=[],
        help="for ner, nli, paraphrase and qa: directories of files, or names on the hub; the first that has a part",
    )
    add(
        "--methods",
        nargs="+",
        choices=list(METHODS),
        metavar="METHOD",
        default=["probe", "sum", "probe-sum", "l2sp", "less-forgetting"],
        help=methods,
    )
    add(
        "--lr",
        nargs="+",
        metavar="RATE",
        default=["own", "2e-4"],
        help="learning rates of the encoder, each method at each of them; own: the method's own tuned one",
    )
    add("--head-lr", type=_positive(float), default=1e-3, help="learning rate of the new head")
    add("--strength", type=float, help="of the methods' pull to the start; each method's own if not given")
    add("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="one run for each")
    add("--sources", nargs="+", metavar="LANGUAGE", default=SOURCES, help="languages trained on")
    add("--targets", nargs="*", metavar="LANGUAGE", default=TARGETS, help="languages unseen")
    add("--steps", type=_positive(int), default=120, help="of training, one batch of each source language in each")
    add("--evaluations", type=_positive(int), default=4, help="how often to look, besides the start")
    add("--batch", type=_positive(int), default=8, help="utterances of each source language in a step")
    add("--train-size", type=_positive(int), default=480, help="utterances of each source language to train on")
    add("--dev-size", type=_positive(int), default=50, help="utterances of each source language to tune by")
    add("--source-size", type=_positive(int), default=80, help="utterances of each source language to score on")
    add("--target-size", type=_positive(int), default=50, help="utterances of each target language to score on")
    add("--retrieval-size", type=int, default=60, help="strings of each target language to retrieve; 0 for none")
    add("--model", default=E5, metavar="NAME_OR_PATH", help=f"{E5}, from a package, or any encoder for transformers")
    add("--prefix", help=f'put before every text; "query: " for {E5} and nothing for others if not given')
    add("--longest", type=_positive(int), default=128, help="text, in tokens; what is beyond is cut off")
    add("--precision", choices=["float32", "bfloat16"], default="float32", help="of the forward passes")
    add("--probe", type=int, default=0, help="steps in which the head alone is trained, before all others")
    add("--schedule", choices=["constant", "linear"], default="constant", help="of the learning rates; linear: to 0")
    add("--device", default="cpu", help="of torch")
    add("--threads", type=_positive(int), help="of torch; its own choice if not given")
    add("--output", type=Path, default=Path("results/multilingual"), help="directory of the runs")
    return parser


def _positive(kind: type[float]) -> Callable[[str], float]:
    """Return a reader of positive numbers."""

    def read(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value

    read.__name__ = f"positive {kind.__name__}"  # argparse says: invalid positive int value
    return read


def _plan(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> dict[Path, Run]:
    """Return the runs that are asked for, by the file that each is to write."""
    both = set(arguments.sources) & set(arguments.targets)
    if both:
        parser.error(f"--targets must be languages that are not trained on. Found {sorted(both)} among --sources, too.")
    if arguments.steps < arguments.evaluations:
        parser.error(
            f"--evaluations must be at most --steps. Found {arguments.evaluations} for {arguments.steps} steps."
        )
    if arguments.probe < 0:
        parser.error(f"--probe must be at least 0. Found {arguments.probe}.")
    of_commands = not isinstance(TASKS[arguments.task].source, str)
    if of_commands == bool(arguments.data):
        parser.error(
            f"--data must be given for ner, nli, paraphrase and qa alone. Found {arguments.data} for {arguments.task}."
        )
    unknown = sorted({*arguments.sources, *arguments.targets} - set(WORDS))
    if of_commands and unknown:
        parser.error(f"--sources and --targets must be of {', '.join(WORDS)}. Found {', '.join(unknown)}.")
    prefix = arguments.prefix
    if prefix is None:
        prefix = "query: " if arguments.model == E5 else ""
    runs = {}
    for seed in arguments.seeds:
        for name in arguments.methods:
            method = METHODS[name]
            own = method.rates[TASKS[arguments.task].like]
            # A probe has no rate of the encoder: it is made once, at its own.
            rates = {own} if method.frozen == 1.0 else {_rate(parser, text, own) for text in arguments.lr}
            for rate in sorted(rates):
                run = Run(
                    task=arguments.task,
                    model=arguments.model,
                    prefix=prefix,
                    method=name,
                    strength=method.strength if arguments.strength is None else arguments.strength,
                    lr=0.0 if method.frozen == 1.0 else rate,
                    head_lr=rate if method.frozen == 1.0 else arguments.head_lr,
                    seed=seed,
                    sources=tuple(arguments.sources),
                    targets=tuple(arguments.targets),
                    steps=arguments.steps,
                    evaluations=arguments.evaluations,
                    batch=arguments.batch,
                    train_size=arguments.train_size,
                    dev_size=arguments.dev_size,
                    source_size=arguments.source_size,
                    target_size=arguments.target_size,
                    retrieval_size=arguments.retrieval_size,
                    data=tuple(arguments.data),
                    longest=arguments.longest,
                    precision=arguments.precision,
                    probe=0 if method.cold else arguments.probe,
                    schedule=arguments.schedule,
                )
                pull = "" if run.strength == method.strength else f"-strength{run.strength:g}"
                runs[arguments.output / f"{run.task}-{name}-{rate:g}{pull}-seed{seed}.json"] = run
    return runs


def _rate(parser: argparse.ArgumentParser, text: str, own: float) -> float:
    """Return the learning rate that is meant."""
    if text == "own":
        return own
    try:
        return _positive(float)(text)
    except ValueError:
        parser.error(f"--lr must be positive numbers or own. Found {text!r}.")


def _is_there(parser: argparse.ArgumentParser, path: Path, run: Run) -> bool:
    """Tell whether a run is in its file; a run with other arguments in that file is an error."""
    if not path.exists():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))["arguments"]
    # A file may be older than an argument, which then had the default.
    found = {f.name: f.default for f in fields(Run) if f.default is not MISSING} | found
    wanted = asdict(run)
    different = [key for key in wanted if json.dumps(found.get(key)) != json.dumps(wanted[key])]
    if different:
        parser.error(
            f"--output must not hold runs of other arguments. Found {path.name} with another {', '.join(different)}. "
            "Choose another directory."
        )
    return True


def _load(arguments: argparse.Namespace) -> Backbone:
    """Return the model."""
    options = {} if arguments.prefix is None else {"prefix": arguments.prefix}
    if arguments.model == E5:
        return e5.load(longest=arguments.longest, **options)
    from benchmarks.multilingual import hub

    return hub.load(arguments.model, longest=arguments.longest, **options)


def _write(path: Path, record: dict[str, object]) -> None:
    """Write a record as one line of JSON for each of its entries and points, whole or not at all."""
    entries = []
    for key, value in record.items():
        if key == "curve" and isinstance(value, list):
            points = ",\n  ".join(json.dumps(point, ensure_ascii=False) for point in value)
            entries.append(f'"curve": [\n  {points}\n ]')
        else:
            entries.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    results.put(path, "{\n " + ",\n ".join(entries) + "\n}\n")


if __name__ == "__main__":
    main()
