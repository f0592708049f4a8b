"""Micro-batches of unequal number, and steps that lack a constraint, against the mathematics on whole batches."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import mse_loss
from torch.optim import AdamW

from mgrad import HalfBatches, KeepPace, LessForgetting, SmoothRows, Target
from tests.training import assert_identical, flat, new_model, set_direction, weights

pytestmark = pytest.mark.any_device

NAMES = ("en", "de", "fr")
WEIGHTS = {"en": 1.0, "de": 2.0, "fr": 0.5}
LEVELS = {"en": 0.5, "de": 0.25, "fr": 0.75}
# Of the steps, which constraints they have.
PRESENT = [NAMES, ("fr", "en"), ("de",), ("en", "de"), NAMES]


def data(name: str, step: int) -> tuple[Tensor, Tensor]:
    """Return a batch of a constraint, of its own size: 5, 6 or 7."""
    size, generator = 5 + NAMES.index(name), torch.Generator().manual_seed(10 * step + NAMES.index(name))
    x = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    return x, {"en": x[:, :1], "de": x[:, 1:2] - x[:, :1], "fr": x[:, 2:]}[name]


def by_hand(steps: Sequence[Sequence[str]], target: bool = False, **options: Any) -> list[Tensor]:
    """Train by stacked gradients of whole batches and the function alone, with options for those that are present."""
    model = new_model()
    parameters = list(model.parameters())
    start, base = weights(model), AdamW(parameters, lr=0.01)
    for step, present in enumerate(steps):
        names = [name for name in NAMES if name in present]
        losses = [mse_loss(model(x), y) for x, y in (data(name, step) for name in names)]
        rule = KeepPace(weights=[WEIGHTS[name] for name in names])
        decrease = Target([LEVELS[name] for name in names]) if target else rule
        set_direction(parameters, losses, start, decrease=decrease, strength=0.3, **options)
        base.step()
    return weights(model)


def trained(
    steps: Sequence[Sequence[str]], *, pieces: bool = False, blocks: bool = True, **options: Any
) -> list[Tensor]:
    """Train by blocks of micro-batches, in pieces of two or of whole batches, or by `backward`."""
    model = new_model()
    opt = LessForgetting(AdamW(model.parameters(), lr=0.01), strength=0.3, constraints=NAMES, **options)
    for step, present in enumerate(steps):
        opt.zero_grad()
        if blocks:
            micro_batches = [(name, part) for name in present for part in split(name, step, 2 if pieces else 7)]
            order = torch.randperm(len(micro_batches), generator=torch.Generator().manual_seed(step)).tolist()
            for name, (x, y, share) in (micro_batches[i] for i in order):
                with opt.constraint(name):
                    (share * mse_loss(model(x), y)).backward()
            opt.solve({name: value(model, name, step) for name in present})
        else:
            opt.backward({name: mse_loss(model(x), y) for name in present for x, y in [data(name, step)]})
        assert opt.report is not None
        assert opt.report.names == tuple(name for name in NAMES if name in present)
        opt.step()
    return weights(model)


def split(name: str, step: int, size: int) -> list[tuple[Tensor, Tensor, float]]:
    """Return the micro-batches of a constraint, and the share of the batch that each is."""
    x, y = data(name, step)
    return [(a, b, len(a) / len(x)) for a, b in zip(x.split(size), y.split(size), strict=True)]


def value(model: Module, name: str, step: int) -> float:
    x, y = data(name, step)
    return mse_loss(model(x), y).item()


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    """Up to rounding, which Adam's first steps take by 1/ε = 10⁸ at most where a gradient is all but 0."""
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-11)


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "named weights": ({"decrease": KeepPace(weights=WEIGHTS)}, {}),
    "weights in order": ({"decrease": KeepPace(weights=list(WEIGHTS.values()))}, {}),
    "levels": ({"decrease": Target(LEVELS)}, {"target": True}),
    "levels in order": ({"decrease": Target(list(LEVELS.values()))}, {"target": True}),
    "normalised": ({"decrease": KeepPace(weights=WEIGHTS), "normalise": "loss"}, {"normalise": "loss"}),
    "device": ({"decrease": KeepPace(weights=WEIGHTS), "solver": "device"}, {}),
}


@pytest.mark.parametrize("form", ["micro-batches", "blocks", "backward"])
@pytest.mark.parametrize(("options", "same"), OPTIONS.values(), ids=OPTIONS)
def test_a_step_without_a_constraint_is_that_of_the_others(options: Any, same: Any, form: str) -> None:
    """With the weights and levels of those that are there; the number of micro-batches does not matter."""
    found = trained(PRESENT, pieces=form == "micro-batches", blocks=form != "backward", missing=True, **options)
    assert_close(found, by_hand(PRESENT, **same))


def test_where_none_is_missing_nothing_changes() -> None:
    steps = [NAMES] * 4
    assert_identical(trained(steps, missing=True), trained(steps))


def test_the_mean_of_a_constraint_waits_while_it_is_missing() -> None:
    """SmoothRows counts the steps that a constraint had: German's third step is its second."""
    decay, model = 0.75, new_model()
    opt = LessForgetting(
        AdamW(model.parameters(), lr=0.0), noise=SmoothRows(decay), constraints=NAMES, missing=True, anchor=None
    )
    norms = []
    for step, present in enumerate([("en", "de"), ("en",), ("en", "de")]):
        opt.zero_grad()
        report = opt.backward({name: mse_loss(model(x), y) for name in present for x, y in [data(name, step)]})
        opt.step()
        norms.append(dict(zip(report.names, report.gradient_norms, strict=True)))

    def row(step: int) -> Tensor:
        x, y = data("de", step)
        return flat(torch.autograd.grad(mse_loss(model(x), y), list(model.parameters())))

    mean = (decay * row(0) + row(2)) / (decay + 1)
    assert norms[2]["de"] == pytest.approx(float(mean.norm()), rel=1e-12)
    assert "de" not in norms[1]


def test_half_of_a_constraint_is_not_a_missing_one() -> None:
    model = new_model()
    opt = LessForgetting(AdamW(model.parameters()), noise=HalfBatches(), constraints=NAMES, missing=True)
    for name, times in (("en", 2), ("de", 1)):
        for _ in range(times):
            with opt.constraint(name):
                x, y = data(name, 0)
                mse_loss(model(x), y).backward()
    with pytest.raises(ValueError, match=r"both halves .*\['de'\]"):
        opt.solve()


def test_an_unknown_name_is_an_error_and_so_is_a_step_with_none() -> None:
    model = new_model()
    opt = LessForgetting(AdamW(model.parameters()), constraints=NAMES, missing=True)
    with pytest.raises(ValueError, match="unknown name 'es'"), opt.constraint("es"):
        pass
    with pytest.raises(RuntimeError, match="at least one constraint"):
        opt.solve()
    with pytest.raises(ValueError, match=r"must name every constraint once"):
        LessForgetting(
            AdamW(model.parameters()), decrease=KeepPace(weights={"en": 1.0}), constraints=NAMES, missing=True
        ).backward({"en": mse_loss(model(data("en", 0)[0]), data("en", 0)[1])})
