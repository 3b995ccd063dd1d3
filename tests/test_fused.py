"""Fused kernels: in place while a recorded forward runs, compared, and nowhere else.

The package needs a GPU; a stand-in sets what it sets, where it sets it (`test_gpu.py` has its own).
"""

import sys
from importlib.machinery import ModuleSpec
from types import MethodType, ModuleType

import pytest
import torch
from support.models import tiny_model
from test_engine import IDS, run, same, steered
from test_graphs import counting_capture, static
from test_speculative import DRAWN, related_trio
from transformers.models.llama import modeling_llama

from decode.models import fused
from decode.models.fast_path import fast_path
from decode.models.fused import KERNELS, LOSSES, liger_patches

ROTARY, NORM = modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaRMSNorm


class FakeLiger:
    """`calls` counts fused norms and rotations; `scale` is what a norm is wrong by."""

    def __init__(self):
        self.calls = {"norm": 0, "rotary": 0}
        self.scale = 1.0

    def apply(self, model, **kernels):
        assert kernels == {**KERNELS, **LOSSES}

        def rotate(*arguments):
            self.calls["rotary"] += 1
            return ROTARY(*arguments)

        def normalize(module, x):
            self.calls["norm"] += 1
            assert module.in_place
            return NORM.forward(module, x) * self.scale

        modeling_llama.apply_rotary_pos_emb = rotate
        modeling_llama.LlamaRMSNorm = type("Fused", (NORM,), {})
        for layer in model.model.layers:
            layer.input_layernorm.in_place = True
            layer.input_layernorm.__dict__["forward"] = MethodType(normalize, layer.input_layernorm)


@pytest.fixture
def liger(monkeypatch):
    fake = FakeLiger()
    for name in ("liger_kernel", "liger_kernel.transformers"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    module._apply_liger_kernel_to_instance = fake.apply
    yield fake
    assert modeling_llama.apply_rotary_pos_emb is ROTARY
    assert modeling_llama.LlamaRMSNorm is NORM


def state(model):
    return [dict(vars(module)) for module in model.modules()]


def recorded(trio):
    counts = {"recorded": 0, "replayed": 0}
    return static(steered(*trio), counting_capture(counts)), counts


def test_they_run_in_recorded_forwards_and_the_tokens_stay(liger, caplog):
    trio = related_trio()
    before = [state(model) for model in trio]
    expected = run(steered(*trio), same(IDS), sampling=DRAWN)
    assert not any(liger.calls.values())  # nothing is recorded on a CPU
    model, counts = recorded(trio)
    assert run(model, same(IDS), 3, sampling=DRAWN, num_draft_tokens=2) == expected
    num_layers = len(trio[0].model.layers)
    assert liger.calls["norm"] == liger.calls["rotary"]
    # A shape's first forward, the recording's check of itself, and every replay of the stand-in.
    assert counts["recorded"] < liger.calls["norm"] / num_layers <= 2 * counts["replayed"]
    assert [state(model) for model in trio] == before
    assert not caplog.text


def test_eager_reads_and_prompts_do_without(liger):
    trio = related_trio()
    model, _ = recorded(trio)
    with fast_path.off():
        run(model, same(IDS), 3, num_draft_tokens=2)
    for one in model.models:
        one.capture = None  # as for a model in training
        one._recordings = None
    run(model, same(IDS), 3, num_draft_tokens=2)
    assert not any(liger.calls.values())


def test_wrong_kernels_are_taken_back_with_a_line_a_model(liger, caplog):
    trio = related_trio()
    expected = run(steered(*trio), same(IDS))
    liger.scale = 1.5
    model, counts = recorded(trio)
    assert run(model, same(IDS), 3) == expected
    assert liger.calls["norm"] == 3 * len(trio[0].model.layers)
    assert caplog.text.count("decoding without Liger's kernels (logits were off by ") == 3
    assert counts["replayed"] > counts["recorded"] > 0  # and the recordings are kept


@pytest.mark.parametrize("where", ["package", "kernel"])
def test_kernels_that_fail_are_taken_back(liger, where, monkeypatch, caplog):
    def fail(*_, **__):
        modeling_llama.apply_rotary_pos_emb = None
        raise ImportError("needs another version\nmore")

    trio = related_trio()
    expected = run(steered(*trio), same(IDS))
    if where == "package":
        module = sys.modules["liger_kernel.transformers"]
        monkeypatch.setattr(module, "_apply_liger_kernel_to_instance", fail)
    else:
        liger.scale = "no number"
    model, counts = recorded(trio)
    assert run(model, same(IDS), 3) == expected
    assert caplog.text.count("decoding without Liger's kernels (") == 3
    assert "more" not in caplog.text
    assert counts["replayed"] > counts["recorded"] > 0


def test_only_known_types_and_only_with_the_package(liger, monkeypatch):
    assert liger_patches(tiny_model(0))
    assert liger_patches(tiny_model(0, "gpt2")) == []
    monkeypatch.setattr(fused.importlib.util, "find_spec", lambda name: None)
    assert liger_patches(tiny_model(0)) == []


def test_a_class_for_models_to_come_is_no_patch(liger):
    values = [value for _, new in liger_patches(tiny_model(0)) for value in new.values()]
    assert values and not any(isinstance(value, type) for value in values)
    assert not torch.is_tensor(values[0])
