"""From an experiment to its results: predictions row by row, then metrics.

Finished rows are read from the run's folder and never generated again. Several experiments with the
same models, each with a task and a folder of its own, are decoded system by system, so that every
model is loaded once.
"""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from tqdm import tqdm

from ..engine.engine import Completion, generate
from ..engine.stats import DecodingStats
from ..jobs.files import text_digest, weights_digest, write_json
from ..jobs.folder import RunFolder
from ..jobs.processes import ALONE, Replica
from ..models.sources import ModelSource
from .experiment import Experiment, System, systems
from .grading import counted_places, grade_all, part_means, question_values, uncounted
from .loaded import Cast
from .metrics import BaseScores, summarize
from .prediction_file import PredictionFile

logger = logging.getLogger(__name__)

Predictions = dict[str, list[dict[str, Any]]]  # by system, rows in the questions' order


def run(experiment: Experiment, folder: RunFolder) -> Predictions:
    """Predictions of every system, graded where the task asks for it.

    Finished rows are read from the folder and never generated again.

    Raises:
        SettingsChanged: the folder holds predictions made with other settings.
    """
    return run_all([(experiment, folder)])[0]


def run_all(experiments: Sequence[tuple[Experiment, RunFolder]]) -> list[Predictions]:
    """As `run`, for experiments with the same models: all are decoded, then all are graded."""
    decode_all(experiments)
    decoded: list[Predictions] = [
        {
            system.name: PredictionFile(
                folder.predictions(system.name), experiment.row_ids
            ).finish()
            for system in systems(experiment)
        }
        for experiment, folder in experiments
    ]
    return [
        grade_all(experiment, predictions, folder)
        for predictions, (experiment, folder) in zip(decoded, experiments, strict=True)
    ]


def decode_all(
    experiments: Sequence[tuple[Experiment, RunFolder]],
    replica: Replica = ALONE,
    is_wanted: Callable[[System], bool] = lambda system: True,
) -> None:
    """Decode a replica's share of every wanted system; returns when all replicas have theirs.

    What was decoded with is out of memory then.
    """
    for experiment, folder in experiments:  # all of them before any weights load
        _claim(experiment, folder)
    replica.barrier()  # the claims are made, and nothing is decoded yet
    first, _ = experiments[0]
    cast = Cast(replace(first, device=replica.device(first.device)))
    is_shown = sys.stderr.isatty() and replica.rank == 0
    wanted = [system for system in systems(first) if is_wanted(system)]
    for system in tqdm(wanted, desc="systems", disable=not is_shown):
        for experiment, folder in experiments:
            _complete(experiment, system, cast, folder, replica)
    cast.leave()
    replica.barrier()


def measure(experiment: Experiment, predictions: Predictions, folder: RunFolder) -> dict[str, Any]:
    """The contents of metrics.json: see metrics.summarize.

    And under "decoding" what each system's decoding took, as far as it ran without being killed
    (see stats.DecodingStats.summary); under "uncounted" how many questions count in no system,
    since they have no score in one; under "parts", by system, what a judged score is made of.

    Raises:
        NothingCountsError: no question has a score in every system.
    """
    places = counted_places(experiment, predictions)
    values = {name: question_values(experiment, rows) for name, rows in predictions.items()}

    def scores(system: System) -> list[float]:
        found = [values[system.name][place] for place in places]
        return [value for value in found if value is not None]

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
    decoding = {
        name: json.loads(folder.decoding(name).read_text("utf-8"))
        for name in predictions
        if folder.decoding(name).exists()
    }
    metrics = summarize(
        experiment.task, experiment.metric, *small, bases, experiment.higher_is_better
    )
    metrics |= {"decoding": decoding, "uncounted": uncounted(experiment, predictions)}
    count = experiment.num_samples
    counted = [count * place + sample for place in places for sample in range(count)]
    parts = {name: part_means([rows[i] for i in counted]) for name, rows in predictions.items()}
    return {**metrics, "parts": parts} if any(parts.values()) else metrics


def _claim(experiment: Experiment, folder: RunFolder) -> None:
    for system in systems(experiment):
        settings = _settings(experiment, system)
        folder.claim(folder.predictions(system.name), settings)
        if experiment.grader is not None:
            folder.claim(folder.grades(system.name), {**settings, **experiment.grader.settings})


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
            "alpha_warmup_tokens": experiment.alpha_warmup_tokens,
            "vocabulary": experiment.vocabulary,
            "more_experts": [
                {
                    "expert": _identity(more.expert),
                    "antiexpert": _identity(more.antiexpert),
                    "weight": more.weight,
                }
                for more in experiment.more_experts
            ],
        }
    elif system.role == "base":
        models = {"base": _identity(contender.base)}
    else:
        assert contender.tuned is not None
        models = {"tuned": _identity(contender.tuned)}
        models |= {"chat": True} if contender.tuned_is_chat else {}
    questions = [text for q in experiment.questions for text in (q.id, q.prompt, *q.answers)]
    return {
        **models,
        "task": experiment.task,
        "questions": text_digest(questions),
        "stop": list(experiment.stop),
        "max_new_tokens": experiment.max_new_tokens,
        **asdict(experiment.sampling),
        **({"num_samples": experiment.num_samples} if experiment.num_samples > 1 else {}),
    }


def _identity(source: ModelSource) -> dict[str, Any]:
    return {**asdict(source), "weights": weights_digest(source.name)}


def _complete(
    experiment: Experiment, system: System, cast: Cast, folder: RunFolder, replica: Replica
) -> None:
    """Generate those of a replica's share of one system's rows that are not in the folder yet."""
    ids = experiment.row_ids
    file = PredictionFile(folder.predictions(system.name), ids, replica)
    num_missing = len(file.missing)
    if not num_missing:
        return
    logger.info("%s, %s: decoding %d rows", experiment.task, system.name, num_missing)
    model, stops, prompts = cast.on(system, experiment)
    stats = DecodingStats()
    batch_size = experiment.batch_size
    bar = tqdm(
        total=num_missing,
        desc=system.name,
        unit="row",
        leave=False,
        disable=not sys.stderr.isatty() or replica.rank > 0,
    )
    while file.missing:
        try:
            for done in generate(
                model,
                [prompts[i // experiment.num_samples] for i in file.missing],
                stops,
                experiment.max_new_tokens,
                experiment.sampling,
                batch_size,
                indices=file.missing,
                num_draft_tokens=experiment.num_draft_tokens,
                stats=stats,
            ):
                file.add(_row(experiment, ids[done.index], done))
                bar.update()
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size //= 2
            logger.warning(
                "%s: out of memory, going on with batches of %d", system.name, batch_size
            )
    bar.close()
    if replica.rank == 0:
        taken = {"num_rows": num_missing, "batch_size": batch_size, **stats.summary()}
        write_json(folder.decoding(system.name), taken)


def _row(experiment: Experiment, id_: str, done: Completion) -> dict[str, Any]:
    """A finished row as its file holds it; graded rows have their score in a file of its own."""
    question = experiment.question(done.index)
    row: dict[str, Any] = {"id": id_}
    if experiment.num_samples > 1:
        row |= {"task_id": question.id, "sample": done.index % experiment.num_samples}
    row |= {"prompt": question.prompt, "completion": done.text}
    gold = {"answers": list(question.answers)}
    if experiment.score is None:
        row |= gold
    else:
        prediction, score = experiment.score(done.text, question.answers)
        row |= {"prediction": prediction, **gold, "score": score}
    return {
        **row,
        "finish_reason": done.finish_reason,
        "num_tokens": len(done.token_ids),
        "token_ids": list(done.token_ids),
    }
