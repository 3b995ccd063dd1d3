"""Models that carry a state instead of keys by position: state-space and hybrid layers.

An earlier state cannot be recovered, so drafts could not be rolled back: there are none, and each
row is a forward of its own with transformers' own cache. Right, and slow.
"""

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..engine.row import Row
from .language_model import Ids, LanguageModel
from .sources import is_positional

logger = logging.getLogger(__name__)


def as_language_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    """The model with the cache that its layers need; a warning where that is the slow one."""
    if is_positional(model.config):
        return LanguageModel(model, tokenizer)
    logger.warning(
        "%s: %s layers cannot be rolled back; decoding it row by row, without drafts",
        model.config.name_or_path,
        model.config.model_type,
    )
    return RecurrentModel(model, tokenizer)


class RecurrentModel(LanguageModel):
    """A LanguageModel whose rows have a state each, which cannot be rolled back."""

    can_roll_back = False

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(model, tokenizer)
        names = inspect.signature(model.forward).parameters
        self._state_name = "past_key_values" if "past_key_values" in names else "cache_params"
        self._states: list[Any] = []  # by slot

    def make_room(self, num_tokens: int, num_slots: int, num_kept: int) -> None:
        del self._states[num_kept:]
        self._states += [None] * (num_slots - len(self._states))

    def clear(self) -> None:
        self._states = []

    def fill(self, prompts: Sequence[Ids], slots: Sequence[int]) -> Tensor:
        for slot in slots:
            self._states[slot] = None
        rows = zip(prompts, slots, strict=True)
        return torch.stack([self._advance(prompt, slot) for prompt, slot in rows])

    def read(self, rows: Sequence[Row], drafts: Tensor) -> Tensor:
        assert drafts.shape[1] == 0, "a state that only goes forward cannot take drafts back"
        read = [self._advance(row.token_ids[-1:], slot) for slot, row in enumerate(rows)]
        return torch.stack(read)[:, None]

    def move(self, source: int, target: int) -> None:
        self._states[target] = self._states[source]

    @torch.inference_mode()
    def _advance(self, tokens: Ids, slot: int) -> Tensor:
        """Read tokens into a slot: (V,) logits of what follows."""
        ids = torch.tensor([list(tokens)], device=self.device)
        state = {self._state_name: self._states[slot]}
        output = self.model(input_ids=ids, use_cache=True, logits_to_keep=1, **state)
        self._states[slot] = getattr(output, self._state_name)
        return output.logits[0, -1, : self._num_tokens]
