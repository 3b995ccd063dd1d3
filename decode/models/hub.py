"""Folders of models: given as such, or those of the hub's cache.

An adapter on the hub is fetched when it is first asked for, and is a folder from then on.
"""

import functools
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

ADAPTER_FILE = "adapter_config.json"
TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "tekken.json")


def adapter_folder(name: str, revision: str | None) -> str | None:
    """The folder of a PEFT adapter, on the hub or here; None if it is no adapter in reach."""
    path = Path(name)
    if path.exists():
        return name if (path / ADAPTER_FILE).is_file() else None
    try:
        return _fetched_adapter(name, revision)
    except (OSError, ValueError):  # whoever reads it as a model says what is wrong with the name
        return None


@functools.lru_cache(maxsize=64)
def _fetched_adapter(name: str, revision: str | None) -> str | None:
    try:
        file = hf_hub_download(name, ADAPTER_FILE, revision=revision)
    except LocalEntryNotFoundError:  # perhaps it is there, and the hub is not in reach
        raise
    except EntryNotFoundError:
        return None
    snapshot_download(name, revision=revision, ignore_patterns=["*/*", "optimizer*", "*.md"])
    return str(Path(file).parent)


def model_folder(name: str, revision: str | None) -> str | None:
    """The folder that holds a model's `config.json`, on the hub or here; None if none is in reach.

    Of a model on the hub it holds what was fetched so far.
    """
    if Path(name).exists():
        return name if (Path(name) / "config.json").is_file() else None
    try:
        return str(Path(hf_hub_download(name, "config.json", revision=revision)).parent)
    except (OSError, ValueError):
        return None


def has_tokenizer(folder: str) -> bool:
    """Whether there is any file of a tokenizer in a folder."""
    return any(next(Path(folder).glob(pattern), None) for pattern in TOKENIZER_FILES)
