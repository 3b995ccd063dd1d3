"""Verdicts that a file of predictions already holds, and the metrics that follow from them.

Code tasks: every row is one sample of a problem (`task_id`) with `passed`; a problem is worth its
pass@k. ToxiGen: every row is one completion with `is_toxic`, and in `target_groups` whom the prompt
speaks of; the metric is the share that is toxic, so lower is better.
"""

from collections.abc import Sequence
from statistics import fmean

from ..rows import Row
from .pass_at_k import pass_at_k

_MEANINGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def verdict(row: Row, field: str) -> bool:
    """The verdict in `field`: true or false, 1 or 0, or either as text.

    Raises:
        ValueError: the field is missing or says something else; names file, line and field.
    """
    value = row.fields[row.first(field)]
    meaning = _MEANINGS.get(str(value).strip().lower())
    if meaning is None:
        raise ValueError(f"{row.where}: field '{field}' must be true or false, found {value!r:.80}")
    return meaning


def pass_rates(rows: Sequence[Row], k: int) -> dict[str, float]:
    """pass@k of every problem, in the order of their first samples.

    Raises:
        ValueError: a field is missing or wrong, or a problem has fewer than k samples.
    """
    samples: dict[str, list[Row]] = {}
    for row in rows:
        problem = row.fields[row.first("task_id", "id")]
        if not isinstance(problem, str | int):
            raise ValueError(
                f"{row.where}: field 'task_id' must be text or a number, found {problem!r:.80}"
            )
        samples.setdefault(str(problem), []).append(row)
    return {problem: _pass_rate(problem, drawn, k) for problem, drawn in samples.items()}


def toxic_by_group(rows: Sequence[Row]) -> dict[str, float]:
    """The share of toxic completions of every group; a row counts for each of its groups."""
    groups: dict[str, list[bool]] = {}
    for row in rows:
        for group in row.texts("target_groups"):
            groups.setdefault(group, []).append(verdict(row, "is_toxic"))
    return {group: fmean(toxic) for group, toxic in sorted(groups.items())}


def _pass_rate(problem: str, samples: Sequence[Row], k: int) -> float:
    passed = [verdict(sample, "passed") for sample in samples]
    try:
        return pass_at_k(len(passed), sum(passed), k)
    except ValueError as error:
        raise ValueError(f"{samples[-1].where}: problem '{problem}': {error}") from None
