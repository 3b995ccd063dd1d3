'''HumanEval: functions from their docstrings (Chen et al. 2021), as the proxy-tuning paper runs it.

    def add(x: int, y: int):
        """Add two numbers x and y"""

The prompt is the problem verbatim; a completion is the function's body, and decoding stops at
the next top-level statement. Twenty samples a problem at temperature 0.8 and top-p 0.95, scored by
pass@10. A sample is right if prompt, completion and the problem's `check` run without an exception
(`program`, to be run by `data.sandbox` under `LIMITS`). Files of HumanEval+ are read as well
(`plus.py`).
'''

from ..rows import HubSource, Row
from ..sandbox import Limits
from ..task import Task
from . import plus
from .programs import (
    NUM_SAMPLES,
    PASS_AT,
    TEMPERATURE,
    TOP_P,
    Problem,
    check_code,
    grader,
    train_row,
)

LIMITS = Limits(cpu_s=3, wall_s=15.0)


def prompt(row: Row) -> str:
    """The problem: imports, signature and docstring."""
    return row.text("prompt")


def eval_row(row: Row) -> Problem:
    """One problem; its answer is the reference body."""
    if not plus.has_inputs(row) or "test" in row.fields:
        check_code(row, "test", [row.text("test")], defines="check")
    if plus.has_inputs(row):
        plus.check_inputs(row)
    if not row.text("entry_point").isidentifier():
        found = row.fields["entry_point"]
        raise ValueError(f"{row.where}: field 'entry_point' must name a function, found {found!r}")
    reference = row.text("canonical_solution")
    return Problem(row.id(row.first("task_id")), prompt(row), (reference,), row)


def program(row: Row, completion: str) -> str:
    """The problem solved by `completion`, with its tests as the last thing to run."""
    parts = [f"{row.text('prompt')}{completion}"]
    if "test" in row.fields:
        parts.append(f"{row.text('test')}\ncheck({row.text('entry_point')})")
    if plus.has_inputs(row):
        parts.append(plus.check(row, row.text("prompt") + row.text("canonical_solution")))
    return "\n".join(parts) + "\n"


HUMANEVAL = Task(
    name="humaneval",
    metric="pass_rate",
    stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
    max_new_tokens=512,
    temperature=TEMPERATURE,
    top_p=TOP_P,
    num_samples=NUM_SAMPLES,
    pass_at=PASS_AT,
    train_source=HubSource("sahil2801/CodeAlpaca-20k", None, "train"),
    eval_source=HubSource("openai/openai_humaneval", "openai_humaneval", "test"),
    train_row=train_row,
    eval_row=eval_row,
    grade=grader(program, LIMITS),
    runs_programs=True,
)
