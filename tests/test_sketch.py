"""Sketches estimate inner products without bias and to their bound; a step made with them is a true combination."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.functional import embedding
from torch.optim import LBFGS, SGD

from mgrad import Anchor, LessForgetting, NoIncrease, SmoothGramian, Status, Storage
from mgrad.sketch import Sketch, Vectors, sketched_gramian
from tests.training import assert_identical

SPARSE = Storage(rows="sketch", sketch=1 << 16)


def estimate(J: list[list[Tensor]], parameters: list[Tensor], size: int, seed: int) -> Tensor:
    sketch, vectors = Sketch(size, parameters, seed), list[Vectors]()
    for row in J:
        vector: Vectors = {}
        for parameter, block in zip(parameters, row, strict=True):
            sketch.add(vector, parameter, block)
        vectors.append(vector)
    return sketched_gramian(vectors)


@pytest.mark.parametrize("size", [1, 8, 64])
@pytest.mark.parametrize("kind", ["normal", "constant", "one each"])
@pytest.mark.parametrize("piece", [1 << 17, 16, 1])
def test_products_are_unbiased_and_spread_no_more_than_the_bound(
    size: int, kind: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(125): the mean over N sketches is within 6 of its deviations √(2c/N), the mean square error at most 2c.

    In one piece, and in several, to more than the bits of a word, that share their places.
    """
    monkeypatch.setattr("mgrad.sketch._PIECE", piece)
    parameters: list[Tensor] = [torch.zeros(40), torch.zeros(5, 3)]
    generator, N = torch.Generator().manual_seed(0), 600
    J = [[torch.randn(p.shape, generator=generator) for p in parameters] for _ in range(3)]
    if kind == "constant":
        J = [[torch.full_like(b, 1.0 + i) for b in row] for i, row in enumerate(J)]
    if kind == "one each":  # in different blocks: their product is only noise
        for i, row in enumerate(J):
            for k, block in enumerate(row):
                block.zero_().view(-1)[0] = float(k == i % 2)
    flat = torch.stack([torch.cat([b.reshape(-1) for b in row]) for row in J]).double()
    exact, lengths = flat @ flat.T, flat.norm(dim=1)
    errors = (
        torch.stack([estimate(J, parameters, size, seed) - exact for seed in range(N)]) / lengths / lengths[:, None]
    )
    bound = 2 * (1 / size + 1 / piece)
    assert errors.mean(0).abs().max() <= 6 * math.sqrt(bound / N)
    # The mean of N squares is within 6 of its own deviations; a fourth moment is at most 81 times the squared second.
    assert (errors**2).mean(0).max() <= bound * (1 + 6 * 9 / math.sqrt(N))


@given(st.integers(0, 2**32 - 1), st.floats(-12, 12))
@settings(max_examples=10)
def test_of_large_gradients_too_forms_are_right_to_the_bound(seed: int, power: float) -> None:
    """(126), with ε = 0.3: it fails with a probability of 2cK²/ε² = 1.3 % at most."""
    generator = torch.Generator().manual_seed(seed)
    parameters: list[Tensor] = [torch.zeros(300_001), torch.zeros(7, 11)]
    J = [[10.0**power * torch.randn(p.shape, generator=generator) for p in parameters] for _ in range(5)]
    J[1] = [x + 0.01 * y for x, y in zip(J[0], J[1], strict=True)]
    flat = torch.stack([torch.cat([b.reshape(-1) for b in row]) for row in J]).double()
    found = estimate(J, parameters, 1 << 16, seed)
    values = torch.linalg.eigvals(torch.linalg.solve(flat @ flat.T, found)).real
    assert (values - 1).abs().max() <= 0.3


def test_a_sketch_is_linear_and_the_same_for_every_type_and_order() -> None:
    parameters: list[Tensor] = [torch.zeros(200_000), torch.zeros(3)]
    sketch = Sketch(100, parameters, 3)
    x = torch.randint(-4, 5, (200_000,)).float()
    once: Vectors = {}
    twice: Vectors = {}
    sketch.add(once, parameters[0], 3 * x)
    sketch.add(once, parameters[1], torch.ones(3))
    sketch.add(twice, parameters[1], torch.ones(3, dtype=torch.float64))
    sketch.add(twice, parameters[0], x.half())
    sketch.add(twice, parameters[0], 2 * x.bfloat16())
    (one,), (other,) = once.values(), twice.values()
    assert torch.equal(one, other)


class Problem:
    """A network with dropout on a batch for each of three losses."""

    def __init__(self, storage: Storage | None, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 200), nn.Tanh(), nn.Dropout(0.5), nn.Linear(200, 4))
        self.unused = Parameter(torch.ones(2))
        parameters = [*self.model.parameters(), self.unused]
        options = {"strength": 0.5, **options}
        self.opt = LessForgetting(SGD(parameters, lr=0.1), storage=storage, **options)
        self.data = [(torch.randn(20, 6), torch.randint(4, (20,))) for _ in range(3)]
        self.calls = 0

    def loss(self, i: int) -> Callable[[], Tensor]:
        def call() -> Tensor:
            self.calls += 1
            x, y = self.data[i]
            return nn.functional.cross_entropy(self.model(x), y)

        return call

    @property
    def gradient(self) -> Tensor:
        return torch.cat([p.grad.reshape(-1) for p in self.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("functions", [True, False])
def test_the_direction_is_the_combination_of_the_true_gradients(functions: bool) -> None:
    """With the dropout of the first call: d = Σ λᵢgᵢ + αg₀ of the rows that the other road keeps, after equal steps."""
    sketched, kept = Problem(SPARSE), Problem(None)
    for step in range(3):
        torch.manual_seed(step)
        kept.opt.zero_grad()
        rows, report = [], None
        for i in range(3):
            loss = kept.loss(i)()
            rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(kept.model.parameters()))]))
        drawn = torch.get_rng_state()
        g0 = torch.cat([(p - kept.opt.start[p]).reshape(-1) for p in kept.model.parameters()]).detach()
        torch.manual_seed(step)
        sketched.opt.zero_grad()
        given = {f"{i}": sketched.loss(i) if functions else sketched.loss(i)() for i in range(3)}
        report = sketched.opt.backward(given)
        assert torch.equal(torch.get_rng_state(), drawn)  # what is drawn again is not gone
        assert report.status is Status.OPTIMAL
        expected = report.pull * g0
        for factor, row in zip(report.multipliers, rows, strict=True):
            expected = expected + float(factor) * row
        assert torch.allclose(sketched.gradient, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        assert sketched.unused.grad is None
        # (127) with ε = 0.15: J d ≥ b − ε‖gᵢ‖‖d‖
        J = torch.stack(rows).double()
        slack = 0.15 * J.norm(dim=1) * expected.norm()
        assert (J @ sketched.gradient.double() >= torch.as_tensor(report.decrease) - slack).all()
        sketched.opt.step()
        for p, q in zip(kept.model.parameters(), sketched.model.parameters(), strict=True):
            p.data.copy_(q)
    assert sketched.calls == (9 + 9 if functions else 9)


@pytest.mark.parametrize("functions", [True, False])
def test_parameters_of_another_optimizer_get_the_gradient_of_the_sum(functions: bool) -> None:
    """Once, and not once more by the weights of the second pass."""
    ours, other = Parameter(torch.tensor([1.0, 2.0])), Parameter(torch.tensor([3.0, 4.0]))
    opt = LessForgetting(SGD([ours], lr=0.1), storage=SPARSE)
    losses: list[Callable[[], Tensor]] = [lambda: (ours * other).sum(), lambda: (ours + 2 * other).square().sum()]
    other.grad = before = torch.ones(4)[1:3]  # part of a memory of the user's
    opt.backward([loss if functions else loss() for loss in losses])
    expected = 1 + torch.autograd.grad(losses[0]() + losses[1](), other)[0]
    assert torch.equal(other.grad, expected)
    assert other.grad is before


def test_no_gradient_is_kept_between_the_passes() -> None:
    problem = Problem(SPARSE)
    seen = []
    for p in problem.model.parameters():
        p.register_post_accumulate_grad_hook(
            lambda _: seen.append(sum(q.grad is not None for q in problem.model.parameters()))
        )
    problem.opt.backward([problem.loss(i) for i in range(3)])
    assert seen[:12] == [1] * 12


def noted(calls: list[str], name: str, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return a loss that notes when it is called."""

    def call() -> Tensor:
        calls.append(name)
        return loss()

    return call


def test_a_multiplier_of_0_saves_the_second_pass() -> None:
    w, u = Parameter(torch.tensor([1.0, 1.0])), Parameter(torch.tensor(1.0))
    calls = list[str]()
    options: dict[str, Any] = {"strength": 1.0, "scale": "absolute", "storage": SPARSE}
    opt = LessForgetting(SGD([w, u], lr=0.1), anchor=None, decrease=NoIncrease(), **options)
    losses = {"a": noted(calls, "a", lambda: w[0] + u), "b": noted(calls, "b", lambda: w[1] * 1.0)}
    opt.backward(losses, objective=w[0] - w[1])
    assert calls == ["a", "b", "b"]
    assert w.grad is not None
    assert w.grad.tolist() == [1.0, 0.0]
    assert u.grad is not None  # it took part, and stays where it is
    assert u.grad.item() == 0.0


def test_random_numbers_go_on_from_the_first_passes() -> None:
    """Also where the last loss has no second pass."""
    w = Parameter(torch.tensor([1.0, 1.0]))
    options: dict[str, Any] = {"strength": 1.0, "scale": "absolute", "storage": SPARSE}
    opt = LessForgetting(SGD([w], lr=0.1), anchor=None, decrease=NoIncrease(), **options)
    torch.manual_seed(0)
    torch.rand(2)
    expected = torch.rand(1)
    torch.manual_seed(0)
    report = opt.backward([lambda: w[1] * (1 + torch.rand(())), lambda: w[0] * (1 + torch.rand(()))], w[0] - w[1])
    assert (report.multipliers > 0).tolist() == [True, False]
    assert torch.equal(torch.rand(1), expected)


def test_objectives_of_all_kinds_are_part_of_the_direction() -> None:
    """A plain backward pass before, a loss and the anchor: αg₀ has all three, with λ = 0 as nothing is required."""
    w = Parameter(torch.tensor([1.0, 2.0]))
    opt = LessForgetting(SGD([w], lr=0.1), anchor=Anchor(), scale="absolute", strength=2.0, storage=SPARSE)
    with torch.no_grad():
        w.add_(1.0)
    (3 * w[0]).backward()
    report = opt.backward([lambda: -w.sum() * 1e-3], objective=lambda: 5 * w[1])
    assert w.grad is not None
    assert report.pull == 2.0
    expected = 2.0 * torch.tensor([4.0, 6.0]) - float(report.multipliers[0]) * 1e-3
    assert torch.allclose(w.grad, expected)


def test_a_step_may_lack_a_constraint() -> None:
    problem = Problem(SPARSE, constraints=["en", "de", "fr"], missing=True)
    report = problem.opt.backward({"fr": problem.loss(0), "en": problem.loss(1)})
    assert report.names == ("en", "fr")


def test_an_objective_is_not_asked_for_where_a_loss_is_none() -> None:
    """As `Replay` goes on by a batch when it is called."""
    problem, calls = Problem(SPARSE), list[str]()
    losses: Any = [1.0]
    with pytest.raises(TypeError, match="must be a tensor"):
        problem.opt.backward(losses, noted(calls, "objective", lambda: torch.ones(())))
    assert not calls


def test_a_pass_that_fails_is_no_step_of_a_mean() -> None:
    w, numbers = Parameter(torch.ones(2)), iter([1, 2])
    opt = LessForgetting(SGD([w], lr=0.1), storage=SPARSE, noise=SmoothGramian())
    before = opt.state_dict()
    with pytest.raises(ValueError, match="returns the same loss"):
        opt.backward([lambda: w.sum() * next(numbers)])
    assert_identical(opt.state_dict(), before)


def test_a_closure_returns_losses_that_lbfgs_lowers_and_functions_are_refused() -> None:
    """With one parameter a sketch is exact: the steps are those of rows that are kept."""
    found = []
    for storage in (SPARSE, None):
        w = Parameter(torch.tensor([3.0], dtype=torch.float64))
        opt = LessForgetting(LBFGS([w], line_search_fn="strong_wolfe", max_iter=5), storage=storage)
        value = [opt.step(lambda: {"a": (w - 1).square().sum(), "b": (w + 1).pow(4).sum()}) for _ in range(3)]  # noqa: B023
        found.append([w.detach(), *value])
    torch.testing.assert_close(*found)
    before = w.detach().clone()
    w.grad = torch.ones_like(w)
    opt = LessForgetting(SGD([w], lr=0.1), storage=SPARSE)
    with pytest.raises(TypeError, match=r"must be a tensor\. Found function\. Pass what it returns"):
        opt.step(lambda: [lambda: w.square().sum()])
    assert w.tolist() == before.tolist()
    assert w.grad is not None


def drawn(w: Parameter) -> Callable[[], Tensor]:
    """Return a loss that goes on by a batch whenever it is called."""
    numbers = itertools.count(1)
    return lambda: w.sum() * next(numbers)


def sparse(w: Parameter) -> Tensor:
    return embedding(torch.zeros(1, dtype=torch.long), w, sparse=True).sum()


Call = Callable[[Any, Parameter], object]
# What is asked for, the error, and what it says.
REFUSED: dict[str, tuple[Call, type[Exception], str]] = {
    "drawn": (lambda opt, w: opt.backward([drawn(w)]), ValueError, "returns the same loss whenever it is called"),
    "nan": (lambda opt, w: opt.backward([lambda: w.sum() * torch.nan]), FloatingPointError, "finite. Found nan"),
    "gradient not finite": (
        lambda opt, w: opt.backward([w.sum(), lambda: (w - 1).clamp(min=0).sqrt().sum()]),
        FloatingPointError,
        r"gradient of .*'1'.* must be finite",
    ),
    "constant": (lambda opt, w: opt.backward([lambda: torch.ones(())]), ValueError, "must need a gradient"),
    "number": (lambda opt, w: opt.backward([lambda: 1.0]), TypeError, "must be a tensor. Found float"),
    "of nothing here": (
        lambda opt, w: opt.backward([lambda: torch.ones((), requires_grad=True).exp()]),
        ValueError,
        r"must find a gradient\. Found none: it depends on none",
    ),
    "sparse": (lambda opt, w: opt.backward([sparse(w)]), TypeError, "must find dense gradients. Found a sparse one"),
    "examples": (
        lambda opt, w: opt.backward([w.sum()], examples=[1]),
        ValueError,
        r"examples=\[1\]\)` must keep the rows that one pass makes\. Found Storage",
    ),
    "objective is nan": (
        lambda opt, w: opt.backward([w.sum()], objective=w.sum() * torch.nan),
        FloatingPointError,
        r"objective=\.\.\.\)` must be finite\. Found nan",
    ),
    "objective of nothing here": (
        lambda opt, w: opt.backward([w.sum()], objective=lambda: torch.ones((), requires_grad=True).exp()),
        ValueError,
        r"objective=\.\.\.\)` must find a gradient\. Found none",
    ),
    "gradient of the objective not finite": (
        lambda opt, w: opt.backward([w.sum()], objective=(w - 1).clamp(min=0).sqrt().sum()),
        FloatingPointError,
        "gradient of the objective must be finite",
    ),
    "block": (lambda opt, w: opt.constraint("a").__enter__(), RuntimeError, r"keeps none\. Pass functions"),
}


@pytest.mark.parametrize(("call", "error", "text"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_says_so_and_changes_nothing(call: Call, error: type[Exception], text: str) -> None:
    w = Parameter(torch.ones(2, 1))
    opt = LessForgetting(SGD([w], lr=0.1), storage=SPARSE)
    w.grad = outside = torch.zeros(2, 1)
    before = opt.state_dict()
    with pytest.raises(error, match=text):
        call(opt, w)
    assert w.grad is outside
    assert not outside.any()
    assert opt.report is None
    assert_identical(opt.state_dict(), before)


@pytest.mark.parametrize(
    ("names", "message"), [(("en",), r"must hold every one .* Found no \['de'\]"), (("en", "es"), "unknown name 'es'")]
)
def test_constraints_are_those_that_were_promised(names: tuple[str, ...], message: str) -> None:
    w, calls = Parameter(torch.ones(2)), list[str]()
    opt = LessForgetting(SGD([w], lr=0.1), storage=SPARSE, constraints=("en", "de"))
    with pytest.raises(ValueError, match=message):
        opt.backward({name: noted(calls, name, w.sum) for name in names})
    assert not calls


def test_a_sparse_gradient_of_the_objective_is_refused() -> None:
    w = Parameter(torch.ones(2, 1))
    sparse(w).backward()
    opt, before = LessForgetting(SGD([w], lr=0.1), storage=SPARSE), w.grad
    with pytest.raises(TypeError, match=r"`objective_loss\.backward\(\)` must find dense gradients"):
        opt.backward([w.sum()])
    assert w.grad is before


def test_a_direction_in_grad_is_not_taken_for_a_gradient() -> None:
    w = Parameter(torch.ones(2))
    opt = LessForgetting(SGD([w], lr=0.1), storage=SPARSE)
    opt.backward([w.sum()])
    with pytest.raises(RuntimeError, match=r"must come after `opt\.step\(\)` or `opt\.zero_grad\(\)`"):
        opt.backward([w.sum()])


def test_every_step_has_a_sketch_of_its_own() -> None:
    """Or the errors of one would add up: of the same gradients the next has another estimate."""
    w, found = Parameter(torch.ones(50)), []
    opt = LessForgetting(SGD([w], lr=0.0), anchor=None, storage=Storage(rows="sketch", sketch=8))
    for _ in range(3):
        opt.zero_grad()
        found.append(float(opt.backward([w.sum(), w[::2].sum()]).gramian[0, 1]))
        opt.step()
    assert len(set(found)) == 3


def test_a_run_goes_on_with_the_sketches_to_come() -> None:
    def step(problem: Problem, k: int) -> None:
        torch.manual_seed(k)
        problem.opt.zero_grad()
        problem.opt.backward([problem.loss(i) for i in range(3)])
        problem.opt.step()

    few = Storage(rows="sketch", sketch=50)
    one, other = Problem(few), Problem(few)
    step(one, 0)
    other.model.load_state_dict(one.model.state_dict())
    other.opt.load_state_dict(one.opt.state_dict())
    for problem in (one, other):
        step(problem, 1)
    assert one.opt.report is not None
    assert other.opt.report is not None
    assert one.opt.report.gramian.tolist() == other.opt.report.gramian.tolist()
    SGD([*one.model.parameters(), one.unused], lr=0.1).load_state_dict(one.opt.state_dict())
