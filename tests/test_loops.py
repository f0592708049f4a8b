"""What stands around a step in other loops: compilation, checkpoints, tied weights, 16 bits, averages; by hand too."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Embedding, Linear, Module
from torch.nn.functional import cross_entropy, linear, mse_loss
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from mgrad import LessForgetting, constrained_direction
from tests.training import assert_identical, flat, losses, new_model, set_direction, train, weights

pytestmark = pytest.mark.any_device

STRENGTH = 0.3


def by_hand(parameters: Sequence[Tensor], base: Optimizer, steps: Iterable[Callable[[], Mapping[str, Tensor]]]) -> None:
    """Train by the mathematics alone: each step is a function that returns the losses."""
    start = [p.detach().clone() for p in parameters]
    for step in steps:
        set_direction(parameters, step().values(), start, strength=STRENGTH)
        base.step()


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor], atol: float = 1e-12) -> None:
    torch.testing.assert_close([p.detach() for p in found], [p.detach() for p in expected], rtol=0.0, atol=atol)


# ---------------------------------------------------------------------- torch.compile

# Without a compiler of C++ or Triton at hand: graphs are captured, and run by torch.
COMPILED: dict[str, Any] = {"backend": "aot_eager"}


def compiled(base: Any) -> Any:
    """Compile the step of an optimizer."""
    base.step = torch.compile(base.step, **COMPILED)
    return base


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Forget compiled functions before and after."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    ("part", "form"),
    [*itertools.product(["model", "base", "both"], ["backward", "blocks"]), ("model", "closure")],
)
def test_compiled_it_takes_the_steps_of_the_loop_by_hand(part: str, form: str) -> None:
    model, twin = new_model(), new_model()
    own = SGD(model.parameters(), lr=0.05, momentum=0.9)
    opt = LessForgetting(own if part == "model" else compiled(own), strength=STRENGTH)
    fast: Any = torch.compile(model, **COMPILED) if part != "base" else model
    for step in range(5):
        if form == "closure":
            opt.step(partial(losses, fast, step))
            continue
        opt.zero_grad()
        if form == "backward":
            opt.backward(losses(fast, step))
        else:
            for name in ("en", "de", "fr"):
                with opt.constraint(name):
                    losses(fast, step)[name].backward()
        opt.step()
    parameters = list(twin.parameters())
    base = SGD(parameters, lr=0.05, momentum=0.9)
    by_hand(parameters, base, [partial(losses, twin, step) for step in range(5)])
    assert_close(weights(model), parameters)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("enforce", ["gradient", "step"])
def test_a_compiled_base_is_not_compiled_again(enforce: Any) -> None:
    """As it would be if every step registered something with it."""
    model = new_model()
    opt = LessForgetting(compiled(SGD(model.parameters(), lr=0.05, momentum=0.9)), enforce=enforce)
    train(model, opt, range(3))
    with torch._dynamo.config.patch(error_on_recompile=True):
        train(model, opt, range(3, 6))


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_adam_is_the_bare_compiled_adam_along_the_direction() -> None:
    """Compiled, Adam corrects its bias in float32: in float64 that is seen, and is not the wrapper's."""
    model, twin = new_model(), new_model()
    opt = LessForgetting(compiled(AdamW(model.parameters(), lr=0.01)), strength=STRENGTH)
    train(model, opt, range(5))
    parameters = list(twin.parameters())
    by_hand(parameters, compiled(AdamW(parameters, lr=0.01)), [partial(losses, twin, step) for step in range(5)])
    assert_close(weights(model), parameters)


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_trunk_serves_several_heads() -> None:
    model, twin = new_model(), new_model()
    x = torch.ones(2, 3, dtype=torch.float64)
    for net, trunk in ((model, torch.compile(model[:2], **COMPILED)), (twin, twin[:2])):
        opt, hidden = LessForgetting(SGD(net.parameters(), lr=0.1)), trunk(x)
        opt.backward([net[2](hidden).sum(), net[2](hidden).square().sum()])
        opt.step()
    assert_close(weights(model), weights(twin))


# ---------------------------------------------------------------------- activation checkpointing, tied weights


class Tied(Module):
    """A language model of one layer whose output table is its input table."""

    def __init__(self, *, checkpointed: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.table, self.body = Embedding(7, 4, dtype=torch.float64), Linear(4, 4, dtype=torch.float64)
        self.head = Linear(4, 7, bias=False, dtype=torch.float64)
        self.head.weight = self.table.weight
        self.checkpointed = checkpointed

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.table(tokens)
        if self.checkpointed:
            hidden = checkpoint(lambda x: self.body(x).tanh(), embedded, use_reentrant=False)
        else:
            hidden = self.body(embedded).tanh()
        logits: Tensor = self.head(hidden)
        return logits


def next_tokens(answers: Callable[[Tensor], Tensor], step: int) -> dict[str, Tensor]:
    """Return losses of predicting the next token, and in "de" the token before."""
    tokens = torch.randint(7, (3, 6), generator=torch.Generator().manual_seed(step))
    pairs = {"en": (tokens[:, :-1], tokens[:, 1:]), "de": (tokens[:, 1:], tokens[:, :-1])}
    return {name: cross_entropy(answers(x).flatten(0, 1), y.flatten()) for name, (x, y) in pairs.items()}


@pytest.mark.parametrize("checkpointed", [False, True])
def test_tied_weights_are_one_parameter_with_the_gradients_of_both_places(checkpointed: bool) -> None:
    """Against a model that is written out with one table; with and without its activations kept."""
    model = Tied(checkpointed=checkpointed)
    assert len(list(model.parameters())) == 3
    opt = LessForgetting(AdamW(model.parameters(), lr=0.05), strength=STRENGTH)
    assert len(opt.start) == 3
    for step in range(6):
        opt.zero_grad()
        opt.backward(next_tokens(model, step))
        opt.step()

    other = Tied()
    table, weight, bias = (p.detach().clone().requires_grad_() for p in other.parameters())

    def answers(tokens: Tensor) -> Tensor:
        return linear(linear(table[tokens], weight, bias).tanh(), table)

    base = AdamW([table, weight, bias], lr=0.05)
    by_hand([table, weight, bias], base, [partial(next_tokens, answers, step) for step in range(6)])
    assert_close([p.detach() for p in model.parameters()], [table, weight, bias], atol=1e-9)
    assert model.head.weight is model.table.weight


# ---------------------------------------------------------------------- parameters of 16 bits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mixed", [False, True])
def test_every_step_of_16_bit_parameters_is_that_of_float64_rounded(dtype: torch.dtype, mixed: bool) -> None:
    """To a rounding of the direction and one of the weights; mixed: the last layer is of float32."""
    model = new_model().to(dtype)
    if mixed:
        model[2].float()
    opt, start = LessForgetting(SGD(model.parameters(), lr=0.5), strength=STRENGTH), weights(model)

    def regressions(step: int) -> dict[str, Tensor]:  # which share a graph
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        answers = model[2](model[:2](x.to(dtype)).to(model[2].weight.dtype)).float()
        return {"en": mse_loss(answers, x[:, :1] + 1), "de": mse_loss(answers, x[:, 1:2] - 1)}

    conflicts = 0
    for step in range(6):
        parameters, before = list(model.parameters()), weights(model)
        rows = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in regressions(step).values()]
        J = torch.stack([flat(row) for row in rows])
        moved = flat(p - old for p, old in zip(before, start, strict=True))  # in the parameters' own types
        d, report = constrained_direction(J, moved, strength=STRENGTH, scale="relative")
        conflicts += len(report.conflicts)
        opt.zero_grad()
        opt.backward(regressions(step))
        opt.step()
        sizes = torch.as_tensor(report.multipliers) @ J.abs() + report.pull * moved.abs()
        parts = zip(parameters, before, d.split([p.numel() for p in parameters]), strict=True)
        rest = sizes
        for p, old, part in parts:
            size, rest = rest[: p.numel()].view_as(p), rest[p.numel() :]
            exact = old.double() - 0.5 * part.view_as(p)
            # d is rounded to the parameter's type, and so is the new weight.
            ε = torch.finfo(p.dtype).eps
            assert ((p.detach().double() - exact).abs() <= ε * (0.5 * size + exact.abs())).all()
            assert p.dtype == old.dtype
    assert conflicts


# ---------------------------------------------------------------------- averages of weights


@pytest.mark.parametrize("kind", ["swa", "ema"])
def test_averages_of_weights_are_those_of_the_loop_by_hand(kind: str) -> None:
    decay = 0.75
    model, twin = new_model(), new_model()
    opt = LessForgetting(SGD(model.parameters(), lr=0.1), strength=STRENGTH)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay) if kind == "ema" else None)
    schedule = SWALR(opt, swa_lr=0.05, anneal_epochs=3)
    for step in range(6):
        train(model, opt, [step])
        average.update_parameters(model)
        schedule.step()

    parameters = list(twin.parameters())
    base = SGD(parameters, lr=0.1)
    other, path, start = SWALR(base, swa_lr=0.05, anneal_epochs=3), [], copy.deepcopy(parameters)
    for step in range(6):
        set_direction(parameters, losses(twin, step).values(), start, strength=STRENGTH)
        base.step()
        other.step()
        path.append(flat(parameters))
    expected = path[0]
    for point in path[1:]:
        expected = decay * expected + (1 - decay) * point
    if kind == "swa":
        expected = torch.stack(path).mean(0)
    assert (flat(average.module.parameters()) - expected).abs().max() <= 1e-12
    assert opt.param_groups[0]["lr"] == base.param_groups[0]["lr"]
    assert_identical(list(opt.start.values()), weights(new_model()))


def test_a_model_may_be_averaged_into_place_between_steps() -> None:
    """What is written into the weights moves θ, and neither θ₀ nor the base's state."""
    model = new_model()
    opt = LessForgetting(AdamW(model.parameters(), lr=0.1), strength=STRENGTH)
    average = AveragedModel(model)
    train(model, opt, range(3))
    average.update_parameters(model)
    train(model, opt, range(3, 5))
    model.load_state_dict(average.module.state_dict())
    opt.zero_grad()
    report = opt.backward(losses(model, 5))
    distance = (flat(model.parameters()) - flat(weights(new_model()))).norm()
    assert report.objective_norm == pytest.approx(float(distance), rel=1e-12)


def test_the_optimizer_serves_any_module() -> None:
    """Frozen, tied and of several groups at once, with a buffer and a module that is not trained."""
    body, head, idle = Linear(3, 4).double(), Linear(4, 1).double(), nn.BatchNorm1d(4).double()
    body.bias.requires_grad_(False)
    groups: Any = [{"params": [*body.parameters(), *idle.parameters()]}, {"params": head.parameters(), "lr": 0.2}]
    opt = LessForgetting(SGD(groups, lr=0.1), strength=STRENGTH)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moving = [body.weight, *head.parameters()]
    twin = [p.detach().clone().requires_grad_() for p in moving]

    def found(weight: Tensor, last: Tensor, bias: Tensor) -> dict[str, Tensor]:
        answers = linear(linear(x, weight, body.bias).tanh(), last, bias)
        return {"en": mse_loss(answers, x[:, :1] + 1), "de": mse_loss(answers, x[:, 1:2] - 1)}

    before = [p.detach().clone() for p in (body.bias, *idle.parameters())]
    for _ in range(4):
        opt.zero_grad()
        opt.backward(found(*moving))
        opt.step()
    apart: Any = [{"params": twin[:1]}, {"params": twin[1:], "lr": 0.2}]
    by_hand(twin, SGD(apart, lr=0.1), [lambda: found(*twin)] * 4)
    assert_close([p.detach() for p in moving], twin)
    assert_identical([p.detach() for p in (body.bias, *idle.parameters())], before)
