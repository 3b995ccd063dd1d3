"""Requests under way: the one owner of their state, and the choice of their next tokens.

Shapes: B rows, T places, k drafts, V tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .completer import Request, RolePrompt
from .sampling import Places, Sampling, choose, penalize, row_key

Settings = tuple[Sampling, tuple[int, ...]]  # sampling less its seed, banned ids


@dataclass(slots=True, eq=False)
class Row:
    """A request under way. What it has emitted stands here and nowhere else.

    Attributes:
        request: with its prompts as token ids.
        token_ids: emitted so far, the newest last; no model has read that one yet.
        key: fixes the row's draws; see `sampling.row_key`.
        settings: what rows have in common that are chosen for together.
    """

    request: Request
    token_ids: list[int] = field(default_factory=list)
    key: Sequence[int] = field(init=False)
    settings: Settings = field(init=False)

    def __post_init__(self) -> None:
        sampling = self.request.sampling
        self.key = row_key(sampling.seed, self.request.name)
        self.settings = replace(sampling, seed=0), self.request.banned_ids

    @property
    def prompt(self) -> RolePrompt:
        """The prompt by role, as ids."""
        prompt = self.request.prompt
        assert isinstance(prompt, RolePrompt), "a completer encodes prompts before it adds them"
        return prompt

    @property
    def num_left(self) -> int:
        """How many tokens it may still emit."""
        return self.request.max_new_tokens - len(self.token_ids)

    @property
    def seen_ids(self) -> list[int]:
        """The base's prompt and what was emitted."""
        prompt = self.prompt.base
        assert not isinstance(prompt, str)
        return [*prompt, *self.token_ids]  # pyright: ignore[reportGeneralTypeIssues]


class Choice:
    """Chooses the next tokens of some rows, each by its own settings at its own places.

    Rows of the same settings are chosen for together. What a row is given depends on its logits,
    its settings and its places alone, so drafts and targets are chosen by the same rule.

    Args:
        num_places: how many tokens of each row are chosen at most.
    """

    def __init__(self, rows: Sequence[Row], num_places: int, device: torch.device) -> None:
        options = {"dtype": torch.int32, "device": device}
        counts = torch.tensor([[len(row.token_ids)] for row in rows], **options)
        keys = torch.tensor([row.key for row in rows], **options)
        self._rows = rows
        self._places = Places(keys, counts + torch.arange(num_places, **options))
        self._groups: dict[Settings, list[int]] = {}
        for number, row in enumerate(rows):
            self._groups.setdefault(row.settings, []).append(number)

    def draft(self, logits: Tensor, earlier: Tensor) -> Tensor:
        """The draft after `earlier` ones, (B, n): (B, V) logits -> (B,) int64."""
        number = earlier.shape[1]
        return self._choose(logits[:, None], self._places.at(number), earlier)[:, 0]

    def targets(self, logits: Tensor, drafts: Tensor) -> Tensor:
        """The tokens at the places of (B, k) drafts and after: (B, k + 1, V) -> (B, k + 1)."""
        return self._choose(logits, self._places, drafts)

    def _choose(self, logits: Tensor, places: Places, drafts: Tensor) -> Tensor:
        logits = logits.float()
        if len(self._groups) == 1:
            ((settings, _),) = self._groups.items()
            return _choose_alike(logits, settings, places, self._rows, drafts)
        tokens = logits.new_empty(logits.shape[:2], dtype=torch.long)
        for settings, members in self._groups.items():
            where = torch.tensor(members, device=logits.device)
            at = Places(places.keys[where], places.positions[where])
            rows = [self._rows[number] for number in members]
            tokens[where] = _choose_alike(logits[where], settings, at, rows, drafts[where])
        return tokens


def _choose_alike(
    logits: Tensor, settings: Settings, places: Places, rows: Sequence[Row], drafts: Tensor
) -> Tensor:
    """(B, T, V) logits of rows with the same settings -> (B, T) int64."""
    sampling, banned_ids = settings
    if sampling.repetition_penalty != 1:
        seen = [row.seen_ids for row in rows]
        logits = penalize(logits, sampling.repetition_penalty, seen, drafts)
    if banned_ids:
        banned = torch.tensor(sorted(banned_ids), dtype=torch.long, device=logits.device)
        logits = logits.index_fill(-1, banned, -torch.inf)
    return choose(logits, sampling, places)
