"""Keys of libraries: what `trl.SFTConfig`, `trl.DPOConfig` and `peft.LoraConfig` would accept.

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
from types import SimpleNamespace
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from .trainer_keys import (
    CHOICES_OF_DPO,
    IDLE,
    IDLE_OF_DPO,
    IDLE_OF_LORA,
    LORA_ONLY,
    OF_EVALUATION,
    OURS,
    OURS_OF_DPO,
    OURS_OF_LORA,
    UNFIT,
    WAITING,
    scheduler_problem,
)

# Ranges that the libraries do not check, or check when the weights are there; ends included.
LEAST = {
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "r"), 1),
    "precompute_ref_batch_size": 1,
    **dict.fromkeys(("weight_decay", "max_grad_norm", "warmup_steps", "lora_alpha"), 0),
    **dict.fromkeys(("neftune_noise_alpha", "data_seed", "router_aux_loss_coef"), 0),
    **dict.fromkeys(("label_smoothing", "ld_alpha"), 0),
    "max_length": 2,  # one token is nothing to predict
}
MOST = {"data_seed": 2**32 - 1, "label_smoothing_factor": 1, "lora_dropout": 1, "learning_rate": 1}
MOST |= {"label_smoothing": 0.5, "ld_alpha": 1}
ABOVE_ZERO = ("save_steps", "logging_steps", "max_steps", "num_train_epochs", "learning_rate")
ABOVE_ZERO += ("beta", "discopop_tau")
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
def dpo_class() -> type:
    """`trl.DPOConfig`."""
    from trl import DPOConfig  # seconds to import

    return DPOConfig


def trl_class(section: str | None) -> type:
    """The configuration whose keys a section holds, of the recipe or of its references."""
    return dpo_class() if section in ("dpo", "reference_dpo") else sft_class()


@functools.cache
def lora_class() -> type:
    """`peft.LoraConfig`."""
    from peft import LoraConfig  # seconds to import

    return LoraConfig


def settable(config: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a library's config class that a recipe may set, by name."""
    fields = {field.name: field for field in dataclasses.fields(config) if field.init}
    return {name: field for name, field in fields.items() if name not in _ours(config)}


def _ours(config: type) -> dict[str, str]:
    if config is lora_class():
        return OURS_OF_LORA
    return OURS if config is sft_class() else OURS_OF_DPO


def check_section(
    values: dict[str, Any], config: type, beneath: dict[str, Any] | None = None
) -> None:
    """Check every key and value of a recipe section against a library's config class.

    Args:
        beneath: the section that this one overrides, if any.

    Raises:
        KeyProblem: an unknown key, one of ours, a value of the wrong type, or a key without effect.
    """
    fields = settable(config)
    hints = _type_hints(config)
    for key, value in values.items():
        if key not in fields:
            if key in _ours(config):
                raise KeyProblem(key, f"not set here; {_ours(config)[key]}")
            raise KeyProblem(key, "unknown key")
        choices = fields[key].metadata.get("choices")
        if config is dpo_class():
            choices = CHOICES_OF_DPO.get(key, choices)
        if key not in UNTYPED and not _fits(hints[key], value):
            raise KeyProblem(key, f"found {_written(value)}, expected {_readable(hints[key])}")
        members = value if isinstance(value, list) else [value]
        if choices and value is not None and not set(members) <= set(choices):
            raise KeyProblem(
                key, f"found {_written(value)}, expected one of {', '.join(map(str, choices))}"
            )
        if key.endswith("_kwargs") and isinstance(value, str):  # text is for command lines
            raise KeyProblem(key, f"found {_written(value)}, expected a mapping")
        if isinstance(value, int | float) and (expected := _range(key, value)):
            raise KeyProblem(key, f"found {value}, expected {expected}")
    _check_effects(values, config, _settings(config, beneath, values))


def _range(key: str, value: float) -> str | None:
    """What a number of this key should be, if it is not."""
    if key in ABOVE_ZERO and value <= 0 and not (key == "max_steps" and value == -1):
        return "above 0"
    if key in LEAST and value < LEAST[key]:
        return f"at least {LEAST[key]}"
    if key in MOST and value > MOST[key]:
        return f"at most {MOST[key]}"
    return None


def _settings(config: type, *sections: dict[str, Any] | None) -> SimpleNamespace:
    """Every key as it holds: at its default, or as the last section has it that does."""
    found: dict[str, Any] = {}
    for name, field in settable(config).items():
        is_plain = field.default is not dataclasses.MISSING
        found[name] = field.default if is_plain else None
        if callable(field.default_factory):
            found[name] = field.default_factory()
    for section in sections:
        found |= section or {}
    return SimpleNamespace(**found)


def _check_effects(values: dict[str, Any], config: type, settings: SimpleNamespace) -> None:
    """Raises KeyProblem for a key that has no effect beside the others, or an unfit one."""
    of_trl, defaults = config is not lora_class(), _settings(config)
    rules = IDLE if of_trl else IDLE_OF_LORA
    rules = IDLE_OF_DPO if config is dpo_class() else rules
    for key, value in values.items():
        if _is_off(value) or value == getattr(defaults, key):
            continue
        if not of_trl and value != LORA_ONLY.get(key, value):
            raise KeyProblem(key, f"found {_written(value)}, expected {LORA_ONLY[key]}")
        if of_trl and (key in OF_EVALUATION or value in WAITING.get(key, ())):
            raise KeyProblem(
                key,
                f"found {_written(value)}, which has no effect: training evaluates nothing of "
                "TRL's own; see proxy_check, and proxy_check.select_by for the best weights",
            )
        if of_trl and key in UNFIT:
            raise KeyProblem(key, f"{UNFIT[key]}; leave it out")
        is_idle, reason = rules.get(key, (lambda _: False, ""))
        if is_idle(settings):
            raise KeyProblem(key, f"has no effect: {reason}; leave it out (or null)")
    if of_trl and (problem := scheduler_problem(settings)):
        raise KeyProblem("lr_scheduler_kwargs", problem)


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in ("no", [])


def without_nulls(values: dict[str, Any] | None, config: type) -> dict[str, Any] | None:
    """A section without its keys that are null and cannot be, which leaves them to the library."""
    if values is None or None not in values.values():
        return values
    hints = _type_hints(config)
    return {
        key: value
        for key, value in values.items()
        if value is not None or key not in hints or _fits(hints[key], None)
    }


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
