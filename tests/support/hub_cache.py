"""A hub that is out of reach, and a cache of what was fetched from it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache_as(tmp_path: Path, monkeypatch) -> Callable[..., str]:
    """(folder, hub id, revision) -> the id, under which the folder's files are now in the cache."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(folder: str | Path, name: str, revision: str = "main") -> str:
        commit = f"{len(list(cache.glob('*/snapshots/*'))):x}{COMMIT}"[:40]
        repo = cache / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, repo / "snapshots" / commit)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / revision).write_text(commit)
        return name

    return put
