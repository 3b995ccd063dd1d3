"""Gap closed, (proxy - base) / (tuned - base): a fraction, unclipped (arXiv 2401.08565, section 3).

Where a low value is the good one (a share of toxic completions), it is taken on one minus the
metric, so that its sign means the same everywhere. A task's own rules may leave rows out (None):
the value then uses the rows that count in each system, and has no interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from .intervals import FEWEST, SEED, TAIL, Scores, percentiles, resampled_means, stacked
from .metric import Metric

UPWARD = Metric("value")
ROUNDING = 1e-12  # means of the same scores in another order differ by less


@dataclass(frozen=True, slots=True)
class GapClosed:
    """The fraction of the gap that is closed; `ci95` is None where the rows do not determine it."""

    value: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class MeanGapClosed:
    """The mean over tasks; None, with the reason, if a task has no gap closed."""

    value: float | None
    num_tasks: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class ScoredSystem:
    """One system's worth on every row, and the rows' names (None if the file has none)."""

    name: str
    values: Sequence[float | None]
    keys: Sequence[str] | None


def gap_closed(base: float, proxy: float, tuned: float) -> float | None:
    """(proxy - base) / (tuned - base), unclipped; None unless tuned > base."""
    return (proxy - base) / (tuned - base) if tuned - base > ROUNDING else None


def gap_closed_with_interval(
    base: Scores, proxy: Scores, tuned: Scores, seed: int = SEED
) -> tuple[GapClosed | None, str | None]:
    """Gap closed with its paired percentile-bootstrap interval, and why a part of it is missing.

    A resample in which direct tuning gains nothing has no ratio: its gap has shrunk through zero,
    so it counts as infinite, with the sign of the proxy's gain. Up to 2.5% of such resamples lie
    outside the interval anyway; with more of them there is no interval.

    Returns:
        (gap closed, None); or without its interval, and the reason; or (None, reason) unless
        tuned > base.

    Raises:
        ValueError: the lengths differ, there are no scores, or one is not finite.
    """
    rows = stacked({"base": base, "proxy": proxy, "tuned": tuned})
    return gap_closed_of(rows, resampled_means(rows, seed))


def gap_closed_of(
    worth: NDArray[np.float64], means: NDArray[np.float64], metric: Metric = UPWARD
) -> tuple[GapClosed | None, str | None]:
    """As `gap_closed_with_interval`, of rows that are resampled already.

    Args:
        worth: (3, N) of base, proxy and tuned, where more is better.
        means: (3, R), their resampled means.
        metric: what was measured; a reason shows its values as they were measured.
    """
    base, proxy, tuned = (float(row.mean()) for row in worth)
    value = gap_closed(base, proxy, tuned)
    if value is None:
        return None, _not_better(metric.worth(tuned), metric.worth(base))
    if worth.shape[1] < FEWEST:
        return GapClosed(value, None), (
            f"no interval: fewer than {FEWEST} rows are too few to resample"
        )
    gain, gap = means[1] - means[0], means[2] - means[0]
    is_open = gap > ROUNDING
    share = float(1 - is_open.mean())
    if share > TAIL:
        return GapClosed(value, None), (
            f"no interval: direct tuning fails to beat the base in {share:.1%} of the resamples, "
            "so the ratio is not well determined"
        )
    unbounded = np.where(np.abs(gain) <= ROUNDING, 0.0, np.copysign(np.inf, gain))
    ratios = np.divide(gain, gap, out=unbounded, where=is_open)
    return GapClosed(value, percentiles(ratios)), None


def closed_gap(
    base: ScoredSystem, proxy: ScoredSystem, tuned: ScoredSystem, metric: Metric
) -> tuple[GapClosed | None, str | None]:
    """As `gap_closed_with_interval`, of systems that were scored one by one.

    The interval needs three scores on every row: it is missing where a row is not counted, or where
    the rows do not name the question they answer.

    Raises:
        ValueError: the systems answer different questions.
    """
    trio = [base, *(_in_order(system, base) for system in (proxy, tuned))]
    means = [fmean(v for v in system.values if v is not None) for system in trio]
    value = gap_closed(*map(metric.worth, means))
    if value is None:
        return None, _not_better(means[2], means[0])
    if any(v is None for system in trio for v in system.values):
        reason = "no interval: the rules leave some rows out, not the same ones in every system"
        return GapClosed(value, None), reason
    if any(system.keys is None or system.keys != base.keys for system in trio):
        reason = "no interval: the files do not say which rows belong together"
        return GapClosed(value, None), reason
    rows = [[metric.worth(v or 0.0) for v in system.values] for system in trio]
    return gap_closed_with_interval(rows[0], rows[1], rows[2])


def mean_gap_closed(gaps: Mapping[str, float | None]) -> MeanGapClosed:
    """The mean over tasks of the gap closed on each, by task.

    A task without a gap closed is not passed over: the mean is None then, and the reason names it.
    """
    without = [task for task, gap in gaps.items() if gap is None]
    if without or not gaps:
        reason = f"no single gap closed on {', '.join(without)}" if without else "no tasks"
        return MeanGapClosed(None, len(gaps), reason)
    return MeanGapClosed(fmean(gap for gap in gaps.values() if gap is not None), len(gaps), None)


def _not_better(tuned: float, base: float) -> str:
    return f"direct tuning did not beat the base ({tuned:.1%} against {base:.1%})"


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
