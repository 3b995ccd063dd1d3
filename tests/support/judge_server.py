"""A judge on loopback: a real HTTP server that speaks the OpenAI protocol."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import pytest


class JudgeServer(ThreadingHTTPServer):
    """Speaks the OpenAI protocol; `answer(request)` says what comes back to each request."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.lock = answer, Lock()
        self.seen, self.num_active, self.most_active = [], 0, 0

    def handle_error(self, *_):
        if not isinstance(sys.exception(), ConnectionError):  # a client that was killed or gave up
            super().handle_error(*_)

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def prompts(self):
        return [request["prompt"] for request in self.seen]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = self.path.partition("?")[0].endswith("/chat/completions")
        request = {
            "path": self.path,
            "key": self.headers.get("Authorization"),
            "headers": dict(self.headers),
            "body": body,
            "prompt": body["messages"][-1]["content"] if chat else body.get("prompt"),
            "time": time.monotonic(),
        }
        with server.lock:
            request["number"] = len(server.seen)
            server.seen.append(request)
            server.num_active += 1
            server.most_active = max(server.most_active, server.num_active)
        try:
            reply = server.answer(request)
        finally:
            with server.lock:
                server.num_active -= 1
        if isinstance(reply, str):
            message = {"message": {"role": "assistant", "content": reply}}
            reply = completion(message if chat else {"text": reply})
        status, headers, payload = reply
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(payload)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


def completion(choice, **more):
    usage = {"prompt_tokens": 7, "completion_tokens": 1, "details": {"cached": 0}}
    choices = [{"index": 0, "finish_reason": "stop", **choice}]
    body = {"model": "judge-1", "choices": choices, "usage": usage, **more}
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


def failure(status, message="no", **headers):
    body = json.dumps({"error": {"message": message, "type": "test"}}).encode()
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, body


@pytest.fixture
def serve():
    """Starts a server with an `answer` function; all are closed at the end."""
    servers = []

    def start(answer):
        server = JudgeServer(answer)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
