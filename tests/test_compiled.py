"""Compiled loops read blocks where they stand: their products and sums are those of float64 to a bound, or none are."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

from mgrad import Anchor, LessForgetting, compiled, jacobian
from mgrad.anchor import Pull
from mgrad.compiled import Difference, Table

Block = Tensor | Difference | None
EPS = 2.0**-24  # of a rounding to float32
K = 384  # products in a sum of float32


def random(size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def dense(block: Block, size: int) -> Tensor:
    """Return the values of a block in float64; those of a difference as float32 forms them."""
    if block is None:
        return torch.zeros(size, dtype=torch.float64)
    if isinstance(block, Difference):
        return (block.factor * (block.x - block.y)).double().flatten()
    return block.double().flatten()


def flat(table: Sequence[Sequence[Block]]) -> Tensor:
    """Return rows [k, n], from the blocks of each parameter; sizes are those of what is there."""
    columns = []
    for blocks in table:
        size = max((len(dense(block, 0)) for block in blocks), default=0)
        columns.append(torch.stack([dense(block, size) for block in blocks]))
    return torch.cat(columns, dim=1)


@st.composite
def tables(draw: st.DrawFn) -> list[list[Block]]:
    """Draw the blocks of a few parameters: of sizes about K, in any unit, missing, differences, equal, opposite."""
    count, seed = draw(st.integers(1, 8)), draw(st.integers(0, 2**31))
    # A missing block is one of every parameter or of some.
    sizes = draw(st.lists(st.sampled_from([0, 1, 3, K - 1, K, K + 1, 2 * K, 3 * K + 7]), min_size=1, max_size=4))
    table: list[list[Block]] = []
    for p, size in enumerate(sizes):
        blocks: list[Block] = []
        for i in range(count):
            kind = draw(st.sampled_from(["row", "row", "row", "none", "way", "first", "opposite"]))
            scale = 10.0 ** draw(st.integers(-12, 12))
            values = scale * random(size, seed + 100 * p + i)
            if kind == "way":
                blocks.append(Difference(values, scale * random(size, seed + 7000 + i), draw(st.floats(0.0, 2.0))))
            elif kind in {"first", "opposite"} and blocks and isinstance(first := blocks[0], Tensor):
                blocks.append(first * (1.0 if kind == "first" else -1.0))
            else:
                blocks.append(None if kind == "none" else values)
        if all(block is None for block in blocks):
            blocks[0] = random(size, seed)
        table.append(blocks)
    return table


class TestProducts:
    @given(tables(), st.sampled_from([1, 2, 3]))
    def test_are_those_of_float64_to_the_bound(self, table: list[list[Block]], threads: int) -> None:
        """K products, in any order, lose K·ε of their absolute values at most, and what underflows (math.md, 120)."""
        found, J = products(table, threads), flat(table)
        lengths = J.norm(dim=1)
        assert torch.equal(found, found.T)
        assert ((found - J @ J.T).abs() <= K * EPS * lengths[:, None] * lengths + J.shape[1] * 2.0**-126).all()

    @pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
    @pytest.mark.parametrize("place", [0, K, 3 * K])
    def test_what_is_not_finite_stays_so(self, value: float, place: int) -> None:
        """The solver refuses such rows by what it sees of them in G; loops may reorder sums, not lose this."""
        g, h = random(3 * K + 1, 0), random(3 * K + 1, 1)
        g[place] = value
        way = Difference(g, h, 1.0)
        found = products([[g, h, None, way]])
        assert found[[0, 3]][:, [0, 1, 3]].isfinite().sum() == 0
        assert found[1, 1].isfinite()
        assert (found[2] == 0.0).sum() == 2  # 0 times what is not finite is no number
        (total,) = combine([[g, h, None, way]], [1.0, 1.0, 1.0, -0.5])
        assert total.isfinite().logical_not().nonzero().tolist() == [[place]]

    def test_sums_of_float32_are_short(self) -> None:
        """2²⁴ + 1 is no float32."""
        g = torch.zeros(2 * K)
        g[0], g[K] = 2.0**12, 1.0
        assert products([[g]]).item() == 2**24 + 1

    def test_are_the_same_every_time(self) -> None:
        table: list[list[Block]] = [[random(100_000, i) for i in range(4)]]
        first = products(table, threads=3)
        assert all(torch.equal(products(table, threads=3), first) for _ in range(5))

    def test_of_a_part_of_a_tensor_are_its_own(self) -> None:
        g = torch.arange(20.0)
        assert products([[g[3:13]]]).item() == sum(value**2 for value in range(3, 13))

    def test_an_error_in_any_thread_is_raised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*given: Any) -> None:
            raise MemoryError

        monkeypatch.setattr(compiled.loops(), "products", fail)
        with pytest.raises(MemoryError):
            products([[random(100_000, 0)]], threads=3)

    def test_of_nothing_are_0(self) -> None:
        assert torch.equal(Table(2).products(), torch.zeros(2, 2, dtype=torch.float64))


class TestCombine:
    @given(tables(), st.sampled_from([1, 2, 3]), st.data())
    def test_is_the_weighted_sum_to_rounding(self, table: list[list[Block]], threads: int, data: st.DataObject) -> None:
        """k products and sums of float32, and a rounding of each difference: (2k + 1)ε of the absolute values."""
        factors = data.draw(st.lists(st.floats(-3, 3, width=16), min_size=len(table[0]), max_size=len(table[0])))
        J, c = flat(table), torch.tensor(factors, dtype=torch.float64)
        size = c.abs() @ J.abs()
        targets = combine(table, factors, threads)
        found = torch.cat([target.flatten() for target in targets]).double()
        assert ((found - c @ J).abs() <= (2 * len(c) + 1) * EPS * size + 2.0**-126).all()

    def test_a_row_of_factor_0_is_not_read(self) -> None:
        g, h = random(K, 0), torch.full((K,), float("nan"))
        (target,) = combine([[g, h]], [2.0, 0.0])
        assert torch.equal(target, 2 * g)


class Tagged(Tensor):
    """A tensor of a type of its own, which may hold its values elsewhere."""


def inference() -> Tensor:
    with torch.inference_mode():
        return torch.ones(4)


def released() -> Tensor:
    block = torch.ones(4)
    block.untyped_storage().resize_(0)
    return block


REFUSED: dict[str, Callable[[], Any]] = {
    "more values": lambda: torch.ones(5),
    "fewer values to subtract": lambda: Difference(torch.ones(4), torch.ones(3), 1.0),
    "on another device": lambda: torch.ones(4, device="meta"),
    "on another device to subtract": lambda: Difference(torch.ones(4), torch.ones(4, device="meta"), 1.0),
    "released": released,
    "not to be changed": inference,
    "not contiguous to subtract": lambda: Difference(torch.ones(4), torch.ones(4, 2)[:, 0], 1.0),
    "float64": lambda: torch.ones(4, dtype=torch.float64),
    "bfloat16": lambda: torch.ones(4, dtype=torch.bfloat16),
    "not contiguous": lambda: torch.ones(4, 2)[:, 0],
    "negative by a flag": lambda: torch.ones(4, dtype=torch.complex64).conj().imag,
    "a subclass": lambda: torch.ones(4).as_subclass(Tagged),
    "a difference from bfloat16": lambda: Difference(torch.ones(4), torch.ones(4, dtype=torch.bfloat16), 1.0),
    "formed piece by piece": lambda: Pull(torch.ones(4), torch.ones(4), 1.0, [torch.ones(4)]),
}


class TestAdd:
    @pytest.mark.parametrize("kind", REFUSED)
    def test_takes_nothing_of_a_parameter_that_it_cannot_read(self, kind: str) -> None:
        table = Table(2)
        assert not table.add([torch.ones(4), REFUSED[kind]()])
        assert table.add([torch.ones(4), None])
        assert table.products().tolist() == [[4.0, 0.0], [0.0, 0.0]]

    def test_takes_no_target_of_another_type(self) -> None:
        assert not Table(1).add([torch.ones(4)], torch.ones(4, dtype=torch.bfloat16))


class TestStep:
    """A whole step is the same with and without the loops."""

    def rows(self) -> Tensor:
        """Three gradients and θ − θ₀, of integers: whatever the order, their products are exact."""
        return torch.randint(-4, 5, (4, 2**17), generator=torch.Generator().manual_seed(0)).float()

    def direction(self, **options: Any) -> tuple[Tensor, Any]:
        *gradients, way = self.rows()
        w = Parameter(torch.zeros(2**17))
        opt = LessForgetting(torch.optim.SGD([w], lr=0.1), anchor=Anchor([-way]), **options)
        opt.backward([(w * gradient).sum() for gradient in gradients])
        assert w.grad is not None
        return w.grad, opt.report

    def test_parameters_that_loops_cannot_read_count_as_the_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of integers, whose sums are exact; in several tables, too."""
        generator = torch.Generator().manual_seed(0)
        parameters = [torch.zeros(300, 300), torch.zeros(300, 300), torch.zeros(200, 300)]
        blocks = [torch.randint(-4, 5, (3, *p.shape), generator=generator).float() for p in parameters]
        laid = [blocks[0], blocks[1].transpose(1, 2).contiguous().transpose(1, 2), blocks[2]]
        rows = [{p: of[i] for p, of in zip(parameters, laid, strict=True)}.get for i in range(3)]
        J = torch.cat([of.double().flatten(1) for of in blocks], dim=1)
        for held in (1 << 23, 1):
            monkeypatch.setattr(compiled, "_HELD", held)
            assert torch.equal(jacobian.gramian(rows, parameters, torch.device("cpu")), J @ J.T)
            total = jacobian.combine(rows, [2.0, 0.0, -3.0], parameters, keep=True)
            assert torch.equal(torch.cat([t.flatten() for t in total if t is not None]).double(), 2 * J[0] - 3 * J[2])

    def test_coefficients_beyond_float32_are_refused_as_by_torch(self) -> None:
        w = torch.zeros(2**17)
        with pytest.raises(RuntimeError, match="overflow"):
            jacobian.combine([{w: random(2**17, i)}.get for i in range(2)], [1.0, 1e40], [w])

    def test_tells_autograd_what_it_overwrites(self) -> None:
        w, g = torch.zeros(2**17), random(2**17, 0)
        kept = (Parameter(torch.ones(2**17)) * g).sum()  # its backward pass needs g as it is
        (direction,) = jacobian.combine([{w: g}.get], [2.0], [w])
        assert direction is not None
        assert direction.data_ptr() == g.data_ptr()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            kept.backward()

    @pytest.mark.parametrize("options", [{}, {"normalise": "gradient"}, {"enforce": "step"}], ids=str)
    def test_is_that_of_torch(self, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        """The multipliers to the digit; d to the roundings of two sums of four products each."""
        fast, report = self.direction(**options)
        monkeypatch.setattr(compiled, "loops", lambda: None)
        slow, other = self.direction(**options)
        assert report.multipliers.tolist() == other.multipliers.tolist()
        size = torch.tensor([*report.multipliers, report.pull]).double().abs() @ self.rows().double().abs()
        assert ((fast - slow).double().abs() <= 2 * (2 * 4 + 1) * EPS * size).all()

    def test_is_taken_by_loops(self, monkeypatch: pytest.MonkeyPatch) -> None:
        taken: list[str] = []

        def noted(name: str) -> Callable[..., Any]:
            call = getattr(Table, name)

            def method(*given: Any) -> Any:
                taken.append(name)
                return call(*given)

            return method

        for name in ("products", "combine"):
            monkeypatch.setattr(Table, name, noted(name))
        self.direction()
        assert taken == ["products", "combine"]


STEP = (
    "import torch, mgrad\n"
    "from mgrad import compiled\n"
    "model = torch.nn.Linear(400, 400)\n"
    "opt = mgrad.LessForgetting(torch.optim.SGD(model.parameters(), lr=0.1))\n"
    "opt.backward([model(torch.ones(2, 400)).square().mean()])\n"
    "opt.step()\n"
)


NOT_INSTALLED = "import sys; sys.modules['numba'] = None\n"
BROKEN = "import numba\ndef njit(*given, **named): raise OSError('no LLVM')\nnumba.njit = njit\n"


@pytest.mark.parametrize(
    ("before", "environment", "warnings"),
    [(NOT_INSTALLED, {}, 0), ("", {"NUMBA_DISABLE_JIT": "1"}, 0), (BROKEN, {}, 1)],
    ids=["not installed", "switched off", "broken"],
)
def test_mgrad_works_where_numba_does_not(before: str, environment: dict[str, str], warnings: int) -> None:
    command = [sys.executable, "-c", f"{before}{STEP}assert compiled.loops() is None"]
    process = subprocess.run(command, check=True, env=os.environ | environment, capture_output=True, text=True)
    assert process.stderr.count("numba cannot compile the loops of mgrad") == warnings


OTHER_PROCESSOR = """
import llvmlite.binding, torch
llvmlite.binding.get_host_cpu_features = dict
from mgrad import compiled, kernels
assert kernels.LANES == 8
rows, start = torch.randn(4, 1001, generator=torch.Generator().manual_seed(0)), torch.ones(1001)
table = compiled.Table(5)
table.add([*rows, compiled.Difference(rows[0], start, 0.5)])
exact = torch.cat([rows, (rows[:1] - start) / 2]).double()
exact = exact @ exact.T
sizes = exact.diagonal().sqrt()
assert ((table.products() - exact).abs() <= 1001 * 2.0**-24 * sizes * sizes[:, None]).all()
"""


def test_a_processor_without_long_vectors_computes_the_same() -> None:
    plainest = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    subprocess.run([sys.executable, "-c", OTHER_PROCESSOR], check=True, env=os.environ | plainest)


def test_a_thread_may_train_while_python_ends() -> None:
    script = f"""
import threading, time
def train():
    time.sleep(1)
    compiled._PART = 1
    exec({STEP!r}, {{}})
    print("done")
import torch
from mgrad import compiled
torch.set_num_threads(2)
threading.Thread(target=train).start()
"""
    process = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert process.stdout == "done\n"


def products(table: Sequence[Sequence[Block]], threads: int = 2) -> Tensor:
    """Return the products of a table's rows, in so many threads whatever the size."""
    found: Tensor = _run(table, threads, lambda made: made.products())
    return found


def combine(table: Sequence[Sequence[Block]], factors: Sequence[float], threads: int = 2) -> list[Tensor]:
    """Return the combination of a table's rows, in tensors of its own."""
    targets = [torch.empty(max(len(dense(block, 0)) for block in blocks)) for blocks in table]
    _run(table, threads, lambda made: made.combine(factors), targets)
    return targets


def _run(
    table: Sequence[Sequence[Block]], threads: int, call: Callable[[Table], Any], targets: Sequence[Any] = ()
) -> Any:
    made, before = Table(len(table[0])), torch.get_num_threads()
    for p, blocks in enumerate(table):
        assert made.add(blocks, targets[p] if targets else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_PART", 1)
        torch.set_num_threads(threads)
        try:
            return call(made)
        finally:
            torch.set_num_threads(before)
