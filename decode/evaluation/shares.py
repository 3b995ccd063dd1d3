"""How several processes divide the decoding: each a share of the rows, where the models fit.

    replicas   systems whose models fit one process: every process has them, and decodes its rows
    sharded    the others: the first process alone, the base spread over all GPUs of its node

A process has one GPU, or its part of the node's memory where there is none. Weights may take three
quarters of it; the rest is for keys, values and logits, which shrink with the batch if need be.
"""

import functools
import logging
import os
from collections.abc import Sequence

import torch

from ..jobs.folder import RunFolder
from ..jobs.processes import Replica
from ..models.adapters import adapter_base, is_adapter
from ..models.model_source import ModelSource
from ..models.weight_bytes import weight_bytes as bytes_of
from .experiment import Experiment
from .lineup import Lineup, System
from .predict import decode_all

logger = logging.getLogger(__name__)

LARGEST_SHARE = 0.75  # of a process's memory, for weights


def decode_shares(experiments: Sequence[tuple[Experiment, RunFolder]]) -> bool:
    """Decode this process's share of the systems whose models fit one process.

    Returns:
        Whether this process decodes the other systems: it is the only one, or the first.

    Raises:
        SettingsChanged: the folder has predictions that were made with other settings.
        ReplicaLost: another process ended before its share was decoded.
    """
    replica = Replica.of_this_process()
    if replica.is_alone:
        return True
    first, _ = experiments[0]
    limit = LARGEST_SHARE * memory_bytes(first.lineup.device)

    def fits(system: System) -> bool:
        if first.lineup.engine != "local":
            return False  # which divides the work itself
        if system.contender is not None and not system.contender.is_loaded:
            return False  # one process asks, and counts what it pays for
        needed = weight_bytes(first.lineup, system)
        if needed > limit:
            logger.info(
                "%s: %.1f GiB of weights, and each process has room for %.1f; one decodes it alone",
                system.name,
                needed / 2**30,
                limit / 2**30,
            )
        return needed <= limit

    decode_all(experiments, replica, fits)
    return replica.rank == 0


def memory_bytes(device: str) -> int:
    """Memory that a process has to itself: a GPU's, or on the CPU its part of the node's."""
    num_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // num_here
    if device != "auto" or num_here > torch.cuda.device_count():
        return 0  # one device for all of them
    return torch.cuda.get_device_properties(int(os.environ.get("LOCAL_RANK", "0"))).total_memory


def weight_bytes(lineup: Lineup, system: System) -> int:
    """The weights that are in memory while a system decodes, as loaded.py loads them."""
    contender = system.contender
    if system.role == "tuned":
        assert contender is not None and contender.tuned is not None
        return _model_bytes(contender.tuned)
    experts = lineup.experts if system.role == "proxy" else lineup.experts[:1]
    small = sum(
        _model_bytes(one.antiexpert) + (0 if is_adapter(one.expert) else _model_bytes(one.expert))
        for one in experts
    )
    return small + (0 if contender is None else _model_bytes(contender.loaded_base))


@functools.cache
def _model_bytes(source: ModelSource) -> int:
    """A model's weights, from its configuration; an adapter counts as its base."""
    return bytes_of(adapter_base(source) if is_adapter(source) else source)
