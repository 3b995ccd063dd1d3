"""The completer of a base that is steered byte by byte: tokens asked for, tokens given."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from transformers import PreTrainedTokenizerBase

from ..engine.request import Completion, Name, Prompt, Request, RolePrompt
from ..engine.stats import DecodingStats
from ..models.byte_steered import BytePrompt, SteeredByBytes
from ..models.byte_text import END
from ..models.language_model import LanguageModel
from ..models.prompts import RoleTokenizers
from ..models.steered import Steered
from .completer import Continuation, NotFinite, Scored
from .local import LocalCompleter

BYTES_AHEAD = 16  # in a round at most; the base is mostly asked sooner
NO_SCORES = (
    "vocabulary bytes emits bytes, and does not score tokens that are given; take a task whose "
    "completions are scored, or vocabulary mapped"
)


class ByteSymbols:
    """What the engine asks of a tokenizer, of bytes."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of symbols, with a mark for each part that is no whole character."""
        return bytes(id_ for id_ in ids if id_ < END).decode(errors="replace")


class ByteCompleter(LocalCompleter):
    """A `Completer` of a model that is steered byte by byte.

    Limits are counted in the base's tokens, and completions are given in them. What is drawn from
    is the distribution of a byte: temperature, top_p and their kind are of it.
    """

    def __init__(
        self,
        model: SteeredByBytes,
        tokenizers: RoleTokenizers,
        batch_size: int = 8,
        stats: DecodingStats | None = None,
    ) -> None:
        super().__init__(model, tokenizers, batch_size, BYTES_AHEAD, stats)
        self._symbols = cast(PreTrainedTokenizerBase, ByteSymbols())
        self._speller, _ = model.spellers
        self._bytes = self._speller.tokens.bytes
        self._longest = max(map(len, self._bytes))
        self._num_tokens = 0

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        asked: dict[Name, Request] = {}

        def noted() -> Iterator[Request]:
            for request in requests:
                asked[request.name] = request
                yield request

        for done in super().complete(noted()):
            given = self._in_tokens(done, asked[done.name])
            self._num_tokens += len(given.token_ids)
            yield given

    def score(self, continuations: Iterable[Continuation]) -> Iterator[Scored]:
        raise ValueError(NO_SCORES)

    def taken(self) -> dict[str, Any]:
        """As ever, in the base's tokens; there are no drafts."""
        taken, wall_s = super().taken(), self.stats.wall_s
        return taken | {
            "num_tokens": self._num_tokens,
            "tokens_per_second": self._num_tokens / wall_s if wall_s else None,
            "tokens_per_verify": None,
            "acceptance_rate": None,
            "accepted_drafts": [],
        }

    def _encoded(self, request: Request, known: dict[Prompt | RolePrompt, RolePrompt]) -> Request:
        if request.banned_ids or request.stop_ids or request.sampling.repetition_penalty != 1:
            raise ValueError(
                f"request '{request.name}': banned tokens, tokens that stop and a repetition "
                "penalty are of tokens, and vocabulary bytes emits none; leave them out"
            )
        prompt, most = self._encode(request.prompt, known), request.max_new_tokens
        ids = cast(Sequence[int], prompt.base)
        raw = b"".join(self._bytes[id_] for id_ in ids if id_ < len(self._bytes))
        read = replace(prompt, base=BytePrompt.of(raw, ids, most))
        return replace(request, prompt=read, max_new_tokens=(most + 1) * self._longest)

    def _in_tokens(self, done: Completion, request: Request) -> Completion:
        """A completion in bytes, in the base's tokens."""
        raw = bytes(symbol for symbol in done.token_ids if symbol != END)
        ids, most = [*self._speller.ids(raw)], request.max_new_tokens
        is_cut = len(ids) > most
        if done.finish_reason == "eos" and len(ids) < most:
            end = self.tokenizers.base.eos_token_id
            return replace(done, token_ids=(*ids, *([] if end is None else [end])))
        if done.finish_reason == "stop" and not is_cut:
            return replace(done, token_ids=tuple(ids))
        ids = ids[:most]
        text = b"".join(self._bytes[id_] for id_ in ids).decode(errors="replace")
        text = text[: min((text.find(stop) for stop in request.stop if stop in text), default=None)]
        return Completion(done.name, text, tuple(ids), "length")

    def _not_finite(self, given: Continuation) -> NotFinite:
        self.model.clear()
        return NotFinite(
            given.name,
            f"a model's logits are NaN or infinite after {len(given.token_ids)} bytes of the "
            "completion; set dtype to float32 or bfloat16",
        )


def local_completer(
    model: LanguageModel | Steered,
    tokenizers: RoleTokenizers,
    batch_size: int = 8,
    num_draft_tokens: int | Literal["auto"] = "auto",
    stats: DecodingStats | None = None,
) -> LocalCompleter:
    """The completer of a model, by tokens or by bytes."""
    if isinstance(model, SteeredByBytes):
        return ByteCompleter(model, tokenizers, batch_size, stats)
    return LocalCompleter(model, tokenizers, batch_size, num_draft_tokens, stats)
