"""The proxy check: how well an expert steers the base while it is trained.

The loss says how well an expert imitates its rows, not what its shift does to a base. So every few
steps the base is proxy-tuned with the unfinished expert and answers a few validation rows. The
scores are recorded, plotted and logged, and may decide which weights are kept and when training
ends. Checks do not change the weights at any step.

The main process checks while the others wait, and sends them its decision.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from decode.evaluation.check_record import Checks, cost
from decode.jobs.folder import RunFolder
from recipes.schema.recipe import ProxyCheck, Recipe

from .best_weights import BestWeights
from .rows import CheckRows
from .scores import ProxyScores
from .steps import MAX_COST, CheckSteps

logger = logging.getLogger(__name__)

Log = Callable[[Mapping[str, Any]], None]

BASE_PER_CHECK = 3  # a check takes 2.5 to 3 times as long as the base's own answers
LOGGED = ("proxy", "expert", "base", "gain_over_base", "gap_closed", "expert_loss", "proxy_loss")


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision after a check, the same on all processes; `every` is None until measured."""

    every: int | None
    is_over: bool


def proxy_checks(
    recipe: Recipe, rows: CheckRows | None, folder: RunFolder, log: Log
) -> list["ProxyCheckCallback"]:
    """The callback that checks the recipe's expert; without a check, none, and no old record."""
    if recipe.proxy_check is None or rows is None:
        folder.checks.unlink(missing_ok=True)
        return []
    weights = folder.checkpoints(folder.expert)
    return [ProxyCheckCallback(recipe.proxy_check, rows, folder, weights, log)]


class ProxyCheckCallback(TrainerCallback):
    """Checks the expert in training, keeps the best weights and ends training, as the recipe says.

    Args:
        section: the recipe's `proxy_check`.
        rows: the questions and the models that answer them.
        folder: of the run, which keeps the checks.
        weights: the folder of the best weights so far, deleted when training is complete.
        log: to the dashboard.
    """

    def __init__(
        self,
        section: ProxyCheck,
        rows: CheckRows,
        folder: RunFolder,
        weights: Path,
        log: Log,
    ) -> None:
        self._section, self._rows, self._folder, self._log = section, rows, folder, log
        self._best = BestWeights(weights)
        self._decided = Decided(None, False)
        self._checks: Checks | None = None  # of the main process, like the scores
        self._scores: ProxyScores | None = None
        self._since = time.perf_counter()
        self._since_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Reads the record up to the step training starts from; asks the base if it is empty."""
        self._decided = _on_main(state, lambda: self._begin(state.global_step, str(args.device)))
        control.should_training_stop |= self._decided.is_over

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **_: Any,
    ) -> None:
        """Checks at the steps that are due; ends training when patience has run out."""
        if not self._decided.is_over and self._steps(state.max_steps).is_due(state.global_step):
            self._decided = _on_main(state, lambda: self._check_if_affordable(state, model))
        control.should_training_stop |= self._decided.is_over

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Keeps the best weights as of now, which a training that resumes here needs."""
        if self._checks is not None and self._checks.best is not None:
            self._best.protected = self._checks.best["step"]

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **_: Any,
    ) -> None:
        """Puts the selected weights into the model, and logs their step."""
        is_whole = self._decided.is_over or state.global_step >= state.max_steps
        if self._checks is None or not is_whole:
            return
        best, share = self._checks.best, cost(self._checks.rows)
        kept = state.global_step if best is None else best["step"]
        if kept != state.global_step:
            self._best.restore(model, kept)
        logger.info(
            "kept the weights of step %d of %d; checks took %.0f%% of the time of training",
            kept,
            state.global_step,
            100 * share,
        )
        if share > MAX_COST and self._section.every_steps is None:
            logger.warning(
                "proxy check: even the fewest checks took more than %d%% of the time of training; "
                "a smaller proxy_check.num_rows is quicker",
                100 * MAX_COST,
            )
        chosen = {"kept_step": kept, "select_by": self._section.select_by}
        state.log_history.append({"step": state.global_step, **chosen, "proxy_check_cost": share})

    def _steps(self, max_steps: int) -> CheckSteps:
        every = self._decided.every
        return CheckSteps.at_most(max_steps) if every is None else CheckSteps(every, max_steps)

    def _begin(self, step: int, device: str) -> Decided:
        rows, start = self._rows, time.perf_counter()
        experiment = rows.experiment
        self._checks = checks = Checks(self._folder, up_to_step=step)
        self._scores = ProxyScores(experiment, rows.completions, device)
        if not checks.rows:
            tuned = experiment.lineup.contenders[0].tuned  # one large model at a time
            ceiling = {} if tuned is None else {"tuned": self._scores.of_tuned(tuned)}
            self._scores.load()
            loaded = time.perf_counter()
            scores = {"base": self._scores.of_base(), **ceiling}
            base_s = time.perf_counter() - loaded
            about = {
                "step": 0,
                "task": experiment.task,
                "metric": experiment.metric.name,
                "higher_is_better": experiment.metric.higher_is_better,
                "base_model": experiment.lineup.contenders[0].base.name,
                "base_slug": experiment.lineup.contenders[0].slug,
                "alpha": experiment.lineup.alphas[0].value,
                "max_new_tokens": self._scores.max_new_tokens,
                "select_by": self._section.select_by,
            }
            check_s = time.perf_counter() - start
            taken = {"training_s": 0.0, "check_s": check_s, "base_s": base_s}
            checks.add(checks.completed({**about, "scores": scores, **taken}))
        self._best.protected = None if checks.best is None else checks.best["step"]
        every = self._section.every_steps or checks.rows[-1].get("every")
        self._since, self._since_step = time.perf_counter(), step
        return Decided(every, self._is_over(checks))

    def _check_if_affordable(self, state: TrainerState, model: nn.Module) -> Decided:
        """A check, unless its cost would exceed MAX_COST; then later steps are due."""
        assert self._checks is not None
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        checks, step = self._checks, state.global_step
        steps, is_planned = self._steps(state.max_steps), self._decided.every is not None
        training_s = time.perf_counter() - self._since
        step_s = training_s / max(1, step - self._since_step)
        if not is_planned:
            spent_s = sum(row["check_s"] for row in checks.rows)
            estimate_s = BASE_PER_CHECK * checks.first["base_s"]
            steps = steps.affordable(step - 1, step_s, estimate_s, spent_s)
            if not steps.is_due(step):
                return Decided(steps.every, False)
        row = self._check(step, model)
        row["training_s"] = training_s
        if not is_planned:  # now that it is known what a check takes
            spent_s = row["check_s"] + sum(row["check_s"] for row in checks.rows)
            steps = steps.affordable(step, step_s, row["check_s"], spent_s)
        checks.add({**row, "every": steps.every})
        self._say(row)
        self._since, self._since_step = time.perf_counter(), step
        return Decided(steps.every, self._is_over(checks))

    def _check(self, step: int, model: nn.Module) -> dict[str, Any]:
        """The scores of the unfinished expert; its weights are saved if they are the best."""
        assert self._checks is not None and self._scores is not None
        start = time.perf_counter()
        row = self._checks.completed({"step": step, **self._scores.measure(model)})
        if self._checks.is_better(row, self._checks.best):
            self._best.save(model, step)
        return {**row, "check_s": time.perf_counter() - start}

    def _is_over(self, checks: Checks) -> bool:
        patience = self._section.patience
        return patience is not None and checks.num_since_best >= patience

    def _say(self, row: dict[str, Any]) -> None:
        assert self._checks is not None
        values = {**row, "base": self._checks.first["base"]}
        numbers = {f"proxy_check/{key}": values[key] for key in LOGGED if key in values}
        self._log({**numbers, "proxy_check/step": row["step"]})
        logger.info(
            "step %d: proxy %.1f%%, expert %.1f%%, base %.1f%%%s (%.1f s)",
            row["step"],
            100 * row["proxy"],
            100 * row["expert"],
            100 * values["base"],
            f", loss {row['expert_loss']:.3f}" if "expert_loss" in row else "",
            row["check_s"],
        )


def _on_main(state: TrainerState, action: Callable[[], Decided]) -> Decided:
    """The result of `action` on the main process, given to all; its failure is raised on all."""
    outcome: list[Any] = [None]
    failure: Exception | None = None
    if state.is_world_process_zero:
        try:
            outcome[0] = action()
        except Exception as error:
            failure, outcome[0] = error, f"{type(error).__name__}: {error}"
    broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if isinstance(outcome[0], str):
        raise RuntimeError(f"the proxy check failed on the main process: {outcome[0]}")
    return outcome[0]
