"""HumanEval, MBPP and DS-1000: prompts, programs, and verdicts that agree with the authors' own."""

import subprocess
import sys
from pathlib import Path

import pytest

from data.rows import Row, read_rows
from data.sandbox import best_confinement, run_programs
from data.tasks import ds1000, humaneval, mbpp, plus
from data.tasks.fences import fenced, of_fences

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


SANITIZED = Row(
    {
        "source_file": "Benchmark Questions Verification V2.ipynb",
        "task_id": 1001,
        "prompt": "Write a function to halve a number.",
        "code": "def halve(number):\n    return number / 2",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(halve(2), 1)"],
    },
    "mine.jsonl, line 1",
)
MBPP_PLUS = Row(
    {
        **SANITIZED.fields,
        "test": (
            "import math\ninputs = [[2], [3]]\nresults = [1, 1.5]\n"
            "def assertion(out, exp, atol):\n    assert out == exp\n"
            "for inp, exp in zip(inputs, results):\n    assertion(halve(*inp), exp, 0)\n"
        ),
    },
    "mine.jsonl, line 1",
)
HUMANEVAL_PLUS = Row(
    {
        **{key: value for key, value in ADD.fields.items() if key != "test"},
        "base_input": [[2, 3]],
        "plus_input": [[-1, 1], [0.1, 0.2]],
        "atol": 0,
        "contract": "",
    },
    "mine.jsonl, line 1",
)


def mbpp_inputs(name: str, code: str, assertion: str, inputs: list, **more) -> Row:
    """A row as EvalPlus's own file of MBPP+ has it."""
    fields = {
        "task_id": "Mbpp/1002",
        "prompt": f'"""\nDo {name}.\n{assertion}\n"""\n',
        "entry_point": name,
        "canonical_solution": code,
        "base_input": inputs,
        "plus_input": [],
        "atol": 0,
        "assertion": assertion,
    }
    return Row({**fields, **more}, "mine.jsonl, line 1")


def test_sanitized_mbpp_and_mbpp_plus() -> None:
    right, integer = "def halve(n):\n    return n / 2", "def halve(n):\n    return n // 2"
    assert mbpp.eval_row(SANITIZED).prompt == (
        '"""\nWrite a function to halve a number.\nassert math.isclose(halve(2), 1)\n"""\n'
    )
    assert mbpp.train_row(SANITIZED).completion == f"{SANITIZED.fields['code']}\n"
    assert mbpp.eval_row(MBPP_PLUS).id == mbpp.eval_row(SANITIZED).id == "MBPP/1001"
    assert statuses(mbpp, SANITIZED, right, integer) == ["passed", "passed"]
    assert statuses(mbpp, MBPP_PLUS, right, integer) == ["passed", "failed"]
    bare = Row({**SANITIZED.fields, "test_imports": []}, SANITIZED.where)
    assert statuses(mbpp, bare, f"import math\n{right}") == ["passed"]


def test_humaneval_plus_compares_with_the_canonical_solution() -> None:
    assert humaneval.eval_row(HUMANEVAL_PLUS).id == "HumanEval/1000"
    completions = (
        "    return x + y",
        "    return x + y + 1e-9",  # within the tolerance of floating-point numbers only
        "    return abs(x + y) if x else 0",
        "    return round(x + y)",
        "    return 5",
    )
    expected = ["passed", "failed", "passed", "failed", "failed"]
    assert statuses(humaneval, HUMANEVAL_PLUS, *completions) == expected
    both = Row({**HUMANEVAL_PLUS.fields, "test": ADD.fields["test"]}, "x")
    assert statuses(humaneval, both, "    return x + y", "    return 5") == ["passed", "failed"]
    floats = Row({**HUMANEVAL_PLUS.fields, "base_input": [[0.5, 0.25]], "plus_input": []}, "x")
    near, far = "    return x + y + 1e-9", "    return x + y + 1e-3"
    assert statuses(humaneval, floats, near, far) == ["passed", "failed"]


def test_mbpp_plus_inputs_have_the_types_of_the_assertion() -> None:
    code = "def common(a, b):\n    return tuple(set(a) & {b})"
    row = mbpp_inputs("common", code, "assert common((1, 2), 2) == (2,)", [[[1, 2], 2], [[], 3]])
    assert mbpp.eval_row(row).prompt == row.fields["prompt"]
    assert mbpp.eval_row(row).id == "MBPP/1002"
    needs_tuple = "def common(a, b):\n    return (b,) if hash(a) and b in a else ()"
    assert statuses(mbpp, row, code, needs_tuple, "def common(a, b):\n    return a") == [
        "passed",
        "passed",
        "failed",
    ]


@pytest.mark.parametrize(
    ("assertion", "value", "expected"),
    [
        ("assert f([(1, 2)]) == 3", [[3, 4], [5, 6]], [(3, 4), (5, 6)]),
        ("assert f(((1, 2), 3)) == 3", [[3, 4], 5], ((3, 4), 5)),
        ("assert f([1, 2]) == 3", [[3, 4]], [[3, 4]]),
        ("assert f([{}]) == 1\nassert f([{1, 2}, {}]) == 1", [[3], []], [{3}, set()]),
        ("assert f({'a': (1, 2)}) == 1", {"b": [3]}, {"b": (3,)}),
        ("assert f(complex(0, 1)) == 1", "1j", 1j),
        ("assert f('a') == 1\nassert f(2) == 1", "3", "3"),
        ("assert f(g(2)) == 1", "3", "3"),
    ],
)
def test_json_becomes_what_the_assertion_shows(assertion, value, expected) -> None:
    row = mbpp_inputs("f", "def f(x): ...", assertion, [[value]])
    assert plus._inputs(row) == [[expected]]


@pytest.mark.parametrize(
    ("name", "code", "inputs", "others"),
    [
        ("sum_div", "def sum_div(n):\n    return 7", [[8]], {"0": True, "1": False}),
        ("are_equivalent", "def are_equivalent(a, b):\n    return True", [[1, 2]], {"False": True}),
        ("check_str", "def check_str(s):\n    return 'a'", [["b"]], {"[1]": True, "None": False}),
        ("Diff", "def Diff(a, b):\n    return [1, 2]", [[1, 2]], {"[2, 1]": True, "[2]": False}),
        (
            "digit_distance_nums",
            "def digit_distance_nums(a, b):\n    return 0",
            [[12, 5]],
            {"4": True, "3": False},
        ),
        (
            "surface_Area",
            "def surface_Area(b, h):\n    return 33",
            [[3, 4]],
            {"35": True, "34": False},
        ),
    ],
)
def test_problems_with_several_right_answers(name, code, inputs, others) -> None:
    head = code.splitlines()[0]
    row = mbpp_inputs(name, code, f"assert {name}", inputs)
    completions = [f"{head}\n    return {value}" for value in others]
    expected = ["passed" if is_right else "failed" for is_right in others.values()]
    assert statuses(mbpp, row, code, *completions) == ["passed", *expected]


def test_find_zero_is_checked_by_the_polynomial() -> None:
    fields = {
        **HUMANEVAL_PLUS.fields,
        "prompt": 'def find_zero(xs: list):\n    """A zero."""\n',
        "entry_point": "find_zero",
        "base_input": [[[-4, 0, 1]]],
        "plus_input": [],
        "atol": 1e-4,
    }
    completions = ("    return 2.0", "    return -2.00000001", "    return 1.9")
    assert statuses(humaneval, Row(fields, "x"), *completions) == ["passed", "passed", "failed"]


@pytest.mark.parametrize(
    ("task", "row", "changed", "problem"),
    [
        (humaneval, HUMANEVAL_PLUS, {"base_input": [], "plus_input": []}, "'base_input' holds no"),
        (humaneval, HUMANEVAL_PLUS, {"plus_input": [3]}, "'plus_input' must be a list of lists"),
        (humaneval, HUMANEVAL_PLUS, {"canonical_solution": None}, "'canonical_solution' must be"),
        (humaneval, HUMANEVAL_PLUS, {"entry_point": "1"}, "'entry_point' must name a function"),
        (mbpp, mbpp_inputs("f", "c", "assert f(", [[1]]), {}, "'assertion' must hold Python"),
        (mbpp, SANITIZED, {"test_imports": "import math"}, "'test_imports' must be a list of text"),
        (mbpp, MBPP_PLUS, {"test": "assert ("}, "'test' must hold Python"),
    ],
)
def test_bad_rows_of_evalplus_are_named(task, row, changed, problem) -> None:
    with pytest.raises(ValueError, match=r"mine\.jsonl, line 1: field") as caught:
        task.eval_row(Row({**row.fields, **changed}, row.where))
    assert problem in str(caught.value)


def test_evalplus_takes_longer_and_others_do_not() -> None:
    assert [plus.takes_long(row) for row in (HUMANEVAL_PLUS, MBPP_PLUS)] == [True, True]
    assert not any(plus.takes_long(row) for row in (ADD, DOUBLE, SANITIZED))


BODY = "    return x + y\n"
WHOLE = f"def add(x, y):\n{BODY}"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"Sure!\n```python\n{WHOLE}```\nIt adds.", WHOLE),
        (f"```\n{WHOLE}```", WHOLE),
        (f"```Python3 title\n{WHOLE}\n```\n", f"{WHOLE}\n"),
        (f"1. First:\n   ```py\n   def add(x, y):\n   {BODY}   ```", WHOLE),
        (f"```python\n{WHOLE}", WHOLE),  # cut off
        (f"```bash\npip install a b c\npip list\npip check\n```\n```python\n{WHOLE}```", WHOLE),
        (f"```python\nadd(1, 2)\n```\n````python\n{WHOLE}````", WHOLE),
        (f"```\n2 + 3 equals\nwhat is\nsaid\n```\n```\n{WHOLE}```", WHOLE),
        (f"```python\n{BODY}```", BODY),
        ("```python\r\nx = 1\r\n```", "x = 1\n"),
        (WHOLE, None),
        ("```json\n{}\n```", None),
        ("Use `add`.", None),
    ],
)
def test_code_is_found_in_fences(text, code) -> None:
    assert fenced(text) == code


def test_grades_of_fences_say_where_there_was_one() -> None:
    grade = of_fences(humaneval.HUMANEVAL.grade)
    completions = [
        f"Sure!\n```python\n{WHOLE}```\nIt adds.",
        f"```python\n{BODY}```",
        "```python\ndef add(x, y):\n    return x\n```",
        BODY,
        f"Sure! {WHOLE}",
    ]
    verdicts = list(grade([humaneval.eval_row(ADD)] * 5, completions, {}))
    assert [verdict.value for verdict in verdicts] == [1, 1, 0, 1, 0]
    assert [verdict.parts["extracted"] for verdict in verdicts] == [1, 1, 1, 0, 0]
    plain = humaneval.HUMANEVAL.grade([humaneval.eval_row(ADD)], completions[:1], {})
    assert [(verdict.value, verdict.parts) for verdict in plain] == [(0, {})]
