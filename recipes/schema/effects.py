"""Keys that would do nothing beside the others: each is an error, since whoever wrote it meant it.

What a task decides (its judges, its sampling) is checked where tasks are known, in
`decode/stage/planning.py`.
"""

from collections.abc import Iterator
from typing import Any

from .decoding import Decode
from .endpoint_base import EndpointBase
from .experts import Expert, ProxyCheck
from .keys import KeyProblem
from .outputs import Analyze, Wandb
from .tasks import TaskChoice, TrainSource

UNTRAINED = "expert.trained is finished and no reference is tuned, so nothing is trained"


def check_effects(
    task: TaskChoice,
    mixture: tuple[TrainSource, ...],
    expert: Expert,
    method: str,
    trainer: dict[str, Any],
    decode: Decode,
    wandb: Wandb,
) -> None:
    """Raises KeyProblem for a key that has no effect, and names those with the same reason."""
    idle = [*_in_decoding(expert, decode), *_in_logging(wandb)]
    tunes_references = any(base.tune_reference for base in decode.bases)
    for key in ("reference_sft", "reference_dpo"):
        if getattr(decode, key) and not tunes_references:
            idle.append((f"decode.{key}", "no base has tune_reference: true"))
    if expert.trained is not None and not tunes_references:
        idle += _in_training(task, mixture, method, trainer)
    if task.streaming and trainer.get("train_sampling_strategy") is not None:
        idle.append(("sft.train_sampling_strategy", "task.streaming keeps the order of rows"))
    for key, reason in idle:
        same = ", ".join(other for other, why in idle if why == reason and other != key)
        more = f", and likewise {same}" if same else ""
        raise KeyProblem(key, f"has no effect: {reason}; leave it out{more}")


def _in_decoding(expert: Expert, decode: Decode) -> Iterator[tuple[str, str]]:
    if expert.trained is None and expert.trained_revision is not None:
        yield "expert.trained_revision", "it is that of expert.trained, which is not given"
    for index, base in enumerate(decode.bases):
        if base.tuned_prompt != "raw" and base.tuned is None and not base.tune_reference:
            yield f"decode.bases.{index}.tuned_prompt", "this base has no tuned model"
    is_behind = [isinstance(base, EndpointBase) for base in decode.bases]
    if all(is_behind) and decode.num_draft_tokens not in ("auto", 0):
        yield "decode.num_draft_tokens", "bases behind an endpoint are asked token by token"
    reads_apart = decode.vocabulary in ("mapped", "matched", "bytes")
    if reads_apart and decode.num_draft_tokens not in ("auto", 0):
        yield "decode.num_draft_tokens", f"with decode.vocabulary {decode.vocabulary} none are made"
    for index, more in enumerate(decode.experts):
        if not more.weight:
            yield f"decode.experts.{index}", "its weight is 0"
    for key, rule in decode.rules.items():
        default = type(rule).model_fields["plausible_share"].default
        if rule.plausible_to is None and rule.plausible_share != default:
            yield f"{key}.plausible_share", "plausible_to is null, which is all tokens"
    if not any(decode.alphas):
        for key in ("rule", "experts"):
            if getattr(decode, key):
                yield f"decode.{key}", "decode.alpha is 0"


def check_alphas(decode: Decode, analyze: Analyze, check: ProxyCheck | None) -> None:
    """Raises KeyProblem for an alpha that is not decoded with, or that steers nothing."""
    alphas, wanted = decode.alphas, analyze.alpha
    known = ", ".join(f"{alpha:g}" for alpha in alphas)
    if wanted is not None and wanted not in alphas:
        raise KeyProblem("analyze.alpha", f"found {wanted:g}, and decode.alpha is {known}")
    if check is not None and not (any(alphas) if check.alpha is None else check.alpha):
        raise KeyProblem(
            "proxy_check.alpha",
            "at alpha 0 an expert steers nothing that could be checked; give another alpha",
        )


def check_first_base(expert: Expert, decode: Decode, check: ProxyCheck | None) -> None:
    """Raises KeyProblem for a training that needs the first base in memory, if it never is."""
    if not isinstance(decode.bases[0], EndpointBase):
        return
    if expert.proxy_aware is not None and expert.proxy_aware.base is None:
        raise KeyProblem(
            "expert.proxy_aware.base",
            "missing: the first of decode.bases is behind an endpoint, and the loss needs a base "
            "in memory; name one",
        )
    if check is not None:
        raise KeyProblem(
            "proxy_check",
            "checks steer the first of decode.bases, which is behind an endpoint; list a base that "
            "is loaded here first, or leave proxy_check out",
        )


def check_prompts(expert: Expert, decode: Decode, check: ProxyCheck | None) -> None:
    """Raises KeyProblem for prompts and thinking that the rest of a recipe does not go with."""
    is_behind = [isinstance(base, EndpointBase) for base in decode.bases]
    for index, base in enumerate(decode.bases):
        if expert.proxy_aware is not None and not is_behind[index] and base.prompt != "raw":
            raise KeyProblem(
                f"decode.bases.{index}.prompt",
                "expert.proxy_aware trains beside a base that reads raw prompts; leave one out",
            )
    if decode.thinking is not None and any(is_behind):
        raise KeyProblem(
            "decode.thinking",
            "needs bases that are loaded, and one is behind an endpoint; leave one of the two out",
        )
    if decode.thinking is not None and check is not None:
        raise KeyProblem(
            "decode.thinking", "proxy_check asks for answers without thinking; leave one out"
        )


def _in_logging(wandb: Wandb) -> Iterator[tuple[str, str]]:
    if wandb.project is not None or "project" in wandb.model_fields_set:  # null: switched off
        return
    for key, field in Wandb.model_fields.items():
        if getattr(wandb, key) != field.default:
            yield f"wandb.{key}", "wandb.project is not given, so nothing is logged there"


def _in_training(
    task: TaskChoice, mixture: tuple[TrainSource, ...], method: str, trainer: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    if trainer:
        yield method, UNTRAINED
    for key in ("train", "train_limit", "train_format", "streaming", "keep_eval_rows"):
        if getattr(task, key):
            yield f"task.{key}", UNTRAINED
    if mixture:
        yield "mixture", UNTRAINED
