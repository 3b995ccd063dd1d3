"""A killed run ends as if nobody had touched it; `kills.py` does the same at length."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_run import ROOT

pytestmark = pytest.mark.long


def kill(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "tests/kills.py", "--keep", str(folder), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_runs_that_are_killed_end_with_the_same_weights_log_and_metrics(tmp_path):
    only = ("--only", "lora-1", "--only", "full-zero3")
    result = kill(tmp_path, "--kills", "4", "--seed", "0", *only)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    assert result.stdout.count("the same") == 4
    assert "4 kills in" in result.stdout


def test_a_resume_without_the_optimizer_would_be_found_out(tmp_path):
    spoil = ("--spoil", "optimizer.pt")
    result = kill(tmp_path, "--kills", "1", "--only", "lora-1", *spoil)
    assert result.returncode == 1, result.stdout + result.stderr[-3000:]
    assert "differs: expert/adapter_model.safetensors" in result.stdout
