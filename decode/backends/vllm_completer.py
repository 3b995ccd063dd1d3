"""The completer of models on vLLM, alone or steered; `vllm_model.py` says how they become one.

Rows are vLLM's requests, and end by our own rules of stops, so that texts are those of other
completers. Alpha and rule are the engine's: rows of each are completed together, one alpha after
the other. What is drawn is a function of the request, but other tokens than `LocalCompleter` draws.
"""

# pyright: reportMissingImports=false

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any, cast

from vllm import LLMEngine, SamplingParams
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind

from ..engine.request import Completion, Prompt, Request, RolePrompt
from ..engine.row import Row
from ..engine.rule import Alpha
from ..engine.sampling import Sampling
from ..engine.stats import DecodingStats
from ..engine.stops import Stops
from ..models.prompts import RoleTokenizers
from .completer import Continuation, NotFinite, Scored

COLDEST = 0.01  # temperature that vLLM does not round


class VllmCompleter:
    """A `Completer` of what runs on a vLLM engine.

    Args:
        engine: its model is a `vllm_model.ProxyTunedForCausalLM`.
        alpha: of requests that bring none of their own; None for a model alone.
        vocab_size: tokens that may be chosen.
        batch_size: rows that the engine steps together at most.
    """

    def __init__(
        self,
        engine: LLMEngine,
        tokenizers: RoleTokenizers,
        alpha: Alpha | None,
        eos_ids: frozenset[int],
        vocab_size: int,
        batch_size: int,
    ) -> None:
        self.tokenizers, self.batch_size = tokenizers, batch_size
        self._engine, self._alpha = engine, alpha
        self._eos_ids, self._vocab_size = eos_ids, vocab_size
        self._max_length: int = engine.model_config.max_model_len
        self._is_drafting = engine.vllm_config.speculative_config is not None
        self._stops = lru_cache(256)(lambda ids, stop: Stops(eos_ids | ids, stop, tokenizers.base))
        self._stats, self._num_completed = DecodingStats(), 0

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        by_alpha: dict[Alpha | None, dict[Any, Row]] = {}
        names = set()
        for request in requests:
            if request.name in names:
                raise ValueError(f"two requests have the name '{request.name}'")
            names.add(request.name)
            row = Row(replace(request, prompt=self._encode(request.prompt)))
            self._check(row)
            by_alpha.setdefault(request.alpha or self._alpha, {})[request.name] = row
        for alpha, rows in by_alpha.items():
            self._steer(alpha)
            yield from self._complete(list(rows.values()))

    def score(self, continuations: Iterable[Continuation]) -> Iterator[Scored]:
        by_alpha: dict[Alpha | None, list[Continuation]] = {}
        for given in continuations:
            own = replace(given, prompt=self._encode(given.prompt))
            by_alpha.setdefault(given.alpha or self._alpha, []).append(own)
        for alpha, same in by_alpha.items():
            self._steer(alpha)
            yield from self._score(same)

    def taken(self) -> dict[str, Any]:
        counts = {"num_rows": self._num_completed, "batch_size": self.batch_size}
        return {**counts, **self._stats.summary(), "peak_memory_gib": None}

    def _encode(self, prompt: RolePrompt | Prompt) -> RolePrompt:
        ids = self.tokenizers.encode(prompt)
        if not ids.base == ids.expert == ids.antiexpert:
            raise ValueError(
                "on vLLM all models read the same tokens, and a prompt differs by role; set "
                "decode.engine: local"
            )
        return ids

    def _check(self, row: Row) -> None:
        """Raises ValueError for what vLLM would do otherwise than this toolkit."""
        request, sampling = row.request, row.request.sampling
        num_tokens = len(_ids(row.prompt)) + request.max_new_tokens
        if num_tokens > self._max_length:
            raise ValueError(
                f"row '{request.name}' has {num_tokens} tokens with its completion, and the engine "
                f"holds {self._max_length}; set decode.vllm.max_model_len"
            )
        if sampling.temperature > 0 and self._is_drafting:
            raise ValueError(
                f"temperature: found {sampling.temperature:g}; vLLM draws other tokens where it "
                "drafts; set decode.num_draft_tokens: 0, or decode.engine: local"
            )
        if 0 < sampling.temperature < COLDEST:
            raise ValueError(
                f"temperature: found {sampling.temperature:g}; vLLM takes 0, or at least {COLDEST}"
            )
        if sampling.min_p > 0 and (sampling.top_p < 1 or sampling.top_k is not None):
            raise ValueError(
                "min_p: vLLM applies it before top_k and top_p, which makes another distribution; "
                "leave one of them out, or set decode.engine: local"
            )

    def _steer(self, alpha: Alpha | None) -> None:
        alpha = alpha or Alpha(0.0)
        if not alpha.rule.is_even:
            raise ValueError(
                "vLLM does not tell models a token's place, on which warmup_tokens and "
                "half_life_tokens depend; set decode.engine: local"
            )
        self._engine.collective_rpc("steer", args=(alpha.value, asdict(alpha.rule)))

    def _complete(self, rows: Sequence[Row]) -> Iterator[Completion]:
        under_way = {str(number): row for number, row in enumerate(rows)}
        try:
            for number, row in under_way.items():
                self._engine.add_request(number, _prompt(_ids(row.prompt)), self._params(row))
            for output in self._outputs():
                row = under_way.get(output.request_id)
                for completion in () if row is None else self._extend(row, output.outputs[0]):
                    del under_way[output.request_id]
                    if not output.finished:
                        self._engine.abort_request([output.request_id])
                    yield completion
        finally:  # whoever asks may want no more
            self._engine.abort_request(list(under_way))

    def _extend(self, row: Row, new: Any) -> Iterator[Completion]:
        """Append a row's new tokens; its completion if one of them ends it."""
        stops = self._stops(frozenset(row.request.stop_ids), row.request.stop)
        if row.token_ids:  # the first was read off the prompt
            self._stats.add_row(0, 0, len(new.token_ids))
        for token, found in zip(new.token_ids, new.logprobs, strict=True):
            if math.isnan(found[token].logprob):
                raise _not_finite(row.request.name, len(row.token_ids))
            row.token_ids.append(token)
            self._stats.num_tokens += 1
            if reason := stops.reason(row):
                self._num_completed += 1
                name = row.request.name
                yield Completion(name, stops.text(row), tuple(row.token_ids), reason)
                return

    def _outputs(self) -> Iterator[Any]:
        while self._engine.has_unfinished_requests():
            start = time.perf_counter()
            outputs = self._engine.step()
            self._stats.wall_s += time.perf_counter() - start
            yield from outputs

    def _params(self, row: Row) -> SamplingParams:
        request, sampling = row.request, row.request.sampling
        banned = set(request.banned_ids)
        return SamplingParams(
            max_tokens=request.max_new_tokens,
            stop_token_ids=sorted(self._eos_ids.union(request.stop_ids)),
            allowed_token_ids=[i for i in range(self._vocab_size) if i not in banned]
            if banned
            else None,
            logprobs=0,  # the chosen token's alone, which tells whether its logits are finite
            **_sampling(sampling, row.key),
            **_PLAIN,
        )

    def _score(self, continuations: Sequence[Continuation]) -> Iterator[Scored]:
        given = {str(number): one for number, one in enumerate(continuations)}
        for number, one in given.items():
            ids = [*_ids(one.prompt), *one.token_ids]
            if len(ids) > self._max_length:
                raise ValueError(
                    f"'{one.name}' has {len(ids)} tokens, and the engine holds {self._max_length}; "
                    "set decode.vllm.max_model_len"
                )
            wanted = max(1, min(one.num_likeliest, self._vocab_size))
            params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=wanted, **_PLAIN)
            self._engine.add_request(number, _prompt(ids), params)
        try:
            for output in self._outputs():
                if output.prompt_logprobs is not None and output.request_id in given:
                    yield _scored(given.pop(output.request_id), output.prompt_logprobs)
        finally:
            self._engine.abort_request(list(given))


_PLAIN: dict[str, Any] = {
    "ignore_eos": True,  # of the tokenizer, which the engine does not have
    "detokenize": False,
    "output_kind": RequestOutputKind.DELTA,
}


def _ids(prompt: RolePrompt | Prompt) -> list[int]:
    return cast(list[int], cast(RolePrompt, prompt).base)


def _prompt(ids: Sequence[int]) -> TokensPrompt:
    return TokensPrompt(prompt_token_ids=list(ids))


def _sampling(sampling: Sampling, key: Sequence[int]) -> dict[str, Any]:
    high, low = (word & 0x7FFFFFFF for word in key)
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k or 0,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": high << 31 | low,
    }


def _scored(given: Continuation, places: Sequence[Any]) -> Scored:
    """From what vLLM says of every token of a prompt: by token its logarithm and rank."""
    own = list(zip(given.token_ids, places[len(_ids(given.prompt)) :], strict=True))
    logprobs = tuple(found[token].logprob for token, found in own)
    for number, logprob in enumerate(logprobs):
        if math.isnan(logprob):
            raise _not_finite(given.name, number)
    likeliest = [
        sorted(((i, one.logprob) for i, one in found.items()), key=lambda pair: -pair[1])
        for _, found in own
    ]
    return Scored(
        given.name,
        logprobs,
        tuple(found[token].rank == 1 for token, found in own),
        likeliest=tuple(tuple(place[: given.num_likeliest]) for place in likeliest),
    )


def _not_finite(name: Any, num_tokens: int) -> NotFinite:
    return NotFinite(
        name,
        f"the logits are NaN or infinite after {num_tokens} tokens of the completion; set dtype to "
        "float32 or bfloat16",
    )
