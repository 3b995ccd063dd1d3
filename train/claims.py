"""The settings a training was begun with: it is not continued with others."""

import os
from collections.abc import Sequence
from typing import Any

from decode.jobs.files import read_json, weights_digest
from decode.jobs.folder import RunFolder, SettingsChanged
from recipes.schema.recipe import Recipe

from . import zero
from .proxy_loss import ProxyTarget
from .training import Training

# Keys that may change in a training that is continued: they decide what is logged and how fast it
# runs, not its result. Evaluation is not among them: it draws from the random numbers of dropout.
FREE_KEYS = frozenset(
    f"{method}.{key}"
    for method in ("sft", "dpo")
    for key in (
        *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter"),
        *("log_level", "log_level_replica", "log_on_each_node", "disable_tqdm", "report_to"),
        *("run_name", "skip_memory_metrics", "include_num_input_tokens_seen"),
        *("save_strategy", "save_steps", "save_total_limit"),
        *("dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory"),
        *("dataloader_persistent_workers", "dataset_num_proc", "ddp_timeout"),
    )
)


def claim(recipe: Recipe, trainings: Sequence[Training], rows_digest: str) -> None:
    """Check that no training was begun with other settings, and record those it is begun with.

    Args:
        trainings: all of the recipe's.
        rows_digest: a short name for the training rows.

    Raises:
        SettingsChanged: names the keys that differ, but for those in FREE_KEYS.
    """
    for training in trainings:
        settings = {
            "model": {
                "name": training.model.name,
                "revision": training.model.revision,
                "weights": weights_digest(training.model.name),
            },
            "dtype": training.model.dtype,
            "adapter": training.adapter,
            training.method: training.settings,
            "seed": recipe.seed,
            "training rows": rows_digest,
            "proxy_aware": _identity(training.proxy_aware),
            **_launch(RunFolder(recipe.output_dir), training),
            **(_selection(recipe) if training.prefix == "train" else {}),
        }
        RunFolder(recipe.output_dir).claim(training.target, settings, FREE_KEYS)


def _identity(target: ProxyTarget | None) -> dict[str, Any] | None:
    """What decides a proxy-aware loss, the weights of the base included."""
    if target is None:
        return None
    weights = weights_digest(target.base.name)
    return {"base": target.base.identity, "alpha": target.alpha, "weights": weights}


def _launch(folder: RunFolder, training: Training) -> dict[str, Any]:
    """The number of processes and the ZeRO stage, which a checkpoint can only be continued with.

    A complete training is not continued, so any launch will do.

    Raises:
        SettingsChanged: there are checkpoints of another launch.
    """
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    launch = {"num_processes": num_processes, "zero_stage": zero.stage(training.settings)}
    record = folder.settings(training.target)
    found = read_json(record) if record.exists() else {}
    if training.is_complete:
        return {key: found[key] for key in launch if key in found}
    recorded = {key: found.get(key) for key in launch}
    if found and recorded != launch and any(training.checkpoints.glob("*")):
        raise SettingsChanged(
            f"{training.checkpoints} was written by {_launched(recorded)}, and this launch is "
            f"{_launched(launch)}; launch as before, or delete that folder to begin again"
        )
    return launch


def _launched(launch: dict[str, Any]) -> str:
    stage, num_processes = launch["zero_stage"], launch["num_processes"]
    text = f"{num_processes} process" + ("" if num_processes == 1 else "es")
    return text if stage is None else f"{text} under ZeRO-{stage}"


def _selection(recipe: Recipe) -> dict[str, Any]:
    """How the weights that become the expert are selected; empty if they are the last ones."""
    check = recipe.proxy_check
    if check is None or check.select_by == "last":
        return {}
    return {"proxy_check": check.model_dump()}
