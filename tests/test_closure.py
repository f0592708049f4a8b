"""`step(closure)`, the closure returning the losses: what is lowered is φ = α·f₀ + Σ λᵢfᵢ of the step's beginning."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import LBFGS, SGD, AdamW, Optimizer

from mgrad import (
    Anchor,
    FisherAnchor,
    HalfBatches,
    LessForgetting,
    MinNorm,
    SmoothGramian,
    Target,
    constrained_direction,
)
from mgrad.problems import LinearRegressions, LogisticRegressions, Problem, Quadratics
from tests.strategies import Problem as Case
from tests.strategies import problems
from tests.training import Base, assert_identical, every_base, flat, losses, new_model, objective, train, weights

pytestmark = pytest.mark.any_device

WOLFE: dict[str, Any] = dict(max_iter=5, line_search_fn="strong_wolfe", tolerance_change=0.0, tolerance_grad=0.0)
EXACT: dict[str, Any] = dict(rtol=0.0, atol=1e-9)


# ---------------------------------------------------------------------- one evaluation


@every_base
@pytest.mark.parametrize("options", [{}, {"enforce": "step"}, {"solver": "device"}, {"noise": SmoothGramian()}])
def test_it_is_the_same_as_backward_and_step(base: Base, options: Any) -> None:
    model, twin, start = new_model(), new_model(), new_model()
    opt, other = (LessForgetting(base(m.parameters()), **options) for m in (model, twin))
    for step in range(4):
        f0 = 0.5 * (flat(weights(model)) - flat(weights(start))).square().sum()
        before = losses(model, step)
        value = opt.step(partial(losses, model, step))
        assert opt.report is not None
        φ = opt.report.pull * f0 + sum(
            λ * f.detach() for λ, f in zip(opt.report.multipliers, before.values(), strict=True)
        )
        assert value.item() == pytest.approx(float(φ), rel=1e-12)
        assert not value.requires_grad
        train(twin, other, [step])
    assert_identical((weights(model), opt.state_dict()), (weights(twin), other.state_dict()))


def test_the_closure_may_call_zero_grad_and_the_loop_need_not() -> None:
    model, twin = new_model(), new_model()
    opt, other = LessForgetting(AdamW(model.parameters())), LessForgetting(AdamW(twin.parameters()))

    def closure(step: int) -> Mapping[str, Tensor]:
        other.zero_grad()
        return losses(twin, step)

    for step in range(3):
        opt.step(partial(losses, model, step))
        other.step(partial(closure, step))
    assert_identical(weights(model), weights(twin))


def test_losses_come_as_backward_takes_them() -> None:
    """In a sequence, with an objective beside them, which may be a function, or in pairs of halves."""
    found = []
    forms: list[Callable[[Module], Any]] = [
        lambda model: (list(losses(model, 0).values()), objective(model)),
        lambda model: (tuple(losses(model, 0).values()), lambda: objective(model)),
        lambda model: [losses(model, 0), objective(model)],
    ]
    for returned in forms:
        model = new_model()
        opt = LessForgetting(SGD(model.parameters(), lr=0.1))
        opt.step(partial(returned, model))
        found.append(weights(model))
    model = new_model()
    opt = LessForgetting(SGD(model.parameters(), lr=0.1))
    opt.backward(losses(model, 0), objective(model))
    opt.step()
    assert_identical(found, [weights(model)] * 3)

    halves, whole = new_model(), new_model()
    opt, other = (LessForgetting(SGD(m.parameters(), lr=0.1), noise=HalfBatches()) for m in (halves, whole))

    def pairs(model: Module) -> list[Any]:
        return list(zip(losses(model, 0).values(), losses(model, 1).values(), strict=True))[:2]

    opt.step(lambda: pairs(halves))
    other.backward(pairs(whole))
    other.step()
    assert_identical(weights(halves), weights(whole))


# ---------------------------------------------------------------------- several evaluations

OPTIONS: dict[str, dict[str, Any]] = {
    "relative": {},
    "absolute": {"scale": "absolute"},
    "loose": {"anchor": None},
    "normalised": {"normalise": "gradient"},
    "target": {"decrease": Target([0.25, 0.5, 0.75]), "scale": "absolute"},
    "shortest": {"decrease": MinNorm(rate=2.0)},
}


def by_hand(model: Module, base: LBFGS, steps: int, options: dict[str, Any], *, shared: bool) -> list[Any]:
    """Let the bare base lower φ written out, its multipliers from the function alone; yield φ, f and f₀ of the ends."""
    parameters, start = list(model.parameters()), flat(weights(model))
    options = dict(options)
    anchored = options.pop("anchor", True) is not None
    found = []

    def forgetting() -> Tensor:
        way = torch.cat([p.flatten() for p in parameters]) - start
        own = 0.5 * way.square().sum() if anchored else 0.0 * way.sum()
        return own + objective(model) if shared else own

    for step in range(steps):
        rows = [torch.autograd.grad(loss, parameters) for loss in losses(model, step).values()]
        J = torch.stack([flat(row) for row in rows])
        g0 = flat(torch.autograd.grad(forgetting(), parameters))
        values = [loss.item() for loss in losses(model, step).values()]
        _, report = constrained_direction(J, g0, losses=values, strength=0.3, **{"scale": "relative", **options})

        def φ(step: int = step, report: Any = report) -> Tensor:
            terms = zip(report.multipliers, losses(model, step).values(), strict=True)
            total: Tensor = report.pull * forgetting() + sum(λ * f for λ, f in terms)
            return total

        def closure(φ: Callable[[], Tensor] = φ) -> float:
            base.zero_grad()
            φ().backward()
            return φ().item()

        begun = φ().item(), values, forgetting().item()
        base.step(closure)
        ended = φ().item(), [loss.item() for loss in losses(model, step).values()], forgetting().item()
        found.append((report, begun, ended))
    return found


@pytest.mark.parametrize("shared", [False, True], ids=["anchor", "objective"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_lbfgs_lowers_the_lagrangian_of_the_beginning(options: dict[str, Any], shared: bool) -> None:
    """As the bare LBFGS lowers it when it is written out, evaluations and all."""
    model, twin = new_model(), new_model()
    opt = LessForgetting(LBFGS(model.parameters(), **WOLFE), strength=0.3, **options)
    base = LBFGS(twin.parameters(), **WOLFE)
    steps = by_hand(twin, base, 4, options, shared=shared)

    def evaluated(step: int) -> Any:
        return (losses(model, step), objective(model)) if shared else losses(model, step)

    for step, (report, begun, ended) in enumerate(steps):
        found = losses(model, step)
        value = opt.step(partial(evaluated, step))
        assert value.item() == pytest.approx(begun[0], rel=1e-9)
        assert opt.report is not None
        torch.testing.assert_close(opt.report.multipliers, report.multipliers, **EXACT)
        # Armijo's half of strong Wolfe: φ has fallen, so the losses in the prices λ fell by more than α·f₀ rose.
        assert ended[0] < begun[0]
        fallen = sum(λ * (f.item() - g) for λ, f, g in zip(report.multipliers, found.values(), ended[1], strict=True))
        assert fallen > report.pull * (ended[2] - begun[2]) - 1e-12
    torch.testing.assert_close(weights(model), weights(twin), **EXACT)
    evaluations = [o.state_dict()["state"][0]["func_evals"] for o in (opt, base)]
    assert evaluations[0] == evaluations[1] > 8


class Twice(Optimizer):
    """A base that evaluates twice where it stands, and notes the gradient."""

    def __init__(self, parameter: Tensor) -> None:
        super().__init__([parameter], {"lr": 1.0})
        self.seen: list[Tensor] = []
        self.values: list[float] = []

    def step(self, closure: Any = None) -> Any:
        """Evaluate."""
        for _ in range(2):
            self.values.append(closure().item())
            self.seen.append(self.param_groups[0]["params"][0].grad.clone())


@given(
    problems(rows=(1, 5), columns=(1, 6)),
    st.sampled_from([None, "gradient"]),
    st.sampled_from(["active_set", "device"]),
)
@settings(max_examples=50)
def test_the_direction_is_the_gradient_of_what_is_lowered(case: Case, kind: Any, solver: Any) -> None:
    """For rows of every kind and size, up to the rounding of a sum of m + 1 terms in either order."""
    J, start = torch.from_numpy(case.J), torch.from_numpy(case.p)
    w = Parameter(torch.zeros_like(start))
    base = Twice(w)
    opt = LessForgetting(base, anchor=Anchor([-start]), scale="absolute", normalise=kind, solver=solver)
    opt.step(lambda: [w @ row for row in J])
    assert opt.report is not None
    first, second = base.seen
    sizes = torch.from_numpy(opt.report.multipliers @ np.abs(case.J)) + opt.report.pull * start.abs()
    assert ((first - second).abs() <= (len(J) + 1) * torch.finfo(torch.float64).eps * sizes).all()
    assert base.values[0] == base.values[1] == pytest.approx(0.1 * 0.5 * float(start @ start), rel=1e-12)


def test_of_two_halves_it_is_their_mean() -> None:
    """At a second evaluation where the first was: its value and gradient, up to sums of four terms in either order."""
    J, w = (
        torch.tensor([[[1.0, 0.0, 1.0], [1.0, 2.0, 1.0]], [[0.0, 1.0, 3.0], [-2.0, 1.0, 0.0]]]),
        Parameter(torch.ones(3)),
    )
    base = Twice(w)
    opt = LessForgetting(base, noise=HalfBatches())
    opt.step(lambda: [(w @ first, w @ second) for first, second in J])
    assert opt.report is not None
    first, second = base.seen
    torch.testing.assert_close(second, first, rtol=4 * torch.finfo(torch.float32).eps, atol=0.0)
    means = J.mean(1).sum(1).tolist()  # w is of ones, and where it began
    expected = sum(λ * f for λ, f in zip(opt.report.multipliers, means, strict=True))
    assert base.values == pytest.approx([expected] * 2, rel=1e-12)


def test_with_one_loss_and_no_pull_it_is_the_bare_lbfgs() -> None:
    model, twin = new_model(), new_model()
    opt, bare = LessForgetting(LBFGS(model.parameters(), **WOLFE), strength=0.0), LBFGS(twin.parameters(), **WOLFE)

    def closure() -> float:
        bare.zero_grad()
        loss = losses(twin, 0)["en"]
        loss.backward()
        return loss.item()

    for _ in range(4):
        assert opt.step(lambda: [losses(model, 0)["en"]]).item() == bare.step(closure)
    assert_identical((weights(model), opt.state_dict()["state"]), (weights(twin), bare.state_dict()["state"]))


@pytest.mark.parametrize("kind", ["anchor", "fisher", "sum", "group"])
def test_the_value_of_the_anchor_has_its_gradient(kind: str) -> None:
    """Or no line search could end: its slopes would be those of another function."""
    model = new_model()
    generator = torch.Generator().manual_seed(1)
    fisher = {name: torch.rand(p.shape, generator=generator) for name, p in model.named_parameters()}
    anchors = {"fisher": FisherAnchor(fisher, model), "sum": 0.5 * Anchor() + FisherAnchor(fisher, model)}
    share = 0.25 if kind == "group" else 1.0
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "anchor": share}]
    opt = LessForgetting(SGD(groups, lr=1e-6), anchor=anchors.get(kind, Anchor()), scale="absolute", strength=0.5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    value = opt.step(lambda: losses(model, 0))
    assert opt.report is not None
    d2 = opt.report.direction_norm**2
    φ = sum(λ * f.item() for λ, f in zip(opt.report.multipliers, losses(model, 0).values(), strict=True))
    where = list(model.parameters())
    for p, factor in zip(where, anchors.get(kind, Anchor()).weights(where), strict=True):
        φ += opt.report.pull * share * 0.5 * float(((p.detach() - opt.start[p]).square() * factor).sum())
    # A step of 1e-6 along d: −η‖d‖² to first order, and ½η²‖H‖‖d‖² more, where ‖H‖ is less than 20.
    assert value.item() - φ == pytest.approx(1e-6 * d2, rel=1e-5)


PROBLEMS: list[Problem] = [
    Quadratics.random(6, 3, condition=10.0, seed=0),
    LinearRegressions.random([9, 9, 9], 5, seed=0),
    LinearRegressions.random([40, 40, 40, 40], 30, seed=1),
    LogisticRegressions.random([9, 9, 9], 5, seed=0),
]


@pytest.mark.parametrize(("strength", "reached"), [(0.0, 1e-4), (0.1, 1e-3)])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_ten_steps_of_torchs_own_length_reach_the_pareto_set(problem: Any, strength: float, reached: float) -> None:
    """To where the bound on the multipliers, 10⁴, lets it come (math.md, Proposition 23)."""
    theta = Parameter(problem.starts[0].clone())
    opt = LessForgetting(LBFGS([theta], line_search_fn="strong_wolfe", tolerance_grad=1e-12), strength=strength)
    for _ in range(10):
        opt.step(lambda: list(problem.losses(theta)))
    assert opt.report is not None
    assert opt.report.relative_strong_stationarity <= reached


def test_with_one_iteration_a_step_the_memory_of_lbfgs_is_of_other_multipliers_and_it_halts() -> None:
    """Why the docs ask for five at least (math.md, after Proposition 25)."""
    theta = Parameter(PROBLEMS[0].starts[0].clone())
    opt = LessForgetting(LBFGS([theta], **{**WOLFE, "max_iter": 1}))
    for _ in range(50):
        opt.step(lambda: list(PROBLEMS[0].losses(theta)))
    assert opt.report is not None
    assert opt.report.relative_strong_stationarity > 0.1


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(("form", "found"), [("backward", "a direction"), ("block", r"\['en'\]")])
def test_losses_that_are_backpropagated_already_are_refused(form: str, found: str) -> None:
    model = new_model()
    opt = LessForgetting(SGD(model.parameters()))

    def closure() -> Mapping[str, Tensor]:
        if form == "backward":
            opt.backward(losses(model, 0))
        else:
            with opt.constraint("en"):
                losses(model, 0)["en"].backward()
        return losses(model, 0)

    with pytest.raises(RuntimeError, match=rf"`opt.step\(closure\)` must backpropagate the losses .* {found} already"):
        opt.step(closure)


def test_other_losses_at_a_later_evaluation_are_refused() -> None:
    model = new_model()
    opt = LessForgetting(LBFGS(model.parameters(), **WOLFE))
    names = iter(["en", "de"])
    with pytest.raises(ValueError, match=r"must evaluate the same losses .* Found \['de'\] after \['en'\]"):
        opt.step(lambda: {(name := next(names)): losses(model, 0)[name]})


def test_a_later_objective_that_is_none_is_refused() -> None:
    model = new_model()
    opt = LessForgetting(LBFGS(model.parameters(), **WOLFE))
    objectives = iter([objective(model), torch.ones(2, requires_grad=True)])
    with pytest.raises(ValueError, match=r"objective=\.\.\.\)` must be a scalar\. Found shape \[2\]"):
        opt.step(lambda: (losses(model, 0), next(objectives)))


@pytest.mark.parametrize("enforce", ["gradient", "step"])
def test_an_error_at_a_later_evaluation_leaves_no_gradients(enforce: Any) -> None:
    """The next step begins as any other, in either form."""
    w = Parameter(torch.ones(2))
    opt = LessForgetting(Twice(w), enforce=enforce)
    calls = iter(range(2))

    def closure() -> list[Tensor]:
        if next(calls) == 1:
            raise KeyError("mine")
        return [w.sum(), w.square().sum()]

    with pytest.raises(KeyError, match="mine"):
        opt.step(closure)
    assert w.grad is None
    assert opt.backward([w.sum()]).gramian.tolist() == [[2.0]]
    opt.zero_grad()
    opt.step(lambda: [w.sum(), w.square().sum()])


def test_what_is_no_loss_is_refused_before_anything_is_changed() -> None:
    model = new_model()
    opt, before = LessForgetting(LBFGS(model.parameters(), **WOLFE)), weights(model)
    with pytest.raises(TypeError, match=r"must be a tensor\. Found float"):
        opt.step(lambda: {"en": 1.0})
    assert_identical(weights(model), before)
