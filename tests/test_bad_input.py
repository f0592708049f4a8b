"""Every wrong use says what must be, what was found and what to do, and leaves all as it was."""

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Embedding, Parameter
from torch.optim import SGD, AdamW

from mgrad import (
    Anchor,
    HalfBatches,
    KeepPace,
    LessForgetting,
    MinNorm,
    ParetoNavigation,
    Proportional,
    Requirement,
    Storage,
    Target,
    constrained_direction,
)
from mgrad.direction import Direction
from mgrad.solvers import Status
from tests.training import assert_identical

FORM = re.compile(r"must .+\. Found .+\. .+\.", re.DOTALL)


def says(message: str) -> str:
    """Return the pattern of a message, in which … stands for any text."""
    return ".*".join(map(re.escape, message.split("…")))


class Setting:
    """An optimizer with a history: its state is full, and a gradient of an objective stands in `.grad`."""

    def __init__(self) -> None:
        self.w = Parameter(torch.tensor([1.0, 2.0]))
        self.u = Parameter(torch.tensor([3.0, 4.0]))
        self.opt = LessForgetting(AdamW([self.w, self.u], lr=0.1), strength=0.5)
        self.opt.backward([self.loss()])
        self.opt.step()
        self.opt.zero_grad()
        (2 * self.w).sum().backward()

    def loss(self) -> Tensor:
        return (self.w * self.u).sum()

    def snapshot(self) -> Any:
        grads = [None if p.grad is None else p.grad.tolist() for p in (self.w, self.u)]  # NaN may stand there
        return copy.deepcopy(([self.w.detach(), self.u.detach()], self.opt.state_dict(), repr(grads)))


@dataclass
class Wrong:
    """A wrong use, the error that it must raise and a pattern of its message."""

    use: Callable[[Setting], object]
    error: type[Exception]
    message: str


WRONG: list[Wrong] = []


def wrong(error: type[Exception], message: str) -> Callable[[Callable[[Setting], object]], None]:
    """Add a wrong use to the list; it is a test of its own, named like the function."""
    return lambda use: WRONG.append(Wrong(use, error, message))


# ---------------------------------------------------------------------- losses


@wrong(ValueError, "`opt.backward(constraints)` must hold at least one loss. Found none. Pass one scalar loss")
def no_constraint(s: Setting) -> None:
    s.opt.backward({})


@wrong(TypeError, "`opt.backward(constraints)` must be a mapping or a sequence of losses. Found Tensor. … not summed")
def one_tensor_in_place_of_losses(s: Setting) -> None:
    s.opt.backward(s.loss())  # type: ignore[arg-type]


@wrong(TypeError, "`opt.backward({'en': ...})` must be a tensor. Found float.")
def loss_is_a_number(s: Setting) -> None:
    s.opt.backward({"en": s.loss().item()})  # type: ignore[dict-item]


@wrong(ValueError, "`opt.backward({'de': ...})` must be a scalar. Found shape [2]. Take its mean or sum.")
def loss_is_not_scalar(s: Setting) -> None:
    s.opt.backward({"en": s.loss(), "de": s.w})


@wrong(ValueError, "`opt.backward({'1': ...})` must be a scalar. Found shape [2]")
def loss_of_a_sequence_is_not_scalar(s: Setting) -> None:
    s.opt.backward([s.loss(), s.w])


@wrong(ValueError, "`opt.backward({'en': ...})` must be real. Found torch.complex64.")
def loss_is_complex(s: Setting) -> None:
    s.opt.backward({"en": s.loss() * 1j})


@wrong(FloatingPointError, "`opt.backward({'de': ...})` must be finite. Found nan.")
def loss_is_nan(s: Setting) -> None:
    s.opt.backward({"en": s.loss(), "de": s.loss() * float("nan")})


@wrong(FloatingPointError, "`opt.backward({'de': ...})` must be finite. Found inf.")
def loss_is_infinite_with_finite_gradient(s: Setting) -> None:
    s.opt.backward({"en": s.loss(), "de": s.loss() + float("inf")})


@wrong(ValueError, "`opt.backward({'en': ...})` must need a gradient. Found requires_grad False.")
def loss_needs_no_gradient(s: Setting) -> None:
    s.opt.backward({"en": s.loss().detach()})


@wrong(ValueError, "`opt.constraint('de')` must find a gradient. Found none: … depends on the optimizer's parameters")
def loss_depends_on_no_parameter(s: Setting) -> None:
    s.opt.backward({"en": s.loss(), "de": Parameter(torch.ones(2)).sum()})


@wrong(ValueError, "`opt.constraint('de')` must find a gradient. Found none")
def nothing_is_backpropagated_in_a_block(s: Setting) -> None:
    with s.opt.constraint("de"):
        pass


@wrong(ValueError, "`opt.backward({'objective': ...})` must be a scalar")
def constraint_called_objective_is_not_scalar(s: Setting) -> None:
    s.opt.backward({"objective": s.w})


# ---------------------------------------------------------------------- objectives


@wrong(TypeError, "`opt.backward(..., objective=...)` must be a tensor. Found float.")
def objective_is_a_number(s: Setting) -> None:
    s.opt.backward([s.loss()], objective=1.0)  # type: ignore[arg-type]


@wrong(ValueError, "`opt.backward(..., objective=...)` must be a scalar. Found shape [2].")
def objective_is_not_scalar(s: Setting) -> None:
    s.opt.backward([s.loss()], objective=s.w)


@wrong(FloatingPointError, "`opt.backward(..., objective=...)` must be finite. Found inf.")
def objective_is_infinite(s: Setting) -> None:
    s.opt.backward([s.loss()], objective=s.loss() + float("inf"))


@wrong(ValueError, "`opt.backward(..., objective=...)` must need a gradient.")
def objective_needs_no_gradient(s: Setting) -> None:
    s.opt.backward([s.loss()], objective=s.loss().detach())


@wrong(ValueError, "`opt.backward(..., objective=...)` must …. Found none")
def objective_depends_on_no_parameter(s: Setting) -> None:
    s.opt.backward([s.loss()], objective=Parameter(torch.ones(2)).sum())


# ---------------------------------------------------------------------- names


def declared(s: Setting) -> LessForgetting:
    return LessForgetting(s.opt.base, constraints=["en", "de"])


@wrong(ValueError, "`opt.backward({'fr': ...})` must be one of the constraints … Found the unknown name 'fr'.")
def unknown_name(s: Setting) -> None:
    declared(s).backward({"en": s.loss(), "fr": s.loss()})


@wrong(ValueError, "`opt.constraint('fr')` must be one of the constraints … Found the unknown name 'fr'.")
def unknown_name_of_a_block(s: Setting) -> None:
    with declared(s).constraint("fr"):
        s.loss().backward()


@wrong(ValueError, "`opt.solve()` must come after every one of the constraints … Found no gradient of ['de'].")
def missing_name(s: Setting) -> None:
    declared(s).backward({"en": s.loss()})


@wrong(ValueError, "`opt.backward({'en': ...})` must name a constraint … Found some from `opt.constraint('en')`.")
def repeated_name(s: Setting) -> None:
    with s.opt.constraint("en"):
        s.loss().backward()
    s.opt.backward({"en": s.loss()})


@wrong(TypeError, "`opt.backward({1: ...})` must be named by a string. Found int. Use str(1).")
def name_is_a_number(s: Setting) -> None:
    s.opt.backward({1: s.loss()})  # type: ignore[dict-item]


@wrong(TypeError, "`opt.constraint(None)` must be named by a string. Found NoneType.")
def name_of_a_block_is_none(s: Setting) -> None:
    with s.opt.constraint(None):  # type: ignore[arg-type]
        s.loss().backward()


@wrong(ValueError, "must name every constraint once. Found ['de', 'en'] for the constraints ['en'].")
def weights_of_another_name(s: Setting) -> None:
    LessForgetting(s.opt.base, decrease=KeepPace(weights={"en": 1.0, "de": 1.0})).backward({"en": s.loss()})


@wrong(ValueError, "must have one weight for each constraint. Found 2 for 1 constraints.")
def weights_of_another_number(s: Setting) -> None:
    LessForgetting(s.opt.base, decrease=KeepPace(weights=[1.0, 1.0])).backward({"en": s.loss()})


# ---------------------------------------------------------------------- values of the losses


def in_blocks(s: Setting, decrease: Any = None, names: Sequence[str] = ("en", "de")) -> LessForgetting:
    """Return an optimizer that has the gradients of "en" and "de" from blocks, and nothing solved."""
    opt = LessForgetting(s.opt.base, decrease=decrease or KeepPace())
    for name in names:
        with opt.constraint(name):
            s.loss().backward()
    return opt


@wrong(
    ValueError, "`Target(levels)` must know the losses of the constraints ['en', 'de']. Found no values. Use …solve("
)
def target_without_losses(s: Setting) -> None:
    in_blocks(s, Target([0.0, 0.0])).step()


@wrong(ValueError, "`Target(levels)` must know the losses of the constraints ['en', 'de']. Found no values.")
def target_with_losses_of_some(s: Setting) -> None:
    in_blocks(s, Target([0.0, 0.0]), ["en"]).backward({"de": s.loss()})


@wrong(ValueError, "`Target(levels)` must name every constraint once. Found ['fr'] for the constraints ['en'].")
def levels_of_another_name(s: Setting) -> None:
    LessForgetting(s.opt.base, decrease=Target({"fr": 1.0})).backward({"en": s.loss()})


@wrong(ValueError, "`opt.solve(losses=...)` must name every constraint once. Found ['en'] for …['de', 'en']. Pass")
def losses_of_some(s: Setting) -> None:
    in_blocks(s).solve({"en": 1.0})


@wrong(TypeError, "`opt.solve(losses=...)` must be a mapping from names to values. Found list.")
def losses_without_names(s: Setting) -> None:
    in_blocks(s).solve([1.0, 2.0])  # type: ignore[arg-type]


@wrong(TypeError, "`opt.solve(losses={'de': ...})` must be a real number. Found str.")
def loss_value_is_text(s: Setting) -> None:
    in_blocks(s).solve({"en": 1.0, "de": "2"})  # type: ignore[dict-item]


@wrong(TypeError, "`opt.solve(losses={'en': ...})` must be a real number. Found torch.complex64.")
def loss_value_is_complex(s: Setting) -> None:
    in_blocks(s).solve({"en": torch.tensor(1j), "de": 1.0})


@wrong(ValueError, "`opt.solve(losses={'en': ...})` must be a scalar. Found shape [2].")
def loss_value_is_no_scalar(s: Setting) -> None:
    in_blocks(s).solve({"en": torch.ones(2), "de": 1.0})


@wrong(FloatingPointError, "`opt.solve(losses={'de': ...})` must be finite. Found nan.")
def loss_value_is_nan(s: Setting) -> None:
    in_blocks(s).solve({"en": 1.0, "de": torch.tensor(float("nan"))})


# ---------------------------------------------------------------------- gradients


def broken(x: Tensor) -> Tensor:
    """Return x with a gradient that is infinite."""
    return x + (x - x.detach()).sqrt().sum()  # 0 in value


@wrong(
    FloatingPointError,
    "the gradient of constraint 'de' must be finite. Found … parameter 1 of group 0, shape [2].",
)
def row_is_not_finite(s: Setting) -> None:
    s.opt.backward({"en": s.loss(), "de": (s.w * broken(s.u)).sum()})


@wrong(FloatingPointError, "the gradient of …'de'… must be finite. Found … parameter 1 of group 0")
def row_of_a_block_is_not_finite(s: Setting) -> None:
    with s.opt.constraint("en"):
        s.loss().backward()
    with s.opt.constraint("de"):
        broken(s.u).sum().backward()
    s.opt.step()


@wrong(FloatingPointError, "the gradient of the objective must be finite. Found … parameter 1")
def objective_is_not_finite(s: Setting) -> None:
    s.opt.backward([s.loss()], objective=broken(s.u).sum())


@wrong(FloatingPointError, "the squared norms of the gradients must be finite in float64. Found an overflow. Scale")
def squared_norm_overflows(s: Setting) -> None:
    w = Parameter(torch.ones(2, dtype=torch.float64))
    LessForgetting(SGD([w])).backward([1e200 * w.sum()])


@wrong(TypeError, "must find dense gradients. Found … parameter 0, of shape [3, 2]. … sparse=False")
def gradient_is_sparse(s: Setting) -> None:
    table = Embedding(3, 2, sparse=True)
    LessForgetting(SGD(table.parameters())).backward([table(torch.tensor([1])).sum()])


@wrong(TypeError, "must …dense gradients. Found a sparse one … sparse=False")
def gradient_of_the_objective_is_sparse(s: Setting) -> None:
    table = Embedding(3, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    LessForgetting(SGD(table.parameters())).backward([table.weight.sum()])


# ---------------------------------------------------------------------- at the wrong time


@wrong(RuntimeError, "`opt.solve()` and `opt.step()` must come after the gradients of … Found none.")
def step_with_nothing_to_step_on(s: Setting) -> None:
    s.opt.step()


@wrong(RuntimeError, "must come after the gradients of … Found none.")
def solve_with_nothing_to_solve(s: Setting) -> None:
    s.opt.solve()


@wrong(RuntimeError, "must come after the gradients of … Found none.")
def closure_without_losses(s: Setting) -> None:
    s.opt.step(lambda: None)


@wrong(RuntimeError, "`opt.constraint('de')` must not be inside … Found `opt.constraint('en')` open.")
def block_in_a_block(s: Setting) -> None:
    with s.opt.constraint("en"), s.opt.constraint("de"):
        s.loss().backward()


@wrong(RuntimeError, "`opt.backward(...)` must not be inside … Found `opt.constraint('en')` open.")
def backward_in_a_block(s: Setting) -> None:
    with s.opt.constraint("en"):
        s.opt.backward([s.loss()])


@wrong(RuntimeError, "`opt.solve()` must not be inside … Found `opt.constraint('en')` open.")
def step_in_a_block(s: Setting) -> None:
    with s.opt.constraint("en"):
        s.loss().backward()
        s.opt.step()


@wrong(RuntimeError, "must have a starting point to be anchored. Found one of shape [5] in group 1 …add_param_group")
def parameters_added_behind_the_back(s: Setting) -> None:
    w = Parameter(torch.ones(2))
    opt = LessForgetting(SGD([w]))
    opt.base.add_param_group({"params": [Parameter(torch.ones(5))]})
    opt.backward([w.sum()])


@wrong(ValueError, '`opt.add_param_group(group)` must not be anchored where … Found "anchor" 1.0.')
def group_added_to_a_fixed_reference(s: Setting) -> None:
    LessForgetting(s.opt.base, anchor=Anchor([s.w, s.u])).add_param_group({"params": [Parameter(torch.ones(5))]})


@wrong(TypeError, "must have real parameters. Found one of torch.complex64 with shape [2].")
def group_added_is_complex(s: Setting) -> None:
    s.opt.add_param_group({"params": [Parameter(torch.ones(2, dtype=torch.complex64))]})


@wrong(ValueError, "must minimise. Found a parameter group with maximize=True.")
def group_added_maximises(s: Setting) -> None:
    s.opt.add_param_group({"params": [Parameter(torch.ones(2))], "maximize": True})


@wrong(ValueError, '`"anchor"` of a parameter group must be a number ≥ 0. Found -1.0.')
def group_added_has_a_wrong_anchor(s: Setting) -> None:
    s.opt.add_param_group({"params": [Parameter(torch.ones(2))], "anchor": -1.0})


@wrong(ValueError, "`opt.load_state_dict(...)` must fit … Found shape [2] for the anchor 1 of shape [3].")
def state_dict_of_other_shapes(s: Setting) -> None:
    other = LessForgetting(AdamW([Parameter(torch.ones(2)), Parameter(torch.ones(3))]))
    s.opt.load_state_dict(other.state_dict())


@wrong(ValueError, "`opt.load_state_dict(...)` must fit … Found no such parameter for the anchor 2 of shape [2].")
def state_dict_of_more_parameters(s: Setting) -> None:
    other = LessForgetting(AdamW([Parameter(torch.ones(2)) for _ in range(3)]))
    s.opt.load_state_dict(other.state_dict())


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.use.__name__)
class TestWrongUse:
    def test_says_what_is_wrong(self, wrong: Wrong) -> None:
        with pytest.raises(wrong.error, match=says(wrong.message)) as error:
            wrong.use(Setting())
        assert FORM.search(str(error.value))

    def test_leaves_parameters_state_and_gradients_as_they_were(self, wrong: Wrong) -> None:
        setting = Setting()
        before = setting.snapshot()
        gradient = setting.w.grad
        with pytest.raises(wrong.error):
            wrong.use(setting)
        assert setting.w.grad is gradient
        assert_identical(setting.snapshot(), before)

    def test_can_be_followed_by_a_step_as_if_nothing_had_been(self, wrong: Wrong) -> None:
        setting, twin = Setting(), Setting()
        with pytest.raises(wrong.error):
            wrong.use(setting)
        for s in (setting, twin):
            s.opt.zero_grad()
            s.opt.backward([s.loss()])
            s.opt.step()
        assert_identical([setting.w.detach(), setting.u.detach()], [twin.w.detach(), twin.u.detach()])


@pytest.mark.parametrize("objective", [False, True])
def test_a_failed_backward_leaves_no_gradients_behind(objective: bool) -> None:
    """It can be tried again at once, without zero_grad, beside what was backpropagated before it."""
    setting, twin = Setting(), Setting()
    bad = [setting.loss(), setting.loss() + float("inf")]
    with pytest.raises(FloatingPointError, match=says("must be finite")):
        if objective:
            setting.opt.backward(bad[:1], objective=bad[1])
        else:
            setting.opt.backward(bad, objective=setting.loss())
    for s in (setting, twin):
        s.opt.backward([s.loss(), s.w.square().sum()])
        s.opt.step()
    assert_identical([setting.w.detach(), setting.u.detach()], [twin.w.detach(), twin.u.detach()])


# ---------------------------------------------------------------------- a direction that was left in `.grad`


@pytest.mark.parametrize("call", ["backward", "constraint", "solve", "step"])
def test_forgetting_zero_grad_is_an_error(call: str) -> None:
    s = Setting()
    s.opt.backward([s.loss()])
    s.opt.step()
    before = s.snapshot()
    calls: dict[str, Callable[[], object]] = {
        "backward": lambda: s.opt.backward([s.loss()]),
        "constraint": lambda: s.opt.constraint("en").__enter__(),
        "solve": s.opt.solve,
        "step": s.opt.step,
    }
    with pytest.raises(
        RuntimeError, match=says("must come after `opt.zero_grad()`. Found the last direction still in")
    ):
        calls[call]()
    assert_identical(s.snapshot(), before)


def test_forgetting_zero_grad_is_an_error_also_after_a_plain_backward() -> None:
    """The plain backward adds to the last direction, which would pass for a part of the objective."""
    s = Setting()
    s.opt.backward([s.loss()])
    s.opt.step()
    s.loss().backward()
    with pytest.raises(RuntimeError, match=says("must come after `opt.zero_grad()`")):
        s.opt.backward([s.loss()])


def test_a_second_backward_before_the_step_is_an_error() -> None:
    s = Setting()
    s.opt.backward([s.loss()])
    with pytest.raises(RuntimeError, match=says("must come after `opt.step()` or `opt.zero_grad()`. Found the last")):
        s.opt.backward([s.loss()])


def test_an_exception_in_a_block_restores_the_gradients_and_leaves_no_constraint() -> None:
    s = Setting()
    before = s.snapshot()
    with pytest.raises(KeyError), s.opt.constraint("en"):
        s.loss().backward()
        raise KeyError
    assert_identical(s.snapshot(), before)
    with pytest.raises(RuntimeError, match=says("Found none")):
        s.opt.solve()


@pytest.mark.parametrize(
    "options", [{}, {"storage": Storage(rows="bfloat16")}, {"storage": Storage(rows="cpu")}, {"noise": HalfBatches()}]
)
def test_an_exception_in_a_second_block_leaves_nothing_of_the_first(options: Any) -> None:
    """However rows are kept: a gradient of which some parameters have more than others is that of no loss."""
    w = Parameter(torch.ones(2))
    opt = LessForgetting(SGD([w], lr=0.1), **options)
    with opt.constraint("en"):
        w.sum().backward()
    with pytest.raises(KeyError), opt.constraint("en"):
        w.sum().backward()
        raise KeyError
    with pytest.raises(RuntimeError, match=says("Found none")):
        opt.solve()


def test_a_parameter_with_a_name_is_called_by_it() -> None:
    u = Parameter(torch.ones(2))
    opt = LessForgetting(SGD([("body.weight", Parameter(torch.ones(2))), ("head.weight", u)]))
    with pytest.raises(FloatingPointError, match=says("Found NaN or infinity in head.weight of group 0")):
        opt.backward([broken(u).sum()])


# ---------------------------------------------------------------------- options of an optimizer in use


@pytest.mark.parametrize(
    ("option", "value", "kind", "text"),
    [
        ("strength", -0.5, ValueError, "must be ≥ 0 and finite. Found -0.5."),
        ("scale", "abs", ValueError, 'must be "relative" or "absolute". Found \'abs\'.'),
        ("limit", 0.0, ValueError, "must be positive and finite. Found 0.0."),
        ("normalise", "grad", ValueError, 'must be None, "gradient" or "loss". Found \'grad\'.'),
        ("metric", "bas", ValueError, 'must be "euclidean" or "base". Found \'bas\'.'),
        ("enforce", "steps", ValueError, 'must be "gradient" or "step". Found \'steps\'.'),
        ("solver", "dev", ValueError, 'must be "active_set" or "device". Found \'dev\'.'),
        ("decrease", MinNorm, TypeError, "must be a rule such as KeepPace(). Found <class"),
        (
            "anchor",
            None,
            AttributeError,
            "`opt.anchor = ...` must be set when wrapping. Found None for",
        ),
        ("noise", HalfBatches(), AttributeError, "must be set when wrapping. Found HalfBatches"),
        ("storage", Storage(rows="cpu"), AttributeError, "must be set when wrapping. Found Storage"),
        ("constraints", "en", AttributeError, "must be set when wrapping. Found 'en'"),
    ],
)
def test_options_assigned_later_are_checked_as_when_wrapping(
    option: str, value: Any, kind: type[Exception], text: str
) -> None:
    s = Setting()
    before = getattr(s.opt, option)
    with pytest.raises(kind, match=says(text)):
        setattr(s.opt, option, value)
    assert getattr(s.opt, option) is before
    s.opt.strength, s.opt.enforce, s.opt.decrease = 0.0, "step", MinNorm()
    s.opt.backward([s.loss()])
    s.opt.step()
    assert s.opt.report is not None
    assert s.opt.report.pull == 0.0
    assert s.opt.step_report is not None


def test_an_anchor_of_a_group_is_checked_when_it_is_used() -> None:
    s = Setting()
    s.opt.param_groups[0]["anchor"] = -1.0
    with pytest.raises(ValueError, match=says("of a parameter group must be a number ≥ 0. Found -1.0.")):
        s.opt.backward([s.loss()])


def test_zero_grad_inside_a_block_is_an_error() -> None:
    s = Setting()
    with pytest.raises(RuntimeError, match=says("`opt.zero_grad()` must not be inside a constraint.")):
        with s.opt.constraint("en"):
            s.opt.zero_grad()


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (lambda s: s.gramian.diagonal(), "must return a Requirement of 2 decreases. Found ndarray."),
        (lambda s: Requirement(np.ones(1), np.ones(2), Status.OPTIMAL, 0), "of 2 decreases. Found a decrease of 1."),
    ],
)
def test_a_rule_that_returns_something_else_is_refused(found: Any, text: str) -> None:
    s = Setting()
    s.opt.decrease = found
    with pytest.raises(TypeError, match=says(text)):
        s.opt.backward([s.loss(), s.loss()])


# ---------------------------------------------------------------------- options


def build(**options: Any) -> LessForgetting:
    return LessForgetting(SGD([Parameter(torch.ones(2))]), **options)


def direct(**options: Any) -> Direction:
    return constrained_direction(torch.eye(2), **options)


OPTIONS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "base is a class": (
        lambda: LessForgetting(SGD),  # type: ignore[arg-type]
        TypeError,
        "`LessForgetting(base)` must be an instance of torch.optim.Optimizer. Found the class SGD.",
    ),
    "base is no optimizer": (
        lambda: LessForgetting([Parameter(torch.ones(2))]),  # type: ignore[arg-type]
        TypeError,
        "`LessForgetting(base)` must be an instance of … Found list.",
    ),
    "base maximises": (
        lambda: LessForgetting(SGD([Parameter(torch.ones(2))], maximize=True)),
        ValueError,
        "must minimise. Found a parameter group with maximize=True. Negate",
    ),
    "complex parameter": (
        lambda: LessForgetting(SGD([Parameter(torch.ones(3, dtype=torch.complex128))])),
        TypeError,
        "must have real parameters. Found one of torch.complex128 with shape [3]. …view_as_real",
    ),
    "anchor is a class": (lambda: build(anchor=Anchor), TypeError, "must be an Anchor or None. Found type."),
    "anchor is a number": (lambda: build(anchor=0.0), TypeError, "must be an Anchor or None. Found float."),
    "reference does not fit": (
        lambda: build(anchor=Anchor([torch.ones(3)])),
        ValueError,
        "must have the shapes … Found [3] for parameter 0 of shape [2].",
    ),
    "anchor of a group < 0": (
        lambda: LessForgetting(SGD([{"params": [Parameter(torch.ones(2))], "anchor": -1}])),
        ValueError,
        "of a parameter group must be a number ≥ 0. Found -1.",
    ),
    "anchor of a group is text": (
        lambda: LessForgetting(SGD([{"params": [Parameter(torch.ones(2))], "anchor": "no"}])),
        ValueError,
        "of a parameter group must be a number ≥ 0. Found 'no'.",
    ),
    "anchor of a group is nan": (
        lambda: LessForgetting(SGD([{"params": [Parameter(torch.ones(2))], "anchor": float("nan")}])),
        ValueError,
        "of a parameter group must be a number ≥ 0. Found nan.",
    ),
    "decrease is a class": (
        lambda: build(decrease=MinNorm),
        TypeError,
        "decrease=...)` must be a rule … Pass an instance",
    ),
    "decrease of the function is a class": (
        lambda: direct(decrease=MinNorm),
        TypeError,
        "constrained_direction(decrease=...)` must be a rule … Pass an instance",
    ),
    "decrease is a number": (lambda: build(decrease=0.5), TypeError, "must be a rule such as KeepPace(). Found 0.5."),
    "strength < 0": (lambda: build(strength=-0.1), ValueError, "strength=...)` must be ≥ 0 and finite. Found -0.1."),
    "strength is nan": (lambda: build(strength=float("nan")), ValueError, "must be ≥ 0 and finite. Found nan."),
    "strength is infinite": (lambda: build(strength=float("inf")), ValueError, "must be ≥ 0 and finite. Found inf."),
    "strength is text": (lambda: build(strength="0.1"), TypeError, "strength=...)` must be …Found str"),
    "strength is None": (lambda: build(strength=None), TypeError, "strength=...)` must be …Found NoneType"),
    "scale is unknown": (lambda: build(scale="log"), ValueError, "must be … Found 'log'."),
    "limit is 0": (lambda: build(limit=0), ValueError, "limit=...)` must be positive and finite. Found 0."),
    "limit is infinite": (lambda: build(limit=float("inf")), ValueError, "must be positive and finite. Found inf."),
    "limit is None": (lambda: build(limit=None), TypeError, "limit=...)` must be …Found NoneType"),
    "constraint is declared twice": (
        lambda: build(constraints=["en", "de", "en"]),
        ValueError,
        "`LessForgetting(constraints=...)` must …. Found …'en'",
    ),
    "constraints are a string": (
        lambda: build(constraints="en"),
        TypeError,
        "`LessForgetting(constraints=...)` must …. Found …",
    ),
    "constraints are numbers": (
        lambda: build(constraints=[1, 2]),
        TypeError,
        "`LessForgetting(constraints=...)` must …. Found int",
    ),
    "constraints are none": (
        lambda: build(constraints=[]),
        ValueError,
        "`LessForgetting(constraints=...)` must …. Found none",
    ),
    "some of no constraints": (
        lambda: build(missing=True),
        ValueError,
        "`LessForgetting(missing=True)` must know the constraints … Found none. Name",
    ),
    "rate is 0": (lambda: KeepPace(rate=0), ValueError, "`KeepPace(rate=...)` must be positive and finite. Found 0."),
    "rate is nan": (lambda: MinNorm(rate=float("nan")), ValueError, "`MinNorm(rate=...)` must be … Found nan."),
    "rate < 0": (lambda: Target([1.0], rate=-1.0), ValueError, "`Target(rate=...)` must be positive … Found -1.0."),
    "rate is infinite": (lambda: Proportional(rate=float("inf")), ValueError, "`Proportional(rate=...)` must … inf."),
    "rate of navigation is 0": (lambda: ParetoNavigation(rate=0), ValueError, "`ParetoNavigation(rate=...)` must …"),
    "power < 1/2": (lambda: MinNorm(power=0.4), ValueError, "`MinNorm(power=...)` must be in [0.5, 1]. Found 0.4."),
    "power > 1": (lambda: MinNorm(power=1.5), ValueError, "`MinNorm(power=...)` must be in [0.5, 1]. Found 1.5."),
    "power is nan": (lambda: MinNorm(power=float("nan")), ValueError, "must be in [0.5, 1]. Found nan."),
    "tolerance < 0": (
        lambda: ParetoNavigation(tolerance=-0.1),
        ValueError,
        "`ParetoNavigation(tolerance=...)` must be ≥ 0 and finite. Found -0.1.",
    ),
    "tolerance is nan": (lambda: ParetoNavigation(tolerance=float("nan")), ValueError, "≥ 0 and finite. Found nan."),
    "level is nan": (
        lambda: Target({"en": 1.0, "de": float("nan")}),
        ValueError,
        "`Target(levels)` must be numbers. Found nan. Give",
    ),
    "level is -infinity": (
        lambda: Target([-float("inf")]),
        ValueError,
        "`Target(levels)` must be numbers. Found -inf.",
    ),
    "one level": (
        lambda: Target(0.5),  # type: ignore[arg-type]
        TypeError,
        "`Target(levels)` must be numbers, by name or in order. Found 0.5. Give each constraint a level.",
    ),
    "levels are a string": (lambda: Target("en"), TypeError, "`Target(levels)` must be numbers, … Found 'en'."),  # type: ignore[arg-type]
    "one weight": (lambda: KeepPace(weights=2.0), TypeError, "`KeepPace(weights=...)` must be numbers, … Found 2.0."),  # type: ignore[arg-type]
    "margin > 1": (lambda: KeepPace(margin=1.1), ValueError, "margin=...)` must be in [0, 1]. Found 1.1."),
    "margin < 0": (lambda: KeepPace(margin=-0.1), ValueError, "margin=...)` must be in [0, 1]. Found -0.1."),
    "margin is nan": (lambda: KeepPace(margin=float("nan")), ValueError, "must be in [0, 1]. Found nan."),
    "weight is 0": (
        lambda: KeepPace(weights={"en": 1.0, "de": 0.0}),
        ValueError,
        "weights=...)` must be positive and finite. Found 0.0.",
    ),
    "weight is infinite": (
        lambda: KeepPace(weights=[float("inf")]),
        ValueError,
        "must be positive and finite. Found inf.",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), OPTIONS.values(), ids=OPTIONS)
def test_a_wrong_option_says_what_is_wrong(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=says(message)) as raised:
        make()
    assert FORM.search(str(raised.value))
