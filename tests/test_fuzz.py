"""A short seeded run of tests/fuzz.py, and that it finds what it is for."""

import json
import subprocess

import pytest
from fuzz import LONGEST_LINE, end_of, fault_in, kind_of, run_case
from support.fuzz.case import Case
from support.fuzz.cases import KINDS
from support.fuzz.predictions import PREDICTIONS
from support.fuzz.row_files import KINDS_OF_ROWS, write_as
from support.fuzz.scenes import SCENES, questions
from support.fuzz.world import World, entry, make_world

from data.rows import read_rows

NUM_CASES = 3 * len(KINDS)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("fuzz") / "whole")


@pytest.mark.long
def test_hostile_input_ends_in_the_right_result_or_one_line(world):
    faults, folder = {}, world.folder.parent / "case"  # beside the whole world, as in fuzz.py
    for number in range(NUM_CASES):
        case, done, fault = run_case(world, 12, number, folder)
        if fault:
            faults[number] = f"{kind_of(number)}, {case.harm:.80}: {fault}\n{done.stderr[-500:]}"
    assert not faults, "\n".join(faults.values())


@pytest.mark.long
@pytest.mark.parametrize("name", SCENES)
def test_a_scene_that_nothing_has_harmed_ends_well(world, name, tmp_path):
    copied = world.copy(tmp_path / "case")
    scene = SCENES[name](copied)
    scene.write(copied)
    case = Case([entry(scene.command), "recipe.yaml"], "", (), answers=scene.sent_answers)
    done = end_of(case, copied)
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.long
def test_predictions_that_nothing_has_harmed_are_scored(world, tmp_path):
    for task, rows in PREDICTIONS.items():
        write_as(".jsonl", rows, tmp_path / "rows.jsonl")
        arguments = [entry("decode/score.py"), task, str(tmp_path / "rows.jsonl"), "--k", "1"]
        done = world.run(arguments)
        assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize("kind", KINDS_OF_ROWS)
def test_rows_of_any_kind_are_read(kind, tmp_path):
    path = tmp_path / f"rows{kind}"
    write_as(kind, questions(2, 0), path)
    assert [row.text("question") for row in read_rows(str(path))] == [
        "Who is number 0?",
        "Who is number 1?",
    ]


CASE = Case(["entry.py"], "a key", ("seed", "recipe.yaml"))
LINE = "error: recipe.yaml: seed: found -1"


@pytest.mark.parametrize(
    ("code", "stderr", "fault"),
    [
        (1, f"warning\n{LINE}\n", ""),
        (0, "", ""),
        (1, f"{LINE}\n{LINE}\n", "2 lines of error"),
        (1, f"{LINE}\nmore\n", "1 lines of error"),
        (1, "", "0 lines of error"),
        (1, "error: no\n", "names none of seed, recipe.yaml"),
        (1, f"{LINE}\x1b[31m\n", "control characters"),
        (1, f"{LINE}{'x' * LONGEST_LINE}\n", f"a line of {len(LINE) + LONGEST_LINE} characters"),
        (1, f"Traceback (most recent call last):\n{LINE}\n", "traceback"),
        (-14, LINE, "ended by signal 14"),
    ],
)
def test_what_counts_as_a_fault(code, stderr, fault):
    done = subprocess.CompletedProcess([], code, "", stderr)
    world = World(None)  # of no run
    assert fault_in(CASE, done, world, world) == fault


@pytest.mark.long
def test_a_changed_result_is_a_fault(world, tmp_path):
    case = Case([], "", (), same_results=True)
    done = subprocess.CompletedProcess([], 0, "", "")
    other = world.copy(tmp_path / "other")
    assert fault_in(case, done, world, other) == ""
    metrics = other.folder / "run" / "metrics.json"
    metrics.write_text(json.dumps({**json.loads(metrics.read_text()), "expert": {}}))
    assert fault_in(case, done, world, other) == "other results"
