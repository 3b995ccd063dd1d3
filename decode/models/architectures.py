"""What an architecture's layers remember, and how it must therefore be decoded."""

import inspect
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

ATTENTION_TYPES = {"full_attention", "sliding_attention"}
# Attention with masks of its own: by the order in the cache, or without the configured window.
MASKS_ITSELF = {"gpt_neo", "moshi"}
# Layers that keep the state of the one row they read inside the model.
ONE_ROW_AT_A_TIME = {"recurrent_gemma"}
# They read in both directions unless the configuration says that they are decoders.
ENCODERS = set(
    "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert "
    "roberta roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod".split()
)


def refuse_undecodable(name: str, config: PretrainedConfig) -> None:
    """Raises ValueError, in one line, if rows of such a model cannot be decoded side by side."""
    kind = config.model_type
    has_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    reason = None
    if kind in ONE_ROW_AT_A_TIME:
        reason = "keeps one row's state inside its layers, so that rows would mix"
    elif kind in ENCODERS and not getattr(config, "is_decoder", False):
        reason = "reads in both directions unless its config.json says is_decoder: true"
    elif not has_code and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        reason = "is not among the causal language models of transformers"
    elif not has_code and _keeps_its_other_parts(config):
        reason = "is not loaded as its text model alone by transformers"
    if reason and _reads_more_than_text(config):
        raise ValueError(
            f"model '{name}': {kind} reads more than text and {reason}; choose a text model, or "
            "one whose text model can be loaded (gemma3, gemma4, qwen3_5)"
        )
    if reason:
        raise ValueError(f"model '{name}': {kind} {reason}; choose another model")


def _reads_more_than_text(config: PretrainedConfig) -> bool:
    return any(hasattr(config, f"{part}_config") for part in ("vision", "audio"))


def _keeps_its_other_parts(config: PretrainedConfig) -> bool:
    """Whether weights of images or sound would be left over beside the text model."""
    if not _reads_more_than_text(config):
        return False
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    is_text_model = model.config_class is not type(config)
    return is_text_model and not model._keys_to_ignore_on_load_unexpected


def is_positional(config: PretrainedConfig) -> bool:
    """Whether a token's key and value depend on its position and on what precedes it, no more."""
    return keeps_keys(config) and rope_switch(config) is None


def keeps_keys(config: PretrainedConfig) -> bool:
    """Whether all layers keep keys and values by position and nothing else (attention, windows).

    A model that is not told the positions takes them from the mask (ALiBi) or from its cache.
    """
    layer_types = set(getattr(config, "layer_types", None) or ())
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    inputs = set() if model is None else set(inspect.signature(model.forward).parameters)
    is_told = model is None or {"position_ids", "past_key_values"} <= inputs
    return (
        layer_types <= ATTENTION_TYPES
        and hasattr(config, "num_attention_heads")
        and is_told
        and config.model_type not in MASKS_ITSELF
        and not getattr(model, "_is_stateful", False)
        and not getattr(config, "alibi", False)
    )


def rope_switch(config: PretrainedConfig) -> int | None:
    """The length from which RoPE's factors depend on the length; None if they never do."""
    text = config.get_text_config(decoder=True)
    ropes = getattr(text, "rope_parameters", None) or {}
    switches = []
    for rope in [ropes, *ropes.values()]:  # one for all layers, or one for each type of layer
        kind = (rope.get("rope_type") if isinstance(rope, dict) else None) or "default"
        if kind == "longrope":
            switches.append(rope["original_max_position_embeddings"])
        elif "dynamic" in kind:
            switches.append(text.max_position_embeddings)
    return min(switches, default=None)
