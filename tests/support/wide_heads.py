"""A Llama with heads twice as wide that says the same: vLLM has no CPU kernel for heads of 16.

A head of d becomes one of 2d with zeros between. RoPE turns element i of the first half together
with element i of the second, by base^(-2i/d); over 2d the same angles need the base squared. What
is divided by the square root of 2d instead of d is made up for in the queries.
"""

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def widen_model(source: Path, target: Path) -> None:
    """Copy a model's folder with wider heads, in float32."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    config = json.loads((target / "config.json").read_text())
    width = config["head_dim"]
    config["head_dim"], config["dtype"] = 2 * width, "float32"
    config["rope_parameters"]["rope_theta"] **= 2
    (target / "config.json").write_text(json.dumps(config))
    _rewrite(target / "model.safetensors", width)


def widen_adapter(source: Path, target: Path, base: Path) -> None:
    """Copy the folder of a LoRA on a model of heads of 16, to go with the wider `base`."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    config = json.loads((target / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base)
    (target / "adapter_config.json").write_text(json.dumps(config))
    _rewrite(target / "adapter_model.safetensors", 16)


def _rewrite(file: Path, width: int) -> None:
    wide = {name: _wide(name, tensor.float(), width) for name, tensor in load_file(file).items()}
    save_file(wide, file, metadata={"format": "pt"})


def _wide(name: str, weight: Tensor, width: int) -> Tensor:
    is_out = "lora_A" not in name  # of a LoRA, B has the rows and A the columns
    if any(f"{letter}_proj" in name for letter in "qkv") and is_out:
        wide = _spread(weight, width)
        return wide * math.sqrt(2) if "q_proj" in name else wide
    if "o_proj" in name and "lora_B" not in name:
        return _spread(weight.T, width).T.contiguous()
    return weight.contiguous()


def _spread(rows: Tensor, width: int) -> Tensor:
    """(heads * width, n) -> (heads * 2 * width, n), zeros after each half of a head."""
    halves = rows.reshape(-1, 2, width // 2, rows.shape[-1])
    return torch.cat((halves, torch.zeros_like(halves)), 2).reshape(-1, rows.shape[-1])
