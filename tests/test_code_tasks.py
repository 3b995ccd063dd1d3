"""HumanEval, MBPP and DS-1000: prompts, programs, and verdicts that agree with the authors' own."""

import subprocess
import sys
from pathlib import Path

import pytest

from data.rows import Row, read_rows
from data.sandbox import best_confinement, run_programs
from data.tasks import ds1000, humaneval, mbpp

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
HUMANEVAL = SHARED / "datasets" / "humaneval" / "humaneval.jsonl"
MBPP = sorted((SHARED / "datasets" / "mbpp").glob("*.jsonl"))
DS1000 = SHARED / "datasets" / "ds1000" / "ds1000.jsonl"
RELEASED = sorted((SHARED / "paper" / "humaneval").glob("*.jsonl.gz"))

ADD = Row(
    {
        "task_id": "HumanEval/1000",
        "prompt": 'def add(x: int, y: int) -> int:\n    """Add two numbers."""\n',
        "entry_point": "add",
        "canonical_solution": "    return x + y\n",
        "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n",
    },
    "mine.jsonl, line 1",
)
DOUBLE = Row(
    {
        "text": "Write a function to double a number.",
        "code": "def double(number):\r\n    return 2 * number",
        "task_id": 1000,
        "test_setup_code": "seven = 7",
        "test_list": ["assert double(2) == 4", "assert double(seven) == 14"],
        "challenge_test_list": [],
    },
    "mine.jsonl, line 1",
)
LARGEST = Row(
    {
        "prompt": "Problem:\nThe largest of x?\nA:\n<code>\nimport numpy as np\n</code>\n<code>\n",
        "reference_code": "result = x.max()",
        "metadata": {"problem_id": 1000, "library": "Numpy"},
        "code_context": (
            "import numpy as np\n"
            "def test_execution(solution):\n"
            "    scope = {'x': np.array([3, 1, 2])}\n"
            "    exec(solution, scope)\n"
            "    assert scope['result'] == 3\n"
            "def test_string(solution):\n"
            "    assert 'for' not in solution\n"
        ),
    },
    "mine.jsonl, line 1",
)


@pytest.fixture(autouse=True, scope="module")
def _confined() -> None:
    try:
        best_confinement()
    except RuntimeError as error:
        pytest.skip(str(error))


def statuses(task, row: Row, *completions: str) -> list[str]:
    programs = [task.program(row, completion) for completion in completions]
    return [outcome.status for outcome in run_programs(programs, task.LIMITS)]


def test_humaneval_prompt_is_the_problem() -> None:
    row = humaneval.eval_row(ADD)
    assert (row.id, row.prompt) == ("HumanEval/1000", ADD.fields["prompt"])
    assert row.answers == ("    return x + y\n",)
    assert humaneval.HUMANEVAL.stop == ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


def test_humaneval_verdicts() -> None:
    completions = ("    return x + y", "    return x - y", "    return x +", "    exit()", "")
    expected = ["passed", "failed", "failed", "failed", "failed"]
    assert statuses(humaneval, ADD, *completions) == expected


def test_mbpp_prompt_is_a_docstring_with_the_first_test() -> None:
    row = mbpp.eval_row(DOUBLE)
    assert row.id == "MBPP/1000"
    text = '"""\nWrite a function to double a number.\nassert double(2) == 4\n"""\n'
    assert row.prompt == text
    assert row.answers == ("def double(number):\n    return 2 * number",)
    assert mbpp.train_row(DOUBLE).completion == "def double(number):\n    return 2 * number\n"
    assert mbpp.train_row(DOUBLE).prompt == text


def test_mbpp_verdicts_need_every_test() -> None:
    right, wrong = "def double(n):\n    return n * 2", "def double(n):\n    return n + 2"
    assert statuses(mbpp, DOUBLE, right, wrong, right + "\n    (") == ["passed", "failed", "failed"]


def test_ds1000_prompt_and_id() -> None:
    row = ds1000.eval_row(LARGEST)
    assert (row.id, row.prompt) == ("DS-1000/1000", LARGEST.fields["prompt"])
    assert row.answers == ("result = x.max()",)


def test_ds1000_verdicts_come_from_runs_and_from_the_text() -> None:
    completions = (
        "result = x.max()",
        "result = x.min()",
        "for item in x:\n    result = 3",
        "result = '''\"\"\"\\n'''",  # quotes and backslashes arrive as they were written
        "raise SystemExit",
    )
    expected = ["passed", "failed", "failed", "failed", "failed"]
    assert statuses(ds1000, LARGEST, *completions) == expected


@pytest.mark.parametrize(
    ("task", "row", "field"),
    [
        (humaneval, ADD, "entry_point"),
        (humaneval, ADD, "test"),
        (mbpp, DOUBLE, "test_list"),
        (mbpp, DOUBLE, "test_setup_code"),
        (ds1000, LARGEST, "code_context"),
        (ds1000, LARGEST, "metadata"),
    ],
)
def test_missing_field_is_named_with_file_and_line(task, row: Row, field: str) -> None:
    fields = {name: value for name, value in row.fields.items() if name != field}
    with pytest.raises(ValueError, match=rf"mine.jsonl, line 1: field '{field}'"):
        task.eval_row(Row(fields, row.where))


@pytest.mark.parametrize(
    ("task", "row", "field", "found", "message"),
    [
        (mbpp, DOUBLE, "test_list", [""], "holds an empty test"),
        (mbpp, DOUBLE, "test_list", ["assert double(1) == 2", "# none"], "holds an empty test"),
        (mbpp, DOUBLE, "test_list", ["assert double(1) =="], "must hold Python"),
        (humaneval, ADD, "test", "", "holds an empty test"),
        (humaneval, ADD, "test", "def test(f):\n    assert f(1, 2) == 3\n", "must define check()"),
        (humaneval, ADD, "entry_point", "", "must name a function"),
        (ds1000, LARGEST, "code_context", "import numpy as np\n", "must define test_execution()"),
    ],
)
def test_tests_that_tell_nothing_are_refused(task, row: Row, field: str, found, message: str):
    with pytest.raises(ValueError, match=rf"mine.jsonl, line 1: field '{field}' ") as caught:
        task.eval_row(Row({**row.fields, field: found}, row.where))
    assert message in str(caught.value)


def failing(task, rows: list[Row]) -> list[str]:
    """What reference solutions do not pass."""
    programs = [task.program(row, task.eval_row(row).answers[0]) for row in rows]
    outcomes = run_programs(programs, task.LIMITS)
    return [
        f"{task.eval_row(row).id}: {outcome}"
        for row, outcome in zip(rows, outcomes, strict=True)
        if outcome.status != "passed"
    ]


@pytest.mark.skipif(not HUMANEVAL.exists(), reason="needs ../shared")
@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_reference_solutions_pass(every: int) -> None:
    assert failing(humaneval, read_rows(str(HUMANEVAL))[::every]) == []
    rows = [row for path in MBPP for row in read_rows(str(path))]
    assert failing(mbpp, rows[:: 3 * every] if every > 1 else rows) == []


@pytest.mark.skipif(not DS1000.exists(), reason="needs ../shared")
def test_ds1000_numpy_references_pass() -> None:
    rows = [r for r in read_rows(str(DS1000)) if r.fields["metadata"]["library"] == "Numpy"]
    others = ("pandas", "scipy", "sklearn")  # not among this project's dependencies
    rows = [row for row in rows if not any(name in row.text("code_context") for name in others)]
    assert failing(ds1000, rows[:10]) == []


@pytest.mark.skipif(not RELEASED, reason="needs ../shared")
def test_verdicts_agree_with_released_ones() -> None:
    problems = {row.text("task_id"): row for row in read_rows(str(HUMANEVAL))}
    rows = [row for path in RELEASED for row in read_rows(str(path))]
    rows = [row for row in rows if row.text("task_id") in problems]
    rows = [row for row in rows if row.text("result") != "timed out"][::22]
    assert len(rows) >= 290
    programs = [humaneval.program(problems[r.text("task_id")], r.text("completion")) for r in rows]
    found = [o.status == "passed" for o in run_programs(programs, humaneval.LIMITS)]
    theirs = [row.fields["passed"] for row in rows]
    assert 50 < sum(theirs) < len(theirs) - 50
    assert sum(a != b for a, b in zip(found, theirs, strict=True)) <= len(rows) // 200


@pytest.mark.slow
@pytest.mark.skipif(not RELEASED, reason="needs ../shared")
def test_all_verdicts_agree_with_released_ones() -> None:
    script = ROOT / "benchmarks" / "humaneval_agreement.py"
    command = [sys.executable, str(script), str(HUMANEVAL), *map(str, RELEASED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    share = float(done.stdout.rpartition("all: ")[2].partition("%")[0])
    assert share >= 99.5, done.stdout


@pytest.mark.skipif(not RELEASED, reason="needs ../shared")
def test_a_completion_that_timed_out_there_times_out_here() -> None:
    problems = {row.text("task_id"): row for row in read_rows(str(HUMANEVAL))}
    rows = [row for row in read_rows(str(RELEASED[0])) if row.text("result") == "timed out"]
    row = next(row for row in rows if row.text("task_id") in problems)
    problem = problems[row.text("task_id")]
    assert statuses(humaneval, problem, row.text("completion")) == ["timeout"]
