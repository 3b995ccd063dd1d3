"""A stream of its own for every model on a GPU, so that models compute side by side.

Whatever a model computes, it computes on its lane: eager forwards, recordings and their replays. A
lane begins after all that was asked for before, and what follows waits for it. Therefore memory
needs no bookkeeping between streams: nobody takes up what a lane may still read. And a matrix
product's workspace, which belongs to its stream and which recordings go on using, is never that of
two models at once.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import cuda

from .fast_path import fast_path

_given_back: list[cuda.Stream] = []
_in_use: set[int] = set()


class Lane:
    """Where a model computes.

    Args:
        device: the GPU of all its weights; None for a model that computes where it is asked to.

    Attributes:
        stream: that of no other living lane; None if there is none.
    """

    def __init__(self, device: torch.device | None) -> None:
        self.stream = None if device is None else _own_stream(self, device)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The block runs on the lane. It may be entered again inside."""
        with _joined([self]), self._current():
            yield

    def _origin(self) -> cuda.Stream | None:
        """The stream that asks, or None if the lane need not be entered."""
        if self.stream is None or not fast_path.is_on:
            return None
        here = cuda.current_stream(self.stream.device)
        return None if here == self.stream else here

    def _current(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._origin() is None else cuda.stream(self.stream)


def side_by_side(work: Sequence[tuple[Lane, Callable[[], Any]]]) -> list[Any]:
    """What the calls return, each run on its lane; no lane waits for another."""
    results = []
    with _joined([lane for lane, _ in work]):
        for lane, call in work:
            with lane._current():
                results.append(call())
    return results


@contextmanager
def _joined(lanes: Sequence[Lane]) -> Iterator[None]:
    """The lanes begin after what was asked for before the block; what follows it waits for them."""
    pairs = [(lane.stream, origin) for lane in lanes if (origin := lane._origin()) is not None]
    for stream, origin in pairs:  # before anything is launched on an origin
        assert stream is not None
        stream.wait_stream(origin)
    yield
    for stream, origin in pairs:
        assert stream is not None
        origin.wait_stream(stream)


def _own_stream(lane: Lane, device: torch.device) -> cuda.Stream | None:
    """A stream that no living lane has. torch hands out the same 32 in turn."""
    kept = [stream for stream in _given_back if stream.device == device]
    stream = kept[0] if kept else cuda.Stream(device)
    if stream.cuda_stream in _in_use:
        return None
    if kept:
        _given_back.remove(stream)
    _in_use.add(stream.cuda_stream)
    weakref.finalize(lane, _give_back, stream)
    return stream


def _give_back(stream: cuda.Stream) -> None:
    _in_use.discard(stream.cuda_stream)
    _given_back.append(stream)
