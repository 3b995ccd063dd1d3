"""How the GPUs of an accelerate file divide a training's memory."""

import json
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True, slots=True)
class Sharding:
    """The number of GPUs and what they share; `stage` None is training without DeepSpeed.

    The sizes are numbers of elements, under DeepSpeed's names and with its defaults.
    """

    num_gpus: int = 1
    stage: int | None = None
    offload_optimizer: bool = False
    offload_weights: bool = False
    num_buckets: int = 1
    reduce_bucket_size: int = 500_000_000
    max_live_parameters: int = 1_000_000_000
    sub_group_size: int = 1_000_000_000


def read_sharding(file: str | Path) -> Sharding:
    """The sharding that an accelerate file, and the DeepSpeed file it names, ask for.

    Raises:
        ValueError: a file is not there.
    """
    tree = yaml.safe_load(_text(file))
    num_gpus = int(tree.get("num_processes", 1))
    if tree.get("distributed_type") != "DEEPSPEED":
        return Sharding(num_gpus)
    own = tree.get("deepspeed_config", {})
    if "deepspeed_config_file" in own:
        zero = json.loads(_text(own["deepspeed_config_file"])).get("zero_optimization", {})
    else:
        zero = {
            "stage": own.get("zero_stage", 2),
            "offload_optimizer": {"device": own.get("offload_optimizer_device", "none")},
            "offload_param": {"device": own.get("offload_param_device", "none")},
        }
    default, stage = Sharding(), int(zero.get("stage", 0))

    def number(key: str, default: int) -> int:
        # "auto" stands for a size like that of one layer's matrix: little beside the rest.
        value = zero.get(key, default)
        return 0 if value == "auto" else int(value)

    def is_away(key: str) -> bool:
        return zero.get(key, {}).get("device", "none") != "none"

    return Sharding(
        num_gpus,
        stage,
        is_away("offload_optimizer"),
        is_away("offload_param"),
        2 if zero.get("overlap_comm", stage == 3) else 1,
        number("reduce_bucket_size", default.reduce_bucket_size),
        number("stage3_max_live_parameters", default.max_live_parameters),
        number("sub_group_size", default.sub_group_size),
    )


def _text(file: str | Path) -> str:
    if not Path(file).is_file():
        raise ValueError(f"{file}: no such file (looked in {Path.cwd()})")
    return Path(file).read_text("utf-8")
