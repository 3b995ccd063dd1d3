"""Results on disk are those of their system and settings, or the run says which is not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.runs import changed, run
from support.tiny_run import finished as finished_run
from support.tiny_run import forked
from test_experiment import experiment, files  # noqa: F401  (experiment is a fixture)
from test_grading import graded, graders  # noqa: F401  (fixtures)

from data.judges.record import RecordError, append_record, read_record
from decode.analysis.trade_off import trade_offs
from decode.evaluation.check_record import Checks, cost, finished_checks
from decode.evaluation.metrics_file import write_metrics
from decode.evaluation.summary import measure
from decode.jobs.files import FileChanged, json_digest, read_rows, write_json, write_rows
from decode.jobs.folder import RunFolder, SettingsChanged
from decode.jobs.seals import SEALED, Seals, bare
from decode.models.model_source import ModelSource
from decode.reports.check_section import check_findings
from decode.reports.finished_run import read_runs
from decode.reports.training_table import training_section
from decode.stage.command import USER_ERRORS

BASE, PROXY = "predictions/base-large.jsonl", "predictions/proxy-large-alpha1.jsonl"

SETTINGS = ("settings/predictions/base-large.json", "settings/predictions/proxy-large-alpha1.json")


def edited(path: Path, number: int, **values) -> None:
    rows = read_rows(path)
    rows[number] |= values
    write_rows(path, rows)


def swapped(run_path: Path, one: str, other: str) -> None:
    spare = run_path / "spare"
    (run_path / one).rename(spare)
    (run_path / other).rename(run_path / one)
    spare.rename(run_path / other)


def without_lines(path: Path, *numbers: int) -> None:
    write_rows(path, [row for n, row in enumerate(read_rows(path)) if n not in numbers])


DAMAGE = {
    "swapped": (lambda run: swapped(run, BASE, PROXY), BASE),
    "copied": (lambda run: shutil.copy(run / PROXY, run / BASE), BASE),
    "settings as well": (
        lambda run: [swapped(run, BASE, PROXY), swapped(run, *SETTINGS)],
        "base-large.jsonl was made with antiexpert.name",
    ),
    "score": (lambda run: edited(run / BASE, 2, score=5.0), f"{BASE}, line 3: row 'q2'"),
    "no score": (lambda run: edited(run / BASE, 0, score=None), f"{BASE}, line 1: row 'q0'"),
    "completion": (lambda run: edited(run / PROXY, 6, completion="a"), f"{PROXY}, line 7"),
    "another id": (lambda run: edited(run / PROXY, 6, id="q7"), f"{PROXY}, line 7"),
    "no seal": (
        lambda run: write_rows(run / BASE, [{"id": "q0", "completion": "a", "score": 1.0}]),
        f"{BASE}, line 1: row 'q0' is not what was written here",
    ),
    "order": (
        lambda run: write_rows(run / BASE, read_rows(run / BASE)[::-1]),
        f"{BASE}, line 1: found row 'q6', expected 'q0'",
    ),
    "missing": (
        lambda run: without_lines(run / BASE, 3),
        f"{BASE}, line 4: found row 'q4', expected 'q3'",
    ),
    "repeated": (
        lambda run: write_rows(run / BASE, read_rows(run / BASE) + read_rows(run / BASE)[:1]),
        f"{BASE}, line 8: found row 'q0', expected no more rows",
    ),
    "no JSON": (
        lambda run: (run / BASE).write_text("what\n"),
        f"{BASE}, line 1: found 'what', expected a JSON object",
    ),
    "no object": (lambda run: (run / BASE).write_text("[1]\n"), f"{BASE}, line 1: found"),
    "record": (
        lambda run: (run / SETTINGS[0]).write_text("[]"),
        "settings/predictions/base-large.json: found [], expected a JSON object",
    ),
}


@pytest.fixture
def finished(experiment, tmp_path):  # noqa: F811
    folder = RunFolder(tmp_path / "run")
    run(experiment, folder)
    return folder


def test_rows_that_are_not_the_systems_are_named(experiment, finished, tmp_path):  # noqa: F811
    whole = tmp_path / "whole"
    shutil.copytree(finished.path, whole)
    for name, (damage, said) in DAMAGE.items():
        shutil.rmtree(finished.path)
        shutil.copytree(whole, finished.path)
        damage(finished.path)
        before = files(finished.path)
        with pytest.raises(FileChanged) as caught:
            run(experiment, finished)
        assert said in str(caught.value) and "\n" not in str(caught.value), name
        assert isinstance(caught.value, USER_ERRORS)
        assert files(finished.path) == before


def test_rows_missing_at_the_end_are_decoded_again(experiment, finished):  # noqa: F811
    before = files(finished.path)
    without_lines(finished.path / BASE, 5, 6)
    (finished.path / PROXY).unlink()
    run(experiment, finished)
    assert files(finished.path) == before


def test_deleted_settings_take_nothing_with_them(experiment, finished):  # noqa: F811
    before = files(finished.path)
    shutil.rmtree(finished.path / "settings")
    with pytest.raises(SettingsChanged, match="does not show that it was made with this recipe"):
        run(changed(experiment, max_new_tokens=5), finished)
    run(experiment, finished)  # the seals say that these are its settings
    assert files(finished.path) == before
    shutil.rmtree(finished.path / "settings")
    rows = [
        {k: v for k, v in row.items() if k != "seal"} for row in read_rows(finished.path / BASE)
    ]
    write_rows(finished.path / BASE, rows)
    with pytest.raises(SettingsChanged, match=r"base-large\.json: missing"):
        run(experiment, finished)


def test_a_training_without_its_record_is_not_taken_for_this_recipes(tmp_path):
    folder = RunFolder(tmp_path)
    folder.expert.mkdir()
    with pytest.raises(SettingsChanged, match=r"settings/expert\.json: missing"):
        folder.claim(folder.expert, {"seed": 1})


def test_rows_of_earlier_versions_are_read_and_scored_again(
    experiment,  # noqa: F811
    finished,
    caplog,
):
    expected = run(experiment, finished)
    for path in finished.path.glob("predictions/*.jsonl"):
        rows = [{k: v for k, v in row.items() if k != "seal"} for row in read_rows(path)]
        write_rows(path, rows)
        record = finished.settings(path)
        settings = json.loads(record.read_text())
        del settings["rows"]
        write_json(record, settings)
    edited(finished.path / BASE, 1, score=5.0)
    found = run(experiment, finished)
    assert "base-large.jsonl: 1 rows are scored again" in caplog.text
    for name, rows in found.items():
        assert [r["score"] for r in rows] == [r["score"] for r in expected[name]]
    assert read_rows(finished.path / BASE) == found["base-large"]


def test_grades_belong_to_their_completions(graded, graders, tmp_path):  # noqa: F811
    folder = RunFolder(tmp_path / "run")
    run(graded, folder)
    grades = folder.grades("base-large")
    kept = grades.read_bytes()
    for value in (5.0, None):
        edited(grades, 2, score=value)
        with pytest.raises(FileChanged, match=r"grades/base-large\.jsonl, line 3: row 'q2'"):
            run(graded, folder)
        grades.write_bytes(kept)
    shutil.copy(folder.grades("expert"), grades)
    with pytest.raises(FileChanged, match=r"grades/base-large\.jsonl, line 1"):
        run(graded, folder)
    seals = folder.seals(grades)  # graded, then decoded to something else
    grades.write_bytes(kept)
    rows = read_rows(grades)
    rows[1] = seals.put({**rows[1], "graded": json_digest("another completion")})
    write_rows(grades, rows)
    with pytest.raises(FileChanged, match="row 'q1' grades another completion"):
        run(graded, folder)
    grades.unlink()
    graders.num_graded = 0
    run(graded, folder)
    assert graders.num_graded == 7


def test_judgements_are_as_they_were_written(tmp_path):
    path = tmp_path / "judge.jsonl"
    append_record(path, {"id": "a", "digest": "1", "text": "yes"})
    append_record(path, {"id": "b", "digest": "2", "text": "no"})
    assert [row["text"] for row in read_record(path)] == ["yes", "no"]
    path.write_text(path.read_text().replace('"text": "no"', '"text": "yes"'))
    with pytest.raises(RecordError, match="line 2: the judgement of 'b' is not what was written"):
        read_record(path)
    path.write_text('{"id": "a", "digest": "1", "text": "yes"}\n')  # of an earlier version
    assert len(read_record(path)) == 1


def test_a_comparison_reads_only_what_the_run_wrote(experiment, finished):  # noqa: F811
    metrics = measure(experiment, run(experiment, finished), finished)
    write_metrics(finished.metrics, metrics)
    finished.keep(finished.metrics)
    (one,) = read_runs([str(finished.path)])
    assert len(one.scores("letters", "base-large")) == 7
    swapped(finished.path, BASE, PROXY)
    with pytest.raises(FileChanged, match="base-large"):
        one.scores("letters", "base-large")
    text = finished.metrics.read_text()
    finished.metrics.write_text(text.replace('"task": "letters"', '"task": "words"'))
    with pytest.raises(FileChanged, match=r"metrics\.json: not what the run wrote"):
        read_runs([str(finished.path)])


def test_metrics_belong_to_the_rows_they_were_made_from(experiment, finished, tmp_path):  # noqa: F811
    kept = {"metrics.json": finished.metrics, "record": finished.settings(finished.metrics)}

    def measured(folder: RunFolder, num_tokens: int) -> None:
        task = changed(experiment, max_new_tokens=num_tokens)
        predictions = run(task, folder)
        write_metrics(folder.metrics, measure(task, predictions, folder))
        folder.keep(folder.metrics, [folder.predictions(name) for name in predictions])

    measured(finished, experiment.max_new_tokens)
    other = RunFolder(tmp_path / "other")
    measured(other, 2)
    trade_offs(finished, None)
    for name, path in kept.items():
        kept[name] = path.read_bytes()
    for path in (finished.metrics, finished.settings(finished.metrics)):
        shutil.copy(other.path / path.relative_to(finished.path), path)
    for read in (lambda: read_runs([str(finished.path)]), lambda: trade_offs(finished, None)):
        with pytest.raises(
            FileChanged, match=r"metrics\.json: not made from .*predictions/"
        ) as said:
            read()
        assert "\n" not in str(said.value)
    finished.metrics.write_bytes(kept["metrics.json"])
    finished.settings(finished.metrics).write_bytes(kept["record"])
    read_runs([str(finished.path)])
    finished.settings(finished.metrics).unlink()
    with pytest.raises(
        FileChanged, match=r"settings/metrics\.json\.json is missing; run decode/run"
    ):
        read_runs([str(finished.path)])
    shutil.rmtree(finished.path / "settings")  # metrics that came without their rows
    read_runs([str(finished.path)])


def test_what_decoding_took_is_as_it_was_written(experiment, finished):  # noqa: F811
    predictions = run(experiment, finished)
    found = measure(experiment, predictions, finished)
    assert found.decoding["base-large"].num_rows == 7
    path = finished.decoding("base-large")
    text = path.read_text()
    for damage in (
        lambda: path.write_text(text.replace('"num_rows": 7', '"num_rows": 8')),
        lambda: shutil.copy(finished.decoding("expert"), path),
        lambda: write_json(path, bare(json.loads(text))),
    ):
        damage()
        with pytest.raises(FileChanged, match=r"decoding/base-large\.json: not what the run wrote"):
            measure(experiment, predictions, finished)
    path.unlink()
    left = measure(experiment, predictions, finished)
    assert left.decoding.keys() == found.decoding.keys() - {"base-large"}
    path.write_text(text)
    for file in (path, finished.decoding("expert")):  # of a version that did not seal them
        write_json(file, bare(json.loads(file.read_text())))
    for system in ("base-large", "expert"):
        record = finished.settings(finished.predictions(system))
        settings = json.loads(record.read_text())
        del settings["decoding"]
        write_json(record, settings)
        predictions_of = finished.predictions(system)
        seals = finished.seals(predictions_of)
        write_rows(predictions_of, map(seals.put, read_rows(predictions_of)))
    assert measure(experiment, run(experiment, finished), finished).decoding == found.decoding


LOG = [{"loss": 2.0, "step": 1}, {"train_loss": 2.0, "step": 1}]
ROWS = {
    "sources": [],
    "is_sample": False,
    "num_rows": 2,
    "tokens": {"median": 3, "p95": 3, "max": 3, "total": 6},
    "max_length": None,
    "loss_share": 0.5,
    "packing": None,
}


@pytest.mark.parametrize("content", ["[]", "5", "", "{", '[{"train_loss": 1.0, "step": 1}]'])
def test_what_a_training_logged_and_read_is_as_it_was_written(
    content,
    experiment,  # noqa: F811
    finished,
):
    write_metrics(finished.metrics, measure(experiment, run(experiment, finished), finished))
    write_json(finished.training_log, LOG)
    write_json(finished.training_rows, ROWS)
    for kept in (finished.metrics, finished.training_log, finished.training_rows):
        finished.keep(kept)

    def read() -> dict:
        training_section(finished.path)
        finished_checks(finished)
        (one,) = read_runs([str(finished.path)])
        return one.training

    assert read() == {"num_steps": 1, "train_loss": 2.0, "last_loss": 2.0}
    for path in (finished.training_log, finished.training_rows):
        whole = path.read_bytes()
        path.write_text(content)
        with pytest.raises(
            FileChanged, match=rf"{path.name}: not what the run wrote, by .*delete it"
        ):
            read()
        path.unlink()
        path.mkdir()
        with pytest.raises(FileChanged, match=rf"{path.name}: cannot be read"):
            read()
        path.rmdir()
        read()  # results do not need it
        path.write_bytes(whole)
    shutil.rmtree(finished.settings(finished.training_log).parent)
    finished.settings(finished.training_rows).unlink()
    read()  # of a version that kept no record of them


@pytest.fixture
def checked(tmp_path):
    """A run's folder with the checks of a finished training."""
    folder = RunFolder(tmp_path / "run")
    folder.claim(folder.expert, {"sft": {"learning_rate": 0.1}})
    folder.claim(folder.checks, {"alpha": 1.0, **SEALED})
    checks = Checks(folder, up_to_step=0)
    about = {"metric": "exact_match", "higher_is_better": True, "select_by": "proxy"}
    for step, right in enumerate((0, 0, 1, 0)):
        role = "proxy" if step else "base"
        row = {"step": step, **({} if step else about), "scores": {role: [right, 1.0]}}
        checks.add({**checks.completed(row), "training_s": 2.0, "check_s": 0.5 + step})
    write_json(
        folder.expert / "training_log.json",
        [{"loss": 1.0}, {"step": 3, "kept_step": 2, "proxy_check_cost": cost(checks.rows)}],
    )
    return folder


CHECK_DAMAGE = {
    "score": lambda path: edited(path, 2, proxy=0.0),
    "scores": lambda path: edited(path, 1, scores={"proxy": [1.0, 1.0]}),
    "step": lambda path: edited(path, 3, step=30),
    "selection": lambda path: edited(path, 0, select_by="last"),
    "first missing": lambda path: without_lines(path, 1),
    "last missing": lambda path: without_lines(path, 3),
    "repeated": lambda path: write_rows(path, read_rows(path) + read_rows(path)[-1:]),
    "in another order": lambda path: write_rows(path, read_rows(path)[::-1]),
}


@pytest.mark.parametrize("damage", CHECK_DAMAGE.values(), ids=CHECK_DAMAGE)
def test_checks_are_those_the_expert_was_trained_with(checked, damage):
    assert len(finished_checks(checked).checked) == 3
    damage(checked.checks)
    with pytest.raises(FileChanged, match=r"checks\.jsonl.* not ") as caught:
        check_findings(checked.path)
    assert "\n" not in str(caught.value) and "delete" in str(caught.value)


def test_checks_of_another_training_are_refused(checked, tmp_path):
    other = RunFolder(tmp_path / "other")
    other.claim(other.expert, {"sft": {"learning_rate": 0.2}})
    other.claim(other.checks, {"alpha": 1.0, **SEALED})
    shutil.copy(checked.checks, other.checks.parent.mkdir() or other.checks)
    for up_to_step in (None, 2):
        with pytest.raises(FileChanged, match=r"checks\.jsonl, line 1"):
            Checks(other, up_to_step)
    assert Checks(other, up_to_step=0).rows == []  # a training that begins drops them
    assert read_rows(other.checks) == []


def test_a_run_folder_may_be_moved_and_copied(experiment, save_model, tmp_path):  # noqa: F811
    first, moved = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "elsewhere" / "second")
    shutil.copytree(save_model("expert", 2), first.expert)
    shutil.copytree(save_model("tuned", 3), first.reference("large"))

    def of(folder: RunFolder):
        contender = experiment.lineup.contenders[0]
        tuned = replace(contender, tuned=ModelSource(str(folder.reference("large"))))
        return changed(experiment, expert=ModelSource(str(folder.expert)), contenders=(tuned,))

    expected = run(of(first), first)
    recorded = json.loads(first.settings(first.predictions("expert")).read_text())
    assert recorded["expert"]["name"] == "expert"
    further = first.task("other")
    run(of(first), further)
    before = files(first.path)
    moved.path.parent.mkdir()
    first.path.rename(moved.path)
    assert run(of(moved), moved) == expected
    run(of(moved), moved.task("other"))
    assert files(moved.path) == before
    shutil.rmtree(moved.path / "settings" / "predictions")  # seals do not know of places either
    assert run(of(moved), moved) == expected
    save_model("expert", 17)
    shutil.rmtree(moved.expert)
    shutil.copytree(tmp_path / "expert", moved.expert)
    with pytest.raises(SettingsChanged, match=r"was made with expert\.weights"):
        run(of(moved), moved)


@pytest.mark.long
def test_a_trained_run_goes_on_where_it_was_moved_to(overrides, tmp_path):
    first, moved = tmp_path / "run", tmp_path / "moved"
    finished_run(forked("gsm7b_lora.yaml", overrides), first)
    before = {path.name: path.read_bytes() for path in first.glob("predictions/*")}
    first.rename(moved)
    again = [f"output_dir={moved}", *overrides[1:]]
    finished_run(forked("gsm7b_lora.yaml", again), moved)
    alone = forked("gsm7b_lora.yaml", again, entry="decode/run.py")
    finished_run(alone, moved)
    assert not first.exists()
    assert {path.name: path.read_bytes() for path in moved.glob("predictions/*")} == before
    other = forked("gsm7b_lora.yaml", [*again, "sft.learning_rate=0.5"])
    assert other.returncode == 1 and "was made with sft.learning_rate" in other.stderr


def test_records_of_earlier_versions_move_as_well(tmp_path):
    folder = RunFolder(tmp_path)
    model = {"name": "expert", "revision": None}
    write_json(folder.settings(folder.expert), {"model": {**model, "name": "/old/small"}})
    folder.expert.mkdir()
    with pytest.raises(SettingsChanged, match=r"model\.name"):
        folder.claim(folder.expert, {"model": {**model, "weights": "1"}})
    write_json(folder.settings(folder.expert), {"more": [{"name": "/old", "weights": "1"}]})
    folder.claim(folder.expert, {"more": [{"name": "/new", "weights": "1"}]})
    with pytest.raises(SettingsChanged, match=r"more\.0\.weights"):
        folder.claim(folder.expert, {"more": [{"name": "/new", "weights": "2"}]})


def test_a_seal_is_of_a_place_settings_and_content():
    row = Seals("key").put({"id": "a", "score": 1.0, "seal": "old"})
    assert Seals("key", True).fits(row) and not Seals("other").fits(row) and not Seals().fits(row)
    assert not Seals("key").fits({**row, "score": 1})
    assert Seals("key").fits({"id": "a"}) and not Seals("key", True).fits({"id": "a"})
    assert set(SEALED) == {"rows"}


@pytest.mark.parametrize("value", [[], None, 5, "predictions/expert.jsonl"])
def test_a_record_of_content_that_was_edited_is_named(value, tmp_path):
    folder = RunFolder(tmp_path)
    write_json(folder.metrics, {})
    folder.keep(folder.metrics)
    folder.check_kept(folder.metrics)
    record = folder.settings(folder.metrics)
    write_json(record, {**json.loads(record.read_text()), "made_from": value})
    with pytest.raises(FileChanged, match=rf"not what the run wrote, by {record}"):
        folder.check_kept(folder.metrics)
