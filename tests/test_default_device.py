"""torch's default device is the user's: mgrad works where the parameters are, and on the host.

On the device "meta" nothing has a value: a tensor that mgrad made there by default would be an error in the next line.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import LBFGS, SGD, Adafactor, Adagrad, Adam, AdamW, RMSprop

from mgrad import (
    Anchor,
    Distillation,
    FisherAnchor,
    HalfBatches,
    KeepPace,
    LessForgetting,
    MinNorm,
    ParetoNavigation,
    Proportional,
    Replay,
    SmoothGramian,
    SmoothRows,
    Storage,
    Target,
    constrained_direction,
    estimate_fisher,
    pareto_stationarity,
)
from tests.training import assert_identical, losses, new_model, weights

nowhere, here = torch.device("meta"), torch.device("cpu")


@contextmanager
def elsewhere() -> Iterator[None]:
    """Make "meta" the default."""
    with nowhere:
        assert torch.zeros(1).device == nowhere
        yield


def at_home(base: Any) -> Any:
    """Let the base, which is torch's, make its state on the host."""
    step = base.step

    def stepping(*args: Any, **kwargs: Any) -> Any:
        with here:
            return step(*args, **kwargs)

    base.step = stepping
    return base


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "device": {"solver": "device", "decrease": Target([0.1, 0.2, 0.3]), "scale": "absolute"},
    "device step": {"solver": "device", "enforce": "step", "normalise": "gradient"},
    "weights": {"decrease": KeepPace(weights=[1.0, 2.0, 3.0])},
    "device weights": {"decrease": KeepPace(weights=[1.0, 2.0, 3.0]), "solver": "device"},
    "shortest": {"decrease": MinNorm(power=0.5)},
    "navigation": {"decrease": ParetoNavigation()},
    "proportional": {"decrease": Proportional()},
    "target": {"decrease": Target([0.1, 0.2, 0.3]), "scale": "absolute"},
    "step": {"enforce": "step"},
    "base": {"metric": "base", "enforce": "step", "normalise": "gradient"},
    "loss": {"metric": "base", "normalise": "loss"},
    "rows": {"noise": SmoothRows()},
    "gramian": {"noise": SmoothGramian()},
    "halves": {"noise": HalfBatches()},
    "rounded": {"storage": Storage(rows="bfloat16", start="bfloat16")},
    "host": {"storage": Storage(rows="cpu", start="cpu")},
    "sketch": {"storage": Storage(rows="sketch", sketch=64), "noise": SmoothGramian()},
}
BASES: dict[str, Any] = {
    "SGD": SGD,
    "Adam": Adam,
    "AdamW": AdamW,
    "RMSprop": RMSprop,
    "Adagrad": Adagrad,
    "Adafactor": Adafactor,
}


@pytest.mark.parametrize(
    ("option", "base"),
    [*((option, "AdamW") for option in OPTIONS), *(("base", base) for base in BASES if base != "AdamW")],
)
def test_steps_do_not_depend_on_the_default_device(option: str, base: str) -> None:
    def trained(default: torch.device) -> Any:
        model = new_model()
        opt = LessForgetting(at_home(BASES[base](model.parameters(), lr=0.01)), **OPTIONS[option])
        for step in range(3):
            batches = losses(model, step), losses(model, step + 10)
            pairs = {name: (batches[0][name], batches[1][name]) for name in batches[0]}
            with default:
                opt.zero_grad()
                opt.backward(pairs if option == "halves" else batches[0])
                opt.step()
                opt.load_state_dict(opt.state_dict())
        assert opt.report is not None
        return weights(model), opt.state_dict(), opt.report.to_dict()

    assert_identical(trained(nowhere), trained(here))


@pytest.mark.parametrize("kind", ["blocks", "scaler", "closure", "objectives"])
def test_no_form_of_a_step_depends_on_the_default_device(kind: str) -> None:
    def trained(default: torch.device) -> list[Tensor]:
        model, teacher = new_model(), new_model(1)
        x = torch.ones(2, 3, dtype=torch.float64)
        old = [(torch.ones(4, 3, dtype=torch.float64) * i, torch.zeros(4, dtype=torch.long)) for i in range(2)]
        fisher = estimate_fisher(model, old, kind="true") if kind == "objectives" else {}
        base = (
            LBFGS(model.parameters(), line_search_fn="strong_wolfe")
            if kind == "closure"
            else SGD(model.parameters(), lr=0.1)
        )
        scaler = GradScaler("cpu", init_scale=1024.0)
        with default:
            anchor: Anchor = 0.5 * Anchor() + FisherAnchor(fisher, model) if fisher else Anchor()
            opt = LessForgetting(at_home(base), anchor=anchor)
            memory = Replay(lambda batch: model(batch[0]).square().mean(), old)
            kept = Distillation(model, teacher, read=lambda outputs: outputs)
        for step in range(3):
            opt.zero_grad()
            if kind == "closure":
                with here:
                    opt.step(partial(losses, model, step))
                continue
            found = losses(model, step)
            if kind == "objectives":
                with default:
                    opt.backward(found, objective=kept(x) + memory())
                    opt.step()
                continue
            for name, loss in found.items():
                scaled = scaler.scale(loss) if kind == "scaler" else loss
                with default, opt.constraint(name):
                    scaled.backward()
            if kind == "scaler":
                with here:
                    scaler.step(opt)
                    scaler.update()
            else:
                with default:
                    opt.step()
        return weights(model)

    assert_identical(trained(nowhere), trained(here))


def test_the_function_does_not_depend_on_the_default_device() -> None:
    J = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stationarity = pareto_stationarity(J @ J.T).stationarity
    expected = constrained_direction(J, J[0], losses=[1.0, 2.0, 3.0], decrease=Target([0.5, 0.5, 0.5]))
    with elsewhere():
        found = constrained_direction(J, J[0], losses=[1.0, 2.0, 3.0], decrease=Target([0.5, 0.5, 0.5]))
        on_device = constrained_direction(
            J, J[0], losses=[1.0, 2.0, 3.0], decrease=Target([0.5, 0.5, 0.5]), solver="device"
        )
        assert pareto_stationarity(J @ J.T).stationarity == stationarity
    assert torch.equal(found.direction, expected.direction)
    torch.testing.assert_close(on_device.direction, expected.direction)
