"""The most memory that a process has held."""

import resource
import sys

import torch


def peak_memory_gib() -> float:
    """The most memory held so far: of the fullest GPU, or of this process where there is none."""
    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        return max(torch.cuda.max_memory_allocated(device) for device in devices) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
