"""Keys of `trl.SFTConfig`, `trl.DPOConfig` and `peft.LoraConfig` that a recipe leaves out, and why.

Every other key has an effect here. A value that is switched off, or is the key's default, may stay.
"""

import inspect
from collections.abc import Callable
from types import SimpleNamespace

# Keys that the recipe states once, elsewhere, or never.
OURS = {
    "output_dir": "give the recipe's own output_dir",
    "seed": "give the recipe's own seed",
    "run_name": "the recipe's own name is the run's name",
    "report_to": "see wandb.mode",
    "trust_remote_code": "see expert.trust_remote_code",
    "resume_from_checkpoint": "a killed run goes on where it stopped by itself",
    "restore_callback_states_from_checkpoint": "a killed run goes on where it stopped by itself",
    "do_train": "the recipe says what is trained",
    "do_eval": "see task.eval and proxy_check",
    "do_predict": "see task.eval and proxy_check",
    "local_rank": "the launcher sets it",
    "dataset_text_field": "a row is a prompt and a completion; see task.train_format and mixture",
    "dataset_kwargs": "rows are made into tokens before TRL sees them; see sft.max_length",
    "label_names": "a row's labels are its completion; see sft.completion_only_loss",
    "length_column_name": "a row is as long as its tokens",
    "remove_unused_columns": "rows have no columns but their tokens",
    "assistant_only_loss": "the loss is on completions; see sft.completion_only_loss",
    "project": "see wandb.project",
    "trackio_space_id": "see the section wandb",
    "trackio_bucket_id": "see the section wandb",
    "trackio_static_space_id": "see the section wandb",
    "hub_token": "recipes are saved with results and hold no secrets; use `hf auth login`",
}
OURS_OF_DPO = OURS | {
    "label_names": "a pair's labels are its two answers",
    "dataset_num_proc": "pairs are made into tokens before TRL sees them",
    "padding_free": "TRL pads pairs in any case",
    "sync_ref_model": "a killed run would go on with another reference",
    **dict.fromkeys(
        ("ref_model_mixup_alpha", "ref_model_sync_steps"), "the reference is the starting model"
    ),
    "label_smoothing_factor": "the loss on pairs has label_smoothing",
    "pad_token": "the tokenizer names it",
}
# Keys about an evaluation of TRL's own, of which there is none.
OF_EVALUATION = frozenset(
    "eval_strategy eval_steps eval_delay per_device_eval_batch_size prediction_loss_only "
    "eval_on_start eval_do_concat_batches eval_use_gather_object eval_accumulation_steps "
    "include_for_metrics batch_eval_metrics bf16_full_eval fp16_full_eval eval_packing "
    "load_best_model_at_end metric_for_best_model greater_is_better".split()
)
# Values that wait for that evaluation.
WAITING = {"save_strategy": ("best",), "lr_scheduler_type": ("reduce_lr_on_plateau", "greedy")}
# Keys that a killed run cannot resume with exactly.
UNFIT = {
    "save_only_model": "training cannot go on from a checkpoint without its optimizer",
    "enable_jit_checkpoint": "SIGTERM always saves a checkpoint, and all processes the same one",
    "ignore_data_skip": "a training that goes on would learn its first rows again",
}
# Keys of LoraConfig that follow from the recipe.
OURS_OF_LORA = {
    "auto_mapping": "experts are causal language models",
    "base_model_name_or_path": "see expert.model",
    "revision": "see expert.revision",
    "inference_mode": "the adapter is trained",
    "peft_version": "PEFT writes it",
}
LORA_ONLY = {"task_type": "CAUSAL_LM", "peft_type": "LORA"}
WITHOUT_ADAM = ("adafactor", "sgd", "adagrad", "rmsprop", "lomo")  # in an optimizer's name

Settings = SimpleNamespace  # every key, given or at its default
Rule = tuple[Callable[[Settings], bool], str]

_NO_WORKERS: Rule = (lambda s: not s.dataloader_num_workers, "it is for dataloader_num_workers")
_NO_HUB: Rule = (lambda s: not s.push_to_hub, "it is for push_to_hub: true")
_NO_ADAM: Rule = (
    lambda s: any(name in s.optim for name in WITHOUT_ADAM),
    "the optimizer of sft.optim is not of Adam's kind",
)
_NO_RECOMPUTING: Rule = (
    lambda s: (
        not (
            s.gradient_checkpointing
            if s.activation_checkpointing is None
            else s.activation_checkpointing
        )
    ),
    "it is for activation_checkpointing: true",
)
# When a key has no effect beside the others, and why.
IDLE: dict[str, Rule] = {
    "num_train_epochs": (lambda s: s.max_steps > 0, "sft.max_steps says when training ends"),
    "logging_steps": (lambda s: s.logging_strategy != "steps", "it is for logging_strategy: steps"),
    "save_steps": (lambda s: s.save_strategy != "steps", "it is for save_strategy: steps"),
    "packing_strategy": (lambda s: not s.packing, "it is for packing: true"),
    "warmup_steps": (
        lambda s: s.lr_scheduler_type == "constant",
        "this lr_scheduler_type has no warm-up; see constant_with_warmup",
    ),
    "label_smoothing_factor": (lambda s: s.loss_type == "dft", "it is for loss_type: nll"),
    "optim_args": (
        lambda s: s.optim in ("adamw_torch", "adamw_torch_fused", "adafactor"),
        "the optimizer of sft.optim takes none; see adam_beta1, adam_beta2 and adam_epsilon",
    ),
    "optim_target_modules": (
        lambda s: not s.optim.startswith(("galore", "apollo")),
        "it is for the GaLore and APOLLO optimizers",
    ),
    "gradient_checkpointing": (
        lambda s: s.activation_checkpointing is not None,
        "it is the former name of activation_checkpointing",
    ),
    "liger_kernel_config": (lambda s: not s.use_liger_kernel, "it is for use_liger_kernel: true"),
    "fsdp_config": (lambda s: not s.fsdp, "it is for fsdp"),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "adam_epsilon"), _NO_ADAM),
    **dict.fromkeys(
        ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"), _NO_RECOMPUTING
    ),
    **dict.fromkeys(
        (
            "dataloader_persistent_workers",
            "dataloader_prefetch_factor",
            "dataloader_multiprocessing_context",
            "dataloader_in_order",
        ),
        _NO_WORKERS,
    ),
    **dict.fromkeys(
        ("hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"),
        _NO_HUB,
    ),
}

# What TRL would find out at the first step.
CHOICES_OF_DPO: dict[str, tuple[str, ...]] = {
    "loss_type": (
        *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard"),
        *("aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
    ),
    "f_divergence_type": ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
    "truncation_mode": ("keep_start",),
}
IDLE_OF_DPO: dict[str, Rule] = IDLE | {
    "precompute_ref_batch_size": (
        lambda s: not s.precompute_ref_log_probs,
        "it is for precompute_ref_log_probs: true",
    ),
    "f_alpha_divergence_coef": (
        lambda s: s.f_divergence_type != "alpha_divergence",
        "it is for f_divergence_type: alpha_divergence",
    ),
    "label_smoothing": (
        lambda s: not {"robust", "exo_pair"} & set(s.loss_type),
        "it is for loss_type robust and exo_pair",
    ),
    "discopop_tau": (
        lambda s: "discopop" not in s.loss_type,
        "it is for loss_type discopop",
    ),
    "loss_weights": (lambda s: len(s.loss_type) < 2, "it is for several losses in loss_type"),
    "beta": (lambda s: [*s.loss_type] == ["sft"], "loss_type sft has no reference"),
}

IDLE_OF_LORA: dict[str, Rule] = {
    "loftq_config": (
        lambda s: s.init_lora_weights != "loftq",
        "it is for init_lora_weights: loftq",
    ),
    "eva_config": (lambda s: s.init_lora_weights != "eva", "it is for init_lora_weights: eva"),
    "corda_config": (
        lambda s: s.init_lora_weights != "corda",
        "it is for init_lora_weights: corda",
    ),
    "lora_ga_config": (
        lambda s: s.init_lora_weights != "lora_ga",
        "it is for init_lora_weights: lora_ga",
    ),
    "qalora_group_size": (lambda s: not s.use_qalora, "it is for use_qalora: true"),
    "megatron_core": (lambda s: not s.megatron_config, "it is for megatron_config"),
}


def scheduler_problem(settings: Settings) -> str | None:
    """What the learning rate's scheduler does not take or lacks in `lr_scheduler_kwargs`."""
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION  # seconds to import
    from transformers.trainer_utils import SchedulerType

    kind, given = SchedulerType(settings.lr_scheduler_type), settings.lr_scheduler_kwargs or {}
    own = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    takes = {
        name: parameter
        for name, parameter in inspect.signature(
            TYPE_TO_SCHEDULER_FUNCTION[kind]
        ).parameters.items()
        if name not in own
    }
    names = f"{kind.value} takes {', '.join(takes) or 'none'}"
    for name in given:
        if name not in takes:
            return f"found {name}; {names}"
    for name, parameter in takes.items():
        if parameter.default is parameter.empty and name not in given:
            return f"{name} is missing; {names}"
    if "min_lr" in takes and ("min_lr" in given) == ("min_lr_rate" in given):
        return f"expected one of min_lr and min_lr_rate; {names}"
    return None
