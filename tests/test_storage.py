"""How rows and θ₀ are kept: what each mode changes, by how much at most, and what it does not go with."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import SGD, AdamW

from benchmarks import storage as benchmark
from mgrad import Anchor, HalfBatches, LessForgetting, SmoothGramian, SmoothRows, Status, Storage
from mgrad.anchor import pull_back
from mgrad.jacobian import Row, combine, gramian
from mgrad.storage import OnHost, opened
from tests.training import assert_identical

U = 2.0**-8  # bfloat16's rounding


def linear_losses(J: Tensor, w: Parameter) -> list[Tensor]:
    """Return losses whose gradients are the rows of J."""
    return list(J @ w.flatten())


def solved(J: Tensor, start: Tensor, moved: Tensor, storage: Storage | None, **options: Any) -> tuple[Tensor, Any]:
    """Return the direction, and its report, of a step from where θ has moved to."""
    w = Parameter(start.clone())
    opt = LessForgetting(SGD([w], lr=0.1), storage=storage, **options)
    with torch.no_grad():
        w.copy_(moved)
    report = opt.backward(linear_losses(J, w))
    assert w.grad is not None
    assert w.grad.dtype == w.dtype
    assert opt.start[w].shape == w.shape
    return w.grad.clone(), report


@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.floats(-12, 12))
def test_rounded_rows_keep_their_promise_to_the_bound(m: int, seed: int, power: float) -> None:
    """(123): G to (2u + u²)‖gᵢ‖‖gⱼ‖, J d ≥ b − u‖gᵢ‖‖d‖, and the multipliers are those of the rounded rows."""
    generator = torch.Generator().manual_seed(seed)
    J = 10.0**power * torch.randn(m, 50, generator=generator)
    start, moved = torch.randn(2, 50, generator=generator)
    d, report = solved(J, start, moved, Storage(rows="bfloat16"), strength=0.5)
    exact, lengths = J.double() @ J.double().T, J.double().norm(dim=1)
    error = (torch.as_tensor(report.gramian) - exact).abs()
    assert (error <= (2 * U + U**2) * (1 + 1e-6) * lengths[:, None] * lengths).all()
    rounding = 1e-5 * lengths * (d.double().norm() + float(abs(report.multipliers) @ report.gradient_norms))
    if report.status is Status.OPTIMAL:
        short = torch.as_tensor(report.decrease) - J.double() @ d.double()
        assert (short <= U * lengths * d.double().norm() + rounding).all()
    twin, other = solved(J.bfloat16().float(), start, moved, None, strength=0.5)
    assert other.multipliers.tolist() == report.multipliers.tolist()
    assert torch.allclose(twin, d, rtol=1e-5, atol=1e-5 * float(twin.abs().max()))


def test_rounded_rows_take_half_the_memory_and_add_up_over_blocks() -> None:
    w = Parameter(torch.zeros(3))
    opt = LessForgetting(SGD([w], lr=0.1), storage=Storage(rows="bfloat16"))
    for factor in (1.0, 2.0):
        with opt.constraint("a"):
            (factor * w).sum().backward()
    assert opt._gathering.rows["a"][w].dtype is torch.bfloat16
    assert opt.solve().gramian.tolist() == [[27.0]]


def test_gradients_of_16_bits_are_kept_as_they_are() -> None:
    w = Parameter(torch.ones(3, dtype=torch.float16))
    opt = LessForgetting(SGD([w], lr=0.1), storage=Storage(rows="bfloat16", start="bfloat16"))
    with opt.constraint("a"):
        w.sum().backward()
    assert opt._gathering.rows["a"][w].dtype is torch.float16
    assert opt.start[w].dtype is torch.float16


def test_the_start_of_a_group_that_is_added_is_kept_likewise() -> None:
    w, u = (Parameter(torch.full((2,), 300.7)) for _ in range(2))
    opt = LessForgetting(SGD([w], lr=0.1), storage=Storage(start="bfloat16"))
    opt.add_param_group({"params": [u]})
    assert opt.start[u].dtype is torch.bfloat16
    assert torch.equal(opt.start[u], opt.start[w])


@given(st.integers(0, 2**32 - 1), st.floats(-6, 6))
def test_a_rounded_start_pulls_from_what_it_may_have_been(seed: int, power: float) -> None:
    """(124): 0 at θ₀, never away from θ₀, and the exact pull to 2u|θ₀| (and what float32 rounds)."""
    generator = torch.Generator().manual_seed(seed)
    start = 10.0**power * torch.randn(100, generator=generator)
    kept = start.bfloat16()
    assert not pull_back(start, kept, 1.0).any()
    moved = start + 0.01 * 10.0**power * torch.randn(100, generator=generator)
    exact, found = moved - start, pull_back(moved, kept, 1.0)
    assert (found * exact >= 0).all()
    assert (found.abs() <= exact.abs() * (1 + 1e-5) + 1e-6 * start.abs()).all()
    assert ((found - exact).abs() <= 2.01 * U * start.abs() + 1e-6 * moved.abs()).all()
    half = Parameter(start.bfloat16())
    assert torch.equal(pull_back(half + 1, kept, 1.0), (half + 1 - kept).detach())


@pytest.mark.parametrize("storage", [Storage(rows="cpu", start="cpu"), Storage(rows="cpu"), Storage(start="cpu")])
@pytest.mark.parametrize("comes", [False, True])
def test_on_the_host_nothing_changes(storage: Storage, comes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where it is there already, nor as it comes from a device, in a line."""
    J, start, moved = torch.randn(3, 50), torch.randn(10, 5), torch.randn(10, 5)
    twin, other = solved(J, start, moved, None)
    if comes:
        monkeypatch.setattr("mgrad.storage._kept", lambda block, place: OnHost(block.clone()) if place else block)
    d, report = solved(J, start, moved, storage)
    assert torch.equal(d, twin)
    assert report.gramian.tolist() == other.gramian.tolist()


@pytest.mark.parametrize("storage", [Storage(start="bfloat16"), Storage(start="cpu"), Storage(rows="bfloat16")])
def test_a_run_goes_on_from_its_checkpoint(storage: Storage) -> None:
    def begin() -> tuple[nn.Module, LessForgetting]:
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        return model, LessForgetting(AdamW(model.parameters(), lr=0.1), strength=0.5, storage=storage)

    def step(model: nn.Module, opt: LessForgetting) -> None:
        opt.zero_grad()
        y = model(torch.ones(2, 5))
        opt.backward({"a": y.square().sum(), "b": (y - 1).square().sum()})
        opt.step()

    model, opt = begin()
    for _ in range(3):
        step(model, opt)
    state = copy.deepcopy((model.state_dict(), opt.state_dict()))
    step(model, opt)
    again, resumed = begin()
    again.load_state_dict(state[0])
    resumed.load_state_dict(state[1])
    step(again, resumed)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert {s.dtype for s in resumed.start.values()} == {s.dtype for s in opt.start.values()}


@pytest.mark.parametrize(
    "options", [{"enforce": "step"}, {"metric": "base"}, {"noise": SmoothGramian()}, {"solver": "device"}]
)
def test_rounded_rows_go_with(options: Any) -> None:
    """The first step has whole numbers, which are not rounded, and is the same."""
    ends = []
    for storage in (Storage(rows="bfloat16", start="bfloat16"), None):
        w = Parameter(torch.tensor([1.0, 2.0]))
        opt = LessForgetting(AdamW([w], lr=0.1), storage=storage, **options)
        for step in range(3):
            opt.zero_grad()
            opt.backward([w.square().sum(), (w - 3).square().sum()])
            opt.step()
            if step == 0:
                ends.append(w.detach().clone())
        assert opt.report is not None
        assert opt.report.status is Status.OPTIMAL
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("rows", "options", "reason"),
    [
        *(
            (rows, {"noise": SmoothRows()}, "noise='SmoothRows'.*average rows")
            for rows in ("bfloat16", "cpu", "sketch")
        ),
        *(
            (rows, {"noise": HalfBatches()}, "noise='HalfBatches'.*compare the halves")
            for rows in ("bfloat16", "cpu", "sketch")
        ),
        ("sketch", {"enforce": "step"}, "enforce='step'.*have the rows when the base"),
        ("sketch", {"metric": "base"}, "metric='base'.*squares of the rows"),
        ("sketch", {"solver": "device"}, "solver='device'.*know the multipliers"),
        ("cpu", {"solver": "device"}, "solver='device'.*never wait"),
    ],
)
def test_what_needs_the_rows_is_refused(rows: Any, options: Any, reason: str) -> None:
    base = AdamW([Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match=reason):
        LessForgetting(base, storage=Storage(rows=rows), **options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rows": "float8"}, 'rows=.*must be one of None, "bfloat16", "cpu", "sketch". Found \'float8\''),
        ({"start": "sketch"}, 'start=.*must be one of None, "bfloat16", "cpu". Found \'sketch\''),
        ({"sketch": 0}, "sketch=.*whole number ≥ 1. Found 0"),
        ({"sketch": 1.5}, "sketch=.*whole number ≥ 1. Found 1.5"),
    ],
)
def test_a_wrong_storage_is_refused(options: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Storage(**options)
    with pytest.raises(TypeError, match=r"storage=.*must be a Storage or None. Found str"):
        LessForgetting(SGD([Parameter(torch.ones(2))]), storage="bfloat16")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("storage", "gradients"),
    [(Storage(), 8 + 1), (Storage("bfloat16"), 4 + 1 + 1), (Storage("cpu"), 2 + 1), (Storage("cpu", "cpu"), 2)],
)
def test_memory_counts_gradients(storage: Storage, gradients: float) -> None:
    assert storage.memory(1000, 8) == gradients * 4000
    assert Storage("sketch", "bfloat16", 10).memory(1000, 8) == 1.5 * 4000 + 8 * 9 * 10
    assert Storage("bfloat16", "bfloat16").memory(1000, 8, precision=2) == (8 + 1 + 1) * 2000


def test_anchors_of_all_kinds_take_a_rounded_start() -> None:
    start = [torch.tensor([1.0, 300.7])]
    w = Parameter(torch.tensor([2.0, 300.7]))
    opt = LessForgetting(SGD([w], lr=1.0), anchor=2.0 * Anchor(start), storage=Storage(start="bfloat16"))
    assert opt.start[w].dtype is torch.bfloat16
    report = opt.backward([w[1] * 0.0 + w[0]])
    assert report.objective_norm == pytest.approx(2 * (1 - U))


@pytest.mark.parametrize("size", [10, 300_000])
def test_blocks_on_the_host_and_rounded_ones_are_read_like_others(size: int) -> None:
    """In one piece and in many; the sums and products are those of the same values: of integers, exact in any order."""
    parameters = [torch.zeros(2, size), torch.zeros(3)]
    rows = [{p: torch.randint(-4, 5, p.shape).bfloat16() for p in parameters} for _ in range(3)]
    plain: list[Row] = [{p: block.float() for p, block in row.items()}.get for row in rows]
    away: list[Row] = [{p: OnHost(block) for p, block in row.items()}.get for row in rows]
    expected = gramian(plain, parameters, torch.device("cpu"))
    directions = combine(plain, [1.0, 0.0, -2.0], parameters, keep=True)
    for kept in ([row.get for row in rows], away):
        assert torch.equal(gramian(kept, parameters, torch.device("cpu")), expected)
        for found, direction in zip(combine(kept, [1.0, 0.0, -2.0], parameters), directions, strict=True):
            assert found is not None
            assert direction is not None
            assert torch.equal(found, direction)
    assert torch.equal(
        opened(rows[0])[parameters[1]], opened({parameters[1]: OnHost(rows[0][parameters[1]])})[parameters[1]]
    )


@pytest.mark.parametrize(
    "options", [{}, {"enforce": "step"}, {"metric": "base"}, {"metric": "base", "enforce": "step"}]
)
@pytest.mark.parametrize("scaled", [False, True])
def test_rows_on_the_host_go_with_every_option_that_reads_them(
    monkeypatch: pytest.MonkeyPatch, options: Any, scaled: bool
) -> None:
    """As they come from a device, in a line, here too; a scaler writes to them where they are."""

    def trained() -> list[Tensor]:
        torch.manual_seed(0)
        model, x = nn.Linear(3, 4), torch.randn(5, 3)
        opt = LessForgetting(AdamW(model.parameters(), lr=0.1), storage=Storage(rows="cpu"), **options)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=scaled)
        for _ in range(3):
            opt.zero_grad()
            for name, target in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
                with opt.constraint(name):
                    scaler.scale((model(x) - target).square().mean()).backward()
            scaler.step(opt)
            scaler.update()
        return [p.detach() for p in model.parameters()]

    plain = trained()
    monkeypatch.setattr("mgrad.storage._kept", lambda block, _: OnHost(block.clone()))
    assert_identical(trained(), plain)


def test_an_overflow_of_a_row_on_the_host_is_no_step_and_the_next_is_unscaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the parameters is empty, and nothing in it can overflow."""
    monkeypatch.setattr("mgrad.storage._kept", lambda block, _: OnHost(block.clone()))
    w, empty = Parameter(torch.ones(2)), Parameter(torch.ones(0))
    opt = LessForgetting(SGD([w, empty], lr=0.25), storage=Storage(rows="cpu"))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for factor, scale in ((float("inf"), 4.0), (2.0, 4.0)):
        opt.zero_grad()
        with opt.constraint("a"):
            scaler.scale(factor * w[0] + w[1] + empty.sum()).backward()
        scaler.step(opt)
        scaler.update()
        assert scaler.get_scale() == scale
    assert w.tolist() == [0.5, 0.75]
    assert opt.report is not None
    assert opt.report.gramian.tolist() == [[5.0]]


def test_the_table_of_the_docs_is_that_of_the_formula() -> None:
    text = (Path(__file__).parents[1] / "docs" / "how-to.md").read_text(encoding="utf-8")
    assert benchmark.fits() in text
    for n in benchmark.SIZES:
        for m in benchmark.LOSSES:
            sizes = [benchmark.needed(n, m, storage) for storage in benchmark.MODES.values()]
            assert sizes == sorted(sizes, reverse=True)  # each mode saves over the one before
            assert sizes[0] == pytest.approx((12 + 4 * (m + 1)) * n / 1e9)


def test_the_benchmark_measures_what_it_says() -> None:
    found = {mode: benchmark.measure("tiny", mode, 2) for mode in ("None", "bfloat16", "sketch")}
    for mode, error in (("None", 1e-6), ("bfloat16", 2 * U + U**2), ("sketch", 0.3)):
        assert found[mode]["gramian"] <= error
        assert found[mode]["short"] <= error
