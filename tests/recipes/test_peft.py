"""LoRA by peft, with the blocks of the page, against adapters that are written out."""

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import Parameter
from torch.nn.functional import normalize
from torch.optim import AdamW

from tests.recipes.page import EPSILON, RATE, SAME, blocks, by_hand, run, start
from tests.training import assert_identical, weights

ADAPT, LOOP = blocks("LoRA by peft")


def adapted(seed: int = 0) -> dict[str, Any]:
    """Return the names of the page with adapters and a new head."""
    names = start()
    torch.manual_seed(seed)
    run(ADAPT, names)
    return names


def test_adapters_and_head_take_the_steps_of_those_written_out() -> None:
    names, plain = adapted(), start()["model"]
    values = {name: value.detach().clone() for name, value in plain.named_parameters()}
    scale = names["adapted"].peft_config["default"].lora_alpha / names["adapted"].peft_config["default"].r
    written: dict[str, Tensor] = {}  # by the names of peft
    for name, value in names["adapted"].named_parameters():
        if value.requires_grad:
            written[name] = Parameter(value.detach().clone())

    def answers(inputs: Any, factor: float) -> Any:
        merged = dict(values)
        for name, value in written.items():
            place = name.removeprefix("base_model.model.")
            if "lora_A" in place:
                other = written[name.replace("lora_A", "lora_B")]
                place = place.replace("lora_A.default.", "")
                merged[place] = values[place] + factor * (other @ value)
            elif "lora_" not in place:
                merged[place.replace("modules_to_save.default.", "")] = value
        return functional_call(plain, merged, kwargs=inputs | {"output_hidden_states": True})

    def losses(batches: Any) -> dict[str, Tensor]:
        return {language: answers(batch, scale).loss for language, batch in batches.items()}

    def forgotten() -> Tensor:
        inputs = {"input_ids": names["unlabeled"]}
        now, before = (normalize(answers(inputs, factor).hidden_states[-1], dim=-1) for factor in (scale, 0.0))
        return (now - before.detach()).square().sum(-1).mean() / 2  # 1 - cosine, whose gradient begins at 0 exactly

    run(LOOP, names)
    steps = [lambda batches=batches: losses(batches) for batches in names["loader"]]
    parameters = list(written.values())
    head = [value for name, value in written.items() if "lora_" not in name]
    base = AdamW(parameters, lr=RATE, eps=EPSILON)
    reports = list(by_hand(parameters, base, steps, objective=forgotten, new=head))
    found = dict(names["adapted"].named_parameters())
    torch.testing.assert_close({name: found[name] for name in written}, written, **SAME)
    assert reports[-1].objective_norm > 0


def test_adapters_and_head_move_and_the_frozen_weights_cost_nothing_and_stay() -> None:
    names = adapted()
    before = weights(names["adapted"])
    run(LOOP, names)
    model, opt = names["adapted"], names["opt"]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    assert len(names["head"]) == 2, "a weight and a bias"
    assert set(opt.start) == set(names["adapters"]) == set(trained) - set(names["head"])
    assert set(opt.state) == set(trained)
    assert all(parameter.grad is None for parameter in frozen)
    held = sum(value.numel() for value in opt.state_dict()["less_forgetting"]["anchor"].values())
    assert held == sum(parameter.numel() for parameter in names["adapters"])
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
    opt = again["opt"]
    opt.load_state_dict(torch.load("opt.pt", weights_only=True))
    torch.manual_seed(1)  # of the unlabeled inputs
    run(LOOP, again | {"opt": opt})
    assert_identical(weights(model), weights(names["adapted"]))
    assert_identical(opt.state_dict(), names["opt"].state_dict())
