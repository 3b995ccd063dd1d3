"""Tiny random models and tokenizers, made in the test, so that nothing is downloaded."""

import os

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
import torch
from support.judge_server import JudgeServer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

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
    seed: int, architecture: str = "llama", width: int = 32, vocab_size: int = 258, sharpness=8.0
) -> PreTrainedModel:
    """A random float32 model whose logits are sharp enough that rounding decides no argmax."""
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
        **{**sizes, **ARCHITECTURES[architecture]},
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


@pytest.fixture
def save_model(tmp_path: Path) -> Callable[..., str]:
    """Saves a model and a byte tokenizer to a folder of its own and returns the folder."""

    def save(name: str, seed: int, extra: tuple[str, ...] = (), **kwargs) -> str:
        folder = tmp_path / name
        tiny_model(seed, **kwargs).save_pretrained(folder)
        byte_tokenizer(extra).save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture
def serve():
    """Starts a server with an `answer` function; all are closed at the end."""
    servers = []

    def start(answer):
        server = JudgeServer(answer)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
