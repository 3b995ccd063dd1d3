"""Fine-tuning one model with TRL: LoRA or full, whatever accelerate and DeepSpeed provide."""

import json
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTConfig, SFTTrainer

from .tokens import token_dataset
from .training import Training
from .training_rows import TrainingRows

logger = logging.getLogger(__name__)


def sft_config(training: Training, seed: int, run_name: str) -> SFTConfig:
    """TRL's configuration: the recipe's keys as they are, and the few that are ours."""
    ours = {"output_dir": str(training.checkpoints), "seed": seed, "run_name": run_name}
    # Curves go through TrackingCallback, which keeps an expert's and a reference's apart.
    return SFTConfig(
        **{"use_cpu": not torch.cuda.is_available(), **training.sft, **ours, "report_to": "none"}
    )


def train(
    training: Training,
    rows: TrainingRows,
    config: SFTConfig,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Fine-tune one model on its training rows and leave the result in `training.target`.

    The loss is taken on completions only, unless `config` says otherwise. Training goes on from
    the newest complete checkpoint. The target appears when everything in it is written.
    """
    state = PartialState()
    set_seed(config.seed)
    source, target, adapter = training.model, training.target, training.adapter
    model = source.model
    if Path(model).is_dir():
        model = str(Path(model).resolve())  # an adapter records it as given
    remote = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(model, **remote)
    theirs = config.model_init_kwargs
    assert not isinstance(theirs, str), "TRL parses this key from text only on a command line"
    config.model_init_kwargs = {"dtype": source.dtype, **remote, **(theirs or {})}
    # The adapter says which model it belongs to: decoding shares that model's weights with it.
    fixed = {"task_type": "CAUSAL_LM", "revision": source.revision}
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=token_dataset(rows, tokenizer, config),
        processing_class=tokenizer,
        peft_config=None if adapter is None else LoraConfig(**{**fixed, **adapter}),
        callbacks=list(callbacks),
    )
    checkpoint = newest_complete_checkpoint(training.checkpoints)
    if checkpoint is not None:
        logger.info("training goes on from %s", checkpoint)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    partial = target.with_name(f"{target.name}.partial")
    if state.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    state.wait_for_everyone()
    trainer.save_model(str(partial))
    state.wait_for_everyone()
    if state.is_main_process:
        tokenizer.save_pretrained(partial)
        (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle; recipe.yaml says it
        log = json.dumps(trainer.state.log_history, indent=1)
        (partial / "training_log.json").write_text(log + "\n", "utf-8")
        partial.replace(target)
        shutil.rmtree(training.checkpoints, ignore_errors=True)
    state.wait_for_everyone()


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end, or None.

    transformers takes the highest number, whole or not; the trainer's state is written last, so a
    checkpoint without it was cut off.
    """
    numbered = [
        (int(match[1]), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name))
    ]
    complete = [pair for pair in numbered if _is_json(pair[1] / "trainer_state.json")]
    return max(complete)[1] if complete else None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False  # not there, or cut off while it was written
    return True
