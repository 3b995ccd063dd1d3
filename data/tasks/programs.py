"""What the code tasks share: problems, running a program for each completion, rows to train on.

A completion is worth 1 if its program passes in the sandbox (`data.sandbox`) and 0 whatever else
becomes of it; a problem is worth pass@k of its samples. The notes beside a verdict are the fields
by which `decode/score.py` reads verdicts, and why a program did not pass.
"""

import ast
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..judges.judge import Verdict
from ..rows import Row
from ..sandbox import Limits, run_programs
from ..task import EvalRow, Grader, Judges, TrainRow
from . import instruct, plus

TEMPERATURE, TOP_P, NUM_SAMPLES, PASS_AT = 0.8, 0.95, 20, 10  # the proxy-tuning paper's protocol


@dataclass(frozen=True, slots=True)
class Problem(EvalRow):
    """A programming problem, and the data row that has its tests."""

    row: Row


def train_row(row: Row) -> TrainRow:
    """One training row: an instruction and its answer, or plain text, learnt as a whole.

    Instructions are read as `data.tasks.instruct` reads them; plain text is in `content` or `text`.
    """
    if "test_list" in row.fields:
        raise ValueError(f"{row.where}: a row of MBPP; to train on them name mbpp in task.name")
    field = row.first("instruction", "messages", "conversations", "content", "text")
    if field in ("instruction", "messages", "conversations"):
        return instruct.train_row(row)
    return TrainRow("", row.text(field))


def check_code(row: Row, field: str, codes: Sequence[str], defines: str | None = None) -> None:
    """Refuse tests that cannot tell a right program from a wrong one.

    Args:
        row, field: where they are.
        codes: each has to hold statements.
        defines: the function among them that is called.

    Raises:
        ValueError: one is empty, no Python, or lacks the function; names file, line and field.
    """
    for code in codes:
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ValueError(
                f"{row.where}: field '{field}' must hold Python, found {code!r:.80}"
            ) from None
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        if not tree.body:
            raise ValueError(
                f"{row.where}: field '{field}' holds an empty test, found {code!r:.80}"
            )
        if defines is not None and defines not in names:
            raise ValueError(
                f"{row.where}: field '{field}' must define {defines}(), found {code!r:.80}"
            )


def grader(program: Callable[[Row, str], str], limits: Limits) -> Grader:
    """Runs a program for each completion, as many at once as there are cores."""

    def grade(
        rows: Sequence[Problem], completions: Sequence[str], judges: Judges
    ) -> Iterator[Verdict]:
        pairs = zip(rows, completions, strict=True)
        programs = (program(row.row, completion) for row, completion in pairs)
        allowed = next((plus.LIMITS for row in rows if plus.takes_long(row.row)), limits)
        for outcome in run_programs(programs, allowed):
            passed = outcome.status == "passed"
            why = {"status": outcome.status, "detail": outcome.detail, "wall_s": outcome.wall_s}
            yield Verdict(float(passed), notes={"passed": passed, **why})

    return grade
