"""A base and what steers it as one folder, which vLLM serves where this toolkit is installed.

DIR/config.json                  the base's own, with our architecture and what steers it
DIR/*.safetensors, tokenizer     the base's, linked or copied
DIR/expert, DIR/antiexpert       the small models; an adapter is merged
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from ..engine.rule import Alpha
from ..models.adapters import is_adapter
from ..models.ends import end_ids_of
from ..models.loaded import ExpertSource
from ..models.merged import save_merged
from ..models.model_files import read_model_file
from ..models.model_source import ModelSource
from ..models.sources import load_config, weights_dtype
from .vllm_plugin import ARCHITECTURE, SECTION

FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]
OWN = ("config.json", "generation_config.json")  # files that are not the base's


def write_folder(
    folder: Path,
    base: ModelSource,
    experts: Sequence[ExpertSource],
    vocab_size: int,
    alpha: Alpha,
    is_copy: bool = False,
) -> None:
    """Write the folder of a steered base.

    Args:
        folder: is made; it may be there if it is empty.
        vocab_size: tokens that may be chosen.
        is_copy: copy the weights, rather than link to where they are.

    Raises:
        ValueError: the folder holds something, or an adapter cannot be merged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder}: is not empty; name a folder that is not there yet")
    whole = Path(whole_folder(base, folder / "base"))
    for file in sorted(whole.iterdir()):
        if file.is_file() and file.name not in OWN:
            _place(file, folder / file.name, is_copy)
    small = []
    for number, one in enumerate(experts):
        names = {"expert": one.expert, "antiexpert": one.antiexpert}
        own: dict[str, Any] = {"weight": one.weight}
        for role, source in names.items():
            own[role] = f"{role}-{number}" if number else role
            model = Path(whole_folder(source, folder / own[role]))
            if model != folder / own[role]:
                _place(model, folder / own[role], is_copy)
        small.append(own)
    ends = end_ids([base, *(model for one in experts for model in (one.expert, one.antiexpert))])
    config = read_model_file(whole / "config.json")
    config["dtype"] = dtype_of(base)
    config[SECTION] = section(config["architectures"], small, vocab_size, alpha)
    config["architectures"] = [ARCHITECTURE]
    generation = whole / "generation_config.json"
    settings = read_model_file(generation) if generation.exists() else {}
    settings["eos_token_id"] = [id_ for id_ in ends if id_ < vocab_size]
    for name, content in zip(OWN, (config, settings), strict=True):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def section(
    architectures: Sequence[str] | None,
    small: Iterable[Mapping[str, Any]],
    vocab_size: int,
    alpha: Alpha,
) -> dict[str, Any]:
    """What the config of a steered base says beside the base's own keys; see `vllm_model`."""
    return {
        "architectures": list(architectures or ()),
        "vocab_size": vocab_size,
        "alpha": alpha.value,
        "rule": asdict(alpha.rule),
        "small": list(small),
    }


def whole_folder(source: ModelSource, merged: Path) -> str:
    """A folder of a model's whole weights: its own, or `merged`, where an adapter is merged."""
    if is_adapter(source):
        save_merged(source, merged)
        return str(merged)
    if Path(source.name).is_dir():
        return str(Path(source.name).resolve())
    return snapshot_download(source.name, revision=source.revision, allow_patterns=FILES)


def end_ids(sources: Iterable[ModelSource]) -> list[int]:
    """The ids that end a completion for any of the models."""
    return sorted(frozenset().union(*map(end_ids_of, sources)))


def dtype_of(source: ModelSource) -> str:
    """The name of the type that a model of whole weights is run in."""
    return str(weights_dtype(source, load_config(source))).removeprefix("torch.")


def _place(source: Path, target: Path, is_copy: bool) -> None:
    if not is_copy:
        target.symlink_to(source.resolve())
    elif source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(source, target)
