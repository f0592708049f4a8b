"""Cross-lingual knowledge: does the encoder still find the translation of a string among many?

In: languages never trained on. Out: retrieval@1 over Django's parallel interface strings. May import: backbone.
"""

import gettext
import importlib.util
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import permutations
from pathlib import Path

import torch
from torch import Tensor, nn

_LOCALES = {"zh-CN": "zh_Hans", "zh": "zh_Hans"}  # where Django's name of a language is another
_UNFIT = re.compile(r"[%{<\n\0\x04]")  # placeholders, markup, plurals, strings with a context


@cache
def translations(language: str) -> dict[str, str]:
    """Return Django's translations of strings of two words or more into a language, by their English.

    Raises:
        ModuleNotFoundError: if Django is not installed.
        ValueError: if it does not know the language.
    """
    package = importlib.util.find_spec("django")  # finds without importing: only its catalogues are used
    if package is None or package.submodule_search_locations is None:
        raise ModuleNotFoundError(
            "`--targets` must find the package Django. Found none. Install the example's needs: "
            "pip install 'mgrad[examples]'."
        )
    root = Path(package.submodule_search_locations[0])
    found: dict[str, str] = {}
    for path in sorted(root.glob(f"**/locale/{_LOCALES.get(language, language)}/LC_MESSAGES/django.mo")):
        with path.open("rb") as file:
            # A private name: gettext looks strings up and has no public way to list them.
            catalogue: dict[object, str] = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        for english, translation in catalogue.items():
            if isinstance(english, str) and " " in english.strip() and not _UNFIT.search(english + translation):
                found.setdefault(english, translation)
    if not found:
        raise ValueError(
            f"`--targets` must be languages that Django is translated into. Found {language!r}. Leave it out, or "
            "write it as Django does."
        )
    return found


def parallel(languages: Sequence[str], count: int) -> dict[str, list[str]]:
    """Return strings that are translated into all the languages, evenly spread over the alphabet of the English.

    Args:
        languages: at least one.
        count: how many at most.

    Returns:
        Strings by language, the English ones under "en"; entry i of each is a translation of entry i of the others. No
        language has a string twice, else there would be no one right answer.
    """
    tables = {language: translations(language) for language in languages}
    common = sorted(set.intersection(*(set(table) for table in tables.values())))
    kept = []
    seen: set[tuple[str, str]] = set()
    for english in common:
        row = {(language, table[english].casefold()) for language, table in tables.items()}
        if not row & seen:
            kept.append(english)
            seen |= row
    if len(kept) > count:
        kept = [kept[i * len(kept) // count] for i in range(count)]
    return {"en": kept} | {language: [table[english] for english in kept] for language, table in tables.items()}


def retrieval_at_1(queries: Tensor, candidates: Tensor) -> float:
    """Return the share of queries whose nearest candidate, by cosine, is the right one.

    Args:
        queries: [strings, width].
        candidates: [strings, width]; row i is the right one for query i.
    """
    normalize = nn.functional.normalize
    nearest = (normalize(queries, dim=1) @ normalize(candidates, dim=1).T).argmax(1)
    return float((nearest == torch.arange(len(queries))).double().mean())


def mean_retrieval(vectors: Mapping[str, Tensor]) -> float:
    """Return the mean of retrieval@1 over all ordered pairs of languages."""
    pairs = list(permutations(vectors, 2))
    return sum(retrieval_at_1(vectors[a], vectors[b]) for a, b in pairs) / len(pairs)
