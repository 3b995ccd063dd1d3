"""The proxy checks of a training: their record, which of them was best, and what they cost.

`proxy_check/checks.jsonl` in a run's folder has one row a check, in order. The first, of step 0,
says what is checked (task, metric, base, alpha, rows) and has the base's own scores. Everything a
training decides by its checks (the weights that are kept, an early end) follows from these rows, so
that a training which was killed decides the same.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..jobs.files import append_row, read_rows, write_rows
from .gap_closed import gap_closed
from .metric import Metric
from .metrics_file import earlier_slug

Row = dict[str, Any]


class Checks:
    """The rows of one training.

    Args:
        path: of the record; made by the first `add`.
        up_to_step: rows of later steps are dropped, for a training that goes on from this step.
    """

    def __init__(self, path: Path, up_to_step: int | None = None) -> None:
        self._path = path
        self.rows = read_rows(path)
        if up_to_step is not None:
            kept = [row for row in self.rows if row["step"] <= up_to_step]
            if len(kept) < len(self.rows):
                write_rows(path, kept)
            self.rows = kept

    @property
    def first(self) -> Row:
        """What is checked, and the base's scores."""
        return self.rows[0]

    @property
    def metric(self) -> Metric:
        """What the scores are."""
        return Metric(self.first["metric"], self.first["higher_is_better"])

    @property
    def base_slug(self) -> str:
        """The name the checked base goes by."""
        return self.first.get("base_slug") or earlier_slug(self.first["base_model"])

    @property
    def checked(self) -> list[Row]:
        """The checks after step 0."""
        return self.rows[1:]

    @property
    def best(self) -> Row | None:
        """The check whose weights are kept, None while there is none or the last ones are."""
        found: Row | None = None
        for row in self.checked:
            found = row if self.is_better(row, found) else found
        return found

    @property
    def num_since_best(self) -> int:
        """Checks in a row without a better one."""
        best = self.best
        return 0 if best is None else sum(row["step"] > best["step"] for row in self.checked)

    def is_better(self, row: Row, other: Row | None) -> bool:
        """By loss, or by the proxy's score; of equal scores the lower loss decides."""
        if self.first["select_by"] == "last":
            return False
        if other is None:
            return True
        if self.first["select_by"] == "loss":
            return row["expert_loss"] < other["expert_loss"]

        def worth(row: Row) -> tuple[float, float]:
            return self.metric.worth(row["proxy"]), -row.get("expert_loss", 0.0)

        return worth(row) > worth(other)

    def completed(self, row: Row) -> Row:
        """A check's row with the means of its scores, the gain and the gap closed."""
        means: Row = {role: fmean(values) for role, values in row["scores"].items()}
        if "proxy" in means:
            base, tuned = self.first["base"], self.first.get("tuned")
            means["gain_over_base"] = self.metric.gain(means["proxy"], base)
            if tuned is not None:
                trio = map(self.metric.worth, (base, means["proxy"], tuned))
                means["gap_closed"] = gap_closed(*trio)
        return {**row, **means}

    def add(self, row: Row) -> None:
        """Record a completed row."""
        append_row(self._path, row)
        self.rows.append(row)


def cost(rows: Sequence[Row]) -> float:
    """Time taken by checks, loading included, as a share of the time training took without them."""
    training_s = sum(row["training_s"] for row in rows)
    return sum(row["check_s"] for row in rows) / training_s if training_s else 0.0
