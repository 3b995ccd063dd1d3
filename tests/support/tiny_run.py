"""The main job in small: what makes a 7B recipe run here in seconds, and how a user starts it.

`launch` is what a user types. `forked` runs the same entry in forked processes, which saves what a
process takes to begin; tests that are not about the launcher use it.
"""

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from . import fork_server
from .rows import jsonl

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("Ann", "Bob", "Cy", "Dee", "Eve", "Fay")
CPU = ("--config_file", "recipes/accelerate/cpu.yaml")
TWO = ("--config_file", "recipes/accelerate/cpu_2proc.yaml", "--main_process_port", "0")


def write_rows(path: Path, num_rows: int, first: int) -> str:
    rows = [
        {
            "question": f"{NAMES[i % 6]} has {i} pens and buys {i % 7}. How many pens now?",
            "answer": f"{i}+{i % 7}=<<{i}+{i % 7}={i + i % 7}>>{i + i % 7}\n#### {i + i % 7}",
        }
        for i in range(first, first + num_rows)
    ]
    return jsonl(path, rows)


def tiny_overrides(folder: Path, small: str, large: str) -> list[str]:
    """What makes a 7B recipe small enough to run here: models, rows and steps, nothing else."""
    return [
        f"output_dir={folder / 'run'}",
        f"task.train={write_rows(folder / 'train.jsonl', 16, 0)}",
        f"task.eval={write_rows(folder / 'eval.jsonl', 5, 40)}",
        f"expert.model={small}",
        "expert.dtype=float32",
        f"decode.bases=[{{model: {large}, dtype: float32, tune_reference: true}}]",
        "decode.max_new_tokens=6",
        "sft.max_steps=2",
        "sft.num_train_epochs=null",
        "sft.per_device_train_batch_size=2",
        "sft.gradient_accumulation_steps=1",
        "sft.max_length=256",
        "sft.bf16=false",
        "sft.activation_checkpointing=false",
        "sft.save_strategy='no'",
        "sft.save_steps=null",
        "wandb.mode=offline",
    ]


def launch_command(recipe: str, overrides: list[str], *options: str, entry="train/sft.py"):
    """`accelerate launch ENTRY recipes/RECIPE`, as the arguments of subprocess: no shell."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *options]
    return [*command, entry, f"recipes/{recipe}", *overrides]


def launch_environment(overrides: list[str]) -> dict[str, str]:
    """An environment without W&B keys, hub or network."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "ACCELERATE"))}
    return {
        **kept,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HOME": str(Path(overrides[0].partition("=")[2]).parent),  # no netrc, no saved login
    }


def forked(
    recipe: str, overrides: list[str], num_processes: int = 1, entry: str = "train/sft.py"
) -> subprocess.CompletedProcess:
    """A finished run of ENTRY on recipes/RECIPE, as `launch` gives it, without a launcher."""
    arguments = [entry, f"recipes/{recipe}", *overrides]
    return fork_server.run(arguments, launch_environment(overrides), num_processes)


def launch(recipe: str, overrides: list[str], *options: str, entry: str = "train/sft.py"):
    """A finished `accelerate launch ENTRY recipes/RECIPE`."""
    return subprocess.run(
        launch_command(recipe, overrides, *options, entry=entry),
        cwd=ROOT,
        env=launch_environment(overrides),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def in_terminal(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    """A finished command, all that it wrote to a terminal of 80 columns as its output."""
    terminal, its_end = os.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), its_end)
    environment = {**environment, "TERM": "xterm"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **streams)
    os.close(its_end)
    written = b""
    try:
        while part := os.read(terminal, 1 << 16):
            written += part
    except OSError:  # the last process has closed its end
        pass
    os.close(terminal)
    text = written.decode().replace("\r\n", "\n")
    return subprocess.CompletedProcess(command, process.wait(timeout=60), text, text)


def finished(result: subprocess.CompletedProcess, run: Path) -> dict:
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    assert "gap closed" in result.stdout
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["num_examples"] == 5
    assert {"antiexpert", "expert"} <= set(metrics)
    assert set(metrics["bases"][0]) == {"model", "slug", "base", "tuned", "proxy"}
    for name in ("recipe.yaml", "environment.json", "report.md", "plots/systems.png"):
        assert (run / name).stat().st_size > 0
    assert not (run / "checkpoints").exists()
    return metrics


@pytest.fixture
def overrides(save_model, tmp_path: Path) -> list[str]:
    """What makes a 7B recipe small enough to run here: models, rows and steps, nothing else."""
    small, large = save_model("small", 1), save_model("large", 0, width=64)
    return tiny_overrides(tmp_path, small, large)


@pytest.fixture
def environment(monkeypatch):
    """An environment without any launcher's variables, to be filled."""
    for name in list(os.environ):
        if name.startswith(("ACCELERATE", "SLURM", "MASTER", "OMPI", "PMI")) or "RANK" in name:
            monkeypatch.delenv(name)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def fill(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return fill
