"""Asking an endpoint: one request in, one answer out, however many tries that takes.

Errors that may pass by themselves are retried: lost connections, time-outs, 5xx, 408 and 429.
Waits grow exponentially, with jitter; a `Retry-After` holds back every request, not only the one
that was told. Everything else is one clear line. No try takes longer than `timeout_s`, and no more
of an answer is read than `MOST_BYTES`. Redirects are not followed: they would carry the key to
another address. Proxies and certificates are those of the environment (HTTPS_PROXY, NO_PROXY,
SSL_CERT_FILE).

The key goes into the request's header and nowhere else: should a server repeat it, it is blotted
out of texts and errors.
"""

import json
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import anyio
import httpx

from .endpoint import Endpoint
from .known_key import KnownKey, read_key

PASSING = (408, 429)  # and every 5xx: tried again
ONE_ROW = (400, 413, 422)  # too long, or filtered: refused as a request, not as a caller
LONGEST_BACKOFF_S = 60.0
LONGEST_PAUSE_S = 600.0
MOST_BYTES = 4 << 20  # a long answer with its log-probabilities has a tenth

# What a terminal may obey: C0, C1, directions, invisible characters; in `CONTROLS` not \t \n \r.
CONTROLS = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f]"
)
SPACES = re.compile(r"\s+")
T = TypeVar("T")


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


class Client:
    """Asks one endpoint, several requests at once: `async with client: await client.complete(...)`.

    Raises:
        ValueError: the key's environment variable or file is not there, or holds no usable key; or
            the environment's proxy or certificates cannot be used.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        key = read_key(endpoint)
        self._known_key = KnownKey(key)
        self._headers = {
            **endpoint.headers,
            "Content-Type": "application/json",
            "User-Agent": "proxytune",
        }
        self._headers["Accept-Encoding"] = "identity"  # what is read is what takes memory
        if key:
            is_bearer = endpoint.key_header.lower() == "authorization"
            self._headers[endpoint.key_header] = f"Bearer {key}" if is_bearer else key
        try:
            self._certificates = httpx.create_ssl_context()
            self._http = self._connections()
        except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
            raise ValueError(
                f"the environment's proxy or certificates cannot be used ({type(error).__name__}); "
                "write HTTP_PROXY, HTTPS_PROXY and ALL_PROXY as http://host:port, and let "
                "SSL_CERT_FILE name a file, or unset them"
            ) from None
        self._jitter = random.Random()  # its own, so that the global seed is not used up
        self._paused_until = 0.0  # on the monotonic clock; a rate limit holds for all requests

    async def __aenter__(self) -> "Client":
        self._http = self._connections()  # those before belong to an event loop that has ended
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    def _connections(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers=self._headers,
            timeout=None,  # `_post` limits a try as a whole
            verify=self._certificates,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # none are kept
        )

    async def complete(self, prompt: str) -> Reply:
        """The endpoint's answer to one prompt.

        Args:
            prompt: the user's turn, or the text that a "completions" model continues.

        Raises:
            RefusedError: this request is refused (400, 413, 422).
            EndpointError: the endpoint cannot be used, or fails try after try.
        """
        return await self.ask(self.endpoint.body(prompt), self._reply)

    async def ask(self, body: Mapping[str, Any], read: Callable[[dict[str, Any]], T]) -> T:
        """What `read` makes of the endpoint's answer to one request.

        Args:
            body: of the request.
            read: the answer's JSON -> what is wanted of it. Its LookupError, TypeError or
                ValueError says that this is no answer, so that the endpoint is asked again.

        Raises:
            RefusedError, EndpointError: as `complete` does; what else `read` raises.
        """
        data = json.dumps(body).encode()
        num_failures = 0
        while True:
            await self._wait_out_pause()
            try:
                return await self._post(data, read)
            except _PassingError as error:
                num_failures += 1
                if num_failures > self.endpoint.num_retries:
                    raise EndpointError(
                        f"{self.endpoint.url} failed {num_failures} times, at last with: {error}"
                    ) from None
                self._pause(error)
                grown = self.endpoint.backoff_s * 2.0 ** min(num_failures - 1, 30)
                await anyio.sleep(min(LONGEST_BACKOFF_S, grown) * self._jitter.uniform(0.5, 1))

    def _pause(self, error: _PassingError) -> None:
        """Hold back every request for as long as the server asked, if it did."""
        seconds = error.retry_after_s or 0.0
        if seconds > LONGEST_PAUSE_S:
            raise EndpointError(
                f"{self.endpoint.url} asks to wait {seconds:.0f} s; run again then ({error})"
            ) from None
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    async def _wait_out_pause(self) -> None:
        """Wait until nobody is held back, and a little longer, so that not all start at once."""
        while (left := self._paused_until - time.monotonic()) > 0:
            await anyio.sleep(left + self._jitter.uniform(0, self.endpoint.backoff_s))

    async def _post(self, data: bytes, read: Callable[[dict[str, Any]], T]) -> T:
        try:
            with anyio.fail_after(self.endpoint.timeout_s):
                async with self._http.stream("POST", self.endpoint.url, content=data) as response:
                    body = await _read(response)
        except TimeoutError:
            limit = f"{self.endpoint.timeout_s:g} s"
            raise _PassingError(f"no whole answer within timeout_s, {limit}") from None
        except (httpx.TransportError, OSError) as error:
            cause = _cause(error)
            raise _PassingError(self._one_line(f"{type(cause).__name__}: {cause}")) from None
        except (httpx.InvalidURL, ValueError) as error:
            problem = self._one_line(f"{type(error).__name__}: {error}")
            raise EndpointError(f"{self.endpoint.url}: {problem}; check base_url") from None
        if not response.is_success:
            raise self._failure(response, body)
        if body is None:
            raise EndpointError(
                f"{self.endpoint.url} answers with more than {MOST_BYTES >> 20} MiB; check "
                "base_url and model, or lower max_tokens in parameters"
            )
        try:
            return read(json.loads(body.decode("utf-8", "replace")))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            complaint = self._one_line(_complaint(body)) or "nothing"
            raise _PassingError(f"status 200 without a completion, but {complaint}") from None

    def _reply(self, body: dict[str, Any]) -> Reply:
        choice = body["choices"][0]
        said = choice["message"]["content"] if self.endpoint.api == "chat" else choice["text"]
        return Reply(
            text=self._clean(_joined(said)),
            model=self._clean(body.get("model")),
            finish_reason=self._clean(choice.get("finish_reason")),
            usage=self.usage(body),
        )

    def usage(self, body: dict[str, Any]) -> dict[str, int]:
        """The counts of tokens in an answer, by the server's names."""
        usage = body.get("usage")
        counts = usage.items() if isinstance(usage, dict) else ()
        return {self._clean(name): count for name, count in counts if isinstance(count, int)}

    def _failure(self, response: httpx.Response, body: bytes | None) -> Exception:
        status = response.status_code
        complaint = _complaint(body or b"")
        message = self._one_line(f"status {status}: {complaint or response.reason_phrase}")
        if status in PASSING or status >= 500:
            return _PassingError(message, retry_after_s(response.headers.get("Retry-After")))
        if status in ONE_ROW:
            return RefusedError(f"{self.endpoint.url} refused a request with {message}")
        place = self.endpoint.key_env or self.endpoint.key_file
        remedy = "check base_url and model"
        if status in (401, 403):
            named = "name the key's variable in key_env, or its file in key_file"
            remedy = f"check the key in {place}" if place else named
        return EndpointError(f"{self.endpoint.url} answers {message}; {remedy}")

    def _one_line(self, text: str) -> str:
        line = SPACES.sub(" ", self._clean(text)).strip()
        line = line if len(line) <= 200 else line[:197] + "..."
        return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)

    def _clean(self, text: Any) -> str:
        """`text` without the key, and without characters that no file or terminal should get.

        Anything but text is none.
        """
        if not isinstance(text, str):
            return ""
        return self.without_key(CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text))

    def without_key(self, text: str) -> str:
        """`text` without the key, and without halves of characters; control characters stay."""
        return self._known_key.blotted(text.encode("utf-8", "replace").decode("utf-8"))


def retry_after_s(header: str | None) -> float | None:
    """The seconds a `Retry-After` header asks for, given as a number or as a date; None if none.

    >>> retry_after_s("2.5")
    2.5
    """
    if header is None:
        return None
    if re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]{1,12})?", header):
        return max(0.0, float(header))
    try:
        then = parsedate_to_datetime(header)
        then = then if then.tzinfo else then.replace(tzinfo=UTC)
        return max(0.0, (then - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, LookupError, OverflowError):
        return None


async def _read(response: httpx.Response) -> bytes | None:
    """The body as it was sent; None if it is longer than `MOST_BYTES`."""
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > MOST_BYTES:
            return None
    return bytes(body)


def _complaint(raw: bytes) -> str:
    """The message in an error's body, under whichever key the server has it."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:  # compressed, say, which was not asked for
        return f"{len(raw)} bytes that are no text"
    try:
        body = json.loads(text)
        for name in ("error", "message", "detail"):
            if isinstance(body, dict) and body.get(name):
                body = body[name]
        return body if isinstance(body, str) else json.dumps(body)
    except (ValueError, RecursionError):
        return text


def _cause(error: BaseException) -> BaseException:
    """What an error comes from: the operating system says more than the layers above it."""
    while True:
        below = error.__cause__ or error.__context__
        if isinstance(error, BaseExceptionGroup):
            below = error.exceptions[0]
        if below is None:
            return error
        error = below


def _joined(content: Any) -> Any:
    """The text of an answer that comes as a list of parts, as some servers send it."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))
