"""What every model says at every step of a completion that is given: teacher forcing.

Steered itself reads the completion, as it would verify drafts, and the logits of the models inside
it are overheard on their way to being combined. So alpha, its warm-up, further experts and the
vocabulary apply exactly as in decoding, at the price of one pass over the completion.

Shape letters: B rows, T steps, V tokens of the vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from .language_model import LanguageModel
from .pair import Pair
from .steered import RolePrompt, Steered

MAX_LOGITS = 1 << 26  # of one model at a time: 256 MiB in float32
ROLES = ("base", "expert", "antiexpert", "proxy")


@dataclass(frozen=True, slots=True)
class RoleLogits:
    """What each role says, (B, T, V) float32; of several experts, the first and its anti-expert."""

    base: Tensor
    expert: Tensor
    antiexpert: Tensor
    proxy: Tensor

    def at(self, row: int, num_steps: int) -> "RoleLogits":
        """One row's first steps: (num_steps, V) each."""
        return RoleLogits(*(getattr(self, role)[row, :num_steps] for role in ROLES))


def forced_logits(
    model: Steered, prompts: Sequence[RolePrompt], completions: Sequence[Sequence[int]]
) -> Iterator[tuple[int, RoleLogits]]:
    """The models' logits along given completions, some steps at a time.

    Step s is what follows the prompt and the first s tokens, so a completion of n tokens has n + 1
    steps; the last says what would come next. Steps beyond a row's own mean nothing.

    Args:
        model: left with caches of these rows.
        prompts, completions: B of each.

    Yields:
        The first step's number, and the logits from there on.
    """
    base = _Overheard(model.base)
    first = _Overheard(model.pair)
    steering = [replace(model.steering[0], pair=cast(Pair, first)), *model.steering[1:]]
    steered = Steered(cast(LanguageModel, base), steering, model.vocabulary, model.alpha)

    def overheard(proxy: Tensor) -> RoleLogits:
        fit = model.vocabulary.fit  # a token a model lacks is one it never says
        expert, antiexpert = first.said
        said = [fit(logits, -torch.inf) for logits in (base.said, expert, antiexpert)]
        return RoleLogits(*(logits.float().to(proxy.device) for logits in [*said, proxy]))

    num_rows, num_steps = len(prompts), max(map(len, completions)) + 1
    slots = range(num_rows)
    tokens = [[*ids, *[0] * (num_steps - len(ids))] for ids in completions]
    steered.open(prompts, num_rows, num_steps)
    proxy = steered.prefill(prompts, slots)
    base.said, first.said = base.said[:, None], tuple(logits[:, None] for logits in first.said)
    yield 0, overheard(proxy[:, None])
    can_read_ahead = steered.can_draft
    size = max(1, MAX_LOGITS // (num_rows * model.vocabulary.size)) if can_read_ahead else 1
    given = [row[:1] for row in tokens]
    for step in range(1, num_steps, size):
        steered.commit(given, slots)
        end = min(step + size, num_steps)
        ahead = torch.tensor([row[step : end - 1] for row in tokens], dtype=torch.long)
        proxy = steered.read(ahead.reshape(num_rows, end - 1 - step).to(steered.device))
        yield step, overheard(proxy)
        given = [row[step:end] for row in tokens]


class _Overheard:
    """A model, or a pair of them, that keeps what it said last."""

    def __init__(self, model: LanguageModel | Pair) -> None:
        self._model = model
        self.said: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def prefill(self, *arguments: Any) -> Any:
        self.said = self._model.prefill(*arguments)
        return self.said

    def read(self, drafts: Tensor) -> Any:
        self.said = self._model.read(drafts)
        return self.said
