"""Attention of a step: a few new tokens a row, over long caches, under a mask.

Where query heads share a key head, transformers repeats keys and values for each of them as soon as
a row reads more than one token under a mask: whole caches are copied in every layer. Here the
queries of the heads that share a key head stand in one row of queries instead, so nothing is
repeated and each query sees what it saw.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

MOST_TOKENS = 16  # a row, in a step; of more, repeated keys are a small part
_NAME = "sdpa"
_lock = threading.Lock()  # a server reads prompts beside its steps
_num_inside = 0
_plain = ALL_ATTENTION_FUNCTIONS[_NAME]


@contextmanager
def grouped_heads() -> Iterator[None]:
    """Models that are run in the block, and use transformers' `sdpa`, repeat no keys in steps."""
    global _num_inside, _plain
    with _lock:
        _num_inside += 1
        if _num_inside == 1:
            _plain = ALL_ATTENTION_FUNCTIONS[_NAME]
            ALL_ATTENTION_FUNCTIONS.register(_NAME, _grouped)
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if not _num_inside:
                ALL_ATTENTION_FUNCTIONS.register(_NAME, _plain)


def without_plans() -> None:
    """Have no attention of this process computed by cuDNN.

    On Hopper and later torch prefers it, and it makes a plan for every new shape: .06 to 1 s, where
    the attention itself takes less than .001. Prompts, and rows in training, bring new shapes all
    the time.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def _grouped(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """As transformers' `sdpa_attention_forward`: query (B, H, T, D), key and value (B, K, S, D)."""
    batch, num_heads, num_tokens, size = query.shape
    num_groups = num_heads // key.shape[1]
    is_step = (
        num_groups > 1
        and 1 < num_tokens <= MOST_TOKENS  # of one token transformers repeats nothing either
        and attention_mask is not None
        and attention_mask.shape[1] == 1
        and dropout == 0.0
        and all(options.get(name) is None for name in ("softcap", "position_bias", "cache"))
    )
    if not is_step:
        return _plain(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    assert attention_mask is not None
    output = scaled_dot_product_attention(
        query.reshape(batch, -1, num_groups * num_tokens, size),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, num_groups, 1),
        scale=scaling,
    )
    output = output.reshape(batch, num_heads, num_tokens, value.shape[-1])
    return output.transpose(1, 2).contiguous(), None
