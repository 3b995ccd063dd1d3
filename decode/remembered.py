"""A model that reads a prompt once, however often it is asked.

Such is the base of proxy checks: it does not change, and is asked the same few prompts at every
check, for answers and for losses.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .cache import Row
from .language_model import LanguageModel

# By prompt: its keys and values, and the logits (V,) of what follows.
Memory = dict[tuple[int, ...], tuple[Row, Tensor]]


class RememberingModel(LanguageModel):
    """A LanguageModel that finds in `memory` what it has read, and leaves there what it reads."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, memory: Memory
    ) -> None:
        super().__init__(model, tokenizer)
        self._memory = memory

    def prefill(self, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> Tensor:
        """As LanguageModel.prefill."""
        assert self._cache is not None, "open() comes first"
        keys = [tuple(prompt) for prompt in prompts]
        known = [key in self._memory for key in keys]
        unread = [place for place, is_known in enumerate(known) if not is_known]
        if unread:
            logits = super().prefill([prompts[i] for i in unread], [slots[i] for i in unread])
            for place, row in zip(unread, logits, strict=True):
                kept = self._cache.row(slots[place], len(keys[place]))
                self._memory[keys[place]] = kept, row
        for key, slot, is_known in zip(keys, slots, known, strict=True):
            if is_known:
                self._cache.put(slot, self._memory[key][0])
                self.lengths[slot] = len(key) - 1  # and the last token read as a newest one is
        return torch.stack([self._memory[key][1] for key in keys])
