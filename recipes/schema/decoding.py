"""The large models, how they are steered, and how completions are generated."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .endpoint_base import EndpointBase
from .folders import slug
from .keys import trl_class, without_nulls
from .prompts import AnyPrompt, Thinking
from .section import Dtype, Section
from .steering import Choose, Rule, numbers


class Base(Section):
    """A large untuned model to be proxy-tuned."""

    model: str = Field(min_length=1)
    """Hub id or folder."""
    revision: str | None = None
    """Commit, tag or branch on the hub; null is the newest."""
    dtype: Dtype = "auto"
    """Weights' type in decoding; auto is the one they are stored in."""
    quantization: dict[str, Any] | None = None
    """transformers' keys of a quantisation, quant_method among them: this model's weights, and
    those of tuned, are quantised as they load. null loads them as they are stored."""
    tuned: str | None = None
    """Hub id or folder of this model directly tuned on the task: the ceiling."""
    prompt: AnyPrompt = "raw"
    """The base's prompt, as `expert.prompt` is the expert's."""
    tuned_prompt: AnyPrompt = "raw"
    """The ceiling's prompt, likewise."""
    tune_reference: bool = False
    """Train that ceiling in the same run, as the expert is trained."""
    start: str | None = Field(default=None, min_length=1)
    """Hub id or folder of the whole weights from which that training starts, where there is an
    expert.start; null is the model."""
    trust_remote_code: bool = False
    """Run model code that comes with the weights."""

    @property
    def slug(self) -> str:
        """The last part of the model's name, as systems and folders are called after it."""
        return slug(self.model)

    @model_validator(mode="after")
    def _one_ceiling(self) -> "Base":
        if self.tuned is not None and self.tune_reference:
            raise ValueError(f"found tuned {self.tuned!r} and tune_reference true; give one")
        if self.start is not None and not self.tune_reference:
            raise ValueError("start is where a training starts; give tune_reference: true with it")
        if self.quantization is not None and self.tune_reference:
            raise ValueError(
                "found quantization and tune_reference true; a ceiling is trained on whole weights "
                "only: give tuned, or leave one of the two out"
            )
        return self


HERE, BEHIND_ENDPOINT = "(loaded here)", "(behind an endpoint)"  # no part of any key
_ELSEWHERE = {
    HERE: (EndpointBase, "is of a base behind an endpoint; give its address in endpoint"),
    BEHIND_ENDPOINT: (Base, "has no effect on a base behind an endpoint; leave it out"),
}


def _kind(base: Any) -> str:
    is_behind = "endpoint" in base if isinstance(base, dict) else isinstance(base, EndpointBase)
    return BEHIND_ENDPOINT if is_behind else HERE


AnyBase = Annotated[
    Annotated[Base, Tag(HERE)] | Annotated[EndpointBase, Tag(BEHIND_ENDPOINT)], Discriminator(_kind)
]


def of_other_kind(key: str, kind: str) -> str | None:
    """What is wrong with a key that only the other kind of base has; None if neither has it."""
    other, text = _ELSEWHERE[kind]
    return text if key in other.model_fields else None


class MoreExpert(Section):
    """A finished expert that steers beside this run's."""

    expert: str = Field(min_length=1)
    """Hub id or folder: whole weights or a LoRA adapter."""
    antiexpert: str = Field(min_length=1)
    """Hub id or folder of the model it was tuned from."""
    weight: float
    """What its difference counts; this run's expert counts 1."""
    dtype: Dtype = "auto"
    """Weights' type in decoding; auto is the one they are stored in."""


class Decode(Section):
    """How completions are generated and compared."""

    bases: tuple[AnyBase, ...] = Field(min_length=1)
    """The large models, each with its own results."""
    reference_sft: dict[str, Any] | None = None
    """`trl.SFTConfig` keys that override `sft` when a reference is trained."""
    reference_dpo: dict[str, Any] | None = None
    """`trl.DPOConfig` keys that override `dpo` likewise."""
    alpha: float | tuple[float, ...] = 1.0
    """Scale of the shift, or a list to compare; the paper uses 1."""
    rule: Rule | None = None
    """Which tokens may be chosen, and how strong the shift is; null is the paper's formula."""
    choose: Choose | None = None
    """Choose alpha and rule on validation rows, beside those above; null is not to."""
    experts: tuple[MoreExpert, ...] = ()
    """Further experts: alpha scales the sum of all weighted differences, this run's counting 1."""
    batch_size: int = Field(ge=1)
    """Rows decoded side by side."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest completion, in tokens; null is the task's protocol."""
    thinking: Thinking | None = None
    """Keep thinking apart from answers; null is not to."""
    num_draft_tokens: int | Literal["auto"] = "auto"
    """Tokens the expert drafts a round: a number, or auto for whatever is measured to be fastest,
    which on vLLM is none. It changes the speed, never the tokens (but for rounding, in types other
    than float32)."""
    temperature: float | None = Field(default=None, ge=0)
    """0 is greedy; null is the task's protocol, which is greedy but for code."""
    top_k: int | None = Field(default=None, ge=1)
    """Sample among the k likeliest tokens; null is all."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Sample among the likeliest tokens that hold this much probability; null is the task's
    protocol, which is 1 but for code."""
    num_samples: int | None = Field(default=None, ge=1)
    """Completions drawn for each row; null is the task's protocol, which is one but for code."""
    pass_at: int | None = Field(default=None, ge=1)
    """A row is worth pass@k of its samples, with this k; null is the task's protocol: 10 for code,
    elsewhere the mean of the samples."""
    engine: Literal["local", "vllm"] = "local"
    """What decodes: this toolkit, or vLLM, where that is installed (docs/vllm.md)."""
    vllm: dict[str, Any] | None = None
    """`vllm.EngineArgs` keys for that engine, such as tensor_parallel_size; null is its own."""
    device: str = "auto"
    """auto is the GPUs there are (a model too large for one is spread), else the CPU."""
    vocabulary: Literal["identical", "shared", "mapped", "matched", "bytes"] = "identical"
    """identical: all models share one vocabulary; shared: combine on the ids they share; mapped:
    experts of another tokenizer read the text in their own tokens, and a token gets the shift of
    the one with the same bytes, or of the first that would spell it; matched: tokens without the
    former get none; bytes: exact whatever the tokenizers, by each model's distribution of the next
    byte."""

    @property
    def alphas(self) -> tuple[float, ...]:
        """Every alpha, in the recipe's order."""
        return self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)

    @property
    def rules(self) -> dict[str, Rule]:
        """The rules that keys name, by key."""
        listed = {"decode.rule": self.rule}
        if self.choose is not None:
            listed |= {f"decode.choose.rule.{n}": rule for n, rule in enumerate(self.choose.rule)}
        return {key: rule for key, rule in listed.items() if rule is not None}

    @field_validator("reference_sft", "reference_dpo")
    @classmethod
    def _left_to_trl(cls, value: dict[str, Any] | None, found: ValidationInfo) -> Any:
        return value and without_nulls(value, trl_class(found.field_name))

    @field_validator("alpha", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        found = numbers(value if isinstance(value, list) else [value])
        return found if isinstance(value, list) else found[0]

    @field_validator("num_draft_tokens", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if value != "auto" and not is_number:
            raise ValueError("expected auto, or a number of at least 0")
        return value

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise ValueError("expected auto, cpu, mps, cuda or cuda:N")
        return value

    @field_validator("bases")
    @classmethod
    def _distinct(cls, value: tuple[AnyBase, ...]) -> tuple[AnyBase, ...]:
        slugs = [base.slug for base in value]
        if len(set(slugs)) < len(slugs):
            raise ValueError(
                f"found {', '.join(slugs)}; results are filed by this last part of a name, "
                "so each must be different"
            )
        return value
