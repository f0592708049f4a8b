"""`solver="device"` takes the steps of the exact solver, does not wait, and reports when it is asked."""

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import SGD, Adam

from mgrad import (
    Direction,
    KeepPace,
    LessForgetting,
    MinNorm,
    NoIncrease,
    ParetoNavigation,
    Proportional,
    Report,
    Requirement,
    Situation,
    Status,
    Target,
    constrained_direction,
)
from mgrad.direction import Solver
from tests.asserts import assert_promised_decrease
from tests.strategies import Problem, problems
from tests.training import Base, assert_identical, every_base, gradients, losses, new_model, train, weights
from tests.waiting import NoWaiting

RULES: list[Any] = [
    KeepPace(),
    KeepPace(rate=0.5, margin=0.0),
    MinNorm(),
    MinNorm(rate=2.0, power=0.5),
    NoIncrease(),
    ParetoNavigation(),
    Proportional(),
]
rules, scales = st.sampled_from(RULES), st.sampled_from(["absolute", "relative"])
FIGURES = (
    "multipliers",
    "gramian",
    "correlation",
    "decrease",
    "predicted_decrease",
    "status",
    "pull",
    "direction_norm",
)


@contextmanager
def transfers() -> Iterator[list[Tensor]]:
    """Note what is asked to come to the host."""
    seen: list[Tensor] = []
    fetch = Tensor.cpu

    def note(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return fetch(tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "cpu", note)
        yield seen


# ---------------------------------------------------------------------- the same step


def both(problem: Problem, **options: Any) -> tuple[Direction, Direction]:
    J, p = torch.as_tensor(problem.J), torch.as_tensor(problem.p)
    exact = constrained_direction(J, p, **options)
    return exact, constrained_direction(J, p, solver="device", **options)


@given(problems(), rules, scales)
def test_direction_is_that_of_the_exact_solver(problem: Problem, rule: Any, scale: str) -> None:
    exact, found = both(problem, decrease=rule, scale=scale)
    statuses = {exact.report.status, found.report.status}
    assume(Status.INACCURATE not in statuses)
    assert len(statuses) == 1
    # Either solution is known to √ε of its terms, and b is the product of another: `_known_to` of test_direction.py.
    norms = np.linalg.norm(problem.J, axis=1)
    pulled = exact.report.pull * exact.report.objective_norm + found.report.pull * found.report.objective_norm
    size = pulled + norms @ (exact.report.multipliers + found.report.multipliers) + norms.sum()
    assert float((exact.direction - found.direction).norm()) <= 1.3e-4 * size
    if found.report.status is Status.OPTIMAL:
        asked = rule(Situation(found.report.gramian, found.report.stationarity, found.report.names))
        assert_promised_decrease(found.report, 0.0 if asked.error is None else asked.error)


@given(problems(kinds=("random", "agreeing", "conflicting"), rows=(1, 5), columns=(5, 8), spreads=("unit", "common")))
def test_multipliers_are_those_of_the_exact_solver_where_gradients_are_far_from_dependent(problem: Problem) -> None:
    norms = np.linalg.norm(problem.J, axis=1)
    assume(norms.all() and np.linalg.cond(problem.J / norms[:, None]) < 100)
    exact, found = both(problem)
    size = float(exact.report.multipliers @ norms + exact.report.pull * exact.report.objective_norm + norms.sum())
    # Two solves on one another, each known to ε times the condition of its Gramian: 10⁴, and the number of terms.
    error = 2 * 1e4 * 4 * sum(problem.J.shape) * np.finfo(float).eps * size
    assert (np.abs(exact.report.multipliers - found.report.multipliers) * norms <= 1e4 * error).all()
    assert float((exact.direction - found.direction).norm()) <= 1e4 * error


@given(problems(), rules, scales)
def test_without_a_conflict_both_solvers_find_the_same_correction_none(problem: Problem, rule: Any, scale: str) -> None:
    """What is below its own rounding error is no conflict, to either: the same entries of b are 0."""
    exact, found = both(problem, decrease=rule, scale=scale)
    zeros = (exact.report.decrease == 0).all()
    assume(zeros or (found.report.decrease == 0).all())
    size = np.abs(problem.J) @ np.abs(problem.J).sum(axis=0)
    assert (np.abs(exact.report.decrease - found.report.decrease) <= 1.3e-4 * 2 * size).all()


@every_base
def test_trajectories_are_those_of_the_exact_solver(base: Base) -> None:
    model, twin = new_model(), new_model()
    opt = LessForgetting(base(model.parameters()), strength=0.5, solver="device")
    other = LessForgetting(base(twin.parameters()), strength=0.5)
    train(model, opt, range(5))
    train(twin, other, range(5))
    assert opt.report is not None
    assert other.report is not None
    assert [pair[:2] for pair in opt.report.conflicts] == [pair[:2] for pair in other.report.conflicts] != []
    for p, q in zip(weights(model), weights(twin), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)  # five steps of conditions up to about 10⁴


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_direction_is_combined_in_the_dtype_of_the_gradients(dtype: torch.dtype) -> None:
    rows = torch.tensor([[1.0, 0.5], [-0.5, 1.0]], dtype=dtype)
    grads = []
    solvers: tuple[Solver, ...] = ("active_set", "device")
    for solver in solvers:
        w = Parameter(torch.zeros(2, dtype=dtype))
        LessForgetting(SGD([w]), solver=solver).backward([(row * w).sum() for row in rows])
        assert w.grad is not None
        assert w.grad.dtype is dtype
        grads.append(w.grad)
    # Two products and their sum, each rounded once.
    assert bool(((grads[0] - grads[1]).abs() <= 3 * torch.finfo(dtype).eps * rows.abs().sum(0)).all())


@pytest.mark.parametrize("scale", ["relative", "absolute"])
def test_direction_of_float32_gradients_is_that_of_the_exact_solver_to_the_last_digits(scale: Any) -> None:
    J = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    J[1:3] -= 1.5 * J[0]
    exact, found = (constrained_direction(J, J[3:].sum(0), scale=scale, solver=s) for s in get_args(Solver))
    assert exact.report.conflicts
    torch.testing.assert_close(found.direction, exact.direction, rtol=0.0, atol=2.0**-23 * float(J.abs().max()))


@given(problems(), st.data(), scales)
def test_losses_reach_the_rule(problem: Problem, data: st.DataObject, scale: str) -> None:
    m = len(problem.J)
    values = data.draw(st.lists(st.floats(-8, 8), min_size=m, max_size=m))
    levels = data.draw(st.lists(st.floats(-8, 8) | st.just(np.inf), min_size=m, max_size=m))
    exact, found = both(problem, losses=values, decrease=Target(levels, rate=2.0), scale=scale)
    np.testing.assert_array_equal(found.report.decrease, 2 * (np.array(values) - np.array(levels)))
    np.testing.assert_array_equal(found.report.decrease, exact.report.decrease)
    statuses = {exact.report.status, found.report.status}
    assume(Status.INACCURATE not in statuses)
    assert len(statuses) == 1
    # Two answers, each known to √ε of its terms, and of those of r: the relative pull has its length, which may be 0.
    norms = np.linalg.norm(problem.J, axis=1)
    size = 2 * exact.report.pull * exact.report.objective_norm + norms.sum()
    size += norms @ (exact.report.multipliers + found.report.multipliers)
    assert float((exact.direction - found.direction).norm()) <= 1e-6 * size


def test_weights_and_names_reach_the_rule() -> None:
    model, twin = new_model(), new_model()
    rule = KeepPace(weights={"de": 2.0, "en": 1.0, "fr": 3.0})
    found = LessForgetting(SGD(model.parameters()), decrease=rule, solver="device").backward(losses(model, 0))
    exact = LessForgetting(SGD(twin.parameters()), decrease=rule).backward(losses(twin, 0))
    assert found.names == exact.names
    assert found.decrease.tolist() == pytest.approx(exact.decrease.tolist(), rel=1e-9)


# ---------------------------------------------------------------------- without waiting


def step(opt: LessForgetting, w: Parameter, u: Parameter, form: str) -> None:
    """Take a step with losses that conflict and an objective, in either form."""
    opt.zero_grad()
    constraints = {"en": w.square().sum() - 2 * u.sum(), "de": u.square().sum() - 3 * w.sum()}
    if form == "backward":
        opt.backward(constraints, objective=w.exp().sum())
    else:
        w.exp().sum().backward()
        for name, loss in constraints.items():
            with opt.constraint(name):
                loss.backward()
        opt.solve({"en": constraints["en"], "de": 2.0})
    opt.step()


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("form", "scale"), [("backward", "relative"), ("blocks", "absolute")])
@pytest.mark.parametrize(
    "rule",
    [KeepPace(weights={"en": 1.0, "de": 2.0}), Target({"en": 1.0, "de": float("inf")}), *RULES[2:]],
    ids=lambda rule: type(rule).__name__,
)
def test_no_step_waits_for_the_device(device: str, form: str, scale: Any, rule: Any) -> None:
    """On the device "meta" tensors have no values: nothing could be waited for."""
    w, u = Parameter(torch.ones(2, device=device)), Parameter(torch.ones(2, 2, device=device))
    opt = LessForgetting(SGD([w, u], lr=0.1, momentum=0.9), decrease=rule, scale=scale, solver="device")
    with NoWaiting(), transfers() as fetched:
        step(opt, w, u, form)
        step(opt, w, u, form)
    assert not fetched


def test_direction_of_a_jacobian_does_not_wait() -> None:
    J = torch.eye(3)
    with NoWaiting(), transfers() as fetched:
        constrained_direction(J, torch.ones(3), solver="device")
    assert not fetched


def test_the_exact_solver_is_seen_to_wait() -> None:
    """The test above would notice."""
    J = torch.eye(3)
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        constrained_direction(J, torch.ones(3))


def test_gradients_are_combined_where_they_are() -> None:
    w = Parameter(torch.ones(3))
    made: list[int] = []

    def note(parameter: Tensor) -> None:
        assert parameter.grad is not None
        made.append(parameter.grad.data_ptr())

    w.register_post_accumulate_grad_hook(note)
    LessForgetting(SGD([w]), solver="device").backward([w.square().sum(), w.exp().sum()])
    assert w.grad is not None
    assert w.grad.data_ptr() == made[0]


# ---------------------------------------------------------------------- the report


def test_the_report_is_fetched_once_at_the_first_look() -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters(), lr=0.1), solver="device")
    with transfers() as fetched:
        report = opt.backward(losses(model, 0))
        opt.step()
        assert report.names == ("en", "de", "fr")  # known without a look
        assert opt.report is report
        assert not fetched
        assert "optimal" in str(report)
        assert report.to_dict()["optimal"] == 1.0
        assert len(fetched) == 1


def test_the_report_is_one_to_its_user() -> None:
    exact, found = both(Problem(np.array([[1.0, 0.0], [-0.5, 1.0]]), np.array([1.0, -1.0])))
    assert isinstance(found.report, Report)
    for name in FIGURES:
        assert type(getattr(found.report, name)) is type(getattr(exact.report, name)), name
        if name != "status":
            np.testing.assert_allclose(getattr(found.report, name), getattr(exact.report, name), rtol=1e-12)
    assert found.report.status is exact.report.status
    assert found.report.active == exact.report.active
    assert list(found.report.to_dict()) == list(exact.report.to_dict())
    assert repr(found.report).startswith("PendingReport(names=('0', '1'), multipliers=")
    with pytest.raises(AttributeError, match="'PendingReport' object has no attribute 'multiplier'"):
        found.report.multiplier  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("looked", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda report: pickle.loads(pickle.dumps(report))])
def test_the_report_survives_copies(looked: bool, copied: Callable[[Report], Report]) -> None:
    report = constrained_direction(torch.eye(2), solver="device").report
    assert not looked or report.multipliers.any()
    again = copied(report)
    assert again.names == report.names
    assert again.multipliers.tolist() == report.multipliers.tolist() == [1.0, 1.0]


def test_the_wrapper_survives_copies_and_checkpoints() -> None:
    model = new_model()
    opt = LessForgetting(Adam(model.parameters(), lr=0.1), solver="device")
    train(model, opt, range(2))
    state = copy.deepcopy(opt.state_dict())
    pair, loaded = copy.deepcopy((model, opt)), pickle.loads(pickle.dumps((model, opt)))
    resumed = new_model()
    resumed.load_state_dict(model.state_dict())
    third = LessForgetting(Adam(resumed.parameters(), lr=0.1), solver="device")
    third.load_state_dict(state)
    train(model, opt, range(2, 4))
    for twin, other in (pair, loaded, (resumed, third)):
        assert other.solver == "device"
        train(twin, other, range(2, 4))
        assert_identical(weights(twin), weights(model))
    assert "solver='device'" in repr(opt)


# ---------------------------------------------------------------------- what is not finite


def broken(model: Module, value: float) -> dict[str, Tensor]:
    found = losses(model, 0)
    found["de"] = found["de"] * value
    return found


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e200])
def test_a_step_that_is_not_finite_is_a_step_of_nothing_and_its_report_says_why(value: float) -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters(), lr=0.1), solver="device")
    start = weights(model)
    report = opt.backward(broken(model, value))
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    opt.step()
    assert_identical(weights(model), start)
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="the gradient of constraint 'de' must be finite, and its squared"):
            str(report)
    copy.deepcopy(opt)
    pickle.dumps(opt)
    opt.zero_grad()
    assert opt.backward(losses(model, 0)).status is Status.OPTIMAL
    opt.step()
    assert not torch.equal(weights(model)[0], start[0])


def test_an_objective_that_is_not_finite_is_named() -> None:
    w = Parameter(torch.ones(2))
    report = LessForgetting(SGD([w]), solver="device").backward([w.sum()], objective=(w * torch.inf).sum())
    assert gradients_of(w) == [0.0, 0.0]
    with pytest.raises(FloatingPointError, match="the gradient of the objective must be finite"):
        report.to_dict()


def gradients_of(w: Parameter) -> list[float]:
    assert w.grad is not None
    return list(w.grad.tolist())


def test_a_jacobian_that_is_not_finite_has_a_direction_of_zero() -> None:
    direction, report = constrained_direction(torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]), solver="device")
    assert direction.tolist() == [0.0, 0.0]
    with pytest.raises(FloatingPointError, match="the gradient of constraint '1' must be finite"):
        report.status  # noqa: B018


# ---------------------------------------------------------------------- what it needs


def test_parameters_on_several_devices_are_refused() -> None:
    parameters = [Parameter(torch.ones(2)), Parameter(torch.ones(2, device="meta"))]
    opt = LessForgetting(SGD(parameters), anchor=None, solver="device")
    with pytest.raises(ValueError, match=r"all parameters on one device\. Found them on cpu, meta\. Move the model"):
        opt.backward([parameters[0].sum()])


class Half:
    """A rule that asks every loss for half its squared gradient."""

    def __call__(self, situation: Situation) -> Requirement:
        squares = situation.gramian.diagonal()
        return Requirement(0.5 * squares, squares / squares, Status.OPTIMAL, 0)


class HalfAnywhere(Half):
    knows_tensors = True


def test_rules_of_the_user_say_that_they_know_tensors() -> None:
    J = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    found, exact = (constrained_direction(J, decrease=HalfAnywhere(), solver=s) for s in get_args(Solver)[::-1])
    assert found.direction.tolist() == pytest.approx(exact.direction.tolist())
    assert found.report.status is Status.OPTIMAL
    message = (
        r'decrease=..., solver="device"\)` must be a rule that knows tensors. Found .*Half.* `knows_tensors = True`'
    )
    with pytest.raises(TypeError, match=message):
        constrained_direction(J, decrease=Half(), solver="device")
    with pytest.raises(TypeError, match=message):
        LessForgetting(SGD([Parameter(J)]), decrease=Half(), solver="device")


@pytest.mark.parametrize("call", [lambda s: constrained_direction(torch.eye(2), solver=s), lambda s: build(s)])
def test_unknown_solvers_are_refused(call: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match=r'solver=...\)` must be "active_set" or "device". Found \'cuda\''):
        call("cuda")


def build(solver: Any) -> LessForgetting:
    return LessForgetting(SGD([Parameter(torch.ones(1))]), solver=solver)


def test_a_direction_still_in_grad_is_refused_unless_it_was_zeroed() -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters(), lr=0.1), solver="device")
    train(model, opt, range(1))
    with pytest.raises(RuntimeError, match=r"must come after `opt\.zero_grad\(\)`"):
        opt.backward(losses(model, 1))
    model.zero_grad(set_to_none=False)
    opt.backward(losses(model, 1))
    assert any(gradient is not None and bool(gradient.any()) for gradient in gradients(model))
