"""DeepSpeed around a training: what is set up before it, and what is freed after it.

DeepSpeed comes from `sft.deepspeed` or from accelerate's launch, which says so in the environment.
Either way the trainer's configuration holds one plugin with its settings.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import DistributedType
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from recipes.schema.hardware import deepspeed_settings

BY_LAUNCH = "ACCELERATE_USE_DEEPSPEED"
FSDP_BY_LAUNCH = "ACCELERATE_USE_FSDP"
FILE_OF_LAUNCH = "ACCELERATE_DEEPSPEED_CONFIG_FILE"


def is_launched_with_deepspeed() -> bool:
    """Whether accelerate's launch brings DeepSpeed."""
    return is_on(BY_LAUNCH)


def uses_fsdp(config: TrainingArguments) -> bool:
    """Whether FSDP shards the weights, by the configuration or by accelerate's launch."""
    return bool(config.fsdp) or is_on(FSDP_BY_LAUNCH)


def is_on(variable: str) -> bool:
    """Whether an environment variable, which accelerate's launch sets, is true."""
    return os.environ.get(variable, "false").lower() in ("1", "true")


def settings_of(sft: dict[str, Any]) -> dict[str, Any] | None:
    """What `sft.deepspeed` tells DeepSpeed, by name, path or key; None without it.

    Raises:
        ValueError: no such name or file, or accelerate would ignore it.
    """
    settings = deepspeed_settings("sft.deepspeed", sft.get("deepspeed"))
    if settings is None:
        return None
    if is_launched_with_deepspeed():
        raise ValueError(
            "sft.deepspeed: the launch brings DeepSpeed settings of its own; launch with "
            "recipes/accelerate/8gpu.yaml or multinode.yaml, or leave sft.deepspeed out"
        )
    if is_on("ACCELERATE_USE_CPU"):
        raise ValueError(
            "sft.deepspeed: accelerate leaves DeepSpeed out where its file says use_cpu: true; "
            "launch with recipes/accelerate/cpu_2proc.yaml, or start one process without accelerate"
        )
    return settings


def stage(sft: dict[str, Any]) -> int | None:
    """The ZeRO stage a training has under this launch; None without DeepSpeed."""
    settings = settings_of(sft)
    if settings is None and is_launched_with_deepspeed():
        file = os.environ.get(FILE_OF_LAUNCH)
        if file is None:
            return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
        settings = deepspeed_settings("--deepspeed_config_file", file)
    return None if settings is None else settings["zero_optimization"]["stage"]


def enter_alone() -> None:
    """Make a process without a launcher a group of one process, which DeepSpeed needs."""
    if "WORLD_SIZE" not in os.environ:
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # any free port


@contextmanager
def undivided() -> Iterator[None]:
    """A block in which nothing divides weights; `prepare` puts a training's DeepSpeed back."""
    launched = {name: os.environ.pop(name, None) for name in (BY_LAUNCH, FSDP_BY_LAUNCH)}
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        os.environ |= {name: value for name, value in launched.items() if value is not None}


def prepare(config: TrainingArguments) -> None:
    """Make ready for a trainer with this configuration: the process group, and DeepSpeed if used.

    transformers and accelerate keep state of the configuration that was made last, and accelerate
    that of the trainer before, so this configuration's is put in place again.
    """
    vars(config).pop("_setup_devices", None)
    assert config.device  # sets up the processes anew
    plugin = config.deepspeed_plugin
    if plugin is None:
        unset_hf_deepspeed_config()
        return
    if config.deepspeed is None:
        plugin.set_deepspeed_weakref()  # settings of the launch
    else:
        set_hf_deepspeed_config(config.hf_deepspeed_config)
    if plugin.zero_stage == 3:
        # Else shards are saved that only DeepSpeed can read, whatever the user's file says.
        zero = plugin.deepspeed_config["zero_optimization"]
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if config.device.type == "cpu":
        import deepspeed  # not there on every system

        # It would be compiled, for a minute or more, and only makes reductions on one node faster.
        setattr(deepspeed.ops, "__compatible_ops__", {"deepspeed_shm_comm": False})  # noqa: B010
        # ZeRO-3 divides weights while they load, before the trainer would do this.
        deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)


def describe(trainer: Trainer) -> str:
    """How many processes train, and what divides the work, as the trainer has it."""
    accelerator = trainer.accelerator
    number = accelerator.num_processes
    count = "1 process" if number == 1 else f"{number} processes"
    plugin = accelerator.state.deepspeed_plugin
    if accelerator.distributed_type == DistributedType.DEEPSPEED and plugin is not None:
        return f"{count} with DeepSpeed ZeRO-{plugin.zero_stage}"
    return f"{count} with FSDP" if trainer.is_fsdp_enabled else count


def release(trainer: Trainer) -> None:
    """Free the trainer's model, optimizer and engine, which cannot be used afterwards."""
    is_launched = is_launched_with_deepspeed() and trainer.args.deepspeed is None
    models = [trainer.model, getattr(trainer, "ref_model", None)]  # that of preferences
    trainer.accelerator.free_memory()
    if trainer.is_deepspeed_enabled:
        for model in models:
            if model is not None:
                _hollow_out(cast(nn.Module, getattr(model, "module", model)))
    if not is_launched:
        os.environ.pop(BY_LAUNCH, None)  # the trainer set it


def _hollow_out(model: nn.Module) -> None:
    """Take everything out of a model's modules and parameters, the engine in its hooks included.

    DeepSpeed 0.19 never forgets a ZeRO-3 model: it stays in a list of `parameter_offload` and in a
    method's cache of `partitioned_param_coordinator`.
    """
    for parameter in model.parameters():
        parameter.data = torch.empty(0, device=parameter.device, dtype=parameter.dtype)
        vars(parameter).clear()
    for module in list(model.modules()):
        vars(module).clear()


def empty_memory() -> None:
    """Give back the memory of objects without references."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def leave() -> None:
    """End what outlasts a training: the sharding of models that load, and a group of one process.

    A larger group ends at the barrier before decoding (decode/jobs/processes.py).
    """
    unset_hf_deepspeed_config()
    if dist.is_initialized() and dist.get_world_size() == 1:
        dist.destroy_process_group()
