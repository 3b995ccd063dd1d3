"""One served system's engine: rows come and go, and a step that fails is made again."""

import logging
from collections import deque
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


class Stopped(Exception):
    """The server ends, so nothing is answered any more."""


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

    def stop(self) -> None:
        """End everything under way."""
        self._fail(list(self.under_way), Stopped())
        while self._scoring:
            self._scoring.popleft()[1](Stopped())

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
