"""Score predictions: files of a task in, JSON out; with roles, how much of the gap is closed.

    python decode/score.py gsm8k predictions.jsonl
    python decode/score.py gsm8k base=a.jsonl proxy=b.jsonl.gz tuned=c.jsonl --mode paper
    python decode/score.py gsm8k base=... proxy=... tuned=... toxigen base=... proxy=... tuned=...

A file holds one answered row a line: this toolkit's predictions, or those the proxy-tuning paper's
authors released. Completions of code and judged tasks are not judged here: of a run, name the files
in grades/, which hold the verdicts. Roles are base, proxy, tuned, expert and antiexpert; the files
of a run's folders (base-..., proxy-...-alpha1, tuned-...) say theirs by name. Several tasks in one
call also give the mean gap closed. JSON goes to standard output; a table of several files goes to
standard error, so that `> scores.json` keeps the JSON alone.
"""

import argparse
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data import Mode
from data.scoring.same_questions import check_same_questions
from data.scoring.scored_file import SCORABLE, ScoredFile, score_file
from decode.evaluation.gap_closed import ScoredSystem, closed_gap, mean_gap_closed
from decode.evaluation.intervals import counted_mean
from decode.evaluation.metric import Metric
from decode.jobs.faults import doing
from decode.reports.findings import percent, span
from decode.stage.command import HelpFormatter, entry, user_errors

ROLES = ("antiexpert", "expert", "base", "proxy", "tuned")

Sections = dict[str, list[tuple[str | None, str]]]  # task -> role and path of each file


@entry()
def main() -> None:
    """Arguments, scores, table, JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("task", help=f"one of {', '.join(SCORABLE)}")
    parser.add_argument(
        "files", nargs="+", metavar="[role=]file", help="JSON lines or another file of rows"
    )
    parser.add_argument("--mode", choices=("default", "paper"), default="default")
    parser.add_argument("--k", type=int, default=10, help="samples a try, for code (default 10)")
    arguments = parser.parse_intermixed_args()
    with user_errors(ValueError):
        sections = read_sections([arguments.task, *arguments.files])
        results = [
            score_task(task, files, arguments.mode, arguments.k) for task, files in sections.items()
        ]
    output = results[0]
    if len(results) > 1:
        output = {"tasks": results, "mean_gap_closed": asdict(mean_gap_closed(_gaps(results)))}
    for result in results:
        if "systems" in result:
            print(table(result), file=sys.stderr)
    if len(results) > 1:
        mean = output["mean_gap_closed"]
        share = mean["reason"] if mean["value"] is None else f"{mean['value']:.2%}"
        print(f"mean gap closed over {mean['num_tasks']} tasks: {share}\n", file=sys.stderr)
    print(json.dumps(output, indent=2))


def read_sections(words: list[str]) -> Sections:
    """The files of each task: `task [role=]file ... task [role=]file ...`.

    Raises:
        ValueError: a task is named twice, or has no file or two for a role but proxy.
    """
    sections: Sections = {}
    task = ""
    for number, word in enumerate(words):
        if number == 0 or (word in SCORABLE and not Path(word).is_file()):
            if word in sections:
                raise ValueError(f"task '{word}' is named twice; score it in a call of its own")
            task = word
            sections[task] = []
        else:
            sections[task].append(_role_and_path(word))
    for task, files in sections.items():
        if not files:
            raise ValueError(f"task '{task}': no file of predictions is named")
        for role in set(ROLES) - {"proxy"}:
            paths = [path for named, path in files if named == role]
            if len(paths) > 1:
                raise ValueError(
                    f"task '{task}': {' and '.join(paths)} are both '{role}'; "
                    "compare the systems of one base at a time"
                )
    return sections


def score_task(
    task: str, files: list[tuple[str | None, str]], mode: Mode, k: int
) -> dict[str, Any]:
    """One task's part of the output: a single file flat, several as a list of systems.

    Raises:
        ValueError: in one line what a file has wrong.
    """
    scored = [_scored(task, path, mode, k) for _, path in files]
    first = scored[0]
    named = [(path, file) for (role, path), file in zip(files, scored, strict=True) if role]
    for path, file in named[1:]:
        check_same_questions(path, file, *named[0])
    head = {
        "task": task,
        "mode": mode,
        "metric": first.metric,
        "higher_is_better": first.higher_is_better,
    }
    systems = [
        {"role": role, **_entry(path, file)} if role else _entry(path, file)
        for (role, path), file in zip(files, scored, strict=True)
    ]
    if len(systems) == 1:
        return {**head, **systems[0]}
    by_role = {
        role: ScoredSystem(path, file.values, file.keys)
        for (role, path), file in zip(files, scored, strict=True)
    }
    for system, file in zip(systems, scored, strict=True):
        if system.get("role") != "proxy":
            continue
        if {"base", "tuned"} <= set(by_role):
            proxy = ScoredSystem(system["file"], file.values, file.keys)
            metric = Metric(first.metric, first.higher_is_better)
            closed, reason = closed_gap(by_role["base"], proxy, by_role["tuned"], metric)
            system["gap_closed"] = closed and asdict(closed)
            system["gap_closed_reason"] = reason
        else:
            system |= {"gap_closed": None, "gap_closed_reason": "needs base=FILE and tuned=FILE"}
    return {**head, "systems": systems}


def table(result: dict[str, Any]) -> str:
    """One task's systems as plain text."""
    rules = "the paper's" if result["mode"] == "paper" else "default"
    better = "" if result["higher_is_better"] else ", lower is better"
    lines = [
        f"{result['task']}: {result['metric'].replace('_', ' ')}{better}, {rules} rules",
        f"{'':<12}{'percent':>8} {'95% interval':<15}{'counted':>8}{'dropped':>8}"
        f"{'invalid':>8}{'gap closed':>12}  file",
    ]
    for system in result["systems"]:
        closed = system.get("gap_closed")
        share = f"{closed['value']:.1%}" if closed else ""
        lines.append(
            f"{system.get('role', ''):<12}{percent(system['value']):>8} "
            f"{span(*system['ci95']):<15}{system['num_counted']:>8,}{system['num_dropped']:>8,}"
            f"{system['num_invalid']:>8,}{share:>12}  {system['file']}"
        )
    reasons = dict.fromkeys(system.get("gap_closed_reason") for system in result["systems"])
    lines += [f"gap closed: {reason}" for reason in reasons if reason]
    return "\n".join(lines) + "\n"


def _scored(task: str, path: str, mode: Mode, k: int) -> ScoredFile:
    with doing(f"scoring {path}"):
        return score_file(task, path, mode, k)


def _role_and_path(word: str) -> tuple[str | None, str]:
    role, is_named, path = word.partition("=")
    if is_named and role in ROLES:
        if not path:
            raise ValueError(f"{word}: no file is named")
        return role, path
    if is_named and not Path(word).exists():
        raise ValueError(f"{word}: no such file, and '{role}' is no role ({', '.join(ROLES)})")
    # base-<model>.jsonl, as a run's folder names its predictions
    stem = re.split(r"[-.]", Path(word).name)[0]
    return (stem if stem in ROLES else None), word


def _entry(path: str, file: ScoredFile) -> dict[str, Any]:
    try:
        found = counted_mean(file.values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    entry = {
        "file": path,
        **asdict(found.mean),
        "num_counted": found.num_counted,
        "num_dropped": found.num_dropped,
        "num_rows": file.num_rows,
        "num_invalid": file.num_invalid,
    }
    if len(file.values) != file.num_rows:  # several samples of one problem
        entry["num_problems"] = len(file.values)
    if file.groups:
        entry["groups"] = file.groups
    return entry


def _gaps(results: list[dict[str, Any]]) -> dict[str, float | None]:
    """Each task's gap closed; None where it has none, or several proxies."""
    gaps: dict[str, float | None] = {}
    for result in results:
        found = [s["gap_closed"] for s in result.get("systems", []) if "gap_closed" in s]
        gaps[result["task"]] = found[0]["value"] if len(found) == 1 and found[0] else None
    return gaps


if __name__ == "__main__":
    main()
