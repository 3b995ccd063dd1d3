"""The sections of a recipe, typed: each key with its default and what it means.

Keys without a default here have none because no paper or measurement gives one.
"""

import os
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

TaskName = Literal[
    "facts",
    "word_problems",
    "gsm8k",
    "triviaqa",
    "instruct",
    "truthfulqa",
    "truthfulqa_mc",
    "toxigen",
    "realtimeqa",
    "humaneval",
    "mbpp",
    "ds1000",
]
TrainFormat = Literal["messages", "text", "prompt_completion"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]


class Section(BaseModel):
    """A part of a recipe: frozen, no unknown keys, no conversion between types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class EndpointChoice(Section):
    """An OpenAI-compatible endpoint that judges; keys left out are those of `data.endpoint`."""

    base_url: str
    """Up to and with /v1."""
    model: str = Field(min_length=1)
    """As the server calls it."""
    key_env: str | None = None
    """The environment variable that holds the key; null sends none."""
    api: Literal["chat", "completions"] = "chat"
    """completions is for a judge that goes on from the bare prompt."""
    parameters: dict[str, Any] | None = None
    """Sent with every request as they are; null is temperature 0 and max_tokens 256."""
    timeout_s: float | None = Field(default=None, gt=0)
    """The longest silence of the server that is not a failure; null is 120."""
    concurrency: int | None = Field(default=None, ge=1)
    """Requests under way at once; null is 8."""
    num_retries: int | None = Field(default=None, ge=0)
    """Tries after the first; null is 6."""
    backoff_s: float | None = Field(default=None, gt=0)
    """The wait before the second try, which doubles from try to try; null is 1."""


class ClassifierChoice(Section):
    """A sequence classifier that judges."""

    model: str = Field(min_length=1)
    """Hub id or folder, with safetensors weights."""
    label: str
    """The label that is looked for, as the model's config names it."""
    revision: str | None = None
    """Commit, tag or branch on the hub; null is the newest."""
    batch_size: int = Field(default=32, ge=1)
    """Texts classified at once."""


class JudgeChoice(Section):
    """One judge: an endpoint or a classifier."""

    endpoint: EndpointChoice | None = None
    """Ask a model behind an endpoint."""
    classifier: ClassifierChoice | None = None
    """Ask a sequence classifier, run here."""

    @model_validator(mode="after")
    def _one_kind(self) -> "JudgeChoice":
        if (self.endpoint is None) == (self.classifier is None):
            raise ValueError("a judge is either an endpoint or a classifier; give one")
        return self


class Evaluation(Section):
    """What is measured."""

    name: TaskName
    """One of `data.TASKS`."""
    eval: str | None = None
    """Evaluation rows: a .jsonl or .jsonl.gz path, or a hub id; null is the task's own."""
    eval_limit: int | None = Field(default=None, ge=1)
    """Only the first so many evaluation rows; null is all."""
    scoring: Literal["default", "paper"] = "default"
    """Whose rules: paper reproduces the proxy-tuning paper's, quirks included."""
    judges: dict[str, JudgeChoice] = {}
    """Who grades, by the names the task gives its judges; most tasks need none."""


class TaskChoice(Evaluation):
    """What is learnt and measured."""

    train: str | None = None
    """Training rows, as the evaluation rows are named."""
    train_limit: int | None = Field(default=None, ge=1)
    """Only the first so many training rows; null is all."""
    train_format: TrainFormat | None = None
    """What the rows in `train` hold, where it is not what the task's own hold."""
    streaming: bool = False
    """Read training rows while training, for sets larger than memory; sft.max_steps ends it."""
    keep_eval_rows: bool = False
    """Train on rows that are evaluation rows as well; they are left out otherwise."""

    @model_validator(mode="after")
    def _rows_have_a_place(self) -> "TaskChoice":
        if self.train_format is not None and self.train is None:
            raise ValueError(f"train is missing: where the rows of format {self.train_format} are")
        return self


class TrainSource(Section):
    """Further training rows, of a task or in a format of their own (docs/training_data.md)."""

    task: TaskName | None = None
    """Whose rows they are, as the task itself would learn them."""
    format: TrainFormat | None = None
    """What rows of no task hold; messages are written out by the expert's chat template."""
    rows: str | None = None
    """A .jsonl, .jsonl.gz or .parquet path, or a hub id; null is the task's own."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many rows; null is all."""
    weight: float = Field(default=1.0, gt=0)
    """How often each row is there: 2 is twice, 0.5 a drawn half. In a stream, the source's share,
    where the task's own rows have a share of 1."""

    @model_validator(mode="after")
    def _one_kind(self) -> "TrainSource":
        if (self.task is None) == (self.format is None):
            raise ValueError("rows are a task's or have a format; give one of task and format")
        if self.format is not None and self.rows is None:
            raise ValueError(f"rows is missing: where the rows of format {self.format} are")
        return self


class ProxyAware(Section):
    """The expert's loss is that of a base steered by it, not its own (docs/proxy_aware.md)."""

    base: str | None = Field(default=None, min_length=1)
    """Hub id or folder of the frozen base; null is the first of decode.bases."""
    revision: str | None = None
    """Commit, tag or branch on the hub; null is the newest."""
    dtype: Dtype | None = None
    """Weights' type; null is the one they are stored in."""
    alpha: float = Field(default=1.0, gt=0)
    """Scale of the shift in the loss; decode with the same."""

    @model_validator(mode="after")
    def _of_a_base(self) -> "ProxyAware":
        if self.base is None and (self.revision is not None or self.dtype is not None):
            raise ValueError("revision and dtype are those of base; give base as well")
        return self


class Expert(Section):
    """The small model: untuned it is the anti-expert, trained it is the expert."""

    model: str = Field(min_length=1)
    """Hub id or folder of the small untuned model."""
    revision: str | None = None
    """Commit, tag or branch on the hub; null is the newest."""
    dtype: Dtype
    """Weights' type in training and decoding; auto is the one they are stored in."""
    adapter: dict[str, Any] | None = None
    """`peft.LoraConfig` keys; null is full fine-tuning."""
    proxy_aware: ProxyAware | None = None
    """Train it as the shift of a base; null is plain fine-tuning."""
    trained: str | None = None
    """Hub id or folder of a finished expert: none is trained then."""
    trained_revision: str | None = None
    """Its commit, tag or branch on the hub; null is the newest."""
    prompt: Literal["raw", "chat"] = "raw"
    """The expert's prompt: the task's own, or the task's own inside the chat template."""
    trust_remote_code: bool = False
    """Run model code that comes with the weights."""

    @model_validator(mode="after")
    def _trained_or_to_be(self) -> "Expert":
        if self.trained is not None and self.adapter is not None:
            raise ValueError(
                f"found trained {self.trained!r} and an adapter to train; give one (a finished "
                "expert may be an adapter's folder)"
            )
        if self.proxy_aware is not None and (self.trained is not None or self.prompt == "chat"):
            raise ValueError(
                "proxy_aware is for an expert that is trained here and reads raw prompts, as bases "
                "do; leave out proxy_aware, or trained and prompt"
            )
        return self


class Base(Section):
    """A large untuned model to be proxy-tuned."""

    model: str = Field(min_length=1)
    """Hub id or folder."""
    revision: str | None = None
    """Commit, tag or branch on the hub; null is the newest."""
    dtype: Dtype = "auto"
    """Weights' type in decoding; auto is the one they are stored in."""
    tuned: str | None = None
    """Hub id or folder of this model directly tuned on the task: the ceiling."""
    tuned_prompt: Literal["raw", "chat"] = "raw"
    """The ceiling's prompt, as `expert.prompt` is the expert's."""
    tune_reference: bool = False
    """Train that ceiling in the same run, as the expert is trained."""
    trust_remote_code: bool = False
    """Run model code that comes with the weights."""

    @property
    def slug(self) -> str:
        """The last part of the model's name, as systems and folders are called after it."""
        return os.path.basename(os.path.abspath(self.model))

    @model_validator(mode="after")
    def _one_ceiling(self) -> "Base":
        if self.tuned is not None and self.tune_reference:
            raise ValueError(f"found tuned {self.tuned!r} and tune_reference true; give one")
        return self


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

    bases: tuple[Base, ...] = Field(min_length=1)
    """The large models, each with its own results."""
    reference_sft: dict[str, Any] | None = None
    """`trl.SFTConfig` keys that override `sft` when a reference is trained."""
    alpha: float | tuple[float, ...] = 1.0
    """Scale of the shift, or a list to compare; the paper uses 1."""
    alpha_warmup_tokens: int = Field(default=0, ge=0)
    """alpha grows from 0 to its value over so many tokens of a completion; 0 is constant."""
    experts: tuple[MoreExpert, ...] = ()
    """Further experts: alpha scales the sum of all weighted differences, this run's counting 1."""
    batch_size: int = Field(ge=1)
    """Rows decoded side by side."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest completion, in tokens; null is the task's protocol."""
    num_draft_tokens: int | Literal["auto"] = "auto"
    """Tokens the expert drafts a round: a number, or auto for whatever is measured to be fastest.
    It changes the speed, never the tokens (but for rounding, in types other than float32)."""
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
    device: str = "auto"
    """auto is the GPUs there are (a model too large for one is spread), else the CPU."""
    vocabulary: Literal["identical", "shared"] = "identical"
    """identical: all models share one vocabulary; shared: combine on the ids they share."""

    @property
    def alphas(self) -> tuple[float, ...]:
        """Every alpha, in the recipe's order."""
        return self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)

    @field_validator("alpha", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        numbers = value if isinstance(value, list) else [value]
        is_number = [isinstance(n, int | float) and not isinstance(n, bool) for n in numbers]
        if not numbers or not all(is_number):
            raise ValueError("expected a number or a list of at least one number")
        if len({f"{number:g}" for number in numbers}) < len(numbers):
            raise ValueError("each alpha may be listed once")
        return tuple(map(float, value)) if isinstance(value, list) else float(value)

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
    def _distinct(cls, value: tuple[Base, ...]) -> tuple[Base, ...]:
        slugs = [base.slug for base in value]
        if len(set(slugs)) < len(slugs):
            raise ValueError(
                f"found {', '.join(slugs)}; results are filed by this last part of a name, "
                "so each must be different"
            )
        return value


class ProxyCheck(Section):
    """During training: how well the expert steers the first base so far, on rows set apart."""

    rows: str | None = None
    """Validation rows, as the evaluation rows are named; null holds out the last training rows."""
    num_rows: int = Field(default=24, ge=1)
    """How many of them: the first so many of `rows`, or the last so many training rows."""
    every_steps: int | None = Field(default=None, ge=1)
    """Steps between checks; null is at most ten checks in a training, and fewer where they would
    take more than a tenth of its time. The last step is always checked."""
    alpha: float | None = None
    """Scale of the shift; null is the one of decode.alpha that is nearest to 1."""
    select_by: Literal["last", "loss", "proxy"] = "last"
    """Which weights become the expert: the last ones, or those of the check with the lowest loss or
    with the best proxy-tuned score (of equal scores, the one with the lower loss)."""
    patience: int | None = Field(default=None, ge=1)
    """Training ends after so many checks without a better one, by `select_by`; null is never."""

    @model_validator(mode="after")
    def _knows_what_is_better(self) -> "ProxyCheck":
        if self.patience is not None and self.select_by == "last":
            raise ValueError("patience needs select_by proxy or loss, which say what is better")
        return self


class Analyze(Section):
    """What decode/analyze.py looks at, in a finished run."""

    num_rows: int | None = Field(default=100, ge=1)
    """The first so many completions of each proxy are read token by token; null is all."""
    alpha: float | None = None
    """Whose completions: one of decode.alpha; null is 1, or the nearest to it."""
    trade_off: tuple[str, str] | None = None
    """Two columns to draw against each other over alpha: the metric, a part of a judged score, or a
    number in the prediction rows; `FOLDER:column` is another run's. null is num_tokens and the
    metric."""


class Wandb(Section):
    """Where the run is logged; without a key or a network it goes on offline."""

    project: str | None = None
    """W&B project; null switches W&B off."""
    entity: str | None = None
    """User or team."""
    group: str | None = None
    """Runs to show together; null is the recipe's name: all jobs of one experiment."""
    tags: tuple[str, ...] = ()
    """Labels to filter by, beside those of the task, the bases, the expert and the adapter."""
    mode: Literal["online", "offline", "disabled"] = "online"
    """online falls back to offline where there is no key or network."""

    @field_validator("tags")
    @classmethod
    def _short(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not 1 <= len(tag) <= 64 for tag in value):
            raise ValueError("a tag has 1 to 64 characters on W&B")
        return value
