"""A recipe with a finished expert, which only decodes, run by its entry in this process."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from .rows import jsonl

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(save_model, tmp_path):
    """A recipe with a finished expert, which only decodes; `judge` is where to ask."""
    rows = [{"id": f"i{i}", "instruction": f"Say {i}.", "output": f"{i}"} for i in range(4)]
    settings = {
        "name": "toy",
        "seed": 1,
        "output_dir": str(tmp_path / "run"),
        "task": {"name": "instruct", "eval": jsonl(tmp_path / "instruct.jsonl", rows)},
        "expert": {
            "model": save_model("small", 1),
            "trained": save_model("expert", 2),
            "dtype": "float32",
        },
        "decode": {
            "bases": [
                {
                    "model": save_model("large", 0, width=64),
                    "tuned": save_model("tuned", 3, width=64),
                    "dtype": "float32",
                }
            ],
            "batch_size": 4,
            "max_new_tokens": 6,
            "device": "cpu",
        },
    }

    def write(judge=None, **changes):
        made = json.loads(json.dumps({**settings, **changes}))
        if judge is not None and made["task"]["name"] == "instruct":
            endpoint = {"base_url": judge.base_url, "model": "m", "backoff_s": 0.01}
            made["task"]["judges"] = {"judge": {"endpoint": endpoint}}
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump(made))
        return path

    return write


def decode(path, *overrides, entry="decode/run.py"):
    """What `python ENTRY RECIPE` exits with: None, or its one line."""
    kept = sys.argv
    sys.argv = [entry, str(path), *overrides]
    try:
        runpy.run_path(str(ROOT / entry), run_name="__main__")
    except SystemExit as stopped:
        return stopped.code
    finally:
        sys.argv = kept
    return None
