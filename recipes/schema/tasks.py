"""The sections of tasks: evaluation, judges, training rows."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from .section import Section

TaskName = Literal[
    "facts",
    "word_problems",
    "gsm8k",
    "triviaqa",
    "questions",
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
# The same as in data/judges/endpoint.py, which imports nothing from here.
ADDRESS = re.compile(
    r"https?://(?:(?![^:/]{254})\w[\w-]{0,62}(?:\.\w[\w-]{0,62})*|\[[0-9A-Fa-f:.]+\])"
    r"(?::0*(?P<port>[1-9]\d{0,4}))?(?:/(?:[\w.~!$'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*",
    re.ASCII,
)


class EndpointChoice(Section):
    """An OpenAI-compatible endpoint that judges; keys left out are those of `Endpoint`."""

    base_url: str
    """Up to and with /v1."""
    model: str = Field(min_length=1)
    """As the server calls it."""
    key_env: str | None = None
    """The environment variable that holds the key; null sends none."""
    key_file: str | None = None
    """In its place, a file that holds the key and nothing else."""
    key_header: str | None = None
    """The header that carries the key, api-key for Azure; null is Authorization."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Further headers, sent with every request; no secrets."""
    query: dict[str, str] = Field(default_factory=dict)
    """What follows the address after a ?, such as Azure's api-version; no secrets."""
    api: Literal["chat", "completions"] = "chat"
    """completions is for a judge that goes on from the bare prompt."""
    parameters: dict[str, Any] | None = None
    """Sent with every request as they are; null is temperature 0 and max_tokens 256."""
    timeout_s: float | None = Field(default=None, gt=0)
    """The longest that a try may take, to the answer's last byte; null is 120."""
    concurrency: int | None = Field(default=None, ge=1)
    """Requests under way at once; null is 8."""
    num_retries: int | None = Field(default=None, ge=0, le=100)
    """Tries after the first; null is 6."""
    backoff_s: float | None = Field(default=None, gt=0)
    """The wait before the second try, which doubles from try to try; null is 1."""

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        match = ADDRESS.fullmatch(value)
        if match is None or int(match["port"] or 1) > 65535:
            raise ValueError(
                "expected an address alone, such as http://localhost:8000/v1: no user, query, "
                "spaces or characters beyond ASCII"
            )
        return value

    @field_validator("key_env")
    @classmethod
    def _is_variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("expected the name of an environment variable, never the key")
        return value


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
    """Evaluation rows: a file, glob or folder, or a hub id; null is the task's own."""
    eval_limit: int | None = Field(default=None, ge=1)
    """Only the first so many evaluation rows; null is all."""
    scoring: Literal["default", "paper"] = "default"
    """Whose rules: paper reproduces the proxy-tuning paper's, quirks included."""
    extract: Literal["fences"] | None = None
    """Of code tasks: run the code in an answer's fences, as instruct models write it; null runs the
    whole completion."""
    judges: dict[str, JudgeChoice] = Field(default_factory=dict)
    """Who grades, by the names the task gives its judges; most tasks need none."""

    @model_validator(mode="after")
    def _asks_its_judges(self) -> "Evaluation":
        if self.judges and self.scoring == "paper":
            raise ValueError("judges have no effect: scoring: paper asks none; leave them out")
        return self

    @property
    def label(self) -> str:
        """What results and charts call it: other rules never share a chart with the default."""
        rules = [self.name, *([] if self.scoring == "default" else [self.scoring])]
        return "-".join([*rules, *([self.extract] if self.extract else [])])


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
    """A file, glob or folder, or a hub id; null is the task's own."""
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
