"""A LoRA adapter for some rows of a batch, beside others that get the plain weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .language_model import LanguageModel

# LoraConfig keys that leave it at low-rank matrices beside linears. Any other key may change more
# (biases, embeddings, the order of layers), so its default is wanted.
LOW_RANK_ONLY = frozenset(
    "alpha_pattern auto_mapping base_model_name_or_path eva_config exclude_modules inference_mode "
    "init_lora_weights layers_pattern layers_to_transform lora_alpha lora_dropout peft_type "
    "peft_version r rank_pattern revision target_modules task_type use_rslora".split()
)


@dataclass
class AdaptedRows:
    """Which rows of a batch the adapter applies to; read by every AdaptedLinear of a model."""

    rows: slice | Tensor = field(default_factory=lambda: slice(None))


class AdaptedLinear(nn.Module):
    """A frozen linear layer plus scaling * B(A(x)) on the chosen rows only."""

    def __init__(self, lora: LoraLinear, adapted: AdaptedRows) -> None:
        super().__init__()
        layer = cast(nn.Linear, lora.base_layer)
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_a = cast(nn.Linear, lora.lora_A["default"]).weight  # (r, in)
        self.lora_b = cast(nn.Linear, lora.lora_B["default"]).weight  # (out, r)
        self.scaling = lora.scaling["default"]
        self.adapted = adapted

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, in) -> (B, T, out)."""
        out = linear(x, self.weight, self.bias)
        rows = self.adapted.rows
        inner = linear(x[rows].to(self.lora_a.dtype), self.lora_a)
        delta = linear(inner, self.lora_b)
        if isinstance(rows, Tensor):
            out.index_add_(0, rows, delta.to(out.dtype), alpha=self.scaling)
        else:
            out[rows].add_(delta, alpha=self.scaling)
        return out


def share_weights(expert: PeftModel) -> tuple[PreTrainedModel, AdaptedRows] | None:
    """The expert's base model with switchable adapters, or None if these are not plain LoRA."""
    model = cast(PreTrainedModel, expert.base_model.model)
    layers = _plain_layers(expert)
    if layers is None:
        return None
    adapted = AdaptedRows()
    for name, layer in layers:
        _put(model, name, AdaptedLinear(layer, adapted))
    return model, adapted


def adapted_network(expert: PeftModel) -> PreTrainedModel:
    """The expert's base model with its adapter in place, not merged.

    Merging would round the weights, and where a matrix is shared (tied embeddings, replicated
    layers) it would change more than what was trained.
    """
    shared = share_weights(expert)  # the same numbers, in fewer steps
    return cast(PreTrainedModel, expert.base_model.model) if shared is None else shared[0]


@contextmanager
def sharing_weights(expert: PeftModel) -> Iterator[tuple[PreTrainedModel, AdaptedRows] | None]:
    """As `share_weights` for a while: at the end every layer is what it was."""
    layers = _plain_layers(expert) or []
    try:
        yield share_weights(expert)
    finally:
        for name, layer in layers:
            _put(expert.base_model.model, name, layer)


def is_plain_lora(expert: PeftModel) -> bool:
    """Whether the expert differs from its anti-expert by low-rank matrices only."""
    return _plain_layers(expert) is not None


def _plain_layers(expert: PeftModel) -> list[tuple[str, LoraLinear]] | None:
    """The adapted layers by name, or None if these are not plain LoRA."""
    model = cast(nn.Module, expert.base_model.model)
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, LoraLayer)]
    config = expert.peft_config["default"]
    is_plain = _is_low_rank_only(config) and all(
        type(layer) is LoraLinear
        and type(layer.base_layer) is nn.Linear  # not one of quantised weights
        and not layer.lora_variant  # DoRA and its kind
        and not layer.merged
        for _, layer in layers
    )
    if not is_plain or not layers or len(expert.peft_config) != 1:
        return None
    return cast(list[tuple[str, LoraLinear]], layers)


def _is_low_rank_only(config: PeftConfig) -> bool:
    """Whether the adapter is a LoRA without anything beside its low-rank matrices."""
    if type(config) is not LoraConfig:
        return False
    default = LoraConfig()
    return all(
        getattr(config, key) == getattr(default, key)
        for key in vars(default).keys() - LOW_RANK_ONLY
    )


def _put(model: Any, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


class AdaptedModel(LanguageModel):
    """A model whose adapter applies to some of its slots.

    Args:
        adapts: the slots of a forward -> which of its rows get the adapter.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        adapted: AdaptedRows,
        adapts: Callable[[Sequence[int]], slice | list[int]],
    ) -> None:
        super().__init__(model, tokenizer)
        self._adapted, self._adapts = adapted, adapts

    def run(
        self, network: nn.Module, ids: Tensor, slots: Sequence[int], *where: Any, **options: Any
    ) -> Any:
        """One forward of `network` as in the base class; `where` is its positions and end."""
        rows = self._adapts(slots)
        is_slice = isinstance(rows, slice)
        self._adapted.rows = (
            rows if is_slice else torch.tensor(rows, dtype=torch.long, device=self.device)
        )
        try:
            return super().run(network, ids, slots, *where, **options)
        finally:
            self._adapted.rows = slice(None)
