"""Finished runs side by side: systems, gap closed, what differs, and whether it is chance.

    python decode/compare.py runs/a runs/b [runs/c ...] [--plot compare.png] [--json compare.json]

Each argument is a run's folder. Runs may differ in anything; a cell that a run does not have is a
dash. Differences are taken from the first run, row by row on the rows both have; a positive one is
an improvement on the first run, whatever the metric.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.scoring.pass_at_k import pass_at_k
from decode.evaluation.intervals import Estimate, difference_with_interval
from decode.evaluation.mcnemar import McNemar, mcnemar
from decode.evaluation.metric import Metric
from decode.evaluation.metrics import MeasuredSystem, Metrics
from decode.evaluation.metrics_file import as_json
from decode.jobs.disk import check_writable
from decode.jobs.faults import doing
from decode.jobs.files import write_json
from decode.reports.compare_plot import metric_words, plot_runs, reading_key
from decode.reports.findings import percent, points, span
from decode.reports.finished_run import FinishedRun, read_runs, recipe_differences
from decode.reports.pair_table import p_value
from decode.reports.tables import share, system_label
from decode.stage.command import HelpFormatter, entry, user_errors

Lines = list[tuple[str, list[str]]]  # what a row is called, and a cell a run
DASH = "-"


@dataclass(frozen=True, slots=True)
class RunSystem:
    """One system of one run, by the run's label and the system's name."""

    run: str
    system: str


@dataclass(frozen=True, slots=True)
class RunPair:
    """`a`, of a later run, against `b`, of the first one, on the rows both have."""

    task: str
    a: RunSystem
    b: RunSystem
    num_rows: int
    difference: Estimate
    mcnemar: McNemar | None


@entry()
@doing("comparing the runs")
def main() -> None:
    """Arguments, runs, tables, plot, JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a finished run's folder")
    parser.add_argument("--plot", type=Path, help="draw all systems into this .png")
    parser.add_argument("--json", type=Path, help="write everything that is printed, and more")
    arguments = parser.parse_args()
    if len(arguments.runs) < 2:
        parser.error("name two runs or more")
    with user_errors(ValueError):
        for option, file in (("--plot", arguments.plot), ("--json", arguments.json)):
            if file is not None:
                check_writable(option, file)
        runs = read_runs(arguments.runs)
    differences, pairs = recipe_differences(runs), paired_differences(runs)
    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    parts = [task_table(runs, task) for task in tasks]
    parts += [training_table(runs), recipe_table(runs, differences), pairs_table(pairs)]
    print("\n\n".join(part for part in parts if part))
    if arguments.plot:
        plot_runs(runs, tasks, arguments.plot)
        print(f"\nplot: {arguments.plot}")
    if arguments.json:
        described = [
            {
                "label": r.label,
                "folder": str(r.folder.path),
                "training": r.training,
                "tasks": {task: as_json(metrics) for task, metrics in r.tasks.items()},
            }
            for r in runs
        ]
        output = {"runs": described, "recipe_differences": differences}
        write_json(arguments.json, {**output, "pairs": list(map(asdict, pairs))})


def paired_differences(runs: list[FinishedRun]) -> list[RunPair]:
    """Expert and proxies of each run against the first run's, row by row on the rows both have.

    Bases are matched by name; where both runs have one base each, these two are, whatever they are
    called. Proxies are matched by alpha and rule; where validation rows chose, the headline's is
    compared with the other run's as well. The rows are those with the same id and the same prompt.
    """
    first, *others = runs
    found: list[RunPair] = []
    for other in others:
        for task in (task for task in first.tasks if task in other.tasks):
            for own, theirs in _matched(first.tasks[task], other.tasks[task]):
                found += _difference(first, other, task, own, theirs)
    return found


def _matched(one: Metrics, other: Metrics) -> list[tuple[str, str]]:
    """Names of the systems to pair: the experts, the proxies that both have, chosen headlines."""
    has_one_base = len(one.bases) == len(other.bases) == 1
    proxies = [
        (s.name, t.name)
        for s in one.systems
        for t in other.systems
        if s.role == t.role == "proxy" and (s.alpha, s.rule) == (t.alpha, t.rule)
        if has_one_base or s.slug == t.slug
    ]
    headlines = [
        (s.name_of(s.headline), t.name_of(t.headline))
        for s in one.bases
        for t in other.bases
        if (has_one_base or s.slug == t.slug) and (s.choice or t.choice) and s.proxy and t.proxy
    ]
    return list(dict.fromkeys([("expert", "expert"), *proxies, *headlines]))


def _difference(
    first: FinishedRun, other: FinishedRun, task: str, own: str, theirs: str
) -> list[RunPair]:
    metric = first.tasks[task].metric
    before, after = first.scores(task, own), other.scores(task, theirs)
    rows = [question for question in before if question in after]
    if not rows or metric.name != other.tasks[task].metric.name:
        return []
    new, old = (
        [_worth(metric, scores[question]) for question in rows] for scores in (after, before)
    )
    a, b = RunSystem(other.label, theirs), RunSystem(first.label, own)
    difference = difference_with_interval(new, old)
    return [RunPair(task, a, b, len(rows), difference, mcnemar(new, old))]


def _worth(metric: Metric, scores: list[float]) -> float:
    """What a question is worth, as the run found it from its samples; high is always good."""
    if metric.pass_at is not None:
        num_right = sum(score == 1 for score in scores)
        return pass_at_k(len(scores), num_right, metric.pass_at)
    return metric.worth(sum(scores) / len(scores))


def task_table(runs: list[FinishedRun], task: str) -> str:
    """One task's systems, a column a run."""
    having = [run.tasks.get(task) for run in runs]
    title = f"{task}, {metric_words(runs, task)}, percent [95% intervals]"
    chosen = [
        {base.name_of(base.headline) for base in own.bases if base.choice} if own else set()
        for own in having
    ]
    systems = [{reading_key(s): s for s in own.systems} if own else {} for own in having]
    lines: Lines = [("rows", [f"{own.num_examples:,}" if own else DASH for own in having])]
    if len({own.metric for own in having if own}) > 1:
        lines.insert(0, ("metric", [own.metric.words if own else DASH for own in having]))
    keys = dict.fromkeys(key for own in systems for key in own)
    for base in dict.fromkeys(base for base, *_ in keys):
        lines += [(base, [])] if base else []
        for key in sorted(key for key in keys if key[0] == base):
            cells = [own.get(key) for own in systems]
            name = system_label(next(filter(None, cells)))
            values = [
                f"{'* ' if system and system.name in own else ''}{_value(system)}"
                for system, own in zip(cells, chosen, strict=True)
            ]
            lines.append((f"  {name}" if base else name, values))
            if any(system and system.proxy for system in cells):
                lines.append(("    gap closed", list(map(_gap, cells))))
    note = "\n\n* chosen on validation rows" if any(chosen) else ""
    return f"{title}\n\n{_columns(runs, lines)}{note}"


def training_table(runs: list[FinishedRun]) -> str:
    """Steps and losses of the experts' trainings, "" where no run has any."""
    names = dict.fromkeys(name for run in runs for name in run.training)
    lines: Lines = [
        (
            name.replace("num_", "").replace("_", " "),
            [_plain(run.training.get(name)) for run in runs],
        )
        for name in names
    ]
    return f"training of the expert\n\n{_columns(runs, lines)}" if lines else ""


def recipe_table(runs: list[FinishedRun], differences: dict[str, list[Any]]) -> str:
    """The recipe keys that differ."""
    if not differences:
        return "the recipes do not differ, but for names and places"
    lines: Lines = [(key, list(map(_plain, values))) for key, values in differences.items()]
    return f"what differs in the recipes\n\n{_columns(runs, lines)}"


def pairs_table(pairs: list[RunPair]) -> str:
    """Each difference to the first run, in points, and whether it may be chance."""
    if not pairs:
        return "no system of another run answered the same rows as the first run's"
    heads = ["", "rows", "difference, points", "p"]
    cells = [heads]
    for pair in pairs:
        difference = pair.difference
        words = f"{points(difference.value)} {span(*difference.ci95, signed=True)}"
        name = f"{pair.task}, {pair.a.system}: {pair.a.run} - {pair.b.run}"
        if pair.a.system != pair.b.system:
            a, b = (f"{one.system} of {one.run}" for one in (pair.a, pair.b))
            name = f"{pair.task}, {a} - {b}"
        p = p_value(pair.mcnemar.p_value) if pair.mcnemar else ""
        cells.append([name, f"{pair.num_rows:,}", words, p])
    note = (
        "Positive is better than the first run. Intervals: the bootstrap over rows, paired; "
        "p: McNemar's exact test.\nNeither knows of the variation from one training to the next."
    )
    return f"differences, row by row\n\n{_aligned(cells)}\n\n{note}"


def _value(system: MeasuredSystem | None) -> str:
    return f"{percent(system.value)} {span(system.low, system.high)}" if system else DASH


def _gap(system: MeasuredSystem | None) -> str:
    closed = system.proxy.gap_closed if system and system.proxy else None
    if closed is None:
        return DASH
    return share(closed.value) + (f" {span(*closed.ci95, digits=0)}" if closed.ci95 else "")


def _plain(value: Any) -> str:
    if value is None:
        return DASH
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:18]}...{text[-19:]}"


def _columns(runs: list[FinishedRun], lines: Lines) -> str:
    return _aligned([["", *(run.label for run in runs)], *([name, *row] for name, row in lines)])


def _aligned(rows: list[list[str]]) -> str:
    """Columns at even widths, the first to the left and the others to the right."""
    num_columns = max(map(len, rows))
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(num_columns)]
    lines = (
        "   ".join(f"{cell:{'>' if i else '<'}{widths[i]}}" for i, cell in enumerate(row))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    main()
