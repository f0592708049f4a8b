"""The plain loop of accelerate, with the blocks of the page."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LinearLR

from mgrad import LessForgetting
from tests.recipes.page import EPSILON, RATE, assert_same, blocks, by_hand, means, run, start
from tests.training import assert_identical, weights

PREPARE, LOOP, HALF, CHECKPOINT = blocks("accelerate")


def prepared(seed: int = 0, **changed: Any) -> dict[str, Any]:
    """Return the names of the page after `prepare`."""
    names = start(seed=seed) | changed
    run(PREPARE, names)
    return names


def halves(model: Any, batches: list[Any]) -> list[Callable[[], Mapping[str, Tensor]]]:
    """Return the steps of two micro-batches each: half the sum of their losses."""

    def step(first: Any, second: Any) -> Mapping[str, Tensor]:
        losses = means(model, first)
        for language, loss in means(model, second).items():
            losses[language] = losses[language] + loss if language in losses else loss
        return {language: loss / 2 for language, loss in losses.items()}

    return [partial(step, *batches[i : i + 2]) for i in range(0, len(batches), 2)]


def test_the_loop_takes_the_steps_of_the_loop_by_hand() -> None:
    names, other = prepared(), start()
    assert any(len(batch) < 3 for batch in other["loader"]), "a language is to be missing somewhere"
    run(LOOP, names)
    parameters = list(other["model"].parameters())
    base = AdamW(parameters, lr=RATE, eps=EPSILON)
    schedule = LinearLR(base, total_iters=6)
    steps = halves(other["model"], list(other["loader"]))
    new = list(other["model"].classifier.parameters())
    reports = list(by_hand(parameters, base, steps, new=new, clip=1.0, schedule=schedule))
    assert len(reports) == 3
    assert max(report.direction_norm for report in reports) > 1.0, "clipping is to be seen"
    assert_same(names["model"], other["model"])
    assert names["scheduler"].get_last_lr() == 2 * schedule.get_last_lr()


def test_a_resumed_run_is_the_uninterrupted_run() -> None:
    names = prepared()
    run(LOOP, names)
    run(CHECKPOINT, names)
    run(LOOP, names)
    again = prepared(seed=1)
    again["accelerator"].load_state("accelerated")
    run(LOOP, again)
    assert_identical(weights(again["model"]), weights(names["model"]))
    assert_identical(again["opt"].state_dict(), names["opt"].state_dict())
    assert_identical(list(names["opt"].optimizer.start.values()), weights(start()["model"].bert))


def test_bfloat16_is_that_of_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    names = prepared(model=start()["model"].float())
    run(LOOP, names)
    other = start()
    model = other["model"].float()
    opt = LessForgetting(AdamW(other["parameter_groups"](model), lr=RATE, eps=EPSILON))
    schedule = LinearLR(opt, total_iters=6)
    for i, batches in enumerate(other["loader"]):
        for language, batch in batches.items():
            with opt.constraint(language):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = model(**batch).loss
                (loss.float() / 2).backward()
        if i % 2:
            opt.solve()
            clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            schedule.step()
            opt.zero_grad()
    assert_identical(weights(names["model"]), weights(model))


def with_scaler(names: dict[str, Any], scale: float) -> GradScaler:
    """Let accelerate scale the losses, which it does by itself on GPUs alone; return its scaler."""
    accelerator, opt = names["accelerator"], names["opt"]
    accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
    accelerator.scaler = scaler = GradScaler("cpu", init_scale=scale)
    names["opt"] = accelerator._optimizers[0] = type(opt)(opt.optimizer, scaler=scaler)
    names["scheduler"].optimizers = [names["opt"]]
    return scaler


@pytest.mark.parametrize("loop", [LOOP, HALF], ids=["solve", "hook"])
def test_a_loss_scale_is_taken_back(loop: str) -> None:
    """To the last bit, as it is a power of two."""
    names, scaled = prepared(), prepared()
    with_scaler(scaled, 2.0**10)
    run(loop, scaled)
    run(LOOP, names)
    assert_identical(weights(scaled["model"]), weights(names["model"]))


def test_an_overflow_is_no_step_and_lowers_the_scale() -> None:
    names, other = prepared(), prepared()
    scaler = with_scaler(names, 2.0**10)
    batches = list(names["loader"])
    bad = next(i for i, batch in enumerate(batches) if i >= 2 and len(batch) == 3)

    def overflow(module: Any, inputs: Any, outputs: Any) -> Any:
        if not calls.pop(0):
            outputs.loss = outputs.loss * float("inf")
        return outputs

    calls = [not (i == bad and language == "fr") for i, batch in enumerate(batches) for language in batch]
    names["model"].register_forward_hook(overflow)
    run(HALF, names)
    assert not calls
    assert scaler.get_scale() == 2.0**9
    other["loader"] = [batch for i, batch in enumerate(batches) if i // 2 != bad // 2]
    for i, batch in enumerate(other["loader"]):
        for language, part in batch.items():
            with other["opt"].optimizer.constraint(language):
                (other["model"](**part).loss / 2).backward()
        if i % 2:
            other["opt"].optimizer.solve()
            clip_grad_norm_(other["model"].parameters(), 1.0)
            other["opt"].optimizer.step()
            other["scheduler"].scheduler.step()
            other["opt"].optimizer.zero_grad()
    assert_identical(weights(names["model"]), weights(other["model"]))
    assert_identical(names["opt"].optimizer.state_dict(), other["opt"].optimizer.state_dict())
