"""Models whose RoPE factors depend on how long a row is: longrope (Phi-3) and dynamic NTK.

transformers takes the factors from the longest position of a forward, padding and other rows
included. Here each token gets the factors of its own row, at the length that the row has when the
token is read: that of the prompt, then one more for every token. Keys keep the factors they were
written with. Phi-3 and its kind read the whole row anew at the switch from short to long factors.
Both are what `generate` does with a row alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase

from ..engine.row import Row
from .architectures import rope_switch
from .graphs import SPAN_STEP
from .language_model import Ids, LanguageModel


class LengthRopeModel(LanguageModel):
    """A LanguageModel whose rows have RoPE factors of their own.

    Forwards are recorded for a GPU only while no row can reach the switch.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(model, tokenizer)
        switch = rope_switch(model.config)
        assert switch is not None, "the factors of this model do not change"
        self._switch = switch
        self._rotations = rotations(model)
        # A class that has its own way to prepare inputs drops the cache there, at the switch.
        name = "prepare_inputs_for_generation"
        is_overridden = getattr(type(model), name) is not getattr(GenerationMixin, name)
        self._is_reread = is_overridden and not any(map(_is_dynamic, self._rotations))
        self._ids: list[list[int]] = []  # by slot, what was read
        self._has_long: list[bool] = []  # by slot, which factors its keys have

    def with_own_cache(self) -> Self:
        own = super().with_own_cache()
        own._ids, own._has_long = [], []
        return own

    def make_room(self, num_tokens: int, num_slots: int, num_kept: int) -> None:
        if num_tokens + SPAN_STEP > self._switch:  # the cache may be that much larger
            self.capture = None
        super().make_room(num_tokens, num_slots, num_kept)
        missing = len(self._prompt_lengths) - len(self._ids)
        self._ids += [[] for _ in range(missing)]
        self._has_long += [False] * missing

    def move(self, source: int, target: int) -> None:
        super().move(source, target)
        self._ids[target] = list(self._ids[source])
        self._has_long[target] = self._has_long[source]

    def fill(self, prompts: Sequence[Ids], slots: Sequence[int]) -> Tensor:
        for slot, prompt in zip(slots, prompts, strict=True):
            self._ids[slot] = list(prompt)
            self._has_long[slot] = len(prompt) > self._switch
        return super().fill(prompts, slots)

    def step(self, tokens: Tensor, slots: range, rows: Sequence[Row], ahead: int = 0) -> Tensor:
        if not self._is_reread:
            return super().step(tokens, slots, rows, ahead)
        changes = []
        for slot, row, ids in zip(slots, rows, tokens.tolist(), strict=True):
            first = self._prompt_lengths[slot] + len(row.token_ids) - 1 + ahead
            self._ids[slot][first:] = ids
            sides = {first >= self._switch, first + len(ids) > self._switch}
            changes.append(sides != {self._has_long[slot]})
        if not any(changes):
            return super().step(tokens, slots, rows, ahead)
        return torch.cat(
            [
                self._step_alone(tokens[i : i + 1], slots[i : i + 1], rows[i], ahead)
                for i in range(len(rows))
            ]
        )

    def _step_alone(self, tokens: Tensor, slots: range, row: Row, ahead: int) -> Tensor:
        """As `step` for one row, which is read anew where its keys have the other factors."""
        slot, num_tokens = slots[0], tokens.shape[1]
        first = self._prompt_lengths[slot] + len(row.token_ids) - 1 + ahead
        num_short = min(max(self._switch - first, 0), num_tokens)
        logits = []
        for start, stop in ((0, num_short), (num_short, num_tokens)):
            is_long = first + start >= self._switch
            if start < stop and self._has_long[slot] != is_long:
                logits.append(self._read_anew(slot, first + start + 1))
                start += 1
            if start < stop:
                logits.append(super().step(tokens[:, start:stop], slots, [row], ahead + start))
        return torch.cat(logits, 1)

    def _read_anew(self, slot: int, num_tokens: int) -> Tensor:
        """Read the first tokens of a slot again: (1, 1, V) logits of what follows them."""
        ids, length = self._ids[slot], self._prompt_lengths[slot]
        logits = self.fill([ids[:num_tokens]], [slot])
        self._ids[slot] = ids
        self._set_length(slot, length)
        return logits[None]

    def run(
        self,
        network: nn.Module,
        ids: Tensor,
        slots: Sequence[int],
        positions: Sequence[Sequence[int]] | Tensor,
        end: int,
        **options: Any,
    ) -> Any:
        if isinstance(positions, Tensor):  # recorded: no row reaches the switch
            return super().run(network, ids, slots, positions, end, **options)
        assert self._cache is not None, "make_room() comes first"
        unused = self._cache.capacity - 1
        lengths = [
            [1 if p == unused else max(p + 1, self._prompt_lengths[slot]) for p in row]
            for slot, row in zip(slots, positions, strict=True)
        ]
        where = torch.tensor(lengths, device=self.device).clamp(min=self._switch)
        with rotated_by_length(self._rotations, where):
            return super().run(network, ids, slots, positions, end, **options)


def rotations(model: nn.Module) -> list[nn.Module]:
    """The modules of a model whose RoPE factors depend on the length of the forward."""
    return [m for m in model.modules() if _is_dynamic(m) or "longrope" in _rope_types(m)]


@contextmanager
def rotated_by_length(modules: Sequence[nn.Module], lengths: Tensor) -> Iterator[None]:
    """For a while, `modules` give each token the factors of a forward of its own length.

    Args:
        lengths: (B, T) int64, or what expands to it.
    """
    own = [module.__dict__.get("forward") for module in modules]
    for module in modules:
        forward = partial(_rotate, module.forward, _is_dynamic(module), lengths)
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward


def _rotate(
    forward: Any, is_dynamic: bool, lengths: Tensor, x: Tensor, position_ids: Tensor, *more, **named
) -> Any:
    """What `forward` gives for (..., B, T) positions, each in a forward of its length."""
    lengths = lengths.to(position_ids.device).expand(position_ids.shape[-2:])
    positions = position_ids.minimum(lengths - 1)  # padding is at the end of its slot
    wholes: list[Tensor] = []
    parts: Any = None
    for length in lengths.unique().tolist():
        here = lengths == length
        chosen = positions[..., here]
        last = chosen.new_full((*chosen.shape[:-1], 1), length - 1)  # makes it that long
        if is_dynamic:  # forget the longest forward so far
            forward(x, torch.zeros_like(last)[..., None], *more, **named)
        parts = forward(x, torch.cat((chosen, last), -1)[..., None, :], *more, **named)
        tensors = parts if isinstance(parts, tuple) else (parts,)  # cos and sin, or one complex
        wholes = wholes or [t.new_empty((*lengths.shape, *t.shape[2:])) for t in tensors]
        for whole, tensor in zip(wholes, tensors, strict=True):
            whole[here] = tensor[0, :-1]
    return tuple(wholes) if isinstance(parts, tuple) else wholes[0]


def _rope_types(module: nn.Module) -> list[str]:
    kind = getattr(module, "rope_type", None) or []
    return (
        [kind] if isinstance(kind, str) else list(kind.values() if isinstance(kind, dict) else kind)
    )


def _is_dynamic(module: nn.Module) -> bool:
    return any("dynamic" in kind for kind in _rope_types(module))
