"""Generation: rows in slots, stepped together, each ending on its own.

A model here is anything with the methods of `Steppable`: LanguageModel alone, or Steered with
several of them inside. One engine serves both and both kinds of decoding: a round drafts k tokens
a row, reads them, and keeps what stands (speculative.py); with k = 0 that is plain decoding, one
token a round. A finished row's slot takes the next prompt at once; when there are no more prompts
the remaining rows close ranks, so that no round computes a row nobody waits for.
"""

import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..models.language_model import Pick
from .draft_length import DraftLength
from .sampling import Places, Sampling, choose, row_key
from .speculative import num_standing
from .stats import DecodingStats
from .stops import FinishReason, Stops


class Steppable(Protocol):
    """What the engine asks of a model; a prompt is whatever the model takes for one.

    LanguageModel says what each method does.
    """

    can_draft: bool

    @property
    def device(self) -> torch.device: ...

    def open(self, prompts: Sequence[Any], num_slots: int, num_new_tokens: int) -> None: ...

    def prefill(self, prompts: Sequence[Any], slots: Sequence[int]) -> Tensor: ...

    def draft(self, num_rows: int, num_tokens: int, pick: Pick) -> Tensor: ...

    def read(self, drafts: Tensor) -> Tensor: ...

    def commit(self, emitted: Sequence[Sequence[int]], slots: Sequence[int]) -> None: ...

    def move(self, source: int, target: int) -> None: ...


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


def generate(
    model: Steppable,
    prompts: Sequence[Any],
    stops: Stops,
    max_new_tokens: int | Sequence[int],
    sampling: Sampling,
    batch_size: int,
    banned_ids: Collection[int] = (),
    indices: Sequence[int] | None = None,
    num_draft_tokens: int | Literal["auto"] = 0,
    stats: DecodingStats | None = None,
) -> Iterator[Completion]:
    """Complete prompts, yielding each completion when it ends (not in the order of `prompts`).

    Args:
        max_new_tokens: of every completion, or of each.
        batch_size: rows stepped together.
        banned_ids: tokens never emitted.
        indices: the rows' names, which also seed their draws: with the same index and seed a row
            gets the same tokens in any batch. None numbers them from 0.
        num_draft_tokens: drafts a round, where the model can draft; it changes the speed, not the
            tokens. "auto" follows what is measured.
        stats: counts and timings are added to it.

    Yields:
        One Completion a prompt.
    """
    if not prompts:
        return
    stats = DecodingStats() if stats is None else stats
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    names = range(len(prompts)) if indices is None else indices
    waiting = deque(
        (prompt, _Row(name, limit, row_key(sampling.seed, name)))
        for name, prompt, limit in zip(names, prompts, limits, strict=True)
    )
    num_slots = min(batch_size, len(waiting))
    chooser = _Chooser(sampling, banned_ids, model.device)
    draft_length = DraftLength(num_draft_tokens if model.can_draft else 0)
    model.open(prompts, num_slots, max(limits))
    rows: list[_Row] = []  # by slot
    free = list(range(num_slots))  # slots whose row has ended, or that never had one
    while rows or waiting:
        start = time.perf_counter()
        num_drafts = 0
        is_round = not (free and waiting)
        if is_round:
            _close_ranks(model, rows, free)
            if not rows:
                return
            slots, free = range(len(rows)), []
            room = max(row.limit - len(row.token_ids) for row in rows) - 1
            num_drafts = min(draft_length.next(len(rows)), room)
            emitted = _round(model, rows, num_drafts, chooser, stats)
            draft_length.time(len(rows), num_drafts, time.perf_counter() - start)
        else:
            slots, free = free[: len(waiting)], free[len(waiting) :]
            arrivals = [waiting.popleft() for _ in slots]
            for slot, (_, row) in zip(slots, arrivals, strict=True):
                rows[slot : slot + 1] = [row]
            emitted = _begin(model, arrivals, slots, chooser, stats)
        model.commit(emitted, slots)
        ended: list[Completion] = []
        for slot, tokens in zip(slots, emitted, strict=True):
            row = rows[slot]
            num_kept, reason = _extend(row, tokens, stops)
            stats.num_tokens += num_kept
            if is_round:
                num_right = min(num_kept, len(tokens) - 1)
                stats.add_row(num_drafts, num_right, num_kept)
                draft_length.learn(num_drafts, num_right, num_kept, reason is not None)
            if reason is not None:
                text = stops.text(row.token_ids)
                ended.append(Completion(row.index, text, tuple(row.token_ids), reason))
                free.append(slot)
        free.sort()
        stats.wall_s += time.perf_counter() - start
        yield from ended


@dataclass(slots=True)
class _Row:
    index: int
    limit: int
    key: Sequence[int]
    token_ids: list[int] = field(default_factory=list)


class _Chooser:
    """Target tokens and drafts alike: what is banned falls out, then a token is chosen."""

    def __init__(
        self, sampling: Sampling, banned_ids: Collection[int], device: torch.device
    ) -> None:
        self._sampling, self._device = sampling, device
        self._banned = torch.tensor(sorted(banned_ids), dtype=torch.long, device=device)

    def places(self, rows: Sequence[_Row], num_places: int) -> Places:
        """The next places of rows."""
        places = {"dtype": torch.int32, "device": self._device}
        counts = torch.tensor([[len(row.token_ids)] for row in rows], **places)
        keys = torch.tensor([row.key for row in rows], **places)
        return Places(keys, counts + torch.arange(num_places, **places))

    def __call__(self, logits: Tensor, places: Places) -> Tensor:
        """(B, T, V) logits -> (B, T) int64."""
        logits = logits.float()
        if len(self._banned):
            logits = logits.index_fill(-1, self._banned, -torch.inf)
        return choose(logits, self._sampling, places)


@torch.inference_mode()
def _begin(
    model: Steppable,
    arrivals: Sequence[tuple[Any, _Row]],
    slots: Sequence[int],
    chooser: _Chooser,
    stats: DecodingStats,
) -> list[list[int]]:
    """Read prompts into slots: the first token of each row."""
    with stats.stage("prefill", model.device):
        logits = model.prefill([prompt for prompt, _ in arrivals], slots)
    with stats.stage("choose", model.device):
        tokens = chooser(logits[:, None], chooser.places([row for _, row in arrivals], 1))
    emitted = tokens.tolist()
    stats.settle()
    return emitted


@torch.inference_mode()
def _round(
    model: Steppable,
    rows: Sequence[_Row],
    num_drafts: int,
    chooser: _Chooser,
    stats: DecodingStats,
) -> list[list[int]]:
    """Draft, verify, accept: the tokens every row emits, 1 to num_drafts + 1."""
    places = chooser.places(rows, num_drafts + 1)

    def pick(logits: Tensor, number: int) -> Tensor:
        return chooser(logits[:, None], places.at(number))[:, 0]

    with stats.stage("draft", model.device):
        drafts = model.draft(len(rows), num_drafts, pick)
    with stats.stage("verify", model.device):
        logits = model.read(drafts)
    with stats.stage("choose", model.device):
        targets = chooser(logits, places)
        counts = num_standing(drafts, targets)[:, None]
    found = torch.cat((counts, targets), 1).tolist()  # here the host waits, once a round
    stats.settle()
    return [tokens[: count + 1] for count, *tokens in found]


def _extend(row: _Row, tokens: Sequence[int], stops: Stops) -> tuple[int, FinishReason | None]:
    """Append tokens up to the row's end: how many, and the reason if it ended."""
    for count, token in enumerate(tokens, start=1):
        row.token_ids.append(token)
        reason = stops.reason(row.token_ids, row.limit)
        if reason is not None:
            return count, reason
    return len(tokens), None


def _close_ranks(model: Steppable, rows: list[_Row], free: Sequence[int]) -> None:
    """Move the last rows into slots that nobody waits for."""
    for slot in reversed(free):
        last = len(rows) - 1
        if slot != last:
            model.move(last, slot)
            rows[slot] = rows[last]
        rows.pop()
