"""Forgetting objectives: their gradients are those of their formulas, and the Fisher information that of the model."""

from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import Linear, Parameter
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div, log_softmax
from tqdm import tqdm
from transformers import BertConfig, BertForSequenceClassification

from mgrad import Anchor, Distillation, FisherAnchor, LessForgetting, Replay, estimate_fisher, mask_tokens
from mgrad.distillation import Measure
from tests.training import assert_identical, weights

F64 = torch.float64


def gradients(opt: LessForgetting, loss: Tensor, strength: float = 1.0) -> list[Tensor]:
    """Return the objective's part of the direction: what a constraint without a gradient of its own leaves of it."""
    opt.zero_grad()
    opt.backward([loss])
    return [torch.as_tensor(p.grad) for group in opt.param_groups for p in group["params"]]


# ---------------------------------------------------------------- closed forms


@given(st.integers(0, 2**16), st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([1.0, 0.25]))
def test_a_sum_of_anchors_pulls_as_autograd_says(seed: int, factor: float, group: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = Parameter(torch.randn(5, dtype=F64, generator=generator))
    first, second, fisher = (torch.rand(5, dtype=F64, generator=generator) for _ in range(3))
    fisher[0] = 0.0
    anchor = (
        factor * Anchor([first])
        + FisherAnchor({"w": fisher}, nn.ParameterDict({"w": w}), [second])
        + 0.5 * Anchor([second])
    )
    base = torch.optim.SGD([{"params": [w], "anchor": group}], lr=0.1)
    opt = LessForgetting(base, anchor=anchor, strength=1.0, scale="absolute")
    (found,) = gradients(opt, 0.0 * w.sum())
    f0 = 0.5 * group * (factor * (w - first) ** 2 + (fisher + 0.5) * (w - second) ** 2).sum()
    (expected,) = torch.autograd.grad(f0, w)
    size = group * (factor + fisher + 0.5) * (w.detach().abs() + first + second)
    assert ((found - expected).abs() <= 16 * torch.finfo(F64).eps * size).all()


def test_the_centre_of_a_sum_is_as_exact_as_its_parts() -> None:
    w, ones = Parameter(torch.zeros(2, dtype=F64)), torch.ones(2, dtype=F64)
    (centre,) = (Anchor([ones]) + 0.1 * Anchor([0 * ones])).start([w])
    assert ((centre - 1 / 1.1).abs() <= 4 * torch.finfo(F64).eps).all()  # 0.1 has no float32


def test_an_anchor_of_where_the_weights_stand_costs_one_copy_however_many_are_summed() -> None:
    w = Parameter(torch.ones(3))
    fisher = FisherAnchor({"w": torch.rand(3)}, nn.ParameterDict({"w": w}))
    (start,) = (Anchor() + fisher).start([w])
    assert torch.equal(start, w.detach())


def test_fisher_anchor_survives_a_checkpoint() -> None:
    def build(model: Linear) -> LessForgetting:
        anchor = FisherAnchor({name: torch.full_like(p, 3.0) for name, p in model.named_parameters()}, model)
        return LessForgetting(torch.optim.SGD(model.parameters(), lr=0.1), anchor=anchor)

    def train(model: Linear, opt: LessForgetting) -> None:
        for _ in range(3):
            opt.zero_grad()
            opt.backward([model(torch.ones(2)).square().sum(), (model(torch.ones(2)) - 1).square().sum()])
            opt.step()

    model = Linear(2, 2)
    opt = build(model)
    train(model, opt)
    other = Linear(2, 2)
    other.load_state_dict(model.state_dict())
    resumed = build(other)
    resumed.load_state_dict(opt.state_dict())
    copied_model, copied = deepcopy((model, opt))
    for one, optimizer in ((model, opt), (other, resumed), (copied_model, copied)):
        train(one, optimizer)
    assert_identical(weights(other), weights(model))
    assert_identical(weights(copied_model), weights(model))


def test_a_batch_that_is_no_pair_is_refused() -> None:
    model = Linear(3, 2)
    wrong: list[Any] = [{"input": torch.ones(4, 3), "labels": torch.zeros(4)}, torch.ones(2, 3)]
    for batch in wrong:
        with pytest.raises(TypeError, match=r"must have pairs of inputs and labels\. Found"):
            estimate_fisher(model, [batch])


def test_wrong_fisher_informations_are_refused() -> None:
    model = nn.ParameterDict({"w": Parameter(torch.ones(2)), "v": Parameter(torch.ones(3))})
    with pytest.raises(TypeError, match="must be a mapping from names to tensors"):
        FisherAnchor([torch.ones(2)], model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must have finite values ≥ 0"):
        FisherAnchor({"w": torch.tensor([1.0, -1.0])}, model)
    with pytest.raises(ValueError, match=r"Found shape \[2\] of the model's for 'w' of shape \[3\]"):
        FisherAnchor({"w": torch.ones(3)}, model)
    with pytest.raises(ValueError, match="Found no such parameter for 'u'"):
        FisherAnchor({"u": torch.ones(2)}, model)
    anchor = FisherAnchor({"w": torch.ones(2)}, model)
    with pytest.raises(ValueError, match=r"Found none for number 0, of shape \[3\]"):
        LessForgetting(torch.optim.SGD(model.parameters(), lr=0.1), anchor=anchor)
    with pytest.raises(ValueError, match="must have a factor ≥ 0"):
        -1.0 * Anchor()
    opt = LessForgetting(torch.optim.SGD([model["w"]], lr=0.1), anchor=anchor)
    with pytest.raises(ValueError, match="must have a value for every anchored parameter"):
        opt.add_param_group({"params": [model["v"]]})
    assert len(opt.param_groups) == 1
    assert list(opt.start) == [model["w"]]
    opt.add_param_group({"params": [model["v"]], "anchor": 0.0})


def test_the_order_of_names_does_not_matter() -> None:
    model = nn.ParameterDict({"b": Parameter(torch.ones(2)), "a": Parameter(torch.ones(2))})
    values = {"a": torch.zeros(2), "b": torch.ones(2)}
    found = FisherAnchor(values, model).weights([model["b"], model["a"]])
    assert_identical(found, [values["b"], values["a"]])


# ---------------------------------------------------------------- Fisher information


def logistic(n: int = 7) -> tuple[Linear, Tensor, Tensor]:
    """Return a logistic model with three classes, inputs and labels."""
    torch.manual_seed(n)
    return Linear(4, 3, dtype=F64), torch.randn(n, 4, dtype=F64), torch.randint(3, (n,))


def test_true_fisher_of_a_logistic_model_is_its_closed_form() -> None:
    model, x, y = logistic()
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    found = estimate_fisher(model, batches, kind="true", chunk=3)
    p = model(x).softmax(-1).detach()
    # ∂ log p(c)/∂W_k = (1[c = k] − p_k)x, whose square has the mean p_k(1 − p_k)x².
    shares = p * (1 - p)
    torch.testing.assert_close(found["weight"], shares.T @ x.square() / len(x), rtol=1e-12, atol=0)
    torch.testing.assert_close(found["bias"], shares.mean(0), rtol=1e-12, atol=0)


def test_empirical_fisher_is_the_mean_square_of_the_gradients_of_single_examples() -> None:
    model, x, y = logistic()
    y[2] = -100
    found = estimate_fisher(model, [({"input": x}, y)])
    squares = torch.zeros_like(model.weight)
    for one, label in zip(x, y, strict=True):
        if label >= 0:
            squares += torch.autograd.grad(cross_entropy(model(one), label), model.weight)[0].square()
    torch.testing.assert_close(found["weight"], squares / len(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("chunk", [None, 1])
def test_fisher_takes_any_mapping(chunk: int | None) -> None:
    model, x, y = logistic()
    found, same = (estimate_fisher(model, [(inputs, y)], chunk=chunk) for inputs in (UserDict(input=x), x))
    assert_identical(found, same)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fisher_in_16_bits_is_a_mean_over_any_number_of_batches(dtype: torch.dtype) -> None:
    model, x, y = logistic()
    batch = (x[:1].to(dtype), y[:1])
    few, many = (estimate_fisher(model.to(dtype), n * [batch], chunk=1)["bias"] for n in (1, 400))
    # The mean of equal numbers in float32, 400·2⁻²⁴ from them: one rounding of either result.
    torch.testing.assert_close(many, few, rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fisher_of_small_scores_pulls_in_16_bits(dtype: torch.dtype) -> None:
    """F is some 1e-9, of which float16 holds nothing, and so is the pull of it."""
    torch.manual_seed(0)
    model = Linear(4, 3, bias=False).to(dtype)
    model.weight.data = (torch.randint(-8, 9, (3, 4)) / 16).to(dtype)
    fisher = estimate_fisher(model, [((1e-4 * torch.randn(8, 4)).to(dtype), torch.zeros(8, dtype=torch.int64))])
    F = fisher["weight"]
    assert 0 < F.max() < 2.0**-26
    opt = LessForgetting(torch.optim.SGD(model.parameters(), lr=1.0), anchor=FisherAnchor(fisher, model), strength=1.0)
    with torch.no_grad():
        model.weight += 2.0**-6  # exactly, of sixteenths
    report = opt.backward([model(torch.ones(4, dtype=dtype)).sum()])
    away = 2.0**-6 * F.double()
    assert report.objective_norm == pytest.approx(float(away.norm()), rel=2.0**-22)
    direction = torch.as_tensor(model.weight.grad).double()
    pull = direction - report.multipliers[0]  # the gradient is 1 everywhere
    error = torch.finfo(dtype).eps / 2 * float(direction.norm())  # what `.grad` is rounded by
    assert float((pull - 12**0.5 * away / away.norm()).norm()) <= 1.01 * error


def test_sampled_fisher_is_the_true_one_on_the_average() -> None:
    model, x, y = logistic(2)
    many = 4000
    exact = estimate_fisher(model, [(x, y)], kind="true")["bias"]
    generator = torch.Generator().manual_seed(0)
    found = estimate_fisher(model, [(x.repeat(many, 1), y.repeat(many))], kind="sampled", generator=generator)["bias"]
    # The square of a score is in [0, 1], so that its mean over 2·many draws has a standard deviation of ½/√(2·many).
    assert ((found - exact).abs() <= 5 * 0.5 / (2 * many) ** 0.5).all()


def test_fisher_of_token_labels_sums_over_the_tokens_that_count() -> None:
    torch.manual_seed(0)
    model = Linear(3, 5, dtype=F64)
    x, y = torch.randn(4, 6, 3, dtype=F64), torch.randint(5, (4, 6))
    y[:, 4:] = -100
    found = estimate_fisher(model, [((x,), y)], progress=tqdm)["bias"]
    squares = torch.zeros(5, dtype=F64)
    for one, labels in zip(x, y, strict=True):
        loss = cross_entropy(model(one), labels, reduction="sum")
        squares += torch.autograd.grad(loss, model.bias)[0].square()
    torch.testing.assert_close(found, squares / 4, rtol=1e-12, atol=0)


def test_a_model_that_asks_for_values_is_taken_one_example_at_a_time() -> None:
    """A transformer of transformers looks whether a mask hides anything, which vmap forbids."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    model = BertForSequenceClassification(BertConfig(**sizes, num_labels=3)).double()
    ids, mask = torch.randint(20, (4, 5)), torch.tensor([[1, 1, 1, 0, 0], [1] * 5, [1, 1, 0, 0, 0], [1] * 5])
    labels = torch.tensor([0, 1, 2, 0])
    data = [({"input_ids": ids, "attention_mask": mask}, labels)]

    def logits(call: Callable[..., Any], inputs: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = call(**inputs).logits
        return found

    with pytest.raises(RuntimeError, match="Pass chunk=1"):
        estimate_fisher(model, data, logits=logits)
    found = estimate_fisher(model, data, logits=logits, chunk=1)
    model.eval()
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for i in range(4):
        model.zero_grad()
        cross_entropy(model(ids[i : i + 1], mask[i : i + 1]).logits, labels[i : i + 1]).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                expected[name] += parameter.grad.square() / 4
    for name, value in found.items():
        # Gradients to the rounding of a layer or two, squared.
        assert torch.allclose(value, expected[name], rtol=1e-10, atol=1e-14), name


def test_the_model_is_left_as_it_was_and_dropout_is_off() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[2].eval()
    model[0].bias.requires_grad_(False)
    batches = [(torch.randn(5, 3), torch.randint(2, (5,)))]
    before = weights(model)
    first, second = (estimate_fisher(model, batches) for _ in range(2))
    assert_identical(first, second)
    assert list(first) == ["0.weight", "2.weight", "2.bias"]
    assert [module.training for module in model] == [True, True, False]
    assert_identical(weights(model), before)
    assert all(p.grad is None for p in model.parameters())


def test_fisher_is_saved_and_loaded(tmp_path: Path) -> None:
    model, x, y = logistic()
    fisher = estimate_fisher(model, [(x, y)])
    save_file(fisher, tmp_path / "fisher.safetensors")
    loaded = load_file(tmp_path / "fisher.safetensors")
    assert_identical({name: loaded[name] for name in fisher}, fisher)


def test_wrong_estimates_are_refused() -> None:
    model, x, y = logistic()
    with pytest.raises(ValueError, match="must see an example"):
        estimate_fisher(model, [])
    with pytest.raises(ValueError, match='must be "empirical", "true" or "sampled"'):
        estimate_fisher(model, [(x, y)], kind="exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must have one label for each example"):
        estimate_fisher(model, [(x[:, None], y[:, None])], kind="true")
    assert model.training


# ---------------------------------------------------------------- distillation


def moved(seed: int = 0) -> tuple[nn.Sequential, nn.Sequential, Tensor]:
    """Return a model in training with dropout, what it was, and inputs."""
    torch.manual_seed(seed)
    start = nn.Sequential(Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), Linear(6, 4)).double()
    model = deepcopy(start)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, start, torch.randn(5, 3, dtype=F64)


def test_an_anchor_of_a_tiny_factor_keeps_the_teacher_and_leaves_the_direction_to_the_objective() -> None:
    """docs/how-to.md. Its pull is 10⁻⁹(θ − θ₀), with entries of some 10⁻¹⁰; the reference is the objective alone."""
    directions = []
    for tiny in (True, False):
        model, start, x = moved()
        opt = LessForgetting(torch.optim.SGD(start.parameters(), lr=0.1), anchor=1e-9 * Anchor() if tiny else None)
        before = dict(zip(start.parameters(), (p.detach().clone() for p in start.parameters()), strict=True))
        start.load_state_dict(model.state_dict())
        distillation = Distillation(start, opt.start if tiny else before)
        opt.backward([start(x).square().mean()], objective=distillation(x))
        directions.append(torch.cat([torch.as_tensor(p.grad).flatten() for p in start.parameters()]))
    pulled, alone = directions
    assert torch.allclose(pulled, alone, rtol=0, atol=1e-6 * float(alone.norm()))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_is_what_torch_computes(temperature: float) -> None:
    model, start, x = moved()
    model.eval()
    start.eval()
    outputs, target = model(x), start(x).detach()
    students, teachers = (log_softmax(o / temperature, -1) for o in (outputs, target))
    expected = {
        "kl": temperature**2 * kl_div(students, teachers, log_target=True, reduction="batchmean"),
        "mse": (outputs - target).square().mean(),
        "cosine": (1 - cosine_similarity(outputs, target)).mean(),
    }
    for measure, loss in expected.items():
        distillation = Distillation(model, start, measure=measure, temperature=temperature)  # type: ignore[arg-type]
        found = torch.autograd.grad(distillation(x), list(model.parameters()))
        wanted = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_all_teachers_say_the_same_and_the_model_stays_as_it_is() -> None:
    model, start, x = moved()
    held = {p: q.detach() for p, q in zip(model.parameters(), start.parameters(), strict=True)}

    @contextmanager
    def as_it_was() -> Iterator[None]:
        now = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for p, q in zip(model.parameters(), start.parameters(), strict=True):
                p.copy_(q)
        yield
        with torch.no_grad():
            for p, value in zip(model.parameters(), now, strict=True):
                p.copy_(value)

    found = []
    for teacher in (start, held, as_it_was):
        student = model
        buffers, before = deepcopy(dict(student.named_buffers())), weights(student)
        distillation = Distillation(student, teacher)
        with distillation._teaching() as call:
            answer = call(x)
        assert_identical(dict(student.named_buffers()), buffers)
        assert_identical(weights(student), before)
        assert all(module.training for module in student.modules())
        found.append(answer.detach())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert all(p.grad is None for p in start.parameters())


def test_under_autocast_a_context_teaches_what_the_model_was_and_the_model_learns() -> None:
    model, start, x = moved()
    model, start, x = model.float(), start.float(), x.float()

    @contextmanager
    def as_it_was() -> Iterator[None]:
        now = deepcopy(model.state_dict())
        model.load_state_dict(start.state_dict())
        yield
        model.load_state_dict(now)

    found = []
    for teacher in (start, as_it_was):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            model(x)  # casts are cached
            loss = Distillation(model, teacher)(x)
        loss.backward()
        assert loss.item() > 0
        found.append([loss.detach(), *(torch.as_tensor(p.grad) for p in model.parameters())])
    assert_identical(found[1], found[0])


def test_tied_weights_have_one_start() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(7, 4), Linear(4, 7, bias=False)
            self.head.weight = self.words.weight

        def forward(self, ids: Tensor) -> Tensor:
            return torch.as_tensor(self.head(self.words(ids)))

    model, ids = Tied(), torch.arange(7)
    start, opt = deepcopy(model), LessForgetting(torch.optim.SGD(model.parameters(), lr=0.1))
    with torch.no_grad():
        model.words.weight.mul_(1.5)
    loss = Distillation(model, opt.start)(ids)
    assert loss.item() > 0
    assert torch.equal(loss, Distillation(model, start)(ids))


def test_outputs_of_16_bits_are_compared_in_32() -> None:
    torch.manual_seed(0)
    z = (3 * torch.randn(8, 1000)).bfloat16()
    later = (z + 0.05 * torch.randn_like(z)).bfloat16()
    loss = Distillation(nn.Identity(), nn.Identity())._apart(later, z).mean()
    student, teacher = (x.double().log_softmax(-1) for x in (later, z))
    exact = (teacher.exp() * (teacher - student)).sum(-1).mean()
    # log p of size 20 is known to 20·2⁻²³ in float32, p·log p summed to as much, beside a KL of 10⁻³ or more.
    assert exact >= 1e-3
    assert abs(loss.item() - exact.item()) <= 1e-2 * exact.item()


def test_logits_of_any_offset_are_as_far_apart() -> None:
    """Multiples of 1/64, which float32 still holds beside 8192: the offset is exact, and so must be what is left."""
    student, teacher = (torch.randint(-256, 256, (4, 9)) / 64 for _ in range(2))
    distillation = Distillation(nn.Identity(), nn.Identity())
    near = distillation._apart(student, teacher)
    assert torch.equal(distillation._apart(student + 8192, teacher - 8192), near)
    torch.testing.assert_close(near, distillation._apart(student.double(), teacher.double()).float())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("measure", ["kl", "mse", "cosine"])
def test_at_the_start_nothing_is_forgotten_and_nothing_pulls(measure: Measure, dtype: torch.dtype) -> None:
    """Nothing to the digit: a relative pull makes a whole one of any gradient, also of one that is rounding."""
    model = Linear(3, 4, dtype=dtype)
    opt = LessForgetting(torch.optim.SGD(model.parameters(), lr=0.1))
    distillation = Distillation(model, opt.start, measure=measure, temperature=1.7)
    x = torch.randn(6, 3, dtype=dtype)
    loss = distillation(x)
    assert abs(loss.item()) <= 8 * torch.finfo(dtype).eps
    assert opt.backward([model(x).square().sum()], objective=loss).objective_norm == 0.0


def test_a_key_keeps_the_teacher_s_outputs_and_a_mask_leaves_tokens_out() -> None:
    model, start = Linear(3, 4), Linear(3, 4)
    x, mask = torch.randn(2, 5, 3), torch.ones(2, 5)
    mask[:, 3:] = 0
    distillation = Distillation(model, start)
    first = distillation(x, mask=mask, key="batch 0")
    torch.testing.assert_close(first, distillation(x[:, :3]))
    with torch.no_grad():
        start.weight.zero_()
    assert torch.equal(distillation(x, mask=mask, key="batch 0"), first)
    assert not torch.equal(distillation(x, mask=mask), first)
    assert distillation(x, mask=torch.zeros(2, 5)).item() == 0.0


def test_wrong_distillations_are_refused() -> None:
    model = Linear(2, 2)
    with pytest.raises(TypeError, match="must have a module, starting weights or a function"):
        Distillation(model, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='must be "kl", "mse" or "cosine"'):
        Distillation(model, model, measure="l1")  # type: ignore[arg-type]
    for weights_of_none in ({}, model.state_dict(), {p: p.detach() for p in Linear(2, 2).parameters()}):
        with pytest.raises(ValueError, match="must have starting weights by the model's parameters"):
            Distillation(model, weights_of_none)
    with pytest.raises(ValueError, match="must be positive and finite"):
        Distillation(model, model, temperature=0.0)


# ---------------------------------------------------------------- replay, functions


def test_replay_goes_over_its_batches_and_a_function_is_an_objective() -> None:
    w = Parameter(torch.tensor([2.0]))
    replay = Replay(lambda batch: (w * batch).sum(), [torch.tensor([1.0]), torch.tensor([3.0])])
    opt = LessForgetting(torch.optim.SGD([w], lr=0.0), anchor=None, strength=1.0, scale="absolute")
    pulls = []
    for _ in range(3):
        opt.zero_grad()
        opt.backward([0.0 * w.sum()], objective=replay)
        pulls.append(torch.as_tensor(w.grad).item())
    assert pulls == [1.0, 3.0, 1.0]


def test_tied_weights_are_taught_by_their_start() -> None:
    """Against a copy of the model as it was."""
    model = nn.Sequential(Linear(3, 3), nn.Tanh(), Linear(3, 3))
    model[2].weight = model[0].weight
    before = deepcopy(model)
    opt = LessForgetting(torch.optim.SGD(model.parameters(), lr=0.1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    inputs = torch.randn(5, 3)
    assert torch.equal(Distillation(model, opt.start)(inputs), Distillation(model, before)(inputs))


def test_what_is_masked_out_of_a_softmax_does_not_count() -> None:
    """Of logits of −∞ on both sides: the KL of the others alone, and finite gradients."""
    masked = torch.tensor([False, True, False, False])

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Linear(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.layer(x).masked_fill(masked, -torch.inf)
            return logits

    model, inputs = Masked(), torch.randn(3, 2)
    teacher = deepcopy(model)
    with torch.no_grad():
        model.layer.weight.add_(torch.randn(4, 2))
    loss = Distillation(model, teacher)(inputs)
    loss.backward()
    student, taught = (m(inputs)[:, ~masked].log_softmax(-1) for m in (model, teacher))
    torch.testing.assert_close(loss, kl_div(student, taught, reduction="batchmean", log_target=True))
    assert model.layer.weight.grad is not None
    assert model.layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("returned", [None, 3.0])
def test_a_function_must_return_a_loss(returned: Any) -> None:
    w = Parameter(torch.ones(2))
    opt = LessForgetting(torch.optim.SGD([w], lr=0.1))
    with pytest.raises(TypeError, match=r"objective=\.\.\.\)` must be a tensor. Found (NoneType|float)"):
        opt.backward([w.sum()], objective=lambda: returned)
    opt.backward([w.sum()])  # as if nothing had been
    assert w.grad is not None
    assert w.grad.tolist() == [1.0, 1.0]


def test_a_function_is_called_only_when_nothing_else_is_wrong() -> None:
    w = Parameter(torch.tensor([2.0]))
    calls: list[int] = []

    def objective() -> Tensor:
        calls.append(len(calls))
        return w.sum()

    opt = LessForgetting(torch.optim.SGD([w], lr=0.1), constraints=["en"])
    for losses in ({"en": 2.0}, {"en": torch.stack([w, w])}, {"de": w.sum()}):
        with pytest.raises((TypeError, ValueError)):
            opt.backward(losses, objective=objective)  # type: ignore[arg-type]
    with opt.constraint("en"), pytest.raises(RuntimeError, match="must not be inside a constraint"):
        w.sum().backward()
        opt.backward({"en": w.sum()}, objective=objective)
    with pytest.raises(ValueError, match="must name a constraint that has no gradients yet"):
        opt.backward({"en": w.sum()}, objective=objective)
    opt.step()
    with pytest.raises(RuntimeError, match=r"must come after `opt\.zero_grad"):
        opt.backward({"en": w.sum()}, objective=objective)
    assert not calls
    opt.zero_grad()
    opt.backward({"en": w.sum()}, objective=objective)
    assert calls == [0]


def test_replay_says_when_there_is_nothing_left() -> None:
    replay = Replay(lambda batch: batch, iter([torch.ones(())]))
    replay()
    with pytest.raises(ValueError, match="must have batches that can be gone through again"):
        replay()


def test_masking_hides_the_share_that_it_says() -> None:
    ids = torch.arange(10, 110).repeat(400, 1)
    special = torch.zeros_like(ids, dtype=torch.bool)
    special[:, ::2] = True
    inputs, labels = mask_tokens(
        ids, mask=3, vocabulary=10, special=special, share=0.3, generator=torch.Generator().manual_seed(0)
    )
    hidden, n = labels >= 0, 400 * 50
    assert torch.equal(labels[hidden], ids[hidden])
    assert not hidden[special].any()
    assert torch.equal(inputs[~hidden], ids[~hidden])
    # Shares of n draws, within five standard deviations.
    assert abs(hidden.sum().item() / n - 0.3) <= 5 * (0.3 * 0.7 / n) ** 0.5
    count = hidden.sum().item()
    same, other = (
        (inputs == ids)[hidden].sum().item() / count,
        ((inputs < 10) & (inputs != 3))[hidden].sum().item() / count,
    )
    assert abs(same - 0.1) <= 5 * (0.09 / count) ** 0.5
    assert abs(other - 0.09) <= 5 * (0.09 / count) ** 0.5  # one in ten of the others is the mask
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        mask_tokens(ids, mask=3, vocabulary=10, share=2.0)


def test_every_kind_of_pull_is_free_of_the_scale_of_the_objective() -> None:
    for scale, kind in product((1e-6, 1e6), ("relative",)):
        found = []
        for factor in (1.0, scale):
            w = Parameter(torch.tensor([1.0, -2.0], dtype=F64))
            fisher, model = {"w": torch.tensor([1.0, 2.0], dtype=F64)}, nn.ParameterDict({"w": w})
            anchor = factor * FisherAnchor(fisher, model, [torch.zeros(2, dtype=F64)])
            opt = LessForgetting(torch.optim.SGD([w], lr=0.1), anchor=anchor, scale=kind)  # type: ignore[arg-type]
            opt.backward([(w - 3).square().sum(), w[0].exp()])
            found.append(torch.as_tensor(w.grad))
        torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=0)
