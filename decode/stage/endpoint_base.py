"""A base behind an endpoint: asked once for every text, and every answer on record.

An answer is a line of a JSON-lines file before it is used, found again by the digest of address,
model, parameters and prompt. So a killed run pays for nothing twice, and systems that come to the
same text share its answer. All texts of one step are asked for at once.
"""

import asyncio
import math
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter

from data.judges.client import Client, EndpointError
from data.judges.endpoint import Endpoint
from data.judges.record import append_record, digest_of, read_record
from recipes.schema.recipe import EndpointBase

from ..backends.next_tokens import Asked, EndpointSource, Shown, ShownToken

ONE_TOKEN = {"temperature": 0, "max_tokens": 1}


def endpoint_source(base: EndpointBase, key: str, record: Path) -> EndpointSource:
    """Where a recipe's base is asked.

    Args:
        key: where the recipe names it.
        record: the file of its answers.

    Raises:
        ValueError: its key is not there, or a setting of the endpoint is wrong; in one line.
    """
    asks_alone = {"endpoint", "top_logprobs", "max_requests", "prompt", "continue_with"}
    given = base.model_dump(exclude=asks_alone, exclude_none=True)
    try:
        settings = {"parameters": ONE_TOKEN, **given, "base_url": base.endpoint}
        endpoint = Endpoint(**settings)
        next_tokens = RecordedEndpoint(
            endpoint, base.top_logprobs, record, base.max_requests, base.continue_with, key
        )
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    return EndpointSource(
        name=base.model,
        url=base.endpoint,
        top_logprobs=base.top_logprobs,
        prompt=base.prompt,
        goes_on=base.api == "completions" or base.continue_with is not None,
        asked={
            "api": base.api,
            "parameters": dict(endpoint.parameters),
            "continue_with": base.continue_with,
        },
        next_tokens=next_tokens,
        key=key,
    )


class RecordedEndpoint:
    """`NextTokens` of an endpoint and a file that keeps its answers.

    Args:
        top_logprobs: how many tokens it is asked to show.
        record: made when the first answer comes.
        max_requests: answers that may be on record at most; None is no limit.
        continue_with: what a chat's request sends where it ends with the assistant's message; None
            if the endpoint does not go on from one.
        key: the recipe's, which errors name.

    Raises:
        ValueError: the endpoint's key is not there.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        top_logprobs: int,
        record: Path,
        max_requests: int | None,
        continue_with: dict[str, Any] | None,
        key: str,
    ) -> None:
        self._endpoint, self._client = endpoint, Client(endpoint)
        self._top_logprobs, self._record, self._key = top_logprobs, record, key
        self._max_requests, self._continue_with = max_requests, continue_with
        self._rows: dict[str, dict[str, Any]] | None = None  # by digest; read when first asked
        self._loop: asyncio.AbstractEventLoop | None = None

    def show(self, asked: Sequence[Asked]) -> list[Shown]:
        """What may follow each.

        Raises:
            EndpointError: the endpoint cannot be used, or max_requests is reached; what was
                answered is on record.
            RecordError: the record holds something else than its answers.
        """
        if self._rows is None:
            found = read_record(self._record, "log-probabilities of an endpoint")
            self._rows = {row["digest"]: row for row in found}
        bodies = [self._body(one) for one in asked]
        digests = [digest_of({"endpoint": self._endpoint.url, **body}) for body in bodies]
        missing = {d: b for d, b in zip(digests, bodies, strict=True) if d not in self._rows}
        self._check_budget(len(missing))
        if missing:
            self._wait_for(self._ask_all(missing, self._rows))
        return [
            _shown(self._rows[digest], is_new=missing.pop(digest, None) is not None)
            for digest in digests
        ]

    def _check_budget(self, num_more: int) -> None:
        num_paid = len(self._rows or ())
        if self._max_requests is not None and num_paid + num_more > self._max_requests:
            raise EndpointError(
                f"{self._key}.max_requests: {num_paid} of {self._max_requests} requests are paid "
                f"for, and the next step has {num_more}; run again with a higher limit, nothing "
                f"in {self._record} is asked twice"
            )

    async def _ask_all(
        self, missing: dict[str, dict[str, Any]], rows: dict[str, dict[str, Any]]
    ) -> None:
        limiter = CapacityLimiter(self._endpoint.concurrency)

        async def ask(digest: str, body: dict[str, Any]) -> None:
            async with limiter:
                answer = await self._client.ask(body, self._read)
            row = {"digest": digest, **answer}
            append_record(self._record, row)
            rows[digest] = row

        # All end before the first failure is told: what is under way is paid for.
        asking = (ask(digest, body) for digest, body in missing.items())
        failures = await asyncio.gather(*asking, return_exceptions=True)
        for failure in failures:
            if isinstance(failure, EndpointError):
                raise EndpointError(
                    f"{failure}; {self._record} has what was answered: run again for the rest"
                )
            if failure is not None:
                raise failure

    def _wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` on a loop of its own, whose connections stay open from step to step."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True).start()
        waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            waiting.result()
        except BaseException:  # an interruption ends the requests under way
            waiting.cancel()
            raise

    def _body(self, asked: Asked) -> dict[str, Any]:
        body = {**self._endpoint.parameters, "model": self._endpoint.model}
        if self._endpoint.api == "completions":
            text = asked.prompt
            prompt = text + asked.completion if isinstance(text, str) else list(text)
            return {**body, "prompt": prompt, "logprobs": self._top_logprobs}
        messages = [{"role": "user", "content": asked.prompt}]
        if asked.completion:
            if self._continue_with is None:
                raise EndpointError(
                    f"{self._key}: a chat endpoint shows the first token of an answer, and a "
                    "second one is asked for; set continue_with, or api: completions"
                )
            messages.append({"role": "assistant", "content": asked.completion})
            body |= self._continue_with
        shown = {"logprobs": True, "top_logprobs": self._top_logprobs}
        return {**body, "messages": messages, **shown}

    def _read(self, body: dict[str, Any]) -> dict[str, Any]:
        """An answer as its record holds it."""
        choice = body["choices"][0]
        is_chat = self._endpoint.api == "chat"
        text = choice["message"]["content"] if is_chat else choice["text"]
        told = choice.get("logprobs") or {}
        places = told.get("content")  # of a chat, and of llama.cpp's completions
        is_listed = is_chat or places is not None
        places = places if is_listed else told.get("top_logprobs")
        is_end = not places and not text and choice.get("finish_reason") == "stop"
        if not places and not is_end:
            raise EndpointError(
                f"{self._endpoint.url} answers without log-probabilities, which steer nothing; "
                "take an endpoint and a model that tell top_logprobs"
            )
        first = places[0] if places else {}
        if is_listed:
            tokens = [
                self._token(one["token"], one["logprob"], one.get("bytes"))
                for one in first.get("top_logprobs", ())
            ]
        else:
            tokens = [self._token(token, logprob) for token, logprob in first.items()]
        if not tokens and not is_end:
            raise LookupError("no tokens")
        tokens.sort(key=lambda token: -token[1])
        return {"tokens": tokens, "is_end": is_end, "usage": self._client.usage(body)}

    def _token(self, text: str, logprob: float, raw: list[int] | None = None) -> list[Any]:
        if math.isnan(logprob):
            raise ValueError("a log-probability is NaN")
        token = [self._client.without_key(text), float(logprob)]
        return token if raw is None else [*token, list(bytes(raw))]


def _shown(row: dict[str, Any], is_new: bool) -> Shown:
    usage = row["usage"]
    return Shown(
        tokens=tuple(
            ShownToken(text, logprob, bytes(raw[0]) if raw else None)
            for text, logprob, *raw in row["tokens"]
        ),
        is_end=row["is_end"],
        is_new=is_new,
        num_prompt_tokens=usage.get("prompt_tokens", 0),
        num_completion_tokens=usage.get("completion_tokens", 0),
    )
