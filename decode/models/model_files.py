"""The JSON files of a model's folder, looked at before a library reads them.

The libraries take what a file holds for a mapping, and fail far from it where it holds none.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import GenerationConfig

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
GENERATION_FILE = "generation_config.json"
CONFIG_FILES = ("config.json", GENERATION_FILE, "model.safetensors.index.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
REMEDY = "put back the file that save_pretrained wrote"
GGUF = (
    "GGUF files are not read, as transformers leaves out what they say of RoPE; name the "
    "safetensors checkpoint that it was made from, with quantization for fewer bits, or convert it "
    "(docs/quantization.md)"
)


def read_model_file(file: Path) -> dict[str, Any]:
    """The JSON object that a model's file holds.

    Raises:
        ValueError: in one line which file cannot be read, or holds something else.
    """
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not valid JSON: {error}"
        raise ValueError(f"{file}: {reason:.200}; {REMEDY}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file}: found {found!r:.60}, expected a JSON object; {REMEDY}")
    return found


def check_model_files(folder: str, names: Iterable[str]) -> None:
    """Raises ValueError, as `read_model_file` does, for a file of a folder; a hub id has none."""
    for name in names:
        if (file := Path(folder) / name).exists():
            read_model_file(file)


def stored_dtype(folder: str) -> torch.dtype | None:
    """The type of the first tensor of floats, which transformers loads by if no file names one."""
    for file in sorted(Path(folder).glob("model*.safetensors")):
        try:
            with safe_open(file, "pt") as held:
                names = (held.get_slice(key).get_dtype() for key in held.keys())  # noqa: SIM118
                found = next((DTYPES[name] for name in names if name in DTYPES), None)
        except Exception:  # safetensors' own class is not public; whoever loads it says what it is
            return None
        if found is not None:
            return found
    return None


def refuse_pickles(folder: str, name: str) -> None:
    """Raises ValueError, in one line, if a folder's weights are there as pickles alone."""
    files = sorted(one for kind in ("*.bin", "*.pt", "*.pth") for one in Path(folder).glob(kind))
    weights = [file.name for file in files if file.name != "training_args.bin"]
    if weights and not any(Path(folder).glob("*.safetensors")):
        raise ValueError(
            f"{name}: its weights are pickles ({weights[0]}), which are not read; load them with "
            "transformers and save them again: save_pretrained writes safetensors"
        )


def is_gguf(name: str) -> bool:
    """Whether a model is a GGUF file, a folder of such weights, or by its name a hub's."""
    folder = Path(name)
    if folder.is_dir():
        return any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors"))
    return re.search(r"[-_.]gguf(:[\w.-]+)?$", name, re.IGNORECASE) is not None


def check_generation(folder: str) -> None:
    """Raises ValueError, in one line, if a folder has settings of generation that cannot be used.

    Of these, decoding reads the ids that end a completion, and the library that loads the weights
    refuses what contradicts itself.
    """
    if not (Path(folder) / GENERATION_FILE).exists():
        return
    try:
        found = GenerationConfig.from_pretrained(folder).eos_token_id
        ids = found if isinstance(found, list) else [found]
        if not all(id_ is None or type(id_) is int for id_ in ids):
            raise TypeError(f"eos_token_id: found {found!r:.60}, expected a token's id or a list")
    except Exception as error:  # transformers raises any
        raise ValueError(unusable(folder, [GENERATION_FILE], error)) from error


def unusable(folder: str, names: Iterable[str], error: Exception) -> str | None:
    """One line about files of a local folder that a library cannot use; None if none is there."""
    there = [name for name in names if (Path(folder) / name).exists()]
    if not there:
        return None
    said = " ".join(str(error).split()) or type(error).__name__
    places = f"{Path(folder) / there[0]}" + "".join(f", {name}" for name in there[1:])
    return f"{places}: {said:.300}; {REMEDY}"
