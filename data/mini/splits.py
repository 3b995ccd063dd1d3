"""Which word problems are held out: the splits, drawn once from a seed.

No question and no (template, numbers) pair of the validation or test rows occurs in another split,
nor, since the pretraining stream leaves out what `held_out_keys` lists, in pretraining.
"""

import random

from .problems import Problem, draw_problem

SEED = 2401
NUM_PROBLEMS = {"test": 400, "validation": 200, "train": 2000}


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
