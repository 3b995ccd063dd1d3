"""Forced decoding: the logits of models at every step of a completion that is given.

The model reads the completion in the same forwards that verify drafts. Of a steered model, the
logits of the models inside it are recorded before they are combined. So alpha, its warm-up, further
experts and the vocabulary apply exactly as in decoding, and it takes one pass.

Shape letters: B rows, T steps, V tokens of the vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from ..engine.row import Row
from .language_model import Ids, LanguageModel
from .pair import Pair
from .steered import Steered

MAX_LOGITS = 1 << 26  # of one model at a time: 256 MiB in float32
ROLES = ("base", "expert", "antiexpert", "proxy")


@dataclass(frozen=True, slots=True)
class RoleLogits:
    """Logits by role, (B, T, V) float32; of several experts, the first and its anti-expert."""

    base: Tensor
    expert: Tensor
    antiexpert: Tensor
    proxy: Tensor

    def at(self, row: int, num_steps: int) -> "RoleLogits":
        """One row's first steps: (num_steps, V) each."""
        return RoleLogits(*(getattr(self, role)[row, :num_steps] for role in ROLES))


def forced_logits(
    model: Steered | LanguageModel, rows: Sequence[Row], completions: Sequence[Ids], vocab_size: int
) -> Iterator[tuple[int, Tensor]]:
    """The model's logits along given completions, some steps at a time.

    Step s gives the logits after the prompt and the first s tokens, so a completion of n tokens has
    n + 1 steps; the last is what would follow it. Ignore the steps beyond a row's own.

    Args:
        model: its caches hold these rows afterwards.
        rows: B of them, with nothing emitted and room for all of their completion and one token.
        completions: B of them.

    Yields:
        The first step's number, and (B, T, V) logits from there on.
    """
    num_rows, num_steps = len(rows), max(map(len, completions)) + 1
    tokens = [[*ids, *[0] * (num_steps - len(ids))] for ids in completions]
    model.reserve(rows, num_rows, 0)
    yield 0, model.prefill(rows, range(num_rows))[:, None]
    can_read_ahead = model.can_draft if isinstance(model, Steered) else model.can_roll_back
    size = max(1, MAX_LOGITS // (num_rows * vocab_size)) if can_read_ahead else 1
    for start in range(1, num_steps, size):
        end = min(start + size, num_steps)
        for row, ids in zip(rows, tokens, strict=True):
            row.token_ids = ids[:start]
        ahead = torch.tensor([ids[start : end - 1] for ids in tokens], dtype=torch.long)
        yield start, model.read(rows, ahead.to(model.device))


def forced_role_logits(
    model: Steered, rows: Sequence[Row], completions: Sequence[Ids]
) -> Iterator[tuple[int, RoleLogits]]:
    """The logits of every role along given completions; see `forced_logits`."""
    base, first = _Recorded(model.base), _Recorded(model.pair)
    steering = [replace(model.steering[0], pair=cast(Pair, first)), *model.steering[1:]]
    steered = Steered(cast(LanguageModel, base), steering, model.vocabulary, model.alpha)
    fit = model.vocabulary.fit
    for step, proxy in forced_logits(steered, rows, completions, model.vocabulary.size):
        said = [base.said, *first.said]
        if step == 0:
            said = [logits[:, None] for logits in said]
        # a token that a model lacks has probability 0
        fitted = [fit(logits, -torch.inf).float().to(proxy.device) for logits in said]
        yield step, RoleLogits(fitted[0], fitted[1], fitted[2], proxy)


class _Recorded:
    """A model, or a pair of them, that records its last logits in `said`."""

    def __init__(self, model: LanguageModel | Pair) -> None:
        self._model = model
        self.said: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def prefill(self, *arguments: Any) -> Any:
        self.said = self._model.prefill(*arguments)
        return self.said

    def read(self, *arguments: Any) -> Any:
        self.said = self._model.read(*arguments)
        return self.said
