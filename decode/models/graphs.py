"""Forwards that are recorded once and replayed: at one token a step a GPU is done sooner than the
host has launched the next kernel, and a recorded graph is one launch.

What is recorded is fixed, so shapes are rounded up: rows to a few numbers (the rest are slots that
nobody uses), what attention reads to a multiple of SPAN_STEP (the mask hides the rest). Only the
token ids and the rows' first positions change between replays.
"""

import logging
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .fast_path import beyond_rounding

logger = logging.getLogger(__name__)

SPAN_STEP = 256
ROW_STEP = 16  # fewer rows are rounded up to a power of two
MOST_RECORDINGS = 64  # of one model, for memory's sake
# Imported when torch.compile first records graphs of its own. It then frees all workspaces of
# matrix products in the process, and recordings go on using theirs.
COMPILED_GRAPHS = "torch._inductor.cudagraph_trees"

Forward = Callable[[Tensor, range, Tensor, int], Tensor]  # ids, slots, positions, span -> logits
Replay = Callable[[], Tensor]
Capture = Callable[[Callable[[], Tensor]], Replay]


class CudaCapture:
    """Records forwards on one stream, where they have run before.

    Having run, their kernels have chosen their algorithms, and the stream has the workspace of its
    matrix products, which then is in no recording's memory. Recordings share memory with those that
    live; with the last of them it is gone, and the next takes memory anew.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._living: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    def __call__(self, call: Callable[[], Tensor]) -> Replay:
        graph, other = torch.cuda.CUDAGraph(), next(iter(self._living), None)
        pool = None if other is None else other.pool()
        with torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"):
            output = call()
        self._living.add(graph)

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


@dataclass(frozen=True, slots=True)
class _Recording:
    ids: Tensor  # (P, T)
    first: Tensor  # (P, 1)
    replay: Replay


class Recordings:
    """A forward that reads tokens into slots, recorded for each shape when it first occurs.

    Shapes: B rows, T tokens a row, P >= B rows that are computed.

    Args:
        forward: with inputs on `device`; it may be called more than once with the same inputs.
        num_slots, capacity: of the cache it writes.
        unused: a position nothing sees, for rows that are padding and tokens beyond it.
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
    def __call__(self, ids: Tensor, slots: range, first: Tensor, end: int) -> Tensor:
        """Logits after tokens that stand in a row at positions below `end`.

        Args:
            ids: (B, T) int64.
            slots: of the rows, from 0.
            first: (B, 1) int64, the position of each row's first token.

        Returns:
            (B, T, V).
        """
        num_rows, num_tokens = ids.shape
        padded = min(_rounded_up(num_rows), self._num_slots // slots.step)
        slots = range(0, padded * slots.step, slots.step)
        span = min(-(-end // SPAN_STEP) * SPAN_STEP, self._capacity)
        if COMPILED_GRAPHS in sys.modules and not self._has_failed:
            self._give_up("torch.compile has graphs of its own in this process")
            self.close()
        recording = self._recordings.get((slots, num_tokens, span))
        if recording is None:
            return self._record(ids, slots, first, span)
        self._fill(recording.ids, recording.first, ids, first)
        return recording.replay()[:num_rows].clone()  # the next replay writes there again

    def close(self) -> None:
        """Drop the recordings when the device is done with them."""
        if self._recordings and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._recordings.clear()

    def _give_up(self, reason: str) -> None:
        logger.warning("decoding without CUDA graphs (%s)", reason)
        self._has_failed = True

    def _fill(self, to_ids: Tensor, to_first: Tensor, ids: Tensor, first: Tensor) -> None:
        num_rows = len(ids)
        to_ids[:num_rows].copy_(ids)
        to_first[:num_rows].copy_(first)
        to_first[num_rows:].fill_(self._unused)

    def _places(self, first: Tensor, num_tokens: int) -> Tensor:
        """(P, T) positions from the first ones."""
        ahead = torch.arange(num_tokens, device=first.device)
        return (first + ahead).clamp(max=self._unused)

    def _record(self, ids: Tensor, slots: range, first: Tensor, span: int) -> Tensor:
        """Record a shape, if the recording gives what it was made from; the forward's logits."""
        num_rows, num_tokens = ids.shape
        own_ids = ids.new_zeros(len(slots), num_tokens)
        own_first = first.new_empty(len(slots), 1)
        self._fill(own_ids, own_first, ids, first)

        def call() -> Tensor:
            return self._forward(own_ids, slots, self._places(own_first, num_tokens), span)

        expected = call()[:num_rows]
        if self._has_failed:
            return expected
        if len(self._recordings) >= MOST_RECORDINGS:
            self.close()
        try:
            replay = self._capture(call)
            # Tokens at the unused position are written in no order, and nobody reads them.
            is_read = self._places(first, num_tokens) < self._unused
            found = replay()[:num_rows]
            difference = beyond_rounding(found[is_read], expected[is_read], expected.dtype)
            if difference is not None:
                raise RuntimeError(f"a replay was off by {difference:.3g}")
        except RuntimeError as error:
            self._give_up(str(error).splitlines()[0])
            return expected
        self._recordings[slots, num_tokens, span] = _Recording(own_ids, own_first, replay)
        return expected


def _rounded_up(num_rows: int) -> int:
    if num_rows > ROW_STEP:
        return -(-num_rows // ROW_STEP) * ROW_STEP
    return 1 << (num_rows - 1).bit_length()
