"""From an experiment to its predictions, row by row.

Finished rows are read from the run's folder and never decoded again. Several experiments with one
lineup, each with a task and a folder of its own, are decoded system by system, so that every model
is loaded once.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..backends.completer import ModelCompleter, NotFinite
from ..backends.thinker import complete_with_thinking
from ..backends.thinking import Thought
from ..engine.request import Completion
from ..jobs.faults import doing
from ..jobs.files import write_json, write_rows
from ..jobs.folder import RunFolder
from ..jobs.processes import ALONE, Replica
from ..jobs.terminal import Progress
from .experiment import Experiment
from .grading import grade_all
from .lineup import System
from .loaded import Completers
from .prediction_file import PredictionFile
from .settings import claim
from .systems import Role

logger = logging.getLogger(__name__)

Predictions = dict[str, list[dict[str, Any]]]  # by system, rows in the questions' order


def run_all(experiments: Sequence[tuple[Experiment, RunFolder]]) -> list[Predictions]:
    """Predictions of every system of experiments with the same models.

    All are decoded, then those are graded whose tasks ask for it. Finished rows are read from the
    folders and never decoded again.

    Raises:
        SettingsChanged: a folder holds predictions made with other settings.
        FileChanged: a folder holds rows that are not what a run wrote there.
    """
    decode_all(experiments)
    decoded: list[Predictions] = [
        {
            system.name: _finished(experiment, folder, folder.predictions(system.name))
            for system in experiment.lineup.systems
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

    The models are unloaded then.
    """
    for experiment, folder in experiments:  # all of them before any weights load
        claim(experiment, folder)
    replica.barrier()  # the claims are made, and nothing is decoded yet
    lineup = experiments[0][0].lineup
    completers = Completers(replace(lineup, device=replica.device(lineup.device)))
    wanted = [system for system in _systems(experiments) if is_wanted(system)]
    num_decoded = 0
    for number, system in enumerate(wanted, start=1):
        for experiment, folder in experiments:
            if system not in experiment.lineup.systems:
                continue
            task = f"{experiment.task}, " if len(experiments) > 1 else ""
            verb = "choosing" if experiment.lineup.is_choosing else "decoding"
            stage = f"{verb} {number}/{len(wanted)} {task}{system.name}"
            with doing(f"decoding {experiment.task}, {system.name}"):
                num_decoded += _complete(experiment, system, completers, folder, replica, stage)
    if wanted and not num_decoded:
        logger.info("all rows of all systems are decoded already, none is decoded again")
    completers.unload()
    replica.barrier()


def _systems(experiments: Sequence[tuple[Experiment, RunFolder]]) -> list[System]:
    """The systems of all tasks, which differ in what was chosen, in the order of one lineup."""
    found: dict[tuple[Role, str], dict[System, None]] = {}
    for experiment, _ in experiments:
        for system in experiment.lineup.systems:
            slug = system.contender.slug if system.contender else ""
            found.setdefault((system.role, slug), {})[system] = None
    return [system for alike in found.values() for system in alike]


def _complete(
    experiment: Experiment,
    system: System,
    completers: Completers,
    folder: RunFolder,
    replica: Replica,
    stage: str,
) -> int:
    """The number of rows of a replica's share that were not in the folder yet, decoded now."""
    ids = experiment.row_ids
    path = folder.predictions(system.name)
    file = PredictionFile(path, ids, replica, folder.seals(path))
    missing = file.missing
    if not missing:
        return 0
    num_rows = len(replica.share(len(ids)))
    with Progress(stage, num_rows, num_done=num_rows - len(missing)) as progress:
        completer = completers.of(system)
        try:
            for place, row in _rows(experiment, system, completer, missing):
                file.add({"id": ids[place], **row})
                progress.add()
        except NotFinite as error:
            where = f"{experiment.task}, {system.name}"
            row = ids[error.name] if isinstance(error.name, int) else error.name
            raise NotFinite(row, error.problem, where) from None
    taken = completer.taken()
    if experiment.thinking is not None:  # a row takes several requests
        taken["num_rows"] = len(missing)
    if replica.rank == 0 and taken["num_rows"]:  # scoring alone takes no steps
        kept = folder.decoding(system.name)
        write_json(kept, folder.seals(kept, path).put(taken))
    return len(missing)


def _finished(experiment: Experiment, folder: RunFolder, path: Path) -> list[dict[str, Any]]:
    """All rows of a system, scored by today's rules: earlier versions had others."""
    seals = folder.seals(path)
    rows = PredictionFile(path, experiment.row_ids, seals=seals).finish()
    if experiment.score is None:
        return rows
    scored = []
    for place, row in enumerate(rows):
        answers = experiment.question(place).answers
        prediction, score = experiment.score(row["completion"], answers)
        fresh = {**row, "prediction": prediction, "answers": list(answers), "score": score}
        scored.append(row if fresh == row else seals.put(fresh))
    if scored != rows:
        num_others = sum(old != new for old, new in zip(rows, scored, strict=True))
        logger.warning("%s: %d rows are scored again, by the rules of today", path, num_others)
        write_rows(path, scored)
    return scored


def _rows(
    experiment: Experiment, system: System, completer: ModelCompleter, places: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows at `places` as they end, each with its place."""
    if experiment.harness is not None:
        yield from experiment.harness.rows(experiment.lineup, system, completer, places)
        return
    requests = experiment.requests(system, places)
    for done in complete_with_thinking(completer, requests, experiment.thinking):
        assert isinstance(done.name, int), "rows are named by their places"
        yield done.name, _row(experiment, done.name, done)


def _row(experiment: Experiment, place: int, done: Completion) -> dict[str, Any]:
    """A finished row as its file holds it; graded rows have their score in a file of its own."""
    question = experiment.question(place)
    row: dict[str, Any] = {}
    if experiment.num_samples > 1:
        row |= {"task_id": question.id, "sample": place % experiment.num_samples}
    row |= {"prompt": question.prompt, "completion": done.text}
    gold = {"answers": list(question.answers)}
    if experiment.score is None:
        row |= gold
    else:
        prediction, score = experiment.score(done.text, question.answers)
        row |= {"prediction": prediction, **gold, "score": score}
    if isinstance(done, Thought):
        row |= {
            "thinking": done.thinking,
            "thinking_end": done.thinking_end,
            "num_thinking_tokens": done.num_thinking_tokens,
        }
    return {
        **row,
        "finish_reason": done.finish_reason,
        "num_tokens": len(done.token_ids),
        "token_ids": list(done.token_ids),
    }
