"""A judge's endpoint that answers with anything, and settings of it."""

import json
import random

from .case import Case
from .harm import BYTES, harmed_tree
from .scenes import judged
from .world import World, entry

HEADERS = (
    b"Retry-After: 9e99\r\n",
    b"Retry-After: -5\r\n",
    b"Retry-After: 1.5\r\n",
    b"Retry-After: Sun, 06 Nov 9999 08:49:37 GMT\r\n",
    b"Location: http://127.0.0.1:1/\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Content-Type: text/html; charset=nosuch\r\n",
    b"Set-Cookie: a=b; Domain=\r\n",
    b"X: \xff\r\n",
    b"Y" * 70000 + b": 1\r\n",
)
LENGTHS = (b"-1", b"1e9", b"9" * 30, b"", b"3")
STATUSES = (
    b"204 No",
    b"301 Moved",
    b"302 Found",
    b"400 Bad \x1b[31m",
    b"401 Who",
    b"404 No",
    b"413 Long",
    b"429 Slow",
    b"500 No",
    b"999 X",
    b"x",
)
SAID = ("A", "B", "tie", "Verdict: **A**", "m", "", "\x1b[2J", "é" * 9, "<think>A", "A\nB")
SAID += ("a-key-of-a-judge", ["A"], [{"type": "text", "text": "A"}], None, 5, {"text": "A"})


def judge_server(world: World, rng: random.Random) -> Case:
    """A judge that answers with anything; `{port}` is where it listens."""
    scene = judged(world)
    place, harm = scene.tree["task"]["judges"]["judge"]["endpoint"], ""
    if rng.random() < 0.3:
        changed, harm = harmed_tree(rng, place)
        scene.tree["task"]["judges"]["judge"]["endpoint"] = changed
    elif rng.random() < 0.3:
        place["api"] = "completions"
    scene.write(world)
    answers = [_answer(rng) for _ in range(rng.choice((1, 2, 3)))]
    # no verdict at all is an error that says where the answers are
    names = ("127.0.0.1", "recipe.yaml", "task.judges.judge", "judgements/")
    arguments = [entry(scene.command), "recipe.yaml"]
    return Case(arguments, f"{harm} {answers}"[:300], names, answers=answers)


def _answer(rng: random.Random) -> bytes:
    """A right answer, of which each part is harmed once in five times."""
    said = rng.choice(SAID) if _is_harmed(rng) else "A"
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "text": said}
    body = {"model": "judge", "choices": [choice], "usage": {"total_tokens": 5}}
    tree, _ = harmed_tree(rng, body) if _is_harmed(rng) else (body, "")
    text = rng.choice(BYTES) if _is_harmed(rng) else json.dumps(tree).encode()
    length = rng.choice(LENGTHS) if _is_harmed(rng) else b"%d" % len(text)
    status = rng.choice(STATUSES) if _is_harmed(rng) else b"200 OK"
    more = rng.choice(HEADERS) if _is_harmed(rng) else b""
    return b"HTTP/1.1 %s\r\nContent-Length: %s\r\nConnection: close\r\n%s\r\n%s" % (
        status,
        length,
        more,
        text,
    )


def _is_harmed(rng: random.Random) -> bool:
    return rng.random() < 0.2
