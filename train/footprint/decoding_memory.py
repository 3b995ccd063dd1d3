"""The memory of decoding: weights of a base and of a small pair, and their caches."""

from transformers import PretrainedConfig

from decode.models.model_source import ModelSource
from decode.models.sources import load_config, weights_dtype
from decode.models.weight_bytes import weight_bytes


def cache_bytes(config: PretrainedConfig, num_rows: int, row_tokens: int, width: int) -> int:
    """Bytes of the keys and values of all rows, in all layers."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * size * num_rows * row_tokens * width


def decoding_memory(
    base: ModelSource,
    small: ModelSource,
    is_adapter: bool,
    num_rows: int,
    row_tokens: int,
) -> tuple[int, int, int, int]:
    """Bytes of a base and its cache, of expert and anti-expert and their caches.

    An adapter's expert and anti-expert share their weights; its own matrices are not counted.
    """
    parts = []
    for source, num_copies, num_caches in ((base, 1, 1), (small, 2 - is_adapter, 2)):
        config = load_config(source)
        width = weights_dtype(source, config).itemsize
        cache = cache_bytes(config, num_rows, row_tokens, width)
        parts += [num_copies * weight_bytes(source), num_caches * cache]
    return tuple(parts)
