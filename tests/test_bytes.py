"""Steering byte by byte: an enumeration without caches or tries, and the laws of tokens."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from support.decode_run import decode
from support.models import save_tiny, save_trained, tiny_model, trained_tokenizer
from support.rows import jsonl
from test_mapped import save_lora, sentencepiece

from decode import ProxyTuned
from decode.backends.completer import Continuation
from decode.engine.request import Request
from decode.engine.row import Row
from decode.engine.sampling import Sampling
from decode.models import byte_steered
from decode.models.byte_model import ByteModel
from decode.models.byte_steered import BytePrompt, SteeredByBytes
from decode.models.byte_text import END, NUM_SYMBOLS
from decode.models.language_model import LanguageModel
from decode.models.speller import speller
from recipes.schema.recipe import RecipeError, load_recipe

PROMPT = "the capital of"
TEXTS = [
    "",
    " Peru is",
    " hello hello world",
    " déjà vu, naïve",
    " 12 pens?\n\n  a",
    "日本 é",
    "\xff".encode("latin-1"),
]


@pytest.fixture(scope="module", params=[trained_tokenizer, sentencepiece], ids=["bytes", "pieces"])
def trained(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A model, and its tokenizer: of bytes, or of letters with numbers for other bytes."""
    tokenizer = request.param()
    model = tiny_model(0, vocab_size=len(tokenizer), sharpness=3.0)
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    return model, tokenizer


class Enumerated:
    """The next byte's distribution, summed over every way to write a text."""

    def __init__(self, model: Any, tokenizer: Any, prompt: list[int]) -> None:
        self._model, self._tokenizer, self._prompt = model, tokenizer, prompt
        self._bytes = speller(tokenizer).tokens.bytes
        self._begins_with_a_space = len(tokenizer("=", add_special_tokens=False).input_ids) == 2
        self._probs: dict[tuple[int, ...], torch.Tensor] = {}

    @torch.inference_mode()
    def probs(self, ids: tuple[int, ...]) -> torch.Tensor:
        if ids not in self._probs:
            logits = self._model(torch.tensor([[*self._prompt, *ids]])).logits
            self._probs[ids] = logits[0, -1].double().softmax(-1)
        return self._probs[ids]

    def next(self, text: bytes) -> torch.Tensor:
        found = torch.zeros(NUM_SYMBOLS, dtype=torch.double)
        self._add(found, text, (), b"", 1.0)
        return found / found.sum()

    def _add(
        self, found: torch.Tensor, text: bytes, ids: Any, written: bytes, weight: float
    ) -> None:
        probs = self.probs(ids)
        if written == text:
            found[END] += weight * probs[self._tokenizer.eos_token_id]
        for id_, raw in enumerate(self._bytes):
            longer = written + raw
            if not raw:
                continue
            if len(longer) > len(text):
                if longer.startswith(text):
                    found[longer[len(text)]] += weight * probs[id_]
            elif text.startswith(longer) and self._is_cut_so((*ids, id_), longer):
                self._add(found, text, (*ids, id_), longer, weight * float(probs[id_]))

    def _is_cut_so(self, ids: tuple[int, ...], raw: bytes) -> bool:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return True
        return any(self._cut(text + following)[: len(ids)] == ids for following in ("", *"x0."))

    def _cut(self, text: str) -> tuple[int, ...]:
        if self._begins_with_a_space:  # as it does before each text
            return tuple(self._tokenizer("=" + text, add_special_tokens=False).input_ids[2:])
        return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)


def stepped(model: Any, tokenizer: Any, prompt: list[int], text: bytes, tolerance: float) -> Any:
    """The distribution of each byte of a text and of what follows it: (len(text) + 1, 257)."""
    own = ByteModel(LanguageModel(model, tokenizer), [speller(tokenizer)], tolerance, False)
    own.make_room(len(prompt) + 8, 1, 0)
    own.fill([prompt], [0])
    found = [own.log_probs([0])]
    for byte in text:
        own.add(0, byte)
        own.read([0])
        found.append(own.log_probs([0]))
    return torch.cat(found).exp().double()


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_have_the_enumerated_distribution(trained: Any, text: Any) -> None:
    model, tokenizer = trained
    raw = text if isinstance(text, bytes) else text.encode()
    prompt = tokenizer(PROMPT).input_ids
    enumerated = Enumerated(model, tokenizer, prompt)
    found = stepped(model, tokenizer, prompt, raw, 0.0)
    for place in range(len(raw) + 1):
        expected = enumerated.next(raw[:place])
        torch.testing.assert_close(found[place], expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("trained", [trained_tokenizer], indirect=True)
def test_what_is_left_unread_is_no_more_than_said(trained: Any) -> None:
    model, tokenizer = trained
    prompt = tokenizer(PROMPT).input_ids
    raw = " the hello world, déjà Lima".encode()
    exact, lazy = (stepped(model, tokenizer, prompt, raw, share) for share in (0.0, 1e-2))
    distances = (exact - lazy).abs().sum(-1) / 2
    assert distances.max() <= 1e-2
    assert distances.max() > 1e-6, "nothing was left unread"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A base, and an expert and an anti-expert with another tokenizer."""
    at = tmp_path_factory.mktemp("bytes")
    found = {
        "base": save_trained(at / "base", 0),
        "expert": save_trained(at / "expert", 1, size=280),
        "small": save_trained(at / "small", 2, size=280),
    }
    found["lora"] = save_lora(at / "lora", save_tiny(at / "tiny", 5))
    found["tiny"] = str(at / "tiny")
    return found


def load(folders: dict[str, str], expert: str, small: str, base: str = "base", **options) -> Any:
    return ProxyTuned.from_pretrained(
        *(folders[one] for one in (base, expert, small)),
        device="cpu",
        vocabulary="bytes",
        **options,
    )


def distributions(proxy: ProxyTuned, text: bytes) -> list[torch.Tensor]:
    """What a proxy draws from at each byte of a text and after it: (257,) each."""
    model = cast(SteeredByBytes, proxy.steered)
    prompt = proxy.tokenizers.encode(PROMPT)
    base = BytePrompt.of(PROMPT.encode(), cast(Any, prompt.base), max_tokens=60)
    row = Row(Request(0, replace(prompt, base=base), 200))
    model.reserve([row], 1, 0)
    found = [model.prefill([row], [0])]
    for byte in text:
        row.token_ids.append(byte)
        found.append(model.read([row], model.draft([row], 0, lambda *_: torch.empty(0)))[:, 0])
    return [logits[0].double().softmax(-1) for logits in found]


@pytest.mark.parametrize("alpha", [1.0, -0.5])
def test_steering_combines_the_enumerated_distributions(
    folders: dict[str, str], alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_steered, "BASE_TOLERANCE", 0.0)
    monkeypatch.setattr(byte_steered, "SMALL_TOLERANCE", 0.0)
    proxy = load(folders, "expert", "small", alpha=alpha)
    text = " hello Lima, é".encode()
    models = [proxy.steered.base, *proxy.steered.pair.models]
    tokenizers = [proxy.tokenizers.base, proxy.tokenizers.expert, proxy.tokenizers.antiexpert]
    enumerated = [
        Enumerated(one.model, tokenizer, tokenizer(PROMPT).input_ids)
        for one, tokenizer in zip(models, tokenizers, strict=True)
    ]
    for place, probs in enumerate(distributions(proxy, text)):
        base, expert, anti = (one.next(text[:place]).log() for one in enumerated)
        expected = (base + alpha * (expert - anti)).softmax(-1)
        torch.testing.assert_close(probs, expected, rtol=1e-3, atol=1e-8)


def test_alpha_0_is_the_base(folders: dict[str, str], trained: Any) -> None:
    proxy = load(folders, "expert", "small", alpha=0.0)
    base, tokenizer = proxy.steered.base.model, proxy.tokenizers.base
    text = b" of Peru is"
    alone = stepped(base, tokenizer, tokenizer(PROMPT).input_ids, text, 1e-3)
    for probs, expected in zip(distributions(proxy, text), alone, strict=True):
        torch.testing.assert_close(probs, expected, rtol=1e-5, atol=1e-12)


def test_where_tokens_are_bytes_it_is_identical(tmp_path: Path) -> None:
    base, expert, small = (save_tiny(tmp_path / str(seed), seed) for seed in range(3))
    found = [
        ProxyTuned.from_pretrained(
            base, expert, small, device="cpu", vocabulary=vocabulary
        ).generate(["Q: 1+1=", "hello", "a longer prompt"], 24)
        for vocabulary in ("identical", "bytes")
    ]
    ids = [[done.token_ids for done in completions] for completions in found]
    assert ids[0] == ids[1] and len({*ids[0]}) == 3


SAMPLED = {"temperature": 1.5, "top_p": 0.95, "seed": 3}
PROMPTS = ["the capital of", "hello", "é and a longer prompt, to be ragged", "x"]


@pytest.mark.parametrize("sampling", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("small", [("expert", "small"), ("lora", "tiny")], ids=["two", "shared"])
def test_a_row_does_not_depend_on_its_neighbours(
    folders: dict[str, str], small: tuple[str, str], sampling: dict[str, Any]
) -> None:
    proxy = load(folders, *small)
    together = proxy.generate(PROMPTS, 12, batch_size=3, **sampling)
    alone = [
        proxy.completer(1).complete(
            [Request(n, prompt, 12, sampling=Sampling(**sampling), alpha=proxy.steered.alpha)]
        )
        for n, prompt in enumerate(PROMPTS)
    ]
    assert together == [next(done) for done in alone]
    assert len({done.token_ids for done in together}) == len(PROMPTS)


def test_draws_have_the_distribution_they_are_drawn_from(folders: dict[str, str]) -> None:
    proxy, num, heat = load(folders, "expert", "small"), 600, 6.0
    requests = (Request(n, PROMPT, 1, sampling=Sampling(heat)) for n in range(num))
    bytes_of = speller(proxy.tokenizers.base).tokens.bytes
    done = [one.token_ids for one in proxy.completer(200).complete(requests)]
    firsts = Counter(bytes_of[ids[0]][0] if bytes_of[ids[0]] else END for ids in done)
    probs = (distributions(proxy, b"")[0].log() / heat).softmax(-1)
    likeliest = probs.topk(8)
    assert likeliest.values[0] < 0.9
    for byte, p in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True):
        assert abs(firsts[byte] / num - p) < 4 * (p * (1 - p) / num) ** 0.5, (byte, p)


def test_completions_are_counted_in_the_bases_tokens(folders: dict[str, str]) -> None:
    proxy = load(folders, "expert", "small")
    completer = proxy.completer()
    for limit in (1, 5, 12):
        requests = [Request(n, prompt, limit) for n, prompt in enumerate(PROMPTS)]
        for done in completer.complete(requests):
            assert len(done.token_ids) == limit or done.finish_reason != "length"
            decoded = proxy.tokenizers.base.decode(done.token_ids, skip_special_tokens=True)
            assert done.text == decoded
    assert completer.taken()["num_tokens"] > 0
    assert completer.taken()["acceptance_rate"] is None


def test_a_stop_ends_a_text_inside_a_token(folders: dict[str, str]) -> None:
    proxy = load(folders, "expert", "small")
    (whole,) = proxy.generate([PROMPT], 16)
    stop = whole.text[5:7]
    (done,) = proxy.generate([PROMPT], 16, stop=[stop])
    assert done.text == whole.text[: whole.text.find(stop)]
    assert done.finish_reason == "stop"


def test_a_text_longer_than_the_expert_can_hold_goes_on_as_the_base(
    tmp_path: Path, folders: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    short = {
        seed: save_tiny(tmp_path / str(seed), seed, max_position_embeddings=24) for seed in (3, 4)
    }
    proxy = ProxyTuned.from_pretrained(
        folders["base"], short[3], short[4], device="cpu", vocabulary="bytes"
    )
    (done,) = proxy.generate([PROMPT], 30)
    assert len(done.token_ids) == 30 or done.finish_reason == "eos"
    assert "as the base alone" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ("decode.rule.warmup_tokens=4", "decode.rule.warmup_tokens (override): counts tokens"),
        ("decode.thinking={}", "decode.thinking"),
        ("decode.num_draft_tokens=3", "decode.num_draft_tokens (override): has no effect"),
        ("proxy_check={num_rows: 4}", "proxy_check (override): scores tokens"),
        ("also=[{lm_eval: arc_easy, metric: acc}]", "also.0 (override): lm-eval may ask"),
        ("decode.engine=vllm", "decode.vocabulary (override): found bytes: on vLLM"),
    ],
)
def test_what_asks_for_tokens_is_refused(overrides: str, told: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe("recipes/mini/facts.yaml", ["decode.vocabulary=bytes", overrides])
    assert told in str(raised.value)


def test_scores_of_tokens_are_refused(folders: dict[str, str]) -> None:
    proxy = load(folders, "expert", "small")
    with pytest.raises(ValueError, match="does not score tokens"):
        next(iter(proxy.completer().score([Continuation(0, PROMPT, [1])])))
    with pytest.raises(ValueError, match="are of tokens"):
        proxy.generate([PROMPT], 4, banned_ids=[3])


def test_a_recipe_steers_by_bytes_and_is_picked_up(
    recipe: Any, tmp_path: Path, folders: dict[str, str]
) -> None:
    expert = {"model": folders["small"], "trained": folders["expert"], "dtype": "float32"}
    asked = [{"id": f"q{n}", "question": q, "answers": ["a"]} for n, q in enumerate(PROMPTS)]
    task = {"name": "facts", "eval": jsonl(tmp_path / "rows.jsonl", asked)}
    path = recipe(expert=expert, task=task)
    own = "decode.vocabulary=bytes", "decode.alpha=[0.5,1.0]"
    assert not decode(path, *own)
    rows = tmp_path / "run" / "predictions"
    first = {file.name: file.read_text() for file in rows.glob("proxy-*.jsonl")}
    assert len(first) == 2
    for name, text in first.items():
        kept = text.splitlines(keepends=True)[:2]
        (rows / name).write_text("".join(kept))
    assert not decode(path, *own)
    assert {file.name: file.read_text() for file in rows.glob("proxy-*.jsonl")} == first
    assert 'made with vocabulary "bytes"' in str(decode(path, "decode.vocabulary=mapped", own[1]))
    assert "set it to mapped" in str(decode(path, *own, entry="decode/analyze.py"))
