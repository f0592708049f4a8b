"""The Unigram tokenizer of XLM-R, from its pieces.

In: pieces with scores. Out: a `tokenizers.Tokenizer`. May import: tokenizers.
"""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Encoding, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from benchmarks.multilingual.backbone import Spans

BEGIN, PADDING, END, UNKNOWN = range(4)


def build_tokenizer(pieces: list[tuple[str, float]]) -> Tokenizer:
    """Return a tokenizer that cuts texts into the likeliest pieces.

    Differs from XLM-R's own in the normalizer: plain NFKC stands for SentencePiece's compiled variant of it.

    Args:
        pieces: with their log-probabilities, by id; the first four are `<s>`, `<pad>`, `</s>` and `<unk>`.
    """
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=UNKNOWN, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return tokenizer


def open_tokenizer(path: Path, longest: int) -> Tokenizer:
    """Return a tokenizer that was saved, ready for one text or two, of which the longer is cut off at `longest`."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", BEGIN), ("</s>", END)]
    )
    tokenizer.enable_truncation(longest)
    return tokenizer


def cut(tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]]) -> list[tuple[list[int], Spans]]:
    """Cut texts, one or two to a row, into token ids with the place of each in the last text."""
    rows = tokenizer.encode_batch([row if len(row) == 2 else row[0] for row in texts])
    return [(row.ids, last_spans(row, len(text) - 1)) for row, text in zip(rows, texts, strict=True)]


def last_spans(row: Encoding, last: int) -> Spans:
    """Return the places of tokens in the last text, (0, 0) of those that are not in it."""
    return [span if owner == last else (0, 0) for span, owner in zip(row.offsets, row.sequence_ids, strict=True)]
