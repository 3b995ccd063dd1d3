"""What clients get: OpenAI's answers as plain JSON values."""

import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..analysis.token_text import pieces, token_text
from ..backends.completer import Likeliest, Scored
from ..backends.thinking import Thought
from ..engine.request import Completion, FinishReason
from ..models.token_bytes import escaped, is_text, token_bytes

FINISH = {"eos": "stop", "stop": "stop", "length": "length"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What all parts of one answer have in common.

    Attributes:
        num_prompt_tokens: of all prompts, each counted once, as the base reads it.
    """

    is_chat: bool
    model: str
    num_prompt_tokens: int
    created: int = field(default_factory=lambda: int(time.time()))
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def whole(
        self, choices: list[dict[str, Any]], completions: Collection[Completion]
    ) -> dict[str, Any]:
        """The answer; `completions` are those of all choices."""
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage(completions)}

    def part(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """One event of a stream."""
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": choices}

    def usage(self, completions: Collection[Completion]) -> dict[str, Any]:
        num_tokens = sum(len(one.token_ids) for one in completions)
        thoughts = [one.num_thinking_tokens for one in completions if isinstance(one, Thought)]
        details = {"completion_tokens_details": {"reasoning_tokens": sum(thoughts)}}
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": num_tokens,
            "total_tokens": self.num_prompt_tokens + num_tokens,
            **(details if thoughts else {}),
        }

    def choice(
        self, index: int, text: str, done: Completion | None, logprobs: Any = None
    ) -> dict[str, Any]:
        """One whole completion and its text; None says that it was to have no tokens."""
        finish = FINISH[done.finish_reason if done else "length"]
        said: dict[str, Any] = {"text": text}
        if self.is_chat:
            thinking = {"reasoning_content": done.thinking} if isinstance(done, Thought) else {}
            said = {"message": {"role": "assistant", **thinking, "content": text}}
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": finish}

    def delta(
        self,
        index: int,
        text: str,
        reason: FinishReason | None = None,
        logprobs: Any = None,
        is_first: bool = False,
        is_thinking: bool = False,
    ) -> dict[str, Any]:
        """A piece of a completion; the last one has the reason and all logprobs."""
        role = {"role": "assistant"} if is_first else {}
        key = "reasoning_content" if is_thinking else "content"
        content = {key: text} if text or is_first else {}
        said = {"delta": {**role, **content}} if self.is_chat else {"text": text}
        finish = None if reason is None else FINISH[reason]
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": finish}

    def _head(self, kind: str) -> dict[str, Any]:
        key = f"chatcmpl-{self.key}" if self.is_chat else f"cmpl-{self.key}"
        return {"id": key, "object": kind, "created": self.created, "model": self.model}


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> Any:
    """OpenAI's form of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def completion_logprobs(
    tokenizer: PreTrainedTokenizerBase,
    before: Sequence[int],
    ids: Sequence[int],
    scored: Scored,
    is_first_unscored: bool,
    has_roles: bool,
) -> dict[str, Any]:
    """`logprobs` of a text completion.

    Args:
        before: ids whose text stands before that of `ids`.
        is_first_unscored: the first of `ids` begins the text, so that it has no score.
        has_roles: the scores of each role stand beside them.
    """
    offsets, offset = [], 0
    for piece in pieces(tokenizer, before, ids):
        offsets.append(offset)
        offset += len(piece)
    tokens = [_named(tokenizer, id_) for id_ in ids]
    unscored = [None] if is_first_unscored else []

    def scores(logprobs: Sequence[float], likeliest: Likeliest) -> dict[str, Any]:
        tops: list[Any] = [*unscored]
        chosen = zip(tokens[len(unscored) :], logprobs, likeliest, strict=True)
        for token, logprob, others in chosen:
            top: dict[str, float] = {}
            for id_, other in others:
                top.setdefault(_named(tokenizer, id_), _finite(other))
            top.setdefault(token, _finite(logprob))
            tops.append(top)
        found = [*unscored, *map(_finite, logprobs)]
        return {"token_logprobs": found, "top_logprobs": tops}

    own = scores(scored.logprobs, scored.likeliest)
    whole = {"tokens": tokens, **own, "text_offset": offsets}
    return {**whole, "by_role": _by_role(scored, scores)} if has_roles else whole


def chat_logprobs(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], scored: Scored, has_roles: bool
) -> dict[str, Any]:
    """`logprobs` of a chat completion; see `completion_logprobs`."""

    def entry(id_: int, logprob: float) -> dict[str, Any]:
        raw = list(token_bytes(tokenizer, id_))
        return {"token": _named(tokenizer, id_), "logprob": _finite(logprob), "bytes": raw}

    def scores(logprobs: Sequence[float], likeliest: Likeliest) -> dict[str, Any]:
        return {
            "content": [
                {**entry(id_, logprob), "top_logprobs": [entry(*one) for one in others]}
                for id_, logprob, others in zip(ids, logprobs, likeliest, strict=True)
            ]
        }

    own = scores(scored.logprobs, scored.likeliest)
    return {**own, "by_role": _by_role(scored, scores)} if has_roles else own


def _by_role(
    scored: Scored, scores: Callable[[Sequence[float], Likeliest], dict[str, Any]]
) -> dict[str, Any]:
    return {
        role: scores(logprobs, scored.likeliest_by_role[role])
        for role, logprobs in scored.by_role.items()
    }


def _named(tokenizer: PreTrainedTokenizerBase, id_: int) -> str:
    """A token as clients read it; one that is no whole text by its bytes, so that none are alike.

    A row of the logits that no token belongs to goes by its number.
    """
    raw = token_bytes(tokenizer, id_)
    return token_text(tokenizer, id_) if is_text(raw) else escaped(raw)


def _finite(logprob: float) -> float:
    """JSON has no -inf, which a banned token has; OpenAI's stand-in for it."""
    return max(logprob, -9999.0)
