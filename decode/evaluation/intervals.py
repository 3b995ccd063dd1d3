"""Means and differences with 95% intervals: Wilson's for shares of right answers, or the bootstrap.

Systems answer the same rows, so differences and ratios are resampled in pairs: one draw of rows
serves every system at once (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13: the percentile interval). A lone 0/1 metric gets Wilson's interval (Wilson, Probable
Inference, JASA 22, 1927), which stays honest near 0 and 1 and in small samples. The draws depend
on the seed and the number of rows alone: measuring one more alpha moves no other interval.

Shape letters: S systems, N rows, R resamples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = Sequence[float] | NDArray[np.float64]

SEED = 0
NUM_RESAMPLES = 10_000
Z95 = 1.959963984540054  # the 97.5% point of the standard normal
TAIL = 0.025  # the share of resamples left out at either end of a 95% interval
FEWEST = 6  # rows that tell something: even all on one side, five differ by chance 1 time in 16
CHUNK_DRAWS = 4_000_000  # row indices held at once: 32 MiB of int64, and as much for the counts


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95% interval (low, high)."""

    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True, slots=True)
class CountedMean:
    """A mean over the rows that count, and how many rows count or were dropped."""

    mean: Estimate
    num_counted: int
    num_dropped: int


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


def mean_with_interval(scores: Scores, seed: int = SEED) -> Estimate:
    """The mean of one system: Wilson's interval if every score is 0 or 1, otherwise the percentile
    bootstrap.

    Raises:
        ValueError: there are no scores, or one is not finite.
    """
    rows = stacked({"scores": scores})
    return mean_of(rows[0], resampled_means(rows, seed)[0])


def counted_mean(values: Sequence[float | None]) -> CountedMean:
    """The mean of the rows that count, with its interval; None is a row left out by the rules.

    Raises:
        ValueError: no row counts.
    """
    counted = [value for value in values if value is not None]
    if not counted:
        raise ValueError(f"none of the {len(values):,} rows counts, so there is no mean")
    return CountedMean(mean_with_interval(counted), len(counted), len(values) - len(counted))


def difference_with_interval(scores: Scores, other: Scores, seed: int = SEED) -> Estimate:
    """mean(scores) - mean(other) over the same rows, with the paired percentile bootstrap.

    Raises:
        ValueError: the lengths differ, there are no scores, or one is not finite.
    """
    rows = stacked({"scores": scores, "other": other})
    return difference_of(rows, resampled_means(rows, seed))


def stacked(scores: Mapping[str, Scores]) -> NDArray[np.float64]:
    """(S, N) float64: one row of scores a system, in the mapping's order.

    Raises:
        ValueError: the lengths differ, there are no scores, or one is not finite.
    """
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


def mean_of(scores: NDArray[np.float64], means: NDArray[np.float64]) -> Estimate:
    """The mean of (N,) scores, with its interval; `means` are its resampled means, (R,)."""
    if np.isin(scores, (0.0, 1.0)).all():
        interval = wilson_interval(int(scores.sum()), scores.size)
    else:
        interval = percentiles(means)
    return Estimate(float(scores.mean()), interval)


def difference_of(scores: NDArray[np.float64], means: NDArray[np.float64]) -> Estimate:
    """The first mean minus the second, with its interval; (2, N) scores, (2, R) `means`."""
    return Estimate(float(scores[0].mean() - scores[1].mean()), percentiles(means[0] - means[1]))


def percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    """The values left at either end when 2.5% are cut off each, as plain floats."""
    cut = int(TAIL * values.size)
    ordered = np.sort(values)
    return float(ordered[cut]), float(ordered[-1 - cut])
