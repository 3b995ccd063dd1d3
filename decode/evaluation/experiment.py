"""One task for a lineup: the questions, and everything else that decides the results."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from ..backends.completer import ModelCompleter
from ..backends.next_tokens import EndpointSource
from ..backends.thinking import Thinking
from ..engine.request import Request
from ..engine.rule import Alpha
from ..engine.sampling import Sampling
from ..models.chat import with_template
from ..models.loaded import align_models
from ..models.model_source import ModelSource
from ..models.prompts import RoleTokenizers, encode
from ..models.sources import check_weights, load_config, load_tokenizer, resolve_device
from .engines import check_engine, check_prompt, check_sampling
from .lineup import Contender, Lineup, System
from .metric import Metric

LETTERS_A_TOKEN = 32  # more than any text has, on average


class Question(Protocol):
    """One evaluation row."""

    @property
    def id(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def answers(self) -> tuple[str, ...]: ...


class Verdict(Protocol):
    """A grader's value of one completion; `value` is None if it stays open."""

    @property
    def value(self) -> float | None: ...
    @property
    def parts(self) -> dict[str, float | None]: ...
    @property
    def notes(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Grader:
    """Grades a system's completions when all of them are decoded.

    Attributes:
        grade: (questions, a completion of each) -> verdicts, in order, each as soon as it is known.
        settings: what decides the verdicts.
    """

    grade: Callable[[Sequence[Question], Sequence[str]], Iterable[Verdict]]
    settings: dict[str, Any]


class Harness(Protocol):
    """Asks and scores rows by a protocol of its own, which is lm-eval's.

    Attributes:
        settings: what decides the rows beside the models.
    """

    settings: dict[str, Any]

    def check(
        self,
        lineup: Lineup,
        system: System,
        tokenizers: RoleTokenizers,
        sources: Sequence[ModelSource],
    ) -> None:
        """Raises ValueError for a row that the system's models, `sources`, cannot be asked."""
        ...

    def rows(
        self, lineup: Lineup, system: System, completer: ModelCompleter, places: Sequence[int]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows at `places`, each with its place, as they are filed.

        Raises:
            OutOfRange: a row's value is no fraction.
        """
        ...


class OutOfRange(ValueError):
    """A metric is worth less than 0 or more than 1 on a row, and tables show fractions."""


@dataclass(frozen=True, slots=True)
class Choosing:
    """How a base is to be steered is chosen on these rows; see `choosing.py`.

    Attributes:
        questions: validation rows, none of which is an evaluation row.
        candidates: alphas with their rules.
        rows: where the questions come from, in words.
    """

    questions: Sequence[Question]
    candidates: tuple[Alpha, ...]
    rows: str


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that decides the results.

    Attributes:
        lineup: the models, which all tasks of a run share.
        questions: the evaluation rows, in order.
        score: (completion, gold answers) -> what was read off it, and its worth in [0, 1].
        grader: in place of `score`: grades completions after they are decoded.
        harness: in place of both, of `stop` and of `sampling`: asks and scores.
        num_samples: completions of each question.
        combine: a question's worth, from that of its completions.
        choosing: what chooses further systems; None if nothing does.
        thinking: how it is told from answers, which alone are scored; None is not to.
    """

    lineup: Lineup
    task: str
    metric: Metric
    questions: Sequence[Question]
    score: Callable[[str, tuple[str, ...]], tuple[str, float]] | None
    stop: tuple[str, ...]
    max_new_tokens: int
    sampling: Sampling
    grader: Grader | None = None
    harness: Harness | None = None
    num_samples: int = 1
    combine: Callable[[Sequence[float]], float] = fmean
    choosing: Choosing | None = None
    thinking: Thinking | None = None

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

    def requests(self, system: System, places: Iterable[int]) -> list[Request]:
        """A system's requests for the rows at `places`, each named by its place."""
        return [
            Request(
                place,
                self.lineup.prompt(system, self.question(place).prompt),
                self.max_new_tokens,
                self.stop,
                self.sampling,
            )
            for place in places
        ]


def asked_of(experiment: Experiment) -> list[Question]:
    """Every question that is asked: evaluation rows, then validation rows."""
    choosing = experiment.choosing
    return [*experiment.questions, *(choosing.questions if choosing else ())]


def check(experiment: Experiment) -> None:
    """Check everything that can be checked before weights load.

    Raises:
        ValueError: the device or a model is missing, vocabularies differ, a prompt cannot be
            encoded, weights do not fit their model, an endpoint would have to go on, or no chat
            template says how it marks thinking.
    """
    lineup = experiment.lineup
    resolve_device(lineup.device)
    check_engine(lineup)
    check_sampling(lineup, experiment.sampling.temperature)
    first, *more = lineup.experts
    # A model that is yet to be trained keeps the tokenizer of the one it is trained from.
    there = first if lineup.expert_is_there else replace(first, expert=first.antiexpert)
    for contender in lineup.contenders:
        if isinstance(contender.base, EndpointSource):
            _check_goes_on(contender.base, experiment)
        own = lineup.tokenizer_of(contender.base)
        tokenizers, _ = align_models(own, [there, *more], lineup.vocabulary)
        if not lineup.expert_is_there:
            expert = with_template(tokenizers.expert, lineup.trained_template)
            tokenizers = replace(tokenizers, expert=expert)
        tuned = _tuned_tokenizer(lineup, contender)
        if tuned is not None and contender.tuned_prompt.is_chat:
            first_prompt = experiment.questions[0].prompt[:LETTERS_A_TOKEN]
            encode(tuned, contender.tuned_prompt.of(first_prompt))
        contexts = [
            getattr(load_config(source).get_text_config(), "max_position_embeddings", None)
            for source in (own, lineup.antiexpert)
        ]
        if experiment.harness is not None:
            small = [source for one in (there, *more) for source in (one.expert, one.antiexpert)]
            proxy = System("proxy", contender)
            experiment.harness.check(lineup, proxy, tokenizers, [contender.loaded_base, *small])
            if tuned is not None and contender.tuned_prompt.is_chat:
                alone = RoleTokenizers.alone(tuned)
                system = System("tuned", contender)
                experiment.harness.check(lineup, system, alone, [contender.loaded_base])
            continue
        context = min((length for length in contexts if length), default=None)
        num_new, lower = experiment.max_new_tokens, ""
        if experiment.thinking is not None:
            emitting = [tokenizers.base, tokenizers.expert, tuned or tokenizers.base]
            num_new += experiment.thinking.num_tokens(emitting)
            lower = " or decode.thinking.max_tokens"
        for question in asked_of(experiment):
            # A text of megabytes takes minutes and gigabytes: its beginning alone may be too long.
            begin = question.prompt[: None if context is None else context * LETTERS_A_TOKEN]
            for text in dict.fromkeys((begin, question.prompt)):
                asked = lineup.prompt(System("proxy", contender), text)
                ids = tokenizers.encode_all(asked)
                check_prompt(lineup, question.id, ids)
                num_prompt_tokens = max(map(len, ids))
                if context and num_prompt_tokens + num_new > context:
                    more = " or more" if text != question.prompt else ""
                    raise ValueError(
                        f"evaluation row '{question.id}' has {num_prompt_tokens}{more} tokens; "
                        f"with {num_new} new ones it is longer than the {context} the models can "
                        f"hold: lower decode.max_new_tokens{lower} or leave the row out"
                    )
    pairs = [
        (first.antiexpert, first.expert, lineup.expert_is_there),
        *((one.antiexpert, one.expert, True) for one in more),
        *(
            (one.loaded_base, one.tuned, one.tuned_is_there)
            for one in lineup.contenders
            if one.is_loaded
        ),
    ]
    loads_here = lineup.engine == "local"
    for untuned, tuned, is_there in pairs:
        check_weights(untuned, loads_here)
        if tuned is not None and (is_there or Path(tuned.name).is_dir()):
            check_weights(tuned, loads_here)


def _tuned_tokenizer(lineup: Lineup, contender: Contender) -> PreTrainedTokenizerBase | None:
    """That of the directly tuned base, which it keeps from the base if it is yet to be trained."""
    if contender.tuned is None or contender.tuned_is_there:
        return contender.tuned and load_tokenizer(contender.tuned)
    return with_template(load_tokenizer(contender.loaded_base), lineup.trained_template)


def _check_goes_on(base: EndpointSource, experiment: Experiment) -> None:
    if not base.goes_on and experiment.max_new_tokens > 1:
        raise ValueError(
            f"{base.key}: a chat endpoint shows the first token of an answer, and "
            f"'{experiment.task}' has up to {experiment.max_new_tokens}: set decode.max_new_tokens "
            "to 1, as for letters, or continue_with if the endpoint goes on from an assistant's "
            "last message, or api: completions"
        )
