"""Four data sets made of voice commands: their slots, their intents, questions for the slots, and pairs of commands.

In: a language, a part of its templates, a seed. Out: items. May import: items, utterances, words.
"""

import random
from collections import ChainMap, defaultdict
from collections.abc import Collection, MutableMapping, Sequence

from benchmarks.multilingual.data.utterances import (
    INTENTS,
    SLOTS,
    UnsuitableError,
    Utterance,
    draw,
    expand,
    is_of_different_things,
    meanings,
    sample,
    templates,
)
from benchmarks.multilingual.data.words import QUESTIONS
from benchmarks.multilingual.items import Item, Part

TOGETHER = 3  # commands in a context
SEPARATOR = "; "
NO, YES = "different", "same"
_TRIES = 20  # readings until two commands have the same lists


class Slots:
    """Commands with at least one slot, of any intent; the slots are the spans."""

    def labels(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Return the slots."""
        return SLOTS

    def sample(self, language: str, part: Part, count: int, seed: int, exclude: Collection[str] = ()) -> list[Item]:
        """Return commands."""
        found = sample(language, part, count, seed, tagged=True, exclude=exclude)
        return [Item((u.text,), spans=u.spans, sentences=(u.text,)) for u in found]


class Intents:
    """Commands of the intents that nearly every language has; the intent is the label."""

    def labels(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Return the intents."""
        return INTENTS

    def sample(self, language: str, part: Part, count: int, seed: int, exclude: Collection[str] = ()) -> list[Item]:
        """Return commands."""
        found = sample(language, part, count, seed, intents=INTENTS, exclude=exclude)
        return [Item((u.text,), label=u.intent, sentences=(u.text,)) for u in found]


class Questions:
    """A question for a slot, in the language of the context: several commands, one of which has that slot."""

    def labels(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Return nothing: answers have no label."""
        return ()

    def sample(self, language: str, part: Part, count: int, seed: int, exclude: Collection[str] = ()) -> list[Item]:
        """Return questions with their contexts; every command is asked about once before one is asked about again."""
        pool = sample(language, part, count, seed, tagged=True, exclude=exclude)
        rng = random.Random(f"questions {part} {language} {seed}")
        return [item for asked in pool if (item := self._item(language, asked, pool, rng))]

    def _item(self, language: str, asked: Utterance, pool: Sequence[Utterance], rng: random.Random) -> Item | None:
        """Return a question about a command, None if there is no slot that is its alone."""
        slots = [slot for _, _, slot in asked.spans]
        alone = [slot for slot in dict.fromkeys(slots) if slots.count(slot) == 1]
        if not alone:
            return None
        slot = rng.choice(alone)
        others = [u for u in pool if all(kind != slot for _, _, kind in u.spans)]
        context = [asked, *rng.sample(others, min(TOGETHER - 1, len(others)))]
        rng.shuffle(context)
        before = context[: context.index(asked)]
        shift = sum(len(u.text) + len(SEPARATOR) for u in before)
        start, end = next((start, end) for start, end, kind in asked.spans if kind == slot)
        sentences = tuple(u.text for u in context)
        return Item(
            (QUESTIONS[language][slot], SEPARATOR.join(sentences)),
            spans=((shift + start, shift + end, ""),),
            sentences=sentences,
        )


class Pairs:
    """Two commands that ask for the same in other words, or for something else about the same.

    The same: two readings of templates of one meaning with the same values. Something else: another value in one list,
    or another intent with the same values, as often. Half of the items are of each label.
    """

    def labels(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Return the two labels."""
        return NO, YES

    def sample(self, language: str, part: Part, count: int, seed: int, exclude: Collection[str] = ()) -> list[Item]:
        """Return pairs, the intents of the first in turn."""
        rng = random.Random(f"pairs {part} {language} {seed}")
        pool = _Templates(language, part)
        order = sorted(pool.by_intent)
        rng.shuffle(order)
        taken, chosen = set(exclude), list[Item]()
        for attempt in range(40 * count if order else 0):
            if len(chosen) == count:
                break
            label = (NO, YES)[len(chosen) % 2]
            pair = pool.pair(order[attempt % len(order)], label, rng)
            if pair and pair[0] != pair[1] and not taken & set(pair):
                taken.update(pair)
                chosen.append(Item(pair, label=label, sentences=pair))
        rng.shuffle(chosen)
        return chosen


class _Templates:
    """The templates of a part of a language, by what they ask for."""

    def __init__(self, language: str, part: Part) -> None:
        self.language, self.by_intent = language, templates(language, part)
        self.by_meaning: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for template in sorted({template for group in self.by_intent.values() for template in group}):
            for meaning in meanings(language)[template]:
                self.by_meaning[meaning].append(template)

    def pair(self, intent: str, label: str, rng: random.Random) -> tuple[str, str] | None:
        """Return two commands, the first of an intent; None if no second one is found."""
        template = rng.choice(self.by_intent[intent])
        values: dict[str, str] = {}
        first = self._read(template, values, rng)
        if first is None:
            return None
        meant = sorted(meanings(self.language)[template])
        alike = [other for meaning in meant for other in self.by_meaning[meaning]]
        others = [other for other in alike if other != template] or alike
        if label == NO:
            changeable = [name for name in values if is_of_different_things(name, self.language)]
            if changeable and rng.random() < 0.5:
                name = rng.choice(changeable)
                changed = draw(name, self.language, rng)
                if changed == values[name]:
                    return None
                values = {**values, name: changed}
            else:
                intents = {meaning[0] for meaning in meant}
                foreign = [group for other, group in self.by_intent.items() if other not in intents]
                others = [other for group in foreign for other in group if other not in alike]
        for _ in range(_TRIES if others else 0):
            drawn: dict[str, str] = {}
            second = self._read(rng.choice(others), ChainMap(drawn, values), rng)
            if drawn == values and second is not None:  # the same lists, with these values
                return first, second
        return None

    def _read(self, template: str, values: MutableMapping[str, str], rng: random.Random) -> str | None:
        """Return a reading of a template, None of one that cannot be filled."""
        try:
            return expand(self.language, template, rng, values)[0]
        except UnsuitableError:
            return None
