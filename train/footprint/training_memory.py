"""The memory of a training on one GPU. With P parameters of w bytes, T of them trained, on N GPUs:

    weights + gradients + optimizer (AdamW) + activations + buffers

- plain: P w, T w (twice if N > 1: reduction buckets), 2 T w, activations, nothing.
- ZeRO in bfloat16, w = 2: float32 weights and two moments, 12 T / N; gradients 2 T, from stage 2 on
  2 T / N; weights 2 P, in stage 3 2 P / N and at most `max_live_parameters` of them whole.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from .activations import activation_bytes, empty_model
from .sharding import Sharding


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
    """The most that one GPU holds while it trains a model.

    Args:
        dtype: of the weights when they are loaded.
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
