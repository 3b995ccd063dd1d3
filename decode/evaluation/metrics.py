"""How well each system does, how much the proxy gained, and how sure that is.

Gap closed is (proxy - base) / (tuned - base), a fraction, unclipped (arXiv 2401.08565, section 3).
Systems answer the same rows, so differences and ratios are resampled in pairs: one draw of rows
serves every system at once (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13: the percentile interval). Where a low value is the good one (a share of toxic
completions), gains and gap closed are taken on one minus it: a positive gain is an improvement
whatever the metric. A lone 0/1 metric gets Wilson's interval (Wilson, Probable
Inference, JASA 22, 1927), which stays honest near 0 and 1 and in small samples. The draws depend
on the seed and the number of rows alone: measuring one more alpha moves no other interval.

Shape letters: S systems, N rows, R resamples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .mcnemar import count_pair, mcnemar_p_value
from .systems import check_slugs, system_name

Scores = Sequence[float] | NDArray[np.float64]

SEED = 0
NUM_RESAMPLES = 10_000
Z95 = 1.959963984540054  # the 97.5% point of the standard normal
TAIL = 0.025  # the share of resamples left out at either end of a 95% interval
CHUNK_DRAWS = 4_000_000  # row indices held at once: 32 MiB of int64, and as much for the counts


@dataclass(frozen=True, slots=True)
class BaseScores:
    """One base's scores on the task's rows, in row order; `tuned` is None without a reference."""

    model: str
    base: Scores
    tuned: Scores | None
    proxy: Mapping[float, Scores]  # by alpha


def wilson_interval(num_right: int, num_rows: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a proportion, without continuity correction.

    Raises:
        ValueError: there are no rows, or more right than rows.
    """
    if not 0 <= num_right <= num_rows or num_rows == 0:
        raise ValueError(f"{num_right} right of {num_rows} rows is no proportion")
    share = num_right / num_rows
    scale = 1 + Z95**2 / num_rows
    centre = (share + Z95**2 / (2 * num_rows)) / scale
    spread = math.sqrt(share * (1 - share) / num_rows + Z95**2 / (4 * num_rows**2))
    half_width = Z95 * spread / scale
    # At 0 and 1 the bound is exact; rounding would leave 1e-17 there.
    low = 0.0 if num_right == 0 else centre - half_width
    high = 1.0 if num_right == num_rows else centre + half_width
    return low, high


def resampled_means(
    scores: NDArray[np.float64], seed: int = SEED, num_resamples: int = NUM_RESAMPLES
) -> NDArray[np.float64]:
    """Means over rows drawn with replacement; every system sees the same draw.

    Args:
        scores: (S, N).
        seed: of the draws; the same seed and N give the same rows.
        num_resamples: R.

    Returns:
        (S, R) float64.
    """
    num_rows = scores.shape[1]
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_DRAWS // num_rows)
    parts = []
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        drawn = generator.integers(0, num_rows, size=(size, num_rows))
        drawn += np.arange(size)[:, None] * num_rows  # a range of its own for each resample
        counts = np.bincount(drawn.ravel(), minlength=size * num_rows).reshape(size, num_rows)
        parts.append(scores @ counts.T / num_rows)  # (S, N) @ (N, size)
    return np.concatenate(parts, axis=1)


def mean_with_interval(scores: Scores, seed: int = SEED) -> dict[str, Any]:
    """`{"value", "ci95"}` of one system: Wilson's interval if every score is 0 or 1, otherwise the
    percentile bootstrap.

    Raises:
        ValueError: there are no scores, or one is not finite.
    """
    rows = _stack({"scores": scores})
    return _mean(rows[0], resampled_means(rows, seed)[0])


def difference_with_interval(scores: Scores, other: Scores, seed: int = SEED) -> dict[str, Any]:
    """`{"value", "ci95"}` of mean(scores) - mean(other) over the same rows: paired percentile
    bootstrap.

    Raises:
        ValueError: the lengths differ, there are no scores, or one is not finite.
    """
    rows = _stack({"scores": scores, "other": other})
    return _difference(rows, resampled_means(rows, seed))


def gap_closed(base: float, proxy: float, tuned: float) -> float | None:
    """(proxy - base) / (tuned - base), unclipped; None unless tuned > base."""
    return (proxy - base) / (tuned - base) if tuned > base else None


def gap_closed_with_interval(
    base: Scores, proxy: Scores, tuned: Scores, seed: int = SEED
) -> tuple[dict[str, Any] | None, str | None]:
    """Gap closed with its paired percentile-bootstrap interval, and why a part of it is missing.

    A resample in which direct tuning gains nothing has no ratio: its gap has shrunk through zero,
    so it counts as infinite, with the sign of the proxy's gain. Up to 2.5% of such resamples lie
    outside the interval anyway; with more of them there is no interval.

    Returns:
        (`{"value", "ci95"}`, None); or the same with "ci95" None, and the reason; or
        (None, reason) unless tuned > base.

    Raises:
        ValueError: the lengths differ, there are no scores, or one is not finite.
    """
    rows = _stack({"base": base, "proxy": proxy, "tuned": tuned})
    return _gap(rows, resampled_means(rows, seed))


def summarize(
    task: str,
    metric: str,
    antiexpert: Scores,
    expert: Scores,
    bases: Sequence[BaseScores],
    higher_is_better: bool = True,
    seed: int = SEED,
) -> dict[str, Any]:
    """The contents of `metrics.json`: every system with its interval, gains, gap closed, and every
    pair of systems.

    Args:
        task, metric: names, copied.
        antiexpert, expert: scores in row order.
        bases: likewise for each base; alphas appear in ascending order.
        higher_is_better: whether a large value is a good one.
        seed: of the resampling.

    Raises:
        ValueError: the lengths differ, there are no scores, one is not finite, or two bases have
            the same slug.
    """
    check_slugs(base.model for base in bases)
    scores: dict[str, Scores] = {"antiexpert": antiexpert, "expert": expert}
    for base in bases:
        scores[system_name("base", base.model)] = base.base
        for alpha in base.proxy:
            scores[system_name("proxy", base.model, alpha)] = base.proxy[alpha]
        if base.tuned is not None:
            scores[system_name("tuned", base.model)] = base.tuned
    rows = _stack(scores)  # (S, N)
    means = resampled_means(rows, seed)  # (S, R)
    good, good_means = (rows, means) if higher_is_better else (1 - rows, 1 - means)
    index = {name: number for number, name in enumerate(scores)}

    def mean(name: str) -> dict[str, Any]:
        return _mean(rows[index[name]], means[index[name]])

    def proxy_entry(base: BaseScores, alpha: float) -> dict[str, Any]:
        base_name, tuned_name = (system_name(role, base.model) for role in ("base", "tuned"))
        name = system_name("proxy", base.model, alpha)
        over_base = [index[name], index[base_name]]
        over_expert = [index[name], index["expert"]]
        closed, reason = None, "no directly tuned reference to compare with"
        if base.tuned is not None:
            trio = [index[base_name], index[name], index[tuned_name]]
            closed, reason = _gap(good[trio], good_means[trio], higher_is_better)
        return {
            "alpha": float(alpha),
            **mean(name),
            "gain_over_base": _difference(good[over_base], good_means[over_base]),
            "gain_over_expert": _difference(good[over_expert], good_means[over_expert]),
            "gap_closed": closed,
            "gap_closed_reason": reason,
        }

    def pair(one: str, other: str) -> dict[str, Any]:
        both = [index[one], index[other]]
        difference = _difference(good[both], good_means[both])
        counts = None
        if np.isin(good[both], (0.0, 1.0)).all():
            counts = count_pair(*good[both])
            counts |= {"p_value": mcnemar_p_value(counts["only_a"], counts["only_b"])}
        return {"a": one, "b": other, "difference": difference, "mcnemar": counts}

    return {
        "task": task,
        "metric": metric,
        "higher_is_better": higher_is_better,
        "num_examples": rows.shape[1],
        "antiexpert": mean("antiexpert"),
        "expert": mean("expert"),
        "bases": [
            {
                "model": base.model,
                "base": mean(system_name("base", base.model)),
                "tuned": None if base.tuned is None else mean(system_name("tuned", base.model)),
                "proxy": [proxy_entry(base, alpha) for alpha in sorted(base.proxy)],
            }
            for base in bases
        ],
        "pairs": [pair(other, one) for one, other in combinations(scores, 2)],
    }


def _stack(scores: Mapping[str, Scores]) -> NDArray[np.float64]:
    """(S, N) float64, checked."""
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    first, num_rows = next((name, array.size) for name, array in arrays.items())
    for name, array in arrays.items():
        if array.ndim != 1 or array.size != num_rows or num_rows == 0:
            raise ValueError(
                f"scores of '{name}' have shape {array.shape}, those of '{first}' have "
                f"{num_rows} rows; every system needs one score for each of the same rows"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"scores of '{name}' hold a value that is not finite")
    return np.stack(list(arrays.values()))


def _mean(row: NDArray[np.float64], means: NDArray[np.float64]) -> dict[str, Any]:
    if np.isin(row, (0.0, 1.0)).all():
        low, high = wilson_interval(int(row.sum()), row.size)
    else:
        low, high = _percentiles(means)
    return {"value": float(row.mean()), "ci95": [low, high]}


def _difference(rows: NDArray[np.float64], means: NDArray[np.float64]) -> dict[str, Any]:
    low, high = _percentiles(means[0] - means[1])
    return {"value": float(rows[0].mean() - rows[1].mean()), "ci95": [low, high]}


def _gap(
    rows: NDArray[np.float64], means: NDArray[np.float64], higher_is_better: bool = True
) -> tuple[dict[str, Any] | None, str | None]:
    """As `gap_closed_with_interval`; the three rows are base, proxy and tuned, high is good.

    Where that took turning the metric round, the reason shows it as it was.
    """
    base, proxy, tuned = (float(row.mean()) for row in rows)
    value = gap_closed(base, proxy, tuned)
    if value is None:
        shown = (tuned, base) if higher_is_better else (1 - tuned, 1 - base)
        return None, "direct tuning did not beat the base ({:.1%} against {:.1%})".format(*shown)
    gain, gap = means[1] - means[0], means[2] - means[0]
    is_open = gap > 0
    share = float(1 - is_open.mean())
    if share > TAIL:
        return {"value": value, "ci95": None}, (
            f"no interval: direct tuning fails to beat the base in {share:.1%} of the resamples, "
            "so the ratio is not well determined"
        )
    unbounded = np.where(gain == 0, 0.0, np.copysign(np.inf, gain))
    ratios = np.divide(gain, gap, out=unbounded, where=is_open)
    low, high = _percentiles(ratios)
    return {"value": value, "ci95": [low, high]}, None


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    """The values left at either end when 2.5% are cut off each, as plain floats."""
    cut = int(TAIL * values.size)
    ordered = np.sort(values)
    return float(ordered[cut]), float(ordered[-1 - cut])
