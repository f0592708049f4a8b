"""LoRA by peft, with the blocks of the page, against adapters that are written out."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter
from torch.nn.functional import cross_entropy, linear
from torch.optim import AdamW

from mgrad import LessForgetting
from tests.recipes.page import EPSILON, RATE, SAME, blocks, by_hand, run, start
from tests.training import assert_identical, weights

ADAPT, LOOP = blocks("LoRA by peft")


class Tagger(Module):
    """Tokens to labels by two layers, query and value; weights of float64."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.randn(32, 5, dtype=torch.float64)
        self.query, self.value = Linear(5, 6, dtype=torch.float64), Linear(6, 3, dtype=torch.float64)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.value(self.query(self.table[input_ids]).tanh())
        loss = None if labels is None else cross_entropy(logits.flatten(0, 1), labels.flatten())
        return SimpleNamespace(logits=logits, loss=loss)


def adapted(seed: int = 0) -> dict[str, Any]:
    """Return the names of the page with adapters on the small tagger."""
    names = start()
    torch.manual_seed(seed)
    names["model"] = Tagger()
    run(ADAPT, names)
    return names


def test_adapters_take_the_steps_of_adapters_written_out() -> None:
    names = adapted()
    model, inside = names["model"], names["adapted"].base_model.model
    layers = (inside.query, inside.value)
    frozen = [(layer.base_layer.weight.clone(), layer.base_layer.bias.clone()) for layer in layers]
    pairs: list[Tensor] = [
        Parameter(part["default"].weight.detach().clone()) for layer in layers for part in (layer.lora_A, layer.lora_B)
    ]
    scale = inside.query.scaling["default"]

    def layer(i: int, x: Tensor, factor: float) -> Tensor:
        down, up = pairs[2 * i : 2 * i + 2]
        return linear(x, *frozen[i]) + factor * (x @ down.T @ up.T)

    def logits(inputs: Tensor, factor: float) -> Tensor:
        return layer(1, layer(0, model.table[inputs], factor).tanh(), factor)

    def losses(batches: Any) -> dict[str, Tensor]:
        return {
            language: cross_entropy(logits(batch["input_ids"], scale).flatten(0, 1), batch["labels"].flatten())
            for language, batch in batches.items()
        }

    def forgotten() -> Tensor:
        answers, before = logits(names["unlabeled"], scale), logits(names["unlabeled"], 0.0).detach()
        shares = (before - before.logsumexp(-1, keepdim=True)).exp()  # in a form whose gradient begins at 0 exactly
        return (answers.logsumexp(-1) - before.logsumexp(-1) - (shares * (answers - before)).sum(-1)).mean()

    run(LOOP, names)
    steps = [lambda batches=batches: losses(batches) for batches in names["loader"]]
    reports = list(by_hand(pairs, AdamW(pairs, lr=RATE, eps=EPSILON), steps, objective=forgotten))
    found = [p for p in names["adapted"].parameters() if p.requires_grad]
    torch.testing.assert_close(found, pairs, **SAME)
    assert reports[-1].objective_norm > 0


def test_the_frozen_weights_cost_nothing_and_stay() -> None:
    names = adapted()
    before = weights(names["adapted"])
    run(LOOP, names)
    model, opt = names["adapted"], names["opt"]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    assert set(opt.start) == set(trained)
    assert set(opt.state) == set(trained)
    assert all(parameter.grad is None for parameter in frozen)
    held = sum(value.numel() for value in opt.state_dict()["less_forgetting"]["anchor"].values())
    assert held == sum(parameter.numel() for parameter in trained)
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value) is not parameter.requires_grad


def test_adapters_and_optimizer_are_a_checkpoint() -> None:
    names, again = adapted(), adapted()
    run(LOOP, names)
    names["adapted"].save_pretrained("adapters")
    checkpoint = names["opt"].state_dict()
    torch.save(checkpoint, "opt.pt")
    torch.manual_seed(1)
    run(LOOP, names)

    model = again["adapted"]
    model.load_adapter("adapters", "default", is_trainable=True)
    opt = LessForgetting(AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, eps=EPSILON))
    opt.load_state_dict(torch.load("opt.pt", weights_only=True))
    torch.manual_seed(1)  # of the unlabeled inputs
    run(LOOP, again | {"opt": opt})
    assert_identical(weights(model), weights(names["adapted"]))
    assert_identical(opt.state_dict(), names["opt"].state_dict())
