"""Models decoded row by row: those whose layers keep something else than keys by position.

State-space and hybrid layers carry a state, and an earlier state cannot be recovered: drafts could
not be rolled back, so there are none. ALiBi and its kind take their positions from a mask of one
row. Each row is a forward of its own, with the inputs and the cache that transformers' `generate`
would give it. Right, and slow.
"""

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..engine.row import Row
from .architectures import keeps_keys, rope_switch
from .language_model import Ids, LanguageModel
from .length_rope import LengthRopeModel, rotated_by_length, rotations

logger = logging.getLogger(__name__)

CACHES = ("past_key_values", "cache_params", "state")  # what architectures call them


def as_language_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    """The model with the cache that its layers need; a warning where that is the slow one."""
    if keeps_keys(model.config):
        has_switch = rope_switch(model.config) is not None
        return (LengthRopeModel if has_switch else LanguageModel)(model, tokenizer)
    logger.warning(
        "%s: %s layers keep more than keys by position; decoding it row by row, without drafts",
        model.config.name_or_path,
        model.config.model_type,
    )
    return RecurrentModel(model, tokenizer)


@dataclass
class _Read:
    """The tokens that a slot has read, and the cache of them by its name."""

    ids: list[int] = field(default_factory=list)
    cache: dict[str, Any] = field(default_factory=dict)


class RecurrentModel(LanguageModel):
    """A LanguageModel whose rows have a cache of transformers' own each, and no drafts."""

    can_roll_back = False

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(model, tokenizer)
        self._rotations = rotations(model)
        self._inputs = inspect.signature(model.forward).parameters
        self._slots: list[_Read] = []

    def with_own_cache(self) -> Self:
        own = super().with_own_cache()
        own._slots = []
        return own

    def make_room(self, num_tokens: int, num_slots: int, num_kept: int) -> None:
        del self._slots[num_kept:]
        self._slots += [_Read() for _ in range(num_slots - len(self._slots))]

    def clear(self) -> None:
        self._slots = []

    def fill(self, prompts: Sequence[Ids], slots: Sequence[int]) -> Tensor:
        for slot in slots:
            self._slots[slot] = _Read()
        rows = zip(prompts, slots, strict=True)
        return torch.stack([self._advance(prompt, slot) for prompt, slot in rows])

    def read(self, rows: Sequence[Row], drafts: Tensor) -> Tensor:
        assert drafts.shape[1] == 0, "a state that only goes forward cannot take drafts back"
        read = [self._advance(row.token_ids[-1:], slot) for slot, row in enumerate(rows)]
        return torch.stack(read)[:, None]

    def move(self, source: int, target: int) -> None:
        self._slots[target] = self._slots[source]

    @torch.inference_mode()
    def _advance(self, tokens: Ids, slot: int) -> Tensor:
        """Read tokens into a slot: (V,) logits of what follows."""
        read = self._slots[slot]
        read.ids += tokens
        ids = torch.tensor([read.ids], device=self.device)
        options: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "use_cache": True}
        if "position_ids" in self._inputs:
            options["position_ids"] = torch.arange(len(read.ids), device=self.device)[None]
        if "logits_to_keep" in self._inputs:
            options["logits_to_keep"] = 1
        network: Any = self.model
        inputs = network.prepare_inputs_for_generation(
            ids,
            next_sequence_length=len(tokens) if read.cache else None,
            is_first_iteration=not read.cache,
            **options,
            **read.cache,
        )
        with rotated_by_length(self._rotations, torch.tensor([[len(read.ids)]])):
            output = network(**inputs)
        read.cache = {name: output[name] for name in CACHES if output.get(name) is not None}
        return output.logits[0, -1, : self._num_tokens]
