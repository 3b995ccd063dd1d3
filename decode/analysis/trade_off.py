"""What grows and what shrinks with alpha: a run's columns over its alphas, two of them as a curve.

A column is the run's metric, a part of a judged score, or any number its prediction rows carry,
such as `num_tokens`, as a mean. Alpha 0 is the base. Metric and parts come from `metrics.json`, the
others from `predictions/`. Two columns may come from two runs of the same base, such as one task
each.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.metrics import Metrics
from ..evaluation.metrics_file import read_metrics
from ..jobs.folder import RunFolder

NOT_MEASURED = ("score", "sample")  # the metric itself, and a number that counts

Values = dict[str, float]  # by column


@dataclass(frozen=True, slots=True)
class Sweep:
    """One base's columns.

    Attributes:
        by_alpha: in ascending order; 0 is the base.
        marks: the systems beside the curve, "expert" and, where there is one, "tuned".
    """

    by_alpha: dict[float, Values]
    marks: dict[str, Values]

    @property
    def columns(self) -> list[str]:
        """Columns that every point has."""
        points = list(self.by_alpha.values())
        return [name for name in points[0] if all(name in point for point in points)]


@dataclass(frozen=True, slots=True)
class TradeOff:
    """Two columns over the alphas both have.

    Attributes:
        points: (alpha, x, y), alphas ascending.
        marks: (x, y) of systems beside the curve.
    """

    base: str
    x: str
    y: str
    points: list[tuple[float, float, float]]
    marks: dict[str, tuple[float, float]]


def read_sweeps(folder: RunFolder) -> dict[str, Sweep]:
    """A finished run's sweeps, by the bases' slugs.

    Raises:
        ValueError: the folder holds no finished run.
    """
    return _sweeps(folder, _metrics(folder))


def _metrics(folder: RunFolder) -> Metrics:
    if not folder.metrics.exists():
        raise ValueError(f"{folder.metrics}: not there; give the folder of a finished run")
    folder.check_kept(folder.metrics)
    return read_metrics(folder.metrics)


def _sweeps(folder: RunFolder, metrics: Metrics) -> dict[str, Sweep]:
    sweeps = {base.slug: Sweep({}, {}) for base in metrics.bases}
    curves = {base.slug: base.over_alpha for base in metrics.bases}
    for system in metrics.systems:
        rows = folder.read(folder.predictions(system.name))
        parts = metrics.parts.get(system.name, {})
        values = {metrics.metric.name: system.value, **parts, **_means(rows)}
        for name in [system.slug] if system.slug else sweeps:
            if system.role == "base":
                sweeps[name].by_alpha[0.0] = values
            elif system.proxy in curves[name]:
                assert system.alpha is not None
                sweeps[name].by_alpha[system.alpha] = values
            elif system.role in ("expert", "tuned"):
                sweeps[name].marks[system.role] = values
    return {
        name: Sweep(dict(sorted(sweep.by_alpha.items())), sweep.marks)
        for name, sweep in sweeps.items()
    }


def trade_offs(folder: RunFolder, columns: tuple[str, str] | None) -> list[TradeOff]:
    """The curve of two columns for each base of the run that has two points or more.

    Args:
        columns: x and y; None is num_tokens and the run's metric.

    Raises:
        ValueError: there is no such column or run, or a base is missing in the other run.
    """
    metrics = _metrics(folder)
    sweeps = _sweeps(folder, metrics)
    x, y = columns or ("num_tokens", metrics.metric.name)
    others = {where: read_sweeps(RunFolder(where)) for where in {_where(x), _where(y)} if where}
    found = []
    for base in sweeps:
        sweep_x, sweep_y = (
            _sweep(others[where] if (where := _where(column)) else sweeps, base, column)
            for column in (x, y)
        )
        name_x, name_y = _name(x), _name(y)
        alphas = [alpha for alpha in sweep_x.by_alpha if alpha in sweep_y.by_alpha]
        points = [
            (alpha, sweep_x.by_alpha[alpha][name_x], sweep_y.by_alpha[alpha][name_y])
            for alpha in alphas
        ]
        marks = {
            role: (sweep_x.marks[role][name_x], sweep_y.marks[role][name_y])
            for role in sweep_x.marks
            if name_x in sweep_x.marks[role] and name_y in sweep_y.marks.get(role, {})
        }
        if len(points) > 1:
            found.append(TradeOff(base, _label(x), _label(y), points, marks))
    return found


def _means(rows: list[dict[str, Any]]) -> Values:
    """Means of the columns that hold a number in every row."""
    if not rows:
        return {}
    return {
        key: sum(row[key] for row in rows) / len(rows)
        for key in rows[0]
        if key not in NOT_MEASURED and all(isinstance(row.get(key), int | float) for row in rows)
    }


def _sweep(sweeps: dict[str, Sweep], base: str, column: str) -> Sweep:
    if base not in sweeps:
        raise ValueError(
            f"analyze.trade_off: found {column!r}, a run without the base '{base}'; it has "
            f"{', '.join(sweeps)}"
        )
    if _name(column) not in sweeps[base].columns:
        raise ValueError(
            f"analyze.trade_off: found {column!r}, expected one of "
            f"{', '.join(sweeps[base].columns)}"
        )
    return sweeps[base]


def _where(column: str) -> str:
    """The other run's folder, "" for this one."""
    return column.rpartition(":")[0]


def _name(column: str) -> str:
    return column.rpartition(":")[2]


def _label(column: str) -> str:
    where = Path(_where(column)).name
    return f"{_name(column)} ({where})" if where else column
