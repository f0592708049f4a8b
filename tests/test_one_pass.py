"""Rows from one pass are those of separate passes, whatever the module; what one pass cannot tell apart is said."""

import copy
import gc
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, rms_norm
from torch.nn.utils.parametrizations import weight_norm
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint

from mgrad import HalfBatches, LessForgetting
from mgrad.one_pass import OnePass, check_examples, passes
from mgrad.one_pass.together import backward_together
from tests.training import assert_identical, gradients, weights

WIDTH, TOKENS, WORDS = 6, 4, 12
COUNTS = {"en": 3, "de": 1, "fr": 2}

Row = dict[Tensor, Tensor]


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the losses of every pass that was one for all."""
    counts: list[int] = []

    def counted(plan: Any, losses: Any, *others: Any) -> Any:
        counts.append(len(losses))
        return backward_together(plan, losses, *others)

    monkeypatch.setattr(passes, "backward_together", counted)
    return counts


# ---------------------------------------------------------------------------------------------------------- modules


class Use(nn.Module):
    """A function of x [N, T, WIDTH] with weights of its own, of the shapes given."""

    def __init__(self, function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(torch.randn(shape) / 2 for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.weights)


class Around(nn.Module):
    """A module within a function of x and the module."""

    def __init__(self, function: Callable[[Tensor, Any], Any], module: nn.Module) -> None:
        super().__init__()
        self.function, self.module = function, module

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self.module)


class Lora(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(2, WIDTH)), nn.Parameter(torch.zeros(WIDTH, 2))

    def forward(self, x: Tensor) -> Any:
        return self.base(x) + linear(linear(x, self.a), self.b)


def positions(x: Tensor, table: Tensor) -> Tensor:
    return x + embedding(torch.arange(x.shape[1]), table)


def first_token(x: Tensor, token: Tensor) -> Tensor:
    return torch.cat([token.expand(len(x), 1, WIDTH), x], 1)[:, : x.shape[1]] + x


def turned(x: Tensor, module: Any) -> Any:
    return module(x.mT).mT


def time_first(x: Tensor, module: Any) -> Any:
    return module(x.transpose(0, 1)).transpose(0, 1)


def first(x: Tensor, module: Any) -> Any:
    return module(x)[0]


def with_itself(x: Tensor, module: Any) -> Any:
    return module(x, x, x, need_weights=False)[0]


def flattened(x: Tensor, module: Any) -> Any:
    return module(x.flatten(0, 1)).view_as(x)


# Modules that split: kind → how to make one.
SPLIT: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "no bias": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    "tokens flattened": lambda: Around(flattened, nn.Linear(WIDTH, WIDTH)),
    "tokens first": lambda: Around(time_first, nn.Linear(WIDTH, WIDTH)),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "layer norm over two": lambda: nn.LayerNorm((TOKENS, WIDTH)),
    "rms norm": lambda: nn.RMSNorm(WIDTH),
    "group norm": lambda: Around(turned, nn.GroupNorm(2, WIDTH)),
    "instance norm": lambda: Around(turned, nn.InstanceNorm1d(WIDTH, affine=True)),
    "batch norm, evaluated": lambda: Around(turned, nn.BatchNorm1d(WIDTH).eval()),
    "convolution": lambda: Around(turned, nn.Conv1d(WIDTH, WIDTH, 3, padding=1)),
    "convolution, grouped": lambda: Around(turned, nn.Conv1d(WIDTH, WIDTH, 3, padding="same", groups=3, bias=False)),
    "convolution, transposed": lambda: Around(turned, nn.ConvTranspose1d(WIDTH, WIDTH, 3, padding=1)),
    "attention": lambda: Around(with_itself, nn.MultiheadAttention(WIDTH, 2, batch_first=True)),
    "attention, tokens first": lambda: Around(
        lambda x, module: time_first(x, lambda y: with_itself(y, module)), nn.MultiheadAttention(WIDTH, 2)
    ),
    "encoder": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.0, batch_first=True),
    "lstm": lambda: Around(first, nn.LSTM(WIDTH, WIDTH, batch_first=True)),
    "gru": lambda: Around(first, nn.GRU(WIDTH, WIDTH, batch_first=True)),
    "prelu": nn.PReLU,
    "bilinear": lambda: Around(lambda x, module: module(x, x), nn.Bilinear(WIDTH, WIDTH, WIDTH)),
    "called twice": lambda: Around(lambda x, module: module(torch.tanh(module(x))), nn.Linear(WIDTH, WIDTH)),
    "weight norm": lambda: weight_norm(nn.Linear(WIDTH, WIDTH)),
    "lora": Lora,
    "frozen weight": lambda: _frozen(nn.Linear(WIDTH, WIDTH), "weight"),
    "frozen bias": lambda: _frozen(nn.LayerNorm(WIDTH), "bias"),
    "scale": lambda: Use(torch.mul, (WIDTH,)),
    "scale of tokens": lambda: Use(lambda x, w: w * x, (1, TOKENS, 1)),
    "shift, twice": lambda: Use(lambda x, w: torch.add(torch.sub(x, w, alpha=2), w, alpha=3), (WIDTH,)),
    "shift, before": lambda: Use(lambda x, w: torch.add(w, x, alpha=2), (WIDTH,)),
    "matrix": lambda: Use(torch.matmul, (WIDTH, WIDTH)),
    "addmm": lambda: Use(
        lambda x, b, w: torch.addmm(b, x.flatten(0, 1), w, beta=2, alpha=3).view_as(x), (WIDTH,), (WIDTH, WIDTH)
    ),
    "einsum": lambda: Use(lambda x, w: torch.einsum("nti,ij->ntj", x, w), (WIDTH, WIDTH)),
    "low rank": lambda: Use(lambda x, a, b: x + x @ (a @ b), (WIDTH, 2), (2, WIDTH)),
    "sum of weights": lambda: Use(lambda x, p, q: x * (p + q), (WIDTH,), (WIDTH,)),
    "chunks of a weight": lambda: Use(lambda x, w: linear(torch.tanh(linear(x, w[:6])), w[6:]), (12, WIDTH)),
    "scalar": lambda: Use(lambda x, w: x * w.exp(), ()),
    "rms norm, functional": lambda: Use(lambda x, w: rms_norm(x, (WIDTH,), w), (WIDTH,)),
    "positions": lambda: Use(positions, (TOKENS, WIDTH)),
    "first token": lambda: Use(first_token, (1, 1, WIDTH)),
}


def _frozen(module: nn.Module, name: str) -> nn.Module:
    module.get_parameter(name).requires_grad_(False)
    return module


class Model(nn.Module):
    """Words, blocks, and words again by the same table."""

    def __init__(self, kinds: list[str], dropout: float = 0.0) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        self.blocks = nn.ModuleList(SPLIT[kind]() for kind in kinds)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Any:
        x = self.words(ids)
        for block in self.blocks:
            x = x + torch.tanh(self.dropout(block(x)))
        return x @ self.words.weight.T


def model(*kinds: str, seed: int = 0, dropout: float = 0.0) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Model(list(kinds), dropout).double()


def batch(counts: Mapping[str, int], step: int, tokens: int = TOKENS) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(WORDS, (sum(counts.values()), tokens), generator=generator)


def losses(outputs: Tensor, counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Return a loss for each, over its own outputs."""
    parts = dict(zip(counts, outputs.split(list(counts.values())), strict=True))
    return {name: torch.logsumexp(part, -1).square().mean() for name, part in parts.items()}


def rows(known: OnePass, found: Mapping[str, Tensor], counts: Mapping[str, int], trained: nn.Module) -> list[Row]:
    spans = check_examples(counts, {name: [loss] for name, loss in found.items()})
    parameters = [p for p in trained.parameters() if p.requires_grad]
    return known.rows(list(found.values()), [torch.ones_like(loss) for loss in found.values()], spans, parameters)


def separate(found: Mapping[str, Tensor], trained: nn.Module) -> list[Row]:
    """Return the rows from a pass for each loss."""
    parameters = [p for p in trained.parameters() if p.requires_grad]
    made = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in found.values()]
    return [{p: g for p, g in zip(parameters, row, strict=True) if g is not None} for row in made]


def assert_equal_rows(actual: list[Row], expected: list[Row], relative: float = 1e-11) -> None:
    """Sums of at most 10³ products in another order: 10³ ε of the row; a block may be what is left of larger terms."""
    for one, other in zip(actual, expected, strict=True):
        assert set(one) == set(other)
        size = max(float(block.norm()) for block in other.values())
        for parameter, block in other.items():
            assert one[parameter].shape == parameter.shape
            assert one[parameter].dtype == parameter.dtype
            assert float((one[parameter] - block).norm()) <= relative * size


def move(trained: nn.Module, made: list[Row]) -> None:
    """Take a small step, so that what starts at 0 is so no longer."""
    with torch.no_grad():
        for row in made:
            for parameter, block in row.items():
                parameter -= 0.01 * block


# ------------------------------------------------------------------------------------------------------------ equal


@pytest.mark.parametrize("kind", SPLIT)
def test_rows_are_those_of_separate_forward_and_backward_passes(kind: str, taken: list[int]) -> None:
    trained, known = model(kind), OnePass()
    for step in range(7):
        ids = batch(COUNTS, step)
        made = rows(known, losses(trained(ids), COUNTS), COUNTS, trained)
        apart = {
            name: torch.logsumexp(trained(part), -1).square().mean()
            for name, part in zip(COUNTS, ids.split(list(COUNTS.values())), strict=True)
        }
        assert_equal_rows(made, separate(apart, trained))
        move(trained, made)
    assert taken.count(3) >= 2  # the 3rd, 5th, 6th and 7th, fewer where expressions are many


@given(
    kinds=st.lists(st.sampled_from(sorted(SPLIT)), max_size=4),
    counts=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    tokens=st.integers(1, 6),
    dropout=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 99),
)
def test_rows_of_any_chain_of_modules_are_those_of_separate_passes(
    kinds: list[str], counts: list[int], tokens: int, dropout: float, seed: int
) -> None:
    """With dropout: over the same graph, as another forward pass would draw others."""
    if "instance norm" in kinds:
        tokens += 1  # it refuses a single place
    if any("over two" in kind or "of tokens" in kind or kind == "positions" for kind in kinds):
        tokens = TOKENS
    trained, known = model(*kinds, seed=seed, dropout=dropout), OnePass()
    named = {str(i): count for i, count in enumerate(counts)}
    for step in range(5):
        found = losses(trained(batch(named, step, tokens)), named)
        expected = separate(found, trained)
        made = rows(known, found, named, trained)
        assert_equal_rows(made, expected)
        move(trained, made)


@pytest.mark.parametrize(("kind", "odd"), [(kind, place % 2) for place, kind in enumerate(SPLIT)])
def test_parameters_of_another_optimizer_get_the_gradient_of_the_sum(kind: str, odd: int, taken: list[int]) -> None:
    """Every second parameter is of the other one."""
    trained, known = model(kind, "linear"), OnePass()
    trainable: list[Tensor] = [p for p in trained.parameters() if p.requires_grad]
    ours, others = trainable[odd::2], trainable[1 - odd :: 2]
    seen = list[Tensor]()
    others[0].register_post_accumulate_grad_hook(seen.append)
    for step in range(7):
        trained.zero_grad()
        others[-1].grad = before = torch.ones_like(others[-1])  # is added to
        found = losses(trained(batch(COUNTS, step)), COUNTS)
        expected = torch.autograd.grad(list(found.values()), others, retain_graph=True, allow_unused=True)
        separated = [{p: row[p] for p in ours if p in row} for row in separate(found, trained)]
        spans = check_examples(COUNTS, {name: [loss] for name, loss in found.items()})
        made = known.rows(list(found.values()), [torch.ones_like(loss) for loss in found.values()], spans, ours)
        assert_equal_rows(made, separated)
        sums = {p: g + (p is others[-1]) for p, g in zip(others, expected, strict=True) if g is not None}
        theirs = {p: p.grad for p in others if p.grad is not None}
        assert_equal_rows([theirs], [sums])
        assert others[-1].grad is before
        assert all(p.grad is None for p in ours)
        move(trained, [*made, theirs])
    assert taken.count(3) >= 2
    assert len(seen) == 3 * (7 - taken.count(3)) + taken.count(3)


def test_a_hook_of_another_tensor_sees_every_row(taken: list[int]) -> None:
    trained, known = model("linear"), OnePass()
    bias = trained.blocks[0].get_parameter("bias")
    bias.register_hook(torch.tanh)
    ours = [p for p in trained.parameters() if p is not bias]

    def take(step: int) -> None:
        found = losses(trained(batch(COUNTS, step)), COUNTS)
        expected = sum(torch.autograd.grad(loss, bias, retain_graph=True)[0] for loss in found.values())
        spans = check_examples(COUNTS, {name: [loss] for name, loss in found.items()})
        bias.grad = None
        known.rows(list(found.values()), [torch.ones_like(loss) for loss in found.values()], spans, ours)
        torch.testing.assert_close(bias.grad, expected)

    (said,) = warned(take, steps=3)
    assert "Found hooks on tensors that are no parameters" in said
    assert taken == []


@pytest.mark.parametrize("reenters", [False, True])
def test_tensors_behind_a_checkpoint_get_their_gradients(reenters: bool, taken: list[int]) -> None:
    """Reentrant checkpoints take part in no pass that ends where it is asked to, and so all losses have passes."""
    lower, head, known = nn.Linear(WIDTH, WIDTH).double(), nn.Linear(WIDTH, 2).double(), OnePass()
    ours = [*head.parameters()]

    def take(step: int) -> None:
        x = inputs(step).requires_grad_()
        found = losses(head(checkpoint(lower, x, use_reentrant=reenters)), COUNTS)
        spans = check_examples(COUNTS, {name: [loss] for name, loss in found.items()})
        known.rows(list(found.values()), [torch.ones_like(loss) for loss in found.values()], spans, ours)
        expected = inputs(step).requires_grad_()
        torch.autograd.backward(list(losses(head(lower(expected)), COUNTS).values()))
        torch.testing.assert_close(x.grad, expected.grad)

    said = warned(take, steps=7)
    assert bool(taken) is not reenters
    assert ["reentrant checkpointing" in text for text in said] == [True] * reenters


SIZES = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 32}
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 16}


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_models_of_transformers_need_no_care(kind: str, taken: list[int]) -> None:
    """Positions and types that all examples share, masks, dropout, tied words; other lengths at every step."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trained: Any = (
            transformers.BertForMaskedLM(transformers.BertConfig(**SIZES))
            if kind == "bert"
            else transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, tie_word_embeddings=True))
        )
    trained.double().train()
    known = OnePass()
    for step in range(6):
        ids, mask = batch(COUNTS, step, 6 + step), torch.ones(6, 6 + step, dtype=torch.long)
        mask[::2, 4:] = 0
        found = losses(trained(input_ids=ids, attention_mask=mask).logits, COUNTS)
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, COUNTS, trained), expected)
    assert taken == [3, 3, 3]


def test_batches_of_other_sizes_need_no_look(taken: list[int]) -> None:
    trained, known = model("encoder", "tokens first"), OnePass()
    for step, (counts, tokens) in enumerate(
        [((3, 1, 2), 4), ((3, 1, 2), 4), ((1, 1, 5), 7), ((2, 2, 2), 6), ((4, 3, 1), 8), ((1, 2, 1), 3)]
    ):
        named = dict(zip(COUNTS, counts, strict=True))
        found = losses(trained(batch(named, step, tokens)), named)
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, named, trained), expected)
    assert taken == [3, 3, 3]


@pytest.mark.parametrize("tokens", [1, 2, 6, 12])
def test_positions_are_not_taken_for_examples(tokens: int, taken: list[int]) -> None:
    """6 examples: of tables with as many entries, or with multiples."""
    counts = {"en": 3, "de": 3}
    trained, known = (
        nn.Sequential(nn.Embedding(WORDS, WIDTH), Use(positions, (tokens, WIDTH)), nn.Linear(6, 6)),
        OnePass(),
    )
    trained.double()
    for step in range(4):
        found = losses(trained(batch(counts, step, tokens)), counts)
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, counts, trained), expected)
    assert 2 in taken


def test_the_order_in_the_batch_is_that_of_the_examples(taken: list[int]) -> None:
    trained, known = model("linear"), OnePass()
    for step in range(3):
        found = losses(trained(batch(COUNTS, step)), COUNTS)
        other_way = dict(reversed(found.items()))
        expected = separate(other_way, trained)
        assert_equal_rows(rows(known, other_way, COUNTS, trained), expected)
    assert taken == [3]


def test_heads_and_penalties_of_one_loss_belong_to_it(taken: list[int]) -> None:
    trained = nn.ModuleDict({"body": model("encoder"), "en": nn.Linear(WORDS, 2), "de": nn.Linear(WORDS, 2)}).double()
    known, counts = OnePass(), {"en": 2, "de": 3}
    for step in range(5):
        parts = dict(zip(counts, trained["body"](batch(counts, step)).split([2, 3]), strict=True))
        found = {name: trained[name](part).square().mean() for name, part in parts.items()}
        found["en"] = found["en"] + sum(p.square().sum() for p in trained["body"].parameters())
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, counts, trained), expected)
    assert taken == [2, 2]


@pytest.mark.parametrize("flat", [False, True])
def test_losses_may_look_at_what_is_between_the_layers(flat: bool, taken: list[int]) -> None:
    """One of its inputs is then another operation than a layer, or comes from the losses by two ways."""
    trained, known, counts = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 2)]).double(), OnePass(), {"en": 2, "de": 3}
    for _ in range(5):
        hidden = torch.tanh(trained[0](torch.randn(5, 6, 3, dtype=torch.float64)))
        seen = hidden.view(30, 4) if flat else hidden
        outputs = trained[1](seen.tanh())
        parts = zip(counts, outputs.view(5, 6, 2).split([2, 3]), seen.view(5, 24).split([2, 3]), strict=True)
        found = {name: part.square().mean() + other.sin().mean() for name, part, other in parts}
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, counts, trained), expected)
    assert taken == [2, 2]


def test_examples_may_lie_along_the_columns_of_a_product(taken: list[int]) -> None:
    """As many columns as examples: nothing of the rule for rows is right there."""
    known, trained = (
        OnePass(),
        Use(lambda x, w: x + torch.mm(torch.ones(TOKENS, WIDTH).double(), w).T[..., None], (6, 6)),
    )
    trained.double()
    for step in range(5):
        found = losses(trained(inputs(step)), COUNTS)
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, COUNTS, trained), expected)
    assert taken == [3, 3]


def test_batch_norm_of_one_loss_alone_mixes_nobody_elses(taken: list[int]) -> None:
    trained = nn.ModuleDict({"body": nn.Linear(WIDTH, 4), "en": nn.BatchNorm1d(4), "de": nn.Identity()}).double()
    known, counts = OnePass(), {"en": 3, "de": 3}
    for step in range(3):
        parts = dict(zip(counts, trained["body"](inputs(step)[:, 0]).split(3), strict=True))
        found = {name: trained[name](part).sin().mean() for name, part in parts.items()}
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, counts, trained), expected)
    assert taken == [2]


def test_graphs_that_are_not_shared_are_separated_without_a_look(taken: list[int]) -> None:
    trained, known = model("linear"), OnePass()
    for _ in range(3):
        found = {name: next(iter(losses(trained(batch({name: 2}, 0)), {name: 2}).values())) for name in ("en", "de")}
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, {"en": 2, "de": 2}, trained), expected)
    assert taken == [2]


@pytest.mark.parametrize("option", [{"scale_grad_by_freq": True}, {"padding_idx": 3}])
def test_tables_with_options(option: dict[str, Any], taken: list[int]) -> None:
    trained, known = nn.Sequential(nn.Embedding(WORDS, WIDTH, **option), nn.Linear(WIDTH, 2)), OnePass()
    trained.double()
    for step in range(3):
        found = losses(trained(batch(COUNTS, step)), COUNTS)
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, COUNTS, trained), expected)
    assert taken == [3]


def test_autocast_rounds_no_more_than_in_separate_passes(taken: list[int]) -> None:
    """To bfloat16 (2⁻⁸) in the weights' gradients and on the way there, of four layers."""
    trained, known = model("encoder", "linear").float(), OnePass()
    for step in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = trained(batch(COUNTS, step))
        found = losses(outputs.float(), COUNTS)
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, COUNTS, trained), expected, relative=2**-6)
    assert taken == [3]


def test_rows_share_no_memory_with_anything(taken: list[int]) -> None:
    trained, known = model("sum of weights", "shift, twice", "scalar"), OnePass()
    for step in range(5):
        made = rows(known, losses(trained(batch(COUNTS, step)), COUNTS), COUNTS, trained)
    blocks = [block for row in made for block in row.values()]
    before = [block.clone() for block in blocks]
    for block, copied in zip(blocks, before, strict=True):
        block.mul_(2)
        assert [torch.equal(a, b) for a, b in zip(blocks, before, strict=True)].count(False) <= 1
        block.copy_(copied)
    assert taken


class Token:
    """Lives as long as the operation that it is given to."""


def test_nothing_keeps_the_graph(taken: list[int]) -> None:
    trained, known = model("encoder"), OnePass()
    gc.collect()
    gc.disable()
    try:
        for step in range(3):
            outputs = trained(batch(COUNTS, step))
            found = losses(outputs, COUNTS)
            token = outputs.grad_fn.metadata["token"] = Token()
            gone = weakref.ref(token)
            rows(known, found, COUNTS, trained)
            del outputs, found, token
            assert gone() is None
    finally:
        gc.enable()
    assert taken == [3]


# ----------------------------------------------------------------------------------------------------------- looking


def test_the_first_step_and_those_of_powers_of_two_look(taken: list[int]) -> None:
    trained, known, looked = model("linear"), OnePass(), []
    for step in range(1, 18):
        before = len(taken)
        rows(known, losses(trained(batch(COUNTS, step)), COUNTS), COUNTS, trained)
        if len(taken) == before:
            looked.append(step)
    assert looked == [1, 2, 4, 8, 16]


def test_a_gradient_of_zero_tells_nothing(taken: list[int]) -> None:
    trained, known = model("lora"), OnePass()
    for step in range(6):
        found = losses(trained(batch(COUNTS, step)), COUNTS)
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, COUNTS, trained), expected)
    assert taken == []  # B stays 0 here, and the gradient of A with it


def test_a_loss_that_was_0_has_shown_nothing_of_its_examples(taken: list[int]) -> None:
    trained, known = model("linear"), OnePass()
    for step in range(6):
        found = losses(trained(batch(COUNTS, step)), COUNTS)
        found["de"] = found["de"] * float(step >= 4)
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, COUNTS, trained), expected)
    assert taken == [3]  # the last


def test_of_many_graphs_the_last_are_remembered(taken: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "_REMEMBERED", 2)
    trained, known = model("linear"), OnePass()
    for step, factors in enumerate([0, 0, 1, 0, 2, 0, 1]):  # the last has been forgotten: 0 and 2 are later
        outputs = trained(batch(COUNTS, step))
        for _ in range(factors):
            outputs = outputs * 2.0
        before = len(taken)
        rows(known, losses(outputs, COUNTS), COUNTS, trained)
        assert len(taken) - before == (step == 3)  # the 3rd of its graph; the 4th looks
    assert len(known._known) == 2


def test_examples_that_mix_later_are_found_at_the_next_look(taken: list[int]) -> None:
    gate = [0.0]
    mixing = Around(lambda x, _: x + gate[0] * x.mean(0), nn.Identity())
    trained, known, counts = (
        nn.Sequential(nn.Linear(3, 3), mixing, nn.Linear(3, 2)).double(),
        OnePass(),
        {"en": 2, "de": 2},
    )
    for step in range(1, 12):
        gate[0] = float(step >= 8)
        found = losses(trained(torch.randn(4, 3, dtype=torch.float64)), counts)
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, counts, trained), expected)
    assert taken == [2] * 5  # the 3rd, 5th, 6th and 7th step, and the 11th, where all is known again


def test_other_examples_than_those_of_a_loss_are_found_at_any_step(taken: list[int]) -> None:
    """The 3rd step looks at the end of the graph alone: at where the losses' own parts begin."""
    trained, known = model("encoder"), OnePass()
    for step in range(2):
        rows(known, losses(trained(batch(COUNTS, step)), COUNTS), COUNTS, trained)
    found = losses(trained(batch(COUNTS, 2)), {"en": 2, "de": 2, "fr": 2})
    expected = separate(found, trained)
    with pytest.warns(UserWarning, match="examples apart"):
        assert_equal_rows(rows(known, found, COUNTS, trained), expected)
    assert taken == []


@pytest.mark.parametrize("inside", [False, True])
def test_an_order_that_values_decide_is_not_trusted(inside: bool, taken: list[int]) -> None:
    """In the first steps it is that of the batch. Before the last weights it is refused, behind them it is seen."""
    trained, known, counts = (
        nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double(),
        OnePass(),
        {"a": 2, "b": 2},
    )
    for step in range(6):
        order = torch.tensor([0, 1, 2, 3] if step < 4 else [2, 0, 3, 1])
        x = torch.randn(4, 3, dtype=torch.float64)
        outputs = trained[2](trained[:2](x)[order]) if inside else trained(x)[order]
        found = losses(outputs, counts)
        expected = separate(found, trained)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_equal_rows(rows(known, found, counts, trained), expected)
    assert taken == ([] if inside else [2])


def test_without_waiting_examples_of_others_leave_no_direction() -> None:
    trained = model("linear").float()
    opt = started(trained, solver="device")
    for step, counts in enumerate([COUNTS, COUNTS, {"en": 2, "de": 2, "fr": 2}]):
        opt.zero_grad()
        report = opt.backward(losses(trained(batch(COUNTS, step)), counts), examples=COUNTS)
    assert [gradient is not None and not gradient.any() for gradient in gradients(trained)] == [True] * 3
    with pytest.raises(FloatingPointError):
        assert report.stationarity


# ----------------------------------------------------------------------------------------- where one pass cannot be had


def reentrant(x: Tensor, module: Any) -> Tensor:
    result: Tensor = checkpoint(module, x, use_reentrant=True)
    return result


def between(x: Tensor, module: Any) -> Any:
    """Lay the examples out as (2, N, 2) in one dimension, which is none of the layouts that are looked for."""
    apart = x.unflatten(1, (2, 2)).permute(1, 0, 2, 3)
    return module(apart.flatten(0, 2)).view(apart.shape).permute(1, 0, 2, 3).flatten(1, 2)


class Hidden(torch.autograd.Function):
    """x W, with a W that is no input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Any) -> Any:
        ctx.save_for_backward(x)
        ctx.module = module
        return x @ module.weight

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            torch.autograd.backward(x.detach() @ ctx.module.weight, gradient)
        return gradient @ ctx.module.weight.T, None


def own(x: Tensor, w: Tensor) -> Any:
    return Own.apply(x, w)  # type: ignore[no-untyped-call]


def behind(x: Tensor, module: Any) -> Any:
    return Hidden.apply(x, module)  # type: ignore[no-untyped-call]


class Own(torch.autograd.Function):
    """x·w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Any:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, w = ctx.saved_tensors
        return gradient * w, (gradient * x).flatten(0, -2).sum(0)


MIXED: dict[str, Callable[[], nn.Module]] = {
    "mean beside what is apart": lambda: Around(
        lambda x, module: module(x) + module(x).mean(0), nn.Linear(WIDTH, WIDTH)
    ),
    "mean over the batch": lambda: Around(lambda x, module: module(x - x.mean(0)), nn.Linear(WIDTH, WIDTH)),
    "attention across examples": lambda: Around(
        lambda x, module: torch.softmax(module(x.flatten(1)) @ x.flatten(1).T, -1) @ x.flatten(1),
        nn.Linear(TOKENS * WIDTH, TOKENS * WIDTH),
    ),
    "examples in another order": lambda: Around(lambda x, module: module(x).flip(0), nn.Linear(WIDTH, WIDTH)),
}

NOT_SPLIT: dict[str, Callable[[], nn.Module]] = {
    "examples between tokens": lambda: Around(between, nn.Linear(WIDTH, WIDTH)),
    "checkpointed": lambda: Around(
        lambda x, module: checkpoint(module, x, use_reentrant=False), nn.Linear(WIDTH, WIDTH)
    ),
    "checkpointed, reentrant": lambda: Around(reentrant, nn.Linear(WIDTH, WIDTH)),
    "a function of its own": lambda: Use(own, (WIDTH,)),
    "a weight from a function of its own": lambda: Use(lambda x, w: linear(x, own(w, w[0])), (WIDTH, WIDTH)),
    "a weight behind the graph": lambda: Around(behind, nn.Linear(WIDTH, WIDTH, bias=False)),
}


def warned(take: Callable[[int], None], *, steps: int) -> list[str]:
    """Return what is warned of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(steps):
            take(step)
    return [str(warning.message) for warning in said]


def inputs(step: int) -> Tensor:
    return torch.randn(6, TOKENS, WIDTH, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def around(kind: str, modules: dict[str, Callable[[], nn.Module]]) -> nn.Module:
    """Return the module between two layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trained = nn.Sequential(nn.Linear(WIDTH, WIDTH), modules[kind](), nn.Flatten(1), nn.LazyLinear(5)).double()
    trained(inputs(0)[:2])
    return trained


@pytest.mark.parametrize("kind", MIXED)
def test_weights_before_a_mixture_have_passes_of_their_own(kind: str, taken: list[int]) -> None:
    trained, known = around(kind, MIXED), OnePass()
    for step in range(7):
        found = losses(trained(inputs(step)), COUNTS)
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, COUNTS, trained), expected)
    assert taken


@pytest.mark.parametrize("kind", NOT_SPLIT)
def test_what_cannot_be_split_is_said_once_and_right(kind: str, taken: list[int]) -> None:
    trained, known = around(kind, NOT_SPLIT), OnePass()

    def take(step: int) -> None:
        expected = []
        for name in COUNTS:
            trained.zero_grad()
            losses(trained(inputs(step)), COUNTS)[name].backward()
            row: Row = {p: p.grad for p in trained.parameters() if p.grad is not None}
            expected.append(row)
        trained.zero_grad()
        assert_equal_rows(rows(known, losses(trained(inputs(step)), COUNTS), COUNTS, trained), expected)

    (said,) = warned(take, steps=5)
    assert said.startswith("`opt.backward(..., examples=...)` must find losses that one pass can tell apart. Found ")
    assert taken == []


@pytest.mark.parametrize(
    "counts", [{"en": 2, "de": 2, "fr": 2}, {"en": 3, "de": 1, "fr": 1}, {"de": 1, "en": 3, "fr": 2}]
)
def test_examples_that_are_not_so_are_found(counts: dict[str, int], taken: list[int]) -> None:
    trained, known = model("encoder"), OnePass()

    def take(step: int) -> None:
        found = losses(trained(batch(COUNTS, step)), COUNTS)
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, counts, trained), expected)

    (said,) = warned(take, steps=4)
    assert "examples apart" in said
    assert taken == []


def test_hooks_after_a_gradient_see_every_row(taken: list[int]) -> None:
    trained, known = model("linear"), OnePass()
    seen = list[Tensor]()
    trained.words.weight.register_post_accumulate_grad_hook(seen.append)

    def take(step: int) -> None:
        rows(known, losses(trained(batch(COUNTS, step)), COUNTS), COUNTS, trained)

    (said,) = warned(take, steps=3)
    assert "Found hooks on parameters" in said
    assert taken == []
    assert len(seen) == 3 * 3


def test_hooks_of_parameters_see_every_row(taken: list[int]) -> None:
    trained, known = model("linear"), OnePass()
    trained.words.weight.register_hook(torch.tanh)

    def take(step: int) -> None:
        found = losses(trained(batch(COUNTS, step)), COUNTS)
        expected = separate(found, trained)
        assert_equal_rows(rows(known, found, COUNTS, trained), expected)

    (said,) = warned(take, steps=3)
    assert "Found hooks on parameters" in said
    assert taken == []


def test_a_gradient_that_comes_from_behind_in_a_later_step_is_an_error() -> None:
    """At the first step the weight that is behind the graph is in the graph, too, and so looks like the others."""
    trained, known = nn.ModuleList([nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, 2)]), OnePass()
    counts = {"en": 2, "de": 2}
    with pytest.raises(RuntimeError, match="must find every gradient in the graph of the losses"):
        for _ in range(3):
            x = trained[0](torch.randn(4, WIDTH))
            rows(known, losses(trained[1](behind(x, trained[0])), counts), counts, trained)
    assert gradients(trained) == [None, None, None]


# -------------------------------------------------------------------------------------------------------- the optimizer


def started(trained: nn.Module, **options: Any) -> LessForgetting:
    return LessForgetting(SGD([p for p in trained.parameters() if p.requires_grad], lr=1e-3), **options)


def in_thirds(outputs: Tensor) -> dict[str, Any]:
    return {"constraints": losses(outputs, COUNTS), "examples": COUNTS}


def in_halves(outputs: Tensor) -> dict[str, Any]:
    first, second, third, fourth = (part.square().mean() for part in outputs.split([1, 2, 1, 2]))
    return {"constraints": {"en": (first, second), "de": (third, fourth)}, "examples": {"en": (1, 2), "de": (1, 2)}}


def with_objective(outputs: Tensor) -> dict[str, Any]:
    return in_thirds(outputs) | {"objective": outputs.abs().mean()}


@pytest.mark.parametrize(
    ("arguments", "count", "options"),
    [(in_thirds, 3, {}), (in_halves, 4, {"noise": HalfBatches()}), (with_objective, 3, {})],
    ids=["losses", "pairs of halves", "an objective that shares the graph"],
)
def test_steps_are_those_of_separate_passes(
    arguments: Callable[[Tensor], dict[str, Any]], count: int, options: Any, taken: list[int]
) -> None:
    """Up to rounding, which five short steps hardly enlarge."""
    one, other = model("encoder", "weight norm", "lora"), model("encoder", "weight norm", "lora")
    opt, apart = started(one, **options), started(other, **options)
    for step in range(5):
        opt.zero_grad()
        report = opt.backward(**arguments(one(batch(COUNTS, step))))
        opt.step()
        apart.zero_grad()
        expected = apart.backward(**arguments(other(batch(COUNTS, step))) | {"examples": None})
        apart.step()
        assert report.names == expected.names
        torch.testing.assert_close(torch.tensor(report.gramian), torch.tensor(expected.gramian), rtol=1e-9, atol=0.0)
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-9, atol=1e-12)
    assert set(taken) == {count}


def test_a_list_of_numbers_goes_with_a_list_of_losses(taken: list[int]) -> None:
    trained = model("linear")
    opt = started(trained)
    for step in range(3):
        opt.zero_grad()
        report = opt.backward(list(losses(trained(batch(COUNTS, step)), COUNTS).values()), examples=[3, 1, 2])
        opt.step()
    assert report.names == ("0", "1", "2")
    assert taken == [3]


def test_batch_norm_in_training_is_refused_before_anything_is_changed() -> None:
    trained = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    opt = started(trained)
    outputs, before = trained(torch.randn(6, 3)), copy.deepcopy((trained.state_dict(), opt.state_dict()))
    with pytest.raises(
        ValueError, match=r"examples that do not depend on each other\. Found batch norm in training mode"
    ):
        opt.backward(losses(outputs, COUNTS), examples=COUNTS)
    assert_identical((trained.state_dict(), opt.state_dict()), before)
    assert gradients(trained) == [None] * 6
    assert opt.report is None
    trained.eval()
    opt.backward(losses(trained(torch.randn(6, 3)), COUNTS), examples=COUNTS)


def test_sparse_gradients_are_an_error_as_elsewhere() -> None:
    trained = nn.Sequential(nn.Embedding(WORDS, WIDTH, sparse=True), nn.Linear(WIDTH, 2))
    opt = started(trained)
    for step in range(3):
        with pytest.raises(TypeError, match=r"must find dense gradients\. Found a sparse one"):
            opt.backward(losses(trained(batch(COUNTS, step)), COUNTS), examples=COUNTS)
        assert gradients(trained) == [None] * 3


def test_a_loss_without_parameters_is_an_error_as_elsewhere() -> None:
    trained, other = nn.Linear(3, 2), torch.ones(2, requires_grad=True)
    opt = started(trained)
    for _ in range(3):
        with pytest.raises(ValueError, match=r"`opt.constraint\('de'\)` must find a gradient"):
            opt.backward({"en": trained(torch.randn(4, 3)).sum(), "de": other.sum()}, examples=[2, 2])


@pytest.mark.parametrize(
    ("examples", "error", "message"),
    [
        (
            {"en": 3, "de": 3},
            ValueError,
            r"must have a number for each of the losses \['en', 'de', 'fr'\]. Found \['en', 'de'\]",
        ),
        ({"en": 3, "de": 1, "es": 2}, ValueError, "Found .*'es'"),
        ([3, 3], ValueError, "must have a number for each"),
        (6, TypeError, "must be numbers by name or in the order of the losses. Found int"),
        ({"en": 3, "de": 0, "fr": 2}, ValueError, r"1 positive number\(s\) for each loss. Found 0 for 'de'"),
        ({"en": 3, "de": (1, 1), "fr": 2}, ValueError, r"Found \(1, 1\) for 'de'"),
        ({"en": 3, "de": 1.0, "fr": 2}, TypeError, "must have integers. Found 1.0 for 'de'"),
        ({"en": 3, "de": True, "fr": 2}, TypeError, "must have integers. Found True for 'de'"),
    ],
)
def test_examples_that_do_not_fit_the_losses_are_an_error(examples: Any, error: type[Exception], message: str) -> None:
    trained = model("linear")
    opt = started(trained)
    with pytest.raises(error, match=message):
        opt.backward(losses(trained(batch(COUNTS, 0)), COUNTS), examples=examples)
    assert all(gradient is None for gradient in gradients(trained))


def test_a_copy_looks_anew(taken: list[int]) -> None:
    trained = model("linear")
    opt = started(trained)
    for step in range(5):
        if step == 3:
            trained, opt = copy.deepcopy((trained, opt))
        opt.zero_grad()
        opt.backward(losses(trained(batch(COUNTS, step)), COUNTS), examples=COUNTS)
        opt.step()
    assert taken == [3]  # of the 3rd step; the 5th is the copy's 2nd
