"""One client's request from its body to its answer, whole or as a stream of events."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from ..backends.completer import Continuation, NotFinite, Scored
from ..engine.engine import Progress
from ..engine.request import Completion, Request, RolePrompt
from ..engine.rule import Alpha
from .answers import Answer, chat_logprobs, completion_logprobs, error_body
from .loop import Loop, Ticket
from .metrics import Counts
from .prompts import PromptReader
from .protocol import BadRequest, Body, ChatBody, CompletionBody
from .served_engine import Stopped, Told
from .systems import Served
from .text import GrowingText

STOPPED = "the server is being stopped"
DONE = "data: [DONE]\n\n"


class Unanswered(Exception):
    """The models could not answer; in one line why, and the status that says so."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Given:
    """What a client asked, as the models take it.

    Attributes:
        prompts: one a choice, choices of one prompt together; as ids.
        num_tokens: of each completion at most; 0 is only for an echo.
        num_prompt_tokens: each prompt counted once, as the base reads it.
        num_likeliest: tokens a place whose scores are wanted; None if none are.
    """

    served: Served
    reader: PromptReader
    body: Body
    prompts: list[RolePrompt]
    alpha: Alpha | None
    num_tokens: int
    num_prompt_tokens: int
    num_likeliest: int | None
    echoes: bool

    @property
    def num_choices(self) -> int:
        return len(self.prompts)

    def prompt_ids(self, choice: int) -> list[int]:
        """The prompt as the base reads it."""
        return cast(list[int], self.prompts[choice].base)

    def requests(self) -> list[Request]:
        """A request a choice, named by tickets that are the choices' numbers."""
        body, sampling = self.body, self.body.sampling()
        return [
            Request(Ticket(choice), prompt, self.num_tokens, body.stops, sampling, self.alpha)
            for choice, prompt in enumerate(self.prompts)
        ]


def read_job(served: Served, reader: PromptReader, body: Body) -> Given:
    """A body's prompts as ids, its alpha and what is to be scored. Takes a while for long prompts.

    Raises:
        BadRequest: in one line what is wrong.
    """
    alpha = served.alpha
    for key, value in (("alpha", body.alpha), ("rule", body.rule)):
        if value is not None and alpha is None:
            raise BadRequest(f"{key}: '{served.name}' has none; ask proxy", key)
    if alpha is not None and body.alpha is not None:
        alpha = replace(alpha, value=body.alpha)
    if alpha is not None and body.rule is not None:
        alpha = replace(alpha, rule=body.rule.rule())
    if isinstance(body, CompletionBody):
        prompts = [reader.text(prompt) for prompt in body.prompts]
        num_likeliest, echoes = body.logprobs, bool(body.echo)
    else:
        assert isinstance(body, ChatBody)
        prompts = [reader.chat(body)]
        num_likeliest = (body.top_logprobs or 0) if body.logprobs else None
        echoes = False
    if body.by_role:
        if alpha is None:
            raise BadRequest(f"by_role: '{served.name}' is one model; ask proxy", "by_role")
        if num_likeliest is None:
            raise BadRequest("by_role: only with logprobs", "by_role")
    num_tokens = reader.num_tokens(prompts, body.limit, body.usual_tokens)
    if echoes and num_likeliest is not None:
        for prompt in prompts:
            _check_prompt_scores(prompt, alpha)
    num_prompt_tokens = sum(len(cast(list[int], prompt.base)) for prompt in prompts)
    each = [prompt for prompt in prompts for _ in range(body.num_choices)]
    return Given(
        served, reader, body, each, alpha, num_tokens, num_prompt_tokens, num_likeliest, echoes
    )


def _check_prompt_scores(prompt: RolePrompt, alpha: Alpha | None) -> None:
    if not prompt.base == prompt.expert == prompt.antiexpert:
        raise BadRequest(
            "echo: the models read different prompts, so a prompt has no logprobs; "
            "leave out echo or logprobs",
            "echo",
        )
    if alpha is not None and not alpha.rule.is_even:
        raise BadRequest(
            f"echo: by the rule {alpha.rule.name} alpha depends on a token's place in a "
            "completion, so a prompt has no logprobs; leave out echo or logprobs",
            "echo",
        )


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
        is_chat = isinstance(given.body, ChatBody)
        self._answer = Answer(is_chat, given.served.name, given.num_prompt_tokens)

    def begin(self) -> None:
        """Take the request in. Raises Busy."""
        given = self._given
        if given.num_tokens:
            requests, tell = given.requests(), self._inbox.tell
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
        given, completions = self._given, {}
        while given.num_tokens and len(completions) < given.num_choices:
            for progress in cast(list[Progress], await self._inbox.all()):
                if progress.completion is not None:
                    completions[int(progress.name)] = progress.completion
        if given.num_tokens and given.num_likeliest is not None:
            ids = {choice: completions[choice].token_ids for choice in range(given.num_choices)}
            self._begin_scoring(ids, is_taken_in=True)
        scores: dict[int, Scored] = {}
        while given.num_likeliest is not None and len(scores) < given.num_choices:
            for scored in cast(list[Scored], await self._inbox.all()):
                scores[int(scored.name)] = scored
        num_tokens = sum(len(completion.token_ids) for completion in completions.values())
        self._counts.completion_tokens[given.served.name] += num_tokens
        choices = await asyncio.to_thread(self._choices, completions, scores)
        return self._answer.whole(choices, num_tokens)

    async def events(self) -> AsyncIterator[str]:
        """The answer as server-sent events, those of a step together."""
        try:
            async for event in self._events():
                yield event
        except (Unanswered, ValueError, Stopped) as error:
            yield _event(error_body(str(error) or STOPPED, "server_error"))

    async def _events(self) -> AsyncIterator[str]:
        given, answer, num_tokens = self._given, self._answer, 0
        stop = given.body.stops
        numbers = range(given.num_choices)
        texts = [GrowingText(self._tokenizer, given.prompt_ids(n), stop) for n in numbers]
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
                number = int(told.name)
                if isinstance(told, Scored):
                    done = ended.get(number)
                    logprobs = await asyncio.to_thread(self._logprobs, number, done, told)
                    reason = done.finish_reason if done else "length"
                    left.remove(number)
                    events.append(_event(answer.part([answer.delta(number, "", reason, logprobs)])))
                    continue
                completion, reason = told.completion, None
                num_tokens += len(told.token_ids)
                self._counts.completion_tokens[given.served.name] += len(told.token_ids)
                if completion is None:
                    piece = texts[number].more(told.token_ids)
                else:
                    piece = texts[number].end(completion.text)
                    if is_scored:
                        ended[number] = completion
                        self._begin_scoring({number: completion.token_ids}, is_taken_in=True)
                    else:
                        reason = completion.finish_reason
                        left.remove(number)
                if piece or reason:
                    events.append(_event(answer.part([answer.delta(number, piece, reason)])))
        if not given.num_tokens and not is_scored:
            events.append(_event(answer.part([answer.delta(n, "", "length") for n in numbers])))
        if given.body.includes_usage:
            events.append(_event({**answer.part([]), "usage": answer.usage(num_tokens)}))
        yield "".join([*events, DONE])

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
            reason = done.finish_reason if done else None
            logprobs = self._logprobs(choice, done, scores[choice]) if scores else None
            found.append(self._answer.choice(choice, text, reason, logprobs))
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


def _event(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"
