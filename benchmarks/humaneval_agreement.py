"""Our verdicts on HumanEval completions against verdicts that came with them.

    python benchmarks/humaneval_agreement.py PROBLEMS.jsonl COMPLETIONS.jsonl[.gz] ...

Completions are JSON lines with `task_id`, `completion`, `passed` and `result`, as the evaluation
scripts around OpenAI's human-eval write them; those of problems not in PROBLEMS are counted and
left out. Prints agreement by file, every difference with both reasons, and programs a second.
"""

import sys
import time
from pathlib import Path

from tqdm import tqdm

from data.rows import Row, read_rows
from data.sandbox import Outcome, best_confinement, run_programs
from data.tasks import humaneval


def verdicts(problems: dict[str, Row], completions: list[Row]) -> list[tuple[Row, Outcome]]:
    """Each completion with what became of it here."""
    programs = (
        humaneval.program(problems[row.text("task_id")], row.text("completion"))
        for row in completions
    )
    outcomes = run_programs(programs, humaneval.LIMITS)
    return list(zip(completions, tqdm(outcomes, total=len(completions)), strict=True))


def differences(judged: list[tuple[Row, Outcome]]) -> list[tuple[Row, Outcome]]:
    """Those that the two sides judge differently."""
    return [(row, out) for row, out in judged if row.fields["passed"] != (out.status == "passed")]


def main() -> None:
    """Print the comparison of the files named on the command line."""
    problems = {row.text("task_id"): row for row in read_rows(sys.argv[1])}
    print(f"confinement: {best_confinement()}; time is judged by {humaneval.LIMITS}")
    num_all = num_different = 0
    started = time.monotonic()
    for path in sys.argv[2:]:
        rows = read_rows(path)
        known = [row for row in rows if row.text("task_id") in problems]
        judged = verdicts(problems, known)
        different = differences(judged)
        num_all, num_different = num_all + len(judged), num_different + len(different)
        passed = sum(outcome.status == "passed" for _, outcome in judged)
        print(
            f"{Path(path).name}: {len(judged) - len(different)} of {len(judged)} agree; passed: "
            f"ours {passed}, theirs {sum(row.fields['passed'] for row in known)}; "
            f"{len(rows) - len(known)} without a problem left out"
        )
        for row, outcome in different:
            theirs = row.fields.get("result", row.fields["passed"])
            print(f"  {row.text('task_id')}: theirs {theirs!r}, ours {outcome}  ({row.where})")
    rate = num_all / (time.monotonic() - started)
    share = 100 * (num_all - num_different) / num_all
    print(f"all: {share:.2f}% of {num_all} agree; {rate:.1f} programs a second")


if __name__ == "__main__":
    main()
