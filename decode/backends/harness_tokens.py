"""Contexts and continuations as ids, and how many fit, as lm-eval's own `hf` model has it."""

from collections.abc import Iterable
from typing import cast

from lm_eval.models.utils import resolve_max_length  # pyright: ignore[reportMissingImports]
from transformers import PreTrainedTokenizerBase

from ..models.adapters import adapter_base, is_adapter
from ..models.model_source import ModelSource
from ..models.sources import load_config, load_tokenizer

Ids = list[int]


def common_length(sources: Iterable[ModelSource]) -> int:
    """Tokens that every model can hold.

    A model with a table of positions holds one less: padding is read at the last one.
    """
    lengths = []
    for source in sources:
        whole = adapter_base(source) if is_adapter(source) else source
        config = load_config(whole).get_text_config(decoder=True)
        length = resolve_max_length(config, load_tokenizer(source))
        lengths.append(length if getattr(config, "rope_parameters", None) else length - 1)
    return min(lengths)


def text_ids(
    tokenizer: PreTrainedTokenizerBase, text: str, add_special_tokens: bool | None = None
) -> Ids:
    """A text's ids; by default it gets the tokenizer's own first token unless it begins with it."""
    if add_special_tokens is None:
        add_special_tokens = not text.startswith(str(tokenizer.decode(prefix_id(tokenizer))))
    return tokenizer.encode(text, add_special_tokens=add_special_tokens)


def prefix_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that a text without a context is read after.

    Raises:
        ValueError: the tokenizer has neither a token that begins a text nor one that ends it.
    """
    ids = [id_ for id_ in (tokenizer.bos_token_id, tokenizer.eos_token_id) if id_ is not None]
    if not ids:
        raise ValueError(f"'{tokenizer.name_or_path}': its tokenizer has no bos and no eos token")
    return cast(int, ids[0])
