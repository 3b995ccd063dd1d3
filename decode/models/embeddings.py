"""Embeddings that come with an adapter: whole matrices, which PEFT saves where tokens were added.

PEFT loads them into a base that has as many tokens, and there they replace the base's own.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

WHOLE = r"\.((token_adapter\.)?base_layer\.|modules_to_save\.|original_module\.)?weight"
REPEATED = r"\.token_adapter\.trainable_tokens_delta"


def fit_vocabulary(
    model: PreTrainedModel, weights: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> None:
    """Give a model as many tokens as an adapter was trained with.

    Args:
        weights: of the adapter, by name.
        settings: its `adapter_config.json`.

    Raises:
        ValueError: in one line, the embeddings of added tokens were not saved with it.
    """
    layers: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    num_here = layers[0].weight.shape[0]
    is_tied = layers[1] is None or layers[1].weight is layers[0].weight
    saved = [{weights[key].shape[0] for key in _saved(model, one, weights)} for one in layers]
    wanted = saved[0] | saved[1] if is_tied else (saved[0] or {num_here}) | (saved[1] or {num_here})
    if len(wanted) > 1:
        raise ValueError(
            f"its embeddings and its head have different numbers of tokens, {sorted(wanted)}; its "
            f"base has {num_here}; save both whole (save_embedding_layers=True)"
        )
    num_tokens = next(iter(wanted), num_here)
    last = max(_trained_tokens(settings), default=0)
    if last >= num_tokens:
        raise ValueError(
            f"it trains token {last}, where its base has {num_tokens} tokens; save the embeddings "
            "with it (save_embedding_layers=True)"
        )
    if num_tokens != num_here:
        model.resize_token_embeddings(num_tokens, mean_resizing=False)


def replaces_embeddings(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> bool:
    """Whether an adapter brings other embeddings than those of its base."""
    layers: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    for layer in layers:
        for key in _saved(model, layer, weights):
            own = layer.weight
            if weights[key].shape != own.shape or not torch.equal(weights[key].to(own), own):
                return True
    return False


def saved_embeddings(model: PreTrainedModel, weights: Iterable[str]) -> set[str]:
    """The names of an adapter's tensors that are whole embeddings, or repeated for a tied head."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    kinds = f"({WHOLE}|{REPEATED})"
    return {key for layer in layers for key in _saved(model, layer, weights, kinds)}


def _saved(
    model: PreTrainedModel, layer: nn.Module | None, weights: Iterable[str], kinds: str = WHOLE
) -> list[str]:
    names = [re.escape(name) for name, module in model.named_modules() if module is layer]
    wanted = re.compile(rf"base_model\.model\.({'|'.join(names)}){kinds}")
    return [key for key in weights if names and wanted.fullmatch(key)]


def _trained_tokens(settings: Mapping[str, Any]) -> list[int]:
    found = [settings.get("trainable_token_indices"), settings.get("token_indices")]
    lists = [one for each in found for one in (each.values() if isinstance(each, dict) else [each])]
    return [index for one in lists for index in one or []]
