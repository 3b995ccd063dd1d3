"""Keys that belong to a library: what `trl.SFTConfig` and `peft.LoraConfig` would accept.

Only their dataclass fields are read, no object is built, so a check needs neither weights nor
a device. Both libraries take seconds to import and are imported when first asked for.
"""

import dataclasses
import difflib
import enum
import functools
import json
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

# Keys of SFTConfig that the recipe states once, elsewhere, or never.
OURS = {
    "output_dir": "give the recipe's own output_dir",
    "seed": "give the recipe's own seed",
    "run_name": "the recipe's own name is the run's name",
    "report_to": "see wandb.mode",
    "trust_remote_code": "see expert.trust_remote_code",
    "resume_from_checkpoint": "a killed run goes on where it stopped by itself",
    "do_train": "the recipe says what is trained",
    "do_eval": "see task.eval and proxy_check",
    "do_predict": "see task.eval and proxy_check",
    "local_rank": "the launcher sets it",
    "dataset_text_field": "a row is a prompt and a completion; see task.train_format and mixture",
    "assistant_only_loss": "the loss is on completions; see sft.completion_only_loss",
    "project": "see wandb.project",
    "trackio_space_id": "see the section wandb",
    "trackio_bucket_id": "see the section wandb",
    "trackio_static_space_id": "see the section wandb",
    "hub_token": "recipes are saved with results and hold no secrets; use `hf auth login`",
}
# Keys of SFTConfig about an evaluation of its own, of which there is none. Off is accepted.
OF_EVALUATION = frozenset(
    "eval_strategy eval_steps eval_delay per_device_eval_batch_size prediction_loss_only "
    "eval_on_start eval_do_concat_batches eval_use_gather_object eval_accumulation_steps "
    "include_for_metrics batch_eval_metrics bf16_full_eval fp16_full_eval eval_packing "
    "load_best_model_at_end metric_for_best_model greater_is_better".split()
)
OF_THE_HUB = ("hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision")
AT_LEAST_ONE = {
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "r",
}
AT_LEAST_ZERO = {"weight_decay", "max_grad_norm", "warmup_steps", "lora_alpha"}
# PEFT writes "pissa_niter_[number of iters]" as a literal, so its hint refuses real values.
UNTYPED = {"init_lora_weights"}


class KeyProblem(ValueError):
    """What is wrong with one key, to be prefixed with the file and the dotted key."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key
        self.problem = problem


@functools.cache
def sft_class() -> type:
    """`trl.SFTConfig`."""
    from trl import SFTConfig  # seconds to import

    return SFTConfig


@functools.cache
def lora_class() -> type:
    """`peft.LoraConfig`."""
    from peft import LoraConfig  # seconds to import

    return LoraConfig


def settable(config: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a library's config class that a recipe may set, by name."""
    fields = {field.name: field for field in dataclasses.fields(config) if field.init}
    hidden = OURS if config is sft_class() else {}
    return {name: field for name, field in fields.items() if name not in hidden}


def check_section(values: dict[str, Any], config: type) -> None:
    """Check every key and value of a recipe section against a library's config class.

    Raises:
        KeyProblem: an unknown key, one of ours, or a value of the wrong type.
    """
    fields = settable(config)
    hints = _type_hints(config)
    for key, value in values.items():
        if key not in fields:
            if config is sft_class() and key in OURS:
                raise KeyProblem(key, f"not set here; {OURS[key]}")
            raise KeyProblem(key, "unknown key")
        choices = fields[key].metadata.get("choices")
        if key not in UNTYPED and not _fits(hints[key], value):
            raise KeyProblem(key, f"found {_written(value)}, expected {_readable(hints[key])}")
        if choices and value is not None and value not in choices:
            raise KeyProblem(
                key, f"found {_written(value)}, expected one of {', '.join(map(str, choices))}"
            )
        if config is sft_class():
            _check_effect(key, value, values)
        if key in AT_LEAST_ONE and value is not None and value < 1:
            raise KeyProblem(key, f"found {value}, expected at least 1")
        if key in AT_LEAST_ZERO and value is not None and value < 0:
            raise KeyProblem(key, f"found {value}, expected at least 0")
        if key == "learning_rate" and value is not None and not 0 < value <= 1:
            raise KeyProblem(key, f"found {value}, expected above 0 and at most 1")


def _check_effect(key: str, value: Any, values: dict[str, Any]) -> None:
    is_off = value is None or value is False or value in ("no", [])
    if (key in OF_EVALUATION and not is_off) or (key == "save_strategy" and value == "best"):
        raise KeyProblem(
            key,
            f"found {json.dumps(value):.80}, which has no effect: training evaluates nothing of "
            "TRL's own; see proxy_check, and proxy_check.select_by for the best weights",
        )
    if key in OF_THE_HUB and not is_off and not values.get("push_to_hub"):
        raise KeyProblem(key, "has no effect without push_to_hub: true; leave it out")


def suggestion(key: str, keys_by_section: dict[str, list[str]]) -> str:
    """How an unknown dotted `key` may have been meant: the end of an error's line.

    A key of the same section that reads alike comes first, then the same key or one like it in
    another section, then what the section holds.
    """
    section, _, name = key.rpartition(".")
    known = re.sub(r"(?<=judges\.)[^.]+", "*", re.sub(r"\b\d+\b", "0", section))
    siblings = keys_by_section.get(known, [])
    if near := _nearest(name, siblings):
        return f"; did you mean {_joined(section, near)}?"
    home = {n: s for s, names in reversed(keys_by_section.items()) for n in names}
    if near := _nearest(name, home):
        return f"; did you mean {_joined(home[near], near)}?"
    return f"; {section or 'a recipe'} has {', '.join(siblings[:12])}" if siblings else ""


def _nearest(name: str, valid: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(valid), n=1)), None)


def _joined(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


@functools.cache
def _type_hints(config: type) -> dict[str, Any]:
    return {name: _enum_only(hint) for name, hint in typing.get_type_hints(config).items()}


def _enum_only(hint: Any) -> Any:
    """`SomeEnum | str` without the `str`: a misspelt member is then an error, not a string."""
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else ()
    enums = [member for member in members if isinstance(member, enum.EnumMeta)]
    return enums[0] if len(enums) == 1 and set(members) == {enums[0], str} else hint


def _fits(hint: Any, value: Any) -> bool:
    # Strict JSON rules are what YAML's values are: an int is a float, text is an enum's value,
    # and neither True nor "3" is a number.
    try:
        TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return True  # a class pydantic cannot read: the library itself will judge
    except ValidationError:
        return False
    return True


def _written(value: Any) -> str:
    return f"{json.dumps(value):.80}"


def _readable(hint: Any) -> str:
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        values = [str(member.value) for member in hint]
        return "one of " + ", ".join(values[:12]) + (", ..." if len(values) > 12 else "")
    members = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_readable(member) for member in members)
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(repr(member) for member in members)
    if hint is type(None):
        return "null"
    names = {"int": "an integer", "float": "a number", "str": "text", "bool": "true or false"}
    names |= {"dict": "a mapping"}
    text = str(hint) if members else getattr(hint, "__name__", str(hint))
    return names.get(text, text.replace("typing.", ""))
