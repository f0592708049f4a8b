"""Any encoder that transformers loads (XLM-R, mBERT, …), by its name on the hub or by path.

In: a name or path. Out: `Backbone`. May import: backbone, tokenizer, transformers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from benchmarks.multilingual.backbone import Backbone, Spans
from benchmarks.multilingual.tokenizer import last_spans


class _Hidden(nn.Module):
    """The last hidden states of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return hidden


def load(name: str, prefix: str = "", longest: int = 128) -> Backbone:
    """Return a model by its name on the hub or by path.

    Args:
        name: as `from_pretrained` takes it.
        prefix: put before every text.
        longest: text, in tokens; what is beyond is cut off.

    Raises:
        ValueError: if its tokenizer cannot tell where tokens stand in the text, or has no padding.
    """
    tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True)
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise ValueError(
            f"`--model {name}` must have a fast tokenizer with a padding token. Found {type(tokenizer).__name__} with "
            f"padding {tokenizer.pad_token_id}. Choose another model."
        )

    def cut(texts: Sequence[tuple[str, ...]]) -> list[tuple[list[int], Spans]]:
        rows = [row if len(row) == 2 else row[0] for row in texts]
        encoded = tokenizer(rows, truncation=True, max_length=longest)
        return [(e.ids, last_spans(e, len(row) - 1)) for e, row in zip(encoded.encodings, texts, strict=True)]

    def build(ids: Sequence[int]) -> nn.Module:
        model = AutoModel.from_pretrained(name)  # in evaluation mode, where it stays: no dropout
        model.get_input_embeddings().requires_grad_(False)
        return _Hidden(model).to(torch.get_default_device())

    width = AutoConfig.from_pretrained(name).hidden_size
    return Backbone(name, width, tokenizer.pad_token_id, prefix, cut, build)
