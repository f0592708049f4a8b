"""The rows are autograd's own; their products are exact; the direction is formed in place. Integers make sums exact."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Embedding, Parameter

from mgrad import compiled
from mgrad.jacobian import Row, along, capture, combine, gramian, norm, products, shared_graphs, whole

HOST = torch.device("cpu")
SHAPES: list[tuple[int, ...]] = [(), (1,), (0, 3), (7,), (2, 5), (3, 2, 2)]


def integers(seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def flat(row: Row, parameters: list[Tensor]) -> Tensor:
    blocks = [torch.zeros_like(p) if (block := whole(row(p))) is None else block for p in parameters]
    return torch.cat([block.double().reshape(-1) for block in blocks])


class TestCapture:
    def test_gradients_in_one_memory_are_set_apart(self) -> None:
        """As autograd leaves them of parameters that are added as views: one is the other's, or a part of it."""
        w, u, v = Parameter(torch.ones(2, 3)), Parameter(torch.ones(4)), Parameter(torch.ones(10))
        factor, row = torch.arange(1.0, 11.0), dict[Tensor, Tensor]()
        both = torch.cat([w.view(6), u])
        with capture([w, u, v], row):
            ((both + v.view(10)) * factor).sum().backward()
        direction = combine([row.get], [2.0], [w, u, v])
        assert [d.reshape(-1).tolist() for d in direction if d is not None] == [
            (2 * factor[:6]).tolist(),
            (2 * factor[6:]).tolist(),
            (2 * factor).tolist(),
        ]

    def test_row_is_the_tensor_that_autograd_made(self) -> None:
        made: list[int] = []

        def note(parameter: Tensor) -> None:
            assert parameter.grad is not None
            made.append(parameter.grad.data_ptr())

        w, row = Parameter(torch.ones(5)), dict[Tensor, Tensor]()
        w.register_post_accumulate_grad_hook(note)
        with capture([w], row):
            w.square().sum().backward()
        assert [row[w].data_ptr()] == made

    def test_passes_add_up_within_a_block_and_over_blocks(self) -> None:
        w, row = Parameter(torch.ones(2)), dict[Tensor, Tensor]()
        with capture([w], row):
            w.sum().backward()
            (2 * w).sum().backward()
        with capture([w], row):
            (4 * w).sum().backward()
        assert row[w].tolist() == [7.0, 7.0]

    def test_gradients_from_outside_are_back_afterwards(self) -> None:
        w, u = Parameter(torch.ones(2)), Parameter(torch.ones(2))
        w.grad = outside = torch.full((2,), 5.0)
        with capture([w, u], {}):
            assert w.grad is None
            (w + u).sum().backward()
        assert w.grad is outside
        assert outside.tolist() == [5.0, 5.0]
        assert u.grad is None

    def test_gradients_from_outside_are_back_after_an_exception(self) -> None:
        w = Parameter(torch.ones(2))
        w.grad = outside = torch.full((2,), 5.0)
        row: dict[Tensor, Tensor] = {}
        with pytest.raises(KeyError), capture([w], row):
            w.sum().backward()
            raise KeyError
        assert w.grad is outside
        assert outside.tolist() == [5.0, 5.0]
        assert not row

    def test_a_parameter_that_took_no_part_has_no_block(self) -> None:
        w, u, row = Parameter(torch.ones(2)), Parameter(torch.ones(2)), dict[Tensor, Tensor]()
        with capture([w, u], row):
            w.sum().backward()
        assert list(row) == [w]

    def test_a_sparse_gradient_is_an_error(self) -> None:
        table = Embedding(4, 2, sparse=True)
        with pytest.raises(TypeError, match=r"must find dense gradients\. Found a sparse one .* sparse=False"):
            with capture(list(table.parameters()), {}):
                table(torch.tensor([1])).sum().backward()
        assert table.weight.grad is None


class TestGramian:
    @given(
        rows=st.integers(1, 4),
        present=st.lists(st.integers(0, 15), min_size=len(SHAPES), max_size=len(SHAPES)),
        window=st.integers(1, 12),
    )
    def test_equals_the_product_of_the_stacked_rows(self, rows: int, present: list[int], window: int) -> None:
        """Bit i of present[k]: row i has a block for parameter k. Windows so small that blocks are cut anywhere."""
        parameters = [torch.zeros(shape) for shape in SHAPES]
        blocks = [
            {p: integers(10 * i + k, p.shape) for k, p in enumerate(parameters) if present[k] >> i & 1}
            for i in range(rows)
        ]
        functions: list[Row] = [row.get for row in blocks]
        stacked = torch.stack([flat(row, parameters) for row in functions])
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(products._WINDOW, "cpu", (0, window))
            actual = gramian(functions, parameters, HOST)
        assert actual.dtype == torch.float64
        assert torch.equal(actual, stacked @ stacked.T)

    def test_reads_each_block_once(self) -> None:
        read: list[Tensor] = []

        def row(parameter: Tensor) -> Tensor:
            read.append(parameter)
            return torch.ones_like(parameter)

        parameters = [torch.zeros(3), torch.zeros(2)]
        gramian([row], parameters, HOST)
        assert [id(p) for p in read] == [id(p) for p in parameters]

    def test_blocks_of_other_memory_order_and_dtype_count_by_position(self) -> None:
        w = torch.zeros(2, 3, dtype=torch.bfloat16)
        a = integers(0, (2, 3), torch.bfloat16)
        b = integers(1, (3, 2), torch.bfloat16).T
        expected = torch.stack([a.double().reshape(-1), b.double().reshape(-1)])
        assert torch.equal(gramian([{w: a}.get, {w: b}.get], [w], HOST), expected @ expected.T)

    @pytest.mark.parametrize("size", [1e-30, 1e30])
    def test_squares_beyond_the_range_of_float32_are_kept(self, size: float) -> None:
        w, block = torch.zeros(1), torch.tensor([size])
        assert gramian([{w: block}.get], [w], HOST).item() == float(block.double()) ** 2


@pytest.fixture(scope="class", params=["loops", "BLAS"])
def road(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "BLAS":
            patch.setattr(compiled, "loops", lambda: None)
        yield


@pytest.mark.usefixtures("road")
class TestManyProducts:
    """Of more than 2¹⁵ float32 values: products in float32, shares of 2¹³ each or less (math.md, 120-122)."""

    SIZE = 2**17 + 12_345
    LOSS = 2.0**13 / 8 * 2.0**-24  # (120)

    def rows(self, m: int, seed: int, power: float = 0.0) -> tuple[Tensor, list[Tensor], list[Row]]:
        generator = torch.Generator().manual_seed(seed)
        J = 10.0**power * torch.randn(m, self.SIZE, generator=generator)
        parameters = [torch.zeros(2**16, 2), torch.zeros(12_345)]
        return J, parameters, self.cut(J, parameters)

    def cut(self, J: Tensor, parameters: list[Tensor]) -> list[Row]:
        parts = [(g[: 2**17].view(2**16, 2), g[2**17 :]) for g in J]
        return [dict(zip(parameters, part, strict=True)).get for part in parts]

    @given(st.integers(1, 20), st.integers(0, 2**32 - 1), st.floats(-12, 12))
    @settings(max_examples=20)
    def test_are_those_of_float64_to_the_bound(self, m: int, seed: int, power: float) -> None:
        J, parameters, rows = self.rows(m, seed, power)
        J[0, ::2] = J[0, 0]  # sums that round the same way every time
        exact, actual = J.double() @ J.double().T, gramian(rows, parameters, HOST)
        lengths = J.double().norm(dim=1)
        assert torch.equal(actual, actual.T)
        assert ((actual - exact).abs() <= self.LOSS * lengths[:, None] * lengths).all()

    def test_are_the_same_inside_of_autocast(self) -> None:
        """Which would take them of factors rounded to 2⁻⁹, far above the bound."""
        _, parameters, rows = self.rows(3, 0)
        outside = gramian(rows, parameters, HOST), *along(rows, rows[0], parameters, HOST)
        with torch.autocast("cpu", torch.bfloat16):
            inside = gramian(rows, parameters, HOST), *along(rows, rows[0], parameters, HOST)
        assert all(map(torch.equal, inside, outside))

    @pytest.mark.parametrize("mixed", [False, True])
    def test_are_taken_in_float64_where_torch_may_round_float32(
        self, mixed: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`set_float32_matmul_precision("medium")`, or oneDNN's own switch: there factors may have 8 bits."""
        monkeypatch.setattr(compiled, "loops", lambda: None)
        _, parameters, rows = self.rows(3, 0)
        wide = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
        narrow = dict(zip(wide, parameters, strict=True))

        def same(row: Row) -> Row:
            return lambda parameter: row(narrow[parameter])

        expected = gramian([same(row) for row in rows], wide, HOST)
        assert not torch.equal(gramian(rows, parameters, HOST), expected)
        before = torch.get_float32_matmul_precision()
        switch: Any = getattr(torch.backends.mkldnn, "matmul", None)
        if mixed and switch is None:
            pytest.skip("torch below 2.9 has no such switch")
        try:
            if mixed:
                switch.fp32_precision = "bf16"
            else:
                torch.set_float32_matmul_precision("medium")
            assert torch.equal(gramian(rows, parameters, HOST), expected)
        finally:
            torch.set_float32_matmul_precision(before)  # sets the switch, too
            if switch is not None:
                switch.fp32_precision = "none"

    @pytest.mark.parametrize("scale", [1e-30, 1e-21, 1.0, 1e21, 1e30])
    @pytest.mark.parametrize("away", [0.0, 1e-6, 1e-3])
    def test_nearly_dependent_rows_and_rows_of_any_size_have_the_products_of_float64(
        self, scale: float, away: float
    ) -> None:
        """Where the rows are nearly dependent a form aᵀGa is small beside G, and float32 would leave nothing of it."""
        J, parameters, _ = self.rows(3, 0)
        J[1] = -J[0] + away * J[2]
        J *= scale
        actual = gramian(self.cut(J, parameters), parameters, HOST)
        together = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
        exact = float((J[0].double() + J[1].double()).square().sum())
        error = 2.0**-40 * float(J[0].double().square().sum())
        assert float(together @ actual @ together) == pytest.approx(exact, rel=2.0**-40, abs=error)

    def test_a_row_that_is_zero_needs_no_second_look_and_one_whose_squares_are_does(self) -> None:
        J, parameters, _ = self.rows(2, 0)
        for value, looks in ((0.0, 2 + 2), (1e-30, 2 + 1 + 2)):
            J[1] = value
            count, functions = 0, self.cut(J, parameters)

            def second(parameter: Tensor, row: Row = functions[1]) -> Any:
                nonlocal count
                count += 1
                return row(parameter)

            actual = gramian([functions[0], second], parameters, HOST)
            # Once for the products of each parameter, and once to see whether all is 0, until something is not.
            assert count == looks
            assert actual[1, 1].item() == pytest.approx(self.SIZE * float(J[1, 0].double()) ** 2)

    @given(st.integers(2, 8), st.integers(0, 2**32 - 1), st.floats(0, 1))
    @settings(max_examples=20)
    def test_forms_are_right_to_a_sixteenth_whatever_the_rows(self, m: int, seed: int, away: float) -> None:
        J, parameters, _ = self.rows(m, seed)
        J[1:] = J[0] + 10.0 ** (-4 * away) * J[1:]
        exact, actual = J.double() @ J.double().T, gramian(self.cut(J, parameters), parameters, HOST)
        values = torch.linalg.eigvals(torch.linalg.solve(exact, actual)).real
        assert (values - 1).abs().max() <= 1 / 16


class TestInnerProducts:
    # Of so many equal values in turn float32 rounds every sum the same way: the worst case. BLAS adds up eight at a
    # time at least, over pieces of 2¹⁵ values.
    CONSTANT = 2.0**15 / 8 * 2.0**-24

    @given(st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 2**15, 2**15 + 1, 100_003]), st.floats(-35, 35))
    def test_are_those_of_float64(self, seed: int, size: int, power: float) -> None:
        """Also where float32 does not hold a square."""
        generator = torch.Generator().manual_seed(seed)
        w = torch.zeros(size)
        u, g = (10.0**power * torch.randn(size, generator=generator) for _ in range(2))
        g[::2] = g[0]
        (products,), (squares,) = along([{w: g}.get, {w: g.double()}.get], {w: u}.get, [w], HOST)
        lengths = torch.stack([g.double().norm(), g.double().norm(), u.double().norm()])
        assert ((products - g.double() @ u.double()).abs() <= self.CONSTANT * lengths[:-1] * lengths[-1]).all()
        assert ((squares - lengths**2).abs() <= self.CONSTANT * lengths**2).all()
        assert norm([u, g], HOST).item() == pytest.approx(float(torch.cat([u, g]).double().norm()), rel=self.CONSTANT)

    def test_what_a_row_or_the_vector_lacks_counts_as_0(self) -> None:
        w, v = torch.ones(2), torch.ones(3)
        products, squares = along([{w: w}.get, {v: v}.get], {w: 2 * w}.get, [w, v], HOST)
        assert products.tolist() == [[4.0, 0.0], [0.0, 0.0]]
        assert squares.tolist() == [[2.0, 0.0, 8.0], [0.0, 3.0, 0.0]]

    @pytest.mark.parametrize("size", [5e-324, 1e-200, 1e-30, 1e-12, 1e12, 1e30, 1e150])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_norms_are_kept_beyond_the_range_of_squares(self, dtype: torch.dtype, size: float) -> None:
        block = torch.tensor([3 * size, 4 * size], dtype=torch.float64).to(dtype)
        if not block.isfinite().all():
            block = torch.full((2,), torch.finfo(dtype).max, dtype=dtype)
        assert norm([block], HOST).item() == pytest.approx(math.hypot(*block.double().tolist()), rel=2.0**-22)

    def test_of_nothing_the_norm_is_0(self) -> None:
        assert norm([], HOST).item() == 0.0
        assert norm([torch.zeros(3), torch.zeros(0)], HOST).item() == 0.0


class TestCombine:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_is_the_weighted_sum_in_the_dtype_of_the_gradient(self, dtype: torch.dtype) -> None:
        w = torch.zeros(6, dtype=dtype)
        blocks = [integers(i, (6,), dtype) for i in range(3)]
        expected = 2 * blocks[0].double() - 3 * blocks[2].double()
        (total,) = combine([{w: block}.get for block in blocks], [2.0, 0.0, -3.0], [w])
        assert total is not None
        assert total.dtype == dtype
        assert torch.equal(total.double(), expected)

    def test_is_formed_in_the_memory_of_the_first_row_that_has_a_block(self) -> None:
        w = torch.zeros(2)
        first, second = torch.ones(2), torch.ones(2)
        empty: dict[Tensor, Tensor] = {}
        (total,) = combine([empty.get, {w: first}.get, {w: second}.get], [9.0, 2.0, 3.0], [w])
        assert total is not None
        assert total.data_ptr() == first.data_ptr()
        assert total.tolist() == [5.0, 5.0]
        assert second.tolist() == [1.0, 1.0]

    def test_no_block_at_all_is_no_gradient(self) -> None:
        empty: dict[Tensor, Tensor] = {}
        assert combine([empty.get], [1.0], [torch.zeros(2)]) == [None]

    def test_below_float32_the_sum_is_not_rounded_on_the_way(self) -> None:
        # In bfloat16, with 8 significant bits, 256 + 1 is 256.
        w = torch.zeros(1, dtype=torch.bfloat16)
        rows: list[Row] = [{w: torch.tensor([v], dtype=torch.bfloat16)}.get for v in (256.0, 1.0, -256.0)]
        (total,) = combine(rows, [1.0, 1.0, 1.0], [w])
        assert total is not None
        assert total.item() == 1.0

    def test_a_block_with_its_own_graph_is_no_obstacle(self) -> None:
        w = Parameter(torch.ones(2))
        row: dict[Tensor, Tensor] = {}
        with pytest.warns(UserWarning, match="create_graph"), capture([w], row):
            w.pow(3).sum().backward(create_graph=True)
        (total,) = combine([row.get], [2.0], [w])
        assert total is not None
        assert total.tolist() == [6.0, 6.0]


class Doubled(torch.autograd.Function):
    """A user's function that happens to call something `variable`, as autograd's leaves do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.variable = 1
        ctx.save_for_backward(x)
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        assert len(ctx.saved_tensors) == 1
        return 2 * gradient


class TestSharedGraphs:
    def test_parameters_alone_are_not_shared_operations(self) -> None:
        w = Parameter(torch.ones(2))
        assert shared_graphs([w.exp().sum(), w.exp().sum(), w.exp().sum()]) == [False, False, False]

    def test_a_trunk_is_kept_until_its_last_use(self) -> None:
        w = Parameter(torch.ones(2))
        trunk = w.exp()
        assert shared_graphs([trunk.sum(), trunk.prod(), w.sum(), trunk.norm()]) == [True, True, False, False]

    def test_a_loss_between_two_that_share_is_not_kept(self) -> None:
        w = Parameter(torch.ones(2))
        trunk = w.exp()
        assert shared_graphs([trunk.sum(), w.sum(), trunk.norm()]) == [True, False, False]

    def test_a_loss_given_twice_is_shared(self) -> None:
        loss = Parameter(torch.ones(2)).exp().sum()
        assert shared_graphs([loss, loss]) == [True, False]

    def test_a_bare_parameter_is_a_loss_without_a_graph(self) -> None:
        w = Parameter(torch.ones(()))
        assert shared_graphs([w, w]) == [False, False]

    @pytest.mark.parametrize("function", [torch.exp, Doubled.apply])
    def test_sharing_is_seen_through_any_operation(self, function: Callable[[Tensor], Tensor]) -> None:
        trunk = function(Parameter(torch.ones(2)))
        assert shared_graphs([trunk.sum(), trunk.prod()]) == [True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_rows_that_are_kept_are_as_before(dtype: torch.dtype, kind: torch.dtype) -> None:
    """Also of the type in which the sums of a narrower parameter are formed, as averages are."""
    parameter = torch.zeros(5, dtype=dtype)
    rows = [{parameter: integers(seed, (5,), kind)} for seed in range(2)]
    before = [row[parameter].clone() for row in rows]
    (found,) = combine([row.get for row in rows], [2.0, -3.0], [parameter], keep=True)
    assert found is not None
    assert found.tolist() == (2 * before[0] - 3 * before[1]).tolist()
    assert [row[parameter].tolist() for row in rows] == [block.tolist() for block in before]
