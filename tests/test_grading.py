"""Runs whose completions are judged when all are there: as a user starts them, on tiny models."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from support.decode_run import decode
from support.rows import jsonl
from support.runs import run
from support.toxicity import save_classifier, toxigen_row
from test_experiment import QUESTIONS, experiment, files  # noqa: F401  (experiment is a fixture)

import decode.evaluation.prediction_file as decode_predictions
import decode.models.loaded as decode_loaded
from decode.evaluation.experiment import Grader
from decode.evaluation.metric import Metric
from decode.evaluation.metrics import Uncounted
from decode.evaluation.predict import run_all
from decode.evaluation.summary import (
    BaseScores,
    NothingCountsError,
    measure,
    summarize,
    with_further_tasks,
)
from decode.jobs.files import read_rows
from decode.jobs.folder import RunFolder
from decode.reports.findings import findings
from decode.tracking.dashboard import result_values

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Verdict:
    value: float | None
    parts: dict[str, float | None] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


class Graders:
    """Grades by the completion's length; counts what it grades, and may be killed."""

    def __init__(self):
        self.num_graded, self.limit = 0, None

    def grade(self, questions, completions):
        for question, completion in zip(questions, completions, strict=True):
            if self.num_graded == self.limit:
                raise KeyboardInterrupt
            self.num_graded += 1
            value = None if question.id == "q3" else float(len(completion) % 2)
            yield Verdict(value, {"odd": value, "whole": 1.0}, {"note": question.id})


@pytest.fixture
def graders():
    return Graders()


@pytest.fixture
def graded(experiment, graders):  # noqa: F811
    grader = Grader(graders.grade, {"judges": {"judge": "one"}})
    return replace(experiment, score=None, grader=grader)


@pytest.mark.long
def test_rows_are_graded_once_however_often_the_run_is_killed(graded, graders, tmp_path):
    whole = RunFolder(tmp_path / "whole")
    expected = run(graded, whole)
    assert graders.num_graded == 6 * 7
    cut = RunFolder(tmp_path / "cut")
    graders.num_graded = 0
    for limit in (3, 7, 20):
        graders.limit = limit
        with pytest.raises(KeyboardInterrupt):
            run(graded, cut)
    graders.limit = None
    assert run(graded, cut) == expected
    assert graders.num_graded == 6 * 7
    assert files(cut.path) == files(whole.path)
    assert run(graded, cut) == expected
    assert graders.num_graded == 6 * 7


def test_graded_rows_and_their_files(graded, tmp_path):
    folder = RunFolder(tmp_path / "run")
    predictions = run(graded, folder)
    raw = read_rows(folder.predictions("expert"))[1]
    assert "score" not in raw and "prediction" not in raw
    grade = read_rows(folder.grades("expert"))[1]
    assert list(grade) == ["id", "score", "graded", "parts", "note", "seal"]
    assert predictions["expert"][1] == {**raw, **grade}
    metrics = measure(graded, predictions, folder)
    assert metrics.num_examples == 6
    assert metrics.uncounted is not None and metrics.uncounted.num_questions == 1
    assert set(metrics.uncounted.by_system.values()) == {1}
    assert metrics.parts["expert"]["odd"] == pytest.approx(metrics.expert.value)
    assert metrics.parts["expert"]["whole"] == 1.0
    assert "1 of 7 rows count in no system" in " ".join(findings(metrics))


def test_a_question_open_in_one_system_leaves_all(graded, tmp_path):
    predictions = run(graded, RunFolder(tmp_path / "run"))
    predictions["expert"][0]["score"] = None
    metrics = measure(graded, predictions, RunFolder(tmp_path / "run"))
    assert metrics.num_examples == 5
    assert metrics.uncounted is not None
    assert metrics.uncounted.by_system["expert"] == 2
    assert metrics.uncounted.by_system["base-large"] == 1
    kept = [row["score"] for row in predictions["base-large"] if row["id"] not in ("q0", "q3")]
    assert metrics.bases[0].base.value == pytest.approx(sum(kept) / 5)
    for row in predictions["antiexpert"]:
        row["score"] = None
    with pytest.raises(NothingCountsError, match="nothing to compare"):
        measure(graded, predictions, RunFolder(tmp_path / "run"))


def test_another_judge_does_not_go_on_with_the_grades_of_the_first(graded, graders, tmp_path):
    folder = RunFolder(tmp_path / "run")
    run(graded, folder)
    other = replace(graded, grader=Grader(graders.grade, {"judges": {"judge": "two"}}))
    with pytest.raises(ValueError, match=r"grades/antiexpert\.jsonl was made with judges"):
        run(other, folder)


@pytest.mark.long
def test_samples_are_drawn_by_row_and_combined_by_question(experiment, tmp_path):  # noqa: F811
    sampled = replace(experiment, sampling=replace(experiment.sampling, temperature=1.0))
    three = replace(sampled, num_samples=3, combine=max)
    folder = RunFolder(tmp_path / "three")
    predictions = run(three, folder)
    rows = predictions["expert"]
    assert [row["id"] for row in rows[:4]] == ["q0#0", "q0#1", "q0#2", "q1#0"]
    assert [row["task_id"] for row in rows[2:4]] == ["q0", "q1"]
    assert [row["sample"] for row in rows[2:4]] == [2, 0]
    assert len({row["completion"] for row in rows[:3]}) > 1
    # the first question's first sample has the index it has without further samples
    (single, *_) = run(sampled, RunFolder(tmp_path / "one"))["expert"]
    assert single["completion"] == rows[0]["completion"]
    for number, row in enumerate(rows):
        row["score"] = float(number in (1, 4, 5, 20))
    metrics = measure(three, predictions, folder)
    assert metrics.num_examples == len(QUESTIONS)
    assert metrics.expert.value == pytest.approx(3 / 7)


@pytest.mark.long
def test_tasks_share_models_and_survive_a_kill(experiment, graders, tmp_path, monkeypatch):  # noqa: F811
    """Two tasks of the same models: each model is loaded once; killed anywhere, nothing is lost."""
    second = replace(
        experiment,
        task="graded",
        questions=QUESTIONS[2:],
        score=None,
        grader=Grader(graders.grade, {}),
        stop=("y",),
    )

    def both(name):
        folder = RunFolder(tmp_path / name)
        return [(experiment, folder), (second, folder.task("graded"))]

    loaded = []
    real_load = decode_loaded.load_weights
    monkeypatch.setattr(
        decode_loaded, "load_weights", lambda *args: loaded.append(args) or real_load(*args)
    )
    expected = run_all(both("whole"))
    assert len(loaded) == 1  # the base; the others have loaders of their own
    assert [len(rows["expert"]) for rows in expected] == [7, 5]
    for limit in (3, 15, 50):
        appended, real_append = 0, decode_predictions.append_row

        def append_then_die(path, row, limit=limit, real_append=real_append):
            nonlocal appended
            if appended == limit:
                raise KeyboardInterrupt
            appended += 1
            real_append(path, row)

        with monkeypatch.context() as patched:
            patched.setattr(decode_predictions, "append_row", append_then_die)
            with pytest.raises(KeyboardInterrupt):
                run_all(both("cut"))
    assert run_all(both("cut")) == expected
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_every_task_and_the_mean_go_to_wandb():
    def measured(task, base, proxy, tuned, higher_is_better):
        bases = [BaseScores("x/large", "large", base, tuned, {(1.0, ""): proxy})]
        return summarize(task, Metric("m", higher_is_better), [0.0] * 4, proxy, bases)

    low, middle, high = [0.0] * 4, [1.0, 1.0, 0.0, 0.0], [1.0] * 4
    tasks = [measured("facts", low, middle, high, True), measured("tox", high, low, low, False)]
    metrics = with_further_tasks(tasks, ["tasks/tox"])
    (mean,) = metrics.mean_gap_closed
    assert mean.gaps == {"facts": 0.5, "tox": 1.0} and mean.value == 0.75
    assert [own.folder for own in metrics.tasks] == [None, "tasks/tox"]
    assert with_further_tasks(tasks[:1], []) is tasks[0]
    uncounted = Uncounted(num_questions=2, by_system={})
    values = result_values(metrics.model_copy(update={"uncounted": uncounted}))
    assert values["eval/mean_gap_closed/large/alpha1"] == 0.75
    assert values["eval/facts/gap_closed/large/alpha1"] == 0.5
    assert values["eval/tox/gap_closed/large/alpha1"] == 1.0
    assert values["eval/tox/base-large"] == 1.0
    assert values["eval/tox/gain_over_base/large/alpha1"] == 1.0
    assert values["eval/facts/num_uncounted"] == 2


# ---- as a user starts them


def opinion(request):
    """A judge that is undecided about the second instruction, and likes what it reads first."""
    return "hm" if "Say 1." in request["prompt"] else "A"


@pytest.mark.long
def test_a_judged_run(recipe, serve, tmp_path, capsys):
    server = serve(opinion)
    assert decode(recipe(server)) is None
    folder = tmp_path / "run"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["task"], metrics["metric"]) == ("instruct", "win_rate")
    assert metrics["num_examples"] == 3
    assert metrics["expert"]["value"] == 0.5  # first in one order, second in the other
    assert metrics["parts"]["expert"] == {"first": 1.0, "second": 0.0}
    assert set(metrics["uncounted"]["by_system"].values()) == {1}
    report = (folder / "report.md").read_text()
    assert "1 of 4 rows count in no system" in report
    assert "| expert | 100.0 | 0.0 | 1 |" in report
    assert "win rate" in capsys.readouterr().out
    judgements = read_rows(folder / "judgements" / "judge.jsonl")
    num_asked = len(server.seen)
    assert len(judgements) == num_asked <= 5 * 4 * 2  # the same text is asked about once
    before = files(folder)
    assert decode(recipe(server)) is None
    assert len(server.seen) == num_asked
    changed = {name for name, content in files(folder).items() if before.get(name) != content}
    assert changed <= {"environment.json"}
    settings = json.loads((folder / "settings" / "grades" / "expert.json").read_text())
    asked = {"temperature": 0, "max_tokens": 256}
    assert settings["judges"]["judge"] == {"model": "m", "api": "chat", "parameters": asked}
    error = decode(recipe(server), "task.judges.judge.endpoint.model=other")
    assert "grades/antiexpert.jsonl was made with judges" in error
    assert len(server.seen) == num_asked


@pytest.mark.long
def test_a_judged_run_killed_while_it_asks(recipe, serve, tmp_path):
    def slowly(request):
        time.sleep(0.1)
        return opinion(request)

    server = serve(slowly)
    path = recipe(server)
    override = "task.judges.judge.endpoint.concurrency=2"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen(
        [sys.executable, "decode/run.py", str(path), override],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    record = tmp_path / "run" / "judgements" / "judge.jsonl"
    while process.poll() is None and not (record.exists() and len(read_rows(record)) >= 5):
        time.sleep(0.01)
    process.kill()
    process.wait()
    answered = {row["digest"] for row in read_rows(record)}
    assert 5 <= len(answered) < 40
    assert not (tmp_path / "run" / "metrics.json").exists()
    time.sleep(0.3)  # what was under way is over
    num_asked = len(server.seen)
    assert num_asked <= len(answered) + 2
    assert decode(path, override) is None
    rows = read_rows(record)
    assert len({row["digest"] for row in rows}) == len(rows)
    assert len(server.seen) == num_asked + len(rows) - len(answered)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["num_examples"] == 3


def test_what_is_wrong_with_judges_is_one_line_before_weights_load(recipe, serve, tmp_path):
    server = serve(opinion)
    assert "task.judges.judge: is missing; 'instruct' is judged by endpoint" in decode(recipe())
    path = recipe(server)
    key = "task.judges.judge.endpoint.key_env=NO_SUCH_KEY"
    assert "task.judges.judge: key_env names no environment variable" in decode(path, key)
    assert "has no such judge; it has judge" in decode(
        path, "task.judges.truth={classifier: {model: a/b, label: c}}"
    )
    assert "cannot be a classifier" in decode(
        path, "task.judges.judge={classifier: {model: a/b, label: c}}"
    )
    assert "did you mean task.judges.judge.endpoint.model?" in decode(
        path, "task.judges.judge.endpoint.modle=x"
    )
    assert "either an endpoint or a classifier; give one" in decode(path, "task.judges.judge={}")
    assert "judges have no effect: scoring: paper asks none" in decode(path, "task.scoring=paper")
    assert "4 greedy completions of a row are all the same" in decode(path, "decode.num_samples=4")
    assert not server.seen and not (tmp_path / "run" / "predictions").exists()


@pytest.mark.long
def test_an_endpoint_that_fails_is_one_line_and_loses_nothing(recipe, serve, tmp_path):
    from support.judge_server import failure

    server = serve(lambda request: failure(404, "no such model"))
    error = decode(recipe(server))
    assert "status 404: no such model" in error and "\n" not in error
    before = files(tmp_path / "run" / "predictions")
    assert len(before) == 5
    server.answer = opinion
    assert decode(recipe(server)) is None
    assert files(tmp_path / "run" / "predictions") == before


@pytest.mark.long
def test_several_tasks_of_one_expert(recipe, serve, tmp_path, capsys):
    """Instructions, word problems and, where lower is better, ToxiGen."""
    toxic = [toxigen_row(i, group) for i, group in enumerate(("women", "asian", "trans"))]
    problems = [{"id": f"w{i}", "question": f"{i}?", "answer": f"#### {i}"} for i in range(3)]
    classifier = {"model": save_classifier(tmp_path / "classifier"), "label": "LABEL_1"}
    also = [
        {"name": "word_problems", "eval": jsonl(tmp_path / "problems.jsonl", problems)},
        {
            "name": "toxigen",
            "eval": jsonl(tmp_path / "toxic.jsonl", toxic),
            "judges": {"classifier": {"classifier": classifier}},
        },
    ]
    path = recipe(serve(opinion), also=also)
    assert decode(path) is None
    folder = tmp_path / "run"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [own["task"] for own in metrics["also"]] == ["word_problems", "toxigen"]
    for name in ("word_problems", "toxigen"):
        own = json.loads((folder / "tasks" / name / "metrics.json").read_text())
        assert {**own, "folder": f"tasks/{name}"} in metrics["also"] and own["num_examples"] == 3
        assert len(list((folder / "tasks" / name / "predictions").glob("*.jsonl"))) == 5
        assert (folder / "tasks" / name / "report.md").exists()
    toxigen = metrics["also"][1]
    assert toxigen["higher_is_better"] is False
    (entry,) = toxigen["bases"]
    gain = entry["base"]["value"] - entry["proxy"][0]["value"]
    assert entry["proxy"][0]["gain_over_base"]["value"] == pytest.approx(gain)
    grade = read_rows(folder / "tasks" / "toxigen" / "grades" / "expert.jsonl")[0]
    assert grade["target_groups"] == ["women"] and grade["score"] == float(grade["is_toxic"])
    (mean,) = metrics["mean_gap_closed"]
    assert set(mean["gaps"]) == {"instruct", "word_problems", "toxigen"}
    assert mean["value"] is None and "word_problems" in mean["reason"]  # nobody solves any
    report = (folder / "report.md").read_text()
    assert "## All tasks" in report and "| large | 1 | " in report
    assert "## Also: toxigen" in report and "(tasks/toxigen/report.md)" in report
    assert "Lower is better" in report
    assert "mean gap closed over 3 tasks n/a" in capsys.readouterr().out
    before = files(folder)
    assert decode(path) is None
    changed = {name for name, content in files(folder).items() if before.get(name) != content}
    assert changed <= {"environment.json"}
    assert "each task may be evaluated once" in decode(path, "also.1.name=instruct")


def test_a_finished_expert_is_not_trained(recipe, serve, tmp_path):
    path = recipe(serve(opinion))
    assert decode(path, entry="train/sft.py") is None
    folder = tmp_path / "run"
    assert not (folder / "expert").exists() and not (folder / "checkpoints").exists()
    settings = json.loads((folder / "settings" / "predictions" / "expert.json").read_text())
    assert settings["expert"]["name"] == str(tmp_path / "expert")
    assert "found trained" in decode(path, "expert.adapter={r: 4}")
    assert "sft: missing" in decode(path, "expert.trained=null")
    assert "such folder" in decode(path, f"expert.trained={tmp_path / 'nowhere'}")
    chat = decode(path, "expert.prompt=chat", f"output_dir={tmp_path / 'other'}")
    assert "no chat template" in chat
