"""torch's GradScaler in its ordinary three lines: rows are unscaled before the Gramian, an overflow is no step."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.amp import GradScaler
from torch.nn import Module, Parameter
from torch.nn.functional import mse_loss
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from mgrad import Anchor, HalfBatches, LessForgetting, SmoothGramian, SmoothRows, constrained_direction
from tests.strategies import Problem, problems
from tests.training import BASES, Base, assert_identical, every_base, flat, losses, new_model, objective, weights

pytestmark = pytest.mark.any_device

SCALE = 2.0**10


class Identity:
    """A scaler that does not scale, for the same loop without one."""

    def scale(self, loss: Tensor) -> Tensor:
        return loss

    def unscale_(self, opt: LessForgetting) -> None:
        pass

    def step(self, opt: LessForgetting) -> None:
        opt.step()

    def update(self) -> None:
        pass


def backpropagate(model: Module, opt: LessForgetting, scaler: Any, step: int, halves: int = 1) -> None:
    """Backpropagate the objective and every constraint, the latter in so many blocks."""
    opt.zero_grad()
    scaler.scale(objective(model)).backward()
    for name in ("en", "de", "fr"):
        for half in range(halves):
            with opt.constraint(name):
                scaler.scale(losses(model, step + 100 * half)[name]).backward()


def trained(scaler: Any, base: Base, halves: int = 1, **options: Any) -> tuple[list[Tensor], Any, list[float]]:
    """Return weights, state and figures after some steps of the three lines."""
    model = new_model()
    opt = LessForgetting(base(model.parameters()), **options)
    figures: list[float] = []
    for step in range(4):
        backpropagate(model, opt, scaler, step, halves)
        scaler.step(opt)
        scaler.update()
        assert opt.report is not None
        figures += opt.report.to_dict().values()
    return weights(model), opt.state_dict(), figures


OPTIONS: dict[str, dict[str, Any]] = {
    "relative": {},
    "absolute": {"scale": "absolute", "strength": 0.5},
    "loose": {"anchor": None, "scale": "absolute"},
    "step": {"enforce": "step", "scale": "absolute"},
    "gradient": {"normalise": "gradient", "scale": "absolute"},
    "rows": {"noise": SmoothRows(), "scale": "absolute"},
    "gramian": {"noise": SmoothGramian(), "scale": "absolute"},
    "halves": {"noise": HalfBatches(), "scale": "absolute", "halves": 2},
    "device": {"solver": "device", "scale": "absolute"},
}


@every_base
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_three_lines_take_the_steps_of_the_loop_without_a_scaler(base: Base, options: Any) -> None:
    """Bit for bit, as the scale is a power of two, and in the units of the losses: so are the figures."""
    scaled = trained(GradScaler("cpu", init_scale=SCALE), base, **options)
    plain = trained(Identity(), base, **options)
    assert_identical(scaled, plain)


def test_in_the_base_s_metric_rows_and_second_moments_are_of_one_unit() -> None:
    options: dict[str, Any] = {"metric": "base", "enforce": "step", "scale": "absolute"}
    scaled = trained(GradScaler("cpu", init_scale=SCALE), BASES["AdamW"], **options)
    assert_identical(scaled, trained(Identity(), BASES["AdamW"], **options))


@given(problems(rows=(1, 5), columns=(1, 6)), st.integers(0, 24))
@settings(max_examples=50)
def test_rows_of_any_kind_and_size_are_unscaled(case: Problem, exponent: int) -> None:
    """Duplicated, opposite, dependent and zero rows, of 1e-12 to 1e12: not a bit is another."""
    J, start = torch.from_numpy(case.J), torch.from_numpy(case.p)

    def stepped(scaler: Any) -> Any:
        w = Parameter(torch.zeros_like(start))
        opt = LessForgetting(SGD([w], lr=1.0), anchor=Anchor([-start]), scale="absolute", strength=0.5)
        for i, row in enumerate(J):
            with opt.constraint(str(i)):
                scaler.scale(w @ row).backward()
        scaler.step(opt)
        scaler.update()
        assert opt.report is not None
        return w.detach(), opt.report.to_dict()

    assert_identical(stepped(GradScaler("cpu", init_scale=2.0**exponent)), stepped(Identity()))


def test_any_scale_gives_the_direction_of_float64() -> None:
    """To a rounding of each row and one of the combination and of the step, in float32."""
    generator = torch.Generator().manual_seed(0)
    rows, theta = torch.randn(3, 5, generator=generator), torch.randn(5, generator=generator)
    w = Parameter(theta.clone())
    opt = LessForgetting(SGD([w], lr=1.0), anchor=Anchor([torch.zeros(5)]), scale="absolute", strength=0.25)
    scaler = GradScaler("cpu", init_scale=1000.0)
    for i, row in enumerate(rows):
        with opt.constraint(str(i)):
            scaler.scale(w @ row).backward()
    scaler.step(opt)
    expected = constrained_direction(rows.double(), theta.double(), strength=0.25)
    assert expected.report.conflicts
    condition = float(torch.linalg.cond(torch.as_tensor(expected.report.gramian)))
    size = float(expected.report.multipliers @ expected.report.gradient_norms) + float(theta.norm())
    found = theta.double() - w.detach().double()
    assert float((found - expected.direction).norm()) <= 4 * torch.finfo(torch.float32).eps * size * condition


@pytest.mark.parametrize("bad", ["objective", "en", "de", "fr"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@every_base
def test_an_overflow_anywhere_is_no_step_and_lowers_the_scale(base: Base, bad: str, value: float) -> None:
    model, twin = new_model(), new_model()
    opt, other = (LessForgetting(base(m.parameters()), constraints=("en", "de", "fr")) for m in (model, twin))
    scaler, plain = GradScaler("cpu", init_scale=SCALE), Identity()
    for step in range(4):
        before = weights(model), opt.state_dict(), opt.report
        backpropagate(model, opt, scaler, step)
        if step == 2:
            with opt.constraint(bad) if bad != "objective" else nullcontext():
                (value * next(model.parameters())).sum().backward()
        scaler.step(opt)
        scaler.update()
        if step == 2:
            assert_identical((weights(model), opt.state_dict()), before[:2])
            assert opt.report is before[2]
            assert scaler.get_scale() == SCALE / 2
        else:
            backpropagate(twin, other, plain, step)
            other.step()
    assert scaler.get_scale() == SCALE / 2
    assert_identical((weights(model), opt.state_dict()), (weights(twin), other.state_dict()))


def test_after_an_overflow_the_models_own_zero_grad_does_as_well() -> None:
    model, twin = new_model(), new_model()
    opt, other = (LessForgetting(SGD(m.parameters(), lr=0.1)) for m in (model, twin))
    scaler = GradScaler("cpu", init_scale=SCALE)
    for step in range(3):
        for name in ("en", "de"):
            with opt.constraint(name):
                scaler.scale(
                    losses(model, step)[name] * (float("inf") if (step, name) == (1, "en") else 1.0)
                ).backward()
        scaler.step(opt)
        scaler.update()
        model.zero_grad()
        if step != 1:
            other.zero_grad()
            other.backward({name: losses(twin, step)[name] for name in ("en", "de")})
            other.step()
    assert_identical(weights(model), weights(twin))


@pytest.mark.parametrize("scale", [4.0, SCALE])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("looked", [False, True])
def test_so_it_does_where_the_objective_alone_has_overflowed(scale: float, in_place: bool, looked: bool) -> None:
    """Whichever way that is cleared, and whoever looks at the groups before the next block opens."""
    w = Parameter(torch.ones(3))
    opt = LessForgetting(SGD([w], lr=0.1))
    scaler = GradScaler("cpu", init_scale=scale)
    for factor in (float("inf"), 1.0):
        if in_place and w.grad is not None:
            w.grad.zero_()
        elif not in_place:
            w.grad = None
        if looked:
            assert opt.param_groups[0]["params"][0] is w
        scaler.scale(factor * w[0]).backward()
        for name, slope in (("en", 1.0), ("de", 2.0)):
            with opt.constraint(name):
                scaler.scale(slope * w.sum()).backward()
        scaler.step(opt)
        scaler.update()
    assert opt.report is not None
    assert opt.report.gramian.tolist() == [[3.0, 6.0], [6.0, 12.0]]


def test_a_look_at_the_gradients_between_micro_batches_drops_none() -> None:
    w = Parameter(torch.ones(2))
    opt = LessForgetting(SGD([w]))
    for _ in range(2):
        with opt.constraint("en"):
            w.sum().backward()
        assert [len(group["params"]) for group in opt.param_groups] == [3]
    opt.solve()
    assert w.grad is not None
    assert w.grad.tolist() == [2.0, 2.0]


def test_a_look_at_what_is_not_finite_without_a_scaler_drops_none() -> None:
    """It would be a step without a constraint, of which nobody is told."""
    w = Parameter(torch.ones(2))
    opt = LessForgetting(SGD([w]))
    for name, factor in (("en", float("nan")), ("de", 1.0)):
        with opt.constraint(name):
            (factor * w.sum()).backward()
        assert sum(parameter.numel() for group in opt.param_groups for parameter in group["params"]) > 2
    with pytest.raises(FloatingPointError, match="'en'"):
        opt.step()


@pytest.mark.parametrize("clip", ["between", "hook"])
def test_clipping_is_of_the_unscaled_direction(clip: str) -> None:
    """Between `unscale_` and the step, as torch has it, or in a hook before the step."""

    def run(scaler: Any) -> list[Tensor]:
        model = new_model()
        opt = LessForgetting(SGD(model.parameters(), lr=0.1), scale="absolute", strength=0.5)
        norms = []

        def cut(*_: object) -> None:
            norms.append(clip_grad_norm_(model.parameters(), 0.5).item())

        if clip == "hook":
            opt.register_step_pre_hook(cut)
        for step in range(3):
            backpropagate(model, opt, scaler, step)
            if clip == "between":
                scaler.unscale_(opt)
                opt.solve()
                cut()
            scaler.step(opt)
            scaler.update()
        assert max(norms) > 0.5
        return [*weights(model), torch.tensor(norms)]

    assert_identical(run(GradScaler("cpu", init_scale=SCALE)), run(Identity()))


def test_a_scaler_that_is_switched_off_is_none() -> None:
    assert_identical(trained(GradScaler("cpu", enabled=False), BASES["AdamW"]), trained(Identity(), BASES["AdamW"]))


def test_rows_of_float16_are_refused_as_torch_refuses_them() -> None:
    w = Parameter(torch.ones(2, dtype=torch.float16))
    opt, scaler = LessForgetting(SGD([w])), GradScaler("cpu", init_scale=2.0)
    with opt.constraint("en"):
        scaler.scale(w.sum()).backward()
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaler.step(opt)


def test_groups_are_the_bases_to_whoever_writes_while_rows_wait() -> None:
    w, u = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    groups: list[dict[str, Any]] = [{"params": [w]}, {"params": [u], "lr": 0.5}]
    opt = LessForgetting(SGD(groups, lr=0.25))
    schedule = LambdaLR(opt, lambda step: 0.5**step)
    opt.backward([w.sum() + u.sum()])
    opt.step()
    opt.zero_grad()
    with opt.constraint("en"):
        (w.sum() + u.sum()).backward()
    schedule.step()
    for group, factor in zip(opt.param_groups, (4, 8), strict=True):
        assert sorted(group) == sorted(opt.base.param_groups[0])
        group["lr"] *= factor
    assert [group["lr"] for group in opt.base.param_groups] == [0.5, 2.0]
    assert [len(group["params"]) for group in opt.base.param_groups] == [1, 1]
    opt.step()
    assert opt.param_groups is opt.base.param_groups


# ---------------------------------------------------------------------- autocast


def in_autocast(model: Module, dtype: torch.dtype | None, factor: float) -> dict[str, Callable[[], Tensor]]:
    """Return three losses under autocast, or for None in float64."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    targets = {"en": x[:, :1] + 1, "de": x[:, 1:2] - 1, "fr": x[:, 2:]}

    def loss(target: Tensor) -> Tensor:
        if dtype is None:
            return mse_loss(model(x.double()), target.double()) * factor
        with torch.autocast(x.device.type, dtype=dtype):
            answers = model(x)
        assert answers.dtype == dtype
        return mse_loss(answers.float(), target) * factor

    return {name: partial(loss, target) for name, target in targets.items()}


def rows_of(model: Module, losses: dict[str, Callable[[], Tensor]], scale: float = 1.0) -> Tensor:
    """Return the rows [m, n] in float64, of losses that are scaled before the backward pass."""
    parameters = list(model.parameters())
    rows = [torch.autograd.grad(scale * loss(), parameters) for loss in losses.values()]
    return torch.stack([flat(row) for row in rows]) / scale


TINY = 1e-7  # float16 has no number for gradients of this size


@pytest.mark.parametrize(
    ("dtype", "factor", "scale"),
    [(torch.bfloat16, 1.0, None), (torch.float16, 1.0, None), (torch.float16, TINY, 2.0**20)],
)
def test_autocast_gives_the_direction_of_float64(dtype: torch.dtype, factor: float, scale: float | None) -> None:
    model, twin, exact = new_model().float(), new_model().float(), new_model()
    start, rate = weights(model), 0.125 / factor
    opt = LessForgetting(SGD(model.parameters(), lr=rate))
    scaler = GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    for name, loss in in_autocast(model, dtype, factor).items():
        with opt.constraint(name):
            scaler.scale(loss()).backward()
    scaler.step(opt)

    # Some roundings in two layers, there and back, which mostly cancel: ε is allowed, 0.6 ε was seen.
    J = rows_of(exact, in_autocast(exact, None, factor))
    rounded = rows_of(twin, in_autocast(twin, dtype, factor), scale or 1.0)
    assert ((rounded - J).norm(dim=1) <= torch.finfo(dtype).eps * J.norm(dim=1)).all()
    # From these rows on all is in float32 at least: a rounding of each of three terms, and two of θ.
    d, report = constrained_direction(rounded, strength=0.1, scale="relative")
    assert report.conflicts
    moved = flat(before - after for before, after in zip(start, weights(model), strict=True))
    size = 2 * float(flat(start).norm())
    size += 3 * rate * float(report.multipliers @ report.gradient_norms)
    assert float((moved - rate * d).norm()) <= torch.finfo(torch.float32).eps * size


def test_without_a_scaler_float16_loses_small_gradients() -> None:
    """Or the test above would show nothing."""
    model = new_model().float()
    assert not rows_of(model, in_autocast(model, torch.float16, TINY))[:, :12].any()
