"""One model on the host and on a GPU. Only where CUDA is: `pytest -m gpu`; integers make the sums exact on either."""

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, AdamW

from mgrad import LessForgetting
from mgrad.jacobian import Row, gramian

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda", 0)


def spread(device: torch.device) -> list[Parameter]:
    """Return two parameters, the first on the host."""
    return [Parameter(torch.tensor([1.0, 2.0])), Parameter(torch.tensor([3.0, 4.0, 5.0], device=device))]


def losses(parameters: list[Parameter]) -> list[Tensor]:
    """Return losses that conflict and that each need both parameters, on the host."""
    w, u = parameters[0], parameters[1].cpu()
    return [w.square().sum() - 2 * u.sum(), u.square().sum() - 3 * w.sum()]


def test_products_are_summed_over_the_devices() -> None:
    parameters: list[Tensor] = list(spread(GPU))
    rows: list[Row] = [torch.ones_like, lambda p: p.detach()]
    assert gramian(rows, parameters, torch.device("cpu")).tolist() == [[5.0, 15.0], [15.0, 55.0]]


def test_a_model_on_two_devices_takes_the_steps_of_one_on_the_host() -> None:
    here, there = spread(torch.device("cpu")), spread(GPU)
    opt, other = LessForgetting(SGD(here, lr=0.125)), LessForgetting(SGD(there, lr=0.125))
    report, same = opt.backward(losses(here)), other.backward(losses(there))
    assert report.conflicts
    assert same.gramian.tolist() == report.gramian.tolist()
    assert same.multipliers.tolist() == report.multipliers.tolist()
    for p, q in zip(here, there, strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert q.grad.device == q.device
        # A GPU may round a·x + y once where the host rounds twice: one ε for each of two terms.
        size = float(report.multipliers @ report.gradient_norms)
        assert float((p.grad - q.grad.cpu()).norm()) <= 2 * torch.finfo(torch.float32).eps * size
    other.step()
    assert there[1].device == GPU


def test_the_starting_point_is_on_the_device_of_its_parameter_also_after_loading() -> None:
    here, there = spread(torch.device("cpu")), spread(GPU)
    opt, other = LessForgetting(AdamW(here)), LessForgetting(AdamW(there))
    other.load_state_dict(opt.state_dict())
    anchors = other.state_dict()["less_forgetting"]["anchor"]
    assert [anchor.device for anchor in anchors.values()] == [p.device for p in there]
    other.backward(losses(there))
    other.step()


def test_a_gradient_on_the_gpu_that_is_not_finite_is_an_error() -> None:
    there = spread(GPU)
    opt = LessForgetting(SGD(there))
    with pytest.raises(FloatingPointError, match="parameter 1 of group 0"):
        opt.backward([there[0].sum() + (there[1] - there[1].detach()).sqrt().sum().cpu()])
