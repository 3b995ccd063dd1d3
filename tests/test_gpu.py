"""On a GPU: the CPU's tokens in float32, whatever was decoded before, and graphs that stay live.

pytest -m gpu tests/test_gpu.py
"""

import gc
import importlib.util

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.models import byte_tokenizer, tiny_model
from test_speculative import DRAWN, GREEDY

from decode.backends.local import LocalCompleter
from decode.engine.engine import Engine
from decode.engine.request import Request, RolePrompt
from decode.engine.rule import Alpha
from decode.models import guard
from decode.models.fast_path import fast_path
from decode.models.language_model import LanguageModel
from decode.models.model_source import ModelSource
from decode.models.pair import SharedPair, TwoModels, load_pair
from decode.models.prompts import RoleTokenizers
from decode.models.steered import Steered
from decode.models.vocab import Vocabulary

GPU = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use"),
]
TOKENIZER = byte_tokenizer()
TOKENIZERS = RoleTokenizers.alone(TOKENIZER)
SIZES = {"width": 128, "num_hidden_layers": 4}
LENGTHS = [1 + (7 * n) % 61 for n in range(40)]  # ragged, in no order
LIMITS = [4 + (5 * n) % 23 for n in range(40)]
# rows, batch size, drafts: up and down, so that caches, recordings and slots are used again
SETTINGS = [
    *((40, 40, 0), (12, 7, 4), (4, 1, "auto"), (40, 33, 4), (12, 3, 0)),
    *((40, 40, "auto"), (4, 1, 4), (40, 16, 2), (4, 1, 0), (40, 32, 4)),
]


def prompt(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (length,), generator=generator).tolist()


PROMPTS = [prompt(length, seed) for seed, length in enumerate(LENGTHS)]


def shifted(seed: int):
    """The small model, moved a little: some drafts stand and some fall."""
    model = tiny_model(0, **SIZES)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    return model


def full(device: str, dtype: torch.dtype = torch.float32) -> Steered:
    """A base, a fully tuned expert and its anti-expert."""
    base, expert, antiexpert = (
        LanguageModel(model.to(device, dtype), TOKENIZER)
        for model in (tiny_model(0, **SIZES), shifted(1), shifted(2))
    )
    return Steered(base, TwoModels(expert, antiexpert), Vocabulary(258), 1.0)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> tuple[ModelSource, ModelSource]:
    """A LoRA expert and its anti-expert, saved."""
    folder = tmp_path_factory.mktemp("models")
    small, tuned = str(folder / "small"), str(folder / "adapter")
    model = tiny_model(0, **SIZES)
    model.save_pretrained(small)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    config.base_model_name_or_path = small
    torch.manual_seed(5)
    expert = get_peft_model(model, config)
    for name, parameter in expert.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    expert.save_pretrained(tuned)
    for place in (small, tuned):
        TOKENIZER.save_pretrained(place)
    return ModelSource(tuned), ModelSource(small)


def lora(device: str, sources: tuple[ModelSource, ModelSource]) -> Steered:
    pair = load_pair(*sources, device)
    assert isinstance(pair, SharedPair)
    base = LanguageModel(shifted(3).to(device), TOKENIZER)
    return Steered(base, pair, Vocabulary(258), 1.0)


@pytest.fixture(autouse=True)
def exact(caplog):
    """No TF32, the fast path on, and no line about graphs or kernels that were given up."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    fast_path.is_on = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before
    fast_path.is_on = True


def complete(model, num_rows=40, batch_size=40, num_drafts=0, sampling=GREEDY, alpha=1.0):
    requests = [
        Request(n, RolePrompt.same(PROMPTS[n]), LIMITS[n], (), sampling, Alpha(alpha))
        for n in range(num_rows)
    ]
    completer = LocalCompleter(model, TOKENIZERS, batch_size, num_drafts)
    done = {one.name: one.token_ids for one in completer.complete(requests)}
    return [done[n] for n in range(num_rows)]


def check_live(model, caplog) -> None:
    """Every model that is stepped has recordings, and nothing was given up."""
    assert "decoding without" not in caplog.text
    assert fast_path.is_on
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # attention.without_plans
    pair = model.pair
    stepped = [pair._both] if isinstance(pair, SharedPair) else [pair.expert, pair.antiexpert]
    for one in (model.base, *stepped):
        assert one.lane.stream is not None
        assert one._recordings._recordings and not one._recordings._has_failed


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_tokens_are_the_cpus_in_any_setting_of_one_process(kind, sampling, adapter, caplog):
    here, there = (
        full(device) if kind == "full" else lora(device, adapter) for device in ("cpu", GPU)
    )
    for alpha in (1.0, 0.5, 1.5):
        expected = complete(here, sampling=sampling, alpha=alpha)
        assert len(set(expected)) > 30
        for num_rows, batch_size, num_drafts in SETTINGS:
            found = complete(there, num_rows, batch_size, num_drafts, sampling, alpha)
            assert found == expected[:num_rows], (alpha, batch_size, num_drafts)
            check_live(there, caplog)


def test_every_read_of_ragged_rows_with_drafts_is_the_eager_one(monkeypatch, caplog):
    monkeypatch.setattr(guard, "EVERY", 1)
    expected = complete(full("cpu"))
    for num_drafts in (4, 0):
        model = full(GPU)
        assert complete(model, 40, 32, num_drafts) == expected
        check_live(model, caplog)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_a_batch_of_32_in_half_precision_keeps_its_graphs(dtype, monkeypatch, caplog):
    monkeypatch.setattr(guard, "EVERY", 4)
    model = full(GPU, dtype)
    for num_drafts in (0, 4, "auto"):
        complete(model, 40, 32, num_drafts)
    check_live(model, caplog)


def test_a_hundred_new_caches_with_recordings_alive(caplog):
    expected = complete(full("cpu"), 4)
    model, other = full(GPU), full(GPU)
    assert complete(other, 4, 3, 2) == expected
    for number in range(100):
        model.clear()
        assert complete(model, 4, 1 + number % 4, 2 * (number % 2)) == expected, number
        if number % 10 == 0:
            assert complete(other, 4, 3, 2) == expected
    check_live(model, caplog)
    check_live(other, caplog)


def test_more_models_than_torch_has_streams(caplog):
    expected = complete(full("cpu"), 4)
    kept = full(GPU)
    for _ in range(20):  # three lanes each
        model = full(GPU)
        assert complete(model, 4, 2, 2) == complete(kept, 4, 3, 2) == expected
        check_live(model, caplog)
        del model
        gc.collect()
    check_live(kept, caplog)


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("num_drafts", [0, 3])
def test_prompts_are_read_beside_replays(kind, num_drafts, adapter, caplog):
    """Requests with long prompts arrive in the middle of rounds, at a full engine."""
    asked = [
        Request(n, RolePrompt.same(prompt(40 + 97 * (n % 4), 100 + n)), 12 + n % 9)
        for n in range(48)
    ]

    def fed(model):
        engine = Engine(guard.Guarded(model), TOKENIZER, 16, num_drafts, frozenset({256}))
        waiting, done = list(asked), {}
        for request in waiting[:16]:
            engine.add(request)
        del waiting[:16]
        while waiting or not engine.is_idle:
            for given in engine.step():
                if given.completion is not None:
                    done[given.name] = given.completion.token_ids
            if waiting:
                engine.add(waiting.pop())
        return done

    here, there = (
        full(device) if kind == "full" else lora(device, adapter) for device in ("cpu", GPU)
    )
    expected = fed(here)
    assert fed(there) == expected
    assert fed(there) == expected  # with every shape recorded
    check_live(there, caplog)


@pytest.mark.parametrize("num_right", [0, 8])
def test_a_wrong_replay_is_caught_and_its_rows_decoded_again(num_right, monkeypatch, caplog):
    monkeypatch.setattr(guard, "EVERY", 8)
    expected = complete(full("cpu"))
    model, num_replays = full(GPU), 0
    capture = model.base.capture

    def wrong_capture(call):
        replay, is_new = capture(call), True

        def wrong_replay():
            nonlocal is_new, num_replays
            was_new, is_new = is_new, False
            num_replays += not was_new  # the first is compared when it is recorded
            return replay().roll(1, -1) if not was_new and num_replays > num_right else replay()

        return wrong_replay

    model.base.capture = wrong_capture
    assert complete(model, 40, 32, 2) == expected
    assert num_replays > num_right
    assert "are decoded again" in caplog.text
    assert not fast_path.is_on


def test_memory_comes_back(caplog):
    model = full(GPU)

    def held() -> tuple[int, int]:
        model.clear()
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    complete(model, 40, 40, 4)  # a stream's workspace stays for good
    check_live(model, caplog)
    before = held()
    for _ in range(5):
        complete(model, 40, 33, 4)
        complete(model, 12, 7, 0)
    check_live(model, caplog)
    allocated, reserved = held()
    assert allocated <= before[0]
    assert reserved <= before[1]


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="no liger_kernel")
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_ligers_kernels_are_used_and_leave_no_trace(kind, adapter, monkeypatch, caplog):
    monkeypatch.setattr(guard, "EVERY", 4)
    model = full(GPU) if kind == "full" else lora(GPU, adapter)
    before = [dict(vars(module)) for module in model.base.model.modules()]
    complete(model, 40, 33, 2)
    check_live(model, caplog)
    assert model.base._kernels._patches and model.base._kernels._checked
    assert [dict(vars(module)) for module in model.base.model.modules()] == before
