"""A training whose loss or gradient is no longer a number stops, and never becomes an expert."""

import math
from typing import Any

from accelerate.utils import gather_object
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

REMEDY = "lower learning_rate, or set dtype to float32"


class Diverged(ValueError):
    """In one line: the step at which training diverged, and what may help."""


class Divergence(TrainerCallback):
    """Stops a training at the first step whose loss or gradient is NaN or infinite.

    transformers would log such a loss as 0.0 and train on.
    """

    def watch(self, trainer: Trainer) -> None:
        """Look at every step of `trainer`."""
        trainer.args.logging_nan_inf_filter = False  # the sum of the losses stays what it is
        self._trainer: Any = trainer
        self._grad_norm: Any = None
        get_grad_norm = self._trainer._get_grad_norm

        def kept(*args: Any, **options: Any) -> Any:
            self._grad_norm = get_grad_norm(*args, **options)
            return self._grad_norm

        self._trainer._get_grad_norm = kept

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Raises Diverged, on all processes at the same step."""
        found = {"loss": float(self._trainer._tr_loss)}
        # A scaler of float16 gradients skips the steps at which they overflow.
        if self._grad_norm is not None and not args.fp16:
            found["gradient norm"] = float(self._grad_norm)
        bad = [f"{what} {value}" for what, value in found.items() if not math.isfinite(value)]
        if self._trainer.accelerator.num_processes > 1:
            bad = gather_object(bad)
        if bad:
            raise Diverged(
                f"{args.output_dir}: training diverged at step {state.global_step}: {bad[0]}; "
                f"{REMEDY}"
            )
