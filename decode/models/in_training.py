"""A model in the middle of its training, as the expert of a pair: borrowed and given back.

A LoRA expert keeps its anti-expert inside itself, so the pair shares the training's own weights
(adapted.py). Any other expert needs its anti-expert beside it. Nothing is copied, no random number
is drawn, and the model is given back as it was: layers, training mode, attention and the forward
that mixed precision has put in place of its own.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .adapted import is_plain_lora, sharing_weights
from .pair import Pair, SharedPair, TwoModels
from .recurrent import as_language_model
from .sources import is_positional

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
