"""The methods that are compared with, against their formulas on small problems."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torchjd import aggregation

from benchmarks.multilingual.steppers import (
    ALPHA,
    RANK,
    Annealed,
    LowRank,
    Mixout,
    Projected,
    Stepper,
    Summed,
    Weighted,
    freeze_lower_half,
)

STEPS = 8


def parameters(*values: float) -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor(values, dtype=torch.float64))]


def backward(stepper: Stepper, losses: dict[str, Tensor]) -> None:
    for name, loss in losses.items():
        with stepper.constraint(name):
            loss.backward()


def gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def test_a_penalty_may_be_weighed() -> None:
    [p] = parameters(3.0, 4.0)
    stepper = Summed(SGD([p], lr=1.0), [p], strength=0.5, weights=[torch.tensor([2.0, 0.0], dtype=torch.float64)])
    p.data += 1.0
    backward(stepper, {"en": p.sum(), "de": p.sum()})
    stepper.solve({})
    assert gradient(p).tolist() == [3.0, 2.0]


def test_recadam_goes_from_the_pull_to_the_step() -> None:
    [p] = parameters(1.0)
    [head] = parameters(1.0)
    stepper = Annealed(SGD([{"params": [p]}, {"params": [head]}], lr=0.1), [p], strength=2.0, steps=STEPS)
    p.data += 1.0
    expected, free = 2.0, 1.0
    for t in range(STEPS):
        stepper.zero_grad()
        backward(stepper, {"en": 3.0 * p.sum() + head.sum()})
        stepper.solve({})
        stepper.step()
        share = 1 / (1 + math.exp(-20 / STEPS * (t - STEPS / 4)))
        expected = expected - share * 0.3 - (1 - share) * 0.1 * 2.0 * (expected - 1.0)
        free -= 0.1
        assert p.item() == pytest.approx(expected)
        assert head.item() == pytest.approx(free)


def test_mixout_is_the_gradient_at_the_mixture_and_its_mean_is_the_weights() -> None:
    torch.manual_seed(0)
    start = torch.randn(4000, dtype=torch.float64)
    p = nn.Parameter(start.clone())
    stepper = Mixout(SGD([p], lr=1.0), [p], probability=0.75)
    p.data += 1.0
    weights = p.detach().clone()
    stepper.zero_grad()
    mixed = p.detach().clone()
    kept = mixed != start
    torch.testing.assert_close(mixed[kept], (start + 4.0)[kept])
    # The share of 4000 that is kept, and so the mean of the mixture, to five standard deviations.
    assert abs(float((mixed - start).mean()) - 1.0) < 5 * 4 * math.sqrt(0.25 * 0.75 / 4000)
    backward(stepper, {"en": p.square().sum() / 2})
    stepper.solve({})
    assert torch.equal(p, weights)
    torch.testing.assert_close(gradient(p), torch.where(kept, 4.0 * mixed, 0.0))


def test_low_rank_steps_are_those_of_a_layer_with_factors() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    start = layer.weight.detach().clone()
    head = nn.Parameter(torch.ones(5))
    stepper = LowRank(AdamW([{"params": list(layer.parameters())}, {"params": [head]}], lr=0.1), layer)
    [(_, _, up, down)] = stepper.factors
    assert (up.shape, down.shape) == ((5, RANK), (RANK, 6))
    slow_up, slow_down, slow_head = (nn.Parameter(x.detach().clone()) for x in (up, down, head))
    slow = AdamW([slow_up, slow_down, slow_head], lr=0.1)
    for _ in range(4):
        inputs = torch.randn(3, 6)
        stepper.zero_grad()
        slow.zero_grad()
        backward(stepper, {"en": (layer(inputs).sin() * head).sum()})
        stepper.solve({})
        stepper.step()
        weight = start + ALPHA / RANK * slow_up @ slow_down
        ((inputs @ weight.T + layer.bias).sin() * slow_head).sum().backward()
        slow.step()
    torch.testing.assert_close(layer.weight, start + ALPHA / RANK * slow_up @ slow_down, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head, slow_head, rtol=1e-4, atol=1e-5)
    assert not layer.bias.requires_grad


@pytest.mark.parametrize("name", ["PCGrad", "MGDA", "UPGrad", "PCD"])
def test_descent_is_that_of_torchjd_on_the_jacobian(name: str) -> None:
    torch.manual_seed(0)
    jacobian = torch.randn(3, 7, dtype=torch.float64)
    first, second = (nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (3, 4))
    stepper = Weighted(SGD([first, second], lr=1.0), getattr(aggregation, f"{name}Weighting")())
    rows = {f"{i}": row[:3] @ first + row[3:] @ second for i, row in enumerate(jacobian)}
    backward(stepper, rows)
    torch.manual_seed(1)  # PCGrad draws
    stepper.solve({})
    torch.manual_seed(1)
    expected = getattr(aggregation, name)()(jacobian)
    torch.testing.assert_close(torch.cat([gradient(first), gradient(second)]), expected)


def test_what_is_outside_of_the_blocks_comes_first() -> None:
    [p] = parameters(0.0, 0.0)
    stepper = Weighted(SGD([p], lr=1.0), lambda gramian: gramian.new_tensor([1.0, 10.0, 100.0]))
    backward(stepper, {"en": p[0], "de": p[1]})
    p.sum().backward()
    stepper.solve({})
    assert gradient(p).tolist() == [11.0, 101.0]


def test_gem_takes_away_what_is_against_the_memory_and_nothing_else() -> None:
    [p] = parameters(0.0, 0.0)
    stepper = Projected(SGD([p], lr=1.0))
    backward(stepper, {"en": p[0], "de": 2.0 * p[1]})
    (-p[0]).backward()
    stepper.solve({})
    assert gradient(p).tolist() == [0.0, 2.0]
    stepper.zero_grad()
    backward(stepper, {"en": p[0], "de": 2.0 * p[1]})
    p[0].backward()
    stepper.solve({})
    assert gradient(p).tolist() == [1.0, 2.0]


def test_the_lower_half_of_the_layers_and_the_embeddings_are_frozen() -> None:
    class Encoder(nn.Module):
        def __init__(self, layers: int) -> None:
            super().__init__()
            self.embeddings = nn.Embedding(2, 2)
            self.layer = nn.ModuleList(nn.Linear(2, 2) for _ in range(layers))
            self.norm = nn.LayerNorm(2)

    for layers, kept in [(4, {"2", "3"}), (3, {"1", "2"}), (1, {"0"})]:
        encoder = Encoder(layers)
        freeze_lower_half(encoder)
        names = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
        assert names == {f"layer.{i}.{kind}" for i in kept for kind in ("weight", "bias")} | {
            "norm.weight",
            "norm.bias",
        }
    with pytest.raises(ValueError, match=r"must find layers in the names of the model's parameters\. Found none"):
        freeze_lower_half(nn.Linear(2, 2))


def steppers() -> dict[str, Callable[[nn.Linear], Any]]:
    def groups(layer: nn.Linear) -> list[dict[str, Any]]:
        return [{"params": [layer.weight]}, {"params": [layer.bias]}]

    return {
        "l2sp": lambda layer: Summed(AdamW(groups(layer), lr=0.1), [layer.weight], 0.5),
        "recadam": lambda layer: Annealed(AdamW(groups(layer), lr=0.1), [layer.weight], 0.5, STEPS),
        "mixout": lambda layer: Mixout(AdamW(groups(layer), lr=0.1), [layer.weight], 0.5),
        "lora": lambda layer: LowRank(AdamW(groups(layer), lr=0.1), layer),
        "pcd": lambda layer: Weighted(AdamW(groups(layer), lr=0.1), aggregation.PCDWeighting()),
        "gem": lambda layer: Projected(AdamW(groups(layer), lr=0.1)),
    }


@pytest.mark.parametrize("method", list(steppers()))
def test_a_stepper_goes_on_from_its_state(method: str) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(STEPS, 4, 3)
    layer = nn.Linear(3, 2)
    fresh = copy.deepcopy(layer)

    def walk(layer: nn.Linear, stepper: Stepper, steps: range) -> None:
        for t in steps:
            stepper.zero_grad()
            backward(stepper, {"en": layer(inputs[t]).square().sum(), "de": layer(inputs[t]).sum()})
            stepper.solve({})
            stepper.step()

    stepper = steppers()[method](layer)
    torch.manual_seed(1)
    walk(layer, stepper, range(4))
    rng, weights, state = torch.get_rng_state(), copy.deepcopy(layer.state_dict()), copy.deepcopy(stepper.state_dict())
    walk(layer, stepper, range(4, STEPS))

    again = steppers()[method](fresh)
    fresh.load_state_dict(weights)
    again.load_state_dict(state)
    torch.set_rng_state(rng)
    walk(fresh, again, range(4, STEPS))
    assert torch.equal(fresh.weight, layer.weight)
    assert torch.equal(fresh.bias, layer.bias)
