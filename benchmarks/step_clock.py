"""Times of a training's steps, taken inside the trainer, the same way for every system."""

import json
import resource
import time
from pathlib import Path

import torch
from transformers import TrainerCallback


class StepClock(TrainerCallback):
    """Writes a JSON file when training ends: when it began, each step's end, its end, its memory.

    A time is a pair of seconds, on the wall and of this process's processors. What happens between
    steps (data, callbacks, logs, checkpoints) is in the next step's time, or in the end's.
    """

    def __init__(self, file: str | Path) -> None:
        self._file = Path(file)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._began_at = time.time()
        self._peak_before = _peak_bytes()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._times = [_now()]

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self._times.append(_now())

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self._times.append(_now())
        measured = {
            "began_at": self._began_at,
            "ended_at": time.time(),
            "times": self._times,
            "peak_bytes_before": self._peak_before,
            "peak_bytes": _peak_bytes(),
            "log": [entry for entry in state.log_history if "loss" in entry],
        }
        self._file.write_text(json.dumps(measured))


def _now() -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def _peak_bytes() -> int:
    """Most memory so far: the GPU's tensors, or all of this process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
