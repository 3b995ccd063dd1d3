"""Bytes of a model's weights in memory, from its configuration.

A method quantises linear layers; embeddings, head, norms and the stacked experts of mixtures stay
in the type they are loaded in.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from .hub import model_folder
from .model_source import ModelSource
from .quantised import stored_quantization
from .quantization import quantization_config
from .sources import load_config, weights_dtype

BLOCK, NESTED_BLOCK = 64, 256  # of bitsandbytes: weights that share a scale, scales that share one


def weight_bytes(source: ModelSource) -> int:
    """Bytes of the weights of a model that is no adapter, as `load_weights` leaves them.

    Raises:
        ValueError: in one line, they are quantised on the hub and not here, or in a way whose size
            is not known.
    """
    config = load_config(source)
    if source.quantization is None and stored_quantization(config) is not None:
        folder = model_folder(source.name, source.revision)
        files = [] if folder is None else [*Path(folder).glob("*.safetensors")]
        if not files:
            raise ValueError(
                f"{source.name}: its weights are quantised, and their size is that of their files, "
                "which are not here; fetch them first (hf download)"
            )
        return sum(file.stat().st_size for file in files)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=weights_dtype(source, config),
            trust_remote_code=source.trust_remote_code,
        )
    num_bytes = sum(one.numel() * one.element_size() for one in model.parameters())
    if source.quantization is None:
        return num_bytes
    settings = json.loads(source.quantization)
    quantization = quantization_config(settings, f"{source.name}: quantization")
    linears = _quantised_linears(model, quantization)
    for weight in {one.weight for one in linears}:
        own = weight.numel() * weight.element_size()
        num_bytes += int(weight.numel() * bits_per_weight(quantization, weight.shape[1]) / 8) - own
    return num_bytes


def bits_per_weight(quantization: QuantizationConfigMixin, in_features: int) -> float:
    """Bits of a quantised weight, its part of the scales included.

    Args:
        in_features: of its layer: where a row shares a scale, so many weights do.
    """
    own: Any = quantization
    method = getattr(own.quant_method, "value", own.quant_method)
    if method == "bitsandbytes":
        if own.load_in_8bit:
            return 8 + 32 / in_features
        scale = 8 + 32 / NESTED_BLOCK if own.bnb_4bit_use_double_quant else 32
        return 4 + scale / BLOCK
    if method == "torchao":
        kind, name = own.quant_type, type(own.quant_type).__name__
        if name.startswith("Int4Weight"):
            return 4 + 32 / kind.group_size  # a scale and a zero point in 16 bits
        if name.startswith(("Int8Weight", "Int8Dynamic", "Float8")) and "Int4" not in name:
            group = getattr(getattr(kind, "granularity", None), "group_size", in_features)
            return 8 + 40 / group if name.startswith("Int8") else 8 + 32 / group
    raise ValueError(
        f"decode.bases: the size of weights quantised by {method} is not known; bitsandbytes and "
        "torchao's Int4, Int8 and Float8 are"
    )


def _quantised_linears(
    model: PreTrainedModel, quantization: QuantizationConfigMixin
) -> list[nn.Linear]:
    own: Any = quantization
    given = getattr(own, "llm_int8_skip_modules", None) or getattr(
        own, "modules_to_not_convert", None
    )
    always = [*(model._keep_in_fp32_modules or ())]
    kept = HfQuantizer.get_modules_to_not_convert(model, given, always)
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and should_convert_module(name, kept)
    ]
