"""The processes of a job: whether the launcher started one group of them, and what each is for.

`accelerate launch` starts a single process where it finds no use for several, and a scheduler may
start several that are in no common group: each would be a run of its own in the same folder. The
environment tells them apart: `WORLD_SIZE` is set in a group; `MASTER_PORT` without it where
accelerate was asked for several and started one; a scheduler's count where it started several
without a group.

Processes that decode share the run's folder and nothing else: each takes one GPU and decodes every
n-th row with models of its own. They wait for each other (`Replica.barrier`) when the settings are
written and when all rows are there. On several nodes the folder has to be on a file system that all
of them see.
"""

import functools
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

LONGEST_WAIT = timedelta(hours=12)  # for the slowest share; a process that fails is noticed at once
STARTERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
BY_ACCELERATE = "ACCELERATE_MIXED_PRECISION"  # set by every `accelerate launch`


def check_launch() -> None:
    """Check that this process is the only one, or one of a group that knows its size.

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


def check_devices(uses_cpu: bool, key: str = "sft.use_cpu") -> None:
    """Check that each of several processes has a GPU of its own, or that none uses a GPU.

    Args:
        key: the recipe's, which says the latter.

    Raises:
        ValueError: in one line what to pass instead.
    """
    num_here, num_gpus = int(os.environ.get("LOCAL_WORLD_SIZE") or 1), torch.cuda.device_count()
    if num_here > 1 and not uses_cpu and num_here > num_gpus:
        fewer = f"--num_processes {num_gpus} or " if num_gpus else ""
        raise ValueError(f"{num_here} processes here, and {num_gpus} GPUs; pass {fewer}{key}=true")


def check_group() -> None:
    """Check that the processes that were started are one group.

    Raises:
        ValueError: in one line how many were started, and how many each process sees.
    """
    asked = int(os.environ.get("WORLD_SIZE") or 1)
    found = dist.get_world_size() if dist.is_initialized() else 1
    if found != asked:
        raise ValueError(
            f"{asked} processes were started, and each sees {found} of them; pass sft.use_cpu=true "
            "on a machine without GPUs, or --num_processes 1"
        )


class ReplicaLost(RuntimeError):
    """Another process ended before it had decoded its share."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One of the processes: it decodes rows rank, rank + num_replicas, ..."""

    rank: int = 0
    num_replicas: int = 1

    @classmethod
    def of_this_process(cls) -> "Replica":
        """This process's replica, as the launcher numbered it; the only one without a launcher."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def is_alone(self) -> bool:
        return self.num_replicas == 1

    def share(self, num_rows: int) -> range:
        """The places of its rows."""
        return range(self.rank, num_rows, self.num_replicas)

    def device(self, device: str) -> str:
        """This process's own GPU where `device` is left open and there are several processes."""
        if self.is_alone or device != "auto" or not torch.cuda.is_available():
            return device
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"

    def barrier(self) -> None:
        """Wait until every process has called this.

        Raises:
            ReplicaLost: one of them has ended, or is hours behind.
        """
        if self.is_alone:
            return
        try:
            _join()
            dist.monitored_barrier(timeout=LONGEST_WAIT)
        except RuntimeError as error:
            raise ReplicaLost(
                "another process ended before its share was decoded, for the reason it gives; "
                f"finished rows are kept, so run it again ({str(error).splitlines()[0]:.160})"
            ) from error


@functools.cache
def _join() -> None:
    """Make a gloo group of all processes; the group that trained ends."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=LONGEST_WAIT)
        return
    # A store of its own: that of the old group could close while others still use it.
    rank, num_replicas, host = dist.get_rank(), dist.get_world_size(), os.environ["MASTER_ADDR"]
    port = [0]  # any free one
    if rank == 0:
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)
        port = [store.port]
    dist.broadcast_object_list(port)
    if rank != 0:
        store = dist.TCPStore(host, port[0])
    store.set(f"moved/{rank}", "")
    store.wait([f"moved/{each}" for each in range(num_replicas)])
    dist.destroy_process_group()  # with the memory it communicated through
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=num_replicas, timeout=LONGEST_WAIT
    )


ALONE = Replica()
