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
        unread = [place for place, key in enumerate(keys) if key not in self._memory]
        if unread:
            logits = super().prefill([prompts[i] for i in unread], [slots[i] for i in unread])
            for place, row in zip(unread, logits, strict=True):
                kept = self._cache.row(slots[place], len(keys[place]))
                self._memory[keys[place]] = kept, row
        for place in set(range(len(keys))).difference(unread):
            self._cache.put(slots[place], self._memory[keys[place]][0])
            self.lengths[slots[place]] = len(keys[place]) - 1  # as if it had been read
        return torch.stack([self._memory[key][1] for key in keys])
