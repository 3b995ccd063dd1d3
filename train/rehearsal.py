"""A training built dry, so that what TRL, PEFT and torch refuse is found before any weights load.

Whatever the recipe's keys decide is made as for the training itself: TRL's configuration, the
optimizer and its schedule for one step of a small parameter, and the trainer of a model without
weights, with its adapter, tokenizer and collator. The library's own words are quoted behind the key
without which they would not have been said.
"""

import copy
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import datasets
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    Trainer,
    get_scheduler,
)
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import create_model_from_path

from decode.models.fit import quiet
from decode.models.sources import load_tokenizer

from . import zero
from .preferences import PreferenceConfig, PreferenceTrainer, TrainerConfig
from .rows.pairs import COLUMNS
from .rows.tokens import end_of_text
from .training import Training

NUM_STEPS = 10
ROW = {"input_ids": [0] * 4, "labels": [0] * 4}
PAIR = {name: [0] * 4 for name in COLUMNS}
# Lists of names in LoraConfig, of which PEFT leaves out those that the model does not have.
OF_NAMES = ("target_modules", "modules_to_save", "target_parameters")


class Unplaced(SFTTrainer):
    """A trainer that leaves its model on the meta device."""

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        pass


class UnplacedPreferences(PreferenceTrainer):
    """The same of preferences, with a reference that stays there as well."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.accelerator.device_placement = False

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        pass


class Weightless:
    """In place of a class of models: the model on the meta device."""

    @staticmethod
    def from_pretrained(name: str, **options: Any) -> PreTrainedModel:
        """The model that TRL would load with these options."""
        read: Any = AutoConfig.from_pretrained(name, return_unused_kwargs=True, **options)
        config, unused = read
        code = options.get("trust_remote_code", False)
        with torch.device("meta"):
            kind = type(AutoModelForCausalLM.from_config(config, trust_remote_code=code))
        dry = {"config": config, "state_dict": {}, "device_map": "meta"}
        return kind.from_pretrained(None, **{**unused, **dry})


def configured(training: Training, ours: dict[str, Any]) -> TrainerConfig:
    """TRL's configuration of a training's method; `ours` are keys that a run sets itself."""
    kind = PreferenceConfig if training.method == "dpo" else SFTConfig
    return kind(**{**training.settings, **ours})


def rehearse(training: Training, ours: dict[str, Any]) -> None:
    """Build everything of a training that needs no weights.

    Args:
        ours: keys of TRL's configuration that a run sets itself. DeepSpeed is left out.

    Raises:
        ValueError: in one line the key that a library refuses, and its words.
    """
    with zero.undivided(), _hushed(), tempfile.TemporaryDirectory() as folder:
        ours = {**ours, "output_dir": folder, "push_to_hub": False, "deepspeed": None}
        reason = _refusal(training, ours)
        if reason is None:
            return
        for key, without in _with_fewer_keys(training, reason):
            if _refusal(without, ours) != reason:
                raise ValueError(f"{key}: {reason}")
    raise ValueError(f"training of {training.model.name} cannot begin: {reason}")


def _refusal(training: Training, ours: dict[str, Any]) -> str | None:
    """What a library says against a training, in one line; None is nothing."""
    try:
        _build(training, configured(training, ours))
    except Exception as error:  # of whatever class a library chose
        return f"{' '.join(str(error).split()) or type(error).__name__:.300}"
    return None


def _with_fewer_keys(training: Training, reason: str) -> Iterator[tuple[str, Training]]:
    """Each key with its value and the training without it, first those that `reason` mentions."""
    adapter = training.adapter or {}
    keys = [("sft", *item) for item in training.settings.items()]
    keys += [("expert.adapter", *item) for item in adapter.items()]
    for section, key, value in sorted(
        keys, key=lambda one: one[1] not in reason and str(one[2]) not in reason
    ):
        field = "settings" if section == "sft" else "adapter"
        fewer = training.settings if section == "sft" else adapter
        fewer = {name: fewer[name] for name in fewer if name != key}
        without = replace(training, **{field: fewer})
        yield f"{section}.{key}: found {value!r:.80}", without


def _build(training: Training, config: TrainerConfig) -> None:
    tokenizer = copy.deepcopy(load_tokenizer(training.model))  # which TRL changes
    end_of_text(tokenizer, config)
    adapter = None if training.adapter is None else LoraConfig(**training.adapter)
    _step(config)
    assert not isinstance(config.model_init_kwargs, str)
    options = {"dtype": training.model.dtype, **training.model.hub_options}
    options |= config.model_init_kwargs or {}
    config.model_init_kwargs = None

    def weightless() -> PreTrainedModel:
        return create_model_from_path(training.model.name, cast(Any, Weightless), **options)

    _check_names(model := weightless(), training.adapter or {})
    row, kind = ROW, Unplaced
    if isinstance(config, PreferenceConfig):
        config.precompute_ref_log_probs = False  # it would ask the reference
        reference = weightless() if adapter is None else None
        row, kind = PAIR, partial(UnplacedPreferences, ref_model=reference)
    with torch.device("meta"):
        trainer = kind(
            model=model,
            args=cast(Any, config),
            train_dataset=Dataset.from_list([row] * 8),
            processing_class=tokenizer,
            peft_config=adapter,
        )
    trainer.data_collator([row, row])
    trainer.get_train_dataloader()
    if config.chat_template_path is not None:
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}])


def _step(config: TrainerConfig) -> None:
    """Take a step of the optimizer and its schedule, on a parameter of no model."""
    weight = nn.Parameter(torch.ones(2, 2, device=config.device))
    weight.grad = torch.ones_like(weight)
    kind, options = Trainer.get_optimizer_cls_and_kwargs(config)
    optimizer = kind([weight], **options)
    schedule = get_scheduler(
        config.lr_scheduler_type,
        optimizer,
        config.get_warmup_steps(NUM_STEPS),
        NUM_STEPS,
        config.lr_scheduler_kwargs,  # pyright: ignore[reportArgumentType]
    )
    optimizer.step()
    schedule.step()


def _check_names(model: nn.Module, adapter: dict[str, Any]) -> None:
    known = [f".{name}" for name, _ in (*model.named_modules(), *model.named_parameters())]
    for key in OF_NAMES:
        names = adapter.get(key)
        for name in names if isinstance(names, list) else ():
            if not any(one.endswith(f".{name}") for one in known):
                raise ValueError(f"{key} has {name!r}, which this model has not")


@contextmanager
def _hushed() -> Iterator[None]:
    """Without bars and warnings, which the training itself gives."""
    has_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            yield
    finally:
        if has_bars:
            datasets.enable_progress_bars()
