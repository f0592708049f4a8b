"""Voice commands in many languages, sampled from the templates of the package `home-assistant-intents`.

In: a language, which part of its templates to draw from, a seed. Out: utterances with their intent and slot spans. May
import: items, words, hassil (the parser of the templates' grammar).
"""

import json
import random
import re
from collections.abc import Collection, MutableMapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from hassil.expression import Alternative, Expression, Group, ListReference, Permutation, RuleReference, TextChunk
from hassil.parse_expression import parse_sentence

from benchmarks.multilingual.data.words import AREAS, FLOORS, ITEMS, NAMES, WORDS
from benchmarks.multilingual.items import Part

# The intents that occur in at least 15 of the 18 languages of the word lists.
INTENTS = (
    "HassCancelAllTimers",
    "HassCancelTimer",
    "HassClimateGetTemperature",
    "HassClimateSetTemperature",
    "HassGetCurrentDate",
    "HassGetCurrentTime",
    "HassGetState",
    "HassGetWeather",
    "HassLightSet",
    "HassListAddItem",
    "HassMediaNext",
    "HassMediaPause",
    "HassMediaUnpause",
    "HassNevermind",
    "HassPauseTimer",
    "HassSetPosition",
    "HassSetVolume",
    "HassShoppingListAddItem",
    "HassStartTimer",
    "HassTimerStatus",
    "HassTurnOff",
    "HassTurnOn",
    "HassUnpauseTimer",
    "HassVacuumCleanArea",
    "HassVacuumReturnToBase",
    "HassVacuumStart",
)
# The slots that are tagged; each occurs in nearly every language.
SLOTS = ("name", "area", "item", "color", "brightness", "temperature", "hours", "minutes", "seconds")
# Free lists, filled from the word lists. Templates with another free list (a message, a search) are left out.
FREE_LISTS = {
    "area": AREAS,
    "name": NAMES,
    "floor": FLOORS,
    "shopping_list_item": ITEMS,
    "todo_list_item": ITEMS,
    "timer_name": ITEMS,
}
DEV_SHARE, TEST_SHARE = 0.15, 0.15  # of a language's templates


@dataclass(frozen=True)
class Utterance:
    """A command.

    Attributes:
        text: what is said.
        intent: what is meant.
        spans: its slots as (start, end, slot), in characters, in order and apart from each other.
        template: that it was sampled from.
    """

    text: str
    intent: str
    spans: tuple[tuple[int, int, str], ...]
    template: str


class UnsuitableError(Exception):
    """A template needs a list that cannot be filled."""


@cache
def templates(language: str, part: Part = "all") -> dict[str, tuple[str, ...]]:
    """Return the templates of a language by intent, those alone that can be sampled.

    The split depends on nothing but the language's templates: it is the same for every seed and task. The same template
    under two intents is in one part.
    """
    usable = {
        intent: {
            template: None
            for block in description["data"]
            for template in block["sentences"]
            if _usable(language, template)
        }
        for intent, description in _grammar(language)["intents"].items()
    }
    everything = sorted({template for group in usable.values() for template in group})
    random.Random(f"templates of {language}").shuffle(everything)
    dev = round(DEV_SHARE * len(everything))
    test = dev + round(TEST_SHARE * len(everything))
    parts = {"all": everything, "dev": everything[:dev], "test": everything[dev:test], "train": everything[test:]}
    chosen = set(parts[part])
    found = {intent: tuple(t for t in group if t in chosen) for intent, group in usable.items()}
    return {intent: group for intent, group in found.items() if group}


def sample(
    language: str,
    part: Part,
    count: int,
    seed: int,
    *,
    intents: Collection[str] | None = None,
    tagged: bool = False,
    exclude: Collection[str] = (),
) -> list[Utterance]:
    """Sample utterances, the intents in turn, a random template of each.

    Args:
        language: of the templates.
        part: of the templates to draw from.
        count: how many at most; fewer where the templates do not give as many different texts.
        seed: of the random choices.
        intents: to draw from; all by default.
        tagged: whether to keep only utterances with a slot.
        exclude: texts that must not occur.

    Returns:
        Utterances in random order, no text twice.
    """
    rng = random.Random(f"{part} {language} {seed}")
    pool = {
        intent: group for intent, group in templates(language, part).items() if intents is None or intent in intents
    }
    order = sorted(pool)
    rng.shuffle(order)
    taken, chosen = set(exclude), []
    for attempt in range(40 * count if order else 0):
        intent = order[attempt % len(order)]
        template = rng.choice(pool[intent])
        text, spans = expand(language, template, rng)
        if text not in taken and (spans or not tagged):
            taken.add(text)
            chosen.append(Utterance(text, intent, spans, template))
        if len(chosen) == count:
            break
    rng.shuffle(chosen)
    return chosen


@cache
def meanings(language: str) -> dict[str, frozenset[tuple[str, ...]]]:
    """Return what each template of a language may ask for: its intent, and what else its block of the data says.

    Two readings of templates of one meaning, with the same values in the same lists, ask for the same.
    """
    found: dict[str, set[tuple[str, ...]]] = {}
    for intent, description in _grammar(language)["intents"].items():
        for block in description["data"]:
            told = (json.dumps(block.get(key), sort_keys=True) for key in ("slots", "response", "metadata"))
            meaning = (intent, *told)
            for template in block["sentences"]:
                found.setdefault(template, set()).add(meaning)
    return {template: frozenset(group) for template, group in found.items()}


def expand(
    language: str, template: str, rng: random.Random, values: MutableMapping[str, str] | None = None
) -> tuple[str, tuple[tuple[int, int, str], ...]]:
    """Return a random reading of a template and its slots as (start, end, slot).

    Args:
        language: of the template.
        template: to read.
        rng: of the choices.
        values: of lists, by their names: taken where there is one; whatever is used is written there.

    Raises:
        UnsuitableError: if it refers to a list that cannot be filled.
    """
    pieces: list[tuple[str, str | None]] = []
    _walk(_parsed(template), language, rng, pieces, values)
    text, spans = "", []
    for piece, slot in pieces:
        # White space is collapsed as it comes, so that no span needs to be moved afterwards.
        addition = re.sub(r"\s+", " ", piece)
        if not text or text.endswith(" "):
            addition = addition.lstrip()
        value = addition.strip()
        if slot is not None and value:
            start = len(text) + addition.index(value)
            spans.append((start, start + len(value), slot))
        text += addition
    return text.rstrip(), tuple(spans)


@cache
def _grammar(language: str) -> dict[str, Any]:
    """Return the templates, rules and lists of a language."""
    path = resources.files("home_assistant_intents") / "data" / f"{language}.json"
    grammar: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return grammar


def _usable(language: str, template: str) -> bool:
    """Tell whether every list that a template may reach can be filled."""
    try:
        # Several readings: an alternative that cannot be filled may be drawn or not.
        return all(expand(language, template, random.Random(i))[0] for i in range(8))
    except UnsuitableError:
        return False


@cache
def _parsed(template: str) -> Expression:
    """Parse a template, once."""
    return parse_sentence(template).expression


def _walk(
    node: Expression,
    language: str,
    rng: random.Random,
    pieces: list[tuple[str, str | None]],
    values: MutableMapping[str, str] | None = None,
) -> None:
    """Append a random reading of an expression, as pieces of text with the slot that they fill."""
    if isinstance(node, TextChunk):
        pieces.append((node.original_text, None))
    elif isinstance(node, Alternative):
        _walk(rng.choice(node.items), language, rng, pieces, values)
    elif isinstance(node, Permutation):
        for item in rng.sample(node.items, len(node.items)):
            _walk(item, language, rng, pieces, values)
    elif isinstance(node, Group):
        for item in node.items:
            _walk(item, language, rng, pieces, values)
    elif isinstance(node, RuleReference):
        rules = _grammar(language)["expansion_rules"]
        if node.rule_name not in rules:
            raise UnsuitableError(node.rule_name)
        _walk(_parsed(rules[node.rule_name]), language, rng, pieces, values)
    elif isinstance(node, ListReference):
        slot = node.slot_name.removeprefix("start_")  # start_hours: those of a running timer
        value = None if values is None else values.get(node.list_name)
        if value is None:
            value = draw(node.list_name, language, rng)
        if values is not None:
            values[node.list_name] = value
        pieces.append((value, slot if slot in SLOTS else None))
    else:
        raise UnsuitableError(type(node).__name__)


def is_of_different_things(name: str, language: str) -> bool:
    """Tell whether two values of a list are never two words for one thing."""
    return name in FREE_LISTS or "range" in _grammar(language)["lists"].get(name, {})


def draw(name: str, language: str, rng: random.Random) -> str:
    """Return a random value of a list.

    Raises:
        UnsuitableError: if it cannot be filled.
    """
    if name in FREE_LISTS:
        return rng.choice(WORDS[language][FREE_LISTS[name]])
    description = _grammar(language)["lists"].get(name, {})
    if "range" in description:
        bounds = description["range"]
        return str(rng.randrange(bounds["from"], bounds["to"] + 1, bounds.get("step", 1)))
    if "values" in description:
        value = rng.choice(description["values"])
        pieces: list[tuple[str, str | None]] = []
        _walk(_parsed(value["in"] if isinstance(value, dict) else value), language, rng, pieces)
        return "".join(text for text, _ in pieces)
    raise UnsuitableError(name)
