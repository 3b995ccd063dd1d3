"""The rows a recipe trains on: its task's and its mixture's, without rows that measure."""

import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data import TrainRow
from data.row_files import row_files
from data.rows import HubSource
from data.training.duplicates import KINDS, EvaluationPrompts
from data.training.mixture import Source, mixed_stream, weighted
from decode.evaluation.experiment import Experiment, asked_of
from decode.jobs.files import file_ends, text_digest
from recipes.schema.recipe import Recipe

from .sources import sources_of

logger = logging.getLogger(__name__)

SAMPLE_ROWS = 1_000  # of a stream, read before weights load


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """The rows of a training.

    Attributes:
        rows: all rows in order; of a stream its first ones, as a sample.
        stream: begins an endless stream anew; None if `rows` are all.
        sources: a record of each source, as the report has it.
        digest: a short name for all of it.
    """

    rows: Sequence[TrainRow]
    stream: Callable[[], Iterator[TrainRow]] | None
    sources: Sequence[dict[str, Any]]
    digest: str

    def __str__(self) -> str:
        return f"{len(self.rows):,} rows" if self.stream is None else "a stream of rows"


def training_rows(
    recipe: Recipe, experiments: Sequence[Experiment], num_held_out: int = 0
) -> TrainingRows:
    """The recipe's training rows, read and checked.

    Args:
        experiments: what the recipe evaluates; their questions, and those that choose alpha and
            rule, are not trained on.
        num_held_out: of the task's own rows, so many at the end are left out.

    Raises:
        ValueError: in one line what a row, a source or a key has wrong.
    """
    sources = sources_of(recipe)
    evaluated = [] if recipe.task.keep_eval_rows else experiments
    asked = EvaluationPrompts([q.prompt for q in asked_of(own)] for own in evaluated)
    if recipe.task.streaming:
        _check_steps(recipe)
        if num_held_out:
            raise ValueError(
                "task.streaming: a stream has no last rows to hold out; name validation rows in "
                "proxy_check.rows"
            )
        return _streamed(sources, asked, recipe.seed)
    rows: list[TrainRow] = []
    report = []
    for number, source in enumerate(sources):
        found = source.read()
        if number == 0 and num_held_out:
            found = _not_held_out(found, num_held_out)
        of_row = [asked.kind(row) for row in found]
        kinds = Counter(kind for kind in of_row if kind is not None)
        kept = [row for row, kind in zip(found, of_row, strict=True) if kind is None]
        _say_what_is_left_out(source, len(found), kinds)
        try:
            used = weighted(kept, source.weight, f"{recipe.seed}-{number}")
        except ValueError as error:
            raise ValueError(f"{source.name}: {error}") from None
        rows += used
        report.append(_source_report(source, len(found), kinds) | {"num_used": len(used)})
    if not rows:
        raise ValueError("no rows are left to train on; see what task, mixture and weights leave")
    digest = text_digest(text for row in rows for text in (row.prompt, row.completion))
    return TrainingRows(rows, None, report, digest)


def _not_held_out(rows: list[TrainRow], num_held_out: int) -> list[TrainRow]:
    if len(rows) <= num_held_out:
        raise ValueError(
            f"proxy_check.num_rows: {num_held_out} rows are held out of {len(rows)}, which leaves "
            "none to train on; take fewer, or name other rows in proxy_check.rows"
        )
    return rows[:-num_held_out]


def _streamed(sources: Sequence[Source], asked: EvaluationPrompts, seed: int) -> TrainingRows:
    def kept(source: Source) -> Callable[[], Iterator[TrainRow]]:
        return lambda: (row for row in source.stream() if asked.kind(row) is None)

    report = []
    for source in sources:
        found = list(itertools.islice(source.stream(), SAMPLE_ROWS))
        kinds = Counter(kind for row in found if (kind := asked.kind(row)))
        _say_what_is_left_out(source, len(found), kinds)
        report.append(_source_report(source, len(found), kinds) | {"num_used": None})

    def stream() -> Iterator[TrainRow]:
        return mixed_stream([kept(s) for s in sources], [s.weight for s in sources], seed)

    sample = list(itertools.islice(stream(), SAMPLE_ROWS))
    identity = [[s.name, _identity(s.place), s.limit, s.weight] for s in sources]
    texts = [text for row in sample for text in (row.prompt, row.completion)]
    return TrainingRows(sample, stream, report, text_digest([json.dumps(identity), *texts]))


def _check_steps(recipe: Recipe) -> None:
    sft = recipe.sft or {}
    for key, keys in (("sft", sft), ("decode.reference_sft", recipe.decode.reference_sft or {})):
        if {**sft, **keys}.get("max_steps", -1) < 1:
            raise ValueError(
                f"{key}.max_steps: missing; a stream has no end (task.streaming), so this says "
                "when training has"
            )


def _say_what_is_left_out(source: Source, num_rows: int, kinds: Counter[str]) -> None:
    if not kinds:
        return
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])
    if kinds.total() == num_rows:
        raise ValueError(
            f"{source.name}: every training row of {source.place} is an evaluation or validation "
            f"row as well ({counts}); train on others, lower task.eval_limit, choose by others, "
            "or set task.keep_eval_rows=true"
        )
    logger.warning(
        "%s: %d of %d training rows are evaluation or validation rows and left out (%s)",
        source.name,
        kinds.total(),
        num_rows,
        counts,
    )


def _source_report(source: Source, num_rows: int, kinds: Counter[str]) -> dict[str, Any]:
    found = {kind: kinds[kind] for kind in KINDS}
    place = source.place
    if isinstance(place, HubSource):
        place = f"{place.name} [{place.split}]"
    return {
        "name": source.name,
        "from": place,
        "num_rows": num_rows,
        "duplicates": found,
        "weight": source.weight,
    }


def _identity(place: str | HubSource) -> Any:
    """A value that differs between sources, made without reading all of their rows."""
    if isinstance(place, HubSource):
        return [place.name, place.config, place.split]
    files = [
        file
        for path in row_files(place)
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
    ]
    return [
        part
        for file in files
        for part in (file.stat().st_size, hashlib.sha256(file_ends(file)).hexdigest())
    ]
