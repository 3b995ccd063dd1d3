"""What is served: base, expert, proxy-tuned and directly tuned model, side by side in memory.

Base, expert and proxy share their weights; each has a cache of its own, so that the rows of one
never meet those of another. The directly tuned model is a second large one.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast

from ..backends.local import LocalCompleter
from ..engine.request import Prompt, RolePrompt
from ..engine.rule import Alpha
from ..evaluation.lineup import Contender, Lineup, System
from ..models.language_model import LanguageModel
from ..models.loaded import LoadedModels
from ..models.prompts import RoleTokenizers
from ..models.sources import load_tokenizer
from ..models.steered import Steered


@dataclass(frozen=True, slots=True)
class Served:
    """One system that requests name as their model.

    Attributes:
        prompt: a text as the system's models read it.
        alpha: of requests that bring none; None if the system has no alpha.
        scorer: scores completions with a cache of its own.
        num_positions: prompt and completion together hold so many tokens; None is no limit.
        num_ids: prompts as token ids may have those below it.
    """

    name: str
    model: LanguageModel | Steered
    tokenizers: RoleTokenizers
    prompt: Callable[[str], RolePrompt | Prompt]
    alpha: Alpha | None
    scorer: LocalCompleter
    num_positions: int | None
    num_ids: int


def load_served(
    lineup: Lineup, contender: Contender, names: Collection[str], num_scored: int
) -> list[Served]:
    """The named systems of a lineup's base, with their models in memory.

    Args:
        names: of proxy, base, expert and tuned; tuned only where there is one.
        num_scored: completions scored side by side.

    Raises:
        ValueError: a model is missing, or has another vocabulary.
    """
    alpha = lineup.headline(contender)
    models, found = LoadedModels(lineup.device), []

    def serve(system: System, model: LanguageModel | Steered, tokenizers: RoleTokenizers) -> None:
        networks = [one.model for one in (model.models if isinstance(model, Steered) else [model])]
        configs = [network.config.get_text_config(decoder=True) for network in networks]
        limits = [getattr(config, "max_position_embeddings", None) for config in configs]
        readers = networks[:1] if tokenizers.readers else networks  # of the base's ids
        tables = [cast(Any, one.get_input_embeddings()).num_embeddings for one in readers]
        found.append(
            Served(
                system.role,
                model,
                tokenizers,
                lambda text: lineup.prompt(system, text),
                alpha if system.role == "proxy" else None,
                LocalCompleter(model.with_own_cache(), tokenizers, num_scored),
                min((limit for limit in limits if limit), default=None),
                min(*tables, len(tokenizers.base)),
            )
        )

    if "proxy" in names:
        steered, tokenizers = models.steered(
            contender.loaded_base, lineup.experts, lineup.vocabulary, alpha
        )
        serve(System("proxy", contender, alpha), steered, tokenizers)
    if "base" in names:
        source = contender.loaded_base
        alone = RoleTokenizers.alone(load_tokenizer(source))
        serve(System("base", contender), models.base(source).with_own_cache(), alone)
    if "expert" in names:
        expert = models.pair(lineup.expert, lineup.antiexpert).expert.with_own_cache()
        serve(System("expert"), expert, RoleTokenizers.alone(load_tokenizer(lineup.expert)))
    if "tuned" in names and contender.tuned is not None:
        tuned = LoadedModels(lineup.device).tuned(contender.tuned)
        alone = RoleTokenizers.alone(load_tokenizer(contender.tuned))
        serve(System("tuned", contender), tuned, alone)
    return found
