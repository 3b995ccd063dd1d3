"""A W&B run to log to, and a twin that does nothing: callers never ask whether W&B is on.

A key that ends in `/step` or `/alpha` becomes the x-axis of its neighbours: `train/step` that of
`train/*`. W&B's own step is left alone, since it may only grow. A failure is said once and never
ends a run: the run folder is complete without W&B.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.metrics import Metrics
from ..jobs.interruption import UNFINISHED, Interrupted
from .dashboard import alpha_rows, predictions_table, result_values, summary_of
from .lineage import Artifact, safe_name

logger = logging.getLogger(__name__)

MAX_TABLE_ROWS = 10_000  # what W&B shows of a logged table
AXIS = re.compile(r"(.*/)(?:step|alpha)")


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

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Record values; a step, if given, is recorded as `train/step`."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Record values of the run as a whole."""

    def results(self, metrics: Metrics) -> None:
        """Record a `metrics.json`, both as values and as the run's summary."""

    def predictions(
        self, predictions: Mapping[str, Sequence[dict[str, Any]]], key: str = "predictions"
    ) -> None:
        """Record a table of all systems side by side; rows are matched by their order."""

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table, or as much of it as W&B shows."""

    def images(self, paths: Mapping[str, Path]) -> None:
        """Record pictures, by key."""

    def uses(self, artifact: Artifact) -> None:
        """Record an artifact that this run was made from."""

    def makes(self, artifact: Artifact) -> None:
        """Record an artifact that this run made, as the latest and under the run's name."""

    def finish(self, exit_code: int = 0) -> None:
        """End the run; a code other than 0 marks it failed, UNFINISHED preempted: to go on."""


class Tracker(NullTracker):
    """A W&B run, online or offline."""

    def __init__(self, run: Any) -> None:
        import wandb

        self._wandb = wandb
        self._run = run
        self._name = safe_name(run.name or run.id)
        self._has_failed = False
        self._defined: set[str] = set()

    @property
    def is_on(self) -> bool:
        return True

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        at = {} if step is None else {"train/step": step}

        def send() -> None:
            self._define({**values, **at})
            self._run.log({**values, **at})

        self._try(send)

    def _define(self, values: Mapping[str, Any]) -> None:
        """Say once for each key what it is drawn over, and what the run's summary keeps of it."""
        new = [key for key in values if key not in self._defined]
        self._defined.update(new)
        axes = {match[1]: match[0] for key in values if (match := AXIS.fullmatch(key))}
        for prefix, axis in axes.items():
            if axis in new:
                self._run.define_metric(f"{prefix}*", step_metric=axis)
        for key in new:
            if summary := summary_of(key):
                axis = next((axes[prefix] for prefix in axes if key.startswith(prefix)), None)
                self._run.define_metric(key, step_metric=axis, summary=summary)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._try(lambda: self._run.summary.update(dict(values)))

    def results(self, metrics: Metrics) -> None:
        values = result_values(metrics)
        self.log(values)
        self.summary(values)
        for row in alpha_rows(metrics):
            self.log(row)

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

    def uses(self, artifact: Artifact) -> None:
        # As `run.use_artifact` does it, which refuses to offline and waits for the upload online.
        self._send_artifact(artifact, use_after_commit=True)

    def makes(self, artifact: Artifact) -> None:
        self._send_artifact(artifact, aliases=[self._name])

    def _send_artifact(self, artifact: Artifact, **options: Any) -> None:
        def send() -> None:
            found = self._wandb.Artifact(
                artifact.name, artifact.type, metadata={**artifact.metadata}
            )
            for name, text in artifact.texts.items():
                with found.new_file(name, encoding="utf-8") as file:
                    file.write(text)
            # "immutable": read in place, where the default first copies it to the home.
            place = {"policy": "immutable", "skip_cache": True} if artifact.is_final else {}
            for name, path in artifact.files.items():
                found.add_file(str(path), name=name, **place)
            self._run._log_artifact(found, is_user_created=True, **options)

        # A name taken by another type, or a W&B that does this otherwise, must not end the run.
        self._try(send, (ValueError, TypeError, AttributeError))

    def finish(self, exit_code: int = 0) -> None:
        def send() -> None:
            if exit_code == UNFINISHED:
                self._run.mark_preempting()
            self._run.finish(exit_code=exit_code)

        self._try(send)

    def _try(self, action: Any, also: tuple[type[Exception], ...] = ()) -> None:
        try:
            action()
        except (*failures(), *also) as error:
            if not self._has_failed:
                logger.warning(
                    "W&B stopped taking data (%s); the run goes on, its files are complete",
                    one_line(error),
                )
            self._has_failed = True


def failures() -> tuple[type[Exception], ...]:
    """The errors of W&B if its host refuses, its run has ended, its service died or a disk is full.

    The error for a value that it cannot take is a bug here, and not among them.
    """
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError
    from wandb.sdk.mailbox.mailbox import MailboxClosedError
    from wandb.sdk.mailbox.mailbox_handle import HandleAbandonedError, ServerResponseError

    service = (MailboxClosedError, HandleAbandonedError, ServerResponseError, WandbApiFailedError)
    return (wandb.Error, *service, OSError)


def one_line(error: Exception) -> str:
    """The message of an error, short enough for a line of a log."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
