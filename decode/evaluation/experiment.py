"""What is compared: five systems on one task, and everything that decides their results."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, Protocol

from ..engine.completer import Chat, Prompt, RolePrompt
from ..engine.sampling import Sampling
from ..models.loaded import ExpertSource, align_models
from ..models.pair import adapter_base, is_adapter
from ..models.prompts import encode
from ..models.sources import ModelSource, load_config, load_tokenizer
from .metric import Metric
from .systems import Role, system_name


class Question(Protocol):
    """One evaluation row."""

    @property
    def id(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def answers(self) -> tuple[str, ...]: ...


class Verdict(Protocol):
    """What a grader found one completion to be worth; `value` is None if it stays open."""

    @property
    def value(self) -> float | None: ...
    @property
    def parts(self) -> dict[str, float | None]: ...
    @property
    def notes(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Grader:
    """Grades a system's completions when all of them are there.

    Attributes:
        grade: (questions, a completion of each) -> verdicts, in order, each as soon as it is known.
        settings: what decides the verdicts.
    """

    grade: Callable[[Sequence[Question], Sequence[str]], Iterable[Verdict]]
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Contender:
    """A large model to be proxy-tuned, and its directly tuned self if there is one.

    Attributes:
        slug: the name its systems, files and W&B keys go by; the recipe decides it.
        tuned_is_chat: the tuned model reads prompts in its chat template.
    """

    slug: str
    base: ModelSource
    tuned: ModelSource | None
    tuned_is_chat: bool = False


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that decides the results.

    Attributes:
        questions: the evaluation rows, in order.
        score: (completion, gold answers) -> what was read off it, and its worth in [0, 1].
        grader: in place of `score`: grades completions after they are decoded.
        num_samples: completions of each question.
        combine: a question's worth, from that of its completions.
        expert_is_there: the expert exists already, so that it can be checked as well.
        alpha_warmup_tokens: alpha grows to its value over so many tokens; 0 is constant.
        more_experts: their differences are added, each with its weight, before alpha scales all.
        expert_is_chat: the expert reads prompts in its chat template, the others raw.
        num_draft_tokens: tokens the expert drafts; a matter of speed only.
    """

    task: str
    metric: Metric
    questions: Sequence[Question]
    score: Callable[[str, tuple[str, ...]], tuple[str, float]] | None
    stop: tuple[str, ...]
    max_new_tokens: int
    sampling: Sampling
    antiexpert: ModelSource
    expert: ModelSource
    contenders: tuple[Contender, ...]
    alphas: tuple[float, ...]
    alpha_warmup_tokens: int = 0
    more_experts: tuple[ExpertSource, ...] = ()
    expert_is_chat: bool = False
    vocabulary: str = "identical"
    batch_size: int = 8
    num_draft_tokens: int | Literal["auto"] = "auto"
    device: str = "auto"
    grader: Grader | None = None
    num_samples: int = 1
    combine: Callable[[Sequence[float]], float] = fmean
    expert_is_there: bool = False

    @property
    def row_ids(self) -> list[str]:
        """The names of the rows: one a question, or one for each of its completions."""
        ids = [question.id for question in self.questions]
        if self.num_samples == 1:
            return ids
        return [f"{id_}#{sample}" for id_ in ids for sample in range(self.num_samples)]

    def question(self, row: int) -> Question:
        """The question of a row, by its place."""
        return self.questions[row // self.num_samples]

    def prompt(self, system: "System", question: Question) -> RolePrompt | Prompt:
        """The question as a system's models read it."""
        text = question.prompt
        expert = Chat(text) if self.expert_is_chat else text
        if system.role == "proxy":
            return RolePrompt(text, expert, text)
        if system.role == "expert":
            return expert
        contender = system.contender
        is_chat = system.role == "tuned" and contender is not None and contender.tuned_is_chat
        return Chat(text) if is_chat else text


@dataclass(frozen=True, slots=True)
class System:
    """One of the systems compared; `contender` and `alpha` are None where the role has none."""

    role: Role
    contender: Contender | None = None
    alpha: float | None = None

    @property
    def name(self) -> str:
        slug = None if self.contender is None else self.contender.slug
        return system_name(self.role, slug, self.alpha)


def systems(experiment: Experiment) -> list[System]:
    """All systems, in the order that loads each model once."""
    contenders = experiment.contenders
    ordered = [System("antiexpert"), System("expert")]
    for contender in contenders:
        ordered.append(System("base", contender))
        ordered += [System("proxy", contender, alpha) for alpha in experiment.alphas]
    return ordered + [System("tuned", c) for c in contenders if c.tuned is not None]


def check(experiment: Experiment) -> None:
    """Everything that can go wrong before weights load.

    Raises:
        ValueError: a model is missing, vocabularies differ, question ids
            repeat, or a prompt cannot be encoded.
    """
    ids = [question.id for question in experiment.questions]
    if len(set(ids)) < len(ids):
        repeated = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise ValueError(f"evaluation row id '{repeated}' occurs more than once; ids must differ")
    # A model that is yet to be trained keeps the tokenizer of the one it is trained from.
    there = experiment.expert if experiment.expert_is_there else experiment.antiexpert
    experts = [ExpertSource(there, experiment.antiexpert), *experiment.more_experts]
    tuned = [contender.tuned for contender in experiment.contenders]
    for source in (experiment.expert, *(more.expert for more in experiment.more_experts), *tuned):
        if source is not None and is_adapter(source.name):
            adapter_base(source)
    for more in experiment.more_experts:
        load_config(more.antiexpert)
    for contender in experiment.contenders:
        tokenizers, _ = align_models(contender.base, experts, experiment.vocabulary)
        if contender.tuned is not None and contender.tuned_is_chat:
            encode(load_tokenizer(contender.tuned), Chat(experiment.questions[0].prompt))
        contexts = [
            getattr(load_config(source), "max_position_embeddings", None)
            for source in (contender.base, experiment.antiexpert)
        ]
        context = min((length for length in contexts if length), default=None)
        for question in experiment.questions:
            prompt = tokenizers.encode(experiment.prompt(System("proxy", contender), question))
            num_prompt_tokens = max(len(ids) for ids in (prompt.base, prompt.expert))  # pyright: ignore[reportArgumentType]
            if context and num_prompt_tokens + experiment.max_new_tokens > context:
                raise ValueError(
                    f"evaluation row '{question.id}' has {num_prompt_tokens} tokens; with "
                    f"{experiment.max_new_tokens} new ones it is longer than the {context} the "
                    "models can hold: lower decode.max_new_tokens or leave the row out"
                )
