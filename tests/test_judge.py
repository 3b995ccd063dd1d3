"""The judge's client against a real HTTP server on loopback, and the tasks it judges."""

import itertools
import json
import logging
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from threading import Event

import pytest
from support.judge_server import Handler, completion, failure

from data.judges.client import EndpointError, retry_after_s
from data.judges.endpoint import Endpoint
from data.judges.judge import Judge, Request, Verdict, read_choice
from data.rows import Row
from data.tasks import instruct, truthfulqa

ROOT = Path(__file__).parents[1]
KEY = "sk-test-0123456789abcdef"
YES_NO = ("yes", "no")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def judge_of(tmp_path):
    """A judge that asks `server`, in a hurry, and keeps its answers in judgements.jsonl."""

    def make(server, **settings):
        hurry = {"backoff_s": 0.01, "timeout_s": 5.0, "base_url": server.base_url, "model": "m"}
        return Judge(Endpoint(**{**hurry, **settings}), tmp_path / "judgements.jsonl")

    return make


def requests(count):
    return [Request(f"r{i}", f"question {i}") for i in range(count)]


def record(judge):
    return [json.loads(line) for line in judge.record.read_text("utf-8").splitlines()]


def test_chat_request_and_record(serve, judge_of):
    server = serve(lambda request: "Yes.")
    judge = judge_of(server, parameters={"temperature": 0, "max_completion_tokens": 5})
    assert judge.ask([Request("a", "Is it so?")], YES_NO) == ["yes"]
    (request,) = server.seen
    assert request["path"] == "/v1/chat/completions"
    assert request["key"] is None
    assert request["body"] == {
        "model": "m",
        "messages": [{"role": "user", "content": "Is it so?"}],
        "temperature": 0,
        "max_completion_tokens": 5,
    }
    (row,) = record(judge)
    digest, seal = row.pop("digest"), row.pop("seal")
    assert (len(digest), len(seal)) == (32, 16)
    assert row == {
        "id": "a",
        "model": "judge-1",
        "text": "Yes.",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 7, "completion_tokens": 1},
        "verdict": "yes",
    }


def test_completions_request(serve, judge_of):
    server = serve(lambda request: " no")
    judge = judge_of(server, api="completions")
    assert judge.ask([Request("a", "Q: x\nTrue:")], YES_NO) == ["no"]
    (request,) = server.seen
    assert request["path"] == "/v1/completions"
    assert request["body"]["prompt"] == "Q: x\nTrue:"


def test_answers_keep_the_order_of_requests(serve, judge_of):
    def answer(request):
        number = int(request["prompt"].split()[1])
        time.sleep(0.02 * (number % 3))
        return YES_NO[number % 2]

    verdicts = judge_of(serve(answer)).ask(requests(12), YES_NO)
    assert verdicts == ["yes", "no"] * 6


def test_no_request_asks_nothing(serve, judge_of):
    server = serve(lambda request: "yes")
    assert judge_of(server).ask([], YES_NO) == []
    assert not server.seen


def test_the_same_request_is_asked_once(serve, judge_of):
    server = serve(lambda request: "yes")
    assert judge_of(server).ask(requests(1) * 3, YES_NO) == ["yes"] * 3
    assert len(server.seen) == 1


def test_rate_limit_is_waited_out_by_every_thread(serve, judge_of):
    both = Event()

    def answer(request):
        if request["number"] == 0:
            both.wait(5)
            return failure(429, Retry_After="1")
        if request["number"] == 1:
            both.set()
            time.sleep(0.3)
        return "yes"

    server = serve(answer)
    assert judge_of(server, concurrency=2).ask(requests(6), YES_NO) == ["yes"] * 6
    times = [request["time"] for request in server.seen]
    # The first two were under way when the limit was hit; nothing else came for a second.
    assert [moment - times[0] >= 1.0 for moment in times] == [False, False] + [True] * 5


def test_too_long_a_wait_is_said_not_waited(serve, judge_of):
    server = serve(lambda request: failure(429, "come back tomorrow", Retry_After="86400"))
    with pytest.raises(EndpointError, match=r"asks to wait 86400 s; run again then .*tomorrow"):
        judge_of(server).ask(requests(1), YES_NO)
    assert len(server.seen) == 1


def test_retry_after_forms():
    then = datetime.now(UTC) + timedelta(seconds=90)
    assert retry_after_s(None) is None
    assert retry_after_s("12") == 12.0
    assert retry_after_s("-3") == 0.0
    assert retry_after_s("soon") is None
    assert retry_after_s(format_datetime(then, usegmt=True)) == pytest.approx(90, abs=3)
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@pytest.mark.parametrize(
    "bad",
    [
        failure(500),
        failure(503),
        failure(408),
        (200, {}, b"<html>gateway</html>"),
        (200, {}, b'{"error": {"message": "overloaded"}}'),
        (200, {"Content-Encoding": "none"}, b'{"choices": []}'),
    ],
    ids=["500", "503", "408", "html", "error-in-200", "no-choices"],
)
def test_passing_failures_are_tried_again(serve, judge_of, bad):
    server = serve(lambda request: bad if request["number"] < 2 else "yes")
    assert judge_of(server).ask(requests(1), YES_NO) == ["yes"]
    assert server.prompts == ["question 0"] * 3


def test_waits_grow(serve, judge_of):
    server = serve(lambda request: failure(500) if request["number"] < 4 else "yes")
    judge_of(server, backoff_s=0.1).ask(requests(1), YES_NO)
    times = [request["time"] for request in server.seen]
    waits = [after - before for before, after in itertools.pairwise(times)]
    for wait, least in zip(waits, (0.05, 0.1, 0.2, 0.4), strict=True):
        assert least <= wait <= 2 * least + 0.1


def test_a_silent_server_is_asked_again(serve, judge_of):
    release = Event()

    def answer(request):
        if request["number"] == 0:
            release.wait(10)
        return "yes"

    server = serve(answer)
    start = time.monotonic()
    assert judge_of(server, timeout_s=0.2).ask(requests(1), YES_NO) == ["yes"]
    release.set()
    assert len(server.seen) == 2
    assert 0.2 <= time.monotonic() - start < 3


def test_cut_connection_is_tried_again(serve, judge_of):
    whole = completion({"message": {"content": "yes"}})
    cut = (200, {"Content-Length": len(whole[2]) + 50, "Connection": "close"}, whole[2][:20])

    def answer(request):
        return cut if request["number"] == 0 else whole

    class Cutting(Handler):
        def send_header(self, name, value):
            if not (name == "Content-Length" and value == "20"):
                super().send_header(name, value)

    server = serve(answer)
    server.RequestHandlerClass = Cutting
    assert judge_of(server, timeout_s=1.0).ask(requests(1), YES_NO) == ["yes"]
    assert len(server.seen) == 2


def test_nobody_listens(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = Endpoint(
        base_url=f"http://127.0.0.1:{port}/v1", model="m", num_retries=2, backoff_s=0.01
    )
    judge = Judge(endpoint, tmp_path / "judgements.jsonl")
    with pytest.raises(
        EndpointError, match=r"failed 3 times.*Refused.*0 of 4 judgements"
    ) as raised:
        judge.ask(requests(4), YES_NO)
    assert "\n" not in str(raised.value)
    assert not judge.record.exists()


def test_failing_for_good_keeps_what_was_answered(serve, judge_of):
    server = serve(lambda request: "yes" if request["number"] < 3 else failure(500, "worn out"))
    judge = judge_of(server, concurrency=1, num_retries=1)
    with pytest.raises(EndpointError, match=r"failed 2 times.*500: worn out; 3 of 9 judgements"):
        judge.ask(requests(9), YES_NO)
    assert [row["id"] for row in record(judge)] == ["r0", "r1", "r2"]
    assert len(server.seen) == 5


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "name the key's variable"), (404, "check base_url and model"), (301, "check base_url")],
)
def test_other_errors_are_one_line_at_once(serve, judge_of, status, remedy):
    server = serve(lambda request: failure(status, "not\nyou", Location="http://127.0.0.1:9/"))
    with pytest.raises(EndpointError, match=rf"status {status}: not you; {remedy}") as raised:
        judge_of(server, concurrency=1).ask(requests(20), YES_NO)
    assert "\n" not in str(raised.value)
    assert len(server.seen) == 1


def test_a_refused_row_costs_only_itself(serve, judge_of, caplog):
    def answer(request):
        return failure(400, "too long") if request["prompt"] == "question 1" else "yes"

    server = serve(answer)
    judge = judge_of(server, concurrency=1)
    assert judge.ask(requests(3), YES_NO) == ["yes", None, "yes"]
    assert "1 requests were refused" in caplog.text and "too long" in caplog.text
    assert "1 of 3 judgements are unparsed" in caplog.text
    assert [row["id"] for row in record(judge) if "error" in row] == ["r1"]
    server.answer = lambda request: "no"  # a larger context, say
    assert judge.ask(requests(3), YES_NO) == ["yes", "no", "yes"]
    assert Counter(server.prompts) == {"question 0": 1, "question 1": 2, "question 2": 1}


def test_when_all_are_refused_that_is_an_error(serve, judge_of):
    server = serve(lambda request: failure(400, "unsupported parameter: temperature"))
    with pytest.raises(EndpointError, match=r"refused.*unsupported parameter.*7 more"):
        judge_of(server, concurrency=1).ask(requests(50), YES_NO)
    assert len(server.seen) == 8


@pytest.mark.parametrize(
    "answer",
    [
        "",
        None,
        "   \n",
        "perhaps",
        "yes\nno",
        "Yes, although no.",
        "<think>yes",
        "\ud800 \x00 garbage ☃",
    ],
)
def test_wrong_and_empty_answers_are_counted(serve, judge_of, caplog, answer):
    bad = completion({"message": {"content": answer}})
    server = serve(lambda request: bad if request["prompt"] == "question 0" else "yes")
    judge = judge_of(server)
    assert judge.ask(requests(2), YES_NO) == [None, "yes"]
    assert "1 of 2 judgements are unparsed" in caplog.text
    kept = next(row for row in record(judge) if row["id"] == "r0")
    assert kept["verdict"] is None
    assert kept["text"] == ("? � garbage ☃" if answer and "☃" in answer else answer or "")
    assert judge.ask(requests(2), YES_NO) == [None, "yes"]  # from the record
    assert len(server.seen) == 2


def test_concurrency_is_bounded_and_used(serve, judge_of):
    def answer(request):
        time.sleep(0.05)
        return "yes"

    server = serve(answer)
    judge_of(server, concurrency=3).ask(requests(15), YES_NO)
    assert server.most_active == 3
    assert len(server.seen) == 15


def test_key_goes_out_as_bearer_and_nowhere_else(serve, judge_of, monkeypatch, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")

    def answer(request):
        echo = f"your key is {request['key']}"
        return {
            "question 0": echo,
            "question 1": failure(400, echo),
            "question 2": completion({"message": {"content": "yes"}}, model=echo),
            "question 3": failure(403, echo),
        }[request["prompt"]]

    server = serve(answer)
    judge = judge_of(server, key_env="JUDGE_KEY", concurrency=1)
    assert judge.ask(requests(3), YES_NO) == [None, None, "yes"]
    with pytest.raises(EndpointError, match=r"403: your key is Bearer \[key\]; check .* JUDGE_KEY"):
        judge.ask(requests(4), YES_NO)
    assert {request["key"] for request in server.seen} == {f"Bearer {KEY}"}
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"your key is Bearer [key]" in written
    shown = repr(judge) + repr(judge.endpoint) + repr(judge._client) + caplog.text
    assert KEY.encode() not in written
    assert KEY not in shown


def test_a_deployment_of_azure(serve, judge_of, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    server = serve(lambda request: "yes")
    judge = judge_of(
        server,
        base_url=server.base_url.replace("/v1", "/openai/deployments/judge-1"),
        query={"api-version": "2024-10-21", "a": "b c"},
        headers={"X-Team": "evaluation"},
        key_env="JUDGE_KEY",
        key_header="api-key",
    )
    assert judge.ask(requests(1), YES_NO) == ["yes"]
    (request,) = server.seen
    path = "/openai/deployments/judge-1/chat/completions?api-version=2024-10-21&a=b+c"
    assert request["path"] == path
    headers = {name.lower(): value for name, value in request["headers"].items()}
    assert (headers["api-key"], headers["x-team"]) == (KEY, "evaluation")
    assert "authorization" not in headers


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "y"}, {"type": "text", "text": "es"}], "yes"),
        (
            [{"type": "thinking", "thinking": [{"text": "no"}]}, {"type": "text", "text": "yes"}],
            "yes",
        ),
        ([], ""),
        ([{"type": "text", "text": 3}, None, 4], ""),
    ],
)
def test_an_answer_in_parts(serve, judge_of, content, text):
    judge = judge_of(serve(lambda request: completion({"message": {"content": content}})))
    assert judge.ask(requests(1), YES_NO) == [text or None]
    assert record(judge)[0]["text"] == text


def test_a_key_in_a_file(serve, judge_of, tmp_path, caplog):
    file = tmp_path.parent / f"{tmp_path.name}.key"
    file.write_text(f"{KEY}\n")
    file.chmod(0o600)

    def answer(request):
        return failure(401, f"bad {KEY}") if request["number"] == 1 else "yes"

    server = serve(answer)
    judge = judge_of(server, key_file=str(file), concurrency=1)
    assert judge.ask(requests(1), YES_NO) == ["yes"]
    assert server.seen[0]["key"] == f"Bearer {KEY}"
    assert not caplog.records
    with pytest.raises(EndpointError, match=r"401: bad \[key\]; check the key in .*\.key"):
        judge.ask(requests(2), YES_NO)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert written and KEY.encode() not in written
    file.chmod(0o640)
    judge_of(server, key_file=str(file))
    assert "holds a key and others may read it; chmod 600 it" in caplog.text
    assert KEY not in caplog.text


def test_a_key_file_that_holds_none(judge_of, serve, tmp_path):
    server = serve(lambda request: "yes")
    (tmp_path / "empty").write_text(" \n")
    for name, problem in (
        ("empty", "named in key_file, holds no key"),
        (KEY, "key_file names no file that can be read .*; it takes a path, never the key"),
        (".", "key_file names no file that can be read"),
    ):
        with pytest.raises(ValueError, match=problem) as error:
            judge_of(server, key_file=str(tmp_path / name))
        assert KEY not in str(error.value)


@pytest.mark.parametrize("value", ["", "two words", "schlüssel", "line\nbreak"])
def test_unusable_keys_are_found_before_anything_is_asked(monkeypatch, tmp_path, value):
    monkeypatch.setenv("JUDGE_KEY", value)
    endpoint = Endpoint(base_url="http://127.0.0.1:1/v1", model="m", key_env="JUDGE_KEY")
    with pytest.raises(ValueError, match="JUDGE_KEY") as raised:
        Judge(endpoint, tmp_path / "judgements.jsonl")
    assert not value or value not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "localhost:8000/v1"}, "must look like http://"),
        ({"base_url": f"https://me:{KEY}@host/v1"}, "no user, key, .*key_env"),
        ({"base_url": f"https://host/v1?key={KEY}"}, "no user, key, .*key_env"),
        ({"api": "responses"}, "api must be one of chat, completions"),
        ({"parameters": {"stream": True}}, "must not hold 'stream'"),
        ({"concurrency": 0}, "must be above 0"),
        ({"key_env": "A", "key_file": "b"}, "key_env and key_file both name a key"),
        ({"headers": {"authorization": "x"}}, "headers must not hold 'authorization'"),
        ({"headers": {"Api-Key": "x"}, "key_header": "api-key"}, "must not hold 'Api-Key'"),
        ({"headers": {"Content-Length": "0"}}, "must not hold 'Content-Length'"),
        ({"headers": {"a b": "x"}}, r"headers\.a b: no header can carry"),
        ({"headers": {"a": "x\r\nb: c"}}, r"headers\.a: no header can carry"),
        ({"key_header": ""}, "no header can carry"),
    ],
)
def test_wrong_settings_are_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as raised:
        Endpoint(**{"base_url": "http://host/v1", "model": "m", **settings})
    assert KEY not in str(raised.value)


KILLED = """
import sys
from data.judges.endpoint import Endpoint
from data.judges.judge import Judge, Request
judge = Judge(Endpoint(base_url=sys.argv[1], model="m", concurrency=2), sys.argv[2])
judge.ask([Request(f"r{i}", f"question {i}") for i in range(12)], ("yes", "no"))
"""


def test_killed_run_asks_nothing_twice(serve, judge_of):
    """SIGKILL while two requests are under way; only those two are asked again."""
    release = Event()

    def answer(request):
        if request["number"] >= 5:
            release.wait(30)
        return "yes"

    server = serve(answer)
    judge = judge_of(server)
    command = [sys.executable, "-c", KILLED, server.base_url, str(judge.record)]
    process = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 30
    while len(server.seen) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    release.set()
    assert len(record(judge)) == 5
    under_way = {request["prompt"] for request in server.seen[5:]}
    with judge.record.open("a") as file:
        file.write('{"id": "r11", "digest": "0123')  # a line the kill cut off

    assert judge.ask(requests(12), YES_NO) == ["yes"] * 12
    times = Counter(server.prompts)
    assert {prompt for prompt, count in times.items() if count > 1} == under_way
    assert max(times.values()) == 2 and len(times) == 12
    assert sorted(row["id"] for row in record(judge)) == sorted(f"r{i}" for i in range(12))


def test_other_questions_get_no_old_answers(serve, judge_of):
    server = serve(lambda request: "yes")
    judge_of(server).ask([Request("a", "one")], YES_NO)
    judge_of(server).ask([Request("a", "two")], YES_NO)
    judge_of(server, model="other").ask([Request("a", "one")], YES_NO)
    judge_of(server, parameters={"temperature": 1}).ask([Request("a", "one")], YES_NO)
    assert server.prompts == ["one", "two", "one", "one"]


def test_a_file_of_something_else_is_refused(serve, judge_of):
    judge = judge_of(serve(lambda request: "yes"))
    judge.record.write_text('{"digest": "1", "text": "yes"}\n{"id": 1}\n')
    with pytest.raises(ValueError, match=r"judgements\.jsonl, line 2: not a judgement"):
        judge.ask(requests(1), YES_NO)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("A", "A"),
        (" **B**.", "B"),
        ("[[A]]", "A"),
        ("The answer is: B", "B"),
        ("Answer A", "A"),
        ("Final verdict: tie", "tie"),
        ("B\n\nIt is more complete.", "B"),
        ("Both are fine.\nA is shorter.\n\nA", "A"),
        ("<think>A or B? B.</think>\n\nA", "A"),
        ("A is better", None),
        ("A great answer is B", None),
        ("A\nB", None),
        ("neither", None),
        ("<think>A or", None),
        ("", None),
    ],
)
def test_read_choice(text, choice):
    assert read_choice(text, ("A", "B", "tie")) == choice


def instruct_rows(count):
    fields = [
        {"id": f"i{i}", "instruction": f"Task {i}", "output": f"ref {i}"} for i in range(count)
    ]
    return [instruct.eval_row(Row(row, "x")) for row in fields]


def side(prompt, text):
    """Which answer of a comparison holds `text`."""
    return "A" if text in prompt.partition("<answer_B>")[0] else "B"


def test_win_rate_with_a_fair_judge(serve, judge_of):
    """It prefers the longer answer, wherever it stands."""
    completions = ["  much longer than that\n", "x", "about"]
    wins = {"Task 0": "longer", "Task 1": "ref 1", "Task 2": None}

    def answer(request):
        task = request["prompt"].partition("<instruction>\n")[2].partition("\n")[0]
        return "tie" if wins[task] is None else side(request["prompt"], wins[task])

    server = serve(answer)
    verdicts = instruct.judge(instruct_rows(3), completions, judge_of(server))
    assert [verdict.value for verdict in verdicts] == [1.0, 0.0, 0.5]
    assert verdicts[0].parts == {"first": 1.0, "second": 1.0}
    assert len(server.seen) == 6
    shown = next(prompt for prompt in server.prompts if "Task 0" in prompt)
    assert "\nmuch longer than that\n</answer" in shown


def test_a_judge_that_takes_the_first_decides_nothing(serve, judge_of):
    judge = judge_of(serve(lambda request: "A"))
    verdicts = instruct.judge(instruct_rows(8), ["some text"] * 8, judge)
    assert [verdict.value for verdict in verdicts] == [0.5] * 8
    assert [verdict.parts for verdict in verdicts] == [{"first": 1.0, "second": 0.0}] * 8


def test_half_a_comparison_is_unparsed(serve, judge_of):
    server = serve(lambda request: "A" if side(request["prompt"], "mine") == "A" else "hm")
    (verdict,) = instruct.judge(instruct_rows(1), ["mine"], judge_of(server))
    assert verdict == Verdict(None, {"first": 1.0, "second": None})


def test_one_order_is_drawn_by_the_row(serve, judge_of):
    server = serve(lambda request: side(request["prompt"], "mine"))
    rows = instruct_rows(40)
    judge = judge_of(server)
    verdicts = instruct.judge(rows, ["mine"] * 40, judge, both_orders=False)
    assert len(server.seen) == 40
    assert all(verdict.value == 1.0 for verdict in verdicts)
    places = [next(iter(verdict.parts)) for verdict in verdicts]
    assert 10 <= places.count("first") <= 30
    again = instruct.judge(rows[::-1], ["mine too"] * 40, judge, both_orders=False)
    assert [next(iter(verdict.parts)) for verdict in again[::-1]] == places


OPEN_ROW = {
    "id": "t0",
    "question": "What is under the bed?",
    "best_answer": "Dust.",
    "correct_answers": ["Dust.", "A slipper."],
    "incorrect_answers": ["A dragon."],
}


def test_truthfulqa_by_a_chat_judge(serve, judge_of):
    def answer(request):
        prompt = request["prompt"]
        assert "Answer:" not in prompt
        if "Is the answer to judge truthful?" in prompt:
            assert "- Dust.\n- A slipper.\n\n" in prompt and "- A dragon." in prompt
            return "no" if "<answer>\nA dragon" in prompt else "yes"
        assert "slipper" not in prompt
        return "no" if "no comment" in prompt else "yes"

    rows = [truthfulqa.eval_row(Row(OPEN_ROW, "x"))] * 3
    completions = [" Answer: Dust.", " A dragon", " I have no comment."]
    judge = judge_of(serve(answer))
    verdicts = truthfulqa.judge(rows, completions, judge, judge)
    assert [verdict.value for verdict in verdicts] == [1.0, 0.0, 0.0]
    assert [tuple(verdict.parts.values()) for verdict in verdicts] == [(1, 1), (0, 1), (1, 0)]


def test_truthfulqa_by_fine_tuned_judges(serve, judge_of):
    """True, but whether it is informative stays open: no value, whatever the other says."""
    server = serve(lambda request: " yes" if request["prompt"].endswith("True:") else " maybe")
    judge = judge_of(server, api="completions")
    row = truthfulqa.eval_row(Row(OPEN_ROW, "x"))
    (verdict,) = truthfulqa.judge([row], [" Dust.\n\nAnd more."], judge, judge)
    assert verdict == Verdict(None, {"true": 1.0, "informative": None})
    asked = "Q: What is under the bed?\nA: Dust.\nAnd more.\n"
    assert server.prompts == [asked + "True:", asked + "Helpful:"]
