"""The HTTP server: it listens before models load, and says in one line when it answers."""

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

GRACE_S = 5  # after Ctrl-C, for answers under way


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


def serve(app: ASGIApp, listener: socket.socket, ready: Callable[[str], None]) -> None:
    """Answer until Ctrl-C or SIGTERM; answers under way have a few seconds more.

    Args:
        ready: told the server's address once it answers.
    """
    config = uvicorn.Config(
        app,
        lifespan="on",
        access_log=False,  # a path may hold what nobody should read
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        ws="none",
    )
    host, port = listener.getsockname()[:2]
    _Server(config, lambda: ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")).run(
        sockets=[listener]
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()
