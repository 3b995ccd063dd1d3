"""Models and tokenizers put together: the only place where a steered model is assembled.

The Python entry, evaluation and the checks of a training all use it, so evaluation decodes exactly
as the public API does.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..engine.rule import Alpha
from .architectures import is_positional, keeps_keys
from .byte_steered import SteeredByBytes
from .language_model import LanguageModel
from .model_source import ModelSource
from .pair import Pair, load_pair, load_tuned
from .prompts import RoleTokenizers
from .recurrent import as_language_model
from .sources import load_config, load_tokenizer, load_weights, resolve_device
from .speller import speller
from .steered import Steered, Steering, steering_by
from .vocab import MAPPED, Vocabulary, align_all


@dataclass(frozen=True, slots=True)
class ExpertSource:
    """A small tuned model, what it was tuned from, and the weight of their difference.

    Attributes:
        expert: its `untuned` is the anti-expert.
    """

    expert: ModelSource
    antiexpert: ModelSource
    weight: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "expert", replace(self.expert, untuned=self.antiexpert))


def align_models(
    base: ModelSource, experts: Sequence[ExpertSource], vocabulary: str
) -> tuple[RoleTokenizers, Vocabulary]:
    """The tokenizers of base, first expert and its anti-expert, and what all models share.

    Args:
        vocabulary: "identical", "shared", "mapped", "matched" or "bytes"; see `vocab.align`.

    Raises:
        ValueError: a tokenizer is missing, vocabularies differ, or a small model cannot read its
            own tokens.
    """
    tokenizer = load_tokenizer(base)
    small = [(load_tokenizer(one.expert), load_tokenizer(one.antiexpert)) for one in experts]
    aligned = align_all(tokenizer, small, vocabulary)
    if vocabulary in MAPPED:
        is_by_bytes = vocabulary == "bytes"
        for source in [*([base] if is_by_bytes else []), *(one.antiexpert for one in experts)]:
            config = load_config(source)
            if not (is_positional if is_by_bytes else keeps_keys)(config):
                raise ValueError(
                    f"'{source.name}': {config.model_type} layers keep more than keys by position "
                    f"and cannot be rolled back, which vocabulary {vocabulary} needs; take a model "
                    "of another architecture, or an expert of the base's vocabulary"
                )
    readers = aligned.readers[0] if aligned.readers else None
    return RoleTokenizers(tokenizer, *small[0], readers), aligned


class LoadedModels:
    """Models in memory, each loaded when it is first asked for.

    Small models stay loaded; of the large ones only the last does.
    """

    def __init__(self, device: str) -> None:
        self.device = resolve_device(device)
        self._pairs: dict[tuple[ModelSource, ModelSource], Pair] = {}
        self._large: tuple[ModelSource, LanguageModel] | None = None

    def steered(
        self,
        base: ModelSource,
        experts: Sequence[ExpertSource],
        vocabulary: str,
        alpha: float | Alpha,
    ) -> tuple[Steered, RoleTokenizers]:
        """The base steered by experts; vocabularies are compared before any weights load.

        Raises:
            ValueError: a model is missing, or has another vocabulary.
        """
        tokenizers, aligned = align_models(base, experts, vocabulary)
        pairs = [(self.pair(one.expert, one.antiexpert), one.weight) for one in experts]
        if vocabulary == "bytes":
            small = [(expert.speller, anti.speller) for expert, anti in aligned.readers]
            steering = [Steering(*pair) for pair in pairs]
            spellers = speller(tokenizers.base), small
            return SteeredByBytes(self.base(base), steering, spellers, alpha), tokenizers
        steering = steering_by(pairs, aligned)
        return Steered(self.base(base), steering, aligned, alpha), tokenizers

    def pair(self, expert: ModelSource, antiexpert: ModelSource) -> Pair:
        """An expert and its anti-expert."""
        if (expert, antiexpert) not in self._pairs:
            self._pairs[expert, antiexpert] = load_pair(expert, antiexpert, self.device)
        return self._pairs[expert, antiexpert]

    def base(self, source: ModelSource) -> LanguageModel:
        """A large untuned model; the large model before it is unloaded."""
        if self._large is None or self._large[0] != source:
            self._drop_large()
            model = as_language_model(load_weights(source, self.device), load_tokenizer(source))
            self._large = source, model
        return self._large[1]

    def tuned(self, source: ModelSource) -> LanguageModel:
        """A large tuned model; every other model is unloaded."""
        if self._large is None or self._large[0] != source:
            self.unload()
            self._large = source, load_tuned(source, self.device)
        return self._large[1]

    def unload(self) -> None:
        """Free all models."""
        self._pairs.clear()
        self._drop_large()

    def _drop_large(self) -> None:
        self._large = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
