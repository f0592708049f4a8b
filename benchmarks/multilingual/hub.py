"""Any encoder that transformers loads (XLM-R, mBERT, …), by its name on the hub or by path.

In: a name or path. Out: `Backbone`. May import: backbone, transformers.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from benchmarks.multilingual.backbone import Backbone, Spans

LONGEST = 128  # tokens; what is beyond is cut off


class _Hidden(nn.Module):
    """The last hidden states of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return hidden


def load(name: str, prefix: str = "") -> Backbone:
    """Return a model by its name on the hub or by path.

    Args:
        name: as `from_pretrained` takes it.
        prefix: put before every text.

    Raises:
        ValueError: if its tokenizer cannot tell where tokens stand in the text, or has no padding.
    """
    tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True)
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise ValueError(
            f"`--model {name}` must have a fast tokenizer with a padding token. Found {type(tokenizer).__name__} with "
            f"padding {tokenizer.pad_token_id}. Choose another model."
        )

    def cut(texts: Sequence[str]) -> list[tuple[list[int], Spans]]:
        encoded = tokenizer(list(texts), return_offsets_mapping=True, truncation=True, max_length=LONGEST)
        return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))

    def build(ids: Sequence[int]) -> nn.Module:
        model = AutoModel.from_pretrained(name)  # in evaluation mode, where it stays: no dropout
        model.get_input_embeddings().requires_grad_(False)
        return _Hidden(model)

    width = AutoConfig.from_pretrained(name).hidden_size
    return Backbone(name, width, tokenizer.pad_token_id, prefix, cut, build)
