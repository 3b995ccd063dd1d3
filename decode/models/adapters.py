"""Adapters by their folders or hub ids: which they are, and the model that one is put on."""

import functools
import logging
from dataclasses import replace
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from .adapter_kinds import check_adapter_kind
from .embeddings import replaces_embeddings
from .fit import load_adapter, read_adapter, refuse_nan
from .hub import ADAPTER_FILE, adapter_folder, model_folder
from .model_files import REMEDY, read_model_file
from .model_source import ModelSource

logger = logging.getLogger(__name__)


def path_of_adapter(source: ModelSource) -> str | None:
    """The folder of an adapter, fetched from the hub if it is there; None for whole weights."""
    return adapter_folder(source.name, source.revision)


def is_adapter(source: ModelSource) -> bool:
    """Whether a folder, or what a hub id names, is a PEFT adapter rather than whole weights."""
    return path_of_adapter(source) is not None


def brings_embeddings(source: ModelSource, base: PreTrainedModel) -> bool:
    """Whether an adapter replaces the embeddings of its base, which is in memory."""
    folder = path_of_adapter(source)
    assert folder is not None
    return replaces_embeddings(base, read_adapter(folder, source.name))


def load_adapted(source: ModelSource, base: PreTrainedModel) -> PeftModel:
    """An adapter on its base, which is in memory; raises as `fit.load_adapter` does."""
    folder = path_of_adapter(source)
    assert folder is not None
    return load_adapter(base, folder, source.name)


def changes_its_base(start: bool | str) -> bool:
    """Whether an adapter with this `init_lora_weights` takes its first weights out of its base."""
    return str(start).lower().startswith(("pissa", "olora", "corda", "loftq", "lora_ga"))


def adapter_base(expert: ModelSource) -> ModelSource:
    """The model that an adapter is put on, to be read as the expert is.

    That is the model the adapter was trained on, by the name that it remembers; or, where none of
    that name is in reach, `expert.untuned`.

    Raises:
        ValueError: it was trained on other weights than that model's, cannot be decoded, or
            remembers no model.
    """
    folder = path_of_adapter(expert)
    assert folder is not None
    file = Path(folder) / ADAPTER_FILE
    settings = read_model_file(file)
    refuse_nan(settings, str(file))
    if "peft_type" not in settings:
        raise ValueError(f"{file}: peft_type: missing; {REMEDY}")
    check_adapter_kind(settings, str(file))
    if changes_its_base(start := settings.get("init_lora_weights", True)):
        raise ValueError(
            f"{expert.name}: an adapter begun as '{start}' belongs to weights changed by that, not "
            "to its base's own; convert it (path_initial_model_for_weight_conversion of PEFT's "
            "save_pretrained)"
        )
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    for key, value in (("base_model_name_or_path", name), ("revision", revision)):
        if not isinstance(value, str | None):
            raise ValueError(f"{file}: {key}: found {value!r:.60}, expected text or null")
    named = replace(expert, name=str(name), revision=revision, untuned=None) if name else None
    untuned = expert.untuned
    if untuned is None:
        if named is None:
            raise ValueError(
                f"{file}: base_model_name_or_path: missing; give the model it was trained on as "
                "the anti-expert"
            )
        return named
    # An adapter that remembers no revision does not contradict a given one.
    is_given = named is not None and (
        named.is_same_model(untuned) or (revision is None and named.is_in_same_place(untuned))
    )
    if named is not None and not is_given:
        if model_folder(named.name, revision) is not None:
            return named
        _say_where_it_is_put(expert.name, named.name, untuned.name)
    return replace(untuned, dtype=expert.dtype)


@functools.cache
def _say_where_it_is_put(adapter: str, named: str, untuned: str) -> None:
    logger.warning(
        "%s: '%s', which it was trained on, is not in reach; it is put on '%s'",
        adapter,
        named,
        untuned,
    )
