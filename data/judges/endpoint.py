"""Which OpenAI-compatible endpoint is asked, and what a request to it says.

Two of its paths are spoken: `/chat/completions`, and `/completions` for models fine-tuned to go on
from the bare prompt. The key is not part of the settings; they name the environment variable or the
file that holds it. Azure wants `query: {api-version: ...}` and `key_header: api-key`, and its
`base_url` ends in `/openai/deployments/NAME`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlencode

import httpx

# The same as in recipes/schema/tasks.py, which imports nothing from here.
ADDRESS = re.compile(
    r"https?://(?:(?![^:/]{254})\w[\w-]{0,62}(?:\.\w[\w-]{0,62})*|\[[0-9A-Fa-f:.]+\])"
    r"(?::0*(?P<port>[1-9]\d{0,4}))?(?:/(?:[\w.~!$'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*",
    re.ASCII,
)
PATHS = {"chat": "chat/completions", "completions": "completions"}
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
OUR_HEADERS = (
    "authorization", "host", "connection", "content-type", "content-length", "transfer-encoding",
    "accept-encoding", "user-agent",
)  # fmt: skip
OURS = ("model", "messages", "prompt", "stream", "n")  # what `parameters` may not hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Which endpoint is asked, and how.

    Attributes:
        base_url: up to and with `/v1`.
        model: as the server calls it.
        key_env: the environment variable that holds the key; None sends none.
        key_file: in its place, a file that holds the key and nothing else.
        key_header: the header that carries it; Authorization says `Bearer` before it.
        headers: further ones, sent with every request.
        query: what follows the address after a `?`.
        api: "chat", or "completions" for a model that continues the bare prompt.
        parameters: sent with every request as they are, e.g. max_completion_tokens.
        timeout_s: the longest that a try may take, from connecting to the answer's last byte.
        concurrency: requests under way at once.
        num_retries: tries after the first.
        backoff_s: the wait before the second try; it doubles from try to try.
    """

    base_url: str
    model: str
    key_env: str | None = None
    key_file: str | None = None
    key_header: str = "Authorization"
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    api: Literal["chat", "completions"] = "chat"
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {"temperature": 0, "max_tokens": 256}
    )
    timeout_s: float = 120.0
    concurrency: int = 8
    num_retries: int = 6
    backoff_s: float = 1.0

    def __post_init__(self) -> None:
        if not _is_address(self.base_url):  # not shown: it may hold a key
            raise ValueError(
                "base_url must look like http://localhost:8000/v1, an address alone: no user, key, "
                "query, spaces or characters beyond ASCII; name the key's variable in key_env"
            )
        if self.key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_env):
            raise ValueError("key_env must be the name of an environment variable, never the key")
        if self.key_env is not None and self.key_file is not None:
            raise ValueError("key_env and key_file both name a key; leave one out")
        ours = {*OUR_HEADERS, self.key_header.lower()}
        for name, value in {self.key_header: "", **self.headers}.items():
            if not HEADER.fullmatch(name) or not value.isascii() or not value.isprintable():
                raise ValueError(f"headers.{name}: no header can carry this name or its value")
        for name in self.headers:
            if name.lower() in ours:
                raise ValueError(f"headers must not hold '{name}'; it is set for each request")
        if self.api not in PATHS:
            raise ValueError(f"api must be one of {', '.join(PATHS)}, found {self.api!r}")
        for key in OURS:
            if key in self.parameters:
                raise ValueError(f"parameters must not hold '{key}'; it is set for each request")
        if min(self.timeout_s, self.backoff_s, self.concurrency) <= 0 or self.num_retries < 0:
            raise ValueError(
                "timeout_s, backoff_s and concurrency must be above 0, num_retries not below, "
                f"found {self.timeout_s}, {self.backoff_s}, {self.concurrency}, {self.num_retries}"
            )

    @property
    def url(self) -> str:
        query = f"?{urlencode(self.query)}" if self.query else ""
        return f"{self.base_url.rstrip('/')}/{PATHS[self.api]}{query}"

    def body(self, prompt: str) -> dict[str, Any]:
        """The request for one prompt, which also decides its answer: it says model and prompt."""
        asked = (
            {"messages": [{"role": "user", "content": prompt}]}
            if self.api == "chat"
            else {"prompt": prompt}
        )
        return {**self.parameters, "model": self.model, **asked}


def _is_address(text: str) -> bool:
    match = ADDRESS.fullmatch(text)
    try:
        return match is not None and int(match["port"] or 1) < 65536 and bool(httpx.URL(text))
    except httpx.InvalidURL:  # an IP address that is none
        return False
