"""The server: its answers are those of the models asked alone, and what cannot be right is told."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import httpx
import pytest
import torch
from soak_serve import SECRET, Soak
from support.chat_templates import GPT_OSS, QWEN3
from support.models import byte_tokenizer, save_tiny, tiny_model
from support.tiny_run import ROOT
from test_engine import IDS, complete, requests
from test_pair import adapter, sources  # noqa: F401 (a fixture)
from test_recurrent import stateful
from test_thinking import THOUGHT, scripted

pytest.importorskip("fastapi", reason="needs pip install -e '.[serve]'")
import uvicorn

from decode import (
    Alpha,
    Chat,
    Continuation,
    LocalCompleter,
    Request,
    RolePrompt,
    Rule,
    Scored,
    Thinking,
)
from decode import serve as entry
from decode.engine.engine import Engine
from decode.engine.sampling import Sampling, row_key
from decode.evaluation.lineup import Contender, Lineup
from decode.models.chat import PromptForm
from decode.models.loaded import ExpertSource
from decode.models.model_source import ModelSource
from decode.models.pair import load_pair
from decode.models.recurrent import as_language_model
from decode.serving import app as serving_app
from decode.serving import loop as serving_loop
from decode.serving import server as serving_server
from decode.serving.app import create_app
from decode.serving.gate import Access
from decode.serving.given import read_given
from decode.serving.job import STOPPED
from decode.serving.loop import Loop, Ticket
from decode.serving.message import Message
from decode.serving.prompts import PromptReader
from decode.serving.protocol import BadRequest, ChatBody, read_body
from decode.serving.served_engine import Stopped
from decode.serving.systems import Served, load_served
from decode.serving.text import GrowingText
from recipes.schema.recipe import load_recipe, save_recipe

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}<assistant>"
NAMES = ("proxy", "base", "expert", "tuned")
PROMPTS = ["Q: 1+1=", "hello", "a longer prompt, to be ragged", "é and 漢"]


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    names = ("base", "expert", "antiexpert", "tuned")
    models = [ModelSource(save_tiny(folder / n, seed)) for seed, n in enumerate(names)]
    base, expert, antiexpert, tuned = models
    lineup = Lineup(
        (ExpertSource(expert, antiexpert),),
        (Contender("b", base, tuned),),
        (Alpha(1.0),),
        device="cpu",
    )
    return load_served(lineup, lineup.contenders[0], NAMES, num_scored=3)


@contextmanager
def running(systems, access=None, batch_size=4, max_waiting=64, max_length=400):
    """A server on a free port: its address and its loop."""
    loop = Loop(systems, batch_size, max_waiting)
    app = create_app(systems, loop, access or Access("127.0.0.1"), max_length)
    listener = serving_server.listen("127.0.0.1", 0)
    config = uvicorn.Config(app, lifespan="on", log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", loop
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive() and not loop.is_alive


@pytest.fixture(scope="module")
def server(systems):
    with running(systems) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        yield client


def by_name(systems, name):
    return next(one for one in systems if one.name == name)


def alone(systems, name, request) -> tuple[str, str]:
    """Text and finish reason of a request to a system, by itself."""
    served = by_name(systems, name)
    completer = LocalCompleter(served.model.with_own_cache(), served.tokenizers, 1, 0)
    (done,) = completer.complete([request])
    return done.text, {"eos": "stop"}.get(done.finish_reason, done.finish_reason)


def streamed(client, path, body):
    """The events of a stream."""
    with client.stream("POST", path, json={**body, "stream": True}) as response:
        lines = [line for line in response.iter_lines() if line]
    assert response.status_code == 200 and lines[-1] == "data: [DONE]", lines
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def joined(events) -> dict[int, tuple[str, str | None]]:
    """Text and finish reason of each choice."""
    found: dict[int, tuple[str, str | None]] = {}
    for choice in (choice for event in events for choice in event["choices"]):
        piece = choice.get("text") or choice.get("delta", {}).get("content") or ""
        text, reason = found.get(choice["index"], ("", None))
        assert reason is None, "nothing comes after the end"
        found[choice["index"]] = text + piece, choice["finish_reason"]
    return found


def answered(client, body, path="/v1/completions"):
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def mixed(number):
    """A request as a client sends it, as the models take it, and the system it is to."""
    name, prompt = NAMES[number % 4], PROMPTS[number // 4 % 4]
    sampling = [Sampling(), Sampling(1.1, 20, 0.9, number, 0.02, 1.3)][number // 2 % 2]
    alpha = (0.0, 0.5, 1.0, 1.5)[number // 4 % 4] if name == "proxy" else None
    limit, stop = 6 + number, [(), ("e", "漢z")][number // 3 % 2]
    body = {
        "model": name,
        "prompt": prompt,
        "max_tokens": limit,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "stop": list(stop),
    }
    body |= {"top_k": sampling.top_k} if sampling.top_k else {}
    rule = [{}, {"plausible_to": "expert", "plausible_share": 0.3}, {"by_doubt": True}][number % 3]
    body |= {} if alpha is None else {"alpha": alpha, "rule": rule}
    own = None if alpha is None else Alpha(alpha, Rule(**rule))
    return name, body, Request(0, prompt, limit, stop, sampling, own)


@pytest.mark.long
def test_sixteen_mixed_clients_get_the_answers_of_models_alone(systems, server):
    asked = [mixed(number) for number in range(16)]
    expected = [alone(systems, name, request) for name, _, request in asked]

    def ask(number):
        _, body, _ = asked[number]
        if number % 3 == 0:
            return joined(streamed(server, "/v1/completions", body))[0]
        (choice,) = answered(server, body)["choices"]
        return choice["text"], choice["finish_reason"]

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == expected
    assert len({text for text, _ in expected}) > 12


def test_choices_are_the_rows_of_one_call(systems, server):
    body = {"model": "proxy", "prompt": PROMPTS[:2], "n": 3, "seed": 7, "max_tokens": 12}
    found = answered(server, body)
    served = by_name(systems, "proxy")
    each = [prompt for prompt in PROMPTS[:2] for _ in range(3)]
    asked = [Request(i, p, 12, sampling=Sampling(1.0, seed=7)) for i, p in enumerate(each)]
    completer = LocalCompleter(served.model.with_own_cache(), served.tokenizers)
    texts = {done.name: done.text for done in completer.complete(asked)}
    assert {choice["index"]: choice["text"] for choice in found["choices"]} == texts
    assert len(set(texts.values())) >= 4
    assert {
        n: text for n, (text, _) in joined(streamed(server, "/v1/completions", body)).items()
    } == texts
    numbers = found["usage"]
    assert numbers["prompt_tokens"] == sum(len(prompt.encode()) for prompt in PROMPTS[:2])
    del body["seed"]
    assert answered(server, body)["choices"] != answered(server, body)["choices"]


@pytest.mark.parametrize("stop", [(), ("\n",), ("ab", "é!", "  "), ("e",)])
def test_pieces_add_up_and_nothing_of_a_stop_is_given(stop):
    tokenizer = byte_tokenizer()
    generator = torch.Generator().manual_seed(len(stop))
    text = "a é 漢字 ab é! \U0001f600  e\n" * 12
    for cut in range(0, 40, 3):
        ids = tokenizer(text[cut:])["input_ids"]
        whole = tokenizer.decode(ids)
        end = min((whole.find(s) for s in stop if s in whole), default=len(whole))
        growing, given, place = GrowingText(tokenizer, [97, 32], stop), "", 0
        while place < len(ids):
            size = int(torch.randint(1, 5, (), generator=generator))
            given += growing.more(ids[place : place + size])
            assert whole[:end].startswith(given)
            place += size
        assert len(given) >= end - max(3, *map(len, stop), 0) or whole[len(given) :].isspace()
        assert given + growing.end(whole[:end]) == whole[:end]


def test_a_text_that_changed_is_told():
    growing = GrowingText(byte_tokenizer(), [97], ())
    growing.more(byte_tokenizer()("abc def")["input_ids"])
    with pytest.raises(ValueError, match="changed"):
        growing.end("xyz")


def test_chats_are_read_in_each_roles_template(systems):
    proxy = by_name(systems, "proxy")
    proxy.tokenizers.expert.chat_template = TEMPLATE
    try:
        with running([proxy]) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
            turns = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
            body = {"model": "proxy", "messages": turns, "max_completion_tokens": 9}
            body |= {"temperature": 0}
            found = answered(client, body, "/v1/chat/completions")["choices"][0]
            prompt = RolePrompt("hello", Chat("hello"), "hello")
            text, reason = alone(systems, "proxy", Request(0, prompt, 9))
            assert found["message"] == {"role": "assistant", "content": text}
            assert found["finish_reason"] == reason
            events = streamed(client, "/v1/chat/completions", body)
            assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
            assert joined(events)[0] == (text, reason)
            more = [{"role": "developer", "content": "be"}, *turns]
            response = client.post("/v1/chat/completions", json={**body, "messages": more})
            assert response.status_code == 400 and "template" in response.json()["error"]["message"]
            body["model"], body["messages"] = "proxy", [{"role": "user", "content": "é" * 150}]
            del body["max_completion_tokens"]  # as many as fit
            assert answered(client, body, "/v1/chat/completions")["choices"]
    finally:
        proxy.tokenizers.expert.chat_template = None


def test_chats_go_on_and_bring_arguments_of_their_template(systems):
    served = by_name(systems, "base")
    own = served.tokenizers.base
    served = replace(served, prompt=PromptForm(True, arguments={"enable_thinking": False}).of)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2?"}]
    begun = {"role": "assistant", "content": "It is"}

    def read(*more, **fields):
        body = {"model": "base", "messages": [*turns, *more], **fields}
        return reader.chat(read_body(ChatBody, json.dumps(body).encode())).base

    own.chat_template = QWEN3
    try:
        reader = PromptReader(served, 400)

        def theirs(messages, **options):
            return own.apply_chat_template(messages, return_dict=False, **options)

        asked = theirs(turns, add_generation_prompt=True, enable_thinking=False)  # the recipe's
        assert read() == read(add_generation_prompt=True) == asked
        thinks = {"chat_template_kwargs": {"enable_thinking": True}}
        assert read(**thinks) == theirs(turns, add_generation_prompt=True)
        going_on = theirs([*turns, begun], continue_final_message=True)
        assert read(begun, continue_final_message=True) == going_on
        assert read(begun, continue_final_message=True, add_generation_prompt=False) == going_on
        own.chat_template = GPT_OSS
        reader = PromptReader(replace(served, prompt=PromptForm(True).of), 400)
        low = read(reasoning_effort="low")
        assert low == read(chat_template_kwargs={"reasoning_effort": "low"}) != read()
        for kwargs in ({"tokenize": False}, {"thinking": False}):
            with pytest.raises(BadRequest, match="chat_template_kwargs: no chat template of"):
                read(chat_template_kwargs=kwargs)
    finally:
        own.chat_template = None


def thinks(story, **options) -> Served:
    """A base that says `story` in answer to a chat."""
    completer = scripted(story, **options)
    own = completer.tokenizers
    size, prompt = len(own.base), PromptForm(True).of
    return Served("base", completer.model, own, prompt, None, completer, None, size)


STORIES = {  # what the base says, the request's fields, and what clients get
    "its_end": (THOUGHT + "It is 4.<|im_end|>", {}, ("Two and\n\ntwo.", "It is 4.", "stop")),
    "stops_are_the_answers": (
        THOUGHT + "It\nis 4.<|im_end|>",
        {"stop": ["\n", "and"]},
        ("Two and\n\ntwo.", "It", "stop"),
    ),
    "own_budget": (
        THOUGHT + "It is 4.<|im_end|>",
        {"thinking_token_budget": 6},
        ("Two a", "#Cut.", "stop"),
    ),
    "no_room": (THOUGHT + "It is 4.<|im_end|>", {"max_tokens": 9}, ("Two and", "", "length")),
    "never": ("<think>\nTwo<|im_end|>", {}, ("Two", "", "stop")),
    "cut": (THOUGHT + "It is<|im_end|>", {"max_tokens": 21}, ("Two and\n\ntwo.", "It", "length")),
    "no_thinking": ("It is 4.<|im_end|>", {}, (None, "It is 4.", "stop")),
    "told_not_to": (
        "<think>\n\n</think>\n\nIt is 4.<|im_end|>",
        {"chat_template_kwargs": {"enable_thinking": False}},
        (None, "It is 4.", "stop"),
    ),
    "goes_on": (
        THOUGHT + "It is 4.<|im_end|>",
        {"continue_final_message": True},
        ("and\n\ntwo.", "It is 4.", "stop"),
    ),
}


@pytest.fixture(scope="module")
def thinking_server():
    served = [replace(thinks(story), name=name) for name, (story, _, _) in STORIES.items()]
    with running(served) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        yield client


@pytest.mark.parametrize("name", STORIES)
def test_thinking_is_kept_apart(name, thinking_server):
    _, fields, expected = STORIES[name]
    turns = [{"role": "user", "content": "2+2?"}]
    turns += [{"role": "assistant", "content": "<think>\nTwo"}] if name == "goes_on" else []
    body = {"model": name, "messages": turns, "temperature": 0, "max_tokens": 60, **fields}
    path = "/v1/chat/completions"
    found = answered(thinking_server, {**body, "n": 2}, path)
    events = streamed(thinking_server, path, {**body, "stream_options": {"include_usage": True}})
    for choice in found["choices"]:
        message = choice["message"]
        whole = message.get("reasoning_content"), message["content"], choice["finish_reason"]
        assert whole == expected
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    said = [[d[key] for d in deltas if d.get(key)] for key in ("reasoning_content", "content")]
    assert ("".join(said[0]) or None, *joined(events)[0]) == (expected[0], *expected[1:])
    assert "</think>" not in str(said)
    assert len(said[0]) > 2 or expected[0] in (None, "Two", "Two a")
    usage = found["usage"]
    thinking = usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0)
    assert bool(thinking) == (expected[0] is not None) and thinking < usage["completion_tokens"] + 1
    last = events[-1]["usage"]
    assert 2 * last["completion_tokens"] == usage["completion_tokens"]


def test_a_runs_budget_and_marks_hold_for_chats():
    story = "Plan: two.\nAnswer: It is 4.<|im_end|>"
    own = Thinking("Plan:", "\nAnswer:", 14)
    body = {"model": "base", "messages": [{"role": "user", "content": "2+2?"}], "temperature": 0}
    served = thinks(story)
    reader = PromptReader(served, 400, own)

    def asked(**fields):
        given = read_given(served, reader, read_body(ChatBody, json.dumps(body | fields).encode()))
        completer = LocalCompleter(served.model, served.tokenizers, 1)
        row = given.thinker.begin(given.requests()[0])
        while (done := given.thinker.told(row, *completer.complete([row.asks]))) is None:
            pass
        return done.thinking, done.text, given.num_tokens

    assert asked(max_tokens=20) == ("two.", " It is 4.", 20)
    assert asked(max_tokens=20, thinking_token_budget=3) == ("tw", "#Cut.", 20)
    assert asked()[2] < 400 - len("2+2?") - 14  # room is left for the thinking
    with pytest.raises(BadRequest, match=r"max_tokens 390 and \d+ of thinking it is longer"):
        asked(max_tokens=390)


class Scorer:
    """Scores every token with the number of its place."""

    def __init__(self, model):
        self.model = model

    def score(self, continuations):
        for given in continuations:
            size = len(given.token_ids)
            yield Scored(
                given.name,
                tuple(map(float, range(size))),
                (True,) * size,
                likeliest=((),) * size,
            )


def test_scores_are_of_thinking_and_answer():
    story, path = THOUGHT + "It is 4.<|im_end|>", "/v1/chat/completions"
    served = thinks(story)
    served = replace(served, scorer=Scorer(served.model))
    body = {"model": "base", "messages": [{"role": "user", "content": "2+2?"}], "temperature": 0}
    body |= {"max_tokens": 60, "logprobs": True}
    with running([served]) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        (choice,) = answered(client, body, path)["choices"]
        events = streamed(client, path, body)
    assert "".join(one["token"] for one in choice["logprobs"]["content"]) == story
    assert choice["message"]["content"] == "It is 4."
    assert events[-1]["choices"][0]["logprobs"] == choice["logprobs"]


def test_a_budget_wants_marks_and_earlier_thinking_goes_to_the_template(systems, server):
    turns = [{"role": "user", "content": "2?"}]
    body = {"model": "base", "messages": turns, "thinking_token_budget": 4}
    response = server.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "shows how it marks thinking" in response.json()["error"]["message"]
    served = thinks("It is 4.<|im_end|>")
    template = "{% for m in messages %}{{ m.reasoning_content }}|{{ m.content }}|{% endfor %}"
    served.tokenizers.base.chat_template = template
    turns = [{"role": "assistant", "content": "4", "reasoning_content": "Two and two."}, *turns]
    read = read_body(ChatBody, json.dumps({"model": "base", "messages": turns}).encode())
    ids = PromptReader(served, 400).chat(read).base
    assert served.tokenizers.base.decode(ids) == "Two and two.|4||2?|"


@pytest.mark.parametrize("name", ["proxy", "base"])
@pytest.mark.parametrize("echoes", [False, True])
def test_logprobs_are_the_completers_scores(systems, server, name, echoes):
    body = {"model": name, "prompt": "Q: é", "max_tokens": 8, "temperature": 0}
    body |= {"logprobs": 3, "echo": echoes}
    (choice,) = answered(server, body)["choices"]
    served = by_name(systems, name)
    ids = byte_tokenizer()("Q: é")["input_ids"]
    completer = LocalCompleter(served.model.with_own_cache(), served.tokenizers, 1)
    (done,) = completer.complete([Request(0, ids, 8)])
    given = [*ids[1:], *done.token_ids] if echoes else done.token_ids
    (scored,) = completer.score([Continuation(0, ids[:1] if echoes else ids, given)])
    found, skipped = choice["logprobs"], int(echoes)
    assert found["token_logprobs"][skipped:] == pytest.approx(scored.logprobs, abs=1e-4)
    tops = found["top_logprobs"][skipped:]
    likeliest = [max(top, key=top.get) for top in tops]
    is_greedy = [a == b for a, b in zip(found["tokens"][skipped:], likeliest, strict=True)]
    assert is_greedy == list(scored.is_greedy) and all(3 <= len(top) <= 4 for top in tops)
    assert choice["text"] == ("Q: é" if echoes else "") + done.text
    if echoes:
        assert found["token_logprobs"][0] is None and found["text_offset"][:3] == [0, 1, 2]
        del body["max_tokens"]
        alone = answered(server, {**body, "prompt": ids, "max_tokens": 0})["choices"][0]
        assert alone["text"] == "Q: é"
        assert alone["logprobs"]["token_logprobs"] == pytest.approx(
            found["token_logprobs"][: len(ids)], abs=1e-4
        )


@pytest.mark.parametrize("is_chat", [False, True])
def test_logprobs_by_role_are_those_of_each_model(systems, server, is_chat):
    body = {"model": "proxy", "max_tokens": 6, "temperature": 0, "alpha": 0.7, "by_role": True}
    body |= (
        {"messages": [{"role": "user", "content": "Q: é"}], "logprobs": True, "top_logprobs": 3}
        if is_chat
        else {"prompt": "Q: é", "logprobs": 3}
    )
    path = "/v1/chat/completions" if is_chat else "/v1/completions"
    (choice,) = answered(server, body, path)["choices"]
    served = by_name(systems, "proxy")
    ids = byte_tokenizer()("Q: é")["input_ids"]
    completer = LocalCompleter(served.model.with_own_cache(), served.tokenizers, 1)
    (done,) = completer.complete([Request(0, ids, 6, alpha=Alpha(0.7))])
    given = Continuation(0, ids, done.token_ids, Alpha(0.7), num_likeliest=3)
    (scored,) = completer.score([given])
    found = choice["logprobs"]
    assert set(found["by_role"]) == {"base", "expert", "antiexpert"}
    for said, expected, likeliest in (
        (found, scored.logprobs, scored.likeliest),
        *(
            (found["by_role"][role], scored.by_role[role], scored.likeliest_by_role[role])
            for role in scored.by_role
        ),
    ):
        if is_chat:
            logprobs = [entry["logprob"] for entry in said["content"]]
            first = [one["logprob"] for one in said["content"][0]["top_logprobs"]]
        else:
            logprobs = said["token_logprobs"]
            first = sorted(said["top_logprobs"][0].values(), reverse=True)[:3]
        assert logprobs == pytest.approx(expected, abs=1e-4)
        assert first == pytest.approx([value for _, value in likeliest[0]], abs=1e-4)
    assert scored.by_role["base"] == pytest.approx(
        next(completer.score([Continuation(0, ids, done.token_ids, Alpha(0.0))])).logprobs, abs=1e-4
    )


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": "Q: é", "logprobs": 2, "by_role": True, "n": 2},
        {"prompt": "Q: é", "logprobs": 0, "echo": True},
        {"prompt": "Q: é", "logprobs": 0, "echo": True, "max_tokens": 0},
        {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 1},
    ],
    ids=["text", "echo", "prompt", "chat"],
)
def test_a_stream_ends_with_the_logprobs(server, more):
    body = {"model": "proxy", "max_tokens": 6, "seed": 3, **more}
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    expected = {one["index"]: one for one in answered(server, body, path)["choices"]}
    events = streamed(server, path, body)
    last = {}
    for choice in (choice for event in events for choice in event["choices"]):
        assert choice["index"] not in last
        if choice["logprobs"] is None:
            assert choice["finish_reason"] is None
        else:
            last[choice["index"]] = choice
    texts = joined(events)
    assert set(last) == set(expected)
    for number, whole in expected.items():
        text = whole["message"]["content"] if "messages" in body else whole["text"]
        assert texts[number] == (text, whole["finish_reason"])
        told, known = (json.dumps(one["logprobs"]) for one in (last[number], whole))
        assert numbers(told) == pytest.approx(numbers(known), abs=1e-4)
        assert NUMBER.sub("", told) == NUMBER.sub("", known)


def test_a_stream_that_is_stopped_before_its_scores_says_so(systems, monkeypatch):
    def stopped(self, name, continuations, tell, is_taken_in=False):
        raise Stopped

    monkeypatch.setattr(Loop, "score", stopped)
    body = {**PROMPT, "logprobs": 1, "max_tokens": 3, "stream": True}
    with running(systems) as (address, loop):
        lines = httpx.post(f"{address}/v1/completions", json=body).text.split()
        assert not loop.num_rows("proxy")
    last = json.loads(" ".join(lines).rpartition("data: ")[2])
    assert last["error"]["message"] == STOPPED


NUMBER = re.compile(r"-?\d+\.\d+(e-?\d+)?")


def numbers(text):
    return [float(found[0]) for found in NUMBER.finditer(text)]


PROMPT = {"model": "proxy", "prompt": "x"}
CHAT = {"model": "base", "messages": [{"role": "user", "content": "x"}]}
REFUSED = [
    ({}, "model"),
    ({"model": "base"}, "prompt"),
    ({**PROMPT, "prompt": ""}, "prompt"),
    ({**PROMPT, "prompt": []}, "prompt"),
    ({**PROMPT, "prompt": [1, "a"]}, "prompt"),
    ({**PROMPT, "prompt": [10**9]}, "prompt"),
    ({**PROMPT, "prompt": [[1], [258]]}, "prompt"),
    ({**PROMPT, "prompt": "x" * 401}, None),
    ({**PROMPT, "prompt": "x" * 1_000_000}, None),
    ({**PROMPT, "prompt": ["x"] * 100, "n": 2}, "prompt"),
    ({**PROMPT, "max_tokens": 0}, "max_tokens"),
    ({**PROMPT, "max_tokens": -1}, "max_tokens"),
    ({**PROMPT, "max_tokens": 400}, None),
    ({**PROMPT, "max_tokens": 10**30}, None),
    ({**PROMPT, "n": 0}, "n"),
    ({**PROMPT, "n": 100}, "n"),
    ({**PROMPT, "n": 10**9}, "n"),
    ({**PROMPT, "temperature": -1}, "temperature"),
    ({**PROMPT, "temperature": 1e-300}, "temperature"),
    ({**PROMPT, "temperature": "hot"}, "temperature"),
    ({**PROMPT, "top_p": 0}, "top_p"),
    ({**PROMPT, "top_k": -2}, "top_k"),
    ({**PROMPT, "ignore_eos": True}, "ignore_eos"),
    ({**PROMPT, "min_p": 2}, "min_p"),
    ({**PROMPT, "repetition_penalty": 0}, "repetition_penalty"),
    ({**PROMPT, "presence_penalty": 0.1}, "presence_penalty"),
    ({**PROMPT, "frequency_penalty": -1}, "frequency_penalty"),
    ({**PROMPT, "logit_bias": {"1": 5}}, "logit_bias"),
    ({**PROMPT, "seed": 1 << 70}, "seed"),
    ({**PROMPT, "stop": ""}, "stop"),
    ({**PROMPT, "stop": ["a"] * 17}, "stop"),
    ({**PROMPT, "best_of": 2}, "best_of"),
    ({**PROMPT, "suffix": "b"}, "suffix"),
    ({**PROMPT, "by_role": True}, "by_role"),
    ({**PROMPT, "model": "base", "by_role": True, "logprobs": 1}, "by_role"),
    ({**PROMPT, "logprobs": 21}, "logprobs"),
    ({**PROMPT, "stream_options": {}}, "stream_options"),
    ({**PROMPT, "alpha": 1e9}, "alpha"),
    ({**PROMPT, "alpha": True}, "alpha"),
    ({**PROMPT, "model": "base", "alpha": 1}, "alpha"),
    ({**PROMPT, "model": "base", "rule": {}}, "rule"),
    ({**PROMPT, "rule": "expert"}, "rule"),
    ({**PROMPT, "rule": {"plausible_to": "base"}}, "rule"),
    ({**PROMPT, "rule": {"plausible_share": 0}}, "rule"),
    ({**PROMPT, "rule": {"share": 0.1}}, "rule"),
    ({**PROMPT, "temprature": 1}, "temprature"),
    ({**CHAT, "messages": []}, "messages"),
    ({**CHAT, "messages": [{"role": "tool", "content": "x"}]}, "messages"),
    ({**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    ({**CHAT, "messages": [*CHAT["messages"]] * 3}, "messages"),
    ({**CHAT, "tools": [{}]}, "tools"),
    ({**CHAT, "continue_final_message": True}, "continue_final_message"),
    ({**CHAT, "add_generation_prompt": False}, "add_generation_prompt"),
    ({**CHAT, "chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
    ({**CHAT, "chat_template_kwargs": [1]}, "chat_template_kwargs"),
    ({**CHAT, "response_format": {"type": "json_object"}}, "response_format"),
    ({**CHAT, "top_logprobs": 2}, "top_logprobs"),
    ({**CHAT, "max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
    ({**CHAT, "reasoning_effort": "high"}, "reasoning_effort"),
    ({**CHAT, "functions": [{}]}, "functions"),
    ({**CHAT, "messages": [{**CHAT["messages"][0], "tool_calls": [{}]}]}, "messages"),
    ({**CHAT, "messages": [{"role": "user", "content": None}]}, "messages"),
]


@pytest.mark.parametrize(("body", "param"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_right_is_refused_by_name(server, body, param):
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    response = server.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["param"] == param and error["type"] == "invalid_request_error"
    assert "\n" not in error["message"] and len(error["message"]) < 300
    assert param is None or param in error["message"]


ANSWERED = {"role": "assistant", "content": "hm", "refusal": None, "audio": None}
ANSWERED |= {"annotations": [], "tool_calls": [], "function_call": None, "reasoning": "2"}
TAKEN = [  # as lm-eval, OpenAI's clients, LangChain and vLLM's clients write them
    {"messages": [{"role": "user", "content": "x", "type": "text", "name": "ann"}], "stop": ["\n"]},
    {"messages": [*CHAT["messages"], ANSWERED, *CHAT["messages"]], "top_logprobs": 0},
    {"max_tokens": 4, "max_completion_tokens": 4, "verbosity": None, "prediction": None},
    {"functions": [], "function_call": "none", "tools": [], "tool_choice": "auto"},
    {"prompt_cache_retention": "24h", "prompt_cache_key": "k", "request_id": "r", "priority": 0},
    {"top_k": -1, "use_beam_search": False, "skip_special_tokens": True, "ignore_eos": False},
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}
        ]
    },
]


@pytest.mark.parametrize("fields", TAKEN, ids=range(len(TAKEN)))
def test_fields_of_real_clients_are_taken(fields):
    body = read_body(ChatBody, json.dumps({**CHAT, **fields}).encode())
    assert body.messages[0].turn()["content"] == "x"
    assert body.sampling().top_k is None and body.limit == fields.get("max_tokens")


def test_what_a_message_says_beside_its_text_goes_to_the_template():
    body = {**CHAT, "messages": [ANSWERED, {**CHAT["messages"][0], "name": "ann"}]}
    answered, asked = map(Message.turn, read_body(ChatBody, json.dumps(body).encode()).messages)
    assert answered == {"role": "assistant", "content": "hm", "reasoning_content": "2"}
    assert asked == {"role": "user", "content": "x", "name": "ann"}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b'{"model": "base", "prompt": "\\ud800"}', 400),
        (b'{"model": "base", "prompt": "x", "temperature": NaN}', 400),
        (b'{"model": "base", "prompt": "x", "model": 3}', 400),
        (b'{"model": "gpt-4", "prompt": "x"}', 404),
        (b" " * (serving_app.MOST_BODY_BYTES + 1), 413),
    ],
    ids=range(10),
)
def test_bodies_that_are_no_request(server, data, status):
    response = server.post("/v1/completions", content=data)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert server.get("/v1/models/base").json()["id"] == "base"


def test_other_paths_and_methods_have_openais_error(server):
    for response, status in (
        (server.get("/v1/nothing"), 404),
        (server.get("/v1/completions"), 405),
        (server.get("/v1/models/gpt-4"), 404),
        (server.get("/docs"), 404),
    ):
        assert response.status_code == status and response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "10.0.0.1"}, 403),
        ({"Host": "127.0.0.1@evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_foreign_hosts_and_origins_are_refused(server, headers, status):
    assert server.get("/v1/models", headers=headers).status_code == status


def test_what_was_told_may_ask():
    access = Access("0.0.0.0", None, ["box.lan"], [])
    names = ("box.lan", "BOX.lan", "10.0.0.7", "[fe80::1]", "localhost", "evil.example")
    assert [access.knows_host(name) for name in names] == [True] * 5 + [False]
    assert not Access("10.0.0.7").knows_host("10.0.0.8")


def test_a_key_and_an_origin_that_were_told(systems):
    access = Access("127.0.0.1", "s3cret-é", (), ["https://page.example"])
    with running(systems, access) as (address, _), httpx.Client(base_url=address) as client:
        origin = {"Origin": "https://page.example"}
        for key, status in ((None, 401), ("wrong", 401), ("s3cret-é", 200)):
            headers = {} if key is None else {"Authorization": f"Bearer {key}".encode()}
            found = client.get("/v1/models", headers=headers)
            assert found.status_code == status
        assert found.json()["data"][0]["alpha"] == 1.0
        assert client.get("/health").text == "ok"
        own = {"Access-Control-Request-Method": "GET"}
        own |= {"Access-Control-Request-Headers": "authorization,x-stainless-os"}  # OpenAI's client
        asked = client.options("/v1/models", headers={**origin, **own})
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == "https://page.example"


def slow(monkeypatch, seconds):
    """Steps of every engine take so long."""
    step = Engine.step

    def stepped(self):
        time.sleep(seconds)
        return step(self)

    monkeypatch.setattr(Engine, "step", stepped)


def until(is_so, seconds=10.0):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_client_that_goes_away_frees_its_slots(systems, monkeypatch):
    slow(monkeypatch, 0.03)
    with (
        running(systems, batch_size=1) as (address, loop),
        httpx.Client(base_url=address) as client,
    ):
        body = {**PROMPT, "max_tokens": 390, "n": 3, "temperature": 0, "alpha": 0.3}
        with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
            assert next(response.iter_lines()).startswith("data: ")
            assert loop.num_rows("proxy") == 3
        until(lambda: loop.num_rows("proxy") == 0)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/completions", json=body, timeout=0.2)
        until(lambda: loop.num_rows("proxy") == 0 and loop.engines["proxy"].is_idle)
        assert answered(client, {**PROMPT, "max_tokens": 2})["choices"]
        metrics = client.get("/metrics").text
        assert 'proxytune_requests_total{model="proxy",code="499"} 1\n' in metrics
        assert 'proxytune_rows{model="proxy"} 0\n' in metrics


def test_a_full_queue_answers_429(systems):
    """The loop does not run yet, so that what is asked waits."""

    async def ask():
        loop = Loop(systems, batch_size=1, max_waiting=2)
        app = create_app(systems, loop, Access("127.0.0.1"), 400)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            post = lambda body: client.post("/v1/completions", json=body)  # noqa: E731
            first = [asyncio.create_task(post({**PROMPT, "max_tokens": 3})) for _ in range(3)]
            while loop.num_rows("proxy") < 3:
                await asyncio.sleep(0.01)
            full = await post(PROMPT)
            assert full.status_code == 429 and full.headers["retry-after"]
            assert full.json()["error"]["type"] == "overloaded_error"
            other = asyncio.create_task(post({**PROMPT, "model": "base", "max_tokens": 2}))
            loop.start()
            codes = [(await task).status_code for task in (*first, other)]
            assert codes == [200] * 4
            assert (await post(PROMPT)).status_code == 200
            loop.close()
            assert (await client.get("/health")).status_code == 503

    asyncio.run(ask())


def test_what_a_step_gave_is_handed_over_at_once(systems, monkeypatch):
    handed, hand_over = [], serving_loop._tell
    monkeypatch.setattr(serving_loop, "_tell", lambda told: (handed.append(told), hand_over(told)))

    async def ask():
        loop, told, thread = Loop(systems, 4, 8, 0), [], threading.get_ident()
        tell = lambda what: told.append((what, threading.get_ident() == thread))  # noqa: E731
        prompts = [RolePrompt.same([97, 98, number]) for number in range(4)]
        rows = [Request(Ticket(number), prompt, 6) for number, prompt in enumerate(prompts)]
        loop.complete("base", rows, tell)
        loop.start()
        while sum(what.completion is not None for what, _ in told) < 4:
            await asyncio.sleep(0.01)
        loop.close()
        return told

    told = asyncio.run(ask())
    assert all(is_here for _, is_here in told)
    assert len(handed[0]) == 4 and sum(map(len, handed)) == len(told)


def failing(monkeypatch, number, make):
    """The engine's step of this number, counted from 1, raises what `make` makes of its engine."""
    step, count = Engine.step, [0]

    def stepped(self):
        count[0] += 1
        progress = step(self)
        if count[0] == number:
            raise make(self)
        return progress

    monkeypatch.setattr(Engine, "step", stepped)


@pytest.mark.long
def test_out_of_memory_goes_on_with_fewer_rows(systems, monkeypatch):
    asked = [mixed(number) for number in range(0, 16, 4)]
    expected = [alone(systems, name, request) for name, _, request in asked]
    failing(monkeypatch, 4, lambda engine: torch.OutOfMemoryError("no room"))
    with running(systems) as (address, loop), httpx.Client(base_url=address) as client:
        with ThreadPoolExecutor(4) as pool:
            streams = [(client, "/v1/completions", body) for _, body, _ in asked]
            found = list(pool.map(lambda own: joined(streamed(*own))[0], streams))
        assert loop.engines["proxy"].batch_size == 2
    assert found == expected


def test_a_row_that_is_no_number_fails_alone_and_no_log_has_its_text(systems, monkeypatch, caplog):
    def first(engine):
        return FloatingPointError(next(engine._under_way()).request.name, ())

    failing(monkeypatch, 3, first)
    with running(systems) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        body = {
            "model": "proxy",
            "prompt": ["private", "words"],
            "temperature": 0,
            "max_tokens": 40,
        }
        failed = client.post("/v1/completions", json=body)
        assert failed.status_code == 500 and "NaN" in failed.json()["error"]["message"]
        assert answered(client, body)["choices"]
    assert "private" not in caplog.text


@pytest.mark.parametrize("streams", [False, True])
def test_a_step_that_fails_is_told_and_the_server_goes_on(systems, monkeypatch, caplog, streams):
    failing(monkeypatch, 2, lambda engine: RuntimeError("about private words"))
    with running(systems) as (address, loop), httpx.Client(base_url=address, timeout=30) as client:
        body = {**PROMPT, "temperature": 0, "max_tokens": 9, "stream": streams}
        failed = client.post("/v1/completions", json=body)
        last = failed.text.strip().splitlines()[-1].removeprefix("data: ")
        assert json.loads(last)["error"]["type"] == "server_error"
        assert answered(client, {**body, "stream": False})["choices"]
        assert loop.num_rows("proxy") == 0
    assert "RuntimeError" in caplog.text and "private" not in caplog.text + failed.text


@pytest.mark.long  # to import it takes seconds
def test_the_official_client(systems, server):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == list(NAMES)
    own = {"model": "proxy", "max_tokens": 12, "temperature": 0, "stop": ["e"]}
    done = client.completions.create(prompt="hello", extra_body={"alpha": 0.5}, **own)
    request = Request(0, "hello", 12, ("e",), alpha=Alpha(0.5))
    assert done.choices[0].text == alone(systems, "proxy", request)[0]
    chat = {**own, "messages": [{"role": "user", "content": "hello"}]}
    whole = client.chat.completions.create(logprobs=True, top_logprobs=2, **chat)
    usage = {"include_usage": True}
    events = list(client.chat.completions.create(stream=True, stream_options=usage, **chat))
    text = "".join(e.choices[0].delta.content or "" for e in events if e.choices)
    assert text == whole.choices[0].message.content
    assert events[-1].usage == whole.usage
    scores = whole.choices[0].logprobs.content
    assert len(scores) == whole.usage.completion_tokens and len(scores[0].top_logprobs) == 2
    assert scores[0].logprob == scores[0].top_logprobs[0].logprob
    with pytest.raises(openai.BadRequestError, match="presence_penalty"):
        client.completions.create(prompt="x", presence_penalty=1, **own)
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        client.completions.create(model="gpt-4", prompt="x")


def test_answers_under_way_end_when_the_server_stops(systems, monkeypatch, caplog):
    slow(monkeypatch, 0.05)
    loop = Loop(systems, 2, 8)
    app, ended = create_app(systems, loop, Access("127.0.0.1"), 400), []
    listener = serving_server.listen("127.0.0.1", 0)
    monkeypatch.setattr(serving_server, "GRACE_S", 0.2)
    config = uvicorn.Config(app, lifespan="on", log_level="warning", timeout_graceful_shutdown=9)
    server = serving_server._Server(config, lambda: None, loop.stop)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def ask(streams):
        body = {**PROMPT, "max_tokens": 390, "alpha": 0.3, "n": 2, "stream": streams}
        found = httpx.post(f"{address}/v1/completions", json=body, timeout=20)
        ended.append(found.text.strip().splitlines()[-1].removeprefix("data: "))

    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    until(lambda: server.started)
    asking = [threading.Thread(target=ask, args=(streams,)) for streams in (False, True)]
    for one in asking:
        one.start()
    until(lambda: loop.num_rows("proxy") == 4)
    server.should_exit = True
    for one in (*asking, thread):
        one.join(8)
    assert [json.loads(last)["error"]["message"] for last in ended] == [STOPPED] * 2
    assert not thread.is_alive() and not caplog.text


@pytest.mark.long
def test_hostile_clients_leave_nothing_behind(systems, caplog):
    with running(systems, max_waiting=500) as (address, loop):
        soak = Soak(int(address.rpartition(":")[2]), seed=1)
        asyncio.run(soak.ask_alone())
        asyncio.run(soak.run(range(50), 16))
        until(lambda: not any(map(loop.num_rows, NAMES)), 20)
        assert not soak.faults and len(soak.ends) >= 8
        soak.alone[:] = [None] * len(soak.alone)
        asyncio.run(soak.run(range(3), 1))
        assert soak.faults  # a fault is found
        assert answered(httpx, {**PROMPT, "max_tokens": 2}, f"{address}/v1/completions")
    assert SECRET not in caplog.text and "Traceback" not in caplog.text


@pytest.mark.parametrize("kind", ["llama", "bloom", "lora"])
def test_a_cache_of_its_own_keeps_rows_apart(kind, adapter):  # noqa: F811
    if kind == "lora":
        pair = load_pair(*sources(*adapter()), "cpu")
        model = pair.expert
        assert pair.with_own_cache().expert.model is pair.expert.model
    else:
        network = stateful("bloom", 0) if kind == "bloom" else None
        model = as_language_model(network or tiny_model(0), byte_tokenizer())
    expected = [done.token_ids for done in complete(model, requests(IDS, 12), 2)]
    model.clear()
    other = model.with_own_cache()
    engines = [Engine(one, byte_tokenizer(), 2, 0, frozenset({256})) for one in (model, other)]
    for request in requests(IDS, 12):
        for engine in engines:
            engine.add(request)
    found: list[dict] = [{}, {}]
    while not all(engine.is_idle for engine in engines):
        for engine, done in zip(engines, found, strict=True):
            done.update({p.name: p.completion for p in engine.step() if p.completion})
    for done in found:
        assert [done[number].token_ids for number in range(len(IDS))] == expected


def test_tickets_differ_and_fix_the_draws_by_their_value():
    one, other = Ticket(3), Ticket(3)
    assert one != other and len({one, other}) == 2 and one == one
    assert row_key(5, one) == row_key(5, 3)


def said(monkeypatch, capsys, *arguments) -> str:
    """How the entry ends, in one line."""
    monkeypatch.setattr("sys.argv", ["serve.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    code = ended.value.code
    line = code if isinstance(code, str) else capsys.readouterr().err.strip().splitlines()[-1]
    assert "\n" not in line
    return line


def test_what_the_entry_refuses(monkeypatch, capsys, tmp_path, save_model):
    base, small = save_model("base", 0), save_model("small", 1)
    models = ("--base", base, "--expert", small)
    whole = (*models, "--antiexpert", small)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = said(monkeypatch, capsys, *whole, "--port", port)
        assert f"127.0.0.1 port {port}" in line
    for arguments, expected in (
        ((), "name a run"),
        ((tmp_path / "none",), "no recipe.yaml"),
        ((tmp_path, "--expert", small), "leave out"),
        (models, "--antiexpert must be given"),
        ((*whole, "--api-key-env", "NO_SUCH_KEY"), "NO_SUCH_KEY"),
        ((*whole, "--models", "tuned"), "leave tuned out"),
        ((*whole, "--port", 99999), "port 99999"),
        ((*whole, "--batch-size", 0), "1 or more"),
        ((*whole, "--alpha", "nan"), "--alpha"),
        ((*whole, "--device", "cuda:9"), "cuda:9"),
        (("--base", tmp_path, "--expert", small, "--antiexpert", small), str(tmp_path)),
    ):
        assert expected in said(monkeypatch, capsys, *arguments), arguments
    for name in [name for name in sys.modules if name.startswith("decode.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "pip install -e '.[serve]'" in said(monkeypatch, capsys, *whole)


def test_a_server_that_anyone_may_ask_says_so_once(monkeypatch, capsys, caplog, tmp_path):
    monkeypatch.setenv("SERVE_KEY", "abc")
    key = ("--api-key-env", "SERVE_KEY")
    for arguments, count in (
        (("0.0.0.0",), 1),
        (("::",), 1),
        (("0.0.0.0", *key), 0),
        (("::1",), 0),
    ):
        caplog.clear()
        said(monkeypatch, capsys, tmp_path, "--host", *arguments)
        assert caplog.text.count("give --api-key-env") == count


def test_a_run_that_was_moved_serves_what_it_has(tmp_path, monkeypatch, capsys):
    save_recipe(load_recipe(ROOT / "recipes/mini/facts.yaml"), tmp_path / "recipe.yaml")
    assert "train it" in said(monkeypatch, capsys, tmp_path)
    (tmp_path / "expert").mkdir()
    lineup, thinking = entry._run(tmp_path)
    assert thinking == Thinking()
    assert lineup.expert.name == str(tmp_path / "expert")
    contender = entry._contender(lineup, None)
    assert contender.base.name == "data/mini/large" and contender.tuned is None
    (tmp_path / "references" / contender.slug).mkdir(parents=True)
    assert entry._contender(lineup, contender.slug).tuned is not None
    with pytest.raises(ValueError, match=f"no base 'b'; give one of {contender.slug}"):
        entry._contender(lineup, "b")


@pytest.fixture
def _ctrl_c():
    """Ctrl-C raises KeyboardInterrupt, as in a fresh process."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_when_it_answers_and_ends_with_a_signal(monkeypatch, capfd, save_model, number):
    with serving_server.listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    folders = [save_model(name, seed) for seed, name in enumerate(("base", "expert", "small"))]
    options = zip(("--base", "--expert", "--antiexpert"), folders, strict=True)
    words = [*(word for pair in options for word in pair), "--alpha", "0.5", "--port", str(port)]
    monkeypatch.setattr("sys.argv", ["serve.py", *words])
    found = []

    def ask():
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                found.append(answered(client, {**PROMPT, "max_tokens": 3}))
        finally:
            os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    serve = serving_server.serve

    def begun(app, listener, ready, stop):
        serve(app, listener, lambda address: (ready(address), asking.start()), stop)

    monkeypatch.setattr(serving_server, "serve", begun)
    with pytest.raises(KeyboardInterrupt) if number == signal.SIGINT else nullcontext():
        entry.main()
    asking.join()
    said = capfd.readouterr()
    address = f"http://127.0.0.1:{port}"
    line = f"serving proxy (alpha 0.5), base, expert at {address}/v1; try it at {address}\n"
    assert found and said.out == line and "Traceback" not in said.err
