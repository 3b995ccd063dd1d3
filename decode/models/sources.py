"""How models come from a folder or a hub id to memory, and what an adapter says of its base."""

import functools
import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from peft import PeftModel
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .adapter_kinds import check_adapter_kind
from .architectures import refuse_undecodable
from .embeddings import replaces_embeddings
from .fit import (
    check_adapter,
    check_finite,
    check_folder,
    check_loaded,
    check_numbers,
    load_adapter,
    read_adapter,
    refuse_nan,
)
from .hub import ADAPTER_FILE, adapter_folder, has_tokenizer, model_folder
from .model_files import (
    CONFIG_FILES,
    GGUF,
    TOKENIZER_FILES,
    check_generation,
    check_model_files,
    is_gguf,
    read_model_file,
    unusable,
)
from .quantised import load_quantised, loading_config

logger = logging.getLogger(__name__)

_frozen: "WeakValueDictionary[tuple[ModelSource, str], PreTrainedModel]" = WeakValueDictionary()
TOKENIZER_SUFFIXES = {".json", ".model", ".txt", ".jinja"}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from: a folder or a hub id, and how it is to be read.

    Attributes:
        untuned: what it was tuned from. An adapter is put on it where the model that the adapter
            names is not in reach.
        quantization: how its weights are quantised as they load (`quantization.settings_text`);
            None loads them as they are stored.
        key: the recipe's, which errors name.
    """

    name: str
    revision: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    untuned: "ModelSource | None" = None
    quantization: str | None = None
    key: str = field(default="", compare=False)

    @property
    def identity(self) -> dict[str, Any]:
        """What is recorded of it beside results."""
        quantised = self.quantization and {"quantization": json.loads(self.quantization)}
        return {
            "name": self.name,
            "revision": self.revision,
            "dtype": self.dtype,
            "trust_remote_code": self.trust_remote_code,
            **(quantised or {}),
        }

    @property
    def hub_options(self) -> dict:
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    def is_same_model(self, other: "ModelSource") -> bool:
        """Whether both name the same weights, however the folder is spelt."""
        return self.is_in_same_place(other) and self.revision == other.revision

    def is_in_same_place(self, other: "ModelSource") -> bool:
        """Whether both name the same folder or hub id."""
        return self.name == other.name or (
            Path(self.name).is_dir() and Path(self.name).resolve() == Path(other.name).resolve()
        )


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The model's tokenizer, read once as long as its files stay as they are.

    An adapter without one has that of its base. All callers get the same object; copy it before you
    change it.

    Raises:
        ValueError: in one line, there is no tokenizer.
    """
    if (folder := _adapter(source)) is not None:
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
    _refuse_gguf(source)
    check_model_files(source.name, (*TOKENIZER_FILES, "config.json"))  # says which class
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.name, **source.hub_options)
        tokenizer.decode(tokenizer("a")["input_ids"])  # some values are first read here
    except Exception as error:  # tokenizers raises its own class of error, transformers any
        if (Path(source.name) / "config.json").exists():
            load_config(source)  # which says so where it is the config that stops the tokenizer
        told = unusable(source.name, TOKENIZER_FILES, error)
        raise ValueError(told or _not_found("tokenizer", source, error)) from error
    # Some classes are begun without any file, and know nothing but their special tokens.
    if tokenizer.get_vocab().keys() <= set(tokenizer.all_special_tokens):
        empty = ValueError("there are no tokenizer files; tokenizer.save_pretrained writes them")
        raise ValueError(_not_found("tokenizer", source, empty))
    return tokenizer


def load_config(source: ModelSource) -> PretrainedConfig:
    """The model's configuration.

    Raises:
        ValueError: in one line, there is none, or such a model cannot be decoded.
    """
    _refuse_gguf(source)
    check_model_files(source.name, CONFIG_FILES)
    check_generation(source.name)
    try:
        config = AutoConfig.from_pretrained(source.name, **source.hub_options)
    except Exception as error:  # of the keys' values: of any class
        told = unusable(source.name, CONFIG_FILES[:1], error)
        raise ValueError(told or _not_found("config", source, error)) from error
    refuse_undecodable(source.name, config)
    return config


def weights_dtype(source: ModelSource, config: PretrainedConfig) -> torch.dtype:
    """The type the model is loaded in; `auto` is the one it is stored in."""
    dtype = (config.dtype or torch.float32) if source.dtype == "auto" else source.dtype
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
        raise ValueError(_not_found("weights", source, error)) from error
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
    if (folder := _adapter(source)) is not None:
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


def is_adapter(source: ModelSource) -> bool:
    """Whether a folder, or what a hub id names, is a PEFT adapter rather than whole weights."""
    return _adapter(source) is not None


def brings_embeddings(source: ModelSource, base: PreTrainedModel) -> bool:
    """Whether an adapter replaces the embeddings of its base, which is in memory."""
    folder = _adapter(source)
    assert folder is not None
    return replaces_embeddings(base, read_adapter(folder, source.name))


def load_adapted(source: ModelSource, base: PreTrainedModel) -> PeftModel:
    """An adapter on its base, which is in memory; raises as `fit.load_adapter` does."""
    folder = _adapter(source)
    assert folder is not None
    return load_adapter(base, folder, source.name)


def changes_its_base(start: bool | str) -> bool:
    """Whether an adapter with this `init_lora_weights` takes its first weights out of its base."""
    return str(start).lower().startswith(("pissa", "olora", "corda", "loftq", "lora_ga"))


def adapter_base(expert: ModelSource) -> ModelSource:
    """The model that an adapter is put on, to be read as the expert is.

    That is the model the adapter was trained on, by the name that it remembers; or, where none of
    that name is in reach, `expert.untuned`.

    Raises:
        ValueError: it was trained on other weights than that model's, cannot be decoded, or
            remembers no model.
    """
    folder = _adapter(expert)
    assert folder is not None
    file = Path(folder) / ADAPTER_FILE
    settings = read_model_file(file)
    refuse_nan(settings, str(file))
    check_adapter_kind(settings, str(file))
    if changes_its_base(start := settings.get("init_lora_weights", True)):
        raise ValueError(
            f"{expert.name}: an adapter begun as '{start}' belongs to weights changed by that, not "
            "to its base's own; convert it (path_initial_model_for_weight_conversion of PEFT's "
            "save_pretrained)"
        )
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    for key, value in (("base_model_name_or_path", name), ("revision", revision)):
        if not isinstance(value, str | None):
            raise ValueError(f"{file}: {key}: found {value!r:.60}, expected text or null")
    named = replace(expert, name=str(name), revision=revision, untuned=None) if name else None
    untuned = expert.untuned
    if untuned is None:
        if named is None:
            raise ValueError(
                f"{file}: base_model_name_or_path: missing; give the model it was trained on as "
                "the anti-expert"
            )
        return named
    # An adapter that remembers no revision does not contradict a given one.
    is_given = named is not None and (
        named.is_same_model(untuned) or (revision is None and named.is_in_same_place(untuned))
    )
    if named is not None and not is_given:
        if model_folder(named.name, revision) is not None:
            return named
        _say_where_it_is_put(expert.name, named.name, untuned.name)
    return replace(untuned, dtype=expert.dtype)


@functools.cache
def _say_where_it_is_put(adapter: str, named: str, untuned: str) -> None:
    logger.warning(
        "%s: '%s', which it was trained on, is not in reach; it is put on '%s'",
        adapter,
        named,
        untuned,
    )


def _adapter(source: ModelSource) -> str | None:
    return adapter_folder(source.name, source.revision)


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


def _refuse_gguf(source: ModelSource) -> None:
    if is_gguf(source.name):
        raise ValueError(f"{_named(source)}: {GGUF}")


def _named(source: ModelSource) -> str:
    key = f"{source.key}: " if source.key else ""
    revision = f" at revision {source.revision}" if source.revision else ""
    return f"{key}model '{source.name}'{revision}"


def _not_found(what: str, source: ModelSource, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{_named(source)}: no {what} found; give a folder made by "
        "save_pretrained or a hub id you can reach, with HF_TOKEN set for a private or gated one "
        f"({reason:.160})"
    )
