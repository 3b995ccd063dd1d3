"""The rows that choose alpha and rule: planned beside the evaluation rows, asked before them."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from data import Task
from data.task import EvalRow
from data.training.duplicates import question_key
from recipes.schema.recipe import Recipe
from recipes.schema.steering import Rule as RuleKeys

from ..engine.rule import PAPER, Alpha, Rule
from ..evaluation.choice_file import alpha_of, read_choices
from ..evaluation.choosing import choose_all
from ..evaluation.experiment import Choosing, Experiment
from ..jobs.folder import RunFolder
from ..jobs.processes import Replica

Plan = list[tuple[Experiment, RunFolder]]


def rule_of(keys: RuleKeys | None) -> Rule:
    """A recipe's rule; null is the paper's formula."""
    return PAPER if keys is None else Rule(**keys.model_dump())


def set_apart(
    recipe: Recipe, task: Task, section: str, rows: Sequence[EvalRow]
) -> tuple[Sequence[EvalRow], Choosing | None]:
    """The rows to report on, and those that choose first; None if the recipe chooses nothing.

    Args:
        section: where the recipe names the task.
        rows: the evaluation rows, of which a share may be set apart.

    Raises:
        ValueError: in one line what the validation rows have wrong.
    """
    choose = recipe.decode.choose
    if choose is None:
        return rows, None
    names = [own.name for own in recipe.evaluations]
    for name in choose.rows if isinstance(choose.rows, dict) else ():
        if name not in names:
            raise ValueError(
                f"decode.choose.rows.{name}: the recipe evaluates no such task ({', '.join(names)})"
            )
    wanted = choose.rows_of(task.name)
    if wanted is None:
        raise ValueError(f"decode.choose.rows: has none for '{task.name}' ({section})")
    try:
        if isinstance(wanted, str):
            validation = task.eval_rows(wanted, choose.limit)
            where = wanted
        else:
            rows, validation = _split(rows, wanted, recipe.seed)
            validation = validation[: choose.limit]
            where = f"{wanted:.0%} of the evaluation rows, which are left out of the results"
    except ValueError as error:
        raise ValueError(f"decode.choose.rows: {error}") from error
    if not rows or not validation:
        raise ValueError(
            f"decode.choose.rows: leaves no rows to {'report on' if validation else 'choose by'}"
        )
    if repeated := repeated_ids(validation):
        raise ValueError(
            f"decode.choose.rows: row id {repeated} is there twice in {where}; ids must differ"
        )
    asked = {question_key(row.prompt) for row in rows}
    shared = [row.id for row in validation if question_key(row.prompt) in asked]
    if shared:
        raise ValueError(
            f"decode.choose.rows: {len(shared)} of {len(validation)} are evaluation rows as well "
            f"(the first is '{shared[0]}'); a choice by them would flatter the results: name other "
            "rows, or a share to set apart"
        )
    candidates = [  # without a shift no rule makes a difference
        Alpha(a, rule_of(rule) if a else PAPER) for rule in choose.rule for a in choose.alpha
    ]
    return rows, Choosing(validation, tuple(dict.fromkeys(candidates)), where)


def repeated_ids(rows: Sequence[EvalRow]) -> str:
    """The first ids that several rows have, in words; "" if all differ."""
    ids = Counter(row.id for row in rows)
    return ", ".join([f"'{id_}'" for id_, times in ids.items() if times > 1][:3])


def with_choices(plan: Plan) -> Plan:
    """The experiments with what their validation rows choose; the first process asks them.

    Raises:
        SettingsChanged: a folder holds validation rows decoded with other settings.
    """
    if all(experiment.choosing is None for experiment, _ in plan):
        return plan
    replica = Replica.of_this_process()
    if replica.rank == 0:
        for experiment, folder in plan:
            choose_all(experiment, folder)
    replica.barrier()
    return choices_there(plan)


def choices_there(plan: Plan) -> Plan:
    """The experiments of a finished run, with what was chosen in it."""
    return [(with_choice(e, folder) if e.choosing else e, folder) for e, folder in plan]


def with_choice(experiment: Experiment, folder: RunFolder) -> Experiment:
    """The experiment with what is in its folder's `choice.json`."""
    return replace(experiment, lineup=replace(experiment.lineup, chosen=chosen_in(folder)))


def chosen_in(folder: RunFolder) -> dict[str, Alpha]:
    """What was chosen in a task's folder, by base's slug.

    Raises:
        ValueError: `choice.json` is missing, or not what the run wrote.
    """
    folder.check_kept(folder.choice)
    if not folder.choice.exists():
        raise ValueError(f"{folder.path}: no finished run (no choice.json); run train/sft.py")
    return {slug: alpha_of(choice) for slug, choice in read_choices(folder.choice).items()}


def _split(
    rows: Sequence[EvalRow], share: float, seed: int
) -> tuple[Sequence[EvalRow], Sequence[EvalRow]]:
    """The rows less a share of them, drawn by the seed, and that share; both in their order.

    Rows that ask the same question stay together.
    """
    keys = [question_key(row.prompt) for row in rows]
    questions = list(dict.fromkeys(keys))
    drawn = random.Random(f"{seed} choose").sample(questions, round(share * len(questions)))
    apart = set(drawn)
    left = [row for key, row in zip(keys, rows, strict=True) if key not in apart]
    return left, [row for key, row in zip(keys, rows, strict=True) if key in apart]
