"""Do weights fit their model? The libraries only warn, and go on with random or missing tensors.

Weights are checked before they load, by the names and shapes in their files, and their numbers when
they are in memory; before a run begins, numbers are also read from the files. Tied heads are no
fault.
"""

import functools
import json
import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from .embeddings import fit_vocabulary, saved_embeddings
from .hub import ADAPTER_FILE, model_folder
from .model_files import read_model_file, refuse_pickles

NUM_SHOWN = 3
READ_FIRST_BYTES = 32 << 30  # weights up to this size are read first: 4 GiB a second on one core
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
REMEDY = "give the folder that save_pretrained wrote, complete and unchanged"


def check_folder(name: str, options: dict[str, Any]) -> None:
    """Check that a model's weights fit it, before they load. A hub's are fetched first.

    Args:
        name: a folder or a hub id.
        options: of `from_pretrained`.

    Raises:
        ValueError: in one line which tensors are missing, left over or mis-shaped, or that a file
            is broken.
    """
    folder = model_folder(name, options.get("revision"))
    if folder is not None:
        _check_folder(folder, name, json.dumps(options), _stats(folder))


def check_numbers(
    name: str, revision: str | None, most_bytes: int | None = READ_FIRST_BYTES
) -> None:
    """Raises ValueError, in one line, if the weights that `check_folder` has seen hold NaN.

    Args:
        most_bytes: larger ones are not read; None reads all.
    """
    folder = model_folder(name, revision)
    if folder is None:
        return
    stats = _stats(folder)
    num_bytes = sum(size for file, _, size in stats if file.endswith(".safetensors"))
    if most_bytes is None or num_bytes <= most_bytes:
        _check_numbers(folder, name, stats)


def _stats(folder: str) -> tuple[Any, ...]:
    files = sorted(one for one in Path(folder).iterdir() if one.suffix in (".json", ".safetensors"))
    try:
        return tuple((one.name, one.stat().st_mtime_ns, one.stat().st_size) for one in files)
    except OSError as error:  # a link into a cache that was cleared
        raise ValueError(f"{error.filename}: {error.strerror}; {REMEDY}") from None


@functools.lru_cache(maxsize=64)
def _check_folder(folder: str, name: str, options: str, stats: tuple[Any, ...]) -> None:
    config = read_model_file(Path(folder) / "config.json")
    refuse_nan(config, f"{name}/config.json")
    refuse_pickles(folder, name)
    if config.get("quantization_config") is not None:
        return  # its tensors are others than the model's
    with quiet(shows_bars=not Path(name).is_dir()):  # what is fetched takes long
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name,
                device_map="meta",
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **json.loads(options),
            )
        except Exception as error:  # no memory and no device are needed: it is the files
            raise ValueError(f"{name}: {_line(error)}; {REMEDY}") from error
    check_loaded(loaded[1], name)


@functools.lru_cache(maxsize=64)
def _check_numbers(folder: str, name: str, stats: tuple[Any, ...]) -> None:
    check_files(sorted(Path(folder).glob("*.safetensors")), name)


def check_loaded(info: dict[str, Any], name: str) -> None:
    """Raises ValueError for what `from_pretrained` has found missing, left over or mis-shaped."""
    shapes = [f"{key} {list(a)} for {list(b)}" for key, a, b in info["mismatched_keys"]]
    found = {
        "missing": sorted(info["missing_keys"]),
        "of no use to this model": sorted(info["unexpected_keys"]),
        "of another shape": sorted(shapes),
    }
    _refuse(found, name, "the weights do not fit config.json")


def check_files(files: Iterable[Path], name: str) -> None:
    """Raises ValueError for a safetensors file that is broken or holds NaN or infinity."""
    for file in files:
        try:
            with safe_open(file, "pt") as held:
                check_finite(((key, held.get_tensor(key)) for key in held.offset_keys()), name)
        except ValueError:
            raise
        except Exception as error:  # safetensors' own class is not public
            raise ValueError(f"{file}: {_line(error)}; {REMEDY}") from error


def check_finite(tensors: Iterable[tuple[str, Tensor]], name: str) -> None:
    """Raises ValueError for tensors with NaN or infinity in them."""
    with torch.no_grad():
        bad = [
            key
            for key, tensor in tensors
            # A sum reads the memory once; what it cannot hold is looked at number by number.
            if tensor.dtype in FLOATS
            and not tensor.sum().isfinite()
            and not tensor.isfinite().all()
        ]
    _refuse({"with NaN or infinity": bad}, name, "these weights cannot be used")


def check_adapter(folder: str, name: str, base: PretrainedConfig, is_remote_code: bool) -> None:
    """Check the tensors of an adapter folder before its base's weights load, as `load_adapter`."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(base, trust_remote_code=is_remote_code)
    try:
        load_adapter(model, folder, name)
    except NotImplementedError:
        return  # this kind computes with its base's numbers: it is checked as it loads


def load_adapter(model: PreTrainedModel, folder: str, name: str) -> PeftModel:
    """The model with the adapter in `folder`, in evaluation mode.

    Args:
        name: what the adapter is called: the folder, or its hub id.

    Raises:
        ValueError: in one line which tensors are missing, left over, mis-shaped or not finite.
    """
    weights = read_adapter(folder, name)
    with _one_line(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing tensors, which are refused here
        settings = read_model_file(Path(folder) / ADAPTER_FILE)
        fit_vocabulary(model, weights, settings)
        embeddings = saved_embeddings(model, weights)
        adapted = PeftModel.from_pretrained(model, folder).eval()
        wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    own = adapted.state_dict().keys()
    found = {
        "missing": sorted(wanted.keys() - weights.keys()),
        "of no layer": sorted(
            key
            for key in weights.keys() - wanted.keys() - own - embeddings
            if "lora_monteclora_sampler" not in key  # saved with it, and used in training only
        ),
    }
    _refuse(found, name, "the adapter does not fit its adapter_config.json and base")
    return adapted


def read_adapter(folder: str, name: str) -> dict[str, Tensor]:
    """The tensors of the adapter in `folder`; raises as `load_adapter` does."""
    with _one_line(name):
        weights = load_peft_weights(folder, device="cpu")
        check_finite(weights.items(), name)
    return weights


def refuse_nan(value: Any, where: str) -> None:
    """Raises ValueError for a NaN anywhere in a configuration."""
    if isinstance(value, dict):
        for key, one in value.items():
            refuse_nan(one, f"{where}: {key}")
    elif isinstance(value, list | tuple):
        for one in value:
            refuse_nan(one, where)
    elif isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{where}: found NaN; expected a number")


def _refuse(found: dict[str, list[str]], name: str, problem: str) -> None:
    parts = []
    for what, keys in found.items():
        if keys:
            more = f" and {len(keys) - NUM_SHOWN} more" if len(keys) > NUM_SHOWN else ""
            shown = ", ".join(keys[:NUM_SHOWN])
            parts.append(f"{len(keys)} tensor{'s' * (len(keys) > 1)} {what} ({shown}{more})")
    if parts:
        raise ValueError(f"{name}: {'; '.join(parts)}: {problem}; {REMEDY}")


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """A block whose errors are ValueErrors of one line that names an adapter."""
    try:
        yield
    except (torch.OutOfMemoryError, NotImplementedError):
        raise
    except Exception as error:
        text = _line(error)
        raise ValueError(text if name in text else f"{name}: {text}") from error


def _line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"1 tensor missing ({error.args[0]})"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch's mismatches begin with a heading that ends in a colon.
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else (lines or [""])[0]
    return f"{text:.240}" if text else type(error).__name__


@contextmanager
def quiet(shows_bars: bool = False) -> Iterator[None]:
    """Without the libraries' own report, and progress bars unless asked for: ours is one line."""
    level, has_bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity(logging.CRITICAL)
    if not shows_bars:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if has_bars:
            transformers_logging.enable_progress_bar()
