"""A server under hostile load: good answers stay what they are alone, and nothing is left behind.

    python tests/soak_serve.py --requests 2000 --clients 32 --seed 0
    python tests/soak_serve.py runs/mini-facts    # of a run, instead of tiny models

Requests are drawn from a seed: good ones, whole or streamed; ones whose client goes away before
or in the midst of an answer, reads slowly or never, or sends byte by byte or half; bodies that
are no request; absurd values of every field. Exits with the number of faults: a 5xx, an answer
that differs from the one asked alone, an error not in OpenAI's form, rows, connections or memory
left behind, a traceback or a request's text in the log, an end that is not clean.
"""

import argparse
import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

SECRET = "s3cret"  # of every prompt
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
LONGEST_S = 120
ENDED_S = 20
MOST_GROWTH_BYTES = 48 << 20
VALUES: list[Any] = [
    *(-1, 0, 1, 0.5, 10**9, -(10**9), 10**400, 1e308, -1e308, 5e-324, True, False, None),
    *(float("nan"), float("inf"), "", "x", "1", SECRET * 2000, "\ud800", "\0", "é\u202e\U0001f600"),
    *([], [None], [[]], ["\ud800"], [-1], [10**30], ["", "\0"], [1] * 5000, ["x"] * 5000),
    *({}, {"": {}}, {"1": 1e9}, {str(n): n for n in range(3000)}, [[[[[[]]]]]] * 50),
]
BODIES = [
    *(b"", b"{", b"[]", b"null", b"1", b"\xff\xfe\x00", b"[" * 50_000, b'{"a":' * 5000, b"\0" * 99),
    *(b'{"model": "proxy"', b"model=proxy&prompt=x", b'{"model": "proxy", "model": []}'),
    *(b" " * (5 << 20), b'"' + b"x" * 100_000 + b'"', b'{"prompt": "\\ud800"}'),
]
RAW = [
    *(b"\0\1\2\3\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 100),
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1/models/" + b"%00%ff/.." * 500 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"HEAD /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PUT /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
]
FIELDS = """model prompt messages alpha temperature top_p top_k min_p repetition_penalty seed n stop
max_tokens max_completion_tokens stream stream_options presence_penalty frequency_penalty logit_bias
user metadata store logprobs top_logprobs echo best_of suffix tools response_format nobody_knows
""".split()


def _good() -> list[dict[str, Any]]:
    """Requests whose answers are functions of them."""
    plain = {"model": "proxy", "prompt": f"{SECRET} 1+1=", "max_tokens": 24, "temperature": 0}
    drawn = {"temperature": 1.1, "seed": 5, "top_k": 30, "top_p": 0.9}
    chat = {"model": "base", "messages": [{"role": "user", "content": f"{SECRET} é"}], "seed": 3}
    whole = [
        plain,
        plain | {"alpha": 0.5, "stop": ["e", "zz"]},
        plain | {"alpha": -1.5, "max_tokens": 60, "repetition_penalty": 1.2},
        plain | drawn | {"n": 3},
        plain | drawn | {"model": "expert", "min_p": 0.05},
        plain | {"model": "base", "prompt": [f"{SECRET} a", f"{SECRET} longer, and ragged"]},
        plain | {"logprobs": 3, "max_tokens": 5},
        plain | {"logprobs": 1, "echo": True, "max_tokens": 0},
        chat | {"max_tokens": 9},
        chat | {"logprobs": True, "top_logprobs": 2, "max_tokens": 4},
    ]
    return whole + [body | {"stream": True} for body in whole if "logprobs" not in body]


GOOD = _good()
LONG = {"model": "proxy", "prompt": SECRET, "max_tokens": 300, "n": 4, "alpha": 0.3, "stream": True}


@dataclass(slots=True)
class Soak:
    """One run against a server on a port of this machine."""

    port: int
    seed: int
    alone: list[Any] = field(default_factory=list)  # answers of GOOD
    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    async def run(self, numbers: range, num_clients: int) -> None:
        """Ask the requests of these numbers."""
        left = iter(numbers)

        async def client() -> None:
            for number in left:
                draw = random.Random(f"{self.seed}:{number}")
                kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
                try:
                    async with asyncio.timeout(LONGEST_S):
                        fault = await kind(self, draw)
                except (OSError, TimeoutError, ValueError, KeyError) as error:
                    fault = f"{type(error).__name__}: {error}"
                self.ends[f"{kind.__name__.strip('_')}: {'fault' if fault else 'right'}"] += 1
                if fault:
                    self.faults.append(f"{number}, {kind.__name__}: {fault:.300}")

        await asyncio.gather(*(client() for _ in range(num_clients)))

    async def ask_alone(self) -> None:
        """Learn the good requests' answers, one after the other."""
        for body in GOOD:
            status, data = await self.ask(_post(body))
            if status != 200:
                self.faults.append(f"alone, {body}: status {status}: {data!r:.200}")
            self.alone.append(_answer(data) if status == 200 else None)

    async def ask(self, data: bytes, sent: int = 1 << 20, read: int = 1 << 16, pause_s: float = 0):
        """Status and body of an answer; the request is sent and the answer read in such pieces.

        Status 0 is a connection that the server closed without one.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        answer = b""
        try:
            with suppress(ConnectionError):  # an answer may come before all is sent
                for place in range(0, len(data), sent):
                    writer.write(data[place : place + sent])
                    await writer.drain()
                    await asyncio.sleep(pause_s)
            with suppress(ConnectionError):
                while piece := await reader.read(read):
                    answer += piece
                    await asyncio.sleep(pause_s)
        finally:
            writer.close()
        return _parsed(answer)

    async def leave(self, data: bytes, num_reads: int, pause_s: float, is_polite: bool) -> None:
        """Send, read so many pieces, wait, and go away."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        for _ in range(num_reads):
            await reader.read(512)
        await asyncio.sleep(pause_s)
        writer.close() if is_polite else writer.transport.abort()

    async def rows(self) -> float:
        """How many rows are under way or wait."""
        _, body = await self.ask(_head("GET", "/metrics", 0))
        return sum(map(float, re.findall(rb"proxytune_rows\{.*\} (\S+)", body)))


async def _good_one(soak: Soak, draw: random.Random) -> str:
    return await _same(soak, draw)


async def _slow_reader(soak: Soak, draw: random.Random) -> str:
    return await _same(soak, draw, read=draw.randint(20, 200), pause_s=0.005)


async def _byte_by_byte(soak: Soak, draw: random.Random) -> str:
    return await _same(soak, draw, sent=1)


async def _same(soak: Soak, draw: random.Random, **pieces: Any) -> str:
    number = draw.randrange(len(GOOD))
    kind = draw.choice(["application/json", "text/plain", "application/x-www-form-urlencoded"])
    status, data = await soak.ask(_post(GOOD[number], kind), **pieces)
    if status != 200:
        return f"status {status}: {data!r}"
    found = _answer(data)
    return "" if _equal(found, soak.alone[number]) else f"{GOOD[number]}: {found}"


async def _gone_early(soak: Soak, draw: random.Random) -> str:
    body = draw.choice([LONG, LONG | {"stream": False}, *GOOD])
    await soak.leave(_post(body), 0, draw.random() / 10, draw.random() < 0.5)
    return ""


async def _gone_midway(soak: Soak, draw: random.Random) -> str:
    await soak.leave(_post(LONG), draw.randint(1, 9), draw.random() / 10, draw.random() < 0.5)
    return ""


async def _never_reads(soak: Soak, draw: random.Random) -> str:
    await soak.leave(_post(LONG | {"n": 16}), 0, 1 + 2 * draw.random(), False)
    return ""


async def _half(soak: Soak, draw: random.Random) -> str:
    data = _post(draw.choice(GOOD))
    cut = data[: draw.randrange(len(data))]
    await soak.leave(cut, 0, draw.random() / 2, draw.random() < 0.5)
    return ""


async def _no_request(soak: Soak, draw: random.Random) -> str:
    data, path = draw.choice(BODIES), draw.choice([COMPLETIONS, CHATS])
    return _refusal(*await soak.ask(_head("POST", path, len(data)) + data))


async def _no_http(soak: Soak, draw: random.Random) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", soak.port)
    writer.write(draw.choice(RAW))
    writer.write_eof()
    answer = b""
    with suppress(ConnectionError):
        answer = await reader.read(1 << 16)
    writer.close()
    return f"{answer!r}" if answer[9:10] == b"5" else ""


async def _absurd(soak: Soak, draw: random.Random) -> str:
    body = dict(draw.choice(GOOD))
    for _ in range(draw.randint(1, 2)):
        body[draw.choice([*FIELDS, *body])] = draw.choice(VALUES)
    status, data = await soak.ask(_post(body))
    return "" if status == 200 and b'"choices"' in data else _refusal(status, data)


KINDS = {
    _good_one: 38,
    _gone_early: 10,
    _gone_midway: 10,
    _absurd: 20,
    _no_request: 6,
    _no_http: 4,
    _slow_reader: 4,
    _byte_by_byte: 4,
    _half: 3,
    _never_reads: 1,
}


def _post(body: dict[str, Any], kind: str = "application/json") -> bytes:
    data = json.dumps(body).encode()
    path = CHATS if "messages" in body else COMPLETIONS
    return _head("POST", path, len(data), kind) + data


def _head(method: str, path: str, size: int, kind: str = "application/json") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return f"{head}Content-Type: {kind}\r\nContent-Length: {size}\r\n\r\n".encode()


def _parsed(answer: bytes) -> tuple[int, bytes]:
    if not answer:
        return 0, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        pieces = []
        while body:
            size, _, body = body.partition(b"\r\n")
            pieces.append(body[: int(size, 16)])
            body = body[int(size, 16) + 2 :]
        body = b"".join(pieces)
    return int(head.split()[1]), body


def _answer(data: bytes) -> Any:
    """What of an answer is a function of its request: choices, those of a stream put together."""
    if not data.startswith(b"data: "):
        found = json.loads(data)
        return [found["choices"], found["usage"]]
    *events, last = data.decode().strip().split("\n\n")
    if last != "data: [DONE]":
        raise ValueError(f"a stream ended with {last}")
    choices: dict[int, list[Any]] = {}
    for event in events:
        for choice in json.loads(event[6:])["choices"]:
            piece = choice["text"] if "text" in choice else choice["delta"].get("content", "")
            text, _ = choices.get(choice["index"], ("", None))
            choices[choice["index"]] = [text + piece, choice["finish_reason"]]
    return sorted(choices.items())


def _equal(found: Any, expected: Any) -> bool:
    """Whether answers are the same, scores but for rounding."""
    if isinstance(found, float) and isinstance(expected, float):
        return abs(found - expected) < 1e-3
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_equal(found[k], expected[k]) for k in found)
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(_equal, found, expected))
    return found == expected


def _refusal(status: int, data: bytes) -> str:
    """What is wrong with a refusal, "" for nothing."""
    if not 400 <= status < 500:
        return f"status {status}: {data!r}"
    message = json.loads(data)["error"]["message"]
    is_one_line = message and message.isprintable() and len(message) < 500
    return "" if is_one_line else f"message {message!r}"


def main() -> int:
    """The number of faults, at most 99."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", help="a run to serve; without one, tiny models")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = [arguments.run] if arguments.run else _tiny_models(Path(folder))
        with Path(folder, "log").open("w+") as log:
            command = [sys.executable, "decode/serve.py", *models, "--port", "0"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
            assert process.stdout is not None
            started = re.search(r":(\d+)/v1", process.stdout.readline())
            soak = Soak(int(started[1]) if started else 0, arguments.seed)
            try:
                asyncio.run(_soak(soak, process, arguments.requests, arguments.clients))
            finally:
                process.kill()
            log.seek(0)
            said = log.read()
    soak.faults += [f"the log has {w}" for w in ("Traceback", SECRET) if w in said]
    for end, count in sorted(soak.ends.items()):
        print(f"{end:<24}{count:>6}")
    print(*soak.faults, f"{arguments.requests} requests, {len(soak.faults)} faults", sep="\n")
    return min(len(soak.faults), 99)


def _tiny_models(folder: Path) -> list[str]:
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    from support.models import save_tiny

    names = ("base", "expert", "antiexpert")
    return [w for i, n in enumerate(names) for w in (f"--{n}", save_tiny(folder / n, i))]


async def _soak(soak: Soak, process: subprocess.Popen, num_requests: int, num_clients: int) -> None:
    server, warm_up = psutil.Process(process.pid), num_requests // 4
    await soak.ask_alone()
    await soak.run(range(warm_up), num_clients)
    before = await _at_rest(soak, server)
    start = time.monotonic()
    await soak.run(range(warm_up, num_requests), num_clients)
    seconds = time.monotonic() - start
    after = await _at_rest(soak, server)
    print(f"{num_requests - warm_up} requests in {seconds:.0f} s after {warm_up} of warm-up")
    for what, was, now in zip(("memory", "threads", "files"), before, after, strict=True):
        print(f"{what}: {was} before, {now} after")
        if now > was + {"memory": MOST_GROWTH_BYTES, "threads": 2, "files": 2}[what]:
            soak.faults.append(f"{what} grew from {was} to {now}")
    asking = [asyncio.create_task(soak.ask(_post(LONG | {"n": 32}))) for _ in range(4)]
    await asyncio.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    for status, data in await asyncio.gather(*asking):
        if status not in (0, 200, 503) or (status == 200 and data[-2:] != b"\n\n"):
            soak.faults.append(f"at SIGTERM: status {status}: {data[-200:]!r}")
    code = await asyncio.to_thread(process.wait, 60)
    print(f"ended {time.monotonic() - start:.1f} s after SIGTERM with {code}")
    if code:
        soak.faults.append(f"the server ended with {code}")


async def _at_rest(soak: Soak, server: psutil.Process) -> tuple[int, int, int]:
    """Bytes of memory, threads and open files once nothing is under way."""
    end = time.monotonic() + ENDED_S
    while (num_rows := await soak.rows()) and time.monotonic() < end:
        await asyncio.sleep(0.1)
    if num_rows:
        soak.faults.append(f"{num_rows:g} rows are left")
    await asyncio.sleep(1)
    return server.memory_info().rss, server.num_threads(), server.num_fds()


if __name__ == "__main__":
    sys.exit(main())
