"""Streams of models: the order of launches and waits, on stand-ins that write down what happens."""

import gc
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from decode.models import lane as lanes
from decode.models.fast_path import fast_path
from decode.models.lane import Lane, side_by_side

GPU = SimpleNamespace(type="cuda")


class FakeCuda:
    """Streams by number; `log` is what was launched and what waits for what."""

    def __init__(self):
        self.log, self.number, self.now = [], 0, None
        self.now = self.Stream(GPU)  # stream 0, on which a program begins

    def Stream(self, device):
        def wait_stream(other):
            self.log.append(f"{stream.cuda_stream} waits for {other.cuda_stream}")

        stream = SimpleNamespace(device=device, cuda_stream=self.number, wait_stream=wait_stream)
        self.number = (self.number + 1) % 33  # torch has 32 of them, which it hands out in turn
        return stream

    def current_stream(self, device):
        return self.now

    @contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream
        yield
        self.now = before

    def launch(self, name):
        self.log.append(f"{name} on {self.now.cuda_stream}")
        return name


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(lanes, "cuda", fake)
    monkeypatch.setattr(lanes, "_given_back", [])
    monkeypatch.setattr(lanes, "_in_use", set())
    return fake


def test_a_lane_begins_after_what_came_before_and_is_waited_for(cuda):
    lane = Lane(GPU)
    with lane.entered():
        cuda.launch("a")
        with lane.entered():  # it is there already
            cuda.launch("b")
    assert cuda.log == ["1 waits for 0", "a on 1", "b on 1", "0 waits for 1"]


def test_no_lane_waits_for_another(cuda):
    base, expert, antiexpert, here = Lane(GPU), Lane(GPU), Lane(GPU), Lane(None)

    def pair():
        return side_by_side(
            [(expert, lambda: cuda.launch("expert")), (antiexpert, lambda: cuda.launch("anti"))]
        )

    found = side_by_side([(base, lambda: cuda.launch("base")), (here, pair)])
    assert found == ["base", ["expert", "anti"]]
    assert cuda.log == [
        *("1 waits for 0", "base on 1"),
        *("2 waits for 0", "3 waits for 0", "expert on 2", "anti on 3"),
        *("0 waits for 2", "0 waits for 3", "0 waits for 1"),
    ]


def test_a_stream_has_one_living_lane(cuda):
    alive = [Lane(GPU) for _ in range(20)]
    for _ in range(100):  # more than torch has
        lane = Lane(GPU)
        numbers = [one.stream.cuda_stream for one in (*alive, lane)]
        assert len(set(numbers)) == 21
        del lane
        gc.collect()
    many = [Lane(GPU) for _ in range(20)]
    own = [one.stream.cuda_stream for one in (*alive, *many) if one.stream is not None]
    assert len(own) == len(set(own)) < 40  # the rest compute where they are asked to


def test_without_the_fast_path_or_a_gpu_nothing_waits(cuda):
    lane = Lane(GPU)
    with fast_path.off(), lane.entered():
        cuda.launch("a")
    with Lane(None).entered():
        cuda.launch("b")
    side_by_side([(Lane(None), lambda: cuda.launch("c"))])
    assert cuda.log == ["a on 0", "b on 0", "c on 0"]
    assert Lane(None).stream is None
    assert torch.cuda.is_available() or fast_path.is_on
