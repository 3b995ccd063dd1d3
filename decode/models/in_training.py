"""A model in the middle of its training, as the expert of a pair: borrowed and given back.

A LoRA expert keeps its anti-expert inside itself, so the pair shares the training's own weights
(adapted.py). Any other expert needs its anti-expert beside it. Nothing is copied, no random number
is drawn, and the model is given back as it was: layers, training mode, attention and the forward
that mixed precision has put in place of its own. The base does not change, and is asked the same
few prompts at every check, so it may remember them.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .adapted import is_plain_lora, sharing_weights
from .architectures import is_positional
from .cache import Row as KeptRow
from .language_model import Ids, LanguageModel
from .pair import Pair, SharedPair, TwoModels
from .recurrent import as_language_model

# By prompt: its keys and values, and the logits (V,) of what follows.
Memory = dict[tuple[int, ...], tuple[KeptRow, Tensor]]

READS_MASKS = ("sdpa", "eager")  # attention that takes a mask of its own for every row


def keeps_its_antiexpert(model: nn.Module) -> bool:
    """Whether the anti-expert is inside the model."""
    is_plain = isinstance(model, PeftModel) and is_plain_lora(model)
    return is_plain and is_positional(cast(Any, model).config)


@contextmanager
def live_pair(
    model: nn.Module, antiexpert: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Pair]:
    """The pair of a model in training.

    Args:
        model: a PeftModel or the whole model; not sharded, not wrapped.
        antiexpert: needed unless the model keeps its own.
        tokenizer: of both.
    """
    with ExitStack() as stack:
        stack.enter_context(_in_evaluation_mode(model))
        if antiexpert is None:
            assert isinstance(model, PeftModel)
            shared = stack.enter_context(sharing_weights(model))
            assert shared is not None, "this expert needs its anti-expert"
            pair: Pair = SharedPair(*shared, tokenizer)
        else:
            inner = model.base_model.model if isinstance(model, PeftModel) else model
            expert = as_language_model(cast(PreTrainedModel, inner), tokenizer)
            pair = TwoModels(expert, as_language_model(antiexpert, tokenizer))
        for one in pair.models:
            one.capture = None  # recorded forwards would not pay for themselves in a few rows
        yield pair


@contextmanager
def _in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    wrapped = {
        module: module.__dict__.pop("forward")  # accelerate's and Liger's are set on the instance
        for module in (model, getattr(getattr(model, "base_model", None), "model", None))
        if module is not None and "forward" in module.__dict__
    }
    config = cast(Any, model).config
    attention = config._attn_implementation
    if attention not in READS_MASKS:
        config._attn_implementation = "sdpa"
    model.eval()
    try:
        yield
    finally:
        config._attn_implementation = attention
        for module, forward in wrapped.items():
            cast(Any, module).forward = forward
        for module, mode in modes.items():
            module.training = mode


class RememberingModel(LanguageModel):
    """A LanguageModel that keeps in `memory` the prompts it has read, and reads none twice."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, memory: Memory
    ) -> None:
        super().__init__(model, tokenizer)
        self._memory = memory

    def fill(self, prompts: Sequence[Ids], slots: Sequence[int]) -> Tensor:
        assert self._cache is not None, "make_room() comes first"
        keys = [tuple(prompt) for prompt in prompts]
        unread = [place for place, key in enumerate(keys) if key not in self._memory]
        if unread:
            logits = super().fill([prompts[i] for i in unread], [slots[i] for i in unread])
            for place, row in zip(unread, logits, strict=True):
                kept = self._cache.row(slots[place], len(keys[place]))
                self._memory[keys[place]] = kept, row
        for place in set(range(len(keys))).difference(unread):
            self._cache.put(slots[place], self._memory[keys[place]][0])
            self._set_length(slots[place], len(keys[place]))  # as `fill` would set it
        return torch.stack([self._memory[key][1] for key in keys])
