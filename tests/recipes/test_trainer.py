"""Hugging Face's Trainer with the subclass of the page."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from mgrad import LessForgetting
from tests.recipes.page import EPSILON, RATE, assert_same, assert_same_figures, blocks, by_hand, run, scalars, start
from tests.training import assert_identical, weights

PAGE, _, REPLAY = blocks("Hugging Face Trainer")


def without_solve() -> str:
    """Return the page's class as it is to be with a loss scale."""
    end = PAGE.index("return sum(losses)")
    code = PAGE[: PAGE.index("        if self.accelerator.sync_gradients:")] + "        " + PAGE[end:]
    assert "solve" in PAGE
    assert "solve" not in code
    return code


def names_with_trainer(*, seed: int = 0, exact: bool = True, page: str = PAGE) -> dict[str, Any]:
    """Return the names of the page with its trainer's class; part of the labels do not count."""
    names = start(seed=seed, exact=exact)
    run(page, names)
    for i, example in enumerate(names["examples"]):
        example["labels"] = example["labels"].masked_fill(torch.arange(8) >= 2 + i % 7, -100)
    return names


def arguments(**options: Any) -> Any:
    """Return arguments: steps of two micro-batches, three an epoch."""
    fixed = dict(per_device_train_batch_size=6, gradient_accumulation_steps=2, num_train_epochs=2, learning_rate=RATE)
    plain = dict(use_cpu=True, disable_tqdm=True, report_to="none", save_strategy="no", logging_steps=1)
    return TrainingArguments("trained", remove_unused_columns=False, **(fixed | plain | options))


def token_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """Return the sum over the tokens that count, divided by the number of those of the whole step."""
    total = cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return total / (labels.ne(-100).sum() if num_items_in_batch is None else num_items_in_batch)


def test_the_trainer_takes_the_steps_of_the_loop_by_hand() -> None:
    names, other = names_with_trainer(), start()["model"]
    options = dict(warmup_steps=2, weight_decay=0.1, adam_epsilon=EPSILON, max_grad_norm=0.5)
    args = arguments(train_sampling_strategy="sequential", report_to="tensorboard", **options)
    trainer = names["LessForgettingTrainer"](
        names["model"], args, names["by_language"], train_dataset=names["examples"], compute_loss_func=token_loss
    )
    trainer.train()

    decaying = trainer.get_decay_parameter_names(other)
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in other.named_parameters():
        groups[name in decaying].append(parameter)
    with_decay = [{"params": part, "weight_decay": 0.1 * decays} for decays, part in groups.items()]
    base = AdamW(with_decay, lr=RATE, eps=EPSILON)
    schedule = LambdaLR(base, lambda step: step / 2 if step < 2 else (6 - step) / 4)

    def losses(first: int) -> Mapping[str, Tensor]:
        both = names["by_language"](names["examples"][first : first + 12])
        return {name: token_loss(other(input_ids=batch["input_ids"]), batch["labels"]) for name, batch in both.items()}

    steps = [partial(losses, first) for first in (0, 12, 24)] * 2
    parameters = [*groups[True], *groups[False]]
    new = list(other.classifier.parameters())
    reports = list(by_hand(parameters, base, steps, new=new, clip=0.5, schedule=schedule))
    assert_same(names["model"], other)
    logs = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    assert len(logs) == len(reports) == 6
    board = scalars("trained/runs")
    for entry, report in zip(logs, reports, strict=True):
        assert_same_figures(entry, report)
        shown = {name.removeprefix("train/"): value for name, value in board[entry["step"]].items()}
        assert_same_figures(shown, report)
        assert entry["grad_norm"] == pytest.approx(report.direction_norm)
        assert entry["grad_norm"] > 0.5, "clipping is to be seen"


def test_a_resumed_run_is_the_uninterrupted_run() -> None:
    """Random batches and dropout included, in the names of a new process."""
    args = arguments(save_strategy="steps", save_steps=2)

    def trained(seed: int, checkpoint: str | None) -> Any:
        names = names_with_trainer(seed=seed, exact=False)
        trainer = names["LessForgettingTrainer"](
            names["model"], args, names["by_language"], train_dataset=names["examples"]
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    trainer, other = trained(0, None), trained(1, "trained/checkpoint-2")
    assert_identical(weights(other.model), weights(trainer.model))
    assert_identical(other.optimizer.state_dict(), trainer.optimizer.state_dict())
    first = dict(start(exact=False)["model"].named_parameters())
    for name, parameter in other.model.bert.named_parameters(prefix="bert"):
        assert torch.equal(other.optimizer.optimizer.start[parameter], first[name]), name
    assert set(other.optimizer.optimizer.start) == set(other.model.bert.parameters())
    assert other.optimizer.optimizer.report.to_dict() == trainer.optimizer.optimizer.report.to_dict()


def language_model() -> Any:
    """Return a small model whose loss uses the number of items."""
    torch.manual_seed(0)
    size = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, max_position_embeddings=8, **size))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("new_model", [language_model, lambda: start(exact=False)["model"]], ids=["uses", "ignores"])
def test_with_one_language_and_no_pull_it_is_the_trainer(new_model: Callable[[], Any], bf16: bool) -> None:
    """Whether the model uses the number of items or not."""
    names = names_with_trainer(exact=False)
    names["LessForgetting"] = partial(LessForgetting, strength=0.0)
    english = [example for example in names["examples"] if example["language"] == "en"]

    def plain(examples: Any) -> Any:
        (batch,) = names["by_language"](examples).values()
        return batch

    trained = []
    for kind, collator in ((Trainer, plain), (names["LessForgettingTrainer"], names["by_language"])):
        trainer = kind(new_model(), arguments(bf16=bf16), collator, train_dataset=english)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "grad_norm" in entry]
        trained.append((losses, weights(trainer.model)))
    assert_identical(trained[1], trained[0])


def let_scale(trainer: Any, scaler: GradScaler) -> None:
    """Let accelerate scale the losses."""
    trainer.accelerator.native_amp, trainer.accelerator.state._mixed_precision = True, "fp16"
    trainer.accelerator.scaler = scaler


def test_evaluation_is_of_each_language() -> None:
    names = start()
    run(PAGE, names)
    held_out = {language: names["examples"][i : i + 1] for i, language in enumerate("abc")}
    for language, (example,) in held_out.items():
        example["language"] = language
    trainer = names["LessForgettingTrainer"](names["model"], arguments(), names["by_language"], eval_dataset=held_out)
    found = trainer.evaluate()
    for language, part in held_out.items():
        (batch,) = names["by_language"](part).values()
        assert found[f"eval_{language}_loss"] == pytest.approx(names["model"].eval()(**batch).loss.item())
    assert found["eval_loss"] == pytest.approx(sum(found[f"eval_{language}_loss"] for language in held_out) / 3)
    assert trainer.evaluate(held_out["a"])["eval_loss"] == pytest.approx(found["eval_a_loss"])
    with pytest.raises(ValueError, match="unpack"):
        trainer.evaluate([example for part in held_out.values() for example in part])


@pytest.mark.parametrize("metric", [None, "eval_de_loss"])
def test_the_best_model_is_that_of_all_languages_or_of_one(metric: str | None) -> None:
    names = names_with_trainer()
    parts: Any = {name: [e for e in names["examples"] if e["language"] == name] for name in names["languages"]}
    every = dict(eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1)
    trainer = names["LessForgettingTrainer"](
        names["model"],
        arguments(load_best_model_at_end=True, metric_for_best_model=metric, learning_rate=0.5, **every),
        names["by_language"],
        train_dataset=names["examples"],
        eval_dataset=parts,
    )
    trainer.train()
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for entry in trainer.state.log_history:
        found[entry["step"]] |= {
            name: value for name, value in entry.items() if name.startswith("eval_") and name.endswith("_loss")
        }
    of = {step: losses for step, losses in found.items() if len(losses) == 3}
    values = {step: losses[metric] if metric else sum(losses.values()) / 3 for step, losses in of.items()}
    best = min(values, key=lambda step: values[step])
    assert len(values) == 6
    assert trainer.state.best_global_step == best < 6
    assert trainer.state.best_metric == pytest.approx(values[best])
    assert trainer.evaluate()[metric or "eval_loss"] == pytest.approx(values[best])


def replayed(
    page: str = PAGE, *, model: Any = None, wrap: Any = LessForgetting, scaler: GradScaler | None = None, **options: Any
) -> Any:
    """Return the trainer of the page that replays, after training; three steps of the examples in their order."""
    names = names_with_trainer(page=page)
    names["LessForgetting"] = wrap
    fixed = dict(train_sampling_strategy="sequential", num_train_epochs=1, adam_epsilon=EPSILON)
    names["args"] = arguments(lr_scheduler_type="constant", **(fixed | options))
    if model is not None:
        names["model"] = model
    prepare, train, rest = REPLAY.partition("trainer.train()")
    run(prepare, names)
    if scaler is not None:
        let_scale(names["trainer"], scaler)
    run(train + rest, names)
    return names


def test_an_objective_is_of_each_step_and_not_of_each_micro_batch() -> None:
    names, other = replayed(max_grad_norm=0.5), start()["model"]
    found = list(other.parameters())
    old = iter([*names["old"], *names["old"]])

    def losses(first: int) -> Mapping[str, Tensor]:
        """Add up two micro-batches: the trainer leaves the sum to models that ignore how many items there are."""
        added: dict[str, Tensor] = {}
        for i in (first, first + 6):
            for name, batch in names["by_language"](names["examples"][i : i + 6]).items():
                loss = other(**batch).loss
                added[name] = added[name] + loss if name in added else loss
        return added

    steps = [partial(losses, first) for first in (0, 12, 24)]
    base = AdamW(found, lr=RATE, eps=EPSILON, weight_decay=0.0)
    options: Any = dict(new=list(other.classifier.parameters()), clip=0.5)
    reports = list(by_hand(found, base, steps, objective=lambda: other(**next(old)).loss, **options))
    assert_same(names["model"], other)
    logs = [entry for entry in names["trainer"].state.log_history if "grad_norm" in entry]
    for entry, report in zip(logs, reports, strict=True):
        assert_same_figures(entry, report)
        assert entry["grad_norm"] == pytest.approx(report.direction_norm)


def test_an_objective_in_bfloat16_is_that_of_autocast() -> None:
    names, other = replayed(model=start()["model"].float(), bf16=True), start()["model"].float()
    opt = LessForgetting(AdamW(names["parameter_groups"](other), lr=RATE, eps=EPSILON, weight_decay=0.0))
    old = iter([*names["old"], *names["old"]])

    def backward(batch: Any) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = other(**batch).loss
        loss.float().backward()

    for i in range(0, 36, 6):
        for name, batch in names["by_language"](names["examples"][i : i + 6]).items():
            with opt.constraint(name):
                backward(batch)
        if i % 12:
            backward(next(old))
            opt.solve()
            clip_grad_norm_(other.parameters(), 1.0)
            opt.step()
            opt.zero_grad()
    torch.testing.assert_close(weights(names["model"]), weights(other), rtol=1e-6, atol=1e-9)


def test_an_objective_is_scaled_as_the_losses_are() -> None:
    """To the last bit, as the scale is a power of two."""
    scaler = GradScaler("cpu", init_scale=2.0**10)
    options: Any = dict(wrap=partial(LessForgetting, scale="absolute", strength=0.5), max_grad_norm=0.0)
    scaled, plain = replayed(without_solve(), scaler=scaler, **options), replayed(**options)
    assert scaler.get_scale() == 2.0**10
    assert_identical(weights(scaled["model"]), weights(plain["model"]))


def test_groups_of_ones_own_keep_their_anchor() -> None:
    names = names_with_trainer()
    body, head = names["model"].bert, names["model"].classifier
    opt = LessForgetting(AdamW([{"params": body.parameters()}, {"params": head.parameters(), "anchor": 0.0}], lr=1e-3))
    trainer = names["LessForgettingTrainer"](
        names["model"],
        arguments(),
        names["by_language"],
        train_dataset=names["examples"],
        optimizers=(opt, None),
    )
    trainer.train()
    assert trainer.optimizer.optimizer is opt
    assert set(opt.start) == set(body.parameters())
    assert opt.report is not None


def test_with_a_loss_scale_the_step_solves_and_an_overflow_is_none() -> None:
    """To the last bit, as the scale is a power of two; accelerate itself scales on GPUs alone."""

    def trained(scaler: GradScaler | None) -> Any:
        names = names_with_trainer(page=PAGE if scaler is None else without_solve())
        opt = LessForgetting(AdamW(names["model"].parameters(), lr=RATE, eps=EPSILON), scale="absolute", strength=0.5)

        def overflow(module: Any, inputs: Any, outputs: Any) -> Any:
            calls.append(opt)
            if scaler is not None and len(calls) == 1:
                outputs.loss = outputs.loss * float("inf")
            return outputs

        calls: list[Any] = []
        names["model"].register_forward_hook(overflow)
        trainer = names["LessForgettingTrainer"](
            names["model"],
            arguments(max_grad_norm=0.0, train_sampling_strategy="sequential", num_train_epochs=1),
            names["by_language"],
            train_dataset=names["examples"] if scaler is not None else names["examples"][12:],
            optimizers=(opt, LambdaLR(opt, lambda step: 1.0)),
        )
        if scaler is not None:
            let_scale(trainer, scaler)
        trainer.train()
        return trainer

    scaler = GradScaler("cpu", init_scale=2.0**10)
    scaled, plain = trained(scaler), trained(None)
    assert scaler.get_scale() == 2.0**9, "of three steps the first is to be none"
    assert_identical(weights(scaled.model), weights(plain.model))
    assert_identical(scaled.optimizer.optimizer.state_dict()["state"], plain.optimizer.optimizer.state_dict()["state"])
