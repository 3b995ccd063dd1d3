"""Models whose weights are in fewer bits: quantised as they load, or in their checkpoint."""

import json
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from .fit import check_loaded, check_numbers, quiet
from .model_files import REMEDY
from .quantization import one_line, quantization_config


def stored_quantization(config: PretrainedConfig) -> dict[str, Any] | None:
    """How config.json says that a checkpoint is quantised already; None if it does not."""
    own = (config, config.get_text_config(decoder=True))
    given = [getattr(one, "quantization_config", None) for one in own]
    found = next((one for one in given if one is not None), None)
    return found.to_dict() if isinstance(found, QuantizationConfigMixin) else found


def loading_config(
    name: str, settings: str | None, config: PretrainedConfig
) -> QuantizationConfigMixin | None:
    """How a model's weights will be quantised in memory; None is not at all.

    Args:
        settings: `settings_text`; None loads the checkpoint as it comes.
        config: the checkpoint's own.

    Raises:
        ValueError: in one line, it is quantised already, or a package or a device is missing.
    """
    stored = stored_quantization(config)
    if stored is not None:
        method = stored.get("quant_method")
        if settings is not None:
            raise ValueError(
                f"{name}: its weights are quantised already ({method}), and load as they come; "
                "leave quantization out, or name the checkpoint in 16 bits"
            )
        with one_line(f"{name}: quantised weights ({method})"):
            found = AutoQuantizationConfig.from_dict(stored)
    elif settings is not None:
        found = quantization_config(json.loads(settings), f"{name}: quantization")
    else:
        return None
    with one_line(f"{name}: quantised weights"):
        quantizer = AutoHfQuantizer.from_config(found, pre_quantized=stored is not None)
        quantizer.validate_environment(device_map=None, weights_only=True)
    return found


def load_quantised(
    name: str,
    quantization: QuantizationConfigMixin | None,
    device: str,
    dtype: str,
    options: dict[str, Any],
) -> PreTrainedModel:
    """A model in fewer bits, on `device`; "auto" spreads it over all GPUs there are.

    Its numbers are read from its files: in memory they are others.

    Args:
        quantization: None where the checkpoint has its own.
        options: of `from_pretrained`.

    Raises:
        ValueError: in one line, its weights do not fit it, or do not compute on this device.
    """
    if quantization is not None:  # None would take away the checkpoint's own
        options = {**options, "quantization_config": quantization}
    with one_line(f"{name}: its weights do not load in fewer bits"), quiet(shows_bars=True):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            device_map="auto" if device == "auto" else {"": device},
            **options,
        )
    model, info = loaded
    check_loaded(info, name)
    check_numbers(name, options.get("revision"), most_bytes=None)  # of a hub's, now that it is here
    _check_reads(model.eval(), name)
    return model


def _check_reads(model: PreTrainedModel, name: str) -> None:
    """Check that a quantised model reads a token: its kernels are there, its scales fit and finite.

    Raises:
        ValueError: in one line what it is that it cannot do.
    """
    ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with one_line(f"{name}: its quantised weights do not compute"), torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits
    if not logits.isfinite().all():
        raise ValueError(f"{name}: its quantised weights give NaN or infinity; {REMEDY}")


def can_be_recorded(model: PreTrainedModel) -> bool:
    """Whether a model's forward can be a CUDA graph.

    bitsandbytes in 4 bits and torchao only launch kernels. LLM.int8 asks the GPU which columns hold
    outliers, and of the other methods nobody has tried it.
    """
    method = getattr(model, "quantization_method", None)
    return method is None or method == "torchao" or getattr(model, "is_loaded_in_4bit", False)
