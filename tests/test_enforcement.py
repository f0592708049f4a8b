"""Keeping the promise: the base's metric, and the correction of its step (math.md, 50-54)."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Linear
from torch.optim import LBFGS, SGD, Adafactor, Adagrad, Adam, AdamW, Muon, Optimizer, RMSprop

from mgrad import Anchor, HalfBatches, KeepPace, LessForgetting, NoIncrease, Status
from mgrad.metric import preconditioner
from mgrad.solvers import Array, rounding
from tests.reference import exact_direction
from tests.strategies import Problem, problems
from tests.training import BASES, assert_identical, losses, new_model, train, weights

RATE = 0.125  # a power of two: its products have no rounding

STEPS: dict[str, Callable[[Any], Optimizer]] = {
    **BASES,
    "Muon": partial(Muon, lr=0.02, weight_decay=0.1),
    "Adafactor": partial(Adafactor, lr=0.02, weight_decay=0.1),
}
every_step = pytest.mark.parametrize("base", STEPS.values(), ids=STEPS)


class Kick(Optimizer):
    """A base that does what it was told, whatever the gradient: moves its parameters by given vectors."""

    def __init__(self, parameter: Tensor, kick: Array) -> None:
        super().__init__([parameter], {"lr": RATE})
        self.kick = torch.from_numpy(kick)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move."""
        self.param_groups[0]["params"][0].add_(self.kick)


def matrices(model: torch.nn.Module) -> list[Tensor]:
    """Return the parameters that every base takes: Muon wants matrices."""
    return [parameter for parameter in model.parameters() if parameter.dim() == 2]


@given(problems(rows=(1, 4), columns=(1, 6), spreads=("unit", "common")))
def test_correction_is_the_least_one_that_keeps_the_promise(case: Problem) -> None:
    J, kick = case
    parameter = torch.nn.Parameter(torch.zeros(J.shape[1], dtype=torch.float64))
    opt = LessForgetting(Kick(parameter, kick), anchor=None, enforce="step")
    report = opt.backward([torch.from_numpy(row) @ parameter for row in J])
    opt.step()
    step, found = parameter.detach().numpy(), opt.step_report
    assert found is not None
    assume(report.status is Status.OPTIMAL and found.status is Status.OPTIMAL)
    # θ starts at 0, so that u is the kick without rounding. −(u + v) is (1)'s d for the pull −u and ηb.
    reference = exact_direction(J, -kick, found.promised)
    if reference is None:  # b is only feasible to rounding
        return
    exact = np.array([float(value) for value in reference[0]])
    mu, nu = found.multipliers, np.array([float(value) for value in reference[1]])
    # As in assert_same_direction, with slacks known to the error of (54)'s linear term.
    lengths, parts = np.linalg.norm(J, axis=1), np.abs(kick) + np.abs(J).T @ (mu + nu)
    error = rounding(sum(J.shape)) * (np.abs(J) @ parts + np.abs(found.promised) + lengths * np.linalg.norm(kick))
    allowed = np.sqrt((mu + nu) @ error) + rounding(len(J) + 1) * np.linalg.norm(parts)
    assert np.linalg.norm(step + exact) <= allowed
    assert (-J @ step >= found.promised - 2 * error).all()


@every_step
@pytest.mark.parametrize("metric", ["euclidean", "base"])
def test_every_base_keeps_the_promise_with_enforcement(base: Callable[[Any], Optimizer], metric: Any) -> None:
    model = new_model()
    bare = base(matrices(model))
    if metric == "base" and isinstance(bare, Muon):
        with pytest.raises(ValueError, match="must know the base's preconditioner"):
            LessForgetting(bare, metric="base")
        return
    opt = LessForgetting(bare, metric=metric, enforce="step")
    worst, broken = 0.0, 0
    for step in range(12):
        opt.zero_grad()
        before = weights(model)
        rows = [torch.autograd.grad(loss, matrices(model)) for loss in losses(model, step).values()]
        report = opt.backward(losses(model, step))
        opt.step()
        assert opt.step_report is not None
        moved = [p.detach() - start for p, start in zip(model.parameters(), before, strict=True) if p.dim() == 2]
        for row, b, promised in zip(rows, report.decrease, opt.step_report.promised, strict=True):
            change = sum(float((g * u).sum()) for g, u in zip(row, moved, strict=True))
            size = sum(float((g * u).abs().sum()) for g, u in zip(row, moved, strict=True))
            size += sum(
                float((g * start).abs().sum()) for g, start in zip(row, before, strict=False) if g.shape == start.shape
            )
            assert promised == pytest.approx(bare.param_groups[0]["lr"] * b)
            worst = max(worst, (change + promised) / (size + promised))
        broken += len(opt.step_report.broken)
    assert worst <= rounding(100)
    if metric == "euclidean" and base is not STEPS["SGD"]:
        assert broken  # or the test would show nothing
    if base is STEPS["SGD"]:
        assert not broken


def test_a_base_that_keeps_its_promise_is_left_alone() -> None:
    first, second = new_model(), new_model()
    train(first, LessForgetting(SGD(first.parameters(), lr=0.1)), range(5))
    train(second, LessForgetting(SGD(second.parameters(), lr=0.1), enforce="step"), range(5))
    assert_identical(weights(first), weights(second))


@pytest.mark.parametrize("other", [torch.full((4,), 1e6), torch.ones(4, dtype=torch.bfloat16)])
def test_what_no_loss_reads_excuses_no_rise(other: Tensor) -> None:
    """The rounding of a large or of a coarse parameter is no part of J u where J has nothing of it."""
    w = torch.nn.Parameter(torch.full((2,), 1e-2))
    base = Kick(w, np.full(2, 1e-4))
    base.add_param_group({"params": [torch.nn.Parameter(other)]})
    opt = LessForgetting(base, anchor=None, enforce="step")
    opt.backward([1e-3 * w.sum()])
    opt.step()
    assert opt.step_report is not None
    assert opt.step_report.broken == ("0",)
    # 3·10⁻⁵ of what was to be taken back, rounded to 2⁻²⁴ of w.
    fallen = 1e-3 * (2e-2 - w.detach().double().sum().item())
    assert fallen == pytest.approx(opt.step_report.promised.item(), abs=2e-3 * 2.0**-24 * 1e-2)


@pytest.mark.parametrize(
    ("J", "kick", "rule", "broken"),
    [
        ([[1.0, 0.0], [1.0, 0.1]], [0.0, -1.0], KeepPace(), ("0", "1")),  # mending one mends the other
        ([[1.0, 0.0], [-1.0, 0.1]], [1.0, 5.0], NoIncrease(), ("0",)),  # kept, but not by what mends the other
        ([[1.0, 0.0], [0.0, 1.0]], [-1.0, -1.0], KeepPace(), ()),
    ],
)
def test_broken_are_the_promises_that_the_base_breaks(
    J: list[list[float]], kick: list[float], rule: Any, broken: tuple[str, ...]
) -> None:
    """Whether the correction needs a multiplier for them or not."""
    parameter = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    opt = LessForgetting(Kick(parameter, RATE * np.array(kick)), anchor=None, decrease=rule, enforce="step")
    report = opt.backward([torch.tensor(row, dtype=torch.float64) @ parameter for row in J])
    opt.step()
    found = opt.step_report
    assert found is not None
    short = RATE * report.decrease + RATE * np.array(J) @ kick > 1e-12
    assert found.broken == broken == tuple(np.array(["0", "1"])[short])
    assert found.to_dict()["step/broken"] == len(broken)
    assert (found.decrease >= found.promised - 1e-12).all()


def test_the_rounding_of_what_never_moves_excuses_nothing() -> None:
    still, w = torch.nn.Parameter(torch.full((4,), 1e6)), torch.nn.Parameter(torch.full((2,), 1e-2))
    base = Kick(w, np.full(2, 1e-4))
    base.add_param_group({"params": [still], "lr": 0.0})
    base.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": RATE})
    opt = LessForgetting(base, anchor=None, enforce="step")
    opt.backward([1e-3 * w.sum() + still.sum()])
    opt.step()
    assert opt.step_report is not None
    assert opt.step_report.broken == ("0",)
    assert w.detach().sum().item() < 2e-2


def test_what_never_moves_is_put_back_too_where_a_step_is_not_finite() -> None:
    model = new_model()
    groups: list[dict[str, Any]] = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}]
    opt = LessForgetting(SGD(groups, lr=0.1), enforce="step")
    opt.backward(losses(model, 0))
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    with pytest.raises(FloatingPointError, match="must bring a finite step"):
        opt.step()
    assert_identical(weights(model), before)


def test_a_step_in_which_nothing_moves_is_a_step() -> None:
    model, frozen = new_model(), torch.nn.Parameter(torch.ones(1), requires_grad=False)
    groups: list[dict[str, Any]] = [{"params": model.parameters(), "lr": 0.0}, {"params": [frozen]}]
    opt = LessForgetting(AdamW(groups, lr=0.1), enforce="step")
    before = weights(model)
    for step in range(2):
        opt.zero_grad()
        opt.backward(losses(model, step))
        opt.step()
    assert_identical(weights(model), before)
    assert opt.step_report is not None
    assert opt.step_report.step_norm == 0.0


def test_a_promise_is_kept_although_no_more_are_asked_for() -> None:
    w = torch.nn.Parameter(torch.ones(2))
    opt = LessForgetting(Kick(w, np.ones(2)), anchor=None, enforce="step")
    opt.backward([w.sum()])
    opt.enforce = "gradient"
    opt.step()
    assert w.sum().item() == pytest.approx(2.0 - RATE * 2)


class Delegating(Optimizer):
    """An optimizer around another, as some libraries have them, that never calls `Optimizer.__init__`."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        self.param_groups, self.state, self.defaults = inner.param_groups, inner.state, inner.defaults

    def step(self, closure: Any = None) -> Any:
        """Let the other take its step."""
        return self.inner.step(closure)


def test_a_base_without_hooks_keeps_the_promise() -> None:
    w = torch.nn.Parameter(torch.ones(2))
    opt = LessForgetting(Delegating(Kick(w, np.ones(2))), anchor=None, enforce="step")
    opt.backward([w.sum()])
    opt.step()
    assert opt.step_report is not None
    assert opt.step_report.broken == ("0",)
    assert w.sum().item() == pytest.approx(2.0 - RATE * 2)


@pytest.mark.parametrize("where", ["loop", "hook", "hook of the base"])
def test_after_clipping_the_promise_is_that_of_the_clipped_direction(where: str) -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters(), lr=0.1), enforce="step")
    report = opt.backward(losses(model, 0))

    def clip(*_: Any) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25 * report.direction_norm)

    if where == "loop":
        clip()
    else:
        (opt if where == "hook" else opt.base).register_step_pre_hook(clip)
    opt.step()
    assert opt.step_report is not None
    # clip_grad_norm_ adds 1e-6 to the norm that it divides by.
    np.testing.assert_allclose(opt.step_report.promised, 0.1 * 0.25 * report.decrease, rtol=1e-5)
    assert not opt.step_report.broken


def test_a_loss_scale_that_is_taken_back_leaves_the_promise_as_it_is() -> None:
    found = []
    for scale in (1.0, 1024.0):
        model, scaler = new_model(), torch.amp.GradScaler("cpu", init_scale=scale)
        opt = LessForgetting(SGD(model.parameters(), lr=0.1, momentum=0.9), anchor=None, enforce="step")
        for step in range(4):
            opt.zero_grad()
            opt.backward({name: scaler.scale(loss) for name, loss in losses(model, step).items()})
            scaler.step(opt)
            scaler.update()
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("exponent", [-80, 0, 64])
def test_what_clipping_leaves_is_known_whatever_the_size_and_type(dtype: torch.dtype, exponent: int) -> None:
    # Beyond the roots of the least and the largest float32; and 300 entries, whose length bfloat16 does not hold.
    parameter = torch.nn.Parameter(torch.zeros(300, dtype=dtype))
    opt = LessForgetting(SGD([parameter], lr=0.125), anchor=None, enforce="step")
    report = opt.backward([2.0**exponent * parameter.sum()])
    assert parameter.grad is not None
    parameter.grad[1:] = 0.0
    opt.step()
    assert opt.step_report is not None
    np.testing.assert_allclose(opt.step_report.promised, 0.125 * 300**-0.5 * report.decrease, rtol=1e-12)


def test_what_is_frozen_or_emptied_between_solve_and_step_is_no_error() -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters(), lr=0.1), enforce="step")
    report = opt.backward(losses(model, 0))
    before = weights(model)
    model[0].requires_grad_(False)  # torch's optimizers step on what is in `.grad`
    opt.step()
    assert not torch.equal(weights(model)[0], before[0])
    assert opt.step_report is not None
    assert not opt.step_report.broken
    # θ is rounded, ε of it beside a step of more than 10⁻⁴ of it.
    np.testing.assert_allclose(opt.step_report.base_decrease, 0.1 * report.predicted_decrease, rtol=1e-9)
    opt.zero_grad()
    opt.backward(losses(model, 0))
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = None
    opt.step()
    assert_identical(weights(model), before)
    assert not opt.step_report.promised.any()


def test_with_several_evaluations_the_promise_is_that_of_where_the_step_began() -> None:
    model = new_model()
    opt = LessForgetting(LBFGS(model.parameters(), lr=0.5, max_iter=4), anchor=None, enforce="step")
    before = weights(model)
    rows = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses(model, 0).values()]
    first: list[Array] = []

    def closure() -> Tensor:
        opt.zero_grad()
        found = losses(model, 0)
        first.append(opt.backward(found).decrease)
        return sum(found.values(), start=torch.zeros(()))

    opt.step(closure)
    assert len(first) > 1
    assert opt.step_report is not None
    np.testing.assert_array_equal(opt.step_report.promised, 0.5 * first[0])
    moved = [p.detach() - start for p, start in zip(model.parameters(), before, strict=True)]
    for row, promised in zip(rows, opt.step_report.promised, strict=True):
        change = sum(float((g * u).sum()) for g, u in zip(row, moved, strict=True))
        assert -change >= promised - rounding(100) * sum(
            float((g * u).abs().sum()) for g, u in zip(row, moved, strict=True)
        )


@pytest.mark.parametrize(
    ("decrease", "metric"), [(KeepPace(), "base"), (NoIncrease(), "base"), (NoIncrease(), "euclidean")]
)
def test_no_size_of_the_gradients_is_special(decrease: Any, metric: Any) -> None:
    # Adam without ε, and powers of two: not a digit may differ. (In the Euclidean metric b is not in Adam's units.)
    found = []
    for scale in (1.0, 2.0**-40, 2.0**40):
        torch.manual_seed(0)
        model = Linear(3, 1)
        away = Anchor([torch.ones_like(parameter) for parameter in model.parameters()])
        base = Adam(model.parameters(), lr=0.01, eps=0.0)
        opt = LessForgetting(base, anchor=away, decrease=decrease, metric=metric, enforce="step")
        broken = 0
        for step in range(8):
            x, y = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(step))
            opt.zero_grad()
            opt.backward([scale * (model(x)[:, 0] - target).square().mean() for target in (y[:, 0], y[:, 1] - y[:, 0])])
            opt.step()
            assert opt.step_report is not None
            assert opt.step_report.status is Status.OPTIMAL
            broken += len(opt.step_report.broken)
        assert broken
        found.append(weights(model))
    assert_identical(found[1], found[0])
    assert_identical(found[2], found[0])


@pytest.mark.parametrize("metric", ["euclidean", "base"])
def test_the_device_keeps_the_promise_as_the_host_does(metric: Any) -> None:
    found = []
    for solver in ("active_set", "device"):
        model = new_model()
        opt = LessForgetting(AdamW(model.parameters(), lr=0.02), metric=metric, enforce="step", solver=solver)
        train(model, opt, range(6))
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert opt.step_report is not None
        assert str(opt.step_report).startswith("optimal")
        figures = opt.step_report.to_dict()
        assert figures["step/optimal"] == 1.0
        assert {type(value) for value in figures.values()} == {float}
        assert opt.report is not None
        assert not figures.keys() & opt.report.to_dict().keys()
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)


def test_on_the_device_a_step_that_is_not_finite_is_not_corrected() -> None:
    model = Linear(2, 1)
    opt = LessForgetting(SGD(model.parameters(), lr=0.1), solver="device", enforce="step")
    before = weights(model)
    opt.backward([model(torch.tensor([1.0, torch.nan])).square().sum()])
    opt.step()
    assert_identical(weights(model), before)
    assert opt.step_report is not None
    with pytest.raises(FloatingPointError, match="base's step must be finite"):
        _ = opt.step_report.promised


def test_a_step_that_is_not_finite_is_taken_back() -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters(), lr=1e308, momentum=0.9), anchor=None, enforce="step")
    before = weights(model)
    opt.backward({name: 1e100 * loss for name, loss in losses(model, 0).items()})
    with pytest.raises(FloatingPointError, match="parameters are back where they were"):
        opt.step()
    assert_identical(weights(model), before)


# ---------------------------------------------------------------- the base's metric

METRICS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": partial(SGD, lr=0.5),
    "Adam": partial(Adam, lr=0.5, betas=(0.0, 0.9), eps=1e-3),
    "Adam-amsgrad": partial(Adam, lr=0.5, betas=(0.0, 0.9), amsgrad=True),
    "AdamW": partial(AdamW, lr=0.5, betas=(0.0, 0.9), weight_decay=0.0),
    "RMSprop": partial(RMSprop, lr=0.5, alpha=0.9),
    "Adagrad": partial(Adagrad, lr=0.5),
    "Adagrad-decay": partial(Adagrad, lr=0.5, lr_decay=0.1, initial_accumulator_value=0.3),
    "Adafactor": partial(Adafactor, lr=0.5, weight_decay=0.0, d=1e9),
}


@pytest.mark.parametrize("base", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("steps", [0, 1, 3, 8])
def test_preconditioner_is_what_the_base_does_to_a_gradient(base: Callable[[Any], Optimizer], steps: int) -> None:
    generator, shapes = torch.Generator().manual_seed(steps), ((3, 4), (5,), (2, 3, 4), ())
    parameters = [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes]
    opt = base(parameters)

    def step(parameters: Sequence[Tensor], opt: Optimizer) -> list[Tensor]:
        for parameter in parameters:
            parameter.grad = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5
        opt.step()
        return [torch.as_tensor(parameter.grad) for parameter in parameters]

    for _ in range(steps):
        step(parameters, opt)
    state, before = deepcopy(opt.state_dict()), [parameter.detach().clone() for parameter in parameters]
    scaling, group = preconditioner(opt), opt.param_groups[0]
    twin = [torch.nn.Parameter(values.clone()) for values in before]
    other = base(twin)
    other.load_state_dict(deepcopy(state))
    taken = step(twin, other)
    for parameter, moved, gradient, start in zip(parameters, twin, taken, before, strict=True):
        found = scaling(opt.state.get(parameter, {}), group, parameter, gradient.square())
        torch.testing.assert_close(found, (start - moved.detach()) / (0.5 * gradient), rtol=1e-9, atol=0.0)
    assert_identical(opt.state_dict(), state)


@pytest.mark.parametrize("base", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_metric_is_known_in_every_type(base: Callable[[Any], Optimizer], dtype: torch.dtype) -> None:
    model = Linear(3, 2).to(dtype)
    opt = LessForgetting(base(model.parameters()), metric="base", enforce="step")
    for step in range(3):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step)).to(dtype)
        opt.zero_grad()
        report = opt.backward([(model(x)[:, 0] - x[:, 0]).square().mean(), (model(x)[:, 1] + x[:, 1]).square().mean()])
        opt.step()
        assert report.status is Status.OPTIMAL


@given(problems(rows=(1, 4), columns=(1, 5), spreads=("unit", "common")), st.integers(0, 2**16))
def test_in_the_base_s_metric_the_direction_is_that_of_the_scaled_problem(case: Problem, seed: int) -> None:
    # Groups of one entry with rates that are powers of four make a metric whose root has no rounding.
    J, pull = case
    rates = np.power(4.0, np.random.default_rng(seed).integers(0, 4, J.shape[1]))
    entries: list[Tensor] = [torch.nn.Parameter(torch.tensor([value], dtype=torch.float64)) for value in pull]
    base = SGD([{"params": [entry], "lr": rate} for entry, rate in zip(entries, rates.tolist(), strict=True)])
    start = [torch.zeros(1, dtype=torch.float64) for _ in entries]
    opt = LessForgetting(base, anchor=Anchor(start), metric="base", strength=1.0, scale="absolute")
    report = opt.backward([torch.from_numpy(row) @ torch.cat(entries) for row in J])
    assume(report.status is Status.OPTIMAL)
    roots = np.sqrt(rates / rates.min())
    scaled = J * roots
    np.testing.assert_allclose(
        report.gramian, scaled @ scaled.T, rtol=0, atol=rounding(J.shape[1]) * np.abs(scaled @ scaled.T).max()
    )
    reference = exact_direction(scaled, pull * roots, report.decrease)
    if reference is None:
        return
    d = torch.cat([torch.as_tensor(entry.grad) for entry in entries]).numpy() * roots
    exact, nu = (np.array([float(value) for value in values]) for values in reference)
    parts = np.abs(pull * roots) + np.abs(scaled).T @ (report.multipliers + nu)
    error = rounding(sum(J.shape)) * (np.abs(scaled) @ parts + np.abs(report.decrease))
    allowed = np.sqrt((report.multipliers + nu) @ error) + rounding(len(J) + 1) * np.linalg.norm(parts)
    assert np.linalg.norm(d - exact) <= allowed


@pytest.mark.parametrize("kind", ["gradient", "loss"])
@pytest.mark.parametrize("solver", ["active_set", "device"])
def test_in_the_base_s_metric_units_of_normalised_losses_do_not_matter(kind: Any, solver: Any) -> None:
    """Proposition 16 in the metric of a base whose second moments are those of directions without a unit."""
    ends = []
    for unit in (1.0, 2.0**10):
        model = new_model()
        base = Adam(model.parameters(), lr=0.02)
        opt = LessForgetting(base, normalise=kind, metric="base", enforce="step", solver=solver)
        for step in range(4):
            opt.zero_grad()
            found = losses(model, step)
            opt.backward({**found, "de": unit * found["de"]})
            opt.step()
        ends.append(weights(model))
    # A factor of two in a unit changes no digit but those of sums of squares.
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", ["relative", "absolute"])
def test_in_the_base_s_metric_the_objective_pulls_where_no_constraint_is(scale: Any) -> None:
    found = []
    for metric in ("euclidean", "base"):  # of SGD they are the same
        model, other = new_model(), Linear(2, 1, bias=False, dtype=torch.float64)
        with torch.no_grad():
            other.weight.copy_(torch.tensor([[2.0, -1.0]]))
        base = SGD([*model.parameters(), *other.parameters()], lr=0.1)
        opt = LessForgetting(base, metric=metric, scale=scale)
        report = opt.backward(losses(model, 0), objective=other.weight.square().sum())
        assert report.objective_norm == pytest.approx(2 * 5**0.5)
        found.append([torch.as_tensor(p.grad) for p in (*model.parameters(), *other.parameters())])
        assert found[-1][-1].any()
    for one, same in zip(*found, strict=True):
        torch.testing.assert_close(one, same, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999])
def test_in_the_base_s_metric_the_base_s_step_falls_short_by_the_newest_part_of_its_second_moments(
    decay: float,
) -> None:
    model = new_model()
    base = AdamW(model.parameters(), lr=1e-3, betas=(0.0, decay), weight_decay=0.0)
    opt = LessForgetting(base, metric="base", enforce="step")
    shortfalls = []
    for step in range(300):
        opt.zero_grad()
        report = opt.backward(losses(model, step))
        opt.step()
        assert opt.step_report is not None
        missing = opt.step_report.promised - opt.step_report.base_decrease
        share = (1 - decay) / (1 - decay ** (step + 1))
        shortfalls.append(float((missing / (1e-3 * report.gradient_norms * report.direction_norm)).max()) / share)
    # |gᵀΔPd| ≤ max|ΔP/P|·‖g‖‖d‖ in P. Where the share of v is off by its own size, P is by half of it.
    assert np.median(shortfalls) <= 1


def test_options_are_checked() -> None:
    base = SGD(new_model().parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r'`LessForgetting\(metric=\.\.\.\)` must be "euclidean" or "base"'):
        LessForgetting(base, metric="adam")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r'`LessForgetting\(enforce=\.\.\.\)` must be "gradient" or "step"'):
        LessForgetting(base, enforce="loss")  # type: ignore[arg-type]
    del base.param_groups[0]["lr"]
    with pytest.raises(ValueError, match="must know the learning rate"):
        LessForgetting(base, enforce="step")
    assert LessForgetting(base) is not None


def test_a_base_without_a_learning_rate_steps() -> None:
    class Rateless(Optimizer):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for parameter in self.param_groups[0]["params"]:
                parameter.sub_(0.125 * parameter.grad)

    first, second = new_model(), new_model()
    train(first, LessForgetting(Rateless(first.parameters(), {})), range(3))
    train(second, LessForgetting(SGD(second.parameters(), lr=0.125)), range(3))
    assert_identical(weights(first), weights(second))


@pytest.mark.parametrize("metric", ["euclidean", "base"])
def test_a_group_of_rate_0_stays_where_it_is_and_the_others_keep_the_promise(metric: Any) -> None:
    model = new_model()
    first, *_, last = model
    groups: list[dict[str, Any]] = [{"params": first.parameters(), "lr": 0.0}, {"params": last.parameters()}]
    opt = LessForgetting(AdamW(groups, lr=0.01), metric=metric, enforce="step")
    before, broken = weights(model), 0
    for step in range(8):
        opt.zero_grad()
        opt.backward(losses(model, step))
        opt.step()
        found = opt.step_report
        assert found is not None
        assert found.status is Status.OPTIMAL
        # To the rounding (55) of the parameters, 10⁻¹³ of a step of 10⁻² of them.
        assert (found.decrease >= found.promised * (1 - 1e-9)).all()
        broken += len(found.broken)
    assert broken
    assert_identical(weights(first), before[:2])
    assert not torch.equal(weights(last)[0], before[2])


def test_half_batches_show_the_noise_of_what_moves() -> None:
    found = []
    for frozen in (False, True):  # by a rate of 0, or in torch's way
        model = new_model()
        first, *_, last = model
        first.requires_grad_(not frozen)
        groups: list[dict[str, Any]] = [{"params": first.parameters(), "lr": 0.0}, {"params": last.parameters()}]
        opt = LessForgetting(SGD(groups, lr=0.1), noise=HalfBatches(), enforce="step")
        for step in range(3):
            opt.zero_grad()
            one, other = losses(model, 2 * step), losses(model, 2 * step + 1)
            report = opt.backward({name: (one[name], other[name]) for name in one})
        found.append(report.gramian)
    # Differences of numbers of the same size, 29 products each.
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=rounding(100) * np.abs(found[1]).max())


def test_with_a_rate_of_0_nothing_is_promised_but_no_loss_rises() -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters(), lr=0.0), enforce="step", metric="base")
    opt.backward(losses(model, 0))
    before = weights(model)
    opt.step()
    assert_identical(weights(model), before)
    assert opt.step_report is not None
    assert not opt.step_report.promised.any()
