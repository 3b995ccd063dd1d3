"""Tiny random models and tokenizers, made in the test, so that nothing is downloaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

CORPUS = [
    "the capital of Peru is Lima and the capital of Kenya is Nairobi",
    "a longer prompt, to be ragged; hello hello world, what is the answer?",
    "Question: how many pens? Answer: 12 pens. déjà vu, naïve café",
]
ARCHITECTURES = {
    "llama": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "qwen2": {"use_sliding_window": False},
    "mistral": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8, "head_dim": 8, "num_hidden_layers": 6},
}


def byte_tokenizer(extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer of 256 bytes, <eos> and <pad>, and whatever `extra` tokens follow."""
    vocab = {char: id_ for id_, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for token in ("<eos>", "<pad>", *extra):
        vocab[token] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )


def tiny_model(
    seed: int,
    architecture: str = "llama",
    width: int = 32,
    vocab_size: int = 258,
    sharpness: float = 8.0,
    **options,
) -> PreTrainedModel:
    """A random float32 model whose logits are sharp enough that rounding decides no argmax.

    Further `options` are of the configuration.
    """
    sizes = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    }
    config = AutoConfig.for_model(
        architecture,
        **{**sizes, **ARCHITECTURES.get(architecture, {}), **options},
        vocab_size=vocab_size,
        eos_token_id=256,
        bos_token_id=None,
        pad_token_id=257,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
        model.get_output_embeddings().weight.mul_(sharpness)
        model.get_output_embeddings().weight[257:] = 0  # <pad> and what pads the vocabulary
    model.generation_config.eos_token_id = 256
    return model


def save_tiny(folder: Path, seed: int, extra: tuple[str, ...] = (), **options) -> str:
    """The folder, in which a tiny model and its byte tokenizer are now saved."""
    tiny_model(seed, **options).save_pretrained(folder)
    byte_tokenizer(extra).save_pretrained(folder)
    return str(folder)


def trained_tokenizer(size: int = 300, **special: Any) -> Any:
    """A byte-level BPE with some merges, so that words are cut otherwise than their beginnings."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False),
    )
    special = special or {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<none>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def save_trained(folder: Path, seed: int, **special: Any) -> str:
    """A tiny model with a trained tokenizer, saved."""
    tokenizer = trained_tokenizer(**special)
    model = tiny_model(seed, vocab_size=len(tokenizer))
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def save_model(tmp_path: Path) -> Callable[..., str]:
    """`save_tiny` by a name, below the test's own folder: (name, seed, ...) -> its folder."""
    return lambda name, *arguments, **options: save_tiny(tmp_path / name, *arguments, **options)
