"""Several processes that each decode a share of the rows with models of their own.

Launched as `accelerate launch --num_processes 4 decode/run.py recipe.yaml`, or by train/sft.py
after training; each process takes one GPU. They share the run's folder and nothing else, and meet
when its settings are written and when all rows are there. On several nodes the folder has to be on
a file system that all of them see.
"""

import functools
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

LONGEST_WAIT = timedelta(hours=12)  # for the slowest share; a process that fails is noticed at once


class ReplicaLost(RuntimeError):
    """Another process ended before it had decoded its share."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One of the processes: it decodes rows rank, rank + num_replicas, ..."""

    rank: int = 0
    num_replicas: int = 1

    @classmethod
    def of_this_process(cls) -> "Replica":
        """As the launcher says it; the only one without a launcher."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def is_alone(self) -> bool:
        return self.num_replicas == 1

    def device(self, device: str) -> str:
        """This process's own GPU where `device` is left open and there are several processes."""
        if self.is_alone or device != "auto" or not torch.cuda.is_available():
            return device
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"

    def wait_for_all(self) -> None:
        """Return when every process has got here.

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
    """Make a group of all processes, for messages between CPUs, in place of one that trained."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=LONGEST_WAIT)
        return
    # Where they met before, the first one's store could end under those that are back already.
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
