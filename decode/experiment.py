"""The five systems on one task: anti-expert, expert, base, proxy-tuned and directly tuned.

Models are loaded when the first unfinished system needs them and dropped after the last, so that
the small models and one large model are in memory at a time, and a run that was finished loads
nothing.
"""

import gc
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from tqdm import tqdm

from .engine import Steppable, Stops, generate
from .folder import RunFolder, append_row, read_rows, text_digest, weights_digest, write_rows
from .metrics import BaseScores, summarize
from .models import (
    LanguageModel,
    ModelSource,
    check_architecture,
    load_config,
    load_tokenizer,
    load_weights,
    resolve_device,
)
from .pair import Pair, load_pair, load_tuned
from .proxy import RoleTokenizers, Steered, encode
from .sampling import Sampling
from .systems import Role, system_name
from .vocab import align

logger = logging.getLogger(__name__)

Predictions = dict[str, list[dict[str, Any]]]  # by system, rows in the questions' order


class Question(Protocol):
    """One evaluation row."""

    @property
    def id(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def answers(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Contender:
    """A large model to be proxy-tuned, and its directly tuned self if there is one."""

    base: ModelSource
    tuned: ModelSource | None


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that decides the results.

    Attributes:
        questions: the evaluation rows, in order.
        score: (completion, gold answers) -> what was read off it, and its worth in [0, 1].
        expert_is_chat: the expert reads prompts in its chat template, the others raw.
    """

    task: str
    metric: str
    questions: Sequence[Question]
    score: Callable[[str, tuple[str, ...]], tuple[str, float]]
    stop: tuple[str, ...]
    max_new_tokens: int
    sampling: Sampling
    antiexpert: ModelSource
    expert: ModelSource
    contenders: tuple[Contender, ...]
    alphas: tuple[float, ...]
    expert_is_chat: bool = False
    vocabulary: str = "identical"
    batch_size: int = 8
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class System:
    """One of the systems compared; `contender` and `alpha` are None where the role has none."""

    role: Role
    contender: Contender | None = None
    alpha: float | None = None

    @property
    def name(self) -> str:
        model = None if self.contender is None else self.contender.base.name
        return system_name(self.role, model, self.alpha)


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
        ValueError: a model is missing or cannot be decoded here, vocabularies differ, question ids
            repeat, or a prompt cannot be encoded.
    """
    ids = [question.id for question in experiment.questions]
    if len(set(ids)) < len(ids):
        repeated = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise ValueError(f"evaluation row id '{repeated}' occurs more than once; ids must differ")
    small = load_tokenizer(experiment.antiexpert)
    check_architecture(load_config(experiment.antiexpert), experiment.antiexpert.name)
    for contender in experiment.contenders:
        check_architecture(load_config(contender.base), contender.base.name)
        base = load_tokenizer(contender.base)
        align(base, small, small, experiment.vocabulary)
        first = experiment.questions[0].prompt
        RoleTokenizers(base, small, small).encode(first, chat=experiment.expert_is_chat)


def run(experiment: Experiment, folder: RunFolder) -> Predictions:
    """Predictions of every system.

    Finished rows are read from the folder and never generated again.

    Raises:
        ValueError: the folder holds predictions made with other settings.
    """
    cast = _Cast(experiment)
    return {
        system.name: _complete(experiment, system, cast, folder)
        for system in tqdm(systems(experiment), desc="systems", disable=not sys.stderr.isatty())
    }


def measure(experiment: Experiment, predictions: Predictions) -> dict[str, Any]:
    """The contents of metrics.json; see metrics.summarize."""

    def scores(system: System) -> list[float]:
        return [row["score"] for row in predictions[system.name]]

    bases = [
        BaseScores(
            contender.base.name,
            scores(System("base", contender)),
            None if contender.tuned is None else scores(System("tuned", contender)),
            {alpha: scores(System("proxy", contender, alpha)) for alpha in experiment.alphas},
        )
        for contender in experiment.contenders
    ]
    small = scores(System("antiexpert")), scores(System("expert"))
    return summarize(experiment.task, experiment.metric, *small, bases)


class _Cast:
    """The models of an experiment, in memory only while their systems are on."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._device = resolve_device(experiment.device)
        self._pair: Pair | None = None
        self._large: LanguageModel | None = None
        self._large_source: ModelSource | None = None

    def pair(self) -> Pair:
        if self._pair is None:
            experiment = self._experiment
            self._pair = load_pair(experiment.expert, experiment.antiexpert, self._device)
        return self._pair

    def base(self, source: ModelSource) -> LanguageModel:
        if self._large is None or self._large_source != source:
            self._drop_large()
            model = load_weights(source, self._device)
            self._large, self._large_source = LanguageModel(model, load_tokenizer(source)), source
        return self._large

    def tuned(self, source: ModelSource) -> LanguageModel:
        self._pair = None  # references come last: the small models are done
        if self._large is None or self._large_source != source:
            self._drop_large()
            self._large, self._large_source = load_tuned(source, self._device), source
        return self._large

    def _drop_large(self) -> None:
        self._large = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _load(
    experiment: Experiment, system: System, cast: _Cast
) -> tuple[Steppable, Stops, list[Any]]:
    """The system's model, its stops, and its prompts as ids."""
    prompts = [question.prompt for question in experiment.questions]
    contender = system.contender
    if system.role == "proxy":
        assert contender is not None and system.alpha is not None
        sources = contender.base, experiment.expert, experiment.antiexpert
        tokenizers = RoleTokenizers(*map(load_tokenizer, sources))
        mode = experiment.vocabulary
        aligned = align(tokenizers.base, tokenizers.expert, tokenizers.antiexpert, mode)
        model = Steered(cast.base(contender.base), cast.pair(), aligned, system.alpha)
        ids = [tokenizers.encode(prompt, chat=experiment.expert_is_chat) for prompt in prompts]
        return model, Stops(model.eos_ids, experiment.stop, tokenizers.base), ids
    if contender is None:
        is_expert = system.role == "expert"
        source = experiment.expert if is_expert else experiment.antiexpert
        model = cast.pair().expert if is_expert else cast.pair().antiexpert
        chat = is_expert and experiment.expert_is_chat
    elif system.role == "base":
        source, model, chat = contender.base, cast.base(contender.base), False
    else:
        assert contender.tuned is not None
        source, model, chat = contender.tuned, cast.tuned(contender.tuned), False
    tokenizer = load_tokenizer(source)
    ids = [encode(tokenizer, prompt, chat) for prompt in prompts]
    return model, Stops(model.eos_ids, experiment.stop, tokenizer), ids


def _settings(experiment: Experiment, system: System) -> dict[str, Any]:
    """What decides a system's predictions; a folder made with other settings is not continued."""
    contender = system.contender
    expert = {"expert": _identity(experiment.expert), "chat": experiment.expert_is_chat}
    if system.role == "expert":
        models = expert
    elif contender is None:
        models = {"antiexpert": _identity(experiment.antiexpert)}
    elif system.role == "proxy":
        models = {
            "base": _identity(contender.base),
            "antiexpert": _identity(experiment.antiexpert),
            **expert,
            "alpha": system.alpha,
            "vocabulary": experiment.vocabulary,
        }
    elif system.role == "base":
        models = {"base": _identity(contender.base)}
    else:
        assert contender.tuned is not None
        models = {"tuned": _identity(contender.tuned)}
    questions = [text for q in experiment.questions for text in (q.id, q.prompt, *q.answers)]
    return {
        **models,
        "task": experiment.task,
        "questions": text_digest(questions),
        "stop": list(experiment.stop),
        "max_new_tokens": experiment.max_new_tokens,
        **asdict(experiment.sampling),
    }


def _identity(source: ModelSource) -> dict[str, Any]:
    return {**asdict(source), "weights": weights_digest(source.name)}


def _complete(
    experiment: Experiment, system: System, cast: _Cast, folder: RunFolder
) -> list[dict[str, Any]]:
    """One system's predictions, generating those that are not in the folder yet."""
    path = folder.predictions(system.name)
    folder.claim(path, _settings(experiment, system))
    rows = {row["id"]: row for row in read_rows(path)}
    questions = experiment.questions
    missing = [i for i, question in enumerate(questions) if question.id not in rows]
    batch_size = experiment.batch_size
    if missing:
        model, stops, prompts = _load(experiment, system, cast)
    bar = tqdm(
        total=len(questions),
        initial=len(rows),
        desc=system.name,
        unit="row",
        leave=False,
        disable=not missing or not sys.stderr.isatty(),
    )
    while missing:
        waiting = [prompts[i] for i in missing]
        limit, sampling = experiment.max_new_tokens, experiment.sampling
        try:
            for done in generate(
                model, waiting, stops, limit, sampling, batch_size, indices=missing
            ):
                question = questions[done.index]
                prediction, score = experiment.score(done.text, question.answers)
                rows[question.id] = {
                    "id": question.id,
                    "prompt": question.prompt,
                    "completion": done.text,
                    "prediction": prediction,
                    "answers": list(question.answers),
                    "score": score,
                    "finish_reason": done.finish_reason,
                    "num_tokens": len(done.token_ids),
                }
                append_row(path, rows[question.id])
                bar.update()
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size //= 2
            logger.warning(
                "%s: out of memory, going on with batches of %d", system.name, batch_size
            )
        missing = [i for i, question in enumerate(questions) if question.id not in rows]
    bar.close()
    ordered = [rows[question.id] for question in questions]
    write_rows(path, ordered)
    return ordered
