'''MBPP: short Python functions from a sentence (Austin et al. 2021).

    """
    Write a function to add two numbers.
    assert add(1, 2) == 3
    """

The prompt is InCoder's (Fried et al. 2022), which the BigCode evaluation harness uses as well: a
docstring of the sentence and the first test, no examples. Decoding stops at what cannot belong to
the function or its helpers. The proxy-tuning paper does not run MBPP; samples are drawn as for
HumanEval. A sample is right if completion, set-up code and all tests run without an exception.
'''

from ..rows import HubSource, Row
from ..sandbox import Limits
from ..task import Task, TrainRow
from . import programs
from .programs import NUM_SAMPLES, PASS_AT, TEMPERATURE, TOP_P, Problem, grader

LIMITS = Limits(cpu_s=3, wall_s=15.0)


def prompt(row: Row) -> str:
    """A docstring of the sentence and the first test."""
    return f'"""\n{row.text("text")}\n{row.texts("test_list")[0]}\n"""\n'


def train_row(row: Row) -> TrainRow:
    """One training row; its completion is the reference code, as one would have it printed.

    Rows of other kinds are read as `programs.train_row` reads them.
    """
    if "test_list" not in row.fields:
        return programs.train_row(row)
    return TrainRow(prompt(row), _reference(row).strip() + "\n")


def eval_row(row: Row) -> Problem:
    """One problem; its answer is the reference code."""
    row.text("test_setup_code")
    programs.check_code(row, "test_list", row.texts("test_list"))
    row_id = f"MBPP/{row.fields['task_id']}" if "task_id" in row.fields else row.where
    return Problem(row_id, prompt(row), (_reference(row),), row)


def program(row: Row, completion: str) -> str:
    """`completion`, the set-up code and every test."""
    return "\n".join((completion, row.text("test_setup_code"), *row.texts("test_list"))) + "\n"


def _reference(row: Row) -> str:
    return row.text("code").replace("\r\n", "\n")


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
