"""The completer of models in this process's memory."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ..engine.engine import Engine, Steppable, generate
from ..engine.request import Completion, Prompt, Request, RolePrompt
from ..engine.row import Row
from ..engine.stats import DecodingStats
from ..models.fast_path import fast_path
from ..models.forced import forced_logits, forced_role_logits
from ..models.guard import FastPathWrong, Guarded
from ..models.language_model import LanguageModel
from ..models.peak_memory import peak_memory_gib
from ..models.prompts import RoleTokenizers
from ..models.steered import Steered
from .completer import Continuation, NotFinite, Scored

logger = logging.getLogger(__name__)


class LocalCompleter:
    """A `Completer` of one model, alone or steered.

    When memory runs out, the batch is halved from then on, with a warning.

    Attributes:
        batch_size: rows stepped together at most.
        stats: counts and timings of all completing.
    """

    def __init__(
        self,
        model: LanguageModel | Steered,
        tokenizers: RoleTokenizers,
        batch_size: int = 8,
        num_draft_tokens: int | Literal["auto"] = "auto",
        stats: DecodingStats | None = None,
    ) -> None:
        self.model, self.tokenizers, self.batch_size = model, tokenizers, batch_size
        self.stats = DecodingStats() if stats is None else stats
        self._symbols = tokenizers.base  # how what rows emit becomes text
        self._num_draft_tokens: int | Literal["auto"] = num_draft_tokens
        self._num_completed = 0

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        waiting: dict[Any, Request] = {}
        encoded: dict[Prompt | RolePrompt, RolePrompt] = {}  # samples share a prompt
        for request in requests:
            if request.name in waiting:
                raise ValueError(f"two requests have the name '{request.name}'")
            waiting[request.name] = self._encoded(request, encoded)
        guard = Guarded(self.model)
        while waiting:
            engine = Engine(
                cast(Steppable, guard),
                self._symbols,
                self.batch_size,
                self._num_draft_tokens,
                stats=self.stats,
            )
            try:
                for completion in guard.checked(generate(engine, waiting.values())):
                    del waiting[completion.name]
                    self._num_completed += 1
                    yield completion
            except torch.OutOfMemoryError as error:
                self._shrink(error)
            except FloatingPointError as error:
                request, token_ids = waiting[error.args[0]], error.args[1]
                raise self._not_finite(
                    Continuation(request.name, request.prompt, token_ids, request.alpha)
                ) from None
            except FastPathWrong as error:
                logger.warning(
                    "decoding without CUDA graphs and streams from here on (%s); the rows since "
                    "the last check are decoded again",
                    error,
                )
                fast_path.is_on = False
                self.model.clear()

    def score(self, continuations: Iterable[Continuation]) -> Iterator[Scored]:
        encoded: dict[Prompt | RolePrompt, RolePrompt] = {}
        waiting = [replace(c, prompt=self._encode(c.prompt, encoded)) for c in continuations]
        while waiting:
            batch = waiting[: self.batch_size]
            try:
                scored = self._score(batch)
            except torch.OutOfMemoryError as error:
                self._shrink(error)
                continue
            yield from scored
            waiting = waiting[len(batch) :]

    def taken(self) -> dict[str, Any]:
        counts = {"num_rows": self._num_completed, "batch_size": self.batch_size}
        return {**counts, **self.stats.summary(), "peak_memory_gib": peak_memory_gib()}

    def _encoded(self, request: Request, known: dict[Prompt | RolePrompt, RolePrompt]) -> Request:
        """The request as the engine takes it."""
        return replace(request, prompt=self._encode(request.prompt, known))

    def _encode(
        self, prompt: Prompt | RolePrompt, known: dict[Prompt | RolePrompt, RolePrompt]
    ) -> RolePrompt:
        try:
            if prompt not in known:
                known[prompt] = self.tokenizers.encode(prompt)
            return known[prompt]
        except TypeError:  # ids in a list
            return self.tokenizers.encode(prompt)

    @torch.inference_mode()
    def _not_finite(self, given: Continuation) -> NotFinite:
        """Which models have no finite logits along a continuation, found by reading it again."""
        self.model.clear()
        said = [said for _, said in self._said([given])]
        roles = [
            role
            for role in ("base", "expert", "antiexpert")
            if not all(one[role].amax(-1).isfinite().all() for one in said if role in one)
        ]
        alone = "their combination" if isinstance(self.model, Steered) else "the model"
        return NotFinite(
            given.name,
            f"the logits of {' and '.join(roles) or alone} are NaN or infinite after "
            f"{len(given.token_ids)} tokens of the completion; set dtype to float32 or bfloat16",
        )

    def _shrink(self, error: torch.OutOfMemoryError) -> None:
        self.model.clear()
        self.batch_size = fewer_rows(self.batch_size, error)

    @torch.inference_mode()
    def _score(self, batch: Sequence[Continuation]) -> list[Scored]:
        logprobs: list[dict[str, list[float]]] = [{} for _ in batch]
        is_greedy: list[list[bool]] = [[] for _ in batch]
        likeliest: list[dict[str, list[tuple[tuple[int, float], ...]]]] = [{} for _ in batch]
        read = [replace(given, token_ids=given.token_ids[:-1]) for given in batch]
        for first, said in self._said(read):  # nothing is asked of what follows the last token
            for role, logits in said.items():
                logprob = logits.float().log_softmax(-1)  # (B, T, V)
                greedy = logits.argmax(-1).tolist() if role == "own" else []
                for row, given in enumerate(batch):
                    ids = list(given.token_ids[first : first + logits.shape[1]])
                    if not ids:
                        continue
                    where = torch.tensor(ids, device=logits.device)[:, None]
                    found = logprob[row, : len(ids)].gather(-1, where)[:, 0].tolist()
                    if any(map(math.isnan, found)):
                        raise self._not_finite(replace(given, token_ids=given.token_ids[:first]))
                    logprobs[row].setdefault(role, []).extend(found)
                    if role == "own":
                        is_greedy[row] += [a == b for a, b in zip(greedy[row], ids, strict=False)]
                    top = logprob[row, : len(ids)].topk(min(given.num_likeliest, logits.shape[-1]))
                    likeliest[row].setdefault(role, []).extend(
                        tuple(zip(*place, strict=True))
                        for place in zip(top.indices.tolist(), top.values.tolist(), strict=True)
                    )
        return [
            Scored(
                given.name,
                tuple(own.pop("own", ())),
                tuple(greedy),
                {role: tuple(values) for role, values in own.items()},
                tuple(top.pop("own", ())),
                {role: tuple(places) for role, places in top.items()},
            )
            for given, own, greedy, top in zip(batch, logprobs, is_greedy, likeliest, strict=True)
        ]

    def _said(self, batch: Sequence[Continuation]) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """First step and (B, T, V) logits by role; "own" are those that are drawn from."""
        rows, ids = forced_rows(batch), [given.token_ids for given in batch]
        if isinstance(self.model, Steered):
            for first, said in forced_role_logits(self.model, rows, ids):
                roles = {"base": said.base, "expert": said.expert, "antiexpert": said.antiexpert}
                yield first, {"own": said.proxy, **roles}
        else:
            for first, logits in forced_logits(self.model, rows, ids, len(self.tokenizers.base)):
                yield first, {"own": logits}


def forced_rows(continuations: Sequence[Continuation]) -> list[Row]:
    """A row for each continuation, whose prompt is ids, with room for it and one token."""
    return [
        Row(Request(given.name, given.prompt, len(given.token_ids) + 1, alpha=given.alpha))
        for given in continuations
    ]


def fewer_rows(num_rows: int, error: torch.OutOfMemoryError) -> int:
    """Half the rows, with a warning. Raises the error again if there was only one row."""
    if num_rows == 1:
        raise error
    logger.warning("out of memory, going on with batches of %d", num_rows // 2)
    return num_rows // 2
