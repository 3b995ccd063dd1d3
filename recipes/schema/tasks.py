"""The sections of tasks: evaluation, judges, training rows."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from .endpoints import Address, EndpointKeys
from .section import Section

TaskName = Literal[
    "facts",
    "word_problems",
    "refusals",
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


class EndpointChoice(EndpointKeys):
    """An OpenAI-compatible endpoint that judges; keys left out are those of `Endpoint`."""

    base_url: Address
    """Up to and with /v1."""
    model: str = Field(min_length=1)
    """As the server calls it."""
    api: Literal["chat", "completions"] = "chat"
    """completions is for a judge that goes on from the bare prompt."""
    parameters: dict[str, Any] | None = None
    """Sent with every request as they are; null is temperature 0 and max_tokens 256."""


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


class HarnessTask(Section):
    """A task of lm-eval, asked and scored as lm-eval does (docs/lm_eval.md)."""

    lm_eval: str = Field(pattern=r"^\w[\w.() -]*$")
    """The task, as lm-eval names it."""
    metric: str = Field(min_length=1)
    """One of the task's metrics that are means over rows from 0 to 1, such as acc_norm."""
    filter: str | None = None
    """Whose answers are scored, where the task has several filters, such as strict-match."""
    eval_limit: int | None = Field(default=None, ge=1)
    """Only the first so many rows; null is all."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Worked examples before each question; null is the task's own number."""
    include_path: str | None = None
    """A folder of task files in lm-eval's format, which come before its own."""

    @property
    def name(self) -> str:
        """What its folder, results and charts are called; a task of ours may have its name."""
        return f"lm_eval-{self.lm_eval}"

    @property
    def label(self) -> str:
        return self.name


FURTHER = {"lm_eval": "(lm_eval)", "name": "(name)"}  # tags, which errors leave out


def _kind(value: Any) -> str:
    is_harness = isinstance(value, HarnessTask) or (isinstance(value, dict) and "lm_eval" in value)
    return FURTHER["lm_eval" if is_harness else "name"]


Further = Annotated[
    Annotated[Evaluation, Tag(FURTHER["name"])] | Annotated[HarnessTask, Tag(FURTHER["lm_eval"])],
    Discriminator(_kind),
]


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
