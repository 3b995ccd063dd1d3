"""What is harmed: tiny models, rows, a recipe, finished runs, an adapter; all of it is right."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import fork_server
from support.models import byte_tokenizer, save_tiny, tiny_model
from support.tiny_run import launch_environment, write_rows


@dataclass(frozen=True)
class World:
    """A folder in which everything is right, and a copy of it for every case."""

    folder: Path

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe's tree; its paths are relative to the case's folder."""
        return json.loads((self.folder / "recipe.yaml").read_text())

    def copy(self, target: Path) -> "World":
        """A world of its own, in `target`."""
        shutil.copytree(self.folder, target, symlinks=True)
        return World(target)

    def write(self, recipe: dict[str, Any]) -> Path:
        """The recipe's file; JSON is YAML."""
        path = self.folder / "recipe.yaml"
        path.write_text(json.dumps(recipe))
        return path

    def run(self, arguments: list[str], longest_s: int = 60) -> subprocess.CompletedProcess:
        """A finished run of an entry in this folder."""
        here = launch_environment([f"={self.folder / 'here'}"])
        return fork_server.run(arguments, here, 1, self.folder, longest_s)


def make_world(folder: Path) -> World:
    """Models, rows, a recipe that trains an adapter, one of full fine-tuning, and their runs."""
    folder.mkdir(parents=True)
    save_tiny(folder / "small", 1)
    save_tiny(folder / "large", 0, width=64)
    _save_others(folder)
    write_rows(folder / "train.jsonl", 6, 0)
    write_rows(folder / "eval.jsonl", 3, 40)
    world = World(folder)
    world.write(
        {
            "name": "fuzzed",
            "seed": 1,
            "output_dir": "run",
            "task": {"name": "gsm8k", "train": "train.jsonl", "eval": "eval.jsonl"},
            "expert": {
                "model": "small",
                "dtype": "float32",
                "adapter": {"task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"]},
            },
            "sft": {
                "max_steps": 1,
                "per_device_train_batch_size": 2,
                "learning_rate": 1e-3,
                "max_length": 256,
                "bf16": False,
                "save_strategy": "no",
            },
            "decode": {
                "bases": [{"model": "large", "dtype": "float32"}],
                "alpha": [0.5, 1.0],
                "batch_size": 4,
                "max_new_tokens": 3,
                "device": "cpu",
            },
            "wandb": {"project": None},
        }
    )
    one = world.recipe
    other = {**one, "output_dir": "full", "proxy_check": {"num_rows": 2, "select_by": "proxy"}}
    other["expert"] = {**one["expert"], "adapter": None}
    other["decode"] = {**one["decode"], "bases": [{**one["decode"]["bases"][0]}]}
    other["decode"]["bases"][0]["tune_reference"] = True
    (folder / "full.yaml").write_text(json.dumps(other))
    for recipe in ("recipe.yaml", "full.yaml"):
        done = world.run([entry("train/sft.py"), recipe], 600)
        assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "run" / "expert", folder / "adapter")
    return world


def _save_others(folder: Path) -> None:
    """Models of other architectures, in shards, with vocabulary files, with a chat template."""
    for name in ("gpt2", "gemma3_text"):
        save_tiny(folder / name, 3, architecture=name)
    tiny_model(4).save_pretrained(folder / "sharded", max_shard_size="20KB")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(folder / "sharded")
    (folder / "gpt2" / "tokenizer.json").unlink()
    (folder / "gpt2" / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    (folder / "gpt2" / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<eos>", "pad_token": "<pad>"}
    settings |= {"bos_token": "<eos>", "unk_token": "<eos>"}
    (folder / "gpt2" / "tokenizer_config.json").write_text(json.dumps(settings))


def entry(path: str) -> str:
    """An entry's path from anywhere."""
    return str(fork_server.ROOT / path)
