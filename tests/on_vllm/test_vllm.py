"""vLLM completes and scores as models in memory do."""

import math
import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import pytest
import torch

pytest.importorskip("vllm")

from peft import LoraConfig, get_peft_model
from support.models import byte_tokenizer, tiny_model
from vllm import SamplingParams

from decode.backends.completer import Continuation, Likeliest, NotFinite
from decode.backends.local import LocalCompleter
from decode.backends.vllm_completer import VllmCompleter
from decode.backends.vllm_engine import VllmModels
from decode.backends.vllm_model import ProxyTunedForCausalLM
from decode.backends.vllm_requests import RequestAlphas
from decode.engine.request import Request, RolePrompt
from decode.engine.rule import Alpha, Rule
from decode.engine.sampling import Sampling
from decode.models.loaded import ExpertSource, LoadedModels, align_models
from decode.models.model_source import ModelSource
from decode.stage.steered_folder import REQUESTS

ALPHAS = [
    None,
    Alpha(0.0),
    Alpha(-0.5),
    Alpha(0.7, Rule(plausible_to="expert")),
    Alpha(1.0, Rule(plausible_to="base_or_expert", by_doubt=True)),
    Alpha(1.5, Rule(sure_base=0.9, antiexpert=False)),
]
TEXT = "the quick brown fox jumps over the lazy dog and the quick cat "


def saved(folder: Path, seed: int, width: int, **options) -> ModelSource:
    heads = {"num_attention_heads": width // 32, "num_key_value_heads": 1}  # of 32, as vLLM needs
    model = tiny_model(seed, width=width, max_position_embeddings=128, **heads, **options)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return ModelSource(str(folder))


def lora(folder: Path, base: ModelSource) -> ModelSource:
    torch.manual_seed(3)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = LoadedModels("cpu").base(base).model
    get_peft_model(model, config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return ModelSource(str(folder), untuned=base)


class Both:
    """The same models in memory and on vLLM."""

    def __init__(self, folder: Path) -> None:
        base = saved(folder / "base", 0, 128, vocab_size=320)  # logits wider than the tokenizer
        small = saved(folder / "small", 2, 64)
        other = saved(folder / "other", 4, 32, vocab_size=264)
        experts = [
            ExpertSource(lora(folder / "lora", small), small),
            ExpertSource(saved(folder / "full", 1, 64), other, 0.5),
        ]
        self.tokenizers, vocabulary = align_models(base, experts, "identical")
        steered, _ = LoadedModels("cpu").steered(base, experts, "identical", Alpha(1.0))
        self.local = LocalCompleter(steered, self.tokenizers, 8)
        options = {
            "enforce_eager": True,
            "max_num_batched_tokens": 64,
            "logits_processors": [REQUESTS],
        }
        self.models = VllmModels(4, options)
        arguments = base, experts, self.tokenizers, vocabulary.size
        self.vllm = self.models.completer(*arguments, Alpha(1.0))
        self.alone = self.models.completer(*arguments, None)  # on the same engine
        self.base = LocalCompleter(LoadedModels("cpu").base(base), self.tokenizers, 8)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    made = Both(tmp_path_factory.mktemp("models"))
    yield made
    made.models.unload()


def asked(number: int, **options) -> Request:
    banned = (5, 70) if number % 5 == 0 else ()
    prompt = TEXT[: 3 + 2 * (number % 27)]  # many share blocks of the prefix cache
    return Request(number, prompt, 4 + number % 17, banned_ids=banned, **options)


def test_greedy_completions_are_those_of_models_in_memory(both: Both) -> None:
    requests = [asked(n, alpha=ALPHAS[n % len(ALPHAS)]) for n in range(60)]
    expected = {one.name: one for one in both.local.complete(requests)}
    assert {one.name: one for one in both.vllm.complete(requests)} == expected
    stopping = [
        replace(one, stop=(expected[one.name].text[2:4] or "z",))
        if number % 2
        else replace(one, stop_ids=expected[one.name].token_ids[2:3] if number % 4 else ())
        for number, one in enumerate(requests)
    ]
    stopped = {one.name: one for one in both.local.complete(stopping)}  # from the prefix cache
    assert {one.name: one for one in both.vllm.complete(stopping)} == stopped
    assert {one.finish_reason for one in stopped.values()} == {"stop", "eos", "length"}
    assert both.vllm.taken()["num_rows"] == 120


def test_the_large_model_alone_has_the_same_engine(both: Both) -> None:
    requests = [asked(n) for n in range(12)]
    expected = {one.name: one for one in both.base.complete(requests)}
    assert {one.name: one for one in both.alone.complete(requests)} == expected


def test_models_in_one_keep_what_is_compiled_and_recorded_apart(both: Both) -> None:
    engine = both.vllm._engine
    (names,) = engine.collective_rpc(
        lambda worker: {
            name: module.vllm_config.compute_hash()  # vLLM's files of compiled code have its name
            for name, module in worker.model_runner.get_model().named_modules()
            if hasattr(module, "vllm_config") and hasattr(module, "do_not_compile")
        }
    )
    assert len(names) == 5 and len(set(names.values())) == 5

    memory = torch.zeros(2, 3)  # where every recorded graph leaves what it makes

    def recorded(value: float):
        return lambda ids, positions: memory.fill_(value)

    model = ProxyTunedForCausalLM.__new__(ProxyTunedForCausalLM)
    torch.nn.Module.__init__(model)
    model._models = [recorded(1.0), recorded(2.0)]
    states = model(torch.zeros(2, dtype=torch.long), torch.arange(2))
    assert states.tolist() == [[1, 1, 1, 2, 2, 2]] * 2


def possible(likeliest: Likeliest) -> list[list[int]]:
    """Ids that may be chosen; the order of others is nobody's."""
    return [[id_ for id_, logprob in place if logprob > -math.inf] for place in likeliest]


def test_scores_are_those_of_models_in_memory(both: Both) -> None:
    given = [
        Continuation(n, TEXT[: 5 + n], [*b"jumps over"][: 1 + n], ALPHAS[n % len(ALPHAS)], n % 4)
        for n in range(12)
    ]
    expected = {one.name: one for one in both.local.score(given)}
    for found in both.vllm.score(given):
        one = expected[found.name]
        assert found.logprobs == pytest.approx(one.logprobs, abs=1e-3)
        assert found.is_greedy == one.is_greedy
        assert possible(found.likeliest) == possible(one.likeliest)


def test_draws_follow_the_distribution_and_the_request_alone(both: Both) -> None:
    sampling, alpha = Sampling(temperature=1.3, top_k=12, seed=7), Alpha(0.4)
    prompt, number = TEXT[:9], 1500
    requests = [Request(n, prompt, 1, sampling=sampling, alpha=alpha) for n in range(number)]
    drawn = {one.name: one.token_ids for one in both.vllm.complete(requests)}
    alone = {one.name: one.token_ids for one in both.vllm.complete(requests[700:703])}
    assert alone == {name: drawn[name] for name in alone}
    (scored,) = both.local.score([Continuation(0, prompt, [0], alpha, 12)])
    ids, logprobs = zip(*scored.likeliest[0], strict=True)
    probs = (torch.tensor(logprobs) / 1.3).softmax(-1).tolist()
    counts = Counter(ids_[0] for ids_ in drawn.values())
    assert set(counts) <= set(ids)
    for id_, prob in zip(ids, probs, strict=True):
        error = (prob * (1 - prob) / number) ** 0.5
        assert abs(counts[id_] / number - prob) <= 3 * error + 1 / number


def test_whoever_wants_no_more_leaves_nothing_behind(both: Both) -> None:
    some = both.vllm.complete([asked(n) for n in range(9)])
    next(some)
    some.close()
    (one,) = both.vllm.complete([asked(1)])
    (expected,) = both.local.complete([asked(1)])
    assert one == expected


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Request(0, RolePrompt("a", "b", "a"), 4), "a prompt differs by role"),
        (Request(0, "a", 4, alpha=Alpha(1.0, Rule(warmup_tokens=3))), "a token's place"),
        (Request(0, "a", 128), "129 tokens with its completion, and the engine holds 128"),
        (Request(0, "a", 4, sampling=Sampling(temperature=0.005)), "vLLM takes 0, or at least"),
        (Request(0, "a", 4, sampling=Sampling(1.0, top_p=0.5, min_p=0.1)), "min_p: vLLM applies"),
    ],
)
def test_what_vllm_cannot_do_is_refused(both: Both, request_: Request, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        list(both.vllm.complete([request_]))
    with pytest.raises(ValueError, match="two requests have the name '1'"):
        list(both.vllm.complete([asked(1), asked(1)]))


def test_no_draws_are_drafted(both: Both, monkeypatch) -> None:
    monkeypatch.setattr(both.vllm, "_is_drafting", True)
    (one,) = both.vllm.complete([asked(1)])
    assert one.name == 1
    with pytest.raises(ValueError, match=r"temperature: found 0\.5; vLLM draws other tokens"):
        list(both.vllm.complete([asked(1, sampling=Sampling(0.5))]))


def test_logits_that_are_not_finite_are_told(both: Both) -> None:
    completer: VllmCompleter = both.vllm
    alpha = Alpha(float("inf"))
    with pytest.raises(NotFinite, match="row '3': the logits are NaN or infinite after 0 tokens"):
        list(completer.complete([replace(asked(3), alpha=alpha)]))
    assert len(list(completer.complete([asked(4)]))) == 1


def test_requests_of_one_batch_have_alphas_of_their_own(both: Both) -> None:
    alphas = [one or Alpha(1.0) for one in ALPHAS]
    requests = [asked(n, alpha=alphas[n % len(alphas)]) for n in range(1, 25) if n % 5]
    requests = [replace(one, banned_ids=()) for one in requests]
    expected = {one.name: one.token_ids for one in both.local.complete(requests)}
    list(both.vllm.complete([asked(1)]))  # leaves the engine at its own alpha
    engine = both.vllm._engine
    for one in requests:
        own, rule = cast(Alpha, one.alpha), asdict(cast(Alpha, one.alpha).rule)
        params = SamplingParams(
            temperature=0,
            max_tokens=one.max_new_tokens,
            stop_token_ids=[256],
            detokenize=False,
            extra_args={"alpha": own.value, **rule} if own != Alpha(1.0) else None,
        )
        ids = both.tokenizers.base(str(one.prompt))["input_ids"]
        engine.add_request(str(one.name), {"prompt_token_ids": ids}, params)
    found = {}
    while engine.has_unfinished_requests():
        found |= {int(one.request_id): one.outputs[0].token_ids for one in engine.step()}
    assert {name: tuple(ids) for name, ids in found.items()} == expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"alpha": "1"}, "vllm_xargs.alpha: found '1', expected a number"),
        ({"alpha": float("nan")}, "vllm_xargs.alpha: found nan"),
        ({"plausible_share": 2}, "vllm_xargs: plausible_share must be above 0 and at most 1"),
        ({"plausible_share": "x"}, "vllm_xargs: "),
        ({"alpha": 1, "warmup_tokens": 3}, "does not tell models a token's place"),
    ],
)
def test_what_no_request_may_ask_is_told(given: dict, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        RequestAlphas.validate_params(SamplingParams(extra_args=given))
    with pytest.raises(ValueError, match="a prompt is scored at the server's alpha"):
        RequestAlphas.validate_params(SamplingParams(extra_args={"alpha": 2}, prompt_logprobs=1))
    assert RequestAlphas.validate_params(SamplingParams(prompt_logprobs=1)) is None
