"""What the encoder is to keep, shown on strings of languages that are neither trained on nor scored.

In: an encoder and parallel strings. Out: objectives, and the Fisher information. May import: backbone, mgrad.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.multilingual.backbone import Tokens, collate, mean_pool
from mgrad import Distillation, FisherAnchor, Replay, estimate_fisher

LANGUAGES = ("nl", "sv", "pl", "bg", "ro", "id", "ja", "fa", "he")
SHARPNESS = 20.0  # of the softmax over cosines
BATCH = 16  # strings in a step
SEEN = 384  # strings that the Fisher information is estimated from

Objective = Callable[[], Tensor]
Batch = TypeVar("Batch")


class Pooled(nn.Module):
    """The encoder, up to the mean hidden state of each text [batch, width]."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode texts."""
        return mean_pool(self.encoder(ids, mask), mask)


class Keeping:
    """An encoder, its starting weights, and strings that are translations of each other.

    Args:
        encoder: that is trained.
        start: its weights before, by parameter.
        strings: by language; entry i of each is a translation of entry i of the others.
        padding: the id of the padding token.
        seed: of the order of the strings.

    Attributes:
        done: batches that an objective is to leave out, as they were seen before a stop.
    """

    def __init__(
        self,
        encoder: nn.Module,
        start: Mapping[Tensor, Tensor],
        strings: Mapping[str, Sequence[Tokens]],
        padding: int,
        seed: int,
    ) -> None:
        self.model, self.start, self.padding = Pooled(encoder), start, padding
        self.strings, self.rng = strings, random.Random(f"{seed} keeping")
        self.done = 0

    def distillation(self) -> Objective:
        """Return how far the vectors of a batch of strings, of any languages, have turned."""
        distillation = Distillation(self.model, self.start, measure="cosine")
        return Replay(lambda batch: distillation(*batch), self._from_done([self._mixed(BATCH) for _ in range(64)]))

    def translation(self) -> Objective:
        """Return the loss of finding each string's translation among a batch: what the encoder was made for."""

        def loss(pair: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
            first, second = (nn.functional.normalize(self.model(*texts), dim=1) for texts in pair)
            return nn.functional.cross_entropy(SHARPNESS * first @ second.T, torch.arange(len(first)))

        return Replay(loss, self._from_done([self._pair(BATCH // 2) for _ in range(64)]))

    def fisher(self) -> FisherAnchor:
        """Return the pull by the Fisher information of finding each string's English translation among all."""
        rows = list(range(len(self.strings["en"])))
        with torch.no_grad():
            english = nn.functional.normalize(self.model(*self._batch([("en", i) for i in rows])), dim=1)
        places = [(language, i) for language in self.strings if language != "en" for i in rows]
        chosen = self.rng.sample(places, min(SEEN, len(places)))
        data = [(self._batch([place]), torch.tensor([place[1]])) for place in chosen]

        def logits(call: Callable[..., Tensor], inputs: tuple[Tensor, Tensor]) -> Tensor:
            return SHARPNESS * nn.functional.normalize(call(*inputs), dim=1) @ english.T

        seen = tqdm(data, desc="Fisher", unit="string", dynamic_ncols=True)
        found = estimate_fisher(self.model, seen, logits=logits, chunk=1)
        return FisherAnchor(found, self.model)

    def _from_done(self, batches: list[Batch]) -> list[Batch]:
        """Return batches that go round, from the first that was not seen."""
        first = self.done % len(batches)
        return batches[first:] + batches[:first]

    def _mixed(self, count: int) -> tuple[Tensor, Tensor]:
        """Return a batch of strings of any languages."""
        languages = list(self.strings)
        return self._batch([(self.rng.choice(languages), self._index()) for _ in range(count)])

    def _pair(self, count: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return a batch in one language and its translation into another."""
        first, second = self.rng.sample(list(self.strings), 2)
        rows = self.rng.sample(range(len(self.strings[first])), count)
        return self._batch([(first, i) for i in rows]), self._batch([(second, i) for i in rows])

    def _index(self) -> int:
        """Return the place of a string."""
        return self.rng.randrange(len(self.strings["en"]))

    def _batch(self, places: Sequence[tuple[str, int]]) -> tuple[Tensor, Tensor]:
        """Return strings as ids and mask."""
        return collate([self.strings[language][i].ids for language, i in places], self.padding)
