"""Thinking kept apart from the answer that follows it, within a budget of tokens.

A completion thinks if its prompt ends with the start mark, or if it begins with it. It is then made
of two requests: one for the thinking, without the request's stops, which are the answer's; and one
for the answer, which goes on from the prompt, the thinking and the end mark. So a completion is
still a function of its request alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from transformers import PreTrainedTokenizerBase

from ..engine.request import Chat, Completion, Name, Prompt, Request, RolePrompt
from .completer import ModelCompleter, NotFinite

BATCHES_AT_ONCE = 8  # of requests; a killed run loses no more than these
NUM_BLANKS = 2  # tokens of white space that may come before the start mark
# As published templates write them: DeepSeek-R1, Qwen3 and many more; Magistral; Gemma 4; gpt-oss.
MARKS = (
    ("<think>", "</think>\n\n"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)

Marks = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Thinking:
    """How thinking is told from the answer, and how long it may be.

    Attributes:
        start, end: the marks around it; None are those that a model's chat template shows.
        max_tokens: between the marks at most; then the end mark is put there. None is no budget of
            its own: thinking and answer share the request's max_new_tokens, and no end is put.
    """

    start: str | None = None
    end: str | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if (self.start is None) != (self.end is None):
            raise ValueError("thinking: start and end go together; give both, or leave both out")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"thinking: max_tokens must be 1 or more, found {self.max_tokens}")

    def marks(self, tokenizer: PreTrainedTokenizerBase) -> Marks | None:
        """The start and end mark of a model; None if its template shows none of those known."""
        if self.start is not None and self.end is not None:
            return self.start, self.end
        template = "" if tokenizer.chat_template is None else tokenizer.get_chat_template()
        return next((marks for marks in MARKS if marks[0] in template), None)

    def num_tokens(self, tokenizers: Iterable[PreTrainedTokenizerBase]) -> int:
        """How many tokens it may add to a completion's max_new_tokens, marks included.

        Args:
            tokenizers: of all models that may think.

        Raises:
            ValueError: the marks of none of them are known.
        """
        found = [(one, marks) for one in tokenizers if (marks := self.marks(one))]
        if not found:
            raise ValueError(
                "decode.thinking: no model's chat template shows how it marks thinking; "
                "give start and end"
            )
        if self.max_tokens is None:
            return 0
        return self.max_tokens + max(
            _num_opening(one, start) + len(_ids(one, end)) for one, (start, end) in found
        )


@dataclass(frozen=True, slots=True)
class Thought(Completion):
    """A completion that thought first: its text is the answer, `token_ids` are of both.

    Attributes:
        thinking: the text between the marks.
        num_thinking_tokens: the start mark included where it was emitted.
        thinking_end: emitted by the model, put there when the budget was used up, or missing. Of
            thinking that never ended the answer is empty.
    """

    thinking: str
    num_thinking_tokens: int
    thinking_end: Literal["own", "budget", "never"]


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
    thinker = _Thinker(completer, marks, thinking.max_tokens)
    for start in range(0, len(asked), step):
        yield from thinker.complete(asked[start : start + step])


class _Thinker:
    """Completes requests in steps: whether they think, what they think, what they answer."""

    def __init__(self, completer: ModelCompleter, marks: Marks, max_tokens: int | None) -> None:
        self._completer, self._tokenizer = completer, completer.tokenizers.base
        (self._start, self._end), self._max_tokens = marks, max_tokens
        first = _ids(self._tokenizer, self._end)[0]
        is_token = first in set(cast(Any, self._tokenizer).get_added_vocab().values())
        self._end_id = first if is_token else None
        # White space after the mark is no part of what the model must emit.
        self._stop = () if is_token else (self._end.rstrip(),)
        self._num_opening = _num_opening(self._tokenizer, self._start)

    def complete(self, requests: Sequence[Request]) -> Iterator[Completion]:
        encode = self._completer.tokenizers.encode
        asked = {one.name: replace(one, prompt=encode(one.prompt)) for one in requests}
        if len(asked) < len(requests):
            raise ValueError("two requests have one name")
        begun = {one.name: 0 for one in requests if self._is_open(one, asked[one.name])}
        peeks = [self._peek(one) for name, one in asked.items() if name not in begun]
        for done in self._completer.complete(peeks):
            if self._text(done.token_ids).lstrip().startswith(self._start):
                begun[done.name] = self._num_through(done.token_ids, self._start)
        yield from self._completer.complete(one for name, one in asked.items() if name not in begun)
        thinkers = [self._thinker(asked[name], num) for name, num in begun.items()]
        answers: dict[Name, tuple[Request, Thought]] = {}
        for done in self._completer.complete(thinkers):
            request = asked[done.name]
            thought, answer = self._ended(request, done, begun[done.name])
            if answer is None:
                yield thought
            else:
                answers[answer.name] = answer, thought
        try:
            for done in self._completer.complete(answer for answer, _ in answers.values()):
                thought = answers[done.name][1]
                yield replace(
                    thought,
                    text=done.text,
                    token_ids=thought.token_ids + done.token_ids,
                    finish_reason=done.finish_reason,
                )
        except NotFinite as error:
            raise NotFinite(answers[error.name][1].name, error.problem) from None

    def _is_open(self, request: Request, encoded: Request) -> bool:
        """Whether the prompt leaves off in the middle of thinking."""
        prompt = request.prompt.base if isinstance(request.prompt, RolePrompt) else request.prompt
        said = _last_message(prompt)
        if said.rfind(self._start) > said.rfind(self._end.rstrip()):
            return True
        ids = cast(Sequence[int], cast(RolePrompt, encoded.prompt).base)
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

    def _ended(
        self, request: Request, done: Completion, num_begun: int
    ) -> tuple[Thought, Request | None]:
        """What was thought, and the request for the answer; None where there is none to come."""
        ids, end = done.token_ids, self._end.rstrip()
        whole = self._text(ids)
        is_own = ids[-1] == self._end_id or (self._end_id is None and end in whole)
        reason: Literal["own", "budget", "never"] = "own" if is_own else "never"
        if not is_own and self._max_tokens is not None and done.finish_reason == "length":
            reason = "budget"
        kept, rest = list(ids), ""
        if is_own:
            body = self._text(ids[:-1]) if self._end_id is not None else whole.partition(end)[0]
            while len(self._text(kept)) > len(body):
                kept.pop()
            rest = body[len(self._text(kept)) :]  # before the mark, in a token with part of it
            whole = body
        said = whole.partition(self._start)[2] if num_begun else whole
        more = [] if reason == "never" else _ids(self._tokenizer, rest + self._end)
        token_ids = (*kept, *more)
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
        tokenizers, name = self._completer.tokenizers, f"{request.name}/answer"
        longer = tokenizers.longer(cast(RolePrompt, request.prompt), token_ids)
        return thought, replace(request, name=name, prompt=longer, max_new_tokens=left)

    def _num_through(self, ids: Sequence[int], mark: str) -> int:
        """How many of the ids hold the mark."""
        return next(num for num in range(1, len(ids) + 1) if mark in self._text(ids[:num]))

    def _text(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included: marks may be made of them."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def _last_message(prompt: Prompt) -> str:
    """The text of a message that the completion goes on from."""
    if not isinstance(prompt, Chat) or not prompt.goes_on or isinstance(prompt.messages, str):
        return ""
    return str(prompt.messages[-1].get("content"))


def _num_opening(tokenizer: PreTrainedTokenizerBase, start: str) -> int:
    """How many tokens a completion may take to emit the start mark."""
    ids = _ids(tokenizer, start)
    is_token = ids[0] in set(cast(Any, tokenizer).get_added_vocab().values())
    return NUM_BLANKS + (len(ids) if is_token else len(start.encode()))


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return cast(list[int], tokenizer.encode(text, add_special_tokens=False))
