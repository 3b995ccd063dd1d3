"""A training that diverges ends with one line and leaves no expert."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.tiny_run import forked

from decode.models.fit import check_files
from train.divergence import Diverged, Divergence


def watched(loss: float, grad_norm: float | None, **args: Any) -> Divergence:
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(output_dir="runs/a", fp16=False, **args),
        accelerator=SimpleNamespace(num_processes=1),
        _tr_loss=torch.tensor(loss),
        _get_grad_norm=lambda: grad_norm,
    )
    divergence = Divergence()
    divergence.watch(trainer)
    trainer._get_grad_norm()
    return divergence


@pytest.mark.parametrize(
    ("loss", "grad_norm", "found"),
    [
        (float("nan"), 1.0, "loss nan"),
        (float("inf"), None, "loss inf"),
        (2.0, float("inf"), "gradient norm inf"),
    ],
)
def test_a_step_without_numbers_is_the_last(loss, grad_norm, found):
    divergence = watched(loss, grad_norm)
    args: Any = SimpleNamespace(output_dir="runs/a", fp16=False)
    with pytest.raises(Diverged, match=f"runs/a: training diverged at step 7: {found}; lower"):
        divergence.on_step_end(args, SimpleNamespace(global_step=7), None)  # pyright: ignore


def test_a_scaler_may_skip_steps():
    args: Any = SimpleNamespace(output_dir="runs/a", fp16=True)
    watched(2.0, float("inf")).on_step_end(args, None, None)  # pyright: ignore


def test_weights_without_numbers_are_no_expert(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3), "b": torch.tensor([1.0, float("nan")])}, file)
    with pytest.raises(ValueError, match=r"expert: 1 tensor with NaN or infinity \(b\)"):
        check_files([file], "expert")


@pytest.mark.long
def test_a_diverged_training_leaves_no_expert(overrides, tmp_path):
    result = forked("gsm7b.yaml", [*overrides, "expert.proxy_aware={alpha: 1e38}"])
    assert result.returncode == 1, result.stderr[-2000:]
    assert "diverged" in result.stderr, result.stderr[-1500:]
    (line,) = [line for line in result.stderr.splitlines() if "error: " in line]
    assert "training diverged at step 1" in line
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "expert").exists()
