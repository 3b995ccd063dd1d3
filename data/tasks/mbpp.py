'''MBPP: short Python functions from a sentence (Austin et al. 2021).

    """
    Write a function to add two numbers.
    assert add(1, 2) == 3
    """

The prompt is InCoder's (Fried et al. 2022), which the BigCode evaluation harness uses as well: a
docstring of the sentence and the first test, no examples. Decoding stops at what cannot belong to
the function or its helpers. The proxy-tuning paper does not run MBPP; samples are drawn as for
HumanEval. A sample is right if completion, set-up code and all tests run without an exception.

The sanitized rows have `prompt` for `text` and a list `test_imports` for `test_setup_code`; those
of MBPP+ a program of many more tests in `test`, or EvalPlus's inputs (`plus.py`).
'''

from ..rows import HubSource, Row
from ..sandbox import Limits
from ..task import Task, TrainRow
from . import plus, programs
from .programs import NUM_SAMPLES, PASS_AT, TEMPERATURE, TOP_P, Problem, grader

LIMITS = Limits(cpu_s=3, wall_s=15.0)


def prompt(row: Row) -> str:
    """A docstring of the sentence and the first test."""
    text = row.text(row.first("text", "prompt"))
    if "test_list" not in row.fields and text.startswith('"""'):
        return text  # MBPP+ writes it out
    return f'"""\n{text}\n{row.texts("test_list")[0]}\n"""\n'


def train_row(row: Row) -> TrainRow:
    """One training row; its completion is the reference code, as one would have it printed.

    Rows of other kinds are read as `programs.train_row` reads them.
    """
    if "test_list" not in row.fields:
        return programs.train_row(row)
    return TrainRow(prompt(row), _reference(row).strip() + "\n")


def eval_row(row: Row) -> Problem:
    """One problem; its answer is the reference code."""
    if plus.has_inputs(row):
        if "assertion" in row.fields:  # of which the types of the inputs are read
            programs.check_code(row, "assertion", [row.text("assertion")])
        plus.check_inputs(row)
    else:
        _setup(row)
        programs.check_code(row, "test_list", row.texts("test_list"))
        if "test" in row.fields:
            programs.check_code(row, "test", [row.text("test")])
    row_id = (
        f"MBPP/{row.id('task_id').rpartition('/')[2]}" if "task_id" in row.fields else row.where
    )
    return Problem(row_id, prompt(row), (_reference(row),), row)


def program(row: Row, completion: str) -> str:
    """`completion`, the set-up code and every test."""
    if plus.has_inputs(row):
        return f"{completion}\n{plus.check(row, _reference(row))}"
    tests = (*row.texts("test_list"), *([row.text("test")] if "test" in row.fields else []))
    return "\n".join((completion, _setup(row), *tests)) + "\n"


def _setup(row: Row) -> str:
    if row.first("test_setup_code", "test_imports") == "test_setup_code":
        return row.text("test_setup_code")
    return "\n".join(row.texts("test_imports") if row.fields["test_imports"] else ())


def _reference(row: Row) -> str:
    return row.text(row.first("code", "canonical_solution")).replace("\r\n", "\n")


MBPP = Task(
    name="mbpp",
    metric="pass_rate",
    stop=("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
    max_new_tokens=512,
    temperature=TEMPERATURE,
    top_p=TOP_P,
    num_samples=NUM_SAMPLES,
    pass_at=PASS_AT,
    train_source=HubSource("google-research-datasets/mbpp", "full", "train"),
    eval_source=HubSource("google-research-datasets/mbpp", "full", "test"),
    train_row=train_row,
    eval_row=eval_row,
    grade=grader(program, LIMITS),
    runs_programs=True,
)
