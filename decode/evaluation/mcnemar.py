"""Two systems on the same rows: how often is one right where the other is not?

McNemar's test (Psychometrika 12, 1947), exact: of the rows on which two systems differ, each would
win half if they were equally good. The p value is the two-sided binomial one,

    p = min(1, 2 P(X <= min(only_a, only_b)))        X ~ Binomial(only_a + only_b, 1/2)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class McNemar:
    """How many rows both, one or neither of two systems is right on, and the exact p value."""

    both_right: int
    only_a: int
    only_b: int
    both_wrong: int
    p_value: float


def mcnemar(scores: Scores, other: Scores) -> McNemar | None:
    """The test of two systems' worth on the same rows; None where one is neither 0 nor 1.

    Raises:
        ValueError: the lengths differ.
    """
    a, b = np.asarray(scores, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a pair is counted on the same rows, found {a.shape} and {b.shape}")
    if not np.isin([a, b], (0.0, 1.0)).all():
        return None
    only_a, only_b = int((a * (1 - b)).sum()), int(((1 - a) * b).sum())
    return McNemar(
        both_right=int((a * b).sum()),
        only_a=only_a,
        only_b=only_b,
        both_wrong=int(((1 - a) * (1 - b)).sum()),
        p_value=mcnemar_p_value(only_a, only_b),
    )


def mcnemar_p_value(only_a: int, only_b: int) -> float:
    """The exact two-sided p value, in whole numbers up to the last division.

    >>> mcnemar_p_value(1, 5)  # 2 (1 + 6) / 64
    0.21875
    """
    num_differing, fewer = only_a + only_b, min(only_a, only_b)
    if fewer < 0:
        raise ValueError(f"counts must not be negative, found {only_a} and {only_b}")
    term, tail = 1, 1
    for chosen in range(fewer):
        term = term * (num_differing - chosen) // (chosen + 1)
        tail += term
    return min(1.0, 2 * tail / 2**num_differing)
