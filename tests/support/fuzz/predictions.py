"""Files of predictions to be scored, of several tasks, systems and kinds of file."""

import random
from typing import Any

from .case import Case
from .harm import harm_file, harmed_tree
from .row_files import KINDS_OF_ROWS, write_as
from .world import World, entry

PREDICTIONS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [
        {"id": "a", "completion": "1+1=2\n#### 2", "answers": ["2"]},
        {"id": "b", "completion": "so 5", "answers": ["7"]},
    ],
    "triviaqa": [
        {"question_id": "a", "output": "Rome\nx", "answers": ["Rome", "Roma"]},
        {"question_id": "b", "output": "", "answers": ["Oslo"]},
    ],
    "questions": [
        {"id": 1, "completion": "Ann", "answers": ["Ann"]},
        {"id": 2, "completion": "Bob", "answers": ["Cy"]},
    ],
    "truthfulqa_mc": [
        {"question": "Is it?", "mc_output": "A. Yes", "mc_answer_idx": "A"},
        {"question": "Was it?", "mc_output": "(B)", "mc_answer_idx": "A"},
    ],
    "toxigen": [
        {"prompt": "a", "completion": "x", "is_toxic": True, "target_groups": ["women"]},
        {"prompt": "b", "completion": "y", "is_toxic": False, "target_groups": ["asian", "trans"]},
    ],
    "humaneval": [
        {"task_id": "HumanEval/0", "completion": "return 1", "passed": True},
        {"task_id": "HumanEval/0", "completion": "return 2", "passed": False},
    ],
    "instruct": [
        {"id": "a", "completion": "x", "score": 0.5},
        {"id": "b", "completion": "y", "score": None},
    ],
}
KS = ("1", "1", "1", "2", "3", "0", "-1", "x", "1e3", "١", "9" * 30)


def scored_file(world: World, rng: random.Random) -> Case:
    """Files of predictions, one harmed, scored by the command: one file or roles, of a task or two.

    The harmed file is one of the first task's.
    """
    tasks = rng.sample(list(PREDICTIONS), rng.choice((1, 1, 2)))
    words, names, harm = [], [], []
    for number, task in enumerate(tasks):
        words.append(task)
        roles = rng.choice((["base"], [""], ["base", "proxy", "tuned"], ["base", "proxy", "proxy"]))
        harmed = rng.randrange(len(roles)) if number == 0 else None
        for place, role in enumerate(roles):
            kind = rng.choice((".jsonl", *KINDS_OF_ROWS))
            if task == "toxigen" and kind[1:4] in ("csv", "tsv"):
                kind = ".jsonl"  # a table holds no lists
            path = world.folder / f"{task}-{place}{kind}"
            rows = PREDICTIONS[task]
            rows, key = harmed_tree(rng, rows) if place == harmed else (rows, "")
            try:
                write_as(kind, rows, path)
            except (ValueError, TypeError, ArithmeticError, AttributeError):  # no table holds that
                path = path.with_suffix(".jsonl")
                write_as(".jsonl", rows if isinstance(rows, list) else [rows], path)
            if place == harmed:
                bytes_too = rng.random() < 0.3
                harm.append(f"{path.name}: {key} {harm_file(rng, path) if bytes_too else ''}")
            names.append(path.name)
            words.append(f"{role}={path}" if role else str(path))
    options = [["--mode", rng.choice(("paper", "default", "no"))], ["--k", rng.choice(KS)]]
    for option in options:
        words += option if rng.random() < 0.4 else []
    words += ["--k", "1"] if "--k" not in words else []
    if rng.random() < 0.1:
        words[rng.randrange(len(words))] = rng.choice(("", "nosuch", "base=", "gsm8k", "-x", "."))
    known = (*names, *(f"'{task}'" for task in tasks), *words, "task", "argument", "FILE", "file")
    return Case([entry("decode/score.py"), *words], "; ".join(harm), known)
