"""Trains one tiny model several ways in the same processes, without the rest of a run.

    torchrun --standalone --nproc_per_node 2 tests/support/zero_trainings.py MODEL FOLDER

Each case leaves FOLDER/<case>. A case begins where the one before it has let go of everything:
no weights, gradients or optimizer stay in memory.
"""

import copy
import gc
import json
import os
import sys
from pathlib import Path

import torch

from data import TrainRow
from decode.models.model_source import ModelSource
from recipes.schema.hardware import DEEPSPEED
from train import zero
from train.proxy_loss import ProxyTarget
from train.rows.training_rows import TrainingRows
from train.trainer import train, trainer_config
from train.training import Training

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
SHARDS_ONLY = copy.deepcopy(json.loads((DEEPSPEED / "zero3.json").read_text()))
SHARDS_ONLY["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = False
OFFLOAD = json.loads((DEEPSPEED / "zero3_offload_params.json").read_text())
OFFLOAD["zero_force_ds_cpu_optimizer"] = False  # DeepSpeed's own has to be compiled
CASES = {
    "ddp": {},
    "zero1": {"deepspeed": "zero1"},
    "zero2": {"deepspeed": "zero2"},
    "zero2_proxy_aware": {"deepspeed": "zero2", "proxy_aware": True},
    "zero3": {"deepspeed": SHARDS_ONLY},
    "zero3_offload_params": {"deepspeed": OFFLOAD},
    "zero3_bf16": {"deepspeed": SHARDS_ONLY, "bf16": True},
    "ddp_lora": {"adapter": LORA},
    "zero3_lora": {"deepspeed": SHARDS_ONLY, "adapter": LORA, "activation_checkpointing": True},
}
SFT = {
    "max_steps": 4,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
    "bf16": False,
    "activation_checkpointing": False,
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
}


def num_bytes_in_tensors() -> int:
    """Of every tensor that something still refers to."""
    tensors = [
        each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)
    ]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def main(model: str, folder: Path, names: list[str]) -> None:
    rows = [TrainRow(f"How much is {i}+{i % 7}?", f" {i + i % 7}") for i in range(32)]
    num_bytes_before = num_bytes_in_tensors()
    runs = []
    for name in names or CASES:
        case = dict(CASES[name])
        adapter, dtype = case.pop("adapter", None), "bfloat16" if "bf16" in case else "float32"
        source = ModelSource(model, dtype=dtype)
        # A base that is the anti-expert: what is learnt is what plain fine-tuning teaches.
        target = ProxyTarget(source, 1.0) if case.pop("proxy_aware", False) else None
        place, sft = folder / "checkpoints" / name, {**SFT, **case}
        training = Training(folder / name, place, source, adapter, sft, "train", target)
        runs.append((training, trainer_config(training, 1, name)))
    for training, config in runs:  # all configured before the first is trained, as in a run
        name = training.target.name
        assert config.world_size == int(os.environ["WORLD_SIZE"])
        train(training, TrainingRows(rows, None, [], "sums"), config)
        zero.empty_memory()
        num_bytes_left = num_bytes_in_tensors() - num_bytes_before
        assert num_bytes_left < 1000, f"{name}: {num_bytes_left} bytes are left"
    zero.leave()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
