"""Training curves on the dashboard."""

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TrackingCallback(TrainerCallback):
    """Sends what the trainer logs to the tracker under a prefix, against the trainer's own step.

    A run trains an expert and perhaps references, each from step 1: the prefix keeps their curves
    apart (`train/loss`, `reference/<base>/loss`).
    """

    def __init__(self, log: Callable[[dict[str, Any]], None], prefix: str) -> None:
        self._log, self._prefix = log, prefix

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Logs numbers from the main process."""
        if state.is_world_process_zero and logs:
            numbers = {k: v for k, v in logs.items() if isinstance(v, int | float)}
            values = {f"{self._prefix}/{key}": value for key, value in numbers.items()}
            self._log({**values, f"{self._prefix}/step": state.global_step})
