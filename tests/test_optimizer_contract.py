"""The wrapper is an optimizer as torch means it: schedulers, groups, hooks, clipping, zero_grad, for any base."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

from mgrad import Anchor, LessForgetting
from tests.training import BASES, Base, assert_identical, every_base, gradients, losses, new_model, train, weights

pytestmark = pytest.mark.any_device

# ---------------------------------------------------------------------- what is shown is the base's


@every_base
def test_groups_state_and_defaults_are_the_bases_own(base: Base) -> None:
    model = new_model()
    opt = LessForgetting(base(model.parameters()))
    assert isinstance(opt, Optimizer)
    for _ in range(2):
        assert opt.param_groups is opt.base.param_groups
        assert opt.state is opt.base.state
        assert opt.defaults is opt.base.defaults
        train(model, opt, range(2))
        opt.load_state_dict(opt.state_dict())  # here torch puts other groups and another state in their place


@every_base
def test_nothing_of_ours_is_in_the_bases_state(base: Base) -> None:
    """Adam sets up the state of a parameter where it is empty: a key of ours, and it would not."""
    model, twin = new_model(), new_model()
    opt, bare = LessForgetting(base(model.parameters())), base(twin.parameters())
    assert_identical(opt.state_dict()["state"], bare.state_dict()["state"])
    assert [list(group) for group in opt.param_groups] == [list(group) for group in bare.param_groups]
    train(model, opt, range(1))
    losses(twin, 0)["en"].backward()
    bare.step()
    ours, theirs = ({i: set(s) for i, s in o.state_dict()["state"].items()} for o in (opt, bare))
    assert ours == theirs


def test_the_text_shows_options_and_base() -> None:
    text = repr(LessForgetting(AdamW([Parameter(torch.ones(2))], lr=0.125), strength=0.25))
    assert text.startswith("LessForgetting(")
    for part in ("strength=0.25", "AdamW", "lr: 0.125"):
        assert part in text


def test_an_option_of_a_group_holds_from_the_next_step() -> None:
    w = Parameter(torch.zeros(2))
    opt = LessForgetting(SGD([w], lr=0.1))
    opt.param_groups[0]["lr"] = 0.5
    opt.backward([w.sum()])
    opt.step()
    assert w.tolist() == [-0.5, -0.5]


# ---------------------------------------------------------------------- schedulers

# Adagrad has neither of what OneCycleLR would cycle besides the rate.
SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "StepLR": lambda opt: StepLR(opt, step_size=2, gamma=0.5),
    "OneCycleLR": lambda opt: OneCycleLR(
        opt, max_lr=0.2, total_steps=8, cycle_momentum=bool({"momentum", "betas"} & set(opt.defaults))
    ),
    "ReduceLROnPlateau": lambda opt: ReduceLROnPlateau(opt, factor=0.5, patience=1),
    "LambdaLR": lambda opt: LambdaLR(opt, lambda step: 1 / (1 + step)),
}


def advance(scheduler: Any) -> None:
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(1.0)  # a metric that never improves
    else:
        scheduler.step()


def rates(opt: Optimizer) -> list[Any]:
    return [group.get(key) for group in opt.param_groups for key in ("lr", "momentum", "betas")]


@pytest.mark.parametrize("on", ["wrapper", "base"])
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)
@every_base
def test_a_scheduler_moves_the_rates_as_on_the_bare_base(
    base: Base, schedule: Callable[[Optimizer], Any], on: str
) -> None:
    """Warnings are errors here, so none says that the scheduler stepped before the optimizer."""
    model, twin = new_model(), new_model()
    opt, bare = LessForgetting(base(model.parameters())), base(twin.parameters())
    scheduler, expected = schedule(opt if on == "wrapper" else opt.base), schedule(bare)
    sequence = [rates(bare)]
    for step in range(6):
        assert rates(opt) == sequence[-1]
        train(model, opt, [step])
        bare.step()
        advance(scheduler)
        advance(expected)
        sequence.append(rates(bare))
    assert rates(opt) == sequence[-1]
    assert sequence[-1] != sequence[0]


def test_a_scheduler_that_steps_first_is_told_so_as_in_torch() -> None:
    scheduler = StepLR(LessForgetting(SGD([Parameter(torch.ones(2))])), step_size=1)
    with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        scheduler.step()


# ---------------------------------------------------------------------- between solve and step


@every_base
def test_clipping_between_solve_and_step_holds(base: Base) -> None:
    model, twin = new_model(), new_model()
    opt, bare = LessForgetting(base(model.parameters())), base(twin.parameters())
    for step in range(3):
        opt.zero_grad()
        report = opt.backward(losses(model, step))
        assert report.direction_norm > 0.01
        clip_grad_norm_(model.parameters(), 0.01)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            q.grad = None if p.grad is None else p.grad.clone()
        opt.step()
        bare.step()
        assert_identical(weights(model), weights(twin))


def test_the_norm_that_clipping_sees_is_that_of_the_report() -> None:
    model = new_model()
    report = LessForgetting(SGD(model.parameters())).backward(losses(model, 0))
    # Both are sums of n squares, the report's by way of G: relative error ≤ n·ε each.
    n = sum(p.numel() for p in model.parameters())
    tolerance = 2 * n * torch.finfo(torch.float64).eps
    assert clip_grad_norm_(model.parameters(), 1.0).item() == pytest.approx(report.direction_norm, rel=tolerance)


# ---------------------------------------------------------------------- zero_grad


@pytest.mark.parametrize("name", ["SGD-momentum", "AdamW"])
def test_zeros_in_place_of_none_change_nothing(name: str) -> None:
    model, twin = new_model(), new_model()
    opt, other = (LessForgetting(BASES[name](m.parameters()), strength=0.5) for m in (model, twin))
    train(model, opt, range(3))
    for step in range(3):
        other.zero_grad(set_to_none=False)
        other.backward(losses(twin, step))
        other.step()
    assert_identical(weights(model), weights(twin))


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_leaves_what_torch_leaves(set_to_none: bool) -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters()))
    opt.backward(losses(model, 0))
    opt.zero_grad(set_to_none=set_to_none)
    expected = [None if set_to_none else torch.zeros_like(p) for p in weights(model)]
    assert_identical(gradients(model), expected)


def test_zero_grad_forgets_the_gradients_of_the_constraints() -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters()))
    with opt.constraint("en"):
        losses(model, 0)["en"].backward()
    opt.zero_grad()
    assert opt.backward({"de": losses(model, 0)["de"]}).names == ("de",)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_the_models_own_zero_grad_does_as_well(set_to_none: bool) -> None:
    model, twin = new_model(), new_model()
    opt, other = LessForgetting(AdamW(model.parameters())), LessForgetting(AdamW(twin.parameters()))
    for step in range(3):
        model.zero_grad(set_to_none=set_to_none)
        opt.backward(losses(model, step))
        opt.step()
    train(twin, other, range(3))
    assert_identical(weights(model), weights(twin))


# ---------------------------------------------------------------------- groups added later


@every_base
def test_a_group_added_later_is_trained_as_by_the_bare_base(base: Base) -> None:
    """With one loss and no pull the direction is its gradient, so that the bits are those of the bare base."""
    pairs = [[Parameter(torch.tensor([1.0, 2.0])), Parameter(torch.tensor([3.0, 4.0]))] for _ in range(2)]
    opt, bare = LessForgetting(base(pairs[0][:1]), strength=0.0), base(pairs[1][:1])
    for step in range(3):
        if step == 1:
            opt.add_param_group({"params": [pairs[0][1]], "lr": 0.03})
            bare.add_param_group({"params": [pairs[1][1]], "lr": 0.03})
        for optimizer, (w, u) in zip((opt, bare), pairs, strict=True):
            optimizer.zero_grad()
            loss = (w * (u if step else u.detach())).square().sum()
            if isinstance(optimizer, LessForgetting):
                optimizer.backward([loss])
            else:
                loss.backward()
            optimizer.step()
    assert_identical([p.detach() for p in pairs[0]], [p.detach() for p in pairs[1]])
    assert pairs[0][1].tolist() != [3.0, 4.0]


def test_a_group_added_later_is_anchored_at_its_weights_then() -> None:
    w, u = Parameter(torch.zeros(1)), Parameter(torch.zeros(1))
    opt = LessForgetting(SGD([w]))
    with torch.no_grad():
        u.add_(5.0)
    opt.add_param_group({"params": [u]})
    with torch.no_grad():
        w.add_(3.0)
        u.add_(4.0)
    assert opt.backward([(w + u).sum()]).objective_norm == 5.0  # of (3, 4)


def test_a_group_added_later_without_anchor_is_not_pulled_even_where_the_reference_is_fixed() -> None:
    w, head = Parameter(torch.ones(1)), Parameter(torch.ones(1))
    opt = LessForgetting(SGD([w]), anchor=Anchor([torch.zeros(1)]))
    opt.add_param_group({"params": [head], "anchor": 0.0})
    assert opt.backward([(w + head).sum()]).objective_norm == 1.0


def test_a_group_added_to_the_base_is_trained_if_it_is_not_anchored() -> None:
    w, head = Parameter(torch.ones(1)), Parameter(torch.ones(1))
    opt = LessForgetting(SGD([w], lr=0.5))
    opt.base.add_param_group({"params": [head], "anchor": 0.0})
    opt.backward([(w + head).sum()])
    opt.step()
    assert head.item() == 0.5


def test_a_parameter_that_is_there_already_is_torchs_error() -> None:
    w = Parameter(torch.ones(1))
    opt = LessForgetting(SGD([w]))
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        opt.add_param_group({"params": [w]})
    assert len(opt.param_groups) == 1


# ---------------------------------------------------------------------- hooks


def record(opt: Optimizer, who: str, events: list[str]) -> None:
    """Register every hook there is, each noting its name."""
    opt.register_step_pre_hook(lambda *_: events.append(f"{who} step pre"))
    opt.register_step_post_hook(lambda *_: events.append(f"{who} step post"))
    opt.register_state_dict_pre_hook(lambda *_: events.append(f"{who} save pre"))
    opt.register_state_dict_post_hook(lambda *_: events.append(f"{who} save post"))
    opt.register_load_state_dict_pre_hook(lambda *_: events.append(f"{who} load pre"))
    opt.register_load_state_dict_post_hook(lambda *_: events.append(f"{who} load post"))


def test_hooks_of_the_base_run_inside_those_of_the_wrapper() -> None:
    model, events = new_model(), list[str]()
    opt = LessForgetting(Adam(model.parameters()))
    record(opt, "wrapper", events)
    record(opt.base, "base", events)
    train(model, opt, range(1))
    opt.load_state_dict(opt.state_dict())
    assert events == [
        f"{who} {call} {when}"
        for call in ("step", "save", "load")
        for who, when in (("wrapper", "pre"), ("base", "pre"), ("base", "post"), ("wrapper", "post"))
    ]


def test_hooks_receive_the_optimizer_they_were_registered_on() -> None:
    model, seen = new_model(), list[Optimizer]()
    opt = LessForgetting(SGD(model.parameters()))
    for one in (opt, opt.base):
        one.register_step_post_hook(lambda o, *_: seen.append(o))
        one.register_state_dict_post_hook(lambda o, _: seen.append(o))
        one.register_load_state_dict_post_hook(seen.append)
    train(model, opt, range(1))
    opt.load_state_dict(opt.state_dict())
    assert seen == [opt.base, opt] * 3


def test_a_removed_hook_does_not_run() -> None:
    model, events = new_model(), list[str]()
    opt = LessForgetting(SGD(model.parameters()))
    opt.register_step_post_hook(lambda *_: events.append("step")).remove()
    opt.register_state_dict_post_hook(lambda *_: events.append("save")).remove()
    train(model, opt, range(1))
    opt.state_dict()
    assert events == []


@pytest.mark.parametrize("of", ["wrapper", "base"])
@pytest.mark.parametrize("form", ["backward", "blocks"])
def test_a_hook_before_the_step_sees_and_changes_the_direction(of: str, form: str) -> None:
    """As in torch, where all of the gradient stands in `.grad` by then: a place to clip."""
    model, start = new_model(), weights(new_model())
    opt = LessForgetting(SGD(model.parameters(), lr=1.0))

    def clip(*_: object) -> None:
        clip_grad_norm_(model.parameters(), 2.0**-10)

    (opt if of == "wrapper" else opt.base).register_step_pre_hook(clip)
    if form == "backward":
        opt.backward(losses(model, 0))
    else:
        for name, loss in losses(model, 0).items():
            with opt.constraint(name):
                loss.backward()
    opt.step()
    moved = torch.cat([(p - q).reshape(-1) for p, q in zip(weights(model), start, strict=True)])
    assert 0 < moved.norm().item() <= 2.0**-10  # clipping ends below: it divides by the norm + 1e-6


def test_a_hook_before_the_step_can_replace_its_arguments() -> None:
    model, start = new_model(), weights(new_model())
    opt = LessForgetting(SGD(model.parameters()))

    def closure() -> float:
        opt.zero_grad()
        opt.backward(losses(model, 0))
        return 7.0

    opt.register_step_pre_hook(lambda o, args, kwargs: ((o, closure), {}))
    assert opt.step() == 7.0
    assert not torch.equal(weights(model)[0], start[0])


@pytest.mark.parametrize("of", ["wrapper", "base"])
def test_a_hook_can_replace_what_is_saved(of: str) -> None:
    opt = LessForgetting(SGD([Parameter(torch.ones(1))]))
    (opt if of == "wrapper" else opt.base).register_state_dict_post_hook(lambda _, saved: {**saved, "extra": 1})
    assert set(opt.state_dict()) == {"state", "param_groups", "less_forgetting", "extra"}


@pytest.mark.parametrize("of", ["wrapper", "base"])
def test_a_hook_can_replace_what_is_loaded(of: str) -> None:
    opt = LessForgetting(SGD([Parameter(torch.ones(1))], lr=0.1))

    def faster(_: Optimizer, loaded: dict[str, Any]) -> dict[str, Any]:
        return {**loaded, "param_groups": [{**group, "lr": 0.5} for group in loaded["param_groups"]]}

    (opt if of == "wrapper" else opt.base).register_load_state_dict_pre_hook(faster)
    opt.load_state_dict(opt.state_dict())
    assert opt.param_groups[0]["lr"] == 0.5


def test_a_hook_of_the_wrapper_sees_the_starting_point_that_is_saved_and_loaded() -> None:
    opt, seen = LessForgetting(SGD([Parameter(torch.ones(1))])), list[list[str]]()
    opt.register_state_dict_post_hook(lambda _, saved: seen.append(sorted(saved)))
    opt.register_load_state_dict_pre_hook(lambda _, loaded: seen.append(sorted(loaded)))
    opt.load_state_dict(opt.state_dict())
    assert seen == [["less_forgetting", "param_groups", "state"]] * 2
