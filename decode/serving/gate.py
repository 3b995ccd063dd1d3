"""Who may ask: the Host and Origin of a request, and its key. An ASGI middleware.

A page of another site that a user of this machine has open could otherwise ask a server on
loopback: by its Origin it is refused, and by its Host where a name was made to point here.
"""

import hmac
import ipaddress
import logging
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answers import error_body

logger = logging.getLogger(__name__)

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")
OPEN_PATHS = ("/", "/health")  # a browser has no key before it has the page


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask.

    Attributes:
        host: the address that the server listens on; where that is every address, requests may
            name any, but no host name.
        api_key: that all but `OPEN_PATHS` wants; None is none.
        hosts, origins: further ones that may stand in Host and Origin.
    """

    host: str
    api_key: str | None = None
    hosts: Collection[str] = ()
    origins: Collection[str] = ()

    @property
    def is_open(self) -> bool:
        """Whether other machines may ask without a key."""
        return self.api_key is None and self.host not in LOOPBACK

    def knows_host(self, name: str) -> bool:
        """Whether a request may name this host, which has no port."""
        name = name.strip("[]").lower()
        if name in (*LOOPBACK, self.host.lower(), *(host.lower() for host in self.hosts)):
            return True
        return self.host in EVERYWHERE and _is_address(name)


class Gate:
    """Refuses what may not ask, in OpenAI's form; any error of the app is a bare 500."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        has_begun = False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            logger.error("a request failed (%s)", type(error).__name__)
            if not has_begun:
                failed = JSONResponse(error_body("the server failed", "server_error"), 500)
                await failed(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, access = Headers(scope=scope), self._access
        host, origin = headers.get("host", ""), headers.get("origin")
        if not access.knows_host(_without_port(host)):
            return _refused(403, f"Host {host!r:.80} is not served here; see --allow-host")
        if origin is not None and origin not in access.origins:
            asked = urlsplit(origin)
            if asked.scheme not in ("http", "https") or asked.netloc != host:
                return _refused(403, f"Origin {origin!r:.80} may not ask; see --allow-origin")
        if access.api_key is not None and scope["path"] not in OPEN_PATHS:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            is_known = hmac.compare_digest(given.strip().encode("latin-1"), access.api_key.encode())
            if scheme.lower() != "bearer" or not is_known:
                return _refused(401, "missing or wrong API key", "invalid_api_key")
        return None


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and (":" not in name or name.endswith("]")) else host


def _refused(status: int, message: str, code: str | None = None) -> Response:
    return JSONResponse(error_body(message, "invalid_request_error", None, code), status)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
