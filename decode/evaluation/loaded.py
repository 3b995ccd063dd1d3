"""The completers of a lineup's systems, and the models behind them.

The small models and one large model are in memory at a time; a finished run loads nothing.
"""

from ..backends.endpoint import EndpointCompleter, EndpointModel, steered_endpoint
from ..backends.local import LocalCompleter
from ..backends.next_tokens import EndpointSource
from ..models.loaded import LoadedModels, align_models
from ..models.prompts import RoleTokenizers
from ..models.sources import load_tokenizer
from ..models.steered import steering_by
from .lineup import Lineup, System


class Completers:
    """One completer a system, made when it is asked for."""

    def __init__(self, lineup: Lineup) -> None:
        self._lineup = lineup
        self._models = LoadedModels(lineup.device)

    def of(self, system: System) -> LocalCompleter:
        """The system's completer, with counts and timings that begin at 0."""
        lineup, models, contender = self._lineup, self._models, system.contender
        if contender is not None and isinstance(contender.base, EndpointSource):
            return self._behind_endpoint(contender.base, system)
        if system.role == "proxy":
            assert contender is not None and system.alpha is not None
            model, tokenizers = models.steered(
                contender.loaded_base, lineup.experts, lineup.vocabulary, system.alpha
            )
            return LocalCompleter(model, tokenizers, lineup.batch_size, lineup.num_draft_tokens)
        if contender is None:
            pair = models.pair(lineup.expert, lineup.antiexpert)
            is_expert = system.role == "expert"
            source = lineup.expert if is_expert else lineup.antiexpert
            model = pair.expert if is_expert else pair.antiexpert
        elif system.role == "base":
            source, model = contender.loaded_base, models.base(contender.loaded_base)
        else:
            assert contender.tuned is not None
            source, model = contender.tuned, models.tuned(contender.tuned)
        tokenizers = RoleTokenizers.alone(load_tokenizer(source))
        return LocalCompleter(model, tokenizers, lineup.batch_size)

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
