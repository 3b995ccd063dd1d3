"""The one thread that owns the models: it steps every served system's engine in turn.

Requests are added between two steps and leave when they end or are cancelled, so rows of many
clients are decoded together. Systems that share weights never compute at the same time.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch

from ..backends.completer import Continuation, NotFinite, Scored
from ..backends.local import fewer_rows
from ..engine.engine import Engine, Progress, Steppable
from ..engine.request import Request
from ..engine.stats import DecodingStats
from ..models.fast_path import fast_path
from ..models.guard import FastPathWrong, Guarded
from .systems import Served

logger = logging.getLogger(__name__)

NOT_FINITE = "the models' logits are NaN or infinite; load them in float32 or bfloat16"
Told = Progress | Scored | Exception  # an exception ends what was asked for


class Busy(Exception):
    """As many requests wait as may."""


class Ticket(int):
    """A request's name: its value fixes the draws, and no two tickets are equal."""

    __eq__, __ne__ = object.__eq__, object.__ne__
    __hash__ = object.__hash__


@dataclass(slots=True, eq=False)
class _Asked:
    """A request under way, and how many of its tokens were told, before and since a restart."""

    request: Request
    tell: Callable[[Told], None]
    num_told: int = 0
    num_again: int = 0


class ServedEngine:
    """The engine of one system. A step that fails is made again without what made it fail.

    Attributes:
        under_way: by ticket.
        stats: counts and timings of all decoding.
    """

    def __init__(
        self, served: Served, batch_size: int, num_draft_tokens: int | Literal["auto"]
    ) -> None:
        self.served, self.batch_size = served, batch_size
        self.under_way: dict[Any, _Asked] = {}
        self.stats = DecodingStats()
        self._num_draft_tokens: int | Literal["auto"] = num_draft_tokens
        self._scoring: deque[tuple[Iterator[Scored], Callable[[Told], None]]] = deque()
        self._restart()

    @property
    def is_idle(self) -> bool:
        return not self.under_way and not self._scoring

    def add(self, request: Request, tell: Callable[[Told], None]) -> None:
        """Take in a request, whose name is a Ticket and whose prompts are ids."""
        self.under_way[request.name] = _Asked(request, tell)
        self._engine.add(request)

    def cancel(self, name: Any) -> None:
        """Drop a request, if it is still under way; its slot is free."""
        if self.under_way.pop(name, None) is not None:
            self._engine.cancel(name)

    def score(self, continuations: Sequence[Continuation], tell: Callable[[Told], None]) -> None:
        """Take in continuations to be scored, in turn with the others."""
        self._scoring.append((iter(self.served.scorer.score(continuations)), tell))

    def cancel_score(self, tell: Callable[[Told], None]) -> None:
        """Drop what is to be scored for `tell`, if it is not done."""
        self._scoring = deque(one for one in self._scoring if one[1] is not tell)

    def turn(self) -> None:
        """One step of the rows, then one of what is to be scored."""
        if self.under_way:
            self._step()
        if self._scoring:
            self._score()

    def _step(self) -> None:
        try:
            progress = self._engine.step()
            if any(given.completion is not None for given in progress):
                self._guard.check()  # before a completion is given out
        except FastPathWrong as error:
            logger.warning("decoding without CUDA graphs and streams from here on (%s)", error)
            fast_path.is_on = False
        except torch.OutOfMemoryError as error:
            if self.batch_size == 1:
                self._fail(list(self.under_way), error)
            else:
                self.batch_size = fewer_rows(self.batch_size, error)
        except FloatingPointError as error:
            self._fail([error.args[0]], NotFinite(error.args[0], NOT_FINITE))
        except Exception as error:
            logger.error("%s: a step failed (%s)", self.served.name, type(error).__name__)
            self._fail(list(self.under_way), error)
        else:
            for given in progress:
                self._tell(given)
            return
        self._restart()

    def _tell(self, given: Progress) -> None:
        asked = self.under_way[given.name]
        num_known = min(asked.num_again, len(given.token_ids))
        asked.num_again -= num_known
        new = given.token_ids[num_known:]
        asked.num_told += len(new)
        if given.completion is not None:
            del self.under_way[given.name]
        asked.tell(Progress(given.name, new, given.completion))

    def _fail(self, names: Iterable[Any], error: Exception) -> None:
        for name in names:
            self.under_way.pop(name).tell(error)

    def _restart(self) -> None:
        """A new engine, which begins all rows again: the same tokens, but told once."""
        model = self.served.model
        model.clear()
        self._guard = Guarded(model)
        self._engine = Engine(
            cast(Steppable, self._guard),
            self.served.tokenizers.base,
            self.batch_size,
            self._num_draft_tokens,
            stats=self.stats,
        )
        for asked in self.under_way.values():
            asked.num_again = asked.num_told
            self._engine.add(asked.request)

    def _score(self) -> None:
        scores, tell = self._scoring[0]
        try:
            scored = next(scores, None)
        except Exception as error:
            if not isinstance(error, NotFinite):
                logger.error("%s: scoring failed (%s)", self.served.name, type(error).__name__)
            tell(error)
            scored = None
        if scored is not None:
            tell(scored)
            return
        self._scoring.popleft()
        if not self._scoring:
            self.served.scorer.model.clear()


class Loop:
    """The thread. Its methods may be called from any other; `tell` is called in the thread.

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
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop after the step under way; what was asked for is not answered any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def num_rows(self, name: str) -> int:
        """How many rows of a system are under way or wait."""
        return self._num_rows[name]

    def complete(
        self, name: str, requests: Sequence[Request], tell: Callable[[Told], None]
    ) -> Callable[[], None]:
        """Have requests completed; returns what cancels those that are still under way.

        Args:
            name: of the system.
            requests: their names are tickets, their prompts ids.
            tell: is given each one's progress.

        Raises:
            Busy: more would wait than may; none is taken in.
        """
        engine = self.engines[name]
        left = {request.name for request in requests}

        def told(ticket: Any, what: Told) -> None:
            if isinstance(what, Exception) or cast(Progress, what).completion is not None:
                left.discard(ticket)
                self._leave(name, 1)
            tell(what)

        def cancel() -> None:
            self._leave(name, len(left))
            for ticket in left:
                engine.cancel(ticket)
            left.clear()

        def add() -> None:
            for request in requests:
                engine.add(request, lambda what, ticket=request.name: told(ticket, what))

        self._enter(name, len(requests), add)
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
            tell(what)

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
                while not (self._calls or self._is_closed or not all(e.is_idle for e in engines)):
                    self._changed.wait()
                if self._is_closed:
                    return
                calls, self._calls = self._calls, []
            for call in calls:
                call()
            for engine in engines:
                engine.turn()
