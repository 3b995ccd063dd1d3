"""Checkpoints that are complete, and from which a training resumes with the same log.

transformers writes a checkpoint file by file, and rank zero may finish while other processes are
still writing their random state and their shards. It deletes the checkpoint before, and resumes
from the highest number. Here a checkpoint counts when it holds `whole.json`, which is written when
all processes have written their part; only then are older ones deleted. Partial checkpoints are
removed before training resumes.

`whole.json` also holds the state that transformers and TRL do not save: the losses and metrics
since the last logged step, the sum of the losses for `train_loss`, and the number of tokens. With
them the log of a resumed training is that of an uninterrupted one.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from decode.jobs.files import FileChanged, read_json, write_json
from decode.jobs.interruption import Request
from decode.jobs.seals import Seals

MARK = "whole.json"
SEALS = Seals(MARK)
REMEDY = "delete its folder to go on from the checkpoint before, or from the start"


class Checkpoints(TrainerCallback):
    """Marks checkpoints as whole, continues from the newest, and stops at one when asked to.

    Attributes:
        is_unfinished: training was stopped before its last step.
    """

    def __init__(self) -> None:
        self._trainer: Any = None
        self._resumed_from: Path | None = None
        self._saves_at_epoch_end = False
        self.is_unfinished = False

    def begin(self, trainer: Trainer, request: Request) -> Path | None:
        """The checkpoint that `trainer` resumes from, the same on all processes, or None.

        Args:
            trainer: its `save_total_limit` is applied here: transformers deletes too early.
            request: read after every step; all processes stop at the same one.
        """
        self._trainer, self._request, args = trainer, request, trainer.args
        self._folder = Path(str(args.output_dir))
        self._limit, args.save_total_limit = args.save_total_limit, None
        if trainer.is_world_process_zero():
            remove_partial(self._folder)
        chosen = [newest_whole(self._folder)]
        broadcast_object_list(chosen)  # rank zero's: another's view of a shared disk may be older
        self._resumed_from = chosen[0]
        args.eval_on_start = args.eval_on_start and chosen[0] is None  # it was at the start
        return chosen[0]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Restores the state of the log from the checkpoint."""
        trainer = self._trainer
        state.compute_steps(args, state.max_steps)  # as the recipe has them now
        if self._resumed_from is None:
            return
        path = self._resumed_from / MARK
        kept = read_json(path, REMEDY)
        try:
            if not SEALS.fits(kept):
                raise ValueError
            trainer._tr_loss += kept["losses"][args.process_index]
            trainer._total_loss_scalar = kept["total_loss"]
            trainer._globalstep_last_logged = kept["last_logged_step"]
            trainer._total_train_tokens = kept["num_tokens"]
            trainer._metrics["train"].update(kept["metrics"])
        except (KeyError, TypeError, ValueError, IndexError):
            raise FileChanged(f"{path}: not what the training wrote; {REMEDY}") from None
        run_epoch = trainer._run_epoch

        def unless_over(**given: Any) -> None:  # transformers would take one step more
            if state.global_step < state.max_steps and not trainer.control.should_training_stop:
                run_epoch(**given)

        trainer._run_epoch = unless_over

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stops all processes at this step if one of them was asked to."""
        # At the end of an epoch more may be logged and evaluated: it is saved after that.
        is_epoch_end = float(state.epoch or 0).is_integer() or control.should_training_stop
        if self._is_asked_anywhere():
            self.is_unfinished = state.global_step < state.max_steps
            control.should_save = control.should_training_stop = True
        if is_epoch_end and control.should_save:
            self._saves_at_epoch_end, control.should_save = True, False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Saves if a save was put off; an epoch that was stopped half-way is not logged as one."""
        if self._saves_at_epoch_end:
            self._saves_at_epoch_end, control.should_save = False, True
        elif self.is_unfinished:
            control.should_log = control.should_evaluate = control.should_save = False

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Marks the checkpoint and deletes older ones, when all processes have written."""
        trainer = self._trainer
        losses = gather_object([trainer._tr_loss.item()])  # a barrier: all processes have written
        if not state.is_world_process_zero:
            return
        log = {
            "losses": losses,
            "total_loss": trainer._total_loss_scalar,
            "last_logged_step": trainer._globalstep_last_logged,
            "num_tokens": trainer._total_train_tokens,
            "metrics": trainer._metrics["train"],
        }
        checkpoint = self._folder / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        write_json(checkpoint / MARK, SEALS.put(log))
        self._delete_older(state.best_model_checkpoint)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Sets `train_loss` to the mean of all steps, also those before a resumption."""
        if logs and "train_loss" in logs and state.global_step:
            for entry in (logs, state.log_history[-1]):
                entry["train_loss"] = self._trainer._total_loss_scalar / state.global_step
                if is_deepspeed_zero3_enabled():  # of the weights that happened to be gathered
                    entry.pop("total_flos", None)

    def _is_asked_anywhere(self) -> bool:
        accelerator = self._trainer.accelerator
        if accelerator.num_processes == 1:
            return self._request.is_made
        asked = torch.tensor(int(self._request.is_made), device=accelerator.device)
        return bool(accelerator.reduce(asked, reduction="sum").item())

    def _delete_older(self, best: str | None) -> None:
        if not self._limit or self._limit < 0:
            return
        for checkpoint in numbered(self._folder)[: -self._limit]:
            if best is None or checkpoint.name != Path(best).name:
                remove(checkpoint)


def numbered(folder: Path) -> list[Path]:
    """All checkpoints in `folder`, oldest first."""
    found = [
        (int(match[1]), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name))
    ]
    return [path for _, path in sorted(found)]


def newest_whole(folder: Path) -> Path | None:
    """The last complete checkpoint, or None."""
    return next((path for path in reversed(numbered(folder)) if (path / MARK).exists()), None)


def remove_partial(folder: Path) -> None:
    """Delete incomplete checkpoints."""
    for path in numbered(folder):
        if not (path / MARK).exists():
            remove(path)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint, its mark first: half-deleted it does not count as complete."""
    (checkpoint / MARK).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)
