"""DS-1000: questions about NumPy, pandas and five more libraries (Lai et al. 2022).

The Completion format:

    Problem: How do I remove nan values from my array?
    A:
    <code>
    import numpy as np
    x = np.array([1.0, np.nan])
    </code>
    x = ... # put solution in this variable
    BEGIN SOLUTION
    <code>

The prompt is the row's; decoding stops at the closing tag. The authors' code around a problem
(`code_context` of the simplified file) puts the completion where it belongs, runs it on test inputs
and compares; some problems also search its text (`test_string`). Samples are drawn as for
HumanEval. It needs the libraries of the questions: a program whose imports are missing fails.
"""

from ..rows import HubSource, Row
from ..sandbox import Limits
from ..task import Task
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

# Imports alone take seconds and gigabytes of address space (torch, TensorFlow).
LIMITS = Limits(cpu_s=60, wall_s=120.0, memory_mib=16_384, num_open_files=256, num_tasks=64)


def prompt(row: Row) -> str:
    """The question with its code up to where the solution goes."""
    return row.text("prompt")


def eval_row(row: Row) -> Problem:
    """One problem; its answer is the reference code."""
    check_code(row, "code_context", [row.text("code_context")], defines="test_execution")
    metadata = row.fields.get("metadata")
    if not isinstance(metadata, dict) or "problem_id" not in metadata:
        raise ValueError(
            f"{row.where}: field 'metadata' must hold a 'problem_id', found {metadata!r:.80}"
        )
    row_id = f"DS-1000/{metadata['problem_id']}"
    return Problem(row_id, prompt(row), (row.text("reference_code"),), row)


def program(row: Row, completion: str) -> str:
    """The authors' code, then its tests on `completion`."""
    context = row.text("code_context")
    tests = ["test_execution"] + ["test_string"] * ("test_string(" in context)
    return f"{context}\n" + "".join(f"{test}({completion!r})\n" for test in tests)


DS1000 = Task(
    name="ds1000",
    metric="pass_rate",
    stop=("</code>", "# SOLUTION END"),
    max_new_tokens=512,
    temperature=TEMPERATURE,
    top_p=TOP_P,
    num_samples=NUM_SAMPLES,
    pass_at=PASS_AT,
    train_source=HubSource("sahil2801/CodeAlpaca-20k", None, "train"),
    eval_source=HubSource("xlangai/DS-1000", None, "test"),
    train_row=train_row,
    eval_row=eval_row,
    grade=grader(program, LIMITS),
    runs_programs=True,
)
