"""How models come from a folder or a hub id to memory."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .adapters import adapter_base, path_of_adapter
from .architectures import refuse_undecodable
from .fit import check_adapter, check_finite, check_folder, check_loaded, check_numbers
from .hub import ADAPTER_FILE, has_tokenizer, model_folder
from .model_files import (
    CONFIG_FILES,
    TOKENIZER_FILES,
    check_generation,
    check_model_files,
    stored_dtype,
    unusable,
)
from .model_source import ModelSource, not_found, refuse_gguf
from .quantised import load_quantised, loading_config

_frozen: "WeakValueDictionary[tuple[ModelSource, str], PreTrainedModel]" = WeakValueDictionary()
TOKENIZER_SUFFIXES = {".json", ".model", ".txt", ".jinja"}


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The model's tokenizer, read once as long as its files stay as they are.

    An adapter without one has that of its base. All callers get the same object; copy it before you
    change it.

    Raises:
        ValueError: in one line, there is no tokenizer.
    """
    if (folder := path_of_adapter(source)) is not None:
        if not has_tokenizer(folder):
            return load_tokenizer(adapter_base(source))
        source = replace(source, name=folder, revision=None)
    path, name, stamp = Path(source.name), source.name, []
    if path.is_dir():
        name = str(path.resolve())
        for file in sorted(path.iterdir()):
            if file.suffix in TOKENIZER_SUFFIXES:
                stat = file.stat()
                stamp.append((file.name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
    plain = replace(source, name=name, dtype="auto", untuned=None, quantization=None)
    return _read_tokenizer(plain, tuple(stamp))


@functools.lru_cache(maxsize=64)
def _read_tokenizer(source: ModelSource, stamp: tuple[Any, ...]) -> PreTrainedTokenizerBase:
    refuse_gguf(source)
    check_model_files(source.name, (*TOKENIZER_FILES, "config.json"))  # says which class
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.name, **source.hub_options)
        tokenizer.decode(tokenizer("a")["input_ids"])  # some values are first read here
    except Exception as error:  # tokenizers raises its own class of error, transformers any
        if (Path(source.name) / "config.json").exists():
            load_config(source)  # which says so where it is the config that stops the tokenizer
        told = unusable(source.name, TOKENIZER_FILES, error)
        raise ValueError(told or not_found("tokenizer", source, error)) from error
    # Some classes are begun without any file, and know nothing but their special tokens.
    if tokenizer.get_vocab().keys() <= set(tokenizer.all_special_tokens):
        empty = ValueError("there are no tokenizer files; tokenizer.save_pretrained writes them")
        raise ValueError(not_found("tokenizer", source, empty))
    return tokenizer


def load_config(source: ModelSource) -> PretrainedConfig:
    """The model's configuration.

    Raises:
        ValueError: in one line, there is none, or such a model cannot be decoded.
    """
    refuse_gguf(source)
    check_model_files(source.name, CONFIG_FILES)
    check_generation(source.name)
    try:
        config = AutoConfig.from_pretrained(source.name, **source.hub_options)
    except Exception as error:  # of the keys' values: of any class
        told = unusable(source.name, CONFIG_FILES[:1], error)
        raise ValueError(told or not_found("config", source, error)) from error
    refuse_undecodable(source.name, config)
    return config


def weights_dtype(source: ModelSource, config: PretrainedConfig) -> torch.dtype:
    """The type the model is loaded in; `auto` is the one it is stored in."""
    dtype = config.dtype if source.dtype == "auto" else source.dtype
    if dtype is None:
        folder = model_folder(source.name, source.revision)
        dtype = (folder and stored_dtype(folder)) or torch.float32
    return dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)


def load_weights(source: ModelSource, device: str) -> PreTrainedModel:
    """The model in evaluation mode on `device`; "auto" spreads it over all GPUs there are.

    Raises:
        ValueError: there is no such model, or its weights do not fit it.
    """
    quantization = loading_config(source.name, source.quantization, load_config(source))
    check_folder(source.name, source.hub_options)
    if quantization is not None:
        own = None if source.quantization is None else quantization
        return load_quantised(source.name, own, device, source.dtype, source.hub_options)
    placement = {"device_map": "auto"} if device == "auto" else {}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.name,
            dtype=source.dtype,
            use_safetensors=True,
            output_loading_info=True,
            **source.hub_options,
            **placement,
        )
    except OSError as error:
        raise ValueError(not_found("weights", source, error)) from error
    model, info = loaded
    check_loaded(info, source.name)
    check_finite(model.named_parameters(), source.name)
    if not placement:
        nn.Module.to(model, device)
    return model.eval()


def check_weights(source: ModelSource, loads_here: bool = True) -> None:
    """Check, before they load, that the weights of a model or an adapter fit and are numbers.

    What is on the hub is fetched.

    Args:
        loads_here: by transformers, which needs the packages of weights that are quantised.

    Raises:
        ValueError: in one line, there is no such model, or which tensors do not fit.
    """
    if (folder := path_of_adapter(source)) is not None:
        base = adapter_base(source)
        check_weights(base, loads_here)
        try:
            return check_adapter(folder, source.name, load_config(base), base.trust_remote_code)
        except ValueError as error:
            given = source.untuned
            if given is None or base.is_in_same_place(given):
                raise
            raise ValueError(
                f"{error} (it is put on '{base.name}', which it remembers and which is in reach, "
                f"not on '{given.name}': see base_model_name_or_path in its {ADAPTER_FILE})"
            ) from error
    if loads_here:
        loading_config(source.name, source.quantization, load_config(source))
    check_folder(source.name, source.hub_options)
    return check_numbers(source.name, source.revision)


def load_frozen(source: ModelSource, device: str) -> PreTrainedModel:
    """The model without gradients; one that is in memory already is not loaded again."""
    model = _frozen.get((source, device))
    if model is None:
        model = load_weights(source, device).requires_grad_(False)
        _frozen[source, device] = model
    return model


def resolve_device(device: str) -> str:
    """What "auto" means here: the CPU, the one GPU, or "auto" again for several (sharded).

    Raises:
        ValueError: this machine has no such device.
    """
    num_gpus = torch.cuda.device_count()
    kind, _, number = device.partition(":")
    is_missing = (kind == "cuda" and int(number or 0) >= num_gpus) or (
        kind == "mps" and not torch.backends.mps.is_available()
    )
    if is_missing:
        gpus = f"cuda:0 to cuda:{num_gpus - 1}" if num_gpus else "no GPU that torch can use"
        raise ValueError(f"decode.device: found {device!r}; this machine has {gpus}; take auto")
    if device != "auto":
        return device
    return "cpu" if num_gpus == 0 else "cuda" if num_gpus == 1 else "auto"
