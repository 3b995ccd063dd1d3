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


class Choice:
    """Chooses up to `num_places` next tokens of some rows, each row by its own settings.

    That depends on a row's logits, settings and places alone: one rule for drafts and targets.
    """

    def __init__(self, rows: Sequence[Row], num_places: int, device: torch.device) -> None:
        options = {"dtype": torch.int32, "device": device}
        counts = torch.tensor([[len(row.token_ids)] for row in rows], **options)
        keys = torch.tensor([row.key for row in rows], **options)
        self._rows, self._places = rows, Places(keys, counts + torch.arange(num_places, **options))
        self._groups: dict[Settings, list[int]] = {}
        for number, row in enumerate(rows):
            self._groups.setdefault(row.settings, []).append(number)

    def draft(self, logits: Tensor, earlier: Tensor) -> Tensor:
        """The draft after `earlier` ones, (B, n): (B, V) logits -> (B,) int64."""
        return self._choose(logits[:, None], self._places.at(earlier.shape[1]), earlier)[:, 0]

    def targets(self, logits: Tensor, drafts: Tensor) -> Tensor:
        """Tokens at (B, k) drafts and after: (B, k + 1, V) -> (B, k + 1); -1 where there is NaN."""
        tokens = self._choose(logits, self._places, drafts)
        return tokens.where(logits.gather(-1, tokens[..., None])[..., 0].isfinite(), -1)

    def _choose(self, logits: Tensor, places: Places, drafts: Tensor) -> Tensor:
        tokens = logits.new_empty(logits.shape[:2], dtype=torch.long)
        for settings, members in self._groups.items():
            if len(self._groups) == 1:
                return self._choose_alike(logits, settings, places, members, drafts)
            where = torch.tensor(members, device=logits.device)
            own = Places(places.keys[where], places.positions[where])
            tokens[where] = self._choose_alike(logits[where], settings, own, members, drafts[where])
        return tokens

    def _choose_alike(
        self, logits: Tensor, settings: Settings, places: Places, rows: list[int], drafts: Tensor
    ) -> Tensor:
        """(B, T, V) logits of rows with the same settings -> (B, T) int64."""
        (sampling, banned_ids), logits = settings, logits.float()
        if sampling.repetition_penalty != 1:
            own = [self._rows[number] for number in rows]
            seen = [[*cast(Sequence[int], row.prompt.base), *row.token_ids] for row in own]
            logits = penalize(logits, sampling.repetition_penalty, seen, drafts)
        if banned_ids:
            banned = torch.tensor(sorted(banned_ids), dtype=torch.long, device=logits.device)
            logits = logits.index_fill(-1, banned, -torch.inf)
        return choose(logits, sampling, places)
