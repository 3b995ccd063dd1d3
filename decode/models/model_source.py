"""Where a model comes from, and how errors name it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .model_files import GGUF, is_gguf


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


def refuse_gguf(source: ModelSource) -> None:
    """Raise a ValueError of one line where a GGUF file is named."""
    if is_gguf(source.name):
        raise ValueError(f"{_named(source)}: {GGUF}")


def _named(source: ModelSource) -> str:
    key = f"{source.key}: " if source.key else ""
    revision = f" at revision {source.revision}" if source.revision else ""
    return f"{key}model '{source.name}'{revision}"


def not_found(what: str, source: ModelSource, error: Exception) -> str:
    """One line that says what of a model is missing, why, and what to give."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{_named(source)}: no {what} found; give a folder made by "
        "save_pretrained or a hub id you can reach, with HF_TOKEN set for a private or gated one "
        f"({reason:.160})"
    )
