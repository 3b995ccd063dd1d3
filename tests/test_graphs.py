"""Static shapes: a forward that is replayed with other tokens says what a fresh one says.

CUDA graphs need a GPU; here a stand-in replays by calling again with the tensors it recorded, which
goes through all of the rounding of shapes, the padding of rows and the static cache addresses.
"""

import sys
from types import ModuleType

import pytest
import torch
from support.models import ARCHITECTURES, byte_tokenizer
from support.quick_tier import few
from test_engine import IDS, run, same, steered
from test_pair import adapter, sources  # noqa: F401 (a fixture)
from test_speculative import DRAWN, GREEDY, related_trio

from decode.models import graphs
from decode.models.graphs import Recordings
from decode.models.language_model import LanguageModel
from decode.models.pair import load_pair
from decode.models.steered import Steered
from decode.models.vocab import Vocabulary

TOKENIZER = byte_tokenizer()


def static(model: Steered, capture) -> Steered:
    """The model with every forward recorded by `capture`."""
    pair = model.pair
    both = [pair._both] if hasattr(pair, "_both") else [pair.expert, pair.antiexpert]
    for one in (model.base, *both):
        one.capture = capture
    return model


def counting_capture(counts):
    def capture(call):
        counts["recorded"] += 1

        def replay():
            counts["replayed"] += 1
            return call()

        return replay

    return capture


@pytest.mark.parametrize("architecture", few(ARCHITECTURES, "llama"))
@pytest.mark.parametrize(
    ("span_step", "sampling"), [(8, DRAWN), (256, GREEDY)], ids=["8-drawn", "256-greedy"]
)
def test_replayed_forwards_give_the_same_tokens(architecture, sampling, span_step, monkeypatch):
    trio = related_trio(architecture)
    expected = run(steered(*trio), same(IDS), sampling=sampling)
    monkeypatch.setattr(graphs, "SPAN_STEP", span_step)
    counts = {"recorded": 0, "replayed": 0}
    model = static(steered(*trio), counting_capture(counts))
    for batch_size, num_draft_tokens in ((1, 0), (3, 0), (3, 2), (7, 4)):
        found = run(
            model, same(IDS), batch_size, sampling=sampling, num_draft_tokens=num_draft_tokens
        )
        assert found == expected
    assert counts["replayed"] > 2 * counts["recorded"] > 0


@pytest.mark.parametrize("num_draft_tokens", [0, 3])
def test_replayed_forwards_of_a_shared_pair(adapter, num_draft_tokens):  # noqa: F811
    small, folder = adapter()
    pair = load_pair(*sources(small, folder), "cpu")
    base = LanguageModel(related_trio()[0], TOKENIZER)
    model = Steered(base, pair, Vocabulary(258), 0.8)
    expected = run(model, same(IDS), 3)
    counts = {"recorded": 0, "replayed": 0}
    again = static(Steered(base, pair, Vocabulary(258), 0.8), counting_capture(counts))
    for part in (base, pair._both):
        part._cache = None  # made before there was anything to record
    assert run(again, same(IDS), 3, num_draft_tokens=num_draft_tokens) == expected
    assert counts["replayed"] > counts["recorded"] > 0


def test_nothing_is_replayed_beside_graphs_of_torch_compile(monkeypatch, caplog):
    trio, counts = related_trio(), {"recorded": 0, "replayed": 0}
    expected = run(steered(*trio), same(IDS))
    model = static(steered(*trio), counting_capture(counts))
    assert run(model, same(IDS)) == expected
    assert counts["replayed"] > 0
    before = dict(counts)
    monkeypatch.setitem(sys.modules, graphs.COMPILED_GRAPHS, ModuleType("trees"))
    assert run(model, same(IDS)) == expected
    assert counts == before
    assert "decoding without CUDA graphs (torch.compile has graphs" in caplog.text


def test_rows_are_rounded_up_to_few_shapes():
    shapes = set()

    def forward(ids, slots, positions, span):
        shapes.add((len(ids), span))
        assert len(slots) == len(ids) == len(positions)
        return torch.zeros(*ids.shape, 5)

    recordings = Recordings(forward, 12, 600, 600, torch.device("cpu"), lambda call: call)
    for num_rows in range(1, 13):
        for end in (1, 256, 257, 600):
            first = torch.full((num_rows, 1), end - 1)
            logits = recordings(torch.zeros(num_rows, 1), range(num_rows), first, end)
            assert logits.shape == (num_rows, 1, 5)
    assert shapes == {(rows, span) for rows in (1, 2, 4, 8, 12) for span in (256, 512, 600)}


@pytest.mark.parametrize("is_wrong", [True, False], ids=["wrong", "refused"])
def test_a_recording_that_is_wrong_or_refused_is_not_used(is_wrong, caplog):
    def capture(call):
        if not is_wrong:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return lambda: call() + 100

    trio = related_trio()
    expected = run(steered(*trio), same(IDS))
    assert run(static(steered(*trio), capture), same(IDS)) == expected
    reason = "a replay was off by 100" if is_wrong else "operation not permitted"
    assert f"decoding without CUDA graphs ({reason}" in caplog.text
