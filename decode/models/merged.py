"""An adapter as whole weights, for what reads model folders and no adapters."""

from dataclasses import replace
from pathlib import Path

import torch

from .adapters import adapter_base, load_adapted
from .model_source import ModelSource
from .sources import load_config, load_tokenizer, load_weights, weights_dtype

LARGEST_DIFFERENCE = 1e-3  # of logits, in parts of the largest one
NUM_TOKENS = 32


def save_merged(source: ModelSource, folder: Path) -> None:
    """Write an adapter, merged into its base in float32 and then in its own type, as a model.

    Raises:
        ValueError: the merged weights would say something else than the adapter does.
    """
    base = adapter_base(source)
    dtype = weights_dtype(base, load_config(base))
    adapted = load_adapted(source, load_weights(replace(base, dtype="float32"), "cpu")).eval()
    ids = torch.arange(NUM_TOKENS)[None] % adapted.get_input_embeddings().num_embeddings
    with torch.inference_mode():
        wanted = adapted(input_ids=ids).logits
        try:
            merged = adapted.merge_and_unload()
            found = merged(input_ids=ids).logits
        except (AttributeError, NotImplementedError, TypeError, ValueError):
            found = torch.full_like(wanted, torch.nan)
    if not (wanted - found).abs().max() <= LARGEST_DIFFERENCE * wanted.abs().max():
        kind = str(adapted.active_peft_config.peft_type).removeprefix("PeftType.")
        raise ValueError(
            f"{source.name}: {kind} adapter that cannot be merged into its base, as vLLM needs it; "
            "set decode.engine: local"
        )
    merged.to(dtype).save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
