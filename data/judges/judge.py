"""Asking a judge about many completions, and keeping all its answers.

Every answer is a line of a JSON-lines file before the next question is asked, so that a killed
run asks nothing twice. A line is found again by the digest of the request that led to it (model,
parameters and prompt; not the address), hence other questions never get old answers.

An answer counts only if it makes one of the choices it was given, alone on its first or last line.
Anything else (empty, cut off, undecided, chatter) is "unparsed": it is counted, shown, and scored
neither way.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyio import create_task_group
from anyio.abc import TaskGroup
from anyio.from_thread import start_blocking_portal

from .client import Client, EndpointError, RefusedError, Reply
from .endpoint import Endpoint
from .record import append_record, digest_of, read_record

logger = logging.getLogger(__name__)

NUM_REFUSALS = 8  # if the first so many are refused, so will the others be


# Items, what is done with them, how many there are.
Follow = Callable[[Iterable[tuple[str, "Request"]], str, int], Iterator[tuple[str, "Request"]]]


@dataclass(frozen=True, slots=True)
class Request:
    """One question to the judge; `id` is for readers of the record."""

    id: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one completion was found to be worth.

    Attributes:
        value: in [0, 1]; None if a judgement it needs was unparsed.
        parts: the judgements it is made of, by name; None where unparsed.
        notes: what else is worth keeping beside it.
    """

    value: float | None
    parts: dict[str, float | None] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


class Judge:
    """A judge behind an endpoint, and the file that keeps its answers.

    Args:
        endpoint: where to ask.
        record: a JSON-lines file; made when the first answer comes.
        follow: the items that it is given, with their progress shown; by default it is not.

    Raises:
        ValueError: the key's environment variable is not set.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        record: str | Path,
        follow: Follow = lambda items, doing, total: iter(items),
    ) -> None:
        self.endpoint = endpoint
        self.record = Path(record)
        self._client, self._follow = Client(endpoint), follow

    def ask(self, requests: Sequence[Request], choices: tuple[str, ...]) -> list[str | None]:
        """The choice made on each request, in their order; None where the answer makes none.

        Answers on record are not asked for again. Refused requests (too long, filtered) are, and
        otherwise count as unparsed.

        Raises:
            EndpointError: the endpoint cannot be used; what was answered is on record.
        """
        digests = [self._digest(request) for request in requests]
        answers = {row["digest"]: row["text"] for row in read_record(self.record) if "text" in row}
        missing = {d: r for d, r in zip(digests, requests, strict=True) if d not in answers}
        if missing:
            answers |= self._ask(missing, choices, has_answers=bool(answers))
        verdicts = [read_choice(answers.get(digest, ""), choices) for digest in digests]
        num_unparsed = verdicts.count(None)
        if num_unparsed:
            logger.warning(
                "%d of %d judgements are unparsed and not in the score; %s has what the judge said",
                num_unparsed,
                len(verdicts),
                self.record,
            )
        return verdicts

    def _ask(
        self, missing: dict[str, Request], choices: tuple[str, ...], has_answers: bool
    ) -> dict[str, str]:
        """The raw answers to `missing`, by digest; each is on record when it is counted."""
        answers: dict[str, str] = {}
        refusals: list[RefusedError] = []
        failures: list[Exception] = []  # the first is the cause, the others were stopped by it
        doing = f"asking {self.endpoint.model}"
        waiting = self._follow(missing.items(), doing, len(missing))

        async def ask(digest: str, request: Request) -> None:
            row: dict[str, Any] = {"id": request.id, "digest": digest}
            try:
                reply = await self._client.complete(request.prompt)
            except RefusedError as error:
                append_record(self.record, {**row, "error": str(error)})
                refusals.append(error)
                many = min(NUM_REFUSALS, len(missing))
                if len(refusals) >= many and not (has_answers or answers):
                    raise EndpointError(f"{error} (and {many - 1} more)") from None
            else:
                append_record(self.record, _row(row, reply, choices))
                answers[digest] = reply.text

        async def ask_in_turn(group: TaskGroup) -> None:
            try:
                for digest, request in waiting:
                    await ask(digest, request)
            except Exception as error:
                failures.append(error)
                group.cancel_scope.cancel()

        async def ask_all() -> None:
            async with self._client, create_task_group() as group:
                for _ in range(min(self.endpoint.concurrency, len(missing))):
                    group.start_soon(ask_in_turn, group)

        # In a thread of its own: a notebook has a loop already, and an interruption, which is
        # raised in this thread, ends the requests under way.
        with start_blocking_portal() as portal:
            portal.call(ask_all)
        if failures and not isinstance(failures[0], EndpointError):
            raise failures[0]
        if failures:
            raise EndpointError(
                f"{failures[0]}; {len(answers)} of {len(missing)} judgements asked for now are in "
                f"{self.record}: run again for the others"
            )
        if refusals:
            logger.warning("%d requests were refused, the last: %s", len(refusals), refusals[-1])
        return answers

    def _digest(self, request: Request) -> str:
        asked = {"api": self.endpoint.api, **self.endpoint.body(request.prompt)}
        return digest_of(asked)


def read_choice(text: str, choices: tuple[str, ...]) -> str | None:
    """The one of `choices` that is alone on the first or last line; None if none or two do.

    Case, markup and a lead such as "Verdict:" do not matter; a thought in <think> is passed over.

    >>> read_choice("Verdict: **yes**", ("yes", "no"))
    'yes'
    """
    answer = text.rpartition("</think>")[2]
    if "<think>" in answer:  # cut off while it thought
        return None
    named = "|".join(map(re.escape, choices))
    pattern = re.compile(
        rf"\W*(?:(?:(?:the|my|final) )*(?:answer|choice|verdict)(?: is)?\W+)?({named})\W*",
        re.IGNORECASE,
    )
    lines = [line for line in answer.splitlines() if line.strip()]
    matches = [pattern.fullmatch(line) for line in lines[:1] + lines[-1:]]
    found = {match[1].lower() for match in matches if match}
    return next((choice for choice in choices if found == {choice.lower()}), None)


def _row(row: dict[str, Any], reply: Reply, choices: tuple[str, ...]) -> dict[str, Any]:
    return {
        **row,
        "model": reply.model,
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "usage": reply.usage,
        "verdict": read_choice(reply.text, choices),
    }
