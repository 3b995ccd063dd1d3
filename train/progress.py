"""The progress of a training, in place of the bar and the lines of numbers of transformers.

The numbers are in W&B and, when training is done, in `training_log.json`.
"""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from decode.jobs.terminal import Progress


class TrainingProgress(TrainerCallback):
    """Shows the steps of the training of `name`, and its last logged loss."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress: Progress | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Starts at the step that the training goes on from."""
        doing = f"training {self._name}"
        self._progress = Progress(doing, state.max_steps, "steps", state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Counts the step."""
        assert self._progress is not None
        self._progress.add()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Shows the loss."""
        if self._progress is not None and logs and "loss" in logs:
            self._progress.tell(f"loss {logs['loss']:.4g}")

    def close(self) -> None:
        """Ends the line, however the training has ended."""
        if self._progress is not None:
            self._progress.close()
