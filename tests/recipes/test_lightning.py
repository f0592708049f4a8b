"""Lightning's manual and automatic optimization, with the modules of the page."""

import os
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader

from mgrad import LessForgetting
from tests.recipes.page import EPSILON, RATE, SAME, assert_same, assert_same_figures, blocks, by_hand, means, run, start
from tests.training import assert_identical, weights

MANUAL, _, AUTOMATIC, _ = blocks("Lightning")

# Lightning takes a process group that is there already.
PROCESS = """
import os
import sys
import warnings
import lightning
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed import destroy_process_group, init_process_group
from torch.utils.data import DataLoader
from tests.recipes.test_lightning import names_with_module, together

warnings.simplefilter("ignore")
rank = int(os.environ["LOCAL_RANK"])
init_process_group("gloo", init_method=f"file://{sys.argv[1]}/meeting", rank=rank, world_size=2)
names = names_with_module()
mine = [names["by_language"](part[rank::2]) for part in together(names)]
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
strategy = DDPStrategy(cluster_environment=LightningEnvironment())
options = dict(accelerator="cpu", devices=2, strategy=strategy, use_distributed_sampler=False)
trainer = lightning.Trainer(max_epochs=1, **options, **quiet)
trainer.fit(names["Tagger"](names["model"]), DataLoader(mine, batch_size=None))
torch.save(names["model"].state_dict(), f"{sys.argv[1]}/{rank}.pt")
destroy_process_group()
os._exit(0)  # while an interpreter shuts down, a thread of torch that asks for it aborts the process
"""


def names_with_module(*, seed: int = 0) -> dict[str, Any]:
    """Return the names of the page with its modules' classes."""
    names = start(seed=seed)
    names["lightning"] = lightning
    run(MANUAL, names)
    run(AUTOMATIC, names)
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
    options: Any = dict(new=list(other["model"].classifier.parameters()), clip=1.0)
    reports = list(by_hand(parameters, base, steps, schedule=LinearLR(base, total_iters=6), **options))
    assert max(report.direction_norm for report in reports) > 1.0, "clipping is to be seen"
    assert_same(names["model"], other["model"])
    assert_same_figures(trainer.callback_metrics, reports[-1])
    assert trainer.global_step == 6


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("enforce", ["gradient", "step"])
def test_automatic_optimization_takes_the_same_steps(enforce: Any, count: int) -> None:
    """Clipped and with so many micro-batches each; the schedule goes by epochs."""
    names, other = names_with_module(), start()
    names["LessForgetting"] = partial(LessForgetting, enforce=enforce)
    options: Any = dict(accumulate_grad_batches=count, gradient_clip_val=1.0)
    trainer = fit(names["AutomaticTagger"](names["model"]), names["loader"], 1, **options)
    opt = LessForgetting(AdamW(other["parameter_groups"](other["model"]), lr=RATE / 3, eps=EPSILON), enforce=enforce)
    lengths = []
    for i, batches in enumerate(other["loader"], 1):
        for language, loss in means(other["model"], batches).items():
            with opt.constraint(language):
                (loss / count).backward()
        if i % count == 0:
            lengths.append(opt.solve().direction_norm)
            clip_grad_norm_(other["model"].parameters(), 1.0)
            opt.step()
            opt.zero_grad()
    assert len(lengths) == trainer.global_step == 6 // count
    assert max(lengths) > 1.0, "clipping is to be seen"
    assert_same(names["model"], other["model"])
    assert opt.report is not None
    assert_same_figures(trainer.callback_metrics, opt.report)


@pytest.mark.parametrize("kind", ["Tagger", "AutomaticTagger"])
def test_a_resumed_run_is_the_uninterrupted_run(kind: str) -> None:
    names, again = names_with_module(), names_with_module(seed=1)
    loader = names["loader"]
    fit(names[kind](names["model"]), loader, 1).save_checkpoint("half.ckpt")
    whole = names_with_module()
    trainer = fit(whole[kind](whole["model"]), loader, 2)
    other = fit(again[kind](again["model"]), loader, 2, "half.ckpt")
    assert_identical(weights(again["model"]), weights(whole["model"]))
    assert_identical(other.optimizers[0].state_dict(), trainer.optimizers[0].state_dict())
    assert_identical(list(other.optimizers[0].start.values()), weights(start()["model"].bert))


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


def together(names: dict[str, Any]) -> list[list[Any]]:
    """Return the examples of three batches, four of each language in each."""
    parts = [[e for e in names["examples"] if e["language"] == language] for language in names["languages"]]
    return [[example for part in parts for example in part[i : i + 4]] for i in (0, 4, 8)]


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    root = str(Path(__file__).parents[2])
    shared = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=shared | {"LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    ends = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    names = names_with_module()
    batches: Any = [names["by_language"](part) for part in together(names)]
    fit(names["Tagger"](names["model"]), DataLoader(batches, batch_size=None), 1)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, names["model"].state_dict(), **SAME)


def test_what_steps_promise_is_kept_although_lightning_steps_with_a_closure() -> None:
    names, other = names_with_module(), start()
    names["LessForgetting"] = partial(LessForgetting, enforce="step")
    trainer = fit(names["Tagger"](names["model"]), names["loader"], 1)
    opt = LessForgetting(AdamW(other["parameter_groups"](other["model"]), lr=RATE, eps=EPSILON), enforce="step")
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
