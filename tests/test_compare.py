"""Runs side by side: made by hand, so that every difference is known."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from support import fork_server

from decode.compare import RunSystem, paired_differences, pairs_table, task_table
from decode.evaluation.intervals import Estimate
from decode.evaluation.mcnemar import McNemar
from decode.evaluation.metric import Metric
from decode.evaluation.metrics import Choice
from decode.evaluation.metrics_file import write_metrics
from decode.evaluation.summary import BaseScores, summarize, with_further_tasks
from decode.jobs.files import write_json, write_rows
from decode.jobs.folder import RunFolder
from decode.reports.finished_run import read_runs, recipe_differences

ROOT = Path(__file__).resolve().parents[1]
EXACT_MATCH = Metric("exact_match")
RECIPE = {"name": "a", "output_dir": "runs/a", "seed": 0, "sft": {"learning_rate": 0.001}}


def right(num_right, num_rows=20):
    return [1.0] * num_right + [0.0] * (num_rows - num_right)


def write_task(folder, task, scores, base="x/large", metric=EXACT_MATCH, is_graded=False):
    """One task of a run: its metrics, and the rows of every system."""
    contender = BaseScores(base, "large", scores["base"], scores.get("tuned"), scores["proxy"])
    contender = replace(contender, choice=scores.get("choice"))
    metrics = summarize(task, metric, scores["base"], scores["expert"], [contender])
    found = {"antiexpert": scores["base"], "expert": scores["expert"], "base": scores["base"]}
    for system in metrics.systems:
        own = scores["proxy"][system.alpha, ""] if system.alpha else found.get(system.role)
        rows = [
            {"id": f"q{i}", "prompt": f"Question {i}?", "score": score}
            for i, score in enumerate(own if own is not None else scores["tuned"])
        ]
        if is_graded:
            grades = [{"id": row["id"], "score": row.pop("score")} for row in rows]
            write_rows(folder.grades(system.name), grades)
        write_rows(folder.predictions(system.name), rows)
    return metrics


def write_run(path, tasks, recipe=None, **options):
    folder = RunFolder(path)
    measured = []
    for task, scores in tasks.items():
        place = folder if not measured else folder.task(task)
        measured.append(write_task(place, task, scores, **options))
    folders = [f"tasks/{task}" for task in [*tasks][1:]]
    write_metrics(folder.metrics, with_further_tasks(measured, folders))
    folder.recipe.write_text(yaml.safe_dump({**RECIPE, **(recipe or {})}))
    return str(path)


@pytest.fixture
def two(tmp_path):
    """Two runs: the second's proxy is right on 4 more of 20 rows, and was tried at one alpha."""
    one = {"base": right(0), "expert": right(8), "tuned": right(20), "proxy": {(0.5, ""): right(6)}}
    one["proxy"][1.0, ""] = right(10)
    other = {
        "base": right(0),
        "expert": right(8),
        "tuned": right(20),
        "proxy": {(1.0, ""): right(14)},
    }
    log = [{"loss": 2.0, "step": 5}, {"train_loss": 3.0, "step": 5}]
    first = write_run(tmp_path / "first", {"facts": one, "word_problems": one})
    write_json(RunFolder(first).expert / "training_log.json", log)
    recipe = {"sft": {"learning_rate": 0.002}, "decode": {"bases": [{"model": "y"}], "alpha": [1]}}
    return first, write_run(tmp_path / "second", {"facts": other}, recipe, base="y/large")


def test_differences_are_those_of_the_rows_both_have(two):
    runs = read_runs(two)
    expert, proxy = paired_differences(runs)
    assert expert.difference == Estimate(0.0, (0.0, 0.0))
    assert proxy.a == RunSystem("second", "proxy-large-alpha1")
    assert (proxy.task, proxy.num_rows) == ("facts", 20)
    assert proxy.difference.value == pytest.approx(0.2)
    low, high = proxy.difference.ci95
    assert 0 < low < 0.2 < high
    assert proxy.mcnemar == McNemar(10, only_a=4, only_b=0, both_wrong=6, p_value=0.125)
    back = paired_differences(read_runs(two[::-1]))[1]
    assert back.difference.value == pytest.approx(-0.2)
    assert "0.125" in pairs_table([proxy])


def test_a_cell_that_a_run_has_not_is_a_dash(two):
    lines = task_table(read_runs(two), "facts").splitlines()
    found = {line[:18].strip(): line[18:].split("   ") for line in lines[3:]}
    assert found["proxy, alpha 0.5"][-1].strip() == "-"
    assert found["proxy, alpha 1"][-1].strip().startswith("70.0 [")
    (shares,) = [line for line in lines if "50% [" in line]
    assert "70% [" in shares
    assert task_table(read_runs(two), "word_problems").count("-\n") >= 6


def test_what_validation_rows_chose_is_marked_and_compared(tmp_path):
    """Runs that chose otherwise have no proxy in common, and are compared by what they chose."""
    paths = []
    for name, alpha, num_right in (("one", 0.5, 6), ("two", 1.5, 14)):
        choice = Choice(alpha=alpha, rule="", settings={}, rows="v", num_rows=9, tried=())
        scores = {"base": right(0), "expert": right(8), "choice": choice}
        scores["proxy"] = {(alpha, ""): right(num_right)}
        paths.append(write_run(tmp_path / name, {"facts": scores}))
    runs = read_runs(paths)
    _, proxy = pairs = paired_differences(runs)
    assert proxy.a == RunSystem("two", "proxy-large-alpha1.5")
    assert proxy.b == RunSystem("one", "proxy-large-alpha0.5")
    assert proxy.difference.value == pytest.approx(0.4)
    assert "alpha1.5 of two - proxy-large-alpha0.5 of one" in pairs_table(pairs)
    table = task_table(runs, "facts")
    assert "* 30.0 [" in table and "* 70.0 [" in table
    assert table.endswith("* chosen on validation rows")


def test_runs_that_measured_different_things_say_which(tmp_path):
    scores = {"base": right(0), "expert": right(8), "proxy": {(1.0, ""): right(10)}}
    paths = [
        write_run(tmp_path / f"at{k}", {"mbpp": scores}, metric=Metric(f"pass@{k}", pass_at=k))
        for k in (1, 10)
    ]
    lines = task_table(read_runs(paths), "mbpp").splitlines()
    assert lines[0] == "mbpp, pass@1 or pass@10, percent [95% intervals]"
    assert lines[3].split() == ["metric", "pass@1", "pass@10"]


def test_recipes_differ_in_their_values_not_in_names_and_places(two):
    assert recipe_differences(read_runs(two)) == {
        "sft.learning_rate": [0.001, 0.002],
        "decode.bases.0.model": [None, "y"],
        "decode.alpha": [None, [1]],
    }


def test_graded_samples_are_folded_as_the_run_folds_them(tmp_path):
    scores = {"base": right(0, 2), "expert": right(1, 2), "proxy": {(1.0, ""): right(1, 2)}}
    runs = [
        write_run(
            tmp_path / name,
            {"humaneval": scores},
            metric=Metric("pass@2", pass_at=2),
            is_graded=True,
        )
        for name in ("one", "two")
    ]
    ids = [{"id": f"q0/{i}", "task_id": "q0", "sample": i} for i in range(3)]
    for path, is_right in zip(runs, ([1, 0, 0], [1, 1, 0]), strict=True):
        for system in ("expert", "proxy-large-alpha1"):
            folder, graded = RunFolder(path), zip(ids, is_right, strict=True)
            write_rows(folder.predictions(system), [{**own, "prompt": "Q?"} for own in ids])
            write_rows(folder.grades(system), [{**own, "score": score} for own, score in graded])
    _, proxy = paired_differences(read_runs(runs))
    assert proxy.num_rows == 1 and proxy.mcnemar is None
    assert proxy.difference.value == pytest.approx(1 - 2 / 3)  # pass@2 of 2 in 3, and of 1


def test_rows_that_are_not_the_same_are_not_compared(two):
    other = RunFolder(two[1])
    path = other.predictions("proxy-large-alpha1")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for change in ({"prompt": "Another?"}, {"answers": ["another"]}):
        write_rows(path, [{**row, **change} for row in rows])
        assert [pair.a.system for pair in paired_differences(read_runs(two))] == ["expert"]
    assert "no system" in pairs_table([])


def test_labels_tell_folders_apart(tmp_path):
    scores = {"base": right(0), "expert": right(8), "proxy": {(1.0, ""): right(10)}}
    paths = [write_run(tmp_path / place / "run", {"facts": scores}) for place in ("a", "b")]
    assert [run.label for run in read_runs(paths)] == ["a/run", "b/run"]
    with pytest.raises(ValueError, match="named twice"):
        read_runs([paths[0], paths[0] + "/"])


@pytest.mark.long
def test_the_entry_prints_draws_and_writes(two, tmp_path):
    plot, output = tmp_path / "out" / "c.png", tmp_path / "c.json"
    command = ["decode/compare.py", *two]
    options = ["--plot", str(plot), "--json", str(output)]
    done = fork_server.run([*command, *options])
    assert done.returncode == 0, done.stderr
    assert "what differs in the recipes" in done.stdout and "training of the expert" in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    written = json.loads(output.read_text())
    assert [run["label"] for run in written["runs"]] == ["first", "second"]
    assert written["runs"][0]["training"] == {"num_steps": 5, "train_loss": 3.0, "last_loss": 2.0}
    assert len(written["pairs"]) == 2
    assert written["pairs"][0]["difference"] == {"value": 0.0, "ci95": [0.0, 0.0]}
    assert written["runs"][1]["tasks"]["facts"]["bases"][0]["slug"] == "large"
    bad = fork_server.run([*command, str(tmp_path)])
    assert bad.returncode == 1 and not bad.stdout
    assert bad.stderr == f"error: {tmp_path}: no finished run (no metrics.json)\n"
