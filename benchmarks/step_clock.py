"""Times of a training's steps, taken inside the trainer, the same way for every system."""

import contextlib
import json
import os
import resource
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

TURNS = "STEP_CLOCK_TURNS"  # two file descriptors: where a turn comes from and where it goes


class StepClock(TrainerCallback):
    """Times every step, and takes turns, a step each, with another process that does the same.

    What happens between steps (data, callbacks, logs, checkpoints) is in the next step's time.
    When training ends a JSON file is written.
    """

    def __init__(self, file: str | Path) -> None:
        self._file = Path(file)
        turns = os.environ.get(TURNS)
        self._turns = tuple(map(int, turns.split())) if turns else None
        self._steps: list[float] = []  # seconds

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._began_at = time.time()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._take_turn()
        self._start = _now()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self._steps.append(_now() - self._start)
        self._pass_turn()
        if state.global_step < state.max_steps:
            self._take_turn()
            self._start = _now()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        measured = {
            "began_at": self._began_at,
            "ended_at": time.time(),
            "steps": self._steps,
            "peak_bytes": _peak_bytes(),
            "log": [entry for entry in state.log_history if "loss" in entry],
        }
        self._file.write_text(json.dumps(measured))

    def _take_turn(self) -> None:
        if self._turns is not None:
            os.read(self._turns[0], 1)  # waits; the other's end is also a turn

    def _pass_turn(self) -> None:
        if self._turns is not None:
            with contextlib.suppress(BrokenPipeError):  # the other has ended
                os.write(self._turns[1], b".")


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_bytes() -> int:
    """Most memory so far: the GPU's tensors, or all of this process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
