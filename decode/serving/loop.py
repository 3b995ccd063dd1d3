"""The one thread that owns the models: it steps every served system's engine in turn.

Requests are added between two steps and leave when they end or are cancelled, so rows of many
clients are decoded together. Systems that share weights never compute at the same time. What a
step gave all rows goes to the event loop at once: each hand-over stops this thread for a while.
"""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

from ..backends.completer import Continuation
from ..engine.engine import Progress
from ..engine.request import Request
from .served_engine import ServedEngine, Stopped, Told
from .systems import Served


class Busy(Exception):
    """As many requests wait as may."""


class Ticket(int):
    """A request's name: its value fixes the draws, and no two tickets are equal."""

    __eq__, __ne__ = object.__eq__, object.__ne__
    __hash__ = object.__hash__


class AnswerTicket(str):
    """The name of an answer's request that follows thinking, in the same way."""

    __eq__, __ne__ = object.__eq__, object.__ne__
    __hash__ = object.__hash__


class Loop:
    """The thread. Its methods may be called from any other.

    `tell` is called on the event loop that started the thread, after each step.

    Args:
        batch_size: rows of one system that are stepped together.
        max_waiting: rows of one system that may wait beyond those.
    """

    def __init__(
        self,
        systems: Sequence[Served],
        batch_size: int,
        max_waiting: int,
        num_draft_tokens: int | Literal["auto"] = "auto",
    ) -> None:
        self.engines = {s.name: ServedEngine(s, batch_size, num_draft_tokens) for s in systems}
        self.most_rows = batch_size + max_waiting
        self._num_rows: Counter[str] = Counter()  # taken in and not ended, by system
        self._changed = threading.Condition()
        self._calls: list[Callable[[], None]] = []
        self._told: list[tuple[Callable[[Told], None], Told]] = []  # since the last hand-over
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin. Called on the event loop that is told."""
        self._clients = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End after this step; what is under way is told Stopped. Does not wait for that."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()

    def close(self) -> None:
        """Stop, and wait for the thread's end."""
        self.stop()
        self._thread.join()

    def num_rows(self, name: str) -> int:
        """How many rows of a system are under way or wait."""
        return self._num_rows[name]

    def complete(
        self,
        name: str,
        requests: Sequence[Request],
        tell: Callable[[Told], None],
        is_taken_in: bool = False,
    ) -> Callable[[], None]:
        """Have requests completed; returns what cancels those that are still under way.

        Args:
            name: of the system.
            requests: their names are tickets, their prompts ids.
            tell: is given each one's progress.
            is_taken_in: they go on with requests that have ended, so they do not wait.

        Raises:
            Busy: more would wait than may; none is taken in.
            Stopped: the loop has ended.
        """
        engine = self.engines[name]
        left = {request.name for request in requests}

        def told(ticket: Any, what: Told) -> None:
            if isinstance(what, Exception) or cast(Progress, what).completion is not None:
                left.discard(ticket)
                self._leave(name, 1)
            self._told.append((tell, what))

        def cancel() -> None:
            self._leave(name, len(left))
            for ticket in left:
                engine.cancel(ticket)
            left.clear()

        def add() -> None:
            for request in requests:
                engine.add(request, lambda what, ticket=request.name: told(ticket, what))

        self._enter(name, len(requests), add, is_taken_in)
        return lambda: self._call(cancel)

    def score(
        self,
        name: str,
        continuations: Sequence[Continuation],
        tell: Callable[[Told], None],
        is_taken_in: bool = False,
    ) -> Callable[[], None]:
        """Have continuations scored; returns what cancels that. Raises as `complete` does.

        Args:
            tell: is given each score.
            is_taken_in: they are completions of `complete`, so they do not wait.
        """
        engine, num_left = self.engines[name], len(continuations)

        def leave(num_rows: int) -> None:
            nonlocal num_left
            num_left -= num_rows
            self._leave(name, num_rows)

        def told(what: Told) -> None:
            leave(num_left if isinstance(what, Exception) else 1)
            self._told.append((tell, what))

        def cancel() -> None:
            engine.cancel_score(told)
            leave(num_left)

        self._enter(
            name, len(continuations), lambda: engine.score(continuations, told), is_taken_in
        )
        return lambda: self._call(cancel)

    def _enter(
        self, name: str, num_rows: int, call: Callable[[], None], is_taken_in: bool = False
    ) -> None:
        with self._changed:
            if self._is_stopped:
                raise Stopped
            if not is_taken_in and self._num_rows[name] + num_rows > self.most_rows:
                raise Busy
            self._num_rows[name] += num_rows
            self._calls.append(call)
            self._changed.notify()

    def _leave(self, name: str, num_rows: int) -> None:
        with self._changed:
            self._num_rows[name] -= num_rows

    def _call(self, call: Callable[[], None]) -> None:
        with self._changed:
            self._calls.append(call)
            self._changed.notify()

    def _run(self) -> None:
        engines = list(self.engines.values())
        while True:
            with self._changed:
                while not (self._calls or self._is_stopped or not all(e.is_idle for e in engines)):
                    self._changed.wait()
                calls, self._calls = self._calls, []
                is_stopped = self._is_stopped
            for call in calls:
                call()
            if is_stopped:
                for engine in engines:
                    engine.stop()
                self._hand_over()
                return
            for engine in engines:
                engine.turn()
                self._hand_over()

    def _hand_over(self) -> None:
        if self._told:
            told, self._told = self._told, []
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                self._clients.call_soon_threadsafe(_tell, told)


def _tell(told: Sequence[tuple[Callable[[Told], None], Told]]) -> None:
    for tell, what in told:
        tell(what)
