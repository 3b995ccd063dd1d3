"""A base behind an endpoint: where all is shown it is the base in memory, else what is hidden is
counted; every answer is paid for once.
"""

import json
import math
import os
import signal
import time
from itertools import count

import pytest
import torch
from pydantic import Field
from support import fork_server
from support.decode_run import ROOT, decode
from support.judge_server import completion, failure
from support.models import byte_tokenizer, save_tiny

from decode import Continuation, LocalCompleter, Request, RolePrompt
from decode.backends.next_tokens import Asked
from decode.engine.rule import Alpha
from decode.engine.sampling import Sampling
from decode.evaluation.lineup import Contender, Lineup, System
from decode.evaluation.loaded import Completers
from decode.evaluation.metrics_file import read_metrics
from decode.models.loaded import ExpertSource, LoadedModels
from decode.models.model_source import ModelSource
from decode.models.token_bytes import TokenIds, escaped, is_text
from decode.stage.endpoint_base import endpoint_source
from recipes.schema.endpoint_base import EndpointBase
from recipes.schema.recipe import RecipeError, load_recipe

KEY = "sk-test-0123456789abcdef"
PLACE = "decode.bases.0"
HIGH_BYTES = tuple(  # no whole text by themselves
    id_ for id_, raw in enumerate(TokenIds(byte_tokenizer()).bytes) if raw and not is_text(raw)
)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    names = ("base", "expert", "antiexpert")
    return [ModelSource(save_tiny(folder / name, seed)) for seed, name in enumerate(names)]


def source_of(url, record, top=5, **settings):
    hurry = {"backoff_s": 0.01, "num_retries": 2, "timeout_s": 20.0}
    base = EndpointBase(endpoint=url, model="base", top_logprobs=top, **{**hurry, **settings})
    return endpoint_source(base, PLACE, record)


def lineup_of(models, source, **settings):
    _, expert, antiexpert = models
    pair = ExpertSource(expert, antiexpert)
    return Lineup(
        (pair,), (Contender("base", source, None),), (Alpha(1.0),), device="cpu", **settings
    )


def completer_of(models, source, alpha: Alpha | None = Alpha(1.0), **settings):  # noqa: B008
    lineup = lineup_of(models, source, **settings)
    role = "base" if alpha is None else "proxy"
    return Completers(lineup).of(System(role, lineup.contenders[0], alpha))


def shows(tops, **more):
    """An answer of a completions endpoint that shows these tokens with these probabilities."""
    logprobs = {token: math.log(p) for token, p in tops.items()}
    text = max(tops, key=tops.__getitem__, default="")
    return completion({"text": text, "logprobs": {"top_logprobs": [logprobs]}}, **more)


# All is shown


@pytest.mark.long
@pytest.mark.parametrize("sends", ["ids", "text"])
def test_an_endpoint_that_shows_all_is_the_base_in_memory(models, tmp_path, monkeypatch, sends):
    pytest.importorskip("fastapi", reason="needs pip install -e '.[serve]'")
    from test_serve import running

    from decode.serving import app
    from decode.serving.protocol import CompletionBody
    from decode.serving.systems import load_served

    class Wide(CompletionBody):
        logprobs: int | None = Field(None, ge=0)

    monkeypatch.setattr(app, "CompletionBody", Wide)
    base, expert, antiexpert = models
    in_memory = lineup_of(models, base)
    served = load_served(in_memory, in_memory.contenders[0], ("base",), num_scored=8)
    texts = [
        "".join(chr(97 + (7 * i + j) % 26) for j in range(1 + i))
        for i in range(50 if sends == "ids" else 20)
    ]
    banned = () if sends == "ids" else HIGH_BYTES
    samplings = (Sampling(), Sampling(temperature=1.0, top_p=0.9, seed=5))
    requests = [
        Request(i, RolePrompt(text, f"{text}!", text), 1 + i % 5, ("q",), samplings[i % 2],
                Alpha(0.5 + i % 3), banned)
        for i, text in enumerate(texts)
    ]  # fmt: skip
    steered, tokenizers = LoadedModels("cpu").steered(
        base, [ExpertSource(expert, antiexpert)], "identical", 1.0
    )
    local = LocalCompleter(steered, tokenizers, 8)
    expected = {done.name: done for done in local.complete(requests)}
    given = [Continuation(i, r.prompt, (65, 10 + i), r.alpha) for i, r in enumerate(requests[:6])]
    scores = {one.name: one for one in local.score(given)}
    with running(served, batch_size=8, max_waiting=400) as (url, _):
        source = source_of(f"{url}/v1", tmp_path / "shown.jsonl", 258, prompt=sends)
        completer = completer_of(models, source)
        found = {done.name: done for done in completer.complete(requests)}
        scored = {one.name: one for one in completer.score(given)}
    assert found == expected
    assert len({len(done.token_ids) for done in found.values()}) > 2
    for name, one in scored.items():
        if sends == "ids":
            torch.testing.assert_close(one.logprobs, scores[name].logprobs, atol=2e-5, rtol=1e-5)
    seen = completer.taken()["endpoint"]
    if sends == "ids":
        assert seen["visible_mass"] == pytest.approx(1, abs=1e-4)
        assert (seen["expert_hidden"], seen["num_unmatched"]) == (0, 0)


def test_tokens_are_found_by_every_name_that_servers_give_them():
    ids = TokenIds(byte_tokenizer(("<|im_end|>",)))
    space, new_line, byte = (ids.bytes.index(raw) for raw in (b" ", b"\n", b"\xc3"))
    assert ids.find(" ") == ids.find("\u0120") == space
    assert ids.find("\n") == ids.find("\u010a") == ids.find("nonsense", b"\n") == new_line
    assert ids.find("bytes:\\xc3") == ids.find("\ufffd", b"\xc3") == byte
    assert ids.find("\xc3") is None  # a letter of two bytes, spelt as one byte's token is
    assert (ids.find("<eos>"), ids.find("<|im_end|>")) == (256, 258)
    assert ids.find("two") is ids.find("") is ids.find("t", b"two") is None
    for id_, raw in enumerate(ids.bytes):
        assert raw and ids.find(raw.decode() if is_text(raw) else escaped(raw)) == id_


# What is shown, and what it costs


def test_the_shift_moves_what_is_shown_and_the_rest_is_counted(serve, models, tmp_path):
    tops = {"a": 0.5, "b": 0.2, "two": 0.1, "bytes:\\xc3": 0.1}

    def answer(request):
        time.sleep(0.02)
        return shows(tops)

    server = serve(answer)
    source = source_of(server.base_url, tmp_path / "shown.jsonl", 4)
    tokenizer = byte_tokenizer()
    a, b = tokenizer("ab")["input_ids"]
    completer = completer_of(models, source)
    requests = [Request(i, f"prompt {i}", 3, alpha=Alpha(4.0)) for i in range(4)]
    found = {done.name: done for done in completer.complete(requests)}
    pair = LoadedModels("cpu").pair(*models[1:])
    hidden = 0
    for i, request in enumerate(requests):
        ids = tokenizer(str(request.prompt))["input_ids"]
        for token in found[i].token_ids:
            with torch.inference_mode():
                expert, anti = (
                    one.model(torch.tensor([ids])).logits[0, -1]
                    for one in (pair.expert, pair.antiexpert)
                )
            shift = 4 * (expert - anti)
            favourite = max((a, b), key=lambda one: math.log({a: 0.5, b: 0.2}[one]) + shift[one])
            assert token == favourite
            hidden += expert.argmax() not in (a, b)
            ids = [*ids, token]
    seen = completer.taken()["endpoint"]
    assert seen == {
        "num_steps": 12,
        "visible_mass": pytest.approx(0.7),
        "expert_hidden": hidden / 12,
        "num_requests": 12,
        "num_from_record": 0,
        "num_prompt_tokens": 84,
        "num_completion_tokens": 12,
        "num_unmatched": 24,
        "unmatched": ["two", "bytes:\\xc3"],
    }
    assert {r["body"]["prompt"] for r in server.seen} >= {"prompt 0", f"prompt 0{found[0].text[0]}"}
    assert server.seen[0]["body"] == {
        "model": "base",
        "prompt": server.prompts[0],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 4,
    }
    assert server.most_active > 1  # rows are asked about side by side


def test_small_models_are_watched_where_they_are_recorded(serve, models, tmp_path):
    server = serve(lambda request: shows({"a": 0.5, "b": 0.4}))
    source = source_of(server.base_url, tmp_path / "shown.jsonl")
    requests = [Request(i, f"prompt {i}", 6, alpha=Alpha(4.0)) for i in range(3)]
    plain, recorded = completer_of(models, source), completer_of(models, source)
    for one in (recorded.model.pair.expert, recorded.model.pair.antiexpert):
        one.capture = lambda call: call
        one.clear()
    expected = {done.name: done.token_ids for done in plain.complete(requests)}
    assert {done.name: done.token_ids for done in recorded.complete(requests)} == expected
    assert recorded.model.pair.expert.num_recorded > 0


def test_letters_are_scored_as_far_as_they_are_shown(serve, models, tmp_path):
    server = serve(lambda request: shows({"A": 0.6, "C": 0.2, "x": 0.1}))
    source = source_of(server.base_url, tmp_path / "shown.jsonl")
    letters = [byte_tokenizer()(letter)["input_ids"] for letter in "ABC"]
    base = completer_of(models, source, alpha=None)
    given = [Continuation(i, "Which?", ids) for i, ids in enumerate(letters)]
    found = {one.name: one for one in base.score(given)}
    expected = [0.6 / 0.9, 0.0, 0.2 / 0.9]
    assert [math.exp(found[i].logprobs[0]) for i in range(3)] == pytest.approx(expected)
    assert [found[i].is_greedy[0] for i in range(3)] == [True, False, False]
    assert server.prompts == ["Which?"]  # one question, however many letters
    assert base.taken()["endpoint"]["num_from_record"] == 2


def test_an_endpoint_that_ends_the_text_ends_the_row(serve, models, tmp_path):
    end = completion({"text": "", "logprobs": {"top_logprobs": []}})
    server = serve(lambda request: end if request["prompt"] == "p" else shows({"a": 1.0}))
    completer = completer_of(models, source_of(server.base_url, tmp_path / "s.jsonl"))
    found = {d.name: d for d in completer.complete([Request(0, "p", 3), Request(1, "o", 2)])}
    assert (found[0].finish_reason, found[0].text) == ("eos", "")
    assert (found[1].finish_reason, found[1].text) == ("length", "aa")


def test_nothing_that_can_be_chosen_is_one_line(serve, models, tmp_path):
    server = serve(lambda request: shows({"two": 0.9, "three": 0.1}))
    completer = completer_of(models, source_of(server.base_url, tmp_path / "s.jsonl"))
    with pytest.raises(ValueError, match=r"row 'r': base at .* shows 'two', 'three' after 0 tok"):
        list(completer.complete([Request("r", "p", 3)]))


# Chat


def chat(token):
    top = [{"token": token, "logprob": -0.1, "bytes": list(token.encode())}]
    content = [{"token": token, "logprob": -0.1, "top_logprobs": top}]
    return completion({"message": {"content": token}, "logprobs": {"content": content}})


def test_a_chat_goes_on_only_where_the_recipe_says_so(serve, models, tmp_path):
    server = serve(lambda request: chat("a"))
    more = {"continue_final_message": True}
    source = source_of(server.base_url, tmp_path / "s.jsonl", api="chat", continue_with=more)
    completer = completer_of(models, source)
    (done,) = completer.complete([Request(0, "p", 2)])
    assert done.text == "aa" and source.goes_on
    first, second = (request["body"] for request in server.seen)
    user = {"role": "user", "content": "p"}
    told = {"model": "base", "temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 5}
    assert first == {**told, "messages": [user]}
    said = {"role": "assistant", "content": "a"}
    assert second == {**told, **more, "messages": [user, said]}
    source = source_of(server.base_url, tmp_path / "s.jsonl", api="chat")
    with pytest.raises(RuntimeError, match="shows the first token of an answer, and a second"):
        source.next_tokens.show([Asked("p", "a")])
    assert not source.goes_on and len(server.seen) == 2


@pytest.mark.parametrize("api", ["chat", "completions"])  # llama.cpp's are of the same form
def test_bytes_say_which_token_is_meant(serve, tmp_path, api):
    top = [{"token": "\ufffd", "logprob": -1.0, "bytes": [195]}]
    content = [{"token": "\ufffd", "logprob": -1.0, "top_logprobs": top}]
    said = {"message": {"content": "?"}, "text": "?"}
    answer = completion({**said, "logprobs": {"content": content}})
    server = serve(lambda request: answer)
    for _ in range(2):  # asked, then from the record
        source = source_of(server.base_url, tmp_path / "s.jsonl", api=api)
        ((token,),) = [shown.tokens for shown in source.next_tokens.show([Asked("p")])]
        assert (token.raw, token.logprob) == (b"\xc3", -1.0)
    assert len(server.seen) == 1


# Paid for once


def test_an_answer_is_bound_to_endpoint_model_and_prompt(serve, tmp_path):
    first, second = (serve(lambda request: shows({"a": 1.0})) for _ in range(2))
    record = tmp_path / "s.jsonl"

    def ask(server, prompt="p", **settings):
        return source_of(server.base_url, record, **settings).next_tokens.show([Asked(prompt)])

    for _ in range(2):
        ask(first)
    assert len(first.seen) == 1
    ask(first, "q")
    ask(first, top=4)
    ask(first, parameters={"temperature": 0, "max_completion_tokens": 1})
    ask(second)
    assert (len(first.seen), len(second.seen)) == (4, 1)
    record.write_text(record.read_text().replace("0.0", "0.5", 1))
    with pytest.raises(ValueError, match=r"s\.jsonl, line 1: the log-probabilities of an endp"):
        ask(first)


def test_the_budget_stops_a_run_before_it_is_passed(serve, models, tmp_path):
    server = serve(lambda request: shows({"a": 0.6, "b": 0.4}))
    record, requests = tmp_path / "s.jsonl", [Request(i, f"p{i}", 6) for i in range(2)]
    with pytest.raises(RuntimeError, match=rf"{PLACE}\.max_requests: 6 of 7 requests are paid"):
        list(
            completer_of(models, source_of(server.base_url, record, max_requests=7)).complete(
                requests
            )
        )
    assert len(server.seen) == 6
    completer = completer_of(models, source_of(server.base_url, record, max_requests=12))
    assert len(list(completer.complete(requests))) == 2
    assert len(set(server.prompts)) == len(server.prompts) == 12
    assert completer.taken()["endpoint"]["num_from_record"] == 6


def test_what_is_answered_beside_a_failure_is_kept(serve, tmp_path):
    server = serve(lambda request: failure(400) if request["prompt"] == "p1" else shows({"a": 1.0}))
    source = source_of(server.base_url, tmp_path / "s.jsonl")
    with pytest.raises(RuntimeError, match="refused a request with status 400"):
        source.next_tokens.show([Asked(f"p{i}") for i in range(5)])
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 4


def test_rate_limits_and_faults_pass(serve, tmp_path):
    replies = iter([failure(429, Retry_After="0.05"), failure(500), shows({"a": 1.0})])
    server = serve(lambda request: next(replies))
    (shown,) = source_of(server.base_url, tmp_path / "s.jsonl").next_tokens.show([Asked("p")])
    assert [token.text for token in shown.tokens] == ["a"] and len(server.seen) == 3
    assert server.seen[1]["time"] - server.seen[0]["time"] >= 0.05


@pytest.mark.parametrize("answer", [{"text": "a"}, {"text": "a", "logprobs": None}])
def test_an_endpoint_without_logprobs_is_refused_at_once(serve, tmp_path, answer):
    server = serve(lambda request: completion({**answer, "finish_reason": "length"}))
    with pytest.raises(RuntimeError, match="without log-probabilities"):
        source_of(server.base_url, tmp_path / "s.jsonl").next_tokens.show([Asked("p")])
    assert len(server.seen) == 1


def test_the_key_is_sent_and_kept_nowhere(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("BASE_KEY", KEY)
    server = serve(lambda request: shows({"a": 0.5, KEY: 0.2}))
    source = source_of(server.base_url, tmp_path / "s.jsonl", key_env="BASE_KEY")
    source.next_tokens.show([Asked("p")])
    assert server.seen[0]["key"] == f"Bearer {KEY}"
    assert KEY not in (tmp_path / "s.jsonl").read_text() + repr(source) + str(source.identity)
    monkeypatch.delenv("BASE_KEY")
    with pytest.raises(ValueError, match=rf"^{PLACE}: key_env names no environment variable"):
        source_of(server.base_url, tmp_path / "s.jsonl", key_env="BASE_KEY")


# Runs


@pytest.fixture
def endpoint_run(recipe, tmp_path, save_model):
    """A recipe whose base is behind an endpoint that it names; changes are of the base."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": f"q{i}", "question": f"Q{i}?", "answer": "a"}) + "\n"
                            for i in range(4)))  # fmt: skip
    small = {"model": save_model("small", 1), "trained": save_model("expert", 2)}

    def write(url, limit=3, **changes):
        base = {
            "endpoint": url,
            "model": "org/big",
            "top_logprobs": 5,
            "backoff_s": 0.01,
            **changes,
        }
        task = {"name": "questions", "eval": str(rows)}
        return recipe(
            task=task,
            expert={**small, "dtype": "float32"},
            decode={"bases": [base], "batch_size": 4, "max_new_tokens": limit, "device": "cpu"},
        )

    return write


@pytest.mark.long
def test_a_run_reports_what_the_endpoint_showed(serve, endpoint_run, tmp_path, capsys):
    server = serve(lambda request: shows({"a": 0.5, "b": 0.3, "two": 0.1}))
    path = endpoint_run(server.base_url)
    assert decode(path) is None
    out = capsys.readouterr().out
    assert f"big: behind {server.base_url}, top 5; visible mass 80.0%" in " ".join(out.split())
    metrics = read_metrics(tmp_path / "run" / "metrics.json")
    (base,) = metrics.bases
    assert (base.slug, base.endpoint, base.top_logprobs) == ("big", server.base_url, 5)
    seen = metrics.decoding["proxy-big-alpha1"].endpoint
    alone = metrics.decoding["base-big"].endpoint
    assert seen and alone and alone.expert_hidden is None and alone.num_steps == 12
    assert seen.num_from_record >= 4  # the base alone was asked the prompts already
    assert len(set(server.prompts)) == len(server.prompts) == seen.num_requests + alone.num_requests
    assert "| proxy-big-alpha1 | 12 | 80.0% |" in (
        report := (tmp_path / "run/report.md").read_text()
    )
    assert f"{server.base_url}, top 5" in report and "`'two'`" in report
    num_seen = len(server.seen)
    assert decode(path) is None and len(server.seen) == num_seen
    assert "all of them are behind endpoints" in str(decode(path, entry="decode/analyze.py"))
    told = str(decode(path, f"{PLACE}.top_logprobs=4"))
    assert "top_logprobs" in told and len(server.seen) == num_seen


@pytest.mark.long
def test_a_killed_run_pays_for_no_answer_twice(serve, endpoint_run, tmp_path):
    number, process = count(), tmp_path / "pid"

    def answer(request):
        if next(number) == 9:
            os.kill(int(process.read_text()), signal.SIGKILL)
        return shows({"a": 0.5, "b": 0.3})

    server = serve(answer)
    path = endpoint_run(server.base_url, concurrency=1)
    entry = tmp_path / "entry.py"
    entry.write_text(
        "import os, runpy, sys\n"
        f"open({str(process)!r}, 'w').write(str(os.getpid()))\n"
        f"sys.argv[0] = {str(ROOT / 'decode/run.py')!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    assert fork_server.run([str(entry), str(path)]).returncode == -signal.SIGKILL
    unanswered = server.prompts[-1]
    assert decode(path) is None
    asked = [*server.prompts]
    asked.remove(unanswered)  # its answer never came
    assert len(set(asked)) == len(asked) > 10
    assert read_metrics(tmp_path / "run" / "metrics.json").num_examples == 4


@pytest.mark.long
def test_a_chat_that_would_have_to_go_on_is_refused_before_it_is_asked(serve, endpoint_run):
    server = serve(lambda request: chat("a"))
    told = str(decode(endpoint_run(server.base_url, api="chat")))
    assert (
        told.startswith(f"error: {PLACE}: a chat endpoint shows the first token")
        and not server.seen
    )
    assert decode(endpoint_run(server.base_url, limit=1, api="chat")) is None
    assert len(server.seen) == 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dtype": "float32"}, "dtype: has no effect on a base behind an endpoint"),
        ({"tune_reference": True}, "tune_reference: has no effect on a base behind an endpoint"),
        ({"quantization": {}}, "quantization: has no effect on a base behind an endpoint"),
        ({"quantisation": "int8"}, "quantisation: unknown key"),
        ({"top_logprobs": None}, "top_logprobs: found null"),
        ({"top_logprobs": 0}, "top_logprobs: found 0"),
        ({"endpoint": "here"}, "endpoint: expected an address alone"),
        ({"endpoint": f"http://me:{KEY}@host/v1"}, "endpoint looks like a key"),
        ({"key_env": KEY}, "key_env looks like a key"),
        ({"api": "chat", "prompt": "ids"}, "prompt: a chat endpoint reads no token ids"),
        ({"continue_with": {}}, "continue_with has no effect"),
        ({"parameters": {"top_logprobs": 3}}, "parameters must not hold 'top_logprobs'"),
        ({"parameters": {"echo": True}}, "parameters must not hold 'echo'"),
        ({"max_requests": 0}, "max_requests: found 0"),
        ({"model": None}, "model: found null"),
    ],
)
def test_a_base_is_of_one_kind(endpoint_run, changes, told):
    with pytest.raises(RecipeError) as error:
        load_recipe(endpoint_run("http://localhost:1/v1", **changes))
    assert told in str(error.value) and KEY not in str(error.value)


def test_keys_of_the_other_kind_of_run_are_refused(endpoint_run, save_model):
    path = endpoint_run("http://localhost:1/v1")
    large = save_model("large", 0)
    for override, told in {
        f"decode.bases=[{{model: {large}, top_logprobs: 5}}]": "is of a base behind an endpoint",
        f"decode.bases=[{{model: {large}, max_requests: 5}}]": "is of a base behind an endpoint",
        "decode.num_draft_tokens=4": "are asked token by token",
    }.items():
        with pytest.raises(RecipeError, match=told):
            load_recipe(path, [override])
    trains = ["expert.trained=null", "sft={learning_rate: 1e-3}"]
    for override, told in {
        "proxy_check={every_steps: 5}": "checks steer the first of decode.bases",
        "expert.proxy_aware={alpha: 1.0}": "missing: the first of decode.bases",
    }.items():
        with pytest.raises(RecipeError, match=told):
            load_recipe(path, [*trains, override])
    assert load_recipe(path, ["decode.num_draft_tokens=0"]).decode.bases[0].slug == "big"
