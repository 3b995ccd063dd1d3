"""Asking an endpoint: one prompt in, one text out, however many tries that takes.

Only the standard library is used. Errors that may pass by themselves are retried: lost
connections, time-outs, 5xx, 408 and 429. Waits grow exponentially, with jitter; a `Retry-After`
holds back every thread, not only the one that was told. Everything else is one clear line.

The key is read from the environment variable that the settings name. It goes into the request's
header and nowhere else: should a server repeat it, it is blotted out of texts and errors.
"""

import json
import os
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from threading import Event, Lock
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from .endpoint import Endpoint

PASSING = (408, 429)  # and every 5xx: tried again
ONE_ROW = (400, 413, 422)  # too long, or filtered: refused as a request, not as a caller
LONGEST_BACKOFF_S = 60.0
LONGEST_PAUSE_S = 600.0
ERROR_BYTES = 65_536


class EndpointError(RuntimeError):
    """The endpoint cannot be used, in one line."""


class RefusedError(EndpointError):
    """The endpoint will not answer this one request; others it may."""


class _PassingError(Exception):
    """A failure that may pass by itself; `retry_after_s` if the server said when."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Reply:
    """What the endpoint answered; `text` may be empty."""

    text: str
    model: str
    finish_reason: str
    usage: dict[str, int]


class _NoRedirect(HTTPRedirectHandler):
    """Redirects are errors: they would carry the key to another address."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Client:
    """Asks one endpoint; may be used from several threads.

    Raises:
        ValueError: the environment variable of the key is not set, or holds no usable key.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._key = _key(endpoint.key_env)
        self._opener = build_opener(_NoRedirect)
        self._jitter = random.Random()  # its own, so that the global seed is not used up
        self._lock = Lock()
        self._paused_until = 0.0  # on the monotonic clock; a rate limit holds for all threads

    def complete(self, prompt: str, stopped: Event) -> Reply:
        """The endpoint's answer to one prompt.

        Args:
            prompt: the user's turn, or the text that a "completions" model continues.
            stopped: when set, waiting ends and nothing more is asked.

        Raises:
            RefusedError: this request is refused (400, 413, 422).
            EndpointError: the endpoint cannot be used, or fails try after try, or `stopped` is set.
        """
        data = json.dumps(self.endpoint.body(prompt)).encode()
        num_failures = 0
        while True:
            self._wait_out_pause(stopped)
            try:
                return self._post(data)
            except _PassingError as error:
                num_failures += 1
                if num_failures > self.endpoint.num_retries:
                    raise EndpointError(
                        f"{self.endpoint.url} failed {num_failures} times, at last with: {error}"
                    ) from None
                self._pause(error)
                grown = self.endpoint.backoff_s * 2.0 ** (num_failures - 1)
                self._sleep(min(LONGEST_BACKOFF_S, grown) * self._jitter.uniform(0.5, 1), stopped)

    def _pause(self, error: _PassingError) -> None:
        """Hold back every thread for as long as the server asked, if it did."""
        seconds = error.retry_after_s or 0.0
        if seconds > LONGEST_PAUSE_S:
            raise EndpointError(
                f"{self.endpoint.url} asks to wait {seconds:.0f} s; run again then ({error})"
            ) from None
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def _wait_out_pause(self, stopped: Event) -> None:
        """Wait until nobody is held back, and a little longer, so that not all start at once."""
        while (left := self._paused_until - time.monotonic()) > 0:
            self._sleep(left + self._jitter.uniform(0, self.endpoint.backoff_s), stopped)
        self._sleep(0, stopped)

    def _sleep(self, seconds: float, stopped: Event) -> None:
        if stopped.wait(seconds):
            raise EndpointError(f"{self.endpoint.url}: stopped")

    def _post(self, data: bytes) -> Reply:
        headers = {"Content-Type": "application/json", "User-Agent": "proxytune"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = Request(self.endpoint.url, data, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.endpoint.timeout_s) as response:
                return self._reply(response.read())
        except HTTPError as error:
            raise self._failure(error) from None
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise _PassingError(self._one_line(f"{type(reason).__name__}: {reason}")) from None

    def _reply(self, raw: bytes) -> Reply:
        text = raw.decode("utf-8", "replace")
        try:
            body = json.loads(text)
            choice = body["choices"][0]
            said = choice["message"]["content"] if self.endpoint.api == "chat" else choice["text"]
        except (ValueError, LookupError, TypeError):
            complaint = self._one_line(_complaint(text)) or "nothing"
            raise _PassingError(f"status 200 without a completion, but {complaint}") from None
        usage = body.get("usage")
        counts = usage.items() if isinstance(usage, dict) else ()
        return Reply(
            text=self._clean(said if isinstance(said, str) else ""),
            model=self._clean(str(body.get("model") or "")),
            finish_reason=self._clean(str(choice.get("finish_reason") or "")),
            usage={self._clean(name): count for name, count in counts if isinstance(count, int)},
        )

    def _failure(self, error: HTTPError) -> Exception:
        status = error.code
        try:
            with error:
                text = error.read(ERROR_BYTES).decode("utf-8", "replace")
        except (OSError, HTTPException):
            text = ""
        message = self._one_line(f"status {status}: {_complaint(text) or error.reason}")
        if status in PASSING or status >= 500:
            return _PassingError(message, retry_after_s(error.headers.get("Retry-After")))
        if status in ONE_ROW:
            return RefusedError(f"{self.endpoint.url} refused a request with {message}")
        variable = self.endpoint.key_env
        remedy = "check base_url and model"
        if status in (401, 403):
            remedy = (
                f"check the key in {variable}" if variable else "name the key's variable in key_env"
            )
        return EndpointError(f"{self.endpoint.url} answers {message}; {remedy}")

    def _one_line(self, text: str) -> str:
        line = " ".join(self._clean(text).split())
        return line if len(line) <= 200 else line[:197] + "..."

    def _clean(self, text: str) -> str:
        """`text` without the key, and without halves of characters that no file can hold."""
        if self._key:
            text = text.replace(self._key, "[key]")
        return text.encode("utf-8", "replace").decode("utf-8")


def retry_after_s(header: str | None) -> float | None:
    """The seconds a `Retry-After` header asks for, given as a number or as a date; None if none.

    >>> retry_after_s("2.5")
    2.5
    """
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(header)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())


def _complaint(text: str) -> str:
    """The message in an error's body, under whichever key the server has it."""
    try:
        body = json.loads(text)
    except ValueError:
        return text
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and body.get(name):
            body = body[name]
    return body if isinstance(body, str) else json.dumps(body)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"the environment variable {variable}, named in key_env, holds no key")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(f"the key in {variable} holds characters that no header can carry")
    return key
