"""GPUs: forwards that are recorded once and replayed, models side by side, memory.

At one token a step a GPU is done sooner than the host has launched the next kernel; a recorded
graph is one launch. What is recorded is fixed, so shapes are rounded up: rows to a power of two
(the rest are slots nobody uses), what attention reads to a multiple of SPAN_STEP (the mask hides
the rest). Only the token ids and their positions change between replays.
"""

import logging
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SPAN_STEP = 256
TOLERANCE = 0.05  # of the largest logit; a replay that missed something is off by far more

Forward = Callable[[Tensor, range, Tensor, int], Tensor]  # ids, slots, positions, span -> logits
Replay = Callable[[], Tensor]
Capture = Callable[[Callable[[], Tensor]], Replay]


def capture_cuda_graph() -> Capture:
    """Records forwards on the current GPU; the recordings share one pool of memory."""
    pool = torch.cuda.graph_pool_handle()

    def capture(call: Callable[[], Tensor]) -> Replay:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels choose their algorithms before they are recorded
            call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            output = call()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay

    return capture


@dataclass(frozen=True, slots=True)
class _Recording:
    ids: Tensor
    positions: Tensor
    replay: Replay


class Recordings:
    """A forward that reads tokens into slots, recorded for each shape when it first occurs.

    Args:
        forward: with inputs on `device`; it may be called more than once with the same inputs.
        num_slots, capacity: of the cache it writes.
        unused: a position nothing sees, for rows that are padding.
        capture: makes the recording.
    """

    def __init__(
        self,
        forward: Forward,
        num_slots: int,
        capacity: int,
        unused: int,
        device: torch.device,
        capture: Capture,
    ) -> None:
        self._forward, self._capture, self._device = forward, capture, device
        self._num_slots, self._capacity, self._unused = num_slots, capacity, unused
        self._recordings: dict[tuple[range, int, int], _Recording] = {}
        self._has_failed = False

    @torch.inference_mode()
    def __call__(
        self, ids: Tensor, slots: range, positions: Sequence[Sequence[int]], end: int
    ) -> Tensor:
        """(B, T) ids at (B, T) positions below `end` -> (B, T, V) logits."""
        num_rows, num_tokens = ids.shape
        padded = min(1 << (num_rows - 1).bit_length(), self._num_slots // slots.step)
        slots = range(0, padded * slots.step, slots.step)
        span = min(-(-end // SPAN_STEP) * SPAN_STEP, self._capacity)
        rows = [*positions, *[[self._unused] * num_tokens] * (padded - num_rows)]
        where = torch.tensor(rows, device=self._device)
        ids = torch.nn.functional.pad(ids, (0, 0, 0, padded - num_rows))
        if self._has_failed:
            return self._forward(ids, slots, where, span)[:num_rows]
        recording = self._recordings.get((slots, num_tokens, span))
        if recording is None:
            return self._record(ids, slots, where, span)[:num_rows]
        recording.ids.copy_(ids)
        recording.positions.copy_(where)
        return recording.replay()[:num_rows].clone()  # the next replay writes there again

    def _record(self, ids: Tensor, slots: range, positions: Tensor, span: int) -> Tensor:
        """Record a shape, if the recording gives what it was made from; the forward's logits."""
        expected = self._forward(ids, slots, positions, span)
        ids, positions = ids.clone(), positions.clone()
        try:
            replay = self._capture(lambda: self._forward(ids, slots, positions, span))
            difference = (replay() - expected).float().abs().max()
            if not difference <= TOLERANCE * expected.float().abs().max():
                raise RuntimeError(f"a replay was off by {float(difference):.3g}")
        except RuntimeError as error:
            logger.warning("decoding without CUDA graphs (%s)", str(error).splitlines()[0])
            self._has_failed = True
            return expected
        self._recordings[slots, ids.shape[1], span] = _Recording(ids, positions, replay)
        return expected


def side_by_side(calls: Sequence[Callable[[], Any]], device: torch.device) -> list[Any]:
    """What the calls return; on a GPU each but the first runs on a stream of its own.

    A small model's kernels fill what a large one's leave idle. Models on different devices overlap
    without this: their launches do not wait. On a CPU the calls run one after another.
    """
    if device.type != "cuda":
        return [call() for call in calls]
    here = torch.cuda.current_stream(device)
    streams = [here, *(torch.cuda.Stream(device) for _ in calls[1:])]
    results = []
    for stream, call in zip(streams, calls, strict=True):
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            results.append(call())
    for stream in streams[1:]:
        here.wait_stream(stream)
    for result in results[1:]:
        for tensor in result if isinstance(result, tuple) else (result,):
            if tensor.device == device:
                tensor.record_stream(here)
    return results


def peak_memory_gib() -> float:
    """The most memory held so far: of the fullest GPU, or of this process where there is none."""
    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        return max(torch.cuda.max_memory_allocated(device) for device in devices) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
