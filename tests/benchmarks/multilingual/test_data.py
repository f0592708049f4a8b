"""Utterances, labels, scores and parallel strings."""

import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score

from benchmarks.multilingual.backbone import Tokens
from benchmarks.multilingual.retrieval import mean_retrieval, parallel, retrieval_at_1, translations
from benchmarks.multilingual.tasks import IGNORED, TASKS, Slots
from benchmarks.multilingual.utterances import INTENTS, SLOTS, Utterance, sample, templates
from benchmarks.multilingual.words import AREAS, FLOORS, ITEMS, NAMES, WORDS

LANGUAGES = ["en", "de", "fr", "es", "it", "ru", "zh-CN", "ar", "hi", "th", "ko", "el", "vi", "fi", "hu"]


@pytest.mark.parametrize("language", ["en", "zh-CN", "ar"])
def test_parts_share_no_template(language: str) -> None:
    parts = {
        part: {template for group in templates(language, part).values() for template in group}
        for part in ("train", "dev", "test")
    }
    everything = {template for group in templates(language, "all").values() for template in group}
    assert parts["train"] | parts["dev"] | parts["test"] == everything
    assert sum(map(len, parts.values())) == len(everything)
    assert min(map(len, parts.values())) > 0.1 * len(everything)


@pytest.mark.parametrize("language", LANGUAGES)
def test_utterances_have_their_slots_where_they_say(language: str) -> None:
    found = sample(language, "all", 40, seed=1)
    assert len({utterance.text for utterance in found}) == 40
    for utterance in found:
        assert utterance.text == " ".join(utterance.text.split())
        assert not set("[]{}<>|") & set(utterance.text)
        for (_, end, _), (start, _, _) in pairwise(utterance.spans):
            assert end <= start
        for start, end, slot in utterance.spans:
            assert slot in SLOTS
            value = utterance.text[start:end]
            assert value == value.strip() != ""
            if slot == "area" and language == "en":  # elsewhere the templates may inflect it
                assert value in WORDS[language][AREAS]


def test_a_seed_gives_the_same_utterances_and_another_others() -> None:
    assert sample("de", "train", 20, seed=3) == sample("de", "train", 20, seed=3)
    assert sample("de", "train", 20, seed=3) != sample("de", "train", 20, seed=4)


def test_excluded_texts_do_not_occur_and_tagged_ones_have_slots() -> None:
    texts = [utterance.text for utterance in sample("en", "train", 50, seed=0)]
    more = sample("en", "train", 50, seed=0, exclude=texts, tagged=True)
    assert not {utterance.text for utterance in more} & set(texts)
    assert all(utterance.spans for utterance in more)


def test_intents_are_drawn_in_turn() -> None:
    found = [utterance.intent for utterance in sample("fr", "train", 52, seed=0, intents=INTENTS)]
    assert len(set(found)) >= 20
    assert max(map(found.count, found)) <= 4


def test_word_lists_are_of_one_length_in_every_language() -> None:
    for kind in (AREAS, NAMES, ITEMS, FLOORS):
        assert {len(lists[kind]) for lists in WORDS.values()} == {len(WORDS["en"][kind])}


def test_tokens_are_tagged_by_the_span_that_they_overlap() -> None:
    text = "light in the living room"
    utterance = Utterance(text, "HassTurnOn", ((0, 5, "name"), (13, 24, "area")), "")
    spans = [(0, 0), (0, 3), (3, 5), (5, 8), (8, 12), (12, 19), (19, 24), (0, 0)]
    labels = TASKS["slots"].label(utterance, Tokens(list(range(8)), spans))
    tags = [None if label == IGNORED else Slots.labels[label] for label in labels]
    assert tags == [None, "B-name", "I-name", "O", "O", "B-area", "I-area", None]


@given(
    st.lists(st.lists(st.integers(0, len(Slots.labels) - 1), min_size=1, max_size=8), min_size=1, max_size=4), st.data()
)
def test_span_f1_is_that_of_seqeval(truth: list[list[int]], data: st.DataObject) -> None:
    size = len(Slots.labels) - 1
    guess = [data.draw(st.lists(st.integers(0, size), min_size=len(t), max_size=len(t))) for t in truth]
    names = [[[Slots.labels[i] for i in row] for row in rows] for rows in (truth, guess)]
    wanted = sum(len(Slots().spans(row)) for row in (*truth, *guess))
    expected = f1_score(names[0], names[1], zero_division=1) if wanted else 1.0
    assert Slots().score(guess, truth) == pytest.approx(expected)


def test_ignored_tokens_are_not_scored() -> None:
    b = Slots.labels.index("B-area")
    assert Slots().score([[b, b, 0]], [[IGNORED, b, IGNORED]]) == 1.0


def test_accuracy_is_the_share_of_right_intents() -> None:
    assert TASKS["intents"].score([[1], [2], [3], [4]], [[1], [2], [0], [0]]) == 0.5


def test_retrieval_finds_the_nearest_by_cosine() -> None:
    queries, candidates = torch.eye(3), torch.tensor([[9.0, 1, 0], [0, 0.1, 0], [1, 0, 0.5]])
    assert retrieval_at_1(queries, candidates) == pytest.approx(1.0)
    assert retrieval_at_1(queries, candidates[[1, 0, 2]]) == pytest.approx(1 / 3)
    assert mean_retrieval({"a": queries, "b": queries, "c": queries[[1, 0, 2]]}) == pytest.approx((2 + 4 / 3) / 6)


def test_chance_is_one_over_the_number_of_strings() -> None:
    torch.manual_seed(0)
    assert retrieval_at_1(torch.randn(2000, 8), torch.randn(2000, 8)) < 0.01


def test_parallel_strings_are_translations_of_each_other_and_each_occurs_once() -> None:
    strings = parallel(["es", "hi", "zh-CN"], 60)
    assert list(strings) == ["en", "es", "hi", "zh-CN"]
    assert {len(group) for group in strings.values()} == {60}
    for language, group in strings.items():
        assert len({text.casefold() for text in group}) == 60
        if language != "en":
            assert group == [translations(language)[english] for english in strings["en"]]
        assert not any(mark in text for text in group for mark in "%{<")
    assert parallel(["es", "hi", "zh-CN"], 60) == strings


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be languages that Django is translated into\. Found 'tlh'"):
        translations("tlh")


def test_sampling_does_not_touch_the_global_random_numbers() -> None:
    random.seed(0)
    before = random.getstate()
    sample("en", "test", 5, seed=0)
    assert random.getstate() == before
