"""Settings of TRL that are valid one by one and contradict each other.

Packing and padding-free batches put several rows into one sequence. Positions, which begin again
with each row, keep the rows apart; a model without positions lets each row attend to the one
before, without a warning. Weights in bfloat16 have eight binary digits: an optimizer without a
float32 copy of them rounds smaller steps away.
"""

import importlib.util
from typing import Any

import torch
from peft import LoraConfig
from transformers.utils import is_flash_attn_2_available, is_kernels_available

from decode.models.adapter_kinds import check_adapter_kind
from decode.models.adapters import changes_its_base
from decode.models.sources import load_config, weights_dtype

from .training import Training
from .zero import FSDP_BY_LAUNCH, is_launched_with_deepspeed, is_on

# Attention by the order of tokens alone, and recurrent states.
IGNORE_POSITIONS = frozenset(
    "biogpt bloom falcon falcon_mamba mamba mamba2 mpt opt recurrent_gemma rwkv xglm xlstm".split()
)
DEFAULT_RATE = {"sft": 2e-5, "dpo": 1e-6}  # TRL's
# A weight is about 0.02, its neighbours in bfloat16 are 1e-4 away, and AdamW's steps are as long as
# the rate. At 2e-5, 3% of the weights moved in 40 steps.
LEAST_RATE = 1e-4


def refuse_contradictions(training: Training) -> None:
    """Raises ValueError, in one line, if a training's settings contradict each other."""
    sft = training.settings
    is_packed, is_free = bool(sft.get("packing")), bool(sft.get("padding_free"))
    has_length = sft.get("max_length", 1024) is not None
    if is_packed and not has_length:
        raise ValueError("sft.max_length: null; packing needs the length of its sequences")
    if is_packed and sft.get("packing_strategy") == "wrapped":
        if sft.get("completion_only_loss") is not False:
            raise ValueError(
                "sft.packing_strategy: wrapped cuts rows anywhere, so that completions are learnt "
                "without their prompts; leave it at bfd, or, for plain text, set "
                "sft.completion_only_loss to false"
            )
    elif is_packed or is_free:
        _check_keeps_rows_apart(training, "packing" if is_packed else "padding_free")
    if is_free and not is_packed and has_length:
        raise ValueError(
            "sft.padding_free: no row is cut without padding; set sft.max_length to null if rows "
            "are short enough as they are, or use sft.packing"
        )
    start = (training.adapter or {}).get("init_lora_weights", True)
    if changes_its_base(start):
        raise ValueError(
            f"expert.adapter.init_lora_weights: {start} changes the model's own weights, beside "
            "which the adapter is decoded; leave it out, or take gaussian, orthogonal or mica"
        )
    if training.adapter is not None:
        check_adapter_kind(training.adapter, "expert.adapter")
        _check_adapter(training.adapter)
    _check_router(training)
    _check_kernels(training)
    _check_precision(training)


def _check_keeps_rows_apart(training: Training, key: str) -> None:
    kind = load_config(training.model).get_text_config().model_type
    if kind in IGNORE_POSITIONS:
        raise ValueError(
            f"sft.{key}: rows of one sequence would see each other, since models of type {kind} "
            "do not go by positions; leave it out"
        )


def _check_adapter(adapter: dict[str, Any]) -> None:
    """Raises ValueError, in one line, for what PEFT itself refuses."""
    try:
        LoraConfig(**adapter)
    except (ImportError, TypeError, ValueError) as error:
        raise ValueError(f"expert.adapter: {' '.join(str(error).split())}") from None


def _check_router(training: Training) -> None:
    """Raises ValueError for a loss of a router that the model does not have."""
    has_router = hasattr(load_config(training.model).get_text_config(), "output_router_logits")
    if training.settings.get("router_aux_loss_coef") and not has_router:
        raise ValueError(
            f"sft.router_aux_loss_coef: {training.model.name} is no mixture of experts, so there "
            "is no such loss; leave it out"
        )


def _check_kernels(training: Training) -> None:
    """Raises ValueError for missing kernels, which the libraries miss after the weights load."""
    sft = training.settings
    has_gpu = torch.cuda.is_available()
    has_liger = importlib.util.find_spec("liger_kernel") is not None
    if sft.get("use_liger_kernel") and not (has_gpu and has_liger):
        raise ValueError("sft.use_liger_kernel: needs a GPU and `pip install liger-kernel`")
    attention = (sft.get("model_init_kwargs") or {}).get("attn_implementation")
    if attention == "flash_attention_2" and not (
        has_gpu and (is_flash_attn_2_available() or is_kernels_available())
    ):
        raise ValueError(
            "sft.model_init_kwargs.attn_implementation: flash_attention_2 needs a GPU and "
            "`pip install flash-attn` (or `kernels`); sdpa needs neither"
        )


def _check_precision(training: Training) -> None:
    """Raises ValueError for 16-bit weights whose gradients or steps are lost.

    Full fine-tuning needs a float32 copy of them; an adapter's weights are float32, but gradients
    reach them through float16 weights, which takes a scaler.
    """
    sft = training.settings
    rate = sft.get("learning_rate", DEFAULT_RATE[training.method])
    decay = rate * sft.get("weight_decay", 0.0)
    if decay > 1:
        raise ValueError(
            f"sft.weight_decay: times sft.learning_rate it is {decay:g}, so that each step turns "
            "the weights' signs round; lower it"
        )
    keeps_copy = sft.get("deepspeed") or sft.get("fsdp")
    keeps_copy = keeps_copy or is_launched_with_deepspeed() or is_on(FSDP_BY_LAUNCH)
    if keeps_copy:
        return
    model = training.model
    dtype = weights_dtype(model, load_config(model))
    if training.adapter is not None:
        if dtype == torch.float16 and not sft.get("fp16"):
            raise ValueError(
                f"{model.name}: gradients through float16 weights overflow and vanish without a "
                "scaler; set dtype to bfloat16 or float32, or sft.fp16 to true"
            )
        return
    if dtype == torch.float16:
        raise ValueError(
            f"{model.name}: full fine-tuning of float16 weights overflows; set dtype to float32 "
            "(sft.bf16 or sft.fp16 compute in 16 bits all the same)"
        )
    if dtype == torch.bfloat16 and rate < LEAST_RATE:
        raise ValueError(
            f"{model.name}: full fine-tuning in bfloat16 at learning rates below {LEAST_RATE:g} "
            "rounds most steps away; launch with DeepSpeed, which keeps float32 weights, or set "
            "dtype to float32 (sft.bf16 computes in bfloat16 all the same)"
        )
