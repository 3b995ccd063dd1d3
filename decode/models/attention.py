"""Attention: what queries see, and how steps of a few new tokens a row read long caches.

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
from transformers import PretrainedConfig
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


class Masks:
    """What the queries of a model may see, as its layers take it.

    Args:
        config: of the language model.
        dtype: in which it computes.
        device: of its input tokens.

    Attributes:
        window: how many keys a query of a sliding layer sees; None without such layers.
    """

    def __init__(self, config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.window: int | None = getattr(config, "sliding_window", None)
        default_type = "sliding_attention" if self.window else "full_attention"
        self._layer_types = set(getattr(config, "layer_types", None) or [default_type])
        self._dtype = dtype
        # A bool mask is only understood by scaled_dot_product_attention; the rest add it up. On a
        # GPU that adds it up too, and would make numbers of it in every layer.
        is_added = config._attn_implementation != _NAME or device.type == "cuda"
        self._is_bool = not is_added

    def __call__(self, positions: Tensor, span: int) -> Tensor | dict[str, Tensor]:
        """Masks (B, 1, T, span) of queries at (B, T) positions: one, or by type of layer."""
        keys = torch.arange(span, device=positions.device)
        queries = positions[:, None, :, None]
        visible = keys <= queries
        masks = {"full_attention": visible}
        if self.window:
            masks["sliding_attention"] = visible & (keys > queries - self.window)
        wanted = {name: self._as_added(masks[name]) for name in self._layer_types}
        return next(iter(wanted.values())) if len(wanted) == 1 else wanted

    def _as_added(self, visible: Tensor) -> Tensor:
        if self._is_bool:
            return visible
        numbers = torch.zeros_like(visible, dtype=self._dtype)
        return numbers.masked_fill(~visible, torch.finfo(self._dtype).min)


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
