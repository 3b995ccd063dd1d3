"""Weights & Biases, as a mirror of what is on disk: starts the run that a job logs to.

Whether it can be reached is decided before `wandb.init`, which would otherwise prompt for a key,
fail without a terminal, or wait minutes for a host: without a key or a network the run goes on
offline and says so once. `dashboard.py` has the keys, `tracker.py` logs.
transformers' WandbCallback would log into the run that is active when training begins
(`report_to="wandb"`, `WandbCallback.setup`).
"""

import logging
import os
import secrets
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..jobs.files import write_text
from .connection import find_obstacle
from .tracker import NullTracker, Tracker, failures, one_line

logger = logging.getLogger(__name__)

INIT_TIMEOUT_S = 30.0  # a busy server answers within seconds
FINISH_TIMEOUT_S = 1800.0  # an expert of 14 GB at 10 MB/s; the rest can be synced later


def start_tracking(
    settings: Mapping[str, Any],
    run_dir: Path,
    name: str,
    job_type: str,
    config: Mapping[str, Any],
    is_main_process: bool = True,
) -> NullTracker:
    """A tracker for this run: online if it can be, offline otherwise, null if it is switched off.

    Args:
        settings: a recipe's `wandb` section; `WANDB_MODE` overrides its mode.
        run_dir: W&B's files go to its `wandb/`, and each job's id too, so that a rerun continues
            the same W&B run. Offline each start has a folder of its own with that id, and `wandb
            sync` joins them. An id in `WANDB_RUN_ID` comes first: a sweep's agent has given it.
        name: as W&B shows it, and the group's where the recipe names none.
        job_type: train, decode or analyze.
        config: the resolved recipe and the environment; never secrets or environment variables.
        is_main_process: other processes get the null tracker.
    """
    mode = os.environ.get("WANDB_MODE") or settings.get("mode") or "online"
    if mode == "disabled" or settings.get("project") is None or not is_main_process:
        return NullTracker()
    import wandb  # a second to import, and not needed when it is off

    mode = "offline" if mode in ("offline", "dryrun") else "online"
    reason = "as asked"
    if mode == "online":
        found = wandb.setup().settings  # the environment's and `wandb login`'s
        if obstacle := find_obstacle(found.base_url, found.api_key):
            mode, reason = "offline", obstacle
    run_id = given_run_id() or _kept_run_id(run_dir, job_type)
    # In a sweep these three are the agent's to say, and W&B warns of others.
    place = {"project": settings["project"], "entity": settings.get("entity"), "id": run_id}
    is_trial = "WANDB_SWEEP_ID" in os.environ
    arguments: dict[str, Any] = {
        **({} if is_trial else place),
        "group": settings.get("group") or name,
        "tags": list(settings.get("tags") or ()),
        "dir": str(run_dir),
        "name": f"{name}-{run_id}" if is_trial else name,
        "job_type": job_type,
        "config": dict(config),
        "settings": wandb.Settings(
            silent=True,  # what matters is said below, once
            disable_git=True,  # a remote's address may hold a token; the config has the commit
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S,
        ),
    }
    run = None
    if mode == "online":
        try:
            run = wandb.init(mode="online", resume="allow", **arguments)
        except failures() as error:  # a key the server refuses, a host that stopped answering
            reason = one_line(error)
            wandb.teardown()  # else the failed start would hold on to the id
    if run is None:
        try:
            run = wandb.init(mode="offline", **arguments)
        except failures() as error:
            logger.warning("W&B is off (%s); the run's files are complete", one_line(error))
            return NullTracker()
        _say_offline(reason, run_dir)
    else:
        logger.info("W&B: %s", run.url)
    return Tracker(run)


def given_run_id() -> str | None:
    """The W&B run that the environment names: then all of a run's jobs log to that one."""
    return os.environ.get("WANDB_RUN_ID") or None


@cache
def _say_offline(reason: str, run_dir: Path) -> None:
    """Said once for all jobs of a run."""
    logger.warning(
        "W&B is offline (%s)\nto upload later: wandb sync %s/wandb/offline-run-*", reason, run_dir
    )


def _kept_run_id(run_dir: Path, job_type: str) -> str:
    path = run_dir / "wandb" / ("run_id" if job_type == "train" else f"{job_type}_run_id")
    if path.exists() and (kept := path.read_text("utf-8").strip()):
        return kept
    run_id = secrets.token_hex(4)
    write_text(path, run_id + "\n")
    return run_id
