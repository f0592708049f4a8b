"""Lightning's manual optimization, with the module of the page."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import lightning
import pytest
from lightning.pytorch.plugins import MixedPrecision
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader

from mgrad import LessForgetting
from tests.recipes.page import EPSILON, RATE, assert_same, assert_same_figures, blocks, by_hand, means, run, start
from tests.training import assert_identical, weights


def names_with_module(*, seed: int = 0) -> dict[str, Any]:
    """Return the names of the page with its module's class."""
    names = start(seed=seed)
    run(blocks("Lightning")[0], names)
    return names


def fit(module: Any, loaders: Any, epochs: int, checkpoint: str | None = None, **options: Any) -> Any:
    """Train to the end of an epoch."""
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", **quiet, **options)
    trainer.fit(module, loaders, ckpt_path=checkpoint)
    return trainer


def test_the_module_takes_the_steps_of_the_loop_by_hand() -> None:
    names, other = names_with_module(), start()
    trainer = fit(names["Tagger"](names["model"]), names["loader"], 1)
    parameters = list(other["model"].parameters())
    base = AdamW(parameters, lr=RATE, eps=EPSILON)
    steps = [lambda batches=batches: means(other["model"], batches) for batches in other["loader"]]
    reports = list(by_hand(parameters, base, steps, clip=1.0, schedule=LinearLR(base, total_iters=6)))
    assert max(report.direction_norm for report in reports) > 1.0, "clipping is to be seen"
    assert_same(names["model"], other["model"])
    assert_same_figures(trainer.callback_metrics, reports[-1])
    assert trainer.global_step == 6


def test_a_resumed_run_is_the_uninterrupted_run() -> None:
    names, again = names_with_module(), names_with_module(seed=1)
    loader = names["loader"]
    fit(names["Tagger"](names["model"]), loader, 1).save_checkpoint("half.ckpt")
    whole = names_with_module()
    trainer = fit(whole["Tagger"](whole["model"]), loader, 2)
    other = fit(again["Tagger"](again["model"]), loader, 2, "half.ckpt")
    assert_identical(weights(again["model"]), weights(whole["model"]))
    assert_identical(other.optimizers[0].state_dict(), trainer.optimizers[0].state_dict())
    assert_identical(list(other.optimizers[0].start.values()), weights(start()["model"]))


def test_a_mapping_of_loaders_gives_batches_of_each_language() -> None:
    names, other = names_with_module(), names_with_module()
    parts: Any = {name: [e for e in names["examples"] if e["language"] == name] for name in names["languages"]}

    def one(examples: Any) -> Any:
        (batch,) = names["by_language"](examples).values()
        return batch

    loaders: Any = {name: DataLoader(part, batch_size=4, collate_fn=one) for name, part in parts.items()}
    together: Any = [dict(zip(loaders, batches, strict=True)) for batches in zip(*loaders.values(), strict=True)]
    fit(names["Tagger"](names["model"]), loaders, 1)
    fit(other["Tagger"](other["model"]), DataLoader(together, batch_size=None), 1)
    assert_identical(weights(names["model"]), weights(other["model"]))


def test_what_steps_promise_is_kept_although_lightning_steps_with_a_closure() -> None:
    names, other = names_with_module(), start()
    names["LessForgetting"] = partial(LessForgetting, enforce="step")
    trainer = fit(names["Tagger"](names["model"]), names["loader"], 1)
    opt = LessForgetting(AdamW(other["model"].parameters(), lr=RATE, eps=EPSILON), enforce="step")
    schedule = LinearLR(opt, total_iters=6)
    for batches in other["loader"]:
        opt.zero_grad()
        opt.backward(means(other["model"], batches))
        clip_grad_norm_(other["model"].parameters(), 1.0)
        opt.step()
        schedule.step()
    assert_identical(weights(names["model"]), weights(other["model"]))
    assert opt.step_report is not None
    assert trainer.optimizers[0].step_report.to_dict() == opt.step_report.to_dict()


@pytest.mark.parametrize("call", ["zero_grad", "backward", "constraint", "solve"])
def test_the_framework_s_own_wrapper_is_refused(call: str) -> None:
    """It reads from the optimizer but would write to itself."""
    names = names_with_module()

    def careless(module: Any, batches: Any, index: int) -> None:
        wrapper = module.optimizers()
        before = dict(vars(wrapper))
        with pytest.raises(
            RuntimeError, match=rf"`opt\.{call}\(.*\)` must .*LessForgetting around .*\.optimizer\.{call}"
        ):
            if call == "backward":
                wrapper.backward(means(module.model, batches))
            elif call == "constraint":
                with wrapper.constraint("en"):
                    pass
            else:
                getattr(wrapper, call)()
        assert vars(wrapper) == before

    names["Tagger"].training_step = careless
    fit(names["Tagger"](names["model"]), names["loader"], 1)


def test_a_loss_scale_is_taken_back_before_the_solve_and_an_overflow_is_no_step() -> None:
    """To the last bit, as it is a power of two."""

    def hooked(module: Any) -> Any:
        opt = LessForgetting(AdamW(module.parameters(), lr=RATE, eps=EPSILON), scale="absolute", strength=0.5)

        def clip(*_: object) -> None:
            clip_grad_norm_(module.parameters(), 1.0)

        opt.register_step_pre_hook(clip)
        return opt

    def step(module: Any, batches: Any, index: int) -> None:
        opt = module.optimizers().optimizer
        opt.zero_grad()
        for language, batch in batches.items():
            with opt.constraint(language):
                loss = module.model(**batch).loss
                module.manual_backward(loss * float("inf") if index == bad and language == "de" else loss)
        module.optimizers().step()

    names, other = names_with_module(), start()
    bad = [len(batches) for batches in names["loader"]].index(3, 2)
    names["Tagger"].configure_optimizers, names["Tagger"].training_step = hooked, step
    scaler = GradScaler("cpu", init_scale=2.0**10)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    plugin.forward_context = nullcontext  # float64 throughout
    module = names["Tagger"](names["model"])
    fit(module, names["loader"], 1, plugins=[plugin])
    opt = hooked(other["model"])
    for index, batches in enumerate(other["loader"]):
        if index != bad:
            opt.zero_grad()
            opt.backward(means(other["model"], batches))
            opt.step()
    assert scaler.get_scale() == 2.0**9
    assert_identical(weights(names["model"]), weights(other["model"]))
