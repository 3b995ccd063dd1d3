"""From an experiment to its predictions, row by row.

Finished rows are read from the run's folder and never generated again. Several experiments with the
same models, each with a task and a folder of its own, are decoded system by system, so that every
model is loaded once.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from tqdm import tqdm

from ..engine.completer import Completion, Request
from ..jobs.files import text_digest, weights_digest, write_json
from ..jobs.folder import RunFolder
from ..jobs.processes import ALONE, Replica
from ..models.sources import ModelSource
from .experiment import Experiment, System, systems
from .grading import grade_all
from .loaded import Completers
from .prediction_file import PredictionFile

logger = logging.getLogger(__name__)

Predictions = dict[str, list[dict[str, Any]]]  # by system, rows in the questions' order


def run_all(experiments: Sequence[tuple[Experiment, RunFolder]]) -> list[Predictions]:
    """Predictions of every system of experiments with the same models.

    All are decoded, then those are graded whose tasks ask for it. Finished rows are read from the
    folders and never decoded again.

    Raises:
        SettingsChanged: a folder holds predictions made with other settings.
    """
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
    completers = Completers(replace(first, device=replica.device(first.device)))
    is_shown = sys.stderr.isatty() and replica.rank == 0
    wanted = [system for system in systems(first) if is_wanted(system)]
    for system in tqdm(wanted, desc="systems", disable=not is_shown):
        for experiment, folder in experiments:
            _complete(experiment, system, completers, folder, replica)
    completers.leave()
    replica.barrier()


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
    experiment: Experiment,
    system: System,
    completers: Completers,
    folder: RunFolder,
    replica: Replica,
) -> None:
    """Complete those of a replica's share of one system's rows that are not in the folder yet."""
    ids = experiment.row_ids
    file = PredictionFile(folder.predictions(system.name), ids, replica)
    missing = file.missing
    if not missing:
        return
    logger.info("%s, %s: decoding %d rows", experiment.task, system.name, len(missing))
    requests = [
        Request(
            place,
            experiment.prompt(system, experiment.question(place)),
            experiment.max_new_tokens,
            experiment.stop,
            experiment.sampling,
        )
        for place in missing
    ]
    completer = completers.of(system)
    bar = tqdm(
        total=len(missing),
        desc=system.name,
        unit="row",
        leave=False,
        disable=not sys.stderr.isatty() or replica.rank > 0,
    )
    for done in completer.complete(requests):
        assert isinstance(done.name, int), "rows are named by their places"
        file.add(_row(experiment, ids[done.name], done.name, done))
        bar.update()
    bar.close()
    if replica.rank == 0:
        write_json(folder.decoding(system.name), completer.taken())


def _row(experiment: Experiment, id_: str, place: int, done: Completion) -> dict[str, Any]:
    """A finished row as its file holds it; graded rows have their score in a file of its own."""
    question = experiment.question(place)
    row: dict[str, Any] = {"id": id_}
    if experiment.num_samples > 1:
        row |= {"task_id": question.id, "sample": place % experiment.num_samples}
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
