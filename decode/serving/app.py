"""The routes of the server: the page, OpenAI's models and completions, health, metrics."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ..backends.thinking import Thinking
from .answers import error_body
from .gate import Access, Gate
from .given import read_given
from .job import STOPPED, Job, Unanswered
from .loop import Busy, Loop
from .metrics import Counts, metrics_text
from .page import page_response
from .prompts import THINKING, PromptReader
from .protocol import BadRequest, Body, ChatBody, CompletionBody, read_body
from .served_engine import Stopped
from .systems import Served

MOST_BODY_BYTES = 4 << 20
RETRY_AFTER_S = "1"
GONE = 499  # as nginx counts clients that went away


def create_app(
    systems: Sequence[Served],
    loop: Loop,
    access: Access,
    max_length: int,
    thinking: Thinking = THINKING,
) -> FastAPI:
    """The server's app, which starts the loop with itself and closes it.

    Args:
        max_length: tokens that a request's prompt and completion may have together.
        thinking: how it is kept apart in chats.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loop.start()
        try:
            yield
        finally:
            await asyncio.to_thread(loop.close)

    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(access.origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],  # OpenAI's client in a browser sends many of its own
    )
    app = FastAPI(
        title="proxytune",
        lifespan=lifespan,
        openapi_url=None,  # and no pages of its own, which would load scripts from elsewhere
        middleware=[*([cors] if access.origins else []), Middleware(Gate, access=access)],
    )
    readers = {one.name: PromptReader(one, max_length, thinking) for one in systems}
    routes = Routes({one.name: one for one in systems}, loop, readers)
    app.add_route("/", routes.page)
    app.add_route("/health", routes.health)
    app.add_route("/metrics", routes.metrics)
    app.add_route("/v1/models", routes.models)
    app.add_route("/v1/models/{name}", routes.model)
    app.add_route("/v1/completions", routes.completions, methods=["POST"])
    app.add_route("/v1/chat/completions", routes.chat_completions, methods=["POST"])
    app.add_exception_handler(HTTPException, _http_error)
    return app


class Routes:
    """The handlers, and what they share."""

    def __init__(
        self, systems: dict[str, Served], loop: Loop, readers: dict[str, PromptReader]
    ) -> None:
        self._systems, self._loop, self._readers = systems, loop, readers
        self._counts, self._created = Counts(), int(time.time())
        self._page = page_response()

    async def page(self, _: Request) -> Response:
        return self._page

    async def health(self, _: Request) -> Response:
        return PlainTextResponse("ok") if self._loop.is_alive else PlainTextResponse("dead", 503)

    async def metrics(self, _: Request) -> Response:
        return PlainTextResponse(metrics_text(self._counts, self._loop))

    async def models(self, _: Request) -> Response:
        found = [self._card(served) for served in self._systems.values()]
        return JSONResponse({"object": "list", "data": found})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._systems:
            return self._unknown(name)
        return JSONResponse(self._card(self._systems[name]))

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, CompletionBody)

    async def chat_completions(self, request: Request) -> Response:
        return await self._answer(request, ChatBody)

    def _card(self, served: Served) -> dict[str, Any]:
        card = {"id": served.name, "object": "model", "created": self._created}
        card |= {"owned_by": "proxytune"}
        reader = self._readers[served.name]
        card |= {"max_model_len": reader.max_length, "has_chat_template": reader.has_chat_template}
        if served.alpha is None:
            return card
        return {**card, "alpha": served.alpha.value, "rule": served.alpha.rule.name}

    def _unknown(self, name: str) -> Response:
        known = ", ".join(self._systems)
        message = f"model {name!r:.80} is not served; found {known}"
        return _error(404, message, "invalid_request_error", "model", "model_not_found")

    async def _answer(self, request: Request, kind: type[Body]) -> Response:
        name = ""
        try:
            body = read_body(kind, await _read(request))
            if body.model not in self._systems:
                response = self._unknown(body.model)
            else:
                name = body.model
                response = await self._answer_of(name, body, request)
        except BadRequest as error:
            response = _error(400, str(error), "invalid_request_error", error.param, error.code)
        except Busy:
            response = _error(429, "as many requests wait as may; try again", "overloaded_error")
            response.headers["retry-after"] = RETRY_AFTER_S
        except Unanswered as error:
            response = _error(error.status, str(error), "server_error")
        except Stopped:
            response = _error(503, STOPPED, "server_error")
        except ClientDisconnect:
            response = Response(status_code=GONE)
        self._counts.requests[name, response.status_code] += 1
        return response

    async def _answer_of(self, name: str, body: Body, request: Request) -> Response:
        served, reader = self._systems[name], self._readers[name]
        given = await asyncio.to_thread(read_given, served, reader, body)
        if given.num_choices > self._loop.most_rows:
            raise BadRequest(
                f"n: {given.num_choices} completions; this server holds {self._loop.most_rows}", "n"
            )
        job = Job(given, self._loop, self._counts)
        job.begin()
        if body.stream:
            return EventStream(job.events(), job.cancel)
        try:
            return await _unless_gone(request, job.whole())
        finally:
            job.cancel()


class EventStream(StreamingResponse):
    """Server-sent events; at the end, or when the client goes away, `cancel` is called."""

    def __init__(self, events: AsyncIterator[str], cancel: Callable[[], None]) -> None:
        super().__init__(
            events, media_type="text/event-stream", headers={"cache-control": "no-store"}
        )
        self._cancel = cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._cancel()


async def _read(request: Request) -> bytes:
    """The body. Raises HTTPException if it is too large."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BODY_BYTES:
            raise HTTPException(413, f"the body is larger than {MOST_BODY_BYTES} bytes")
    return bytes(data)


async def _unless_gone(request: Request, answer: Coroutine[Any, Any, Any]) -> Response:
    """The answer as JSON, unless the client goes away before it is there."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    asked, left = asyncio.create_task(answer), asyncio.create_task(gone())
    try:
        await asyncio.wait({asked, left}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(asked.result()) if asked.done() else Response(status_code=GONE)
    finally:
        asked.cancel()
        left.cancel()


def _error(
    status: int, message: str, kind: str, param: str | None = None, code: str | None = None
) -> Response:
    return JSONResponse(error_body(message, kind, param, code), status)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail, "invalid_request_error")
