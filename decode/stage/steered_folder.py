"""A run's steered base as a folder that vLLM serves, and vLLM's own server on it."""

import sys
from dataclasses import asdict
from pathlib import Path

from recipes.schema.engines import steering_problems
from recipes.schema.recipe import load_recipe
from recipes.schema.steering import Rule

from ..backends.vllm_folder import dtype_of, write_folder
from ..evaluation.engines import check_models
from ..evaluation.lineup import System
from ..jobs.faults import doing
from ..jobs.folder import RunFolder
from ..models.loaded import align_models
from ..models.sources import check_weights
from .chosen_system import chosen_system, lineup_of_run, models_of

SERVER = "vllm.entrypoints.openai.api_server"
REQUESTS = "decode.backends.vllm_requests:RequestAlphas"


def write_steered(
    run: Path, name: str, alpha: float | None, folder: Path, is_copy: bool = False
) -> System:
    """Write a system of a run to a folder that is not there yet, or empty.

    Args:
        name, alpha: see `chosen_system`; the system is steered.
        is_copy: copy the weights, rather than link to where they are.

    Raises:
        ValueError: in one line why there is no such system, or what vLLM cannot do.
    """
    lineup = lineup_of_run(RunFolder(run))
    system = chosen_system(lineup, name, alpha)
    if system.alpha is None or system.contender is None:
        raise ValueError(f"system: '{name}' is not steered; serve its model as it is")
    base = system.contender.loaded_base
    recipe = load_recipe(RunFolder(run).recipe)
    rules = {"decode.rule": Rule(**asdict(system.alpha.rule))}
    for key, problem in steering_problems(recipe.expert, recipe.decode, rules):
        raise ValueError(f"{key}: {problem}")
    with doing("reading the models' configs and tokenizers"):
        for source in models_of(lineup, system):
            check_weights(source, loads_here=False)
        check_models(base, lineup)
        _, vocabulary = align_models(base, lineup.experts, lineup.vocabulary)
    with doing(f"writing {folder}"):
        write_folder(folder, base, lineup.experts, vocabulary.size, system.alpha, is_copy)
    return system


def server_command(folder: Path, system: System) -> list[str]:
    """What starts vLLM's server on a folder that was written, with the model called `proxy`."""
    assert system.contender is not None
    dtype = dtype_of(system.contender.loaded_base)  # left to itself, vLLM halves float32
    model = ["--model", str(folder), "--served-model-name", "proxy", "--dtype", dtype]
    return [sys.executable, "-m", SERVER, *model, "--logits-processors", REQUESTS]
