"""Whether the launcher started what it was asked for: one run, of so many processes.

`accelerate launch` starts a single process where it finds no use for several, and processes that
nothing has introduced to each other are as many runs in one folder. What can be known of it is in
the environment: `WORLD_SIZE` and its kin where processes know each other; `MASTER_PORT` without it
where accelerate was asked for several and started one; a scheduler's count where it started several
that do not know each other.
"""

import os

import torch
import torch.distributed as dist

STARTERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
BY_ACCELERATE = "ACCELERATE_MIXED_PRECISION"  # which every launch of accelerate's sets


def check_launch() -> None:
    """Nothing, if this process is the only one, or one of several that know each other.

    Raises:
        ValueError: in one line what was started instead, and what to pass.
    """
    environment = os.environ
    if "WORLD_SIZE" in environment:
        return
    for name in STARTERS:
        if int(environment.get(name) or 1) > 1:
            raise ValueError(
                f"one of {environment[name]} processes ({name}) that do not know each other; start "
                "one `accelerate launch` or torchrun on each node, and let it start them"
            )
    if "MASTER_PORT" in environment and BY_ACCELERATE in environment:
        raise ValueError(
            "accelerate was asked for several processes and started only this one; pass "
            "--multi_gpu --num_processes N, on CPUs too (recipes/accelerate/cpu_2proc.yaml), or "
            "--num_processes 1 (if MASTER_PORT is yours, unset it)"
        )


def check_devices(uses_cpu: bool) -> None:
    """Nothing, if each of several processes has a GPU of its own, or all leave GPUs alone.

    Raises:
        ValueError: in one line what to pass instead.
    """
    num_here, num_gpus = int(os.environ.get("LOCAL_WORLD_SIZE") or 1), torch.cuda.device_count()
    if num_here > 1 and not uses_cpu and num_here > num_gpus:
        fewer = f"--num_processes {num_gpus} or " if num_gpus else ""
        raise ValueError(
            f"{num_here} processes here, and {num_gpus} GPUs; pass {fewer}sft.use_cpu=true"
        )


def check_group() -> None:
    """Nothing, if the processes that were started have found each other.

    Raises:
        ValueError: they would be as many runs in one folder.
    """
    asked = int(os.environ.get("WORLD_SIZE") or 1)
    found = dist.get_world_size() if dist.is_initialized() else 1
    if found != asked:
        raise ValueError(
            f"{asked} processes were started, and each sees {found} of them; pass sft.use_cpu=true "
            "on a machine without GPUs, or --num_processes 1"
        )
