"""Clients of a completions server: streams, whole answers, and three servers steered from outside.

Their HTTP is by hand on asyncio's streams, so that little of the machine goes to asking.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from decode.analysis.token_text import token_text

NUM_LIKELIEST = 20  # the most that the server's API gives
MAX_LINE = 1 << 24


@dataclass(slots=True)
class Answer:
    """One completion as its client saw it; `first_s` is the time to its first text."""

    text: str = ""
    num_tokens: int = 0
    first_s: float = 0.0
    token_ids: list[int] = field(default_factory=list)


Prompt = str | list[int]
Ask = Callable[[list["Connection"], Any], Awaitable[Answer]]


class Connection:
    """One kept-alive connection to a server on this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The answer to a body: one value, or the events of a stream.

        Raises:
            ValueError: its status is not 200.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=MAX_LINE)
        reader, writer = self._streams
        data = json.dumps(body).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        head += "Content-Type: application/json\r\nContent-Length: "
        writer.write(f"{head}{len(data)}\r\n\r\n".encode() + data)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        if not head.startswith(b"http/1.1 200"):
            raise ValueError(f"a server answered {(await reader.read(int(size))).decode()}")
        if size:
            yield json.loads(await reader.readexactly(int(size)))
            return
        while (line := await reader.readline()) != b"0\r\n":
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])
        await reader.readline()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def ask_all(
    ask: Ask, ports: Sequence[int], prompts: Sequence[Prompt], num_clients: int
) -> list[Answer]:
    """Answers in the prompts' order; each client asks for the next as soon as it has one."""
    answers, left = {}, iter(enumerate(prompts))

    async def client() -> None:
        connections = [Connection(port) for port in ports]
        for number, prompt in left:
            answers[number] = await ask(connections, prompt)
        for connection in connections:
            connection.close()

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return [answers[number] for number in range(len(prompts))]


def streaming(num_tokens: int) -> Ask:
    """A client that reads its greedy completion as a stream."""
    settings = {"stream": True, "stream_options": {"include_usage": True}}

    async def ask(connections: list[Connection], prompt: Prompt) -> Answer:
        answer, start = Answer(), time.perf_counter()
        async for event in connections[0].post({**_greedy(prompt, num_tokens), **settings}):
            answer.text += "".join(choice["text"] for choice in event["choices"])
            if not answer.first_s and answer.text:
                answer.first_s = time.perf_counter() - start
            if event.get("usage"):  # vLLM's other events have one that is null
                answer.num_tokens = event["usage"]["completion_tokens"]
        return answer

    return ask


def whole(num_tokens: int) -> Ask:
    """A client that gets its greedy completion at once."""

    async def ask(connections: list[Connection], prompt: str) -> Answer:
        start = time.perf_counter()
        (found,) = [one async for one in connections[0].post(_greedy(prompt, num_tokens))]
        usage = found["usage"]["completion_tokens"]
        return Answer(found["choices"][0]["text"], usage, time.perf_counter() - start)

    return ask


def steering(
    num_tokens: int, alpha: float, tokenizer: PreTrainedTokenizerBase, eos_ids: frozenset[int]
) -> Ask:
    """A client that steers: it asks a base, an expert and an anti-expert for each next token.

    It sees the scores of their 20 likeliest tokens; of one that a small model does not name it
    takes the least that is named.
    """
    id_of = {token_text(tokenizer, id_): id_ for id_ in reversed(range(len(tokenizer)))}

    async def next_token(connection: Connection, model: str, ids: list[int]) -> dict[str, float]:
        body = {**_greedy(ids, 1, model), "logprobs": NUM_LIKELIEST}
        (found,) = [one async for one in connection.post(body)]
        return found["choices"][0]["logprobs"]["top_logprobs"][0]

    async def ask(connections: list[Connection], prompt: str) -> Answer:
        answer, start = Answer(), time.perf_counter()
        prompt_ids = tokenizer(prompt)["input_ids"]
        while len(answer.token_ids) < num_tokens:
            ids = [*prompt_ids, *answer.token_ids]
            asked = zip(connections, ("base", "expert", "base"), strict=True)
            base, *small = await asyncio.gather(*(next_token(*one, ids) for one in asked))
            expert, antiexpert = (
                {token: own.get(token, min(own.values())) for token in base} for own in small
            )
            token = max(base, key=lambda t: base[t] + alpha * (expert[t] - antiexpert[t]))
            answer.token_ids.append(id_of[token])
            answer.first_s = answer.first_s or time.perf_counter() - start
            if id_of[token] in eos_ids:
                break
        answer.num_tokens = len(answer.token_ids)
        return answer

    return ask


def _greedy(prompt: Prompt, num_tokens: int, model: str = "proxy") -> dict[str, Any]:
    return {"model": model, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0}
