"""One causal language model, continued token by token, and how it is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .cache import SlotCache

ATTENTION_TYPES = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from: a folder or a hub id, and how it is to be read."""

    name: str
    revision: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False

    @property
    def hub_options(self) -> dict:
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    def is_same_model(self, other: "ModelSource") -> bool:
        """Whether both name the same weights, however the folder is spelt."""
        same_place = self.name == other.name or (
            Path(self.name).is_dir() and Path(self.name).resolve() == Path(other.name).resolve()
        )
        return same_place and self.revision == other.revision


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises ValueError, in one line, when there is none to be had."""
    try:
        return AutoTokenizer.from_pretrained(source.name, **source.hub_options)
    except (OSError, ValueError) as error:
        raise ValueError(_not_found("tokenizer", source, error)) from error


def load_config(source: ModelSource) -> PretrainedConfig:
    """The model's configuration. Raises ValueError as `load_tokenizer` does."""
    try:
        return AutoConfig.from_pretrained(source.name, **source.hub_options)
    except (OSError, ValueError) as error:
        raise ValueError(_not_found("config", source, error)) from error


def load_weights(source: ModelSource, device: str) -> PreTrainedModel:
    """The model in evaluation mode on `device`; "auto" spreads it over all GPUs there are.

    Raises:
        ValueError: there is no such model, or its cache cannot be addressed by position.
    """
    check_architecture(load_config(source), source.name)
    placement = {"device_map": "auto"} if device == "auto" else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.name, dtype=source.dtype, use_safetensors=True, **source.hub_options, **placement
        )
    except OSError as error:
        raise ValueError(_not_found("weights", source, error)) from error
    if not placement:
        nn.Module.to(model, device)
    return model.eval()


def check_architecture(config: PretrainedConfig, name: str) -> None:
    """Raises ValueError if some layer keeps a state that is not keys and values by position."""
    unsupported = set(getattr(config, "layer_types", None) or ()) - ATTENTION_TYPES
    if unsupported or not hasattr(config, "num_attention_heads"):
        found = ", ".join(sorted(unsupported)) or "no attention heads"
        raise ValueError(
            f"{name}: {config.model_type} models cannot be decoded here (found {found}); "
            "every layer must be full or sliding-window attention"
        )


def resolve_device(device: str) -> str:
    """What "auto" means here: the CPU, the one GPU, or "auto" again for several (sharded)."""
    if device != "auto":
        return device
    num_gpus = torch.cuda.device_count()
    return "cpu" if num_gpus == 0 else "cuda" if num_gpus == 1 else "auto"


def _not_found(what: str, source: ModelSource, error: Exception) -> str:
    revision = f" at revision {source.revision}" if source.revision else ""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"model '{source.name}'{revision}: no {what} found; give a folder made by save_pretrained "
        f"or a hub id you can reach ({reason:.160})"
    )


class LanguageModel:
    """A model and its cache: rows live in slots, each with its own length.

    Shapes: B rows, T tokens, V the tokenizer's vocabulary (a model's padding beyond it is cut).

    Attributes:
        model: the transformers model, in evaluation mode.
        eos_ids: ids that end a completion.
        lengths: tokens in the cache, by slot.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.eos_ids = _eos_ids(model, tokenizer)
        self._num_tokens = max(tokenizer.get_vocab().values()) + 1
        self.lengths: list[int] = []
        self._unread: list[int] = []  # by slot, the newest token, not yet in the cache
        self._cache: SlotCache | None = None
        config = model.config.get_text_config(decoder=True)
        self._num_layers: int = config.num_hidden_layers
        self._window: int | None = getattr(config, "sliding_window", None)
        default_type = "sliding_attention" if self._window else "full_attention"
        self._layer_types = set(getattr(config, "layer_types", None) or [default_type])
        # A bool mask is only understood by scaled_dot_product_attention; the rest add it up.
        self._mask_is_bool = config._attn_implementation == "sdpa"

    def open(self, prompts: Sequence[Sequence[int]], num_slots: int, num_new_tokens: int) -> None:
        """An empty cache of `num_slots`, large enough for any of `prompts` and its completion."""
        self.lengths = [0] * num_slots
        self._unread = [0] * num_slots
        capacity = max(map(len, prompts)) + num_new_tokens
        self._cache = SlotCache(self._num_layers, num_slots, capacity)

    def prefill(self, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> None:
        """Write prompts into slots, all but the last token of each, which the next step reads.

        Shorter prompts are padded on the right; what padding writes is beyond the row's length.
        """
        for slot, prompt in zip(slots, prompts, strict=True):
            self.lengths[slot] = len(prompt) - 1
            self._unread[slot] = prompt[-1]
        width = max(self.lengths[slot] for slot in slots)
        if width == 0:
            return
        padded = [[*prompt[:-1], *[0] * (width - len(prompt) + 1)] for prompt in prompts]
        positions = torch.arange(width, device=self.device).expand(len(slots), width)
        self.run(
            self.model.base_model,  # without the head: nobody looks at a prefill's logits
            torch.tensor(padded, device=self.device),
            torch.tensor(slots, device=self.device),
            positions,
        )

    def next_logits(self, num_rows: int) -> Tensor:
        """Read the last token of the rows in the first slots: (B, V) logits of what follows."""
        positions = torch.tensor(self.lengths[:num_rows], device=self.device)[:, None]  # (B, 1)
        ids = torch.tensor(self._unread[:num_rows], device=self.device)[:, None]
        output = self.run(self.model, ids, slice(0, num_rows), positions)
        for slot in range(num_rows):
            self.lengths[slot] += 1
        return output.logits[:, -1, : self._num_tokens]

    def append(self, tokens: Sequence[int]) -> None:
        """Continue the rows in the first slots by one token each; the next step reads it."""
        self._unread[: len(tokens)] = tokens

    def move(self, source: int, target: int) -> None:
        """Move the row in slot `source` to slot `target`, whose row is gone."""
        assert self._cache is not None, "open() comes first"
        self._cache.move(source, target)
        self.lengths[target] = self.lengths[source]
        self._unread[target] = self._unread[source]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.inference_mode()
    def run(self, network: nn.Module, ids: Tensor, slots: slice | Tensor, positions: Tensor) -> Any:
        """One forward of `network`, writing the cache: ids and positions are (B, T)."""
        assert self._cache is not None, "open() comes first"
        self._cache.aim(slots, positions)
        return network(
            input_ids=ids,
            attention_mask=self._mask(positions, self._cache.span),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )

    def _mask(self, positions: Tensor, span: int) -> Tensor | dict[str, Tensor]:
        keys = torch.arange(span, device=positions.device)
        visible = keys <= positions[:, None, :, None]  # (B, 1, T, span)
        masks = {"full_attention": visible}
        if self._window:
            masks["sliding_attention"] = visible & (
                keys > positions[:, None, :, None] - self._window
            )
        if not self._mask_is_bool:
            dtype = self.model.dtype
            masks = {
                name: torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
                for name, mask in masks.items()
            }
        wanted = {name: masks[name] for name in self._layer_types}
        return next(iter(wanted.values())) if len(wanted) == 1 else wanted


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    generation = getattr(model, "generation_config", None)
    configured = getattr(generation, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(id_ for id_ in [*ids, tokenizer.eos_token_id] if id_ is not None)
