"""One model on the host and on a GPU. Only where CUDA is: `make test-gpu`; integers make the sums exact on either."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.nn import Parameter
from torch.optim import SGD, AdamW

from mgrad import (
    Anchor,
    Distillation,
    FisherAnchor,
    HalfBatches,
    LessForgetting,
    Status,
    Storage,
    solve_batch,
)
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


@pytest.mark.parametrize("of_fisher", [False, True])
def test_what_is_wrapped_before_its_model_is_moved_takes_the_same_steps(of_fisher: bool) -> None:
    """As frameworks that move a model when they prepare it leave it."""

    def trained(device: torch.device) -> Tensor:
        model = torch.nn.Linear(2, 1, bias=False, device="cpu")
        torch.nn.init.ones_(model.weight)
        anchor = FisherAnchor({"weight": torch.tensor([[2.0, 4.0]])}, model) if of_fisher else Anchor()
        opt = LessForgetting(SGD(model.parameters(), lr=0.25), anchor=0.5 * anchor, scale="absolute", strength=1.0)
        kept = Distillation(model, opt.start, measure="mse")
        model.to(device)
        for _ in range(2):
            opt.zero_grad()
            x = torch.tensor([[1.0, 1.0]], device=device)  # ‖∇f‖² is a power of 2: all is exact
            opt.backward([model(x).sum()], kept(x))
            opt.step()
        assert all(start.device.type == device.type for start in opt.start.values())
        return model.weight.detach().cpu()

    assert torch.equal(trained(GPU), trained(torch.device("cpu")))


def test_a_gradient_on_the_gpu_that_is_not_finite_is_an_error() -> None:
    there = spread(GPU)
    opt = LessForgetting(SGD(there))
    with pytest.raises(FloatingPointError, match="parameter 1 of group 0"):
        opt.backward([there[0].sum() + (there[1] - there[1].detach()).sqrt().sum().cpu()])


@pytest.mark.parametrize("options", [{}, {"solver": "device"}, {"noise": HalfBatches()}], ids=str)
@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_on_the_gpu_unscales_rows_and_skips_an_overflow(options: dict[str, Any], fused: bool) -> None:
    """Bit for bit, as its scale is a power of two; the host's part of HalfBatches is unscaled on the host."""

    def trained(scaler: GradScaler, bad: int | None) -> Parameter:
        w = Parameter(torch.tensor([1.0, 2.0], device=GPU))
        opt = LessForgetting(AdamW([w], lr=0.125, fused=fused), scale="absolute", strength=0.5, **options)
        for step in range(4):
            if step == bad and not scaler.is_enabled():
                continue
            opt.zero_grad()
            for name, centre in (("en", -step), ("de", 3.0)):
                for half in (1.0, 2.0) if options.get("noise") else (1.0,):
                    with opt.constraint(name):
                        loss = half * (w - centre).square().sum()
                        scaler.scale(loss * (torch.inf if (step, name) == (bad, "de") else 1.0)).backward()
            scaler.step(opt)
            scaler.update()
        return w

    scaler = GradScaler("cuda", init_scale=2.0**10)
    assert torch.equal(trained(scaler, None), trained(GradScaler("cuda", enabled=False), None))
    assert scaler.get_scale() == 2.0**10
    assert torch.equal(trained(scaler, 2), trained(GradScaler("cuda", enabled=False), 2))
    assert scaler.get_scale() == 2.0**9


@contextmanager
def no_waiting() -> Iterator[None]:
    """Let torch raise for an operation that makes the host wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


never_waits = pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")


@never_waits
def test_the_device_solver_takes_the_steps_of_the_exact_one_without_waiting() -> None:
    here, there = Parameter(torch.tensor([1.0, 2.0])), Parameter(torch.tensor([1.0, 2.0], device=GPU))
    opt = LessForgetting(SGD([here], lr=0.125))
    other = LessForgetting(SGD([there], lr=0.125), solver="device")

    def step(opt: LessForgetting, w: Parameter) -> None:
        opt.zero_grad()
        opt.backward([w.square().sum(), (w - 3).square().sum()])
        opt.step()

    step(opt, here)
    step(other, there)  # the first use of a library may wait
    step(opt, here)
    with no_waiting():
        step(other, there)
    assert other.report is not None
    assert other.report.status is Status.OPTIMAL
    torch.testing.assert_close(there.detach().cpu(), here.detach())


@never_waits
@pytest.mark.parametrize("domain", ["nonnegative", "simplex"])
def test_a_stack_is_solved_on_the_gpu_as_on_the_host_without_waiting(domain: Any) -> None:
    J = torch.randn(64, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    G, q = J @ J.mT, J.sum(-1)
    there = G.to(GPU), q.to(GPU)
    solve_batch(*there, domain=domain)  # the first use of a library may wait
    with no_waiting():
        found = solve_batch(*there, domain=domain)
    expected = solve_batch(G, q, domain=domain)
    assert found.status.tolist() == expected.status.tolist()
    torch.testing.assert_close(found.multipliers.cpu(), expected.multipliers, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rows", ["cpu", "bfloat16", "sketch"])
def test_what_is_kept_elsewhere_gives_the_same_step(rows: Any) -> None:
    """Integers of few digits: exact in bfloat16, and two values rarely share a place of a sketch."""
    plain, kept = (Parameter(torch.arange(8.0, device=GPU)) for _ in range(2))
    for w, storage in ((plain, None), (kept, Storage(rows=rows, start="cpu"))):
        opt = LessForgetting(SGD([w], lr=0.125), storage=storage)
        for _ in range(2):
            opt.zero_grad()
            opt.backward([w.square().sum() / 4, (w - 3).square().sum() / 4])
            opt.step()
    # A sketch of 2¹⁶ numbers is exact unless two of eight values share one.
    torch.testing.assert_close(kept.detach(), plain.detach(), rtol=2.0**-7, atol=2.0**-7)
