"""The Unigram tokenizer of XLM-R, from its pieces.

In: pieces with scores. Out: a `tokenizers.Tokenizer`. May import: tokenizers.
"""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from benchmarks.multilingual.backbone import Spans

BEGIN, PADDING, END, UNKNOWN = range(4)


def build_tokenizer(pieces: list[tuple[str, float]]) -> Tokenizer:
    """Return a tokenizer that cuts texts into the likeliest pieces between `<s>` and `</s>`.

    Differs from XLM-R's own in the normalizer: plain NFKC stands for SentencePiece's compiled variant of it.

    Args:
        pieces: with their log-probabilities, by id; the first four are `<s>`, `<pad>`, `</s>` and `<unk>`.
    """
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=UNKNOWN, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BEGIN), ("</s>", END)]
    )
    return tokenizer


def cut(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[list[int], Spans]]:
    """Cut texts into token ids with the place of each."""
    return [(encoding.ids, encoding.offsets) for encoding in tokenizer.encode_batch(list(texts))]
