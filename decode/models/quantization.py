"""Weights in fewer bits than they are stored in, by transformers' own settings and keys.

    {quant_method: bitsandbytes, load_in_4bit: true, bnb_4bit_quant_type: nf4}
    {quant_method: torchao, quant_type: {Int4WeightOnlyConfig: {group_size: 32}}}

A checkpoint that is quantised already says so in its config.json, and loads as it comes.
"""

import dataclasses
import difflib
import inspect
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils.quantization_config import BitsAndBytesConfig, QuantizationConfigMixin

from .model_files import GGUF

INSTALL = 'pip install -e ".[quant]"'
BITSANDBYTES = ("bitsandbytes_4bit", "bitsandbytes_8bit")  # two names for one set of keys
# They need calibration, or are formats of whole checkpoints: such weights load as they come.
AS_THEY_COME = frozenset(
    "aqlm auto-round awq bitnet compressed-tensors gemma gptq mxfp8 nvfp4 quark spqr vptq".split()
)
NOT_AS_THEY_LOAD = (("activation_scheme", "static"),)  # its scales are those of a calibration


def settings_text(settings: Mapping[str, Any], key: str) -> str:
    """Settings of a quantisation, checked by transformers' classes, as JSON text.

    Args:
        settings: `quant_method` and the keys of its class in transformers.
        key: where they are given, which errors name.

    Raises:
        ValueError: in one line which key or value is wrong, or which package is missing.
    """
    quantization_config(settings, key)
    return json.dumps(settings, sort_keys=True)


def quantization_config(settings: Mapping[str, Any], key: str) -> QuantizationConfigMixin:
    """Transformers' own configuration; raises as `settings_text` does."""
    settings = dict(settings)
    method = settings.pop("quant_method", None)
    if method is None and settings.keys() & {"load_in_4bit", "load_in_8bit"}:
        method = "bitsandbytes"  # as transformers takes it
    if method == "gguf":
        raise ValueError(f"{key}.quant_method: {GGUF}")
    others = AS_THEY_COME | {*BITSANDBYTES, "gguf"}
    known = sorted(AUTO_QUANTIZATION_CONFIG_MAPPING.keys() - others)
    known.append("bitsandbytes")
    if isinstance(method, str) and method in AS_THEY_COME:
        raise ValueError(
            f"{key}.quant_method: weights are not quantised to {method} as they load; name a "
            f"checkpoint that is, which loads as it comes, or take one of {', '.join(known)}"
        )
    if method not in known:
        found = "missing" if method is None else f"found {method!r:.60}"
        raise ValueError(f"{key}.quant_method: {found}; expected one of {', '.join(known)}")
    kind = AUTO_QUANTIZATION_CONFIG_MAPPING.get(method, BitsAndBytesConfig)
    _check_keys(settings, _parameters(kind), key)
    _check_values(settings, kind, key)
    with one_line(key):
        if method == "torchao" and "quant_type" in settings:
            settings["quant_type"] = _torchao_type(settings["quant_type"], f"{key}.quant_type")
        config = kind(**settings)
    if isinstance(config, BitsAndBytesConfig):
        _check_bitsandbytes(settings, config, key)
    return config


def _check_values(settings: dict[str, Any], kind: type, key: str) -> None:
    """What the classes leave to a failure later on, or say without the key."""
    for name, one in inspect.signature(kind).parameters.items():
        is_free = one.default is not one.empty or one.kind is one.VAR_KEYWORD
        if not is_free and name not in settings:
            raise ValueError(f"{key}.{name}: missing; {kind.__name__} needs it")
    for name, value in settings.items():
        dtype = getattr(torch, str(value), None)
        is_float = isinstance(dtype, torch.dtype) and dtype.is_floating_point
        if name.endswith("compute_dtype") and not is_float:
            raise ValueError(f"{key}.{name}: found {value!r:.60}, expected a type, as bfloat16")
        if (name, value) in NOT_AS_THEY_LOAD or (name == "dequantize" and value):
            raise ValueError(
                f"{key}.{name}: found {value!r:.60}; it is for checkpoints that are quantised "
                "already; leave it out"
            )
        is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if name.endswith(("_modules", "_to_not_convert")) and value is not None and not is_list:
            raise ValueError(f"{key}.{name}: found {value!r:.60}, expected a list of names")


def _check_bitsandbytes(settings: dict[str, Any], config: BitsAndBytesConfig, key: str) -> None:
    if not config.is_quantizable():
        raise ValueError(f"{key}: give load_in_4bit: true or load_in_8bit: true")
    if config.quantization_method() is None:
        found = config.bnb_4bit_quant_type
        raise ValueError(f"{key}.bnb_4bit_quant_type: found {found!r}, expected 'nf4' or 'fp4'")
    others = ("llm_int8_threshold", "llm_int8_has_fp16_weight") if config.load_in_4bit else "bnb_4"
    for name in settings:
        if name.startswith(others):
            bits = 4 if config.load_in_4bit else 8
            raise ValueError(f"{key}.{name}: has no effect in {bits} bits; leave it out")


def _torchao_type(value: Any, key: str) -> Any:
    """A torchao object: its class's name, or {name: its keys}; transformers' JSON is read too."""
    # optional, and slow to import
    from torchao.core.config import config_from_dict  # pyright: ignore[reportMissingImports]

    if isinstance(value, dict) and "default" in value:
        return config_from_dict(value["default"])
    name, data = next(iter(value.items())) if _is_typed(value) else (value, {})
    kind = _torchao_classes().get(name) if isinstance(name, str) else None
    if kind is None:
        known = [one for one in _torchao_classes() if one.endswith("Config")]
        near = difflib.get_close_matches(str(name), known, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
        raise ValueError(f"{key}: torchao.quantization has no {name!r:.60}; {hint}")
    data = data or {}
    _check_keys(data, [field.name for field in dataclasses.fields(kind)], f"{key}.{name}")
    return kind(**{one: _torchao_value(v, f"{key}.{name}.{one}") for one, v in data.items()})


def _torchao_value(value: Any, key: str) -> Any:
    if _is_typed(value) or value in _torchao_classes():
        return _torchao_type(value, key)
    dtype = getattr(torch, value, None) if isinstance(value, str) else None
    return dtype if isinstance(dtype, torch.dtype) else value


def _is_typed(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1


def _torchao_classes() -> dict[Any, Any]:
    from torchao import quantization  # pyright: ignore[reportMissingImports]

    found = {name: one for name, one in vars(quantization).items() if isinstance(one, type)}
    return {name: one for name, one in found.items() if dataclasses.is_dataclass(one)}


def _parameters(kind: type) -> list[str]:
    """The keys that a configuration class, or one it extends, names."""
    found: dict[str, None] = {}
    for one in kind.__mro__:
        if one not in (object, QuantizationConfigMixin) and "__init__" in vars(one):
            found |= dict.fromkeys(inspect.signature(one.__init__).parameters)
    return [name for name in found if name not in ("self", "args", "kwargs")]


def _check_keys(settings: Mapping[str, Any], known: Collection[str], key: str) -> None:
    if not isinstance(settings, Mapping):
        raise ValueError(f"{key}: found {settings!r:.60}, expected a mapping")
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(str(name), list(known), 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise ValueError(f"{key}.{name}: unknown key; {hint}")


@contextmanager
def one_line(where: str) -> Iterator[None]:
    """A block whose errors, a missing package among them, are ValueErrors of one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the libraries raise any
        text = " ".join(str(error).split()) or type(error).__name__
        text = text if where in text else f"{where}: {text:.300}"
        is_ours = any(one in text for one in ("torchao", "bitsandbytes"))
        hint = f"; {INSTALL}" if is_ours and isinstance(error, ImportError) else ""
        raise ValueError(text + hint) from error
