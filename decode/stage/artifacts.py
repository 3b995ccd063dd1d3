"""Artifacts and tags of a recipe's jobs on W&B.

<task>-train  ->  [train]  ->  <name>-expert  ->  [decode]  ->  <name>-evaluation
                                <task>-eval   ->  [decode]
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data import TASKS
from recipes.schema.recipe import Evaluation, HarnessTask, Recipe

from ..evaluation.experiment import Experiment
from ..evaluation.metrics import Metrics
from ..jobs.files import text_digest
from ..jobs.folder import RunFolder
from ..tracking.lineage import (
    Artifact,
    evaluation_artifact,
    expert_artifact,
    finished_expert_artifact,
    rows_artifact,
    run_tags,
)
from .planning import Plan


def training_rows(recipe: Recipe, sources: Sequence[Mapping[str, Any]], digest: str) -> Artifact:
    """The training rows: each source with its counts, and a digest."""
    facts = {"sources": [*sources], "digest": digest}
    return rows_artifact(recipe.task.name, "train", facts)


def evaluation_inputs(recipe: Recipe, plan: Plan) -> Iterator[Artifact]:
    """The inputs of a decode stage: the rows of every task, and the expert."""
    for choice, (experiment, _) in zip(recipe.evaluations, plan, strict=True):
        yield _evaluation_rows(choice, experiment)
    if recipe.expert.trained is None:
        yield expert(recipe)
    else:
        found = recipe.expert
        yield finished_expert_artifact(found.slug, recipe.expert.trained, found.trained_revision)


def expert(recipe: Recipe) -> Artifact:
    """The expert that the recipe trained."""
    facts = {
        "task": recipe.task.name,
        "small_model": recipe.expert.model,
        "adapter": _adapter(recipe),
        "seed": recipe.seed,
        "learning_rate": recipe.trainer.get("learning_rate"),
    }
    return expert_artifact(recipe.name, RunFolder(recipe.output_dir).expert, facts)


def evaluation(recipe: Recipe, metrics: Metrics) -> Artifact:
    """What a decode stage measured, with the gap closed at each alpha as metadata."""
    gaps = {
        f"{base.slug} alpha {proxy.alpha:g}": proxy.gap_closed and proxy.gap_closed.value
        for base in metrics.bases
        for proxy in base.proxy
    }
    facts = {"task": metrics.task, "metric": metrics.metric.name, "gap_closed": gaps}
    return evaluation_artifact(recipe.name, RunFolder(recipe.output_dir), facts)


def tags(recipe: Recipe) -> list[str]:
    """The recipe's own tags, then its tasks, bases, expert and adapter."""
    kinds = {
        "task": [evaluation.name for evaluation in recipe.evaluations],
        "base": [base.slug for base in recipe.decode.bases],
        "expert": [recipe.expert.slug],
        "adapter": [_adapter(recipe)] if recipe.expert.trained is None else [],
    }
    return run_tags(recipe.wandb.tags, kinds)


def _evaluation_rows(choice: Evaluation | HarnessTask, experiment: Experiment) -> Artifact:
    is_ours = isinstance(choice, Evaluation)
    source = _source(choice.eval, TASKS[choice.name].eval_source) if is_ours else choice.lm_eval
    texts = [text for q in experiment.questions for text in (q.id, q.prompt, *q.answers)]
    facts = {
        "source": source,
        "num_rows": len(experiment.questions),
        "digest": text_digest(texts),
    }
    return rows_artifact(choice.name, "eval", facts)


def _adapter(recipe: Recipe) -> str:
    return "full" if recipe.expert.adapter is None else "lora"


def _source(given: str | None, default: Any) -> str:
    """Where rows came from, in words; a hub data set as `name [split]`."""
    return str(default if given is None else given)
