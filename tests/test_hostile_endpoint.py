"""Endpoints that misbehave: one line or a retry each, in bounded time and memory, no key."""

import base64
import contextlib
import gzip
import itertools
import json
import re
import resource
import time
from urllib.parse import quote

import pytest
from support.judge_server import completion
from support.raw_server import response

from data.judges.client import EndpointError, retry_after_s
from data.judges.endpoint import Endpoint
from data.judges.judge import Judge, Request
from data.judges.known_key import KnownKey
from recipes.schema.tasks import EndpointChoice

KEY = "sk-planted/0123+456789abcdefXYZ"
YES = completion({"message": {"content": "yes"}})[2]
LIMIT_S = 0.5


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", KEY)


@pytest.fixture
def ask(tmp_path):
    """What a judge of one question finds: its verdicts, or its error in one line."""

    def run(server, **settings):
        hurry = {"backoff_s": 0.01, "timeout_s": LIMIT_S, "num_retries": 1, "key_env": "JUDGE_KEY"}
        endpoint = Endpoint(**{**hurry, "base_url": server.base_url, "model": "m", **settings})
        judge = Judge(endpoint, tmp_path / "judgements.jsonl")
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            found = judge.ask([Request("r0", "question")], ("yes", "no"))
        except EndpointError as error:
            found = str(error)
        assert time.monotonic() - start < 4 * LIMIT_S + 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB
        assert isinstance(found, list) or (found.isprintable() and len(found) < 600)
        return found

    return run


def drip(*parts, pause_s=0.05):
    """Sends the parts one by one for as long as somebody reads."""

    def behave(connection, _):
        for part in parts:
            connection.sendall(part if isinstance(part, bytes) else bytes([part]))
            time.sleep(pause_s)

    return behave


def endless(start, block):
    def behave(connection, _):
        connection.sendall(start)
        for _ in itertools.repeat(None, 5000):  # 300 MB
            connection.sendall(block)

    return behave


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
DEEP = b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
FAILS = "failed 2 times"
MISBEHAVIOURS = {
    "silence": (lambda connection, _: time.sleep(2), "failed 2 times.*timeout_s"),
    "closed": (lambda connection, _: None, FAILS),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", FAILS),
    "binary": (bytes(range(256)) * 40, FAILS),
    "body in drips": (drip(response(YES, Content_Length=9999), *YES * 9), "2 times.*timeout_s"),
    "headers in drips": (drip(HEAD, *b"X-A: 1\r\n" * 99), "2 times.*timeout_s"),
    "1xx for ever": (drip(*[b"HTTP/1.1 100 Continue\r\n\r\n"] * 99), "2 times.*timeout_s"),
    "chunks in drips": (drip(CHUNKED, *[b"1\r\n \r\n"] * 99), "2 times.*timeout_s"),
    "endless body": (endless(HEAD + b"\r\n", b" " * 60_000), "more than 4 MiB"),
    "endless header": (endless(HEAD + b"X: ", b"x" * 60_000), FAILS),
    "endless chunk": (endless(CHUNKED + b"f" * 15 + b"\r\n", b" " * 60_000), "more than 4 MiB"),
    "endless error": (endless(b"HTTP/1.1 500 No\r\n\r\n", b" " * 60_000), "status 500: No"),
    "endless 404": (endless(b"HTTP/1.1 404 No\r\n\r\n", b" " * 60_000), "status 404: No; check"),
    "chunk size": (CHUNKED + b"zz\r\n" + YES + b"\r\n0\r\n\r\n", FAILS),
    "negative chunk": (CHUNKED + b"-5\r\n" + YES + b"\r\n0\r\n\r\n", FAILS),
    "long chunk size": (CHUNKED + b"f" * 90_000 + b"\r\n", FAILS),
    "cut chunk": (CHUNKED + b"ffff\r\n" + YES, FAILS),
    "length too long": (response(YES, Content_Length=10**6), FAILS),
    "length beyond": (response(YES, Content_Length=10**30), FAILS),
    "negative length": (response(YES, Content_Length=-1), FAILS),
    "two lengths": (response(YES, Content_Length=f"5\r\nContent-Length: {len(YES)}"), FAILS),
    "garbage length": (response(YES, Content_Length="many"), FAILS),
    "gzip unasked": (
        response(gzip.compress(YES), Content_Encoding="gzip"),
        "bytes that are no text",
    ),
    "bomb": (response(gzip.compress(b" " * (300 << 20), 1), Content_Encoding="gzip"), FAILS),
    "deep JSON": (response(DEEP), FAILS),
    "deep error": (response(DEEP, "400 Bad"), "refused"),
    "long number": (response(b'{"choices": [' + b"9" * 10**6 + b"]}"), FAILS),
    "not UTF-8": (response(b"\xff\xfe\x80"), FAILS),
    "redirect": (response(b"", "307 Go", Location="http://127.0.0.1:9/"), "307.*check base_url"),
    "own redirect": (response(b"", "302 Go", Location="/v1/chat/completions"), "302.*check"),
    "status 999": (response(b"", "999 \x1b[31mRed"), FAILS),
    "escapes": (response(b"\x1b]0;title\x07\x9b31m\xe2\x80\xae", "404 No"), "404"),
    "empty": (response(b"", "204 No Content"), FAILS),
}


@pytest.mark.parametrize(("behave", "expected"), MISBEHAVIOURS.values(), ids=MISBEHAVIOURS)
def test_misbehaviour_is_one_line_in_time(raw_serve, ask, behave, expected):
    server = raw_serve(behave)
    found = ask(server)
    assert isinstance(found, str)
    assert re.search(expected, found), found
    assert server.base_url in found
    assert KEY not in found


@pytest.mark.parametrize(
    "answer",
    [
        "5", "null", "[]", '"yes"', "{}", '{"choices": null}', '{"choices": {}}',
        '{"choices": "yes"}', '{"choices": [null]}', '{"choices": [[]]}', '{"choices": ["yes"]}',
        '{"choices": [{"message": null}]}', '{"choices": [{"message": "yes"}]}',
        '{"choices": [{"message": []}]}', '{"error": {"message": {"message": 5}}}',
        '{"error": [1, 2]}', '{"detail": NaN}', "Infinity",
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", ["200 OK", "400 No"])
def test_wrong_types_everywhere(raw_serve, ask, answer, status):
    assert isinstance(ask(raw_serve(response(answer.encode(), status))), str)


@pytest.mark.parametrize("wrong", [5, None, True, [], {}, [5, None], {"text": "yes"}, 1e400])
def test_wrong_types_beside_the_answer(raw_serve, ask, tmp_path, wrong):
    choice = {"message": {"content": "yes"}, "finish_reason": wrong}
    body = {"choices": [choice], "model": wrong, "usage": {"a": wrong, "b": 3}}
    assert ask(raw_serve(response(json.dumps(body).encode()))) == ["yes"]
    row = json.loads((tmp_path / "judgements.jsonl").read_text())
    assert (row["model"], row["finish_reason"], row["usage"]["b"]) == ("", "", 3)
    (tmp_path / "judgements.jsonl").unlink()
    body = {"choices": [{"message": {"content": wrong}}]}
    assert ask(raw_serve(response(json.dumps(body).encode()))) == [None]


@pytest.mark.parametrize(
    "header",
    [
        "1e400", "inf", "nan", "-1e9", "-5", "0x10", "1_0", "", " ", "soon", "٣", "9" * 5000,
        "Fri, 31 Dec 99999 23:59:59 GMT", "Fri, 31 Dec 0000 23:59:59 GMT", "Mon, 01 Jan 0001 00:00",
        "Fri, 31 Feb 2027 23:59:59 GMT", "Fri, 31 Dec 2027 23:59:59 +99999999", "1;2", ",", "((",
        "Thu, 01 Jan 1970 00:00:00 -0000", "31 Dec 9999999999999999999999 1:1:1",
    ],
)  # fmt: skip
def test_absurd_retry_after_is_no_wait(header):
    assert not retry_after_s(header)


def test_far_away_dates_are_said_not_waited(raw_serve, ask):
    far = response(b"later", "429 No", Retry_After="Fri, 31 Dec 9999 23:59:59 GMT")
    assert "asks to wait" in ask(raw_serve(far))
    many = response(b"later", "503 No", Retry_After="999999999999")
    assert "asks to wait 999999999999 s" in ask(raw_serve(many))
    assert FAILS in ask(raw_serve(response(b"later", "503 No", Retry_After="1e400")))


def test_redirects_and_cookies_take_the_key_nowhere(raw_serve, ask):
    other = raw_serve(response(YES))
    headers = {"Location": f"{other.base_url}/chat/completions", "Set_Cookie": f"k={KEY}; Path=/"}
    assert "status 308" in ask(raw_serve(response(b"", "308 Go", **headers)))
    assert not other.requests
    seen = raw_serve(response(b"", "500 No", Set_Cookie="a=b; Path=/"))
    ask(seen)
    assert len(seen.requests) == 2
    assert all("cookie" not in head.lower() for head, _ in seen.requests)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY", "SSL_CERT_FILE"])
def test_unusable_environment_is_one_line_before_anything_is_asked(monkeypatch, ask, name):
    monkeypatch.setenv(name, "socks9://me:hunter22@nowhere:none")
    endpoint = Endpoint(base_url="http://127.0.0.1:9/v1", model="m")
    with pytest.raises(ValueError, match="proxy or certificates cannot be used") as raised:
        Judge(endpoint, "unused.jsonl")
    assert "hunter22" not in str(raised.value)


ADDRESSES = {
    "http://localhost:8000/v1": True,
    "https://api.openai.com/v1/": True,
    "http://[::1]:8000/v1": True,
    "http://my_host-1.a:65535": True,
    "http://xn--bcher-kva.example/a%20b": True,
    "localhost:8000/v1": False,
    "ftp://host/v1": False,
    "http:///v1": False,
    "http://host:port/v1": False,
    "http://host:65536/v1": False,
    "http://host:0/v1": False,
    "http://host:/v1": False,
    "http://host:-1/v1": False,
    "http://ho st/v1": False,
    "http://host/v 1": False,
    " http://host/v1": False,
    "http://host/v1\n": False,
    "http://host/\x1b[31m": False,
    f"https://me:{KEY}@host/v1": False,
    "https://me@host/v1": False,
    "https://host/v1?x=1": False,
    "https://host/v1?": False,
    "https://host/v1#x": False,
    "http://bücher.example/v1": False,
    "http://host/é": False,
    "http://host/%zz": False,
    f"http://{'a' * 64}.example/v1": False,
    f"http://{'.'.join(['a' * 60] * 5)}/v1": False,
    "http://a..b/v1": False,
    "http://-a/v1": False,
}


@pytest.mark.parametrize(("address", "is_good"), ADDRESSES.items())
@pytest.mark.parametrize("made", [Endpoint, EndpointChoice])
def test_addresses_are_checked_when_they_are_read(made, address, is_good):
    expected = contextlib.nullcontext() if is_good else pytest.raises(ValueError, match="address")
    with expected:
        made(base_url=address, model="m")


def written_forms():
    yield from (KEY, f"Bearer {KEY}", quote(KEY, safe=""), quote(quote(KEY, safe=""), safe=""))
    yield "".join(f"\\u{ord(one):04x}" for one in KEY)
    yield "".join(f"\\\\u{ord(one):04X}" for one in KEY)
    yield KEY.replace("/", "\\/")
    yield KEY.replace("/", "\\u002F").replace("-", "%2d")
    yield "".join(f"&#{ord(one)};" for one in KEY)
    yield "".join(f"&#x{ord(one):x};" for one in KEY)
    yield KEY.encode().hex()
    yield "".join(f"\\x{ord(one):02x}" for one in KEY)
    for before in ("", "x", "me", "Bearer ", "user:"):
        for after in ("", "!", "?\n"):
            text = base64.b64encode(f"{before}{KEY}{after}".encode()).decode()
            yield from (text, text.replace("+", "-").replace("/", "_"), text.replace("/", "\\/"))


@pytest.mark.parametrize("form", sorted(set(written_forms())))
def test_every_written_form_is_blotted(form):
    text = KnownKey(KEY).blotted(f"<{form}> and '{form}'")
    assert text.count("[key]") == 2
    assert all(part not in text for part in (form[4:12], KEY[4:12]))


def test_ordinary_text_and_short_keys_are_left_alone():
    text = "a 31-word answer: yes, 73 6b 2d & sk-planted is not it. c2stcGxhbnRlZA=="
    assert KnownKey(KEY).blotted(text) == text
    assert KnownKey("EMPTY").blotted("an EMPTY answer") == "an EMPTY answer"
    assert KnownKey(None).blotted(text) == text
    assert KEY not in repr(KnownKey(KEY))


def test_blotting_takes_no_long_time():
    start = time.process_time()
    for text in ("\\" * (1 << 20), "s" * (1 << 20), "%25" * (1 << 18), KEY[:-1] * 10_000):
        KnownKey(KEY).blotted(text)
    assert time.process_time() - start < 5  # measured: 0.7


@pytest.mark.parametrize("status", ["200 OK", "404 No", "400 No", "500 No"])
def test_echoes_split_over_chunks_are_blotted(raw_serve, ask, tmp_path, caplog, status):
    """Every form at once, byte by byte, in answers, names, errors and the reason."""
    echo = " ".join(written_forms())
    body = completion({"message": {"content": f"yes {echo}"}}, model=echo, error=echo)[2]

    def behave(connection, _):
        connection.sendall(
            f"HTTP/1.1 {status} {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        connection.sendall(b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in body))
        connection.sendall(b"0\r\n\r\n")

    shown = str(ask(raw_serve(behave))) + caplog.text
    if (record := tmp_path / "judgements.jsonl").exists():
        shown += record.read_text()
    assert "[key]" in shown
    assert not [form for form in written_forms() if form[4:12] in shown]
