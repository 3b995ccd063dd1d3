"""Requests under way: the one owner of their state, and the choice of their next tokens.

Shapes: B rows, T places, k drafts, V tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from .request import Request, RolePrompt
from .sampling import Places, Sampling, choose, penalize, row_key

Settings = tuple[Sampling, tuple[int, ...]]  # sampling less its seed, banned ids


@dataclass(slots=True, eq=False)
class Row:
    """A request under way. What it has emitted stands here and nowhere else."""

    request: Request  # with its prompts as token ids
    token_ids: list[int] = field(default_factory=list)  # no model has read the newest one yet
    key: Sequence[int] = field(init=False)  # fixes the row's draws; see `sampling.row_key`
    settings: Settings = field(init=False)  # rows with the same are chosen for together

    def __post_init__(self) -> None:
        self.key = row_key(self.request.sampling.seed, self.request.name)
        self.settings = replace(self.request.sampling, seed=0), self.request.banned_ids

    @property
    def prompt(self) -> RolePrompt:
        """The prompt by role, as ids."""
        assert isinstance(self.request.prompt, RolePrompt), "completers encode prompts first"
        return self.request.prompt

    @property
    def num_left(self) -> int:
        """How many tokens it may still emit."""
        return self.request.max_new_tokens - len(self.token_ids)


class Rows(tuple[Row, ...]):
    """Rows of one step: their numbers as they are now, on a device, and the choice of their tokens.

    A choice depends on a row's logits, settings and places alone: one rule for drafts and targets.
    """

    newest: Tensor  # (B, 1) int64, tokens that no model has read yet
    num_emitted: Tensor  # (B, 1) int64
    keys: Tensor  # (B, 2) int64

    def __new__(cls, rows: Sequence[Row], device: torch.device) -> "Rows":
        if isinstance(rows, Rows) and rows.newest.device == device:
            return rows
        made = super().__new__(cls, rows)
        numbers = [((r.token_ids or (0,))[-1], len(r.token_ids), *r.key) for r in rows]
        here = torch.tensor(numbers, pin_memory=device.type == "cuda").to(device, non_blocking=True)
        made.newest, made.num_emitted, made.keys = here.split((1, 1, 2), 1)
        return made

    def draft(self, logits: Tensor, earlier: Tensor) -> Tensor:
        """The draft after `earlier` ones, (B, n): (B, V) logits -> (B,) int64."""
        return self._next(logits[:, None], earlier, earlier.shape[1])[:, 0]

    def targets(self, logits: Tensor, drafts: Tensor) -> Tensor:
        """Tokens at (B, k) drafts and after: (B, k + 1, V) -> (B, k + 1); -1 where there is NaN."""
        tokens = self._next(logits, drafts, 0)
        return tokens.where(logits.gather(-1, tokens[..., None])[..., 0].isfinite(), -1)

    def _next(self, logits: Tensor, drafts: Tensor, first: int) -> Tensor:
        """The tokens at T places from `first` on, the last of which is after the drafts: (B, T)."""
        ahead = torch.arange(first, first + logits.shape[1], device=logits.device)
        keys, positions = self.keys.int(), (self.num_emitted + ahead).int()
        tokens = logits.new_empty(logits.shape[:2], dtype=torch.long)
        groups: dict[Settings, list[int]] = {}
        for number, row in enumerate(self):
            groups.setdefault(row.settings, []).append(number)
        for settings, members in groups.items():
            where = slice(None) if len(groups) == 1 else torch.tensor(members, device=logits.device)
            places = Places(keys[where], positions[where])
            tokens[where] = self._choose(logits[where], settings, places, members, drafts[where])
        return tokens

    def _choose(
        self, logits: Tensor, settings: Settings, places: Places, rows: list[int], drafts: Tensor
    ) -> Tensor:
        """(B, T, V) logits of rows with the same settings -> (B, T) int64."""
        (sampling, banned_ids), logits = settings, logits.float()
        if sampling.repetition_penalty != 1:
            own = [self[number] for number in rows]
            seen = [[*cast(Sequence[int], row.prompt.base), *row.token_ids] for row in own]
            logits = penalize(logits, sampling.repetition_penalty, seen, drafts)
        if banned_ids:
            banned = torch.tensor(sorted(banned_ids), dtype=torch.long, device=logits.device)
            logits = logits.index_fill(-1, banned, -torch.inf)
        return choose(logits, sampling, places)
