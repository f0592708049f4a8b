"""Published data sets as `Data`: from directories, or by their names on the hub.

In: where they are, their format. Out: `Public`. May import: files, hub, items.
"""

import random
from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks.multilingual.data import files, hub
from benchmarks.multilingual.data.files import LABELS, Format
from benchmarks.multilingual.items import Item, Part


class Public:
    """Data sets of one format; each part of each language is taken from the first that has it.

    Args:
        places: directories, or names on the hub.
        form: of the data.
    """

    def __init__(self, places: Sequence[str], form: Format) -> None:
        self.places, self.form = tuple(places), form
        self.read: dict[tuple[str, Part], list[Item]] = {}

    def labels(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Return the labels of the format; kinds of entities are those of the training data."""
        if self.form in LABELS:
            return LABELS[self.form]
        return tuple(sorted({kind for k in sources for item in self.items(k, "train") for _, _, kind in item.spans}))

    def sample(self, language: str, part: Part, count: int, seed: int, exclude: Collection[str] = ()) -> list[Item]:
        """Return items of a split as it was published."""
        items = self.items(language, part)
        return random.Random(f"{part} {language} {seed}").sample(items, min(count, len(items)))

    def items(self, language: str, part: Part) -> list[Item]:
        """Return all items of a part.

        Raises:
            ValueError: if there are none.
        """
        if (language, part) not in self.read:
            for place in self.places:
                if Path(place).is_dir():
                    read = files.read(Path(place), self.form, language, part)
                else:
                    read = hub.read(place, self.form, language, part)
                if read:
                    break
            else:
                raise ValueError(
                    f"`--data {' '.join(self.places)}` must have {part if part != 'all' else 'test'} data of every "
                    f"language. Found none of {language!r}. See docs/multilingual.md for the names of files."
                )
            self.read[language, part] = read
        return self.read[language, part]
