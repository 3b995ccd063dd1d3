"""A server on loopback that sends bytes as a test says, HTTP or not."""

import contextlib
import socket
from threading import Thread

import pytest


class RawServer:
    """Reads each request whole, then calls `behave(connection, request)` in a thread of its own."""

    def __init__(self, behave):
        self.behave, self.requests = behave, []
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.base_url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                connection, _ = self.socket.accept()
                Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, contextlib.suppress(OSError):  # the client has gone
            connection.settimeout(20)
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            head, _, body = request.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            while len(body) < length:
                body += connection.recv(65536)
            self.requests.append((head.decode("latin-1"), body))
            self.behave(connection, self.requests[-1])


def response(body, status="200 OK", **headers):
    """The bytes of a response that ends with its connection; a header of None is left out."""
    given = {"Content_Length": len(body), "Connection": "close", **headers}
    lines = [f"{k.replace('_', '-')}: {v}" for k, v in given.items() if v is not None]
    head = "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""])
    return head.encode("latin-1") + body


@pytest.fixture
def raw_serve():
    """Starts a server with a `behave` function, or one that sends the same bytes each time."""
    servers = []

    def start(behave):
        def send(connection, _):
            connection.sendall(behave)

        servers.append(RawServer(send if isinstance(behave, bytes) else behave))
        return servers[-1]

    yield start
    for server in servers:
        server.socket.close()
