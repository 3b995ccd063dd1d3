"""Fine-tuning one model with TRL: LoRA or full, whatever accelerate and DeepSpeed provide."""

import copy
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from peft import LoraConfig
from transformers import (
    PreTrainedTokenizerBase,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from decode.jobs.interruption import held_back
from decode.models.attention import without_plans
from decode.models.fit import check_files
from decode.models.sources import load_tokenizer

from . import zero
from .checkpoints import Checkpoints
from .contradictions import refuse_contradictions
from .divergence import REMEDY, Diverged, Divergence
from .preferences import PreferenceConfig, PreferenceTrainer, TrainerConfig
from .progress import TrainingProgress
from .proxy_loss import check_proxy_loss, trainer_class
from .rehearsal import configured, rehearse
from .rows.pairs import pair_dataset
from .rows.tokens import token_dataset
from .rows.training_rows import TrainingRows
from .training import Training

logger = logging.getLogger(__name__)


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
        """Logs the numbers, on the main process."""
        if state.is_world_process_zero and logs:
            numbers = {k: v for k, v in logs.items() if isinstance(v, int | float)}
            values = {f"{self._prefix}/{key}": value for key, value in numbers.items()}
            self._log({**values, f"{self._prefix}/step": state.global_step})


def trainer_config(training: Training, seed: int, run_name: str) -> TrainerConfig:
    """TRL's configuration of a training: the recipe's keys, and a few that a run sets itself.

    Raises:
        ValueError: keys contradict each other, a library refuses one, or the training cannot be
            proxy-aware.
    """
    refuse_contradictions(training)
    ours: dict[str, Any] = {
        "output_dir": str(training.checkpoints),
        "seed": seed,
        "run_name": run_name,
        "use_cpu": uses_cpu(training.settings),
        "report_to": "none",  # see TrackingCallback
    }
    if (deepspeed := zero.settings_of(training.settings)) is not None:
        ours["deepspeed"] = deepspeed
        zero.enter_alone()
    try:
        config = configured(training, ours)
    finally:  # of a configuration that TRL refuses, this names the key
        if not training.is_complete:
            rehearse(training, ours)
    if training.proxy_aware is not None:
        assert not isinstance(config, PreferenceConfig), "the recipe's schema says so"
        check_proxy_loss(training.proxy_aware, training.model, config)
    return config


def uses_cpu(settings: dict[str, Any]) -> bool:
    """Whether training runs on the CPU: as the recipe says, else where there is no GPU."""
    return bool(settings.get("use_cpu", not torch.cuda.is_available()))


def train(
    training: Training,
    rows: TrainingRows,
    config: TrainerConfig,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Fine-tune one model on its training rows; the result is in `training.target`.

    The loss is taken on completions only, unless `config` says otherwise; of preferences, on pairs
    of them. Training resumes from the newest complete checkpoint.

    Raises:
        Diverged: the loss, its gradient or a weight is NaN or infinite.
        Interrupted: the process was asked to stop; there is a checkpoint to resume from.
    """
    zero.prepare(config)
    without_plans()
    set_seed(config.seed)
    source, adapter = training.model, training.adapter
    model = source.name
    if Path(model).is_dir():
        model = str(Path(model).resolve())  # an adapter records it as given
    tokenizer = copy.deepcopy(load_tokenizer(source))  # which TRL changes
    theirs = config.model_init_kwargs
    assert not isinstance(theirs, str), "TRL parses this key from text only on a command line"
    config.model_init_kwargs = {"dtype": source.dtype, **source.hub_options, **(theirs or {})}
    # The adapter says which model it belongs to: decoding shares that model's weights with it.
    fixed = {"task_type": "CAUSAL_LM", "revision": source.revision}
    if isinstance(config, PreferenceConfig):
        kind, dataset = PreferenceTrainer, pair_dataset(rows, tokenizer, config)
    else:
        kind = trainer_class(training.proxy_aware)
        dataset = token_dataset(rows, tokenizer, config)
    trainer = kind(
        model=model,
        args=cast(Any, config),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=None if adapter is None else LoraConfig(**{**fixed, **adapter}),
        callbacks=[divergence := Divergence(), checkpoints := Checkpoints(), *callbacks],
    )
    divergence.watch(trainer)
    logger.info("training %s on %s, by %s", training.target, rows, zero.describe(trainer))
    _quiet(trainer, progress := TrainingProgress(training.target.name))
    with held_back() as request, closing(progress):
        checkpoint = checkpoints.begin(trainer, request)
        if checkpoint is not None:
            logger.info("training goes on from %s", checkpoint)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if checkpoints.is_unfinished:
            raise request.interrupted()
        _save(trainer, tokenizer, training)
    zero.release(trainer)


def _quiet(trainer: Trainer, progress: TrainingProgress) -> None:
    """Show one line of progress, unless the recipe asks for the trainer's own lines."""
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(progress)
    # A card of checkpoints, which nobody reads; offline, W&B warns of the address it asks for.
    vars(trainer)["create_model_card"] = lambda *_, **__: None


def _save(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, training: Training) -> None:
    """Write the trained model to `training.target`, which appears when everything is written."""
    state, target = PartialState(), training.target
    partial = target.with_name(f"{target.name}.partial")
    if state.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    state.wait_for_everyone()
    trainer.save_model(str(partial))
    state.wait_for_everyone()
    problem: list[Any] = [None]
    if state.is_main_process:
        try:
            check_files(sorted(partial.glob("*.safetensors")), str(target))
        except ValueError as error:
            problem = [f"{error}; {REMEDY}"]
    broadcast_object_list(problem)  # one reads the weights, all end alike
    if problem[0] is not None:
        raise Diverged(problem[0])
    if state.is_main_process:
        tokenizer.save_pretrained(partial)
        (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle; recipe.yaml says it
        log = json.dumps(trainer.state.log_history, indent=1)
        (partial / "training_log.json").write_text(log + "\n", "utf-8")
        partial.replace(target)
        shutil.rmtree(training.checkpoints, ignore_errors=True)
    state.wait_for_everyone()
