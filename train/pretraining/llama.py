"""A fresh Llama, and its optimizers: Muon for matrices, AdamW for embeddings and norms."""

import torch
from torch.optim import Optimizer
from transformers import LlamaConfig, LlamaForCausalLM

from data.mini.tokenizer import BOS_ID, EOS_ID, PAD_ID

from .pretrain_recipe import ModelShape, PretrainRecipe


def build_model(shape: ModelShape, vocab_size: int, context: int) -> LlamaForCausalLM:
    """A fresh Llama with tied embeddings, in float32."""
    config = LlamaConfig(
        **shape.model_dump(),
        vocab_size=vocab_size,
        num_key_value_heads=shape.num_attention_heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    return LlamaForCausalLM(config)


def build_optimizers(model: LlamaForCausalLM, recipe: PretrainRecipe) -> list[Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms."""
    matrices = [item for item in model.model.layers.parameters() if item.ndim == 2]
    chosen = {id(item) for item in matrices}
    others = [item for item in model.parameters() if id(item) not in chosen]
    muon = torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay)
    adamw = torch.optim.AdamW(others, lr=recipe.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0)
    for optimizer in (muon, adamw):
        optimizer.param_groups[0]["peak_lr"] = optimizer.param_groups[0]["lr"]
    return [muon, adamw]
