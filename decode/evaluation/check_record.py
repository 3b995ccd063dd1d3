"""The proxy checks of a training: their record, which of them was best, and what they cost.

`proxy_check/checks.jsonl` in a run's folder has one row a check, in order. The first, of step 0,
says what is checked (task, metric, base, alpha, rows) and has the base's own scores. Everything a
training decides by its checks (the weights that are kept, an early end) follows from these rows, so
that a training which was killed decides the same.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ..jobs.files import FileChanged, append_row, read_rows, write_rows
from ..jobs.folder import RunFolder
from .gap_closed import gap_closed
from .metric import Metric
from .metrics_file import earlier_slug
from .training_log import log_entries

Row = dict[str, Any]


class Checks:
    """The rows of one training.

    Args:
        folder: of the run; its record is made by the first `add`.
        up_to_step: rows of later steps are dropped, for a training that goes on from this step; 0
            is a training that begins, which drops them all.

    Raises:
        FileChanged: a row is not what the run's training wrote there, or they are not in order.
    """

    def __init__(self, folder: RunFolder, up_to_step: int | None = None) -> None:
        self._path = folder.checks
        self._seals = folder.seals(folder.checks, folder.checks, folder.expert)
        self.rows = [] if up_to_step == 0 else read_rows(self._path)
        self._seals.check(self._path, self.rows)
        steps = [row["step"] for row in self.rows]
        if steps != sorted({0, *steps}) and steps:
            raise FileChanged(
                f"{self._path}: its rows are not one a check, from step 0 on (found steps "
                f"{', '.join(map(str, steps[:8]))}); put the file back, or delete it"
            )
        if up_to_step is not None:
            self.rows = [row for row in self.rows if row["step"] <= up_to_step]
            write_rows(self._path, self.rows)

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
        append_row(self._path, self._seals.put(row))
        self.rows.append(row)


def finished_checks(folder: RunFolder) -> Checks:
    """The checks of a finished training; none if it was not checked.

    Raises:
        FileChanged: they are others than those that the expert's training logged.
    """
    checks, log = Checks(folder), folder.training_log
    folder.check_extra(log)
    logged = next((entry for entry in log_entries(folder.expert) if "kept_step" in entry), None)
    if checks.checked and logged is not None:
        kept = (checks.best or checks.checked[-1])["step"]
        if (kept, cost(checks.rows)) != (logged["kept_step"], logged.get("proxy_check_cost")):
            raise FileChanged(
                f"{folder.checks}: not the checks that {log} tells of (rows are missing, or from "
                f"another run); put both back, or delete {folder.checks}: results do not need it"
            )
    return checks


def cost(rows: Sequence[Row]) -> float:
    """Time taken by checks, loading included, as a share of the time training took without them."""
    training_s = sum(row["training_s"] for row in rows)
    return sum(row["check_s"] for row in rows) / training_s if training_s else 0.0
