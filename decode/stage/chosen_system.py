"""One system of a run, chosen by its name: the lineup it is of, and its models."""

from dataclasses import replace
from pathlib import Path

from recipes.schema.recipe import load_recipe

from ..evaluation.lineup import Lineup, System
from ..jobs.folder import RunFolder
from ..models.chat_date import keep_date
from ..models.model_source import ModelSource
from .recipe_models import lineup_of
from .validation import chosen_in


def lineup_of_run(folder: RunFolder) -> Lineup:
    """The lineup of a run, which may have been moved; chat templates are told the run's date.

    Raises:
        ValueError: that is no run's folder, or its recipe is not valid.
    """
    if not folder.recipe.is_file():
        raise ValueError(f"run: {folder.path} is no run folder; it has no recipe.yaml")
    recipe = load_recipe(folder.recipe).model_copy(update={"output_dir": str(folder.path)})
    keep_date(folder.chat_date)
    lineup = lineup_of(recipe)
    if recipe.decode.choose is None:
        return lineup
    if not folder.choice.is_file():
        raise ValueError(
            f"run: {folder.choice} is not there yet; decode/run.py chooses alpha and rule, and "
            "decodes"
        )
    return replace(lineup, chosen=chosen_in(folder))


def chosen_system(lineup: Lineup, name: str, alpha: float | None) -> System:
    """The system of that name or role, at that alpha if it is given.

    Args:
        name: a role, a role with a base's name (`proxy-<base>`), or a system's whole name.
        alpha: of a proxy whose name has none, by the headline's rule; None is the headline alpha.

    Raises:
        ValueError: there is no such system, there are several, or it takes no alpha.
    """
    found = [system for system in lineup.systems if name in _names(system)]
    if not found:
        names = dict.fromkeys(name for system in lineup.systems for name in _names(system))
        raise ValueError(f"system: found {name!r}; there are {', '.join(names)}")
    chosen = found[0]
    if any(system.contender != chosen.contender for system in found):
        names = dict.fromkeys(_names(system)[1] for system in found)
        raise ValueError(f"system: the run has several bases; take one of {', '.join(names)}")
    if alpha is not None and (chosen.role != "proxy" or name == chosen.name):
        raise ValueError(f"alpha: found {alpha:g}; system {name!r} takes none")
    if chosen.role != "proxy" or name == chosen.name:
        return chosen
    assert chosen.contender is not None
    headline = lineup.headline(chosen.contender)
    return replace(chosen, alpha=headline if alpha is None else replace(headline, value=alpha))


def _names(system: System) -> list[str]:
    """The role, the role of one base, and the full name."""
    base = [] if system.contender is None else [f"{system.role}-{system.contender.slug}"]
    return [system.role, *base, system.name]


def models_of(lineup: Lineup, system: System) -> list[ModelSource]:
    """The models that a system decodes with; expert and anti-expert are loaded together.

    Raises:
        ValueError: the run has not trained one of them yet.
    """
    sources, trained_here = [], []
    if system.contender is not None:
        is_tuned = system.role == "tuned"
        large = system.contender.tuned if is_tuned else system.contender.loaded_base
        assert large is not None
        sources.append(large)
        trained_here += [large] if is_tuned and not system.contender.tuned_is_there else []
    if system.role in ("proxy", "expert", "antiexpert"):
        experts = lineup.experts if system.role == "proxy" else lineup.experts[:1]
        sources += [source for one in experts for source in (one.expert, one.antiexpert)]
        trained_here += [] if lineup.expert_is_there else [lineup.expert]
    for source in trained_here:
        if not Path(source.name).is_dir():
            raise ValueError(
                f"{source.name}: not there yet; train it with train/sft.py or train/dpo.py"
            )
    return sources
