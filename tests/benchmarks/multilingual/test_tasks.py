"""Labels, logits and scores of the tasks."""

import string

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score
from torch import nn

from benchmarks.multilingual.backbone import Tokens
from benchmarks.multilingual.data.utterances import SLOTS
from benchmarks.multilingual.items import Item
from benchmarks.multilingual.tasks import IGNORED, Example
from benchmarks.multilingual.tasks.answering import LONGEST, Answering, answer, exact_match, word_f1, words
from benchmarks.multilingual.tasks.classifying import Classifying
from benchmarks.multilingual.tasks.tagging import Tagging

TAGGING = Tagging(SLOTS)


def test_tokens_are_tagged_by_the_span_that_they_overlap() -> None:
    text = "light in the living room"
    item = Item((text,), spans=((0, 5, "name"), (13, 24, "area")))
    spans = [(0, 0), (0, 3), (3, 5), (5, 8), (8, 12), (12, 19), (19, 24), (0, 0)]
    labels = TAGGING.label(item, Tokens(list(range(8)), spans))
    tags = [None if label == IGNORED else TAGGING.tags[label] for label in labels]
    assert tags == [None, "B-name", "I-name", "O", "O", "B-area", "I-area", None]


@given(
    st.lists(st.lists(st.integers(0, len(TAGGING.tags) - 1), min_size=1, max_size=8), min_size=1, max_size=4), st.data()
)
def test_span_f1_is_that_of_seqeval(truth: list[list[int]], data: st.DataObject) -> None:
    size = len(TAGGING.tags) - 1
    guess = [data.draw(st.lists(st.integers(0, size), min_size=len(t), max_size=len(t))) for t in truth]
    names = [[[TAGGING.tags[i] for i in row] for row in rows] for rows in (truth, guess)]
    wanted = sum(len(TAGGING.spans(row)) for row in (*truth, *guess))
    expected = f1_score(names[0], names[1], zero_division=1) if wanted else 1.0
    assert TAGGING.f1(guess, truth) == pytest.approx(expected)


def test_ignored_tokens_are_not_scored() -> None:
    b = TAGGING.tags.index("B-area")
    assert TAGGING.f1([[b, b, 0]], [[IGNORED, b, IGNORED]]) == 1.0


def test_a_guess_may_be_longer_than_the_labels() -> None:
    b = TAGGING.tags.index("B-area")
    assert TAGGING.f1([[b, 0, b, b]], [[b, 0]]) == 1.0


def test_entities_of_kinds_that_are_not_trained_on_are_refused() -> None:
    with pytest.raises(ValueError, match=r"only entities of the kinds .* LOC, PER\. Found 'ORG' in 'Acme'\."):
        Tagging(["LOC", "PER"]).label(Item(("Acme",), spans=((0, 4, "ORG"),)), Tokens([0], [(0, 4)]))


def test_accuracy_is_the_share_of_right_labels() -> None:
    task = Classifying(["a", "b", "c"])
    examples = [
        Example(item := Item(("",), label), Tokens([], []), task.label(item, Tokens([], []))) for label in "abca"
    ]
    logits = [torch.eye(3)[[i]] for i in (0, 1, 0, 1)]
    assert task.score(logits, examples) == (0.5,)


def test_a_whole_text_is_told_by_the_mean_of_its_tokens() -> None:
    hidden = torch.randn(2, 5, 4)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    logits = Classifying("ab").logits(nn.Identity(), hidden, mask)
    torch.testing.assert_close(logits[1, 0], hidden[1, :2].mean(0))


# ---------------------------------------------------------------------- answers

CONTEXT = "turn on the lamp; open the door"
# As two texts are cut: a question of two tokens, special tokens, the context's words.
PLACES = [(0, 4), (5, 7), (8, 11), (12, 16), (16, 17), (18, 22), (23, 26), (27, 31)]
TOKENS = Tokens(list(range(12)), [(0, 0)] * 4 + PLACES)


def asked(*spans: tuple[int, int]) -> Item:
    return Item(("What?", CONTEXT), spans=tuple((*span, "") for span in spans))


def test_the_labels_are_the_first_and_the_last_token_of_the_answer() -> None:
    assert Answering().label(asked((27, 31)), TOKENS) == [11, 11]
    assert Answering().label(asked((8, 16)), TOKENS) == [6, 7]
    assert Answering().label(asked((9, 14)), TOKENS) == [6, 7]


def test_an_answer_that_was_cut_off_is_not_learnt() -> None:
    cut = Tokens(TOKENS.ids[:10], TOKENS.spans[:10])
    assert Answering().label(asked((27, 31)), cut) == [IGNORED, IGNORED]
    assert Answering().label(asked((18, 31)), cut) == [IGNORED, IGNORED]


def test_padding_is_never_the_answer() -> None:
    hidden = torch.randn(1, 3, 2)
    logits = Answering().logits(nn.Identity(), hidden, torch.tensor([[True, True, False]]))
    assert torch.equal(logits[0, :, :2], hidden[0, :2].T)
    assert (logits[0, :, 2] == -torch.inf).all()


@given(st.integers(0, 2**32 - 1))
def test_the_answer_is_the_best_of_all_spans_in_the_context(seed: int) -> None:
    logits = torch.randn(2, 14, generator=torch.Generator().manual_seed(seed))  # two of padding
    spans = [(i, j) for i in range(4, 12) for j in range(i, min(i + LONGEST, 12))]
    first, last = max(spans, key=lambda span: float(logits[0, span[0]] + logits[1, span[1]]))
    assert answer(logits, TOKENS, CONTEXT) == CONTEXT[TOKENS.spans[first][0] : TOKENS.spans[last][1]].strip()


def test_an_answer_is_of_limited_length_and_empty_without_a_context() -> None:
    text = "x" * 100
    tokens = Tokens(list(range(100)), [(i, i + 1) for i in range(100)])
    logits = torch.zeros(2, 100)
    logits[0, 0] = logits[1, 99] = 10.0
    assert len(answer(logits, tokens, text)) <= LONGEST
    assert answer(torch.zeros(2, 3), Tokens([0, 1, 2], [(0, 0)] * 3), "") == ""


SPOKEN = {"a": [], "The": [], "an": [], "lamp": ["lamp"], "Lamp.": ["lamp"], "(5)": ["5"], "10%": ["10"], "!": []}
answers = st.lists(st.sampled_from(sorted(SPOKEN)), max_size=6)


@given(answers, answers)
def test_scores_are_those_of_squad_one_word_after_the_other(found: list[str], right: list[str]) -> None:
    ours = [word for spoken in found for word in SPOKEN[spoken]]
    theirs = [word for spoken in right for word in SPOKEN[spoken]]
    assert words(" ".join(found)) == ours
    assert exact_match(" ".join(found), " ".join(right)) == (ours == theirs)
    left = list(theirs)
    common = 0
    for word in ours:
        if word in left:
            left.remove(word)
            common += 1
    precision, recall = common / max(len(ours), 1), common / max(len(theirs), 1)
    expected = float(ours == theirs) if not common else 2 * precision * recall / (precision + recall)
    assert word_f1(" ".join(found), " ".join(right)) == pytest.approx(expected)


def test_scripts_without_spaces_are_compared_by_characters() -> None:
    assert words("客厅的灯") == ["客", "厅", "的", "灯"]
    assert word_f1("客厅", "客厅的灯") == pytest.approx(2 * 2 / 6)
    assert words("¿Cuántas «horas»?") == ["cuántas", "horas"]
    assert words(string.punctuation) == []


def test_the_best_of_several_right_answers_counts() -> None:
    item = asked((12, 16), (8, 16), (27, 31))
    logits = torch.zeros(2, 12)
    logits[0, 6] = logits[1, 7] = 5.0
    [f1, exact] = Answering().score([logits], [Example(item, TOKENS, [7, 7])])
    assert (f1, exact) == (1.0, 1.0)
    [f1, exact] = Answering().score([logits], [Example(asked((27, 31)), TOKENS, [11, 11])])
    assert (f1, exact) == (0.0, 0.0)
