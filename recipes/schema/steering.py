"""How bases are steered: the rule, and the choice of alpha and rule on validation rows."""

from typing import Any, Literal

from pydantic import Field, field_validator

from .keys import KeyProblem
from .section import Section

Numbers = tuple[float, ...]


class Rule(Section):
    """Which tokens may be chosen, and how strong the shift is; every default is the formula's."""

    plausible_to: Literal["expert", "base_or_expert"] | None = None
    """Only tokens are chosen that are plausible to the expert, or to the base or the expert; null
    is all."""
    plausible_share: float = Field(default=0.1, gt=0, le=1)
    """A token is plausible to a model that gives it this share of what its likeliest one gets."""
    warmup_tokens: int = Field(default=0, ge=0)
    """alpha grows from 0 to its value over so many tokens of a completion; 0 is at once."""
    half_life_tokens: float | None = Field(default=None, gt=0)
    """alpha halves every so many tokens; null is never."""
    sure_base: float | None = Field(default=None, gt=0, le=1)
    """No shift where the base gives its likeliest token at least this probability; null shifts
    everywhere."""
    by_doubt: bool = False
    """alpha is multiplied by one minus that probability."""
    antiexpert: bool = True
    """false adds the expert's log-probabilities alone."""

    @property
    def keys_by_place(self) -> list[str]:
        """The keys that are given and count tokens."""
        warms_up, halves = self.warmup_tokens > 0, self.half_life_tokens is not None
        return ["warmup_tokens"] * warms_up + ["half_life_tokens"] * halves


class Choose(Section):
    """The choice of alpha and rule for each base and task, on rows that are not reported on."""

    rows: str | float | dict[str, str | float]
    """Validation rows: a file, or the share of the evaluation rows that is set apart for it; for
    several tasks, one of them by task."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many validation rows; null is all."""
    alpha: Numbers = Field(min_length=1)
    """The alphas to choose from."""
    rule: tuple[Rule | None, ...] = Field(default=(None,), min_length=1)
    """The rules to choose from; null is the paper's formula."""

    @field_validator("alpha", mode="before")
    @classmethod
    def _list_of_numbers(cls, value: Any) -> Any:
        return numbers(value if isinstance(value, list | tuple) else [value])

    @field_validator("rule")
    @classmethod
    def _distinct(cls, value: tuple[Rule | None, ...]) -> tuple[Rule | None, ...]:
        named = [(rule or Rule()).model_dump_json() for rule in value]
        if len(set(named)) < len(named):
            raise ValueError("each rule may be listed once; null is one without keys")
        return value

    @field_validator("rows", mode="before")
    @classmethod
    def _shares(cls, value: Any) -> Any:
        for one in value.values() if isinstance(value, dict) else [value]:
            if isinstance(one, bool) or not isinstance(one, str | int | float):
                raise ValueError("a file, or a share of the evaluation rows; or these by task")
            if not isinstance(one, str) and not 0 < one < 1:
                raise ValueError("a share must be above 0 and below 1")
        return value

    def rows_of(self, task: str) -> str | float | None:
        """A task's validation rows."""
        return self.rows.get(task) if isinstance(self.rows, dict) else self.rows


def numbers(values: Any) -> Numbers:
    """Distinct numbers as floats. Raises ValueError if they are not that."""
    is_number = [isinstance(n, int | float) and not isinstance(n, bool) for n in values]
    if not values or not all(is_number):
        raise ValueError("expected a number or a list of at least one number")
    if len({f"{number:g}" for number in values}) < len(values):
        raise ValueError("each alpha may be listed once")
    return tuple(map(float, values))


def with_earlier_keys(tree: Any) -> Any:
    """A recipe's tree with `alpha_warmup_tokens` of earlier recipes as the rule's `warmup_tokens`.

    Raises:
        KeyProblem: there is a rule beside it.
    """
    decode = tree.get("decode") if isinstance(tree, dict) else None
    if not isinstance(decode, dict) or "alpha_warmup_tokens" not in decode:
        return tree
    decode = dict(decode)
    tokens, rule = decode.pop("alpha_warmup_tokens"), decode.get("rule")
    if rule is not None:
        raise KeyProblem("decode.alpha_warmup_tokens", "is rule.warmup_tokens now; give that alone")
    is_none = tokens == 0 and not isinstance(tokens, bool)
    return {**tree, "decode": decode if is_none else {**decode, "rule": {"warmup_tokens": tokens}}}
