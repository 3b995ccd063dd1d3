"""A task's metric: its name, and which way is better."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value", float, NDArray[np.float64])


@dataclass(frozen=True, slots=True)
class Metric:
    """What a task measures, as a fraction from 0 to 1.

    Attributes:
        name: as metrics.json has it, such as `exact_match`.
        higher_is_better: False where a low value is the good one, such as a share of toxic rows.
        pass_at: the k of pass@k; None for every other metric.
    """

    name: str
    higher_is_better: bool = True
    pass_at: int | None = None

    @property
    def words(self) -> str:
        """`exact match` for `exact_match`."""
        return self.name.replace("_", " ")

    def worth(self, value: Value) -> Value:
        """The value, or one minus it where a low one is good: more is always better."""
        return value if self.higher_is_better else 1.0 - value

    def gain(self, value: float, other: float) -> float:
        """How much better `value` is than `other`: positive is an improvement."""
        return value - other if self.higher_is_better else other - value
