"""What is trained: a shared part and heads, with data for every loss.

In: a name, a number of losses, a setting. Out: `Model`. May import: torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

CLASSES = 16
Setting = Literal["batches", "heads"]


@dataclass(frozen=True)
class Model:
    """A model with its data.

    Attributes:
        shared: from a batch to features [examples, width].
        heads: one for all losses where each has its own batch, one for each where they share a batch.
        inputs: a batch for each loss.
        labels: of every example of every batch, [m, examples].
    """

    shared: nn.Module
    heads: nn.ModuleList
    inputs: Tensor
    labels: Tensor

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [p for p in (*self.shared.parameters(), *self.heads.parameters()) if p.requires_grad]

    @property
    def has_batches(self) -> bool:
        """Whether each loss has a batch of its own."""
        return len(self.heads) == 1

    def loss(self, features: Tensor, i: int) -> Tensor:
        """Return loss i of its features."""
        return nn.functional.cross_entropy(self.heads[i % len(self.heads)](features), self.labels[i])

    def losses(self) -> list[Tensor]:
        """Return all losses: of their own batches with one head, or of the first batch with one head each."""
        if self.has_batches:
            return [self.loss(self.shared(x), i) for i, x in enumerate(self.inputs)]
        features = self.shared(self.inputs[0])
        return [self.loss(features, i) for i in range(len(self.heads))]

    def together(self) -> Tensor:
        """Return the logits of one pass over all batches together [m, examples, classes]."""
        features = self.shared(self.inputs.flatten(0, 1))
        logits: Tensor = self.heads[0](features).unflatten(0, (len(self.inputs), -1))
        return logits

    def losses_together(self) -> list[Tensor]:
        """Return all losses, of one pass over all batches together."""
        return [nn.functional.cross_entropy(*pair) for pair in zip(self.together(), self.labels, strict=True)]


class _Tokens(nn.Module):
    """A transformer encoder; every token is an example."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.words = nn.Embedding(vocabulary, width)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the features of all tokens."""
        features: Tensor = self.encoder(self.words(ids)).flatten(0, 1)
        return features


class _Sentences(nn.Module):
    """An encoder of sentences of one length; every token is an example."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor) -> Tensor:
        """Return the features of all tokens."""
        features: Tensor = self.encoder(ids, torch.ones_like(ids, dtype=torch.bool)).flatten(0, 1)
        return features


def _mlp(losses: int) -> tuple[nn.Module, int, Tensor, int]:
    """Return three layers of 1024 units, 1.8 million weights; 128 examples."""
    layers = [nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 256), nn.ReLU()]
    return nn.Sequential(*layers), 256, torch.randn(losses, 128, 512), 128


def _convnet(losses: int) -> tuple[nn.Module, int, Tensor, int]:
    """Return four convolutions with batch norm, 0.4 million weights; 16 images of 32 × 32."""
    channels, layers = [3, 32, 64, 128, 256], list[nn.Module]()
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers), 256, torch.randn(losses, 16, 3, 32, 32), 16


def _transformer(losses: int) -> tuple[nn.Module, int, Tensor, int]:
    """Return an encoder of 6 layers, 6.8 million weights; 8 sentences of 32 tokens."""
    return _Tokens(8000, 256, 6), 256, torch.randint(8000, (losses, 8, 32)), 256


def _multilingual(losses: int) -> tuple[nn.Module, int, Tensor, int]:
    """Return multilingual-e5-small as the example trains it, 21.5 million weights; 8 sentences of 32 random tokens."""
    from benchmarks.multilingual import e5  # what it needs is not needed by the others

    backbone = e5.load()
    words = torch.randperm(e5.read_head(e5.find_file()).shape.vocabulary)[:1000].sort().values
    ids = words[torch.randint(len(words), (losses, 8, 32))]
    return _Sentences(backbone.build(words.tolist())), backbone.width, ids, 256


def _adapters(losses: int) -> tuple[nn.Module, int, Tensor, int]:
    """Return the same model with adapters of rank 8 on queries and values, 0.15 million weights that are trained."""
    from peft import LoraConfig, inject_adapter_in_model

    shared, *data = _multilingual(losses)
    return inject_adapter_in_model(LoraConfig(r=8, target_modules=["query", "value"]), shared), *data


def _tiny(losses: int) -> tuple[nn.Module, int, Tensor, int]:
    """Return 15 weights, for tests."""
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh()), 3, torch.randn(losses, 2, 4), 2


MODELS: dict[str, Callable[[int], tuple[nn.Module, int, Tensor, int]]] = {
    "mlp": _mlp,
    "convnet": _convnet,
    "transformer": _transformer,
    "multilingual": _multilingual,
    "adapters": _adapters,
    "tiny": _tiny,
}


def build(name: str, losses: int, setting: Setting, device: str) -> Model:
    """Return a model of a kind, the same at every call.

    Args:
        name: of MODELS.
        losses: m.
        setting: "batches": each loss has its own; "heads": all share a batch and what is computed of it.
        device: where it is trained.
    """
    with torch.random.fork_rng(devices=[]):  # all of it is drawn on the host
        torch.manual_seed(0)
        shared, width, inputs, examples = MODELS[name](losses)
        heads = nn.ModuleList(nn.Linear(width, CLASSES) for _ in range(losses if setting == "heads" else 1))
        labels = torch.randint(CLASSES, (losses, examples))
    return Model(shared.to(device), heads.to(device), inputs.to(device), labels.to(device))
