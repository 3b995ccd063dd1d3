"""Work that does not wait for each other, side by side on one GPU."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


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
