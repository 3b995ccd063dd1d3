"""Systems scored on the same rows, compared: values with intervals, and the gap that is closed.

Rows may be left out by the rules that scored them (None): a value is the mean over the rows
that count, and says how many those are. Where a low value is the good one (a share of toxic
completions), gap closed is taken on one minus it, so that its sign means the same everywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from .metrics import gap_closed, gap_closed_with_interval, mean_with_interval

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class ScoredSystem:
    """One system's worth on every row, and what the rows are called (None: they do not say)."""

    name: str
    values: Values
    keys: Sequence[str] | None


def counted_mean(values: Values) -> dict[str, Any]:
    """The mean of the rows that count, with its interval: Wilson's, if each is right or wrong.

    Returns:
        `{"value", "ci95", "num_counted", "num_dropped"}`.

    Raises:
        ValueError: no row counts.
    """
    counted = [value for value in values if value is not None]
    if not counted:
        raise ValueError(f"none of the {len(values):,} rows counts, so there is no mean")
    num_dropped = len(values) - len(counted)
    return {**mean_with_interval(counted), "num_counted": len(counted), "num_dropped": num_dropped}


def closed_gap(
    base: ScoredSystem, proxy: ScoredSystem, tuned: ScoredSystem, higher_is_better: bool
) -> dict[str, Any]:
    """`{"gap_closed", "gap_closed_reason"}` as in metrics.json: a value, its interval, and why one
    of them is missing.

    The interval needs three scores on every row: it is missing where a row is not counted, or where
    the rows do not say which question they answer.

    Raises:
        ValueError: the systems answer different questions.
    """
    trio = [base, *(_in_order(system, base) for system in (proxy, tuned))]
    means = [fmean(v for v in system.values if v is not None) for system in trio]
    value = gap_closed(*(_upward(mean, higher_is_better) for mean in means))
    if value is None:
        low, high = means[0], means[2]
        reason = f"direct tuning did not beat the base ({high:.1%} against {low:.1%})"
        return {"gap_closed": None, "gap_closed_reason": reason}
    if any(v is None for system in trio for v in system.values):
        reason = "no interval: the rules leave some rows out, not the same ones in every system"
    elif any(system.keys is None or system.keys != base.keys for system in trio):
        reason = "no interval: the files do not say which rows belong together"
    else:
        rows = [[_upward(v or 0.0, higher_is_better) for v in system.values] for system in trio]
        closed, reason = gap_closed_with_interval(rows[0], rows[1], rows[2])
        return {"gap_closed": closed, "gap_closed_reason": reason}
    return {"gap_closed": {"value": value, "ci95": None}, "gap_closed_reason": reason}


def mean_gap_closed(gaps: Mapping[str, float | None]) -> dict[str, Any]:
    """`{"value", "num_tasks", "reason"}`: the mean over tasks of the gap closed on each.

    A task without a gap is not passed over: the mean is None then, and the reason names it.
    """
    without = [task for task, gap in gaps.items() if gap is None]
    if without or not gaps:
        reason = f"no single gap closed on {', '.join(without)}" if without else "no tasks"
        return {"value": None, "num_tasks": len(gaps), "reason": reason}
    value = fmean(gap for gap in gaps.values() if gap is not None)
    return {"value": value, "num_tasks": len(gaps), "reason": None}


def _upward(value: float, higher_is_better: bool) -> float:
    return value if higher_is_better else 1.0 - value


def _in_order(system: ScoredSystem, base: ScoredSystem) -> ScoredSystem:
    """`system` with its rows in the base's order, where both say what their rows are called."""
    if len(system.values) != len(base.values):
        raise ValueError(
            f"{system.name} has {len(system.values):,} rows and {base.name} {len(base.values):,}; "
            "gap closed needs the same questions in both"
        )
    if system.keys is None or base.keys is None or list(system.keys) == list(base.keys):
        return system
    places = {key: place for place, key in enumerate(system.keys)}
    strange = [key for key in base.keys if key not in places]
    if not strange and len(places) == len(system.keys):
        order = [places[key] for key in base.keys]
        return ScoredSystem(system.name, [system.values[place] for place in order], base.keys)
    if len(strange) == len(base.keys):  # another field names the rows there
        return system
    raise ValueError(
        f"{system.name} and {base.name} do not hold the same questions: "
        f"'{strange[0] if strange else base.keys[0]:.60}' is in only one of them, or there twice"
    )
