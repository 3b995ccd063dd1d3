"""The completers of a lineup's systems, and the models behind them.

The small models and one large model are in memory at a time; a finished run loads nothing.
"""

from typing import TYPE_CHECKING

from ..backends.byte_completer import local_completer
from ..backends.completer import ModelCompleter
from ..backends.endpoint import EndpointCompleter, EndpointModel, steered_endpoint
from ..backends.local import LocalCompleter
from ..backends.next_tokens import EndpointSource
from ..models.loaded import LoadedModels, align_models
from ..models.prompts import RoleTokenizers
from ..models.sources import load_tokenizer
from ..models.steered import steering_by
from ..models.token_bytes import tokens_by_id
from .lineup import Lineup, System

if TYPE_CHECKING:
    from ..backends.vllm_engine import VllmModels


class Completers:
    """One completer a system, made when it is asked for."""

    def __init__(self, lineup: Lineup) -> None:
        self._lineup = lineup
        self._models = LoadedModels(lineup.device)
        self._on_vllm = None
        if lineup.engine == "vllm":
            from ..backends.vllm_engine import VllmModels  # optional, and slow to import

            drafts = lineup.num_draft_tokens
            self._on_vllm = VllmModels(
                lineup.batch_size, lineup.engine_options, 0 if drafts == "auto" else drafts
            )

    def of(self, system: System) -> ModelCompleter:
        """The system's completer, with counts and timings that begin at 0."""
        lineup, models, contender = self._lineup, self._models, system.contender
        if self._on_vllm is not None:
            return self._of_vllm(self._on_vllm, system)
        if contender is not None and isinstance(contender.base, EndpointSource):
            return self._behind_endpoint(contender.base, system)
        if system.role == "proxy":
            assert contender is not None and system.alpha is not None
            model, tokenizers = models.steered(
                contender.loaded_base, lineup.experts, lineup.vocabulary, system.alpha
            )
            return local_completer(model, tokenizers, lineup.batch_size, lineup.num_draft_tokens)
        source = lineup.alone(system)
        if contender is None:
            pair = models.pair(lineup.expert, lineup.antiexpert)
            model = pair.expert if system.role == "expert" else pair.antiexpert
        else:
            model = models.base(source) if system.role == "base" else models.tuned(source)
        tokenizers = RoleTokenizers.alone(load_tokenizer(source))
        return LocalCompleter(model, tokenizers, lineup.batch_size)

    def _of_vllm(self, models: "VllmModels", system: System) -> ModelCompleter:
        """The base alone has the engine of what steers it, so that one is started for both."""
        lineup, contender = self._lineup, system.contender
        is_steered = system.role in ("base", "proxy")
        source = contender.loaded_base if is_steered and contender else lineup.alone(system)
        experts = lineup.experts if is_steered else ()
        tokenizers = RoleTokenizers.alone(load_tokenizer(source))
        if system.role == "proxy":
            tokenizers, _ = align_models(source, experts, lineup.vocabulary)
        vocab_size = len(tokens_by_id(tokenizers.base))
        return models.completer(source, experts, tokenizers, vocab_size, system.alpha)

    def _behind_endpoint(self, source: EndpointSource, system: System) -> EndpointCompleter:
        lineup, models = self._lineup, self._models
        tokenizers, aligned = align_models(lineup.antiexpert, lineup.experts, lineup.vocabulary)
        pairs = [(models.pair(one.expert, one.antiexpert), one.weight) for one in lineup.experts]
        steering, small = steering_by(pairs, aligned), pairs[0][0].antiexpert
        base = EndpointModel(source, tokenizers.base, small.eos_ids, small.device)
        if system.alpha is None:
            alone = RoleTokenizers.alone(tokenizers.base)
            return EndpointCompleter(base, base, alone, lineup.batch_size)
        steered = steered_endpoint(base, steering, aligned, system.alpha)
        return EndpointCompleter(base, steered, tokenizers, lineup.batch_size)

    def unload(self) -> None:
        """Free all models."""
        self._models.unload()
        if self._on_vllm is not None:
            self._on_vllm.unload()
