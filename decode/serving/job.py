"""One client's request from its body to its answer, whole or as a stream of events."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from ..backends.completer import Continuation, NotFinite, Scored
from ..backends.thinker import ThinkingRow
from ..backends.thinking import Thought
from ..engine.engine import Progress
from ..engine.request import Completion, RolePrompt
from .answers import Answer, chat_logprobs, completion_logprobs, error_body
from .given import Given
from .loop import AnswerTicket, Loop
from .metrics import Counts
from .protocol import ChatBody, CompletionBody
from .served_engine import Stopped, Told
from .text import GrowingText

STOPPED = "the server is being stopped"
DONE = "data: [DONE]\n\n"


class Unanswered(Exception):
    """The models could not answer; in one line why, and the status that says so."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


class Inbox:
    """What the models told one request, in order."""

    def __init__(self) -> None:
        self._told: list[Told] = []
        self._has_some = asyncio.Event()

    def tell(self, told: Told) -> None:
        self._told.append(told)
        self._has_some.set()

    async def all(self) -> list[Progress | Scored]:
        """Everything that is there, once there is something. Raises Unanswered."""
        await self._has_some.wait()
        self._has_some.clear()
        told, self._told = self._told, []
        return [_answered(one) for one in told]


def _answered(told: Told) -> Progress | Scored:
    if isinstance(told, NotFinite):
        raise Unanswered(told.problem)
    if isinstance(told, torch.OutOfMemoryError):
        raise Unanswered("out of memory; ask for less")
    if isinstance(told, Stopped):
        raise Unanswered(STOPPED, 503)
    if isinstance(told, Exception):
        raise Unanswered("the models failed")
    return told


class Job:
    """A client's request under way: `begin`, then `whole` or `events`, then `cancel`."""

    def __init__(self, given: Given, loop: Loop, counts: Counts) -> None:
        self._given, self._loop, self._counts = given, loop, counts
        self._tokenizer = given.reader.tokenizers.base
        self._inbox = Inbox()
        self._cancels: list[Callable[[], None]] = []
        self._rows: dict[int, ThinkingRow] = {}  # of the choices, where thinking is kept apart
        is_chat = isinstance(given.body, ChatBody)
        self._answer = Answer(is_chat, given.served.name, given.num_prompt_tokens)

    def begin(self) -> None:
        """Take the request in. Raises Busy."""
        given = self._given
        if given.num_tokens:
            requests, tell = given.requests(), self._inbox.tell
            if given.thinker is not None:
                said = cast(ChatBody, given.body).goes_on_from
                rows = [given.thinker.begin(request, said) for request in requests]
                self._rows, requests = dict(enumerate(rows)), [row.asks for row in rows]
            self._cancels.append(self._loop.complete(given.served.name, requests, tell))
        elif given.num_likeliest is not None:
            self._begin_scoring({n: () for n in range(given.num_choices)}, is_taken_in=False)
        self._counts.prompt_tokens[given.served.name] += given.num_prompt_tokens

    def cancel(self) -> None:
        """Drop what is not done."""
        for cancel in self._cancels:
            cancel()

    async def whole(self) -> dict[str, Any]:
        """The answer. Raises Unanswered."""
        given, completions = self._given, cast(dict[int, Completion], {})
        while given.num_tokens and len(completions) < given.num_choices:
            for progress in cast(list[Progress], await self._inbox.all()):
                if (done := await self._whole(progress)) is not None:
                    completions[_choice(progress)] = done
        if given.num_tokens and given.num_likeliest is not None:
            ids = {choice: completions[choice].token_ids for choice in range(given.num_choices)}
            self._begin_scoring(ids, is_taken_in=True)
        scores: dict[int, Scored] = {}
        while given.num_likeliest is not None and len(scores) < given.num_choices:
            for scored in cast(list[Scored], await self._inbox.all()):
                scores[_choice(scored)] = scored
        num_tokens = sum(len(completion.token_ids) for completion in completions.values())
        self._counts.completion_tokens[given.served.name] += num_tokens
        choices = await asyncio.to_thread(self._choices, completions, scores)
        return self._answer.whole(choices, completions.values())

    async def _whole(self, progress: Progress) -> Completion | None:
        """The choice's completion, if it is whole now. Of one that thinks the next part begins."""
        done, row = progress.completion, self._rows.get(_choice(progress))
        if done is None or row is None:
            return done
        given = self._given
        assert given.thinker is not None
        whole = await asyncio.to_thread(given.reader.told, given.thinker, row, done)
        if whole is None:
            if isinstance(row.asks.name, str):
                row.asks = replace(row.asks, name=AnswerTicket(row.asks.name))
            name, tell = given.served.name, self._inbox.tell
            self._cancels.append(self._loop.complete(name, [row.asks], tell, is_taken_in=True))
        return whole

    async def events(self) -> AsyncIterator[str]:
        """The answer as server-sent events, those of a step together."""
        try:
            async for event in self._events():
                yield event
        except (Unanswered, ValueError, Stopped) as error:
            yield _event(error_body(str(error) or STOPPED, "server_error"))

    async def _events(self) -> AsyncIterator[str]:
        given, answer = self._given, self._answer
        numbers = range(given.num_choices)
        texts = [self._text(number) for number in numbers]
        events: list[str] = []
        for number in numbers:
            if answer.is_chat or given.echoes:
                begin = answer.delta(number, self._echo(number), is_first=True)
                events.append(_event(answer.part([begin])))
        is_scored = given.num_likeliest is not None
        ended: dict[int, Completion] = {}
        left = set(numbers) if given.num_tokens or is_scored else set()
        while left:
            if events:
                yield "".join(events)
                events = []
            for told in await self._inbox.all():
                number = _choice(told)
                if isinstance(told, Scored):
                    done = ended.get(number)
                    logprobs = await asyncio.to_thread(self._logprobs, number, done, told)
                    reason = done.finish_reason if done else "length"
                    left.remove(number)
                    events.append(_event(answer.part([answer.delta(number, "", reason, logprobs)])))
                    continue
                self._counts.completion_tokens[given.served.name] += len(told.token_ids)
                part, reason = self._part(number), None
                completion = await self._whole(told)
                if part == "peek":
                    piece = ""
                elif told.completion is None:
                    piece = texts[number].more(told.token_ids)
                elif part == "thinking":
                    thought = cast(Thought, completion or self._rows[number].thought)
                    piece = texts[number].end(thought.thinking)
                else:
                    piece = texts[number].end(told.completion.text)
                if told.completion is not None and completion is None:
                    texts[number] = self._text(number)
                if completion is not None:
                    ended[number] = completion
                    if is_scored:
                        self._begin_scoring({number: completion.token_ids}, is_taken_in=True)
                    else:
                        reason = completion.finish_reason
                        left.remove(number)
                if piece or reason:
                    is_thinking = part == "thinking"
                    delta = answer.delta(number, piece, reason, is_thinking=is_thinking)
                    events.append(_event(answer.part([delta])))
        if not given.num_tokens and not is_scored:
            events.append(_event(answer.part([answer.delta(n, "", "length") for n in numbers])))
        if given.body.includes_usage:
            usage = answer.usage(ended.values())
            events.append(_event({**answer.part([]), "usage": usage}))
        yield "".join([*events, DONE])

    def _part(self, choice: int) -> str:
        row = self._rows.get(choice)
        return "whole" if row is None else row.part

    def _text(self, choice: int) -> GrowingText:
        """The text of the part that a choice is in."""
        prompt_ids, stop = self._given.prompt_ids(choice), self._given.body.stops
        row, thinker = self._rows.get(choice), self._given.thinker
        if row is None or thinker is None:
            return GrowingText(self._tokenizer, prompt_ids, stop)
        if row.part == "thinking":
            end = (thinker.end,)
            return GrowingText(self._tokenizer, prompt_ids, end, row.num_begun, row.opening, True)
        before = () if row.thought is None else row.thought.token_ids
        return GrowingText(self._tokenizer, [*prompt_ids, *before], stop)

    def _begin_scoring(self, completions: Mapping[int, Sequence[int]], is_taken_in: bool) -> None:
        given = self._given
        continuations = []
        for choice, ids in completions.items():
            prompt, token_ids = given.prompts[choice], list(ids)
            if given.echoes:  # the first token alone is the prompt
                own = given.prompt_ids(choice)
                prompt, token_ids = RolePrompt.same(own[:1]), [*own[1:], *token_ids]
            continuations.append(
                Continuation(choice, prompt, token_ids, given.alpha, given.num_likeliest or 0)
            )
        name, tell = given.served.name, self._inbox.tell
        self._cancels.append(self._loop.score(name, continuations, tell, is_taken_in))

    def _choices(
        self, completions: dict[int, Completion], scores: dict[int, Scored]
    ) -> list[dict[str, Any]]:
        found = []
        for choice in range(self._given.num_choices):
            done = completions.get(choice)
            text = self._echo(choice) + (done.text if done else "")
            logprobs = self._logprobs(choice, done, scores[choice]) if scores else None
            found.append(self._answer.choice(choice, text, done, logprobs))
        return found

    def _logprobs(self, choice: int, done: Completion | None, scored: Scored) -> dict[str, Any]:
        ids, has_roles = list(done.token_ids) if done else [], bool(self._given.body.by_role)
        if self._answer.is_chat:
            return chat_logprobs(self._tokenizer, ids, scored, has_roles)
        own, echoes = self._given.prompt_ids(choice), self._given.echoes
        before, ids = ([], [*own, *ids]) if echoes else (own, ids)
        return completion_logprobs(self._tokenizer, before, ids, scored, echoes, has_roles)

    def _echo(self, choice: int) -> str:
        if not self._given.echoes:
            return ""
        prompts = cast(CompletionBody, self._given.body).prompts
        prompt = prompts[choice // self._given.body.num_choices]
        if isinstance(prompt, str):
            return prompt
        return cast(str, self._tokenizer.decode(prompt, skip_special_tokens=True))


def _choice(told: Progress | Scored) -> int:
    """The number of a choice, which the tickets of its parts begin with."""
    return int(str(told.name).partition("/")[0])


def _event(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"
