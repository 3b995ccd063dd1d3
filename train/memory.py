"""Entry: the GPU memory that a recipe's trainings and decoding take, computed without weights.

    python train/memory.py [--config_file ACCELERATE.yaml] RECIPE.yaml [section.key=value ...]

Only the models' configs are read. The accelerate file says how many GPUs share the work and which
ZeRO stage divides what; without it the training is one GPU's. Rows are taken to be as long as the
recipe allows: the override `sft.max_length=512` asks about shorter ones. With P
parameters of w bytes, T of them trained, over N GPUs, a GPU holds

    weights + gradients + optimizer (AdamW) + activations + buffers

- plain: P w, T w (twice if N > 1: reduction buckets), 2 T w, activations, nothing.
- ZeRO in bfloat16, w = 2: float32 weights and two moments, 12 T / N; gradients 2 T, from stage 2 on
  2 T / N; weights 2 P, in stage 3 2 P / N and at most `max_live_parameters` of them whole.

Decoding is given over all GPUs together; of a base that is spread over several, the first GPU has
the small models. What CUDA, NCCL and fragmentation take comes on top: a GiB or two.
"""

import argparse
import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from data import TASKS
from decode.models.sources import ModelSource, load_config, weights_dtype
from decode.stage.command import user_errors
from decode.stage.planning import untuned_model
from recipes.schema.recipe import load_recipe
from train.footprint.activations import activation_bytes, empty_model
from train.footprint.sharding import Sharding, read_sharding
from train.training import Training, trainings

GIB = 1 << 30
PROMPT_TOKENS = 256  # in decoding; the prompts of most tasks are shorter


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one GPU, by what they are for."""

    num_parameters: int
    num_trained: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.buffers


def training_memory(
    config: PretrainedConfig,
    dtype: torch.dtype,
    sft: dict[str, Any],
    adapter: dict[str, Any] | None,
    sharding: Sharding,
) -> Memory:
    """What one GPU holds at most while it trains a model.

    Args:
        dtype: of the weights, as they are loaded.
        sft: `trl.SFTConfig` keys; `max_length` is the rows' length.
        adapter: `peft.LoraConfig` keys; None is full fine-tuning.

    Raises:
        ValueError: the rows' length or the optimizer's needs are not known.
    """
    if sft.get("max_length", 1024) is None:
        raise ValueError("sft.max_length: null; give the rows' length here, sft.max_length=512")
    if not str(sft.get("optim", "adamw")).removesuffix("_fused").startswith("adamw"):
        raise ValueError(f"sft.optim: found {sft['optim']}; only AdamW's memory is known")
    low = torch.float16 if sft.get("fp16") else torch.bfloat16
    is_mixed = bool(sft.get("fp16") or sft.get("bf16", True))
    is_checkpointed = sft.get("activation_checkpointing")
    if is_checkpointed is None:
        is_checkpointed = sft.get("gradient_checkpointing", True)  # the older name
    is_zero = sharding.stage is not None
    if is_zero and is_mixed:
        dtype = low  # DeepSpeed's own mixed precision: it converts the model
    adapter_dtype = dtype if is_zero else torch.float32  # PEFT's choice, undone by DeepSpeed
    model = empty_model(config, dtype, adapter, adapter_dtype)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    activations = activation_bytes(
        model,
        sft.get("per_device_train_batch_size", 8),
        sft.get("max_length", 1024),
        is_checkpointed,
        autocast=low if is_mixed and not is_zero else None,
    )
    trained = num_trained * (dtype if adapter is None else adapter_dtype).itemsize
    weights = (num_parameters - num_trained) * dtype.itemsize + trained
    if is_zero:
        parts = _divided(weights, trained, num_trained, dtype.itemsize, activations, sharding)
    else:
        parts = (weights, trained, 2 * trained, activations)
        parts = (*parts, trained if sharding.num_gpus > 1 else 0)
    return Memory(num_parameters, num_trained, *parts)


def _divided(
    weights: int, gradients: int, num_trained: int, width: int, activations: int, sharding: Sharding
) -> tuple[int, int, int, int, int]:
    """Weights, gradients, optimizer, activations and buffers under ZeRO."""
    stage, num_gpus = sharding.stage or 0, sharding.num_gpus
    share = math.ceil(num_trained / num_gpus) if stage else num_trained
    optimizer = 12 * share
    in_step = 4 * share  # gradients in float32, when activations are gone
    buffers = sharding.num_buckets * sharding.reduce_bucket_size * width if stage else 0
    if stage >= 2:
        gradients = math.ceil(gradients / num_gpus)
    if stage == 3:
        whole = min(weights, sharding.max_live_parameters * width)
        weights = 0 if sharding.offload_weights else math.ceil(weights / num_gpus)
        buffers += whole
        in_step = 4 * min(share, sharding.sub_group_size)
    if sharding.offload_optimizer:
        gradients, optimizer, in_step = (gradients if stage < 2 else 0), 0, 0
    return weights, gradients, optimizer, max(activations, in_step), buffers


def cache_bytes(config: PretrainedConfig, num_rows: int, row_tokens: int, width: int) -> int:
    """Keys and values of rows, in all layers."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * size * num_rows * row_tokens * width


def decoding_memory(
    base: tuple[PretrainedConfig, torch.dtype],
    small: tuple[PretrainedConfig, torch.dtype],
    is_adapter: bool,
    num_rows: int,
    row_tokens: int,
) -> tuple[int, int, int, int]:
    """Bytes of a base and its cache, of expert and anti-expert and their caches.

    An adapter's expert and anti-expert share their weights; its own matrices are not counted.
    """
    parts = []
    for (config, dtype), num_copies, num_caches in ((base, 1, 1), (small, 2 - is_adapter, 2)):
        num_parameters = sum(p.numel() for p in empty_model(config, dtype).parameters())
        cache = cache_bytes(config, num_rows, row_tokens, dtype.itemsize)
        parts += [num_copies * num_parameters * dtype.itemsize, num_caches * cache]
    return tuple(parts)


def main() -> None:
    """Recipe, configs, a table of trainings, a table of decoding."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config_file", help="an accelerate file, as `accelerate launch` reads it")
    parser.add_argument("recipe", help="a YAML file, such as recipes/gsm7b.yaml")
    parser.add_argument("overrides", nargs="*", help="section.key=value, applied in order")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    with user_errors(ValueError):
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        file = arguments.config_file
        sharding = Sharding() if file is None else read_sharding(file)
        rows = [(training, _of(training, sharding)) for training in trainings(recipe)]
        small = _config_and_dtype(untuned_model(recipe.expert))
        bases = [(base, _config_and_dtype(untuned_model(base))) for base in recipe.decode.bases]
    zero = "" if sharding.stage is None else f", ZeRO-{sharding.stage}"
    print(f"{sharding.num_gpus} GPU(s){zero}; computed, not measured; GiB on each GPU\n")
    columns = ("weights", "gradients", "optimizer", "activations", "buffers", "total")
    print(f"{'training':40}{'trained':>9}" + "".join(f"{column:>13}" for column in columns))
    for training, memory in rows:
        name = f"{training.prefix.partition('/')[0]}: {training.model.name}"
        values = (getattr(memory, column) / GIB for column in columns)
        print(f"{name:40.40}{memory.num_trained / 1e6:8,.0f}M", end="")
        print("".join(f"{value:13.1f}" for value in values))
    longest = max(TASKS[evaluation.name].max_new_tokens for evaluation in recipe.evaluations)
    row_tokens = PROMPT_TOKENS + (recipe.decode.max_new_tokens or longest)
    num_rows, is_adapter = recipe.decode.batch_size, recipe.expert.adapter is not None
    print(f"\n{f'decoding, {num_rows} rows of {row_tokens:,} tokens':49}", end="")
    columns = ("base", "its cache", "small models", "their caches", "in all")
    print("".join(f"{column:>13}" for column in columns))
    for base, loaded in bases:
        parts = decoding_memory(loaded, small, is_adapter, num_rows, row_tokens)
        values = (part / GIB for part in (*parts, sum(parts)))
        print(f"{base.model:49.49}" + "".join(f"{value:13.1f}" for value in values))


def _of(training: Training, sharding: Sharding) -> Memory:
    loaded = _config_and_dtype(training.model)
    return training_memory(*loaded, training.sft, training.adapter, sharding)


def _config_and_dtype(model: ModelSource) -> tuple[PretrainedConfig, torch.dtype]:
    config = load_config(model)
    return config, weights_dtype(model, config)


if __name__ == "__main__":
    main()
