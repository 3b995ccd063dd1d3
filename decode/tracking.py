"""Weights & Biases, as a mirror of what is on disk: one tracker, and a twin that does nothing.

Callers never ask whether W&B is on. Whether it can be reached is decided before `wandb.init`, which
would otherwise prompt for a key, fail without a terminal, or wait minutes for a host: without a key
or a network the run goes on offline and says so once. Failures later on are said once and never end
a run. Keys: `eval/<task>/<system>`, `eval/<task>/gap_closed/<base slug>/alpha<a>`.

A key that ends in `/step` becomes the x-axis of its neighbours: `train/step` that of `train/*`.
W&B's own step is left alone, since it may only grow. transformers' WandbCallback would log into the
run that is active when training begins (`report_to="wandb"`, `WandbCallback.setup`).
"""

import logging
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .connection import find_obstacle
from .dashboard import predictions_table, result_values
from .folder import write_text
from .interruption import UNFINISHED, Interrupted

logger = logging.getLogger(__name__)

INIT_TIMEOUT_S = 30.0  # a busy server answers within seconds
FINISH_TIMEOUT_S = 1800.0  # an expert of 14 GB at 10 MB/s; the rest can be synced later
MAX_TABLE_ROWS = 10_000  # what W&B shows of a logged table


class NullTracker:
    """Tracking that is off: every method does nothing. Also the interface of `Tracker`.

    As a context it ends the run if what is within is interrupted.
    """

    def __enter__(self) -> "NullTracker":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Interrupted):
            self.finish(error.exit_code)

    @property
    def is_on(self) -> bool:
        """Whether anything is recorded: what `report_to` should follow."""
        return False

    @property
    def url(self) -> str | None:
        """Where the run can be looked at, None unless it is online."""
        return None

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Record values; a step, if given, is recorded as `train/step`."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Record values of the run as a whole."""

    def results(self, metrics: dict[str, Any]) -> None:
        """Record a `metrics.json`, both as values and as the run's summary."""

    def predictions(
        self, predictions: Mapping[str, Sequence[dict[str, Any]]], key: str = "predictions"
    ) -> None:
        """Record a table of all systems side by side; rows are matched by their order."""

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table, or as much of it as W&B shows."""

    def images(self, paths: Mapping[str, Path]) -> None:
        """Record pictures, by key."""

    def artifact(
        self,
        folder: Path,
        name: str,
        type: str = "model",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a finished folder's files. They are uploaded from where they are, not copied."""

    def finish(self, exit_code: int = 0) -> None:
        """End the run; a code other than 0 marks it failed, UNFINISHED preempted: to go on."""


class Tracker(NullTracker):
    """A W&B run, online or offline."""

    def __init__(self, run: Any) -> None:
        import wandb

        self._wandb = wandb
        self._run = run
        self._has_failed = False
        self._axes: set[str] = set()

    @property
    def is_on(self) -> bool:
        return True

    @property
    def url(self) -> str | None:
        return self._run.url

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        at = {} if step is None else {"train/step": step}

        def send() -> None:
            for key in {**values, **at}:
                if key.endswith("/step") and key not in self._axes:
                    self._run.define_metric(key.removesuffix("step") + "*", step_metric=key)
                    self._axes.add(key)
            self._run.log({**values, **at})

        self._try(send)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._try(lambda: self._run.summary.update(dict(values)))

    def results(self, metrics: dict[str, Any]) -> None:
        values = result_values(metrics)
        self.log(values)
        self.summary(values)

    def predictions(
        self, predictions: Mapping[str, Sequence[dict[str, Any]]], key: str = "predictions"
    ) -> None:
        self.table(key, *predictions_table(predictions))

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if len(rows) > MAX_TABLE_ROWS:
            logger.info(
                "W&B shows %d of %d rows of %s; all are in the run folder",
                MAX_TABLE_ROWS,
                len(rows),
                key,
            )
        shown: list[Iterable[Any]] = [list(row) for row in rows[:MAX_TABLE_ROWS]]
        self.log({key: self._wandb.Table(columns=list(columns), data=shown)})

    def images(self, paths: Mapping[str, Path]) -> None:
        self.log({key: self._wandb.Image(str(path)) for key, path in paths.items()})

    def artifact(
        self,
        folder: Path,
        name: str,
        type: str = "model",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        def send() -> None:
            artifact = self._wandb.Artifact(name, type=type, metadata=dict(metadata or {}))
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    # "immutable": read in place, where the default first copies it to the home.
                    artifact.add_file(
                        str(path),
                        name=path.relative_to(folder).as_posix(),
                        policy="immutable",
                        skip_cache=True,
                    )
            self._run.log_artifact(artifact)

        self._try(send)

    def finish(self, exit_code: int = 0) -> None:
        def send() -> None:
            if exit_code == UNFINISHED:
                self._run.mark_preempting()
            self._run.finish(exit_code=exit_code)

        self._try(send)

    def _try(self, action: Any) -> None:
        try:
            action()
        except _failures() as error:
            if not self._has_failed:
                logger.warning(
                    "W&B stopped taking data (%s); the run goes on, its files are complete",
                    _one_line(error),
                )
            self._has_failed = True


def start_tracking(
    settings: Mapping[str, Any],
    run_dir: Path,
    name: str,
    job_type: str,
    config: Mapping[str, Any],
    run_id: str | None = None,
    is_main_process: bool = True,
) -> NullTracker:
    """A tracker for this run: online if it can be, offline otherwise, null if it is switched off.

    Args:
        settings: a recipe's `wandb` section; `WANDB_MODE` overrides its mode.
        run_dir: W&B's files go to its `wandb/`, and the run's id to `wandb/run_id`, so that a
            rerun continues the same W&B run. Offline each start has a folder of its own with that
            id, and `wandb sync` joins them.
        name, job_type: as W&B shows them.
        config: the resolved recipe and the environment; never secrets or environment variables.
        run_id: instead of the one in the run folder.
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
    run_id = run_id or _kept_run_id(run_dir)
    arguments: dict[str, Any] = {
        "project": settings["project"],
        "entity": settings.get("entity"),
        "group": settings.get("group"),
        "tags": list(settings.get("tags") or ()),
        "dir": str(run_dir),
        "name": name,
        "job_type": job_type,
        "config": dict(config),
        "id": run_id,
        "settings": wandb.Settings(
            silent=True,  # what matters is said below, once
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S,
        ),
    }
    run = None
    if mode == "online":
        try:
            run = wandb.init(mode="online", resume="allow", **arguments)
        except _failures() as error:  # a key the server refuses, a host that stopped answering
            reason = _one_line(error)
            wandb.teardown()  # else the failed start would hold on to the id
    if run is None:
        try:
            run = wandb.init(mode="offline", **arguments)
        except _failures() as error:
            logger.warning("W&B is off (%s); the run's files are complete", _one_line(error))
            return NullTracker()
        logger.warning(
            "W&B is offline (%s); to upload later: wandb sync %s/wandb/offline-run-*-%s",
            reason,
            run_dir,
            run_id,
        )
    else:
        logger.info("W&B: %s", run.url)
    return Tracker(run)


def _kept_run_id(run_dir: Path) -> str:
    path = run_dir / "wandb" / "run_id"
    if path.exists() and (kept := path.read_text("utf-8").strip()):
        return kept
    run_id = secrets.token_hex(4)
    write_text(path, run_id + "\n")
    return run_id


def _failures() -> tuple[type[Exception], ...]:
    """What W&B raises when its host refuses, its run is over, its service died or a disk is full.

    A value of a kind that it cannot take is our mistake, and not among them.
    """
    import wandb
    from wandb.sdk.mailbox.mailbox import MailboxClosedError
    from wandb.sdk.mailbox.mailbox_handle import HandleAbandonedError, ServerResponseError

    service = (MailboxClosedError, HandleAbandonedError, ServerResponseError)
    return (wandb.Error, *service, OSError)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
