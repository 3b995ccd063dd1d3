"""Generation: rows in slots, stepped together, each ending on its own.

A model here is anything with the five methods of `Steppable`: LanguageModel alone, or
ProxyTuned with three of them inside. A finished row's slot takes the next prompt at once; when
there are no more prompts the remaining rows close ranks, so that no step computes a row nobody
waits for.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .sampling import Sampling, choose

FinishReason = Literal["eos", "stop", "length"]


class Steppable(Protocol):
    """What the engine asks of a model; a prompt is whatever the model takes for one."""

    def open(self, prompts: Sequence[Any], num_slots: int, num_new_tokens: int) -> None: ...

    def prefill(self, prompts: Sequence[Any], slots: Sequence[int]) -> None: ...

    def next_logits(self, num_rows: int) -> Tensor: ...

    def append(self, tokens: Sequence[int]) -> None: ...

    def move(self, source: int, target: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Stops:
    """What ends a row: any of the ids, or any of the strings in its text."""

    ids: frozenset[int]
    strings: tuple[str, ...]
    tokenizer: PreTrainedTokenizerBase

    def text(self, token_ids: Sequence[int]) -> str:
        """The completion as text, cut before the earliest stop string."""
        text = self._decode(token_ids)
        cuts = [text.find(stop) for stop in self.strings if stop in text]
        return text[: min(cuts)] if cuts else text

    def reason(self, token_ids: Sequence[int], limit: int) -> FinishReason | None:
        """Why a row that has emitted `token_ids` ends now, or None if it goes on."""
        if token_ids[-1] in self.ids:
            return "eos"
        if self.strings:
            # A token holds at least one byte, so a stop that ends in the newest token begins
            # within this many; the margin keeps partly decoded characters out of the way.
            window = max(len(stop.encode()) for stop in self.strings) + 8
            tail = self._decode(token_ids[-window:])
            if any(stop in tail for stop in self.strings):
                return "stop"
        return "length" if len(token_ids) == limit else None

    def _decode(self, token_ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        assert isinstance(text, str), "one row decodes to one text"
        return text


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished row.

    Attributes:
        index: the prompt's place in the call.
        text: without the stop that ended it and without special tokens.
        token_ids: everything emitted, the stop included.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(slots=True)
class _Row:
    index: int
    uniforms: np.random.Generator
    token_ids: list[int] = field(default_factory=list)


def generate(
    model: Steppable,
    prompts: Sequence[Any],
    stops: Stops,
    max_new_tokens: int,
    sampling: Sampling,
    batch_size: int,
    banned_ids: Collection[int] = (),
    indices: Sequence[int] | None = None,
) -> Iterator[Completion]:
    """Complete prompts, yielding each completion when it ends (not in the order of `prompts`).

    Args:
        batch_size: rows stepped together.
        banned_ids: tokens never emitted.
        indices: the rows' names, which also seed their draws: with the same index and seed a row
            gets the same tokens in any batch. None numbers them from 0.

    Yields:
        One Completion a prompt.
    """
    waiting = deque(zip(range(len(prompts)) if indices is None else indices, prompts, strict=True))
    if not waiting:
        return
    num_slots = min(batch_size, len(waiting))
    banned = torch.tensor(sorted(banned_ids), dtype=torch.long)
    model.open(prompts, num_slots, max_new_tokens)
    rows: list[_Row] = []  # by slot
    free = list(range(num_slots))  # slots whose row has ended, or that never had one
    while True:
        refill = [(slot, *waiting.popleft()) for slot in free[: len(waiting)]]
        for slot, index, _ in refill:
            row = _Row(index, np.random.default_rng([sampling.seed, index]))
            rows[slot : slot + 1] = [row]
        if refill:
            model.prefill([prompt for *_, prompt in refill], [slot for slot, *_ in refill])
        for slot in reversed(free[len(refill) :]):  # nothing waits: the last row closes the gap
            last = len(rows) - 1
            if slot != last:
                model.move(last, slot)
                rows[slot] = rows[last]
            rows.pop()
        if not rows:
            return
        logits = model.next_logits(len(rows)).float()
        logits = logits.index_fill(-1, banned.to(logits.device), -torch.inf)
        uniforms = torch.tensor([row.uniforms.random() for row in rows], dtype=torch.float64)
        tokens = choose(logits, sampling, uniforms).tolist()
        model.append(tokens)
        free = []
        for slot, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            row.token_ids.append(token)
            reason = stops.reason(row.token_ids, max_new_tokens)
            if reason is not None:
                yield Completion(row.index, stops.text(row.token_ids), tuple(row.token_ids), reason)
                free.append(slot)
