"""A run that is stopped, copied or pickled goes on bit for bit, θ₀ included; checkpoints fit the bare base and back."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Module, Parameter
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR

from mgrad import Anchor, FisherAnchor, LessForgetting
from tests.training import BASES, Base, assert_identical, every_base, losses, new_model, train, weights

pytestmark = pytest.mark.any_device


def through_a_file(state: Any) -> Any:
    """Save and load as the safe torch.load does: tensors and plain containers alone."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def wrap(base: Base, model: Module, **options: Any) -> LessForgetting:
    """Wrap with a pull that is strong enough to be seen."""
    return LessForgetting(base(model.parameters()), strength=0.5, **options)


def resumed(base: Base, checkpoint: Any) -> tuple[Module, LessForgetting]:
    """Start a new process, in all but name: build anew, then load the model and the optimizer."""
    model = new_model(seed=1)
    model.load_state_dict(checkpoint["model"])
    opt = wrap(base, model)
    opt.load_state_dict(checkpoint["optimizer"])
    return model, opt


@every_base
def test_a_resumed_run_is_the_uninterrupted_run(base: Base) -> None:
    model = new_model()
    opt = wrap(base, model)
    train(model, opt, range(3))
    checkpoint = through_a_file({"model": model.state_dict(), "optimizer": opt.state_dict()})
    train(model, opt, range(3, 6))
    again, other = resumed(base, checkpoint)
    train(again, other, range(3, 6))
    assert_identical(weights(again), weights(model))
    assert_identical(other.state_dict(), opt.state_dict())
    assert opt.report is not None
    assert other.report is not None
    assert other.report.to_dict() == opt.report.to_dict()


@every_base
def test_the_starting_point_is_that_of_the_first_run(base: Base) -> None:
    model, start = new_model(), weights(new_model())
    opt = wrap(base, model)
    train(model, opt, range(3))
    _, other = resumed(base, through_a_file({"model": model.state_dict(), "optimizer": opt.state_dict()}))
    assert_identical(list(other.state_dict()["less_forgetting"]["anchor"].values()), start)
    assert not torch.equal(weights(model)[0], start[0])


def test_a_run_that_anchored_anew_would_be_another() -> None:
    """So that the test of the resumed run could fail."""
    model = new_model()
    opt = wrap(BASES["AdamW"], model)
    train(model, opt, range(3))
    checkpoint = through_a_file({"model": model.state_dict(), "optimizer": opt.base.state_dict()})
    train(model, opt, range(3, 6))
    with pytest.warns(UserWarning, match="θ₀"):
        again, other = resumed(BASES["AdamW"], checkpoint)
    train(again, other, range(3, 6))
    assert not torch.equal(weights(again)[0], weights(model)[0])


def test_a_schedule_is_resumed_with_it() -> None:
    def schedule(opt: LessForgetting) -> OneCycleLR:
        return OneCycleLR(opt, max_lr=0.1, total_steps=8)

    def run(model: Module, opt: LessForgetting, scheduler: OneCycleLR, steps: range) -> None:
        for step in steps:
            train(model, opt, [step])
            scheduler.step()

    model = new_model()
    opt = wrap(BASES["AdamW"], model)
    scheduler = schedule(opt)
    run(model, opt, scheduler, range(3))
    checkpoint = through_a_file(
        {"model": model.state_dict(), "optimizer": opt.state_dict(), "scheduler": scheduler.state_dict()}
    )
    run(model, opt, scheduler, range(3, 6))

    again = new_model(seed=1)
    again.load_state_dict(checkpoint["model"])
    other = wrap(BASES["AdamW"], again)
    restored = schedule(other)
    other.load_state_dict(checkpoint["optimizer"])
    restored.load_state_dict(checkpoint["scheduler"])
    run(again, other, restored, range(3, 6))
    assert_identical(weights(again), weights(model))
    assert_identical(other.state_dict(), opt.state_dict())


def test_a_group_added_during_the_run_is_resumed_with_its_own_start() -> None:
    def build(step: int) -> tuple[list[Parameter], LessForgetting]:
        parameters = [Parameter(torch.tensor([1.0, 2.0])), Parameter(torch.tensor([3.0, 4.0]))]
        opt = LessForgetting(AdamW(parameters[: step + 1], lr=0.1), strength=0.5)
        return parameters, opt

    def run(parameters: list[Parameter], opt: LessForgetting) -> None:
        for _ in range(2):
            opt.zero_grad()
            opt.backward([(parameters[0] * parameters[1]).sum(), (parameters[0] - parameters[1]).square().sum()])
            opt.step()

    parameters, opt = build(0)
    run(parameters, opt)
    opt.add_param_group({"params": parameters[1:], "lr": 0.05})
    run(parameters, opt)
    saved = through_a_file([[p.detach() for p in parameters], opt.state_dict()])
    run(parameters, opt)

    again, other = build(0)
    other.add_param_group({"params": again[1:]})
    for p, value in zip(again, saved[0], strict=True):
        p.data.copy_(value)
    other.load_state_dict(saved[1])
    run(again, other)
    assert_identical([p.detach() for p in again], [p.detach() for p in parameters])
    assert_identical(other.state_dict(), opt.state_dict())


# ---------------------------------------------------------------------- copies

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
}
copied = pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)


@copied
@every_base
def test_a_copy_of_model_and_optimizer_goes_on_alike_and_by_itself(base: Base, duplicate: Callable[[Any], Any]) -> None:
    model = new_model()
    opt = wrap(base, model)
    train(model, opt, range(3))
    again, other = duplicate((model, opt))
    before = weights(model)
    train(again, other, range(3, 6))
    assert_identical(weights(model), before)
    assert not torch.equal(weights(again)[0], before[0])
    train(model, opt, range(3, 6))
    assert_identical(weights(again), weights(model))
    assert_identical(other.state_dict(), opt.state_dict())


@copied
def test_a_copy_has_every_option(duplicate: Callable[[Any], Any]) -> None:
    opt = LessForgetting(
        SGD([Parameter(torch.ones(2))]),
        anchor=Anchor([torch.zeros(2)]),
        strength=0.25,
        scale="absolute",
        limit=10.0,
        constraints=["en"],
        missing=True,
    )
    other = duplicate(opt)
    for name in ("decrease", "strength", "scale", "limit", "constraints", "missing", "report"):
        assert getattr(other, name) == getattr(opt, name)
    assert_identical(other.anchor.reference, opt.anchor and opt.anchor.reference)
    assert vars(other).keys() == vars(opt).keys()


@copied
def test_a_copy_has_no_hooks_as_in_torch(duplicate: Callable[[Any], Any]) -> None:
    model, calls = new_model(), list[int]()
    opt = wrap(BASES["SGD"], model)
    handle = opt.register_step_post_hook(lambda *_: calls.append(1))
    again, other = duplicate((model, opt))
    train(again, other, range(1))
    assert calls == []
    handle.remove()


@copied
def test_a_copy_of_a_scheduled_optimizer_steps_the_copy(duplicate: Callable[[Any], Any]) -> None:
    """A scheduler puts a function of its own over `step` on the instance."""
    model = new_model()
    opt = wrap(BASES["AdamW"], model)
    OneCycleLR(opt, max_lr=0.1, total_steps=8)
    again, other = duplicate((model, opt))
    before = weights(model)
    train(again, other, range(1))
    assert_identical(weights(model), before)
    assert not torch.equal(weights(again)[0], before[0])


@copied
def test_a_copy_between_solve_and_step_starts_its_step_anew(duplicate: Callable[[Any], Any]) -> None:
    model = new_model()
    opt = wrap(BASES["AdamW"], model)
    opt.backward(losses(model, 0))
    again, other = duplicate((model, opt))
    opt.step()
    train(again, other, range(1))
    assert_identical(weights(again), weights(model))


# ---------------------------------------------------------------------- checkpoints of the bare base, and for it


@every_base
def test_a_checkpoint_loads_in_the_bare_base(base: Base) -> None:
    model = new_model()
    opt = wrap(base, model)
    train(model, opt, range(3))
    twin = copy.deepcopy(model)
    bare = base(twin.parameters())
    bare.load_state_dict(through_a_file(opt.state_dict()))
    assert_identical(bare.state_dict(), opt.base.state_dict())
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        q.grad = p.grad
    opt.base.step()
    bare.step()
    assert_identical(weights(twin), weights(model))


@every_base
def test_a_checkpoint_of_the_bare_base_loads_with_a_warning_and_keeps_the_start(base: Base) -> None:
    model, twin, start = new_model(), new_model(seed=1), weights(new_model(seed=1))
    bare = base(model.parameters())
    for step in range(3):
        bare.zero_grad()
        losses(model, step)["en"].backward()
        bare.step()
    opt = wrap(base, twin)
    with pytest.warns(UserWarning, match=r"`opt\.load_state_dict\(\.\.\.\)` must hold θ₀ to restore it\. Found none"):
        opt.load_state_dict(through_a_file(bare.state_dict()))
    saved = opt.state_dict()
    assert_identical(list(saved.pop("less_forgetting")["anchor"].values()), start)
    assert_identical(saved, bare.state_dict())


def test_a_checkpoint_of_the_bare_base_is_no_surprise_where_nothing_is_anchored() -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters()), anchor=None)
    opt.load_state_dict(opt.base.state_dict())  # a warning would be an error here


def test_a_checkpoint_without_starting_point_warns_wherever_it_is_from() -> None:
    free = LessForgetting(SGD(new_model().parameters()), anchor=None)
    opt = wrap(BASES["SGD"], new_model())
    with pytest.warns(UserWarning, match="θ₀"):
        opt.load_state_dict(free.state_dict())


# ---------------------------------------------------------------------- what is saved


def body_and_head(**head: float) -> LessForgetting:
    groups: list[dict[str, Any]] = [
        {"params": [Parameter(torch.ones(2))]},
        {"params": [Parameter(torch.ones(2))], **head},
    ]
    return LessForgetting(SGD(groups))


def test_the_anchor_of_a_group_is_saved_and_loaded() -> None:
    opt = body_and_head(anchor=0.25)
    opt.load_state_dict(through_a_file(body_and_head(anchor=0.5).state_dict()))
    assert opt.param_groups[1]["anchor"] == 0.5


def test_the_anchor_of_a_group_outlives_a_checkpoint_of_the_bare_base() -> None:
    opt, bare = body_and_head(anchor=0.0), body_and_head().base
    with pytest.warns(UserWarning, match="θ₀"):
        opt.load_state_dict(through_a_file(bare.state_dict()))
    assert opt.param_groups[1]["anchor"] == 0.0


def test_a_group_that_was_anchored_by_default_is_so_again() -> None:
    """As with every other option of a group: what was saved counts, not what the new run was built with."""
    opt = body_and_head(anchor=0.0)
    opt.load_state_dict(through_a_file(body_and_head().state_dict()))
    assert opt.param_groups[1].get("anchor", 1.0) == 1.0
    directions = []
    for each in (opt, body_and_head()):
        body, head = (group["params"][0] for group in each.param_groups)
        head.data.fill_(3.0)  # from θ₀ = 1, which was saved
        each.backward([body.sum() + head.sum()])
        directions.append([body.grad, head.grad])
    assert_identical(directions[0], directions[1])


def test_a_group_whose_fisher_information_is_not_known_is_not_anchored_by_loading() -> None:
    body, head = torch.nn.Linear(2, 1, bias=False), Parameter(torch.ones(2))
    groups: list[dict[str, Any]] = [{"params": [body.weight]}, {"params": [head], "anchor": 0.0}]
    opt = LessForgetting(SGD(groups), anchor=FisherAnchor({"weight": torch.ones(1, 2)}, body))
    before = copy.deepcopy(opt.state_dict())
    groups = [{"params": [Parameter(torch.ones(1, 2))]}, {"params": [Parameter(torch.ones(2))]}]
    with pytest.raises(ValueError, match="must have a value for every anchored parameter"):
        opt.load_state_dict(through_a_file(LessForgetting(SGD(groups)).state_dict()))
    assert_identical(opt.state_dict(), before)


def test_a_group_without_anchor_costs_no_memory_of_its_start() -> None:
    assert list(body_and_head(anchor=0.0).state_dict()["less_forgetting"]["anchor"]) == [0]


def test_loading_copies_what_is_loaded() -> None:
    opt = body_and_head()
    saved = opt.state_dict()
    opt.load_state_dict(saved)
    saved["less_forgetting"]["anchor"][0].zero_()
    assert opt.state_dict()["less_forgetting"]["anchor"][0].tolist() == [1.0, 1.0]


def test_loading_leaves_the_checkpoint_as_it_is() -> None:
    opt = body_and_head()
    saved = opt.state_dict()
    expected = copy.deepcopy(saved)
    body_and_head().load_state_dict(saved)
    assert_identical(saved, expected)


def test_loading_takes_the_dtype_of_the_parameters() -> None:
    saved = LessForgetting(SGD([Parameter(torch.ones(2, dtype=torch.float64))])).state_dict()
    opt = LessForgetting(SGD([Parameter(torch.zeros(2))]))
    opt.load_state_dict(saved)
    assert_identical(opt.state_dict()["less_forgetting"]["anchor"], {0: torch.ones(2)})


def test_gradients_of_an_open_step_are_not_those_of_the_loaded_run() -> None:
    model = new_model()
    opt = wrap(BASES["SGD"], model)
    with opt.constraint("en"):
        losses(model, 0)["en"].backward()
    opt.load_state_dict(opt.state_dict())
    with pytest.raises(RuntimeError, match="Found none"):
        opt.step()


def test_a_direction_left_in_grad_is_noticed_after_loading_too() -> None:
    """A run that goes back to a checkpoint after a bad step, and forgets zero_grad."""
    model = new_model()
    opt = wrap(BASES["SGD"], model)
    checkpoint = opt.state_dict()
    train(model, opt, range(1))
    opt.load_state_dict(checkpoint)
    with pytest.raises(RuntimeError, match=r"must come after `opt\.zero_grad\(\)`"):
        opt.backward(losses(model, 1))
