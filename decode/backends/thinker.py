"""Completions whose thinking is kept apart: how a request becomes thinking and answer.

A completion thinks if its prompt ends with the start mark, or if it begins with it. It is then made
of two requests: one for the thinking, without the request's stops, which are the answer's; and one
for the answer, which goes on from the prompt, the thinking and the end mark. So a completion is
still a function of its request alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from ..engine.request import Chat, Completion, Prompt, Request, RolePrompt
from ..engine.stops import added
from ..models.prompts import RoleTokenizers
from .completer import ModelCompleter, NotFinite
from .thinking import Marks, Thinking, Thought, num_opening, plain_ids

BATCHES_AT_ONCE = 8  # of requests; a killed run loses no more than these


def complete_with_thinking(
    completer: ModelCompleter, requests: Iterable[Request], thinking: Thinking | None
) -> Iterator[Completion]:
    """Completions as `completer.complete` makes them; those that think are a `Thought`.

    None, or a model whose marks are not known, leaves completions whole.
    """
    marks = None if thinking is None else thinking.marks(completer.tokenizers.base)
    if thinking is None or marks is None:
        yield from completer.complete(requests)
        return
    asked, step = list(requests), BATCHES_AT_ONCE * completer.batch_size
    thinker = Thinker(completer.tokenizers, marks, thinking.max_tokens)
    for start in range(0, len(asked), step):
        yield from _complete(completer, thinker, asked[start : start + step])


def _complete(
    completer: ModelCompleter, thinker: "Thinker", requests: Sequence[Request]
) -> Iterator[Completion]:
    encode = completer.tokenizers.encode
    left = [
        thinker.begin(replace(one, prompt=encode(one.prompt)), _last_message(one.prompt))
        for one in requests
    ]
    if len({row.request.name for row in left}) < len(left):
        raise ValueError("two requests have one name")
    while left:
        rows = {row.asks.name: row for row in left}
        try:
            for done in completer.complete([row.asks for row in left]):
                if (whole := thinker.told(rows[done.name], done)) is not None:
                    left.remove(rows[done.name])
                    yield whole
        except NotFinite as error:
            raise NotFinite(rows[error.name].request.name, error.problem) from None


@dataclass(slots=True, eq=False)
class ThinkingRow:
    """A request on its way to its completion, part by part.

    Attributes:
        request: its prompts are ids.
        asks: the request that gives the part.
        part: a peek shows whether it thinks, and is made again as the beginning of what follows:
            its thinking, or the whole of a completion that does not think.
        num_begun: tokens of its thinking that hold the start mark.
        opening: what they hold after it.
        thought: what the answer follows.
    """

    request: Request
    asks: Request
    part: Literal["peek", "thinking", "answer", "whole"]
    num_begun: int = 0
    opening: str = ""
    thought: Thought | None = None


class Thinker:
    """Takes requests through their parts: whether they think, what they think, what they answer.

    Args:
        marks, max_tokens: as `Thinking` has them.
    """

    def __init__(self, tokenizers: RoleTokenizers, marks: Marks, max_tokens: int | None) -> None:
        self._tokenizers, self._tokenizer = tokenizers, tokenizers.base
        (self._start, self._end), self._max_tokens = marks, max_tokens
        first = plain_ids(self._tokenizer, self._end)[0]
        is_token = first in set(cast(Any, self._tokenizer).get_added_vocab().values())
        self._end_id = first if is_token else None
        self.end = self._end.rstrip()  # white space after it is no part of what is emitted
        self._stop = () if is_token else (self.end,)
        self._num_opening = num_opening(self._tokenizer, self._start)

    def begin(self, request: Request, said: str = "") -> ThinkingRow:
        """A request's way to its completion.

        Args:
            request: its prompts are ids.
            said: the message that its completion goes on from.
        """
        if self._is_open(request, said):
            return ThinkingRow(request, self._thinker(request, 0), "thinking")
        return ThinkingRow(request, self._peek(request), "peek")

    def told(self, row: ThinkingRow, done: Completion) -> Completion | None:
        """The whole completion, or None: then `row.asks` is to be completed next."""
        if row.part == "peek":
            if not self._text(done.token_ids).lstrip().startswith(self._start):
                row.asks, row.part = row.request, "whole"
                return None
            row.num_begun = self._num_through(done.token_ids, self._start)
            begun = self._text(done.token_ids[: row.num_begun])
            row.opening = begun.partition(self._start)[2]
            row.asks, row.part = self._thinker(row.request, row.num_begun), "thinking"
            return None
        if row.part == "thinking":
            thought, answer = self._ended(row, done)
            if answer is None:
                return thought
            row.thought, row.asks, row.part = thought, answer, "answer"
            return None
        if row.thought is None:
            return done
        token_ids = row.thought.token_ids + done.token_ids
        return replace(
            row.thought, text=done.text, token_ids=token_ids, finish_reason=done.finish_reason
        )

    def _is_open(self, request: Request, said: str) -> bool:
        """Whether the prompt leaves off in the middle of thinking."""
        if said.rfind(self._start) > said.rfind(self.end):
            return True
        ids = cast(Sequence[int], cast(RolePrompt, request.prompt).base)
        return self._text(ids[-2 * self._num_opening - 8 :]).rstrip().endswith(self._start)

    def _peek(self, request: Request) -> Request:
        num = self._num_opening
        if self._max_tokens is None:
            num = min(num, request.max_new_tokens)
        return replace(request, max_new_tokens=num, stop=())

    def _thinker(self, request: Request, num_begun: int) -> Request:
        budget = self._max_tokens
        limit = request.max_new_tokens if budget is None else num_begun + budget
        ends = () if self._end_id is None else (self._end_id,)
        return replace(request, max_new_tokens=limit, stop=self._stop, stop_ids=ends)

    def _ended(self, row: ThinkingRow, done: Completion) -> tuple[Thought, Request | None]:
        """What was thought, and the request for the answer; None where there is none to come."""
        request, ids = row.request, done.token_ids
        whole = self._text(ids)
        is_own = ids[-1] == self._end_id or (self._end_id is None and self.end in whole)
        reason: Literal["own", "budget", "never"] = "own" if is_own else "never"
        if not is_own and self._max_tokens is not None and done.finish_reason == "length":
            reason = "budget"
        kept, rest = list(ids), ""
        if is_own:
            body = (
                self._text(ids[:-1]) if self._end_id is not None else whole.partition(self.end)[0]
            )
            while len(self._text(kept)) > len(body):
                kept.pop()
            rest = body[len(self._text(kept)) :]  # before the mark, in a token with part of it
        more = [] if reason == "never" else plain_ids(self._tokenizer, rest + self._end)
        token_ids = (*kept, *more)
        prompt = cast(RolePrompt, request.prompt)
        before = [*cast(Sequence[int], prompt.base), *kept[: row.num_begun]]
        said = row.opening + added(self._tokenizer, before, kept[row.num_begun :]) + rest
        thought = Thought(
            request.name, "", token_ids, done.finish_reason, said.strip(), len(kept), reason
        )
        left = request.max_new_tokens
        if self._max_tokens is None:
            left -= len(token_ids)
        if reason == "never":
            return thought, None
        if left < 1:
            return replace(thought, finish_reason="length"), None
        longer = self._tokenizers.longer(prompt, token_ids)
        name = f"{request.name}/answer"
        return thought, replace(request, name=name, prompt=longer, max_new_tokens=left)

    def _num_through(self, ids: Sequence[int], mark: str) -> int:
        """How many of the ids hold the mark."""
        return next(num for num in range(1, len(ids) + 1) if mark in self._text(ids[:num]))

    def _text(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included: marks may be made of them."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def _last_message(prompt: RolePrompt | Prompt) -> str:
    """The text of a message that the completion goes on from."""
    prompt = prompt.base if isinstance(prompt, RolePrompt) else prompt
    if not isinstance(prompt, Chat) or not prompt.goes_on or isinstance(prompt.messages, str):
        return ""
    return str(prompt.messages[-1].get("content"))
