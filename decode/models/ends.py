"""The ids that end a completion, as a model's files name them."""

from transformers import GenerationConfig, PreTrainedTokenizerBase

from .adapters import adapter_base, is_adapter
from .chat import end_of_turn
from .model_source import ModelSource
from .sources import load_config, load_tokenizer


def end_ids(
    generation: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase
) -> frozenset[int]:
    """Those of the settings of generation, the tokenizer's own, and what ends a turn."""
    configured = getattr(generation, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    own = [*ids, tokenizer.eos_token_id, end_of_turn(tokenizer)]
    return frozenset(id_ for id_ in own if id_ is not None)


def end_ids_of(source: ModelSource) -> frozenset[int]:
    """Those of a model that is not loaded; an adapter has its base's settings."""
    whole = adapter_base(source) if is_adapter(source) else source
    try:
        generation = GenerationConfig.from_pretrained(whole.name, revision=whole.revision or "main")
    except OSError:  # there is no such file
        generation = GenerationConfig.from_model_config(load_config(whole))
    return end_ids(generation, load_tokenizer(source))
