"""What a step is: the direction of the mathematics, from autograd's own rows, in either form, for any base."""

import gc
import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter
from torch.nn.functional import mse_loss, softplus
from torch.nn.init import zeros_
from torch.nn.utils import clip_grad_norm_
from torch.optim import LBFGS, SGD, AdamW
from torch.utils.checkpoint import checkpoint

from mgrad import Anchor, Direction, KeepPace, LessForgetting, MinNorm, Status, Storage, constrained_direction
from tests.training import Base, assert_identical, every_base, flat, gradients, losses, new_model, train, weights

pytestmark = pytest.mark.any_device

# ---------------------------------------------------------------------- a slow, obvious twin


def gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return one row [n], with retained graphs and dense zeros, in float64."""
    return flat(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True))


def obvious(
    constraints: Iterable[Tensor], parameters: Sequence[Tensor], start: Sequence[Tensor], **options: Any
) -> Direction:
    """Stack the rows and ask the function for the direction, with the anchor's gradient θ − θ₀."""
    rows = torch.stack([gradient(loss, parameters) for loss in constraints])
    return constrained_direction(rows, flat(parameters) - flat(start), **options)


def accuracy(direction: Direction) -> float:
    """Bound ‖computed − exact‖: three solves on one another, each from sums of n terms, so n·ε·cond(G) each."""
    report, n = direction.report, len(direction.direction)
    size = float(report.multipliers @ report.gradient_norms) + report.pull * report.objective_norm
    return 3 * n * float(np.finfo(float).eps) * float(np.linalg.cond(report.gramian)) * size


def assert_direction(parameters: Sequence[Tensor], expected: Direction) -> None:
    found = flat([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
    assert float((found - expected.direction).norm()) <= accuracy(expected)


@every_base
def test_every_step_is_the_bases_step_along_the_direction_of_the_twin(base: Base) -> None:
    model, twin, start = new_model(), new_model(), weights(new_model())
    opt, bare = LessForgetting(base(model.parameters()), strength=0.5), base(twin.parameters())
    conflicts = 0
    for step in range(6):
        opt.zero_grad()
        expected = obvious(losses(twin, step).values(), list(twin.parameters()), start, strength=0.5, scale="relative")
        report = opt.backward(losses(model, step))
        assert_direction(list(model.parameters()), expected)
        conflicts += len(report.conflicts)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            q.grad = None if p.grad is None else p.grad.clone()
        opt.step()
        bare.step()
        assert_identical(weights(model), weights(twin))  # the same arithmetic on the same gradient
    assert conflicts


@pytest.mark.parametrize(
    "rule", [KeepPace(rate=0.5, margin=0.0, weights={"en": 1, "de": 2, "fr": 3}), MinNorm(rate=2.0)]
)
@pytest.mark.parametrize(("strength", "scale"), [(0.0, "relative"), (2.0, "relative"), (0.3, "absolute")])
def test_options_reach_the_mathematics(rule: KeepPace | MinNorm, strength: float, scale: Any) -> None:
    model, start = new_model(), [p - 0.1 for p in weights(new_model())]
    opt = LessForgetting(
        SGD(model.parameters(), lr=0.1), anchor=Anchor(start), decrease=rule, strength=strength, scale=scale
    )
    by_order = KeepPace(rate=0.5, margin=0.0, weights=[1, 2, 3]) if isinstance(rule, KeepPace) else rule
    parameters = list(model.parameters())
    expected = obvious(losses(model, 0).values(), parameters, start, decrease=by_order, strength=strength, scale=scale)
    report = opt.backward(losses(model, 0))
    assert_direction(parameters, expected)
    assert report.names == ("en", "de", "fr")
    assert report is opt.report


def test_the_limit_reaches_the_mathematics() -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters(), lr=0.1), limit=0.1)
    assert opt.backward(losses(model, 0)).status is Status.BOUND_ACTIVE


# ---------------------------------------------------------------------- plain fine-tuning


def agreeing(model: Module, step: int) -> dict[str, Tensor]:
    """Return losses whose gradients are ≤ 0 in every coordinate, whatever the weights: none conflicts with another."""
    generator = torch.Generator().manual_seed(step)
    batches = {"en": [8.0, 1.0, 1.0], "de": [1.0, 8.0, 1.0], "fr": [1.0, 1.0, 8.0]}  # well conditioned
    return {
        name: softplus(-model(torch.rand(8, 3, generator=generator) * torch.tensor(scales))).mean()
        for name, scales in batches.items()
    }


@every_base
@pytest.mark.parametrize("options", [{"strength": 0.0}, {"anchor": None}], ids=str)
def test_without_conflict_and_pull_every_step_is_that_of_plain_fine_tuning(base: Base, options: Any) -> None:
    """Bit for bit: the multipliers are 1 to about ε of float64, and so exactly 1 in the float32 of the gradients."""
    model, twin = Linear(3, 1), Linear(3, 1)
    for p in (*model.parameters(), *twin.parameters()):
        zeros_(p)
    opt, bare = LessForgetting(base(model.parameters()), **options), base(twin.parameters())
    for step in range(20):
        opt.zero_grad()
        assert not opt.backward(agreeing(model, step)).conflicts
        opt.step()
        bare.zero_grad()
        for loss in agreeing(twin, step).values():
            loss.backward()
        bare.step()
        assert_identical(weights(model), weights(twin))


@pytest.mark.parametrize("strength", [0.0, 0.1])
def test_a_parameter_that_no_loss_uses_stays_where_it_is_as_in_plain_fine_tuning(strength: float) -> None:
    """As the pooler of an encoder: without a gradient, a base with weight decay leaves it alone."""
    used, unused = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    opt = LessForgetting(AdamW([used, unused], lr=0.1, weight_decay=0.1), strength=strength)
    for _ in range(3):
        opt.zero_grad()
        opt.backward([used.square().sum()])
        opt.step()
    assert unused.tolist() == [1.0, 1.0]
    assert used.tolist() != [1.0, 1.0]


# ---------------------------------------------------------------------- the forms


def by_blocks(model: Module, opt: LessForgetting, step: int) -> None:
    for name in losses(model, step):
        with opt.constraint(name):
            losses(model, step)[name].backward()


def test_blocks_are_the_same_as_backward() -> None:
    model, twin = new_model(), new_model()
    opt, other = LessForgetting(AdamW(model.parameters())), LessForgetting(AdamW(twin.parameters()))
    for step in range(3):
        opt.zero_grad()
        by_blocks(model, opt, step)
        opt.step()
    train(twin, other, range(3))
    assert_identical(weights(model), weights(twin))


def test_micro_batches_are_the_same_as_their_sum() -> None:
    """Bit for bit with two of them: a sum of two is the same in either order."""
    model, twin = new_model(), new_model()
    opt, other = LessForgetting(SGD(model.parameters())), LessForgetting(SGD(twin.parameters()))
    opt.backward({name: loss + losses(model, 1)[name] for name, loss in losses(model, 0).items()})
    for name in ("en", "de", "fr"):
        with other.constraint(name):
            for step in (0, 1):
                losses(twin, step)[name].backward()
    other.solve()
    assert_identical(gradients(model), gradients(twin))


def test_blocks_of_one_name_add_up_in_any_order() -> None:
    model, twin = new_model(), new_model()
    opt, other = LessForgetting(SGD(model.parameters())), LessForgetting(SGD(twin.parameters()))
    for name, step in itertools.product(("en", "de"), (0, 1)):
        with opt.constraint(name):
            losses(model, step)[name].backward()
    for step, name in itertools.product((0, 1), ("en", "de")):
        with other.constraint(name):
            losses(twin, step)[name].backward()
    opt.solve()
    other.solve()
    assert_identical(gradients(model), gradients(twin))


def test_blocks_and_backward_can_be_mixed() -> None:
    model, twin = new_model(), new_model()
    opt, other = LessForgetting(SGD(model.parameters())), LessForgetting(SGD(twin.parameters()))
    with opt.constraint("en"):
        losses(model, 0)["en"].backward()
    opt.backward({name: losses(model, 0)[name] for name in ("de", "fr")})
    other.backward(losses(twin, 0))
    assert_identical(gradients(model), gradients(twin))


def test_declared_constraints_come_in_their_order() -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters()), constraints=["fr", "en", "de"])
    assert opt.backward(losses(model, 0)).names == ("fr", "en", "de")


def test_losses_in_a_sequence_are_named_by_their_place() -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters()))
    assert opt.backward(list(losses(model, 0).values())).names == ("0", "1", "2")


def test_step_solves_where_solve_was_not_called() -> None:
    model, twin = new_model(), new_model()
    opt, other = LessForgetting(SGD(model.parameters())), LessForgetting(SGD(twin.parameters()))
    by_blocks(model, opt, 0)
    by_blocks(twin, other, 0)
    other.solve()
    opt.step()
    other.step()
    assert_identical(weights(model), weights(twin))


def test_gradients_are_those_of_the_step_until_zero_grad() -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters()))
    opt.backward(losses(model, 0))
    direction = gradients(model)
    opt.step()
    assert_identical(gradients(model), direction)


# ---------------------------------------------------------------------- objectives


def elsewhere(model: Module) -> Tensor:
    """Return a loss of another kind, for the objective."""
    return torch.stack([p.abs().sum() for p in model.parameters()]).sum()


@pytest.mark.parametrize("anchored", [True, False])
def test_the_objective_is_added_to_the_anchor(anchored: bool) -> None:
    model, start = new_model(), [p - 0.1 for p in weights(new_model())]
    opt = LessForgetting(
        SGD(model.parameters()), anchor=Anchor(start) if anchored else None, strength=0.2, scale="absolute"
    )
    parameters = list(model.parameters())
    pull = gradient(elsewhere(model), parameters) + (flat(parameters) - flat(start)) * anchored
    rows = torch.stack([gradient(loss, parameters) for loss in losses(model, 0).values()])
    expected = constrained_direction(rows, pull, strength=0.2)
    opt.backward(losses(model, 0), objective=elsewhere(model))
    assert_direction(parameters, expected)


@pytest.mark.parametrize("form", ["backward", "blocks"])
def test_a_plain_backward_outside_is_the_objective(form: str) -> None:
    model, twin = new_model(), new_model()
    opt, other = LessForgetting(SGD(model.parameters())), LessForgetting(SGD(twin.parameters()))
    elsewhere(model).backward()
    if form == "backward":
        opt.backward(losses(model, 0))
    else:
        by_blocks(model, opt, 0)
        opt.solve()
    other.backward(losses(twin, 0), objective=elsewhere(twin))
    assert_identical(gradients(model), gradients(twin))


def test_a_plain_backward_between_the_blocks_is_the_objective_too() -> None:
    model, twin = new_model(), new_model()
    opt, other = LessForgetting(SGD(model.parameters())), LessForgetting(SGD(twin.parameters()))
    for name in ("en", "de", "fr"):
        with opt.constraint(name):
            losses(model, 0)[name].backward()
        if name == "en":
            elsewhere(model).backward()
    opt.solve()
    other.backward(losses(twin, 0), objective=elsewhere(twin))
    assert_identical(gradients(model), gradients(twin))


def test_at_the_start_nothing_pulls_and_the_first_step_moves() -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters(), lr=0.1), strength=10.0)
    start = weights(model)
    report = opt.backward(losses(model, 0))
    opt.step()
    assert (report.objective_norm, report.pull) == (0.0, 0.0)
    assert all(not torch.equal(p, q) for p, q in zip(weights(model), start, strict=True))


def test_a_group_with_anchor_0_is_not_pulled_and_not_remembered() -> None:
    body, head = Parameter(torch.zeros(2)), Parameter(torch.zeros(2))
    groups: list[dict[str, Any]] = [{"params": [body]}, {"params": [head], "anchor": 0.0}]
    opt = LessForgetting(SGD(groups))
    with torch.no_grad():
        body.add_(torch.tensor([3.0, 4.0]))
        head.add_(100.0)
    report = opt.backward([(body + head).sum()])
    assert report.objective_norm == 5.0
    assert list(opt.state_dict()["less_forgetting"]["anchor"]) == [0]


def test_the_anchor_of_a_group_multiplies_its_part() -> None:
    light, heavy = Parameter(torch.zeros(1)), Parameter(torch.zeros(1))
    groups: list[dict[str, Any]] = [{"params": [light]}, {"params": [heavy], "anchor": 4.0}]
    opt = LessForgetting(SGD(groups))
    with torch.no_grad():
        light.add_(3.0)
        heavy.add_(1.0)
    assert opt.backward([(light + heavy).sum()]).objective_norm == 5.0  # of (3, 4·1)


# ---------------------------------------------------------------------- gradients as autograd makes them


def test_on_a_cpu_the_memory_of_a_row_is_kept_until_the_next_of_its_place() -> None:
    """So that it does not go to the system and come back page by page; of other names there are no more."""
    opt = LessForgetting(SGD([w := Parameter(torch.ones(3, device="cpu"))], lr=0.1))
    for name, factor in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        with opt.constraint(name):
            (factor * w).square().sum().backward()
    rows = [weakref.ref(opt._gathering.rows[name][w]) for name in "abc"]
    opt.step()
    opt.zero_grad()
    gc.collect()
    alive = [[row() is not None for row in rows]]
    for name in "cde":
        with opt.constraint(name):
            w.sum().backward()
            gc.collect()
            alive.append([row() is not None for row in rows])
    assert alive == [[False, True, True], [False, True, True], [False, False, True], [False, False, False]]


def test_no_row_is_copied() -> None:
    made: list[int] = []

    def note(parameter: Tensor) -> None:
        assert parameter.grad is not None
        made.append(parameter.grad.data_ptr())

    w = Parameter(torch.ones(3))
    w.register_post_accumulate_grad_hook(note)
    opt = LessForgetting(SGD([w]))
    opt.backward([w.square().sum(), w.exp().sum()])
    assert len(set(made)) == 2
    assert w.grad is not None
    assert w.grad.data_ptr() == made[0]


def test_a_graph_of_its_own_is_freed_before_the_next_loss() -> None:
    w = Parameter(torch.ones(3))
    first, second = w.exp().sum(), w.square().sum()
    freed: list[str] = []

    def try_first(_: Tensor) -> None:
        with pytest.raises(RuntimeError, match="second time") as error:
            torch.autograd.grad(first, w)
        freed.append(str(error.value))

    second.register_hook(try_first)
    LessForgetting(SGD([w])).backward([first, second])
    assert len(freed) == 1


def test_a_shared_trunk_serves_every_loss_and_is_freed_by_the_last() -> None:
    model, twin = new_model(), new_model()
    x = torch.ones(2, 3, dtype=torch.float64)
    trunk = model[:2](x)
    first, second = model[2](trunk).sum(), model[2](trunk).square().sum()
    LessForgetting(SGD(model.parameters())).backward([first, second])
    LessForgetting(SGD(twin.parameters())).backward([twin(x).sum(), twin(x).square().sum()])
    assert_identical(gradients(model), gradients(twin))
    for loss in (first, second):
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()


def test_a_trunk_shared_with_the_objective_serves_both() -> None:
    model = new_model()
    trunk = model[:2](torch.ones(2, 3, dtype=torch.float64))
    report = LessForgetting(SGD(model.parameters())).backward([model[2](trunk).sum()], objective=trunk.square().sum())
    assert report.objective_norm > 0


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_works(reentrant: bool) -> None:
    """A reentrant checkpoint knows `backward` alone: it refuses torch.autograd.grad."""
    model, twin = new_model(), new_model()
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)

    def loss(sign: float) -> Tensor:
        hidden = checkpoint(model[:2], x, use_reentrant=reentrant)
        return mse_loss(model[2](hidden), torch.full((2, 1), sign, dtype=torch.float64))

    LessForgetting(SGD(model.parameters())).backward([loss(1.0), loss(-1.0)])
    LessForgetting(SGD(twin.parameters())).backward(
        [mse_loss(twin(x), torch.full_like(twin(x), sign)) for sign in (1.0, -1.0)]
    )
    assert_identical(gradients(model), gradients(twin))


def test_hooks_on_tensors_change_the_rows() -> None:
    w = Parameter(torch.ones(2))
    w.register_hook(lambda gradient: 3 * gradient)
    assert LessForgetting(SGD([w])).backward([w.sum()]).gramian.tolist() == [[18.0]]


def test_a_parameter_unused_by_a_loss_has_zeros_there() -> None:
    shared, english, german = (Parameter(torch.tensor([float(i), 1.0])) for i in range(3))
    start = [torch.zeros(2)] * 3
    opt = LessForgetting(SGD([shared, english, german]), anchor=Anchor(start), scale="absolute")
    constraints = [(shared * english).sum(), -(shared * german).sum()]
    expected = obvious(constraints, [shared, english, german], start, strength=0.1)
    opt.backward(constraints)
    assert expected.report.conflicts
    # Float32 gradients of few bits; what is combined is rounded once per term: three terms, |terms| ≤ ‖d‖ + …
    found = flat([p.grad for p in (shared, english, german) if p.grad is not None])
    size = float(expected.report.multipliers @ expected.report.gradient_norms) + expected.report.objective_norm
    assert float((found - expected.direction).norm()) <= 3 * torch.finfo(torch.float32).eps * size


def test_a_parameter_without_anchor_and_loss_keeps_no_gradient() -> None:
    used, unused = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    LessForgetting(SGD([used, unused]), anchor=None).backward([used.sum()])
    assert unused.grad is None


def test_frozen_parameters_have_no_gradient_and_do_not_move() -> None:
    model = new_model()
    model[0].requires_grad_(False)
    opt, start = LessForgetting(AdamW(model.parameters(), lr=0.1)), weights(model)
    train(model, opt, range(3))
    assert gradients(model)[:2] == [None, None]
    assert_identical(weights(model)[:2], start[:2])
    assert not torch.equal(weights(model)[2], start[2])


def test_parameters_unfrozen_later_train_and_are_pulled_to_where_they_were_when_wrapped() -> None:
    model = new_model()
    model[0].requires_grad_(False)
    opt, start = LessForgetting(SGD(model.parameters(), lr=0.1), strength=0.5), weights(model)
    train(model, opt, range(2))
    model[0].requires_grad_(True)
    train(model, opt, range(2, 4))
    expected = obvious(losses(model, 4).values(), list(model.parameters()), start, strength=0.5, scale="relative")
    opt.zero_grad()
    opt.backward(losses(model, 4))
    assert_direction(list(model.parameters()), expected)
    assert not torch.equal(weights(model)[0], start[0])


def test_parameters_frozen_later_stay_where_they_are() -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters(), lr=0.1))
    train(model, opt, range(2))
    model[0].requires_grad_(False)
    frozen = weights(model)[:2]
    train(model, opt, range(2, 4))
    assert_identical(weights(model)[:2], frozen)


of_another_type = pytest.mark.skipif(not hasattr(Tensor, "grad_dtype"), reason="torch below 2.10 has no such attribute")


@of_another_type
@pytest.mark.parametrize(
    "options",
    [{}, {"enforce": "step"}, {"solver": "device"}, *({"storage": Storage(rows=kind)} for kind in ("cpu", "sketch"))],
)
def test_a_gradient_has_the_type_that_its_parameter_asks_for(options: dict[str, Any]) -> None:
    """Of bfloat16 parameters whose gradients are to be float32 the direction is not rounded to 8 bits.

    Sketched gradients are weighted by the losses' own passes, in bfloat16.
    """
    w, unread = (Parameter(torch.ones(3, dtype=torch.bfloat16)) for _ in range(2))
    w.grad_dtype = unread.grad_dtype = torch.float32
    opt = LessForgetting(SGD([w, unread], lr=0.1), anchor=None, **options)
    report = opt.backward([256 * w.sum() + 0 * unread.sum(), w.sum()])
    assert w.grad is not None
    assert unread.grad is not None
    assert w.grad.dtype is unread.grad.dtype is torch.float32
    expected = torch.full((3,), 256 * float(report.multipliers[0]) + float(report.multipliers[1]))
    torch.testing.assert_close(w.grad, expected, rtol=2.0 ** (-8 if opt.storage.rows == "sketch" else -22), atol=0)
    opt.step()
    assert w.dtype is torch.bfloat16


@of_another_type
@pytest.mark.parametrize("rows", [None, "bfloat16"])
def test_gradients_of_another_type_add_up_over_blocks_and_come_from_one_pass(rows: Any) -> None:
    layer = torch.nn.Linear(3, 2, dtype=torch.bfloat16)
    for parameter in layer.parameters():
        parameter.grad_dtype = torch.float32
    opt = LessForgetting(SGD(layer.parameters(), lr=0.01), anchor=None, storage=Storage(rows=rows))
    for step in range(6):
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step)).bfloat16()
        opt.zero_grad()
        for name, batch in zip(("en", "de", "en"), inputs.split([1, 2, 1]), strict=True):
            with opt.constraint(name):
                layer(batch).square().sum().backward()
        opt.solve()
        opt.zero_grad()
        opt.backward([part.square().sum() for part in layer(inputs).split(2)], examples=[2, 2])
        assert layer.weight.grad is not None
        assert layer.weight.grad.dtype is torch.float32
        opt.step()


def test_parameters_of_several_dtypes_share_one_direction() -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float64)
    parameters = [Parameter(torch.linspace(-1, 1, 5).to(dtype)) for dtype in dtypes]
    start = [torch.zeros_like(p) for p in parameters]
    opt = LessForgetting(SGD(parameters), anchor=Anchor(start), scale="absolute", strength=0.5)

    def constraints() -> list[Tensor]:
        a, b, c = (p.double() for p in parameters)
        return [(a * b + c).square().sum(), (a - b * c).exp().sum()]

    expected = obvious(constraints(), parameters, start, strength=0.5)
    opt.backward(constraints())
    sizes = [*expected.report.multipliers.tolist(), 0.5]
    rows = torch.stack([*(gradient(loss, parameters) for loss in constraints()), flat(parameters)])
    terms = (torch.tensor(sizes, dtype=torch.float64)[:, None] * rows.abs()).sum(0)
    for p, d, size in zip(parameters, expected.direction.split(5), terms.split(5), strict=True):
        assert p.grad is not None
        assert p.grad.dtype == p.dtype
        # Each of three terms is rounded once and their sum twice, in the parameter's dtype at worst.
        slack = 5 * torch.finfo(p.dtype).eps * size + accuracy(expected)
        assert bool(((p.grad.double() - d).abs() <= slack).all())


def test_loss_scaling_by_a_power_of_two_changes_no_bit() -> None:
    model, twin = new_model(), new_model()
    opt, other = (LessForgetting(SGD(m.parameters(), lr=0.1), strength=0.5) for m in (model, twin))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(3):
        opt.zero_grad()
        opt.backward({name: scaler.scale(loss) for name, loss in losses(model, step).items()})
        scaler.unscale_(opt)
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(opt)
        scaler.update()
        other.zero_grad()
        other.backward(losses(twin, step))
        clip_grad_norm_(twin.parameters(), 1.0)
        other.step()
    assert_identical(weights(model), weights(twin))


def test_nothing_keeps_the_gradients_of_a_step_once_the_model_has_dropped_them() -> None:
    """The gradient of an embedding is as large as the embedding: it must not live through the next forward pass."""
    model = new_model()
    opt = LessForgetting(SGD(model.parameters()))
    train(model, opt, range(1))
    alive = {i for i, _ in enumerate(model.parameters())}
    for i, p in enumerate(model.parameters()):
        assert p.grad is not None
        weakref.finalize(p.grad, alive.discard, i)
    model.zero_grad()
    gc.collect()
    assert alive == set()


# ---------------------------------------------------------------------- closures


@every_base
def test_a_closure_is_the_same_as_backward_and_step(base: Base) -> None:
    model, twin = new_model(), new_model()
    opt, other = LessForgetting(base(model.parameters())), LessForgetting(base(twin.parameters()))

    def closure_of(step: int) -> Callable[[], float]:
        def closure() -> float:
            opt.zero_grad()
            constraints = losses(model, step)
            opt.backward(constraints)
            return sum(loss.item() for loss in constraints.values())

        return closure

    for step in range(3):
        expected = sum(loss.item() for loss in losses(model, step).values())
        assert opt.step(closure_of(step)) == expected
    train(twin, other, range(3))
    assert_identical(weights(model), weights(twin))


def test_a_closure_may_use_blocks() -> None:
    model, twin = new_model(), new_model()
    opt, other = LessForgetting(SGD(model.parameters())), LessForgetting(SGD(twin.parameters()))

    def closure() -> None:
        opt.zero_grad()
        by_blocks(model, opt, 0)

    opt.step(closure)
    train(twin, other, range(1))
    assert_identical(weights(model), weights(twin))


def test_lbfgs_evaluates_the_direction_and_lowers_every_loss() -> None:
    model, start = new_model(), weights(new_model())
    opt = LessForgetting(LBFGS(model.parameters(), lr=0.1, max_iter=5))
    before = {name: loss.item() for name, loss in losses(model, 0).items()}
    seen: list[Direction] = []

    def closure() -> float:
        opt.zero_grad()
        constraints = losses(model, 0)
        parameters = list(model.parameters())
        seen.append(obvious(constraints.values(), parameters, start, strength=0.1, scale="relative"))
        opt.backward(constraints)
        assert_direction(parameters, seen[-1])
        return sum(loss.item() for loss in constraints.values())

    opt.step(closure)
    assert len(seen) > 1
    assert all(loss.item() < before[name] for name, loss in losses(model, 0).items())


# ---------------------------------------------------------------------- gradients that stood there before


def objective_before(bucket: Tensor | None = None) -> Tensor:
    """Return the direction where an objective was backpropagated before a constraint, perhaps into a larger memory."""
    a, b, w = parameters = [Parameter(torch.ones(6)), Parameter(torch.ones(2, 3)), Parameter(torch.ones(3))]
    opt = LessForgetting(SGD(parameters, lr=0.1), anchor=None, strength=0.5, scale="absolute")
    ((a.view(6) + b.view(6)).square().sum() / 2).backward()
    if bucket is not None:
        for parameter, part in zip((a, b), bucket.split(6), strict=True):
            parameter.grad = part.view_as(parameter).copy_(torch.as_tensor(parameter.grad))
    with opt.constraint("w"):
        w.square().sum().backward()
        if bucket is not None:
            bucket.fill_(7.0)  # as the next backward pass through DistributedDataParallel does
    opt.solve()
    return torch.cat([torch.as_tensor(parameter.grad).flatten() for parameter in parameters])


def test_an_objective_backpropagated_before_counts_once_where_its_gradients_share_a_memory() -> None:
    """Autograd leaves a and b one gradient of 2; d is half of it on both, and λ∇f₁ = 2 on w."""
    expected = torch.cat([torch.full((12,), 1.0), torch.full((3,), 2.0)])
    assert torch.equal(objective_before().cpu(), expected.cpu())


def test_an_objective_backpropagated_before_outlives_the_buffer_that_its_gradients_are_parts_of() -> None:
    assert torch.equal(objective_before(torch.zeros(12)), objective_before())


def test_a_parameter_that_is_listed_twice_counts_once() -> None:
    w = Parameter(torch.tensor([1.0, 2.0]))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        opt = LessForgetting(SGD([w, w], lr=0.1), strength=0.0)
    report = opt.backward({"a": (2 * w).sum(), "b": (3 * w).sum()})
    assert report.gramian.tolist() == [[8.0, 12.0], [12.0, 18.0]]
    assert torch.as_tensor(w.grad).tolist() == [5.0, 5.0]
