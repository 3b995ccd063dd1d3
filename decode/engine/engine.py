"""Generation: requests are added, stepped together, and each ends on its own.

A round drafts k tokens a row, verifies them and keeps the accepted ones (speculative.py); k = 0 is
plain decoding. A finished row's slot takes the next request at once; when none waits the remaining
rows close ranks, so that no round computes a row that is gone.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .draft_length import DraftLength
from .request import Completion, Name, Request
from .row import Row, Rows
from .speculative import num_accepted
from .stats import DecodingStats
from .stops import Stops

# Chooses a draft of each row: ((B, V) logits, (B, n) int64 earlier drafts) -> (B,) int64.
Pick = Callable[[Tensor, Tensor], Tensor]


class Steppable(Protocol):
    """What the engine steps: one language model, or several that steer one, with rows in slots.

    `rows` are those in slots 0 to B - 1, unless slots are given. A model keeps nothing of a row but
    what it has read: after `prefill` the prompt, after `read` also all emitted tokens but the
    newest. What it read beyond that (rejected drafts) is overwritten by the next read.

    Calls come in this order: `reserve` whenever there are new requests; `prefill` for rows that
    begin; then rounds of `draft` and `read`, each with the same rows. A model that cannot draft is
    asked for no drafts. `eos_ids` end a completion. Shapes: B rows, k drafts, V tokens.
    """

    can_draft: bool

    @property
    def device(self) -> torch.device: ...
    @property
    def eos_ids(self) -> frozenset[int]: ...

    def reserve(self, rows: Sequence[Row], num_slots: int, num_kept: int) -> None:
        """Make room for any of `rows` in `num_slots` slots; the first `num_kept` keep theirs."""

    def prefill(self, rows: Sequence[Row], slots: Sequence[int]) -> Tensor:
        """Read the prompts of B rows into B slots: (B, V) logits of what follows each."""
        ...

    def draft(self, rows: Sequence[Row], num_tokens: int, pick: Pick) -> Tensor:
        """Tokens each row might go on with: (B, num_tokens) int64."""
        ...

    def read(self, rows: Sequence[Row], drafts: Tensor) -> Tensor:
        """Read each row's newest token and its (B, k) drafts: (B, k + 1, V) logits after each."""
        ...

    def move(self, source: int, target: int) -> None:
        """Move what was read of the row in slot `source` to slot `target`, whose row is gone."""


class Progress(NamedTuple):
    """What a step gave one request: tokens, and its completion if they ended it."""

    name: Name
    token_ids: tuple[int, ...]
    completion: Completion | None


class Engine:
    """Steps requests; they may be added and cancelled between any two steps.

    Args:
        tokenizer: how ids become text.
        capacity: requests stepped together at most; the others wait in the order they came.
        num_draft_tokens: drafts a round where the model can draft; it changes the speed, not the
            tokens. "auto" follows what is measured.
        eos_ids: ids that end a completion; None takes the model's.
    """

    def __init__(
        self,
        model: Steppable,
        tokenizer: PreTrainedTokenizerBase,
        capacity: int,
        num_draft_tokens: int | Literal["auto"] = 0,
        eos_ids: frozenset[int] | None = None,
        stats: DecodingStats | None = None,
    ) -> None:
        self._model, self._capacity = model, capacity
        self._eos_ids = model.eos_ids if eos_ids is None else eos_ids
        self._stats = DecodingStats() if stats is None else stats
        self._draft_length = DraftLength(num_draft_tokens if model.can_draft else 0)
        self._stops = lru_cache(256)(lambda ids, stop: Stops(self._eos_ids | ids, stop, tokenizer))
        self._names: set[Name] = set()  # of requests under way
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []  # by slot
        self._free: list[int] = []  # slots below len(_rows) whose row is gone
        self._is_reserved = True  # there is room for every request known

    @property
    def is_idle(self) -> bool:
        """Whether every request has ended."""
        return not self._names

    def add(self, request: Request) -> None:
        """Take in a request, whose prompts are ids. Raises ValueError if its name is under way."""
        if request.name in self._names:
            raise ValueError(f"request '{request.name}' is under way already; give it another name")
        self._names.add(request.name)
        self._waiting.append(Row(request))
        self._is_reserved = False

    def cancel(self, name: Name) -> bool:
        """Drop a request; returns whether it was under way."""
        if name not in self._names:
            return False
        self._names.remove(name)
        row = next(row for row in self._under_way() if row.request.name == name)
        if row in self._waiting:
            self._waiting.remove(row)
        else:
            self._free.append(self._rows.index(row))
        return True

    def step(self) -> list[Progress]:
        """What one step gave each request that moved; nothing if the engine is idle.

        A step reads the prompts of waiting requests into free slots, or else is a round. Raises
        FloatingPointError, with a name and its tokens so far, if what follows has no finite logits.
        """
        start = time.perf_counter()
        if self._waiting and len(self._rows) - len(self._free) < self._capacity:
            progress = self._begin()
        else:
            self._close_ranks()
            progress = self._round() if self._rows else []
        self._stats.wall_s += time.perf_counter() - start
        return progress

    @torch.inference_mode()
    def _begin(self) -> list[Progress]:
        """Read prompts into slots: the first token of each row."""
        if not self._is_reserved:
            rows, num_here = list(self._under_way()), len(self._rows)
            num_kept = 0 if len(self._free) == num_here else num_here
            self._model.reserve(rows, max(num_here, min(self._capacity, len(rows))), num_kept)
            self._is_reserved = True
        num, stats, device = len(self._waiting), self._stats, self._model.device
        slots = [*sorted(self._free), *range(len(self._rows), self._capacity)[:num]][:num]
        arrivals = Rows([self._waiting.popleft() for _ in slots], device)
        for slot, row in zip(slots, arrivals, strict=True):
            self._rows[slot : slot + 1] = [row]
        self._free = [slot for slot in self._free if slot not in slots]
        with stats.stage("prefill", device):
            logits = self._model.prefill(arrivals, slots)
        with stats.stage("choose", device):
            emitted = arrivals.targets(logits[:, None], arrivals.newest[:, :0]).tolist()
        stats.settle()
        return [self._extend(*each) for each in zip(slots, emitted, strict=True)]

    @torch.inference_mode()
    def _round(self) -> list[Progress]:
        """Draft, verify, accept: every row emits 1 to k + 1 tokens. The host waits once."""
        start = time.perf_counter()
        model, stats, rows = self._model, self._stats, Rows(self._rows, self._model.device)
        num_drafts = min(max(r.num_left for r in rows) - 1, self._draft_length.next(len(rows)))
        with stats.stage("draft", model.device):
            drafts = model.draft(rows, num_drafts, rows.draft)
        with stats.stage("verify", model.device):
            logits = model.read(rows, drafts)
        with stats.stage("choose", model.device):
            targets = rows.targets(logits, drafts)
            found = torch.cat((num_accepted(drafts, targets)[:, None], targets), 1).tolist()
        stats.settle()
        self._draft_length.time(len(rows), num_drafts, time.perf_counter() - start)
        progress = []
        for slot, (count, *tokens) in enumerate(found):
            given = self._extend(slot, tokens[: count + 1])
            counts = num_drafts, min(count, len(given.token_ids)), len(given.token_ids)
            stats.add_row(*counts)
            self._draft_length.learn(*counts, given.completion is not None)
            progress.append(given)
        return progress

    def _extend(self, slot: int, tokens: Sequence[int]) -> Progress:
        """Append tokens up to the row's end; a row that ends is gone."""
        row, completion = self._rows[slot], None
        request, num_before = row.request, len(row.token_ids)
        stops = self._stops(frozenset(request.stop_ids), request.stop)
        for token in tokens:
            if token < 0:
                raise FloatingPointError(request.name, tuple(row.token_ids))
            row.token_ids.append(token)
            if reason := stops.reason(row):
                completion = Completion(request.name, stops.text(row), tuple(row.token_ids), reason)
                self._names.remove(request.name)
                self._free.append(slot)
                break
        kept = tuple(row.token_ids[num_before:])
        self._stats.num_tokens += len(kept)
        return Progress(request.name, kept, completion)

    def _under_way(self) -> Iterator[Row]:
        yield from (row for slot, row in enumerate(self._rows) if slot not in self._free)
        yield from self._waiting

    def _close_ranks(self) -> None:
        """Move the last rows into slots that no request waits for."""
        for slot in sorted(self._free, reverse=True):
            last = self._rows.pop()
            if slot < len(self._rows):
                self._model.move(len(self._rows), slot)
                self._rows[slot] = last
        self._free.clear()


def generate(engine: Engine, requests: Iterable[Request]) -> Iterator[Completion]:
    """A completion of each request, as they end."""
    for request in requests:
        engine.add(request)
    while not engine.is_idle:
        yield from (given.completion for given in engine.step() if given.completion is not None)
