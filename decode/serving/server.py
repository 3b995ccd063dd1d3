"""The HTTP server: it listens before models load, and says in one line when it answers."""

import asyncio
import signal
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

GRACE_S = 5.0  # after Ctrl-C, for answers under way
LAST_S = 20  # after that, connections are cut


def listen(host: str, port: int) -> socket.socket:
    """A socket at the address; port 0 is any free one.

    Raises:
        ValueError: nothing can listen there.
    """
    is_ipv6 = ":" in host
    listener = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"cannot listen at {host} port {port} ({reason}); give another --host or --port"
        ) from None
    return listener


def serve(
    app: ASGIApp,
    listener: socket.socket,
    ready: Callable[[str], None],
    stop: Callable[[], None],
) -> None:
    """Answer until Ctrl-C or SIGTERM; answers under way have a few seconds more.

    SIGTERM is a usual end, after which this returns; Ctrl-C raises KeyboardInterrupt then.

    Args:
        stop: ends the answers that are still under way then.
        ready: told the server's address once it answers.
    """
    config = uvicorn.Config(
        app,
        lifespan="on",
        access_log=False,  # a path may hold what nobody should read
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=LAST_S,
        ws="none",
    )
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again in the end
    try:
        _Server(config, lambda: ready(address), stop).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], None], stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._ready, self._stop = ready, stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        later = asyncio.get_running_loop().call_later(GRACE_S, self._stop)
        await super().shutdown(sockets)
        later.cancel()
