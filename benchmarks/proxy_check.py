"""Do the best expert by loss and the best by proxy differ? One training, and how each does.

    python benchmarks/proxy_check.py recipes/mini/facts.yaml ROWS --num-checks 10 [key=value ...]

ROWS are validation rows. Every tenth of the training is checked; then the weights that each way to
select would have kept (last, lowest loss, best proxy, lowest loss of the proxy) steer the first
base on the recipe's evaluation rows. Differences are paired over rows, with 95% bootstrap
intervals.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

# A script's own folder comes first on the path, where this file would be taken for the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from transformers import TrainerCallback

from decode.evaluation.check_record import Checks, cost
from decode.evaluation.intervals import difference_with_interval, mean_with_interval
from decode.jobs.folder import RunFolder
from decode.stage.planning import plan
from recipes.schema.recipe import Recipe, load_recipe
from train.proxy_check.callback import proxy_checks
from train.proxy_check.rows import check_rows
from train.proxy_check.scores import ProxyScores
from train.rows.training_rows import training_rows
from train.trainer import train, trainer_config
from train.training import trainings


class Choices(TrainerCallback):
    """Keeps the weights of every check, and measures those that some way to select would keep."""

    def __init__(self, folder: RunFolder, scores: ProxyScores, every: int) -> None:
        self._folder, self._scores, self._every = folder, scores, every
        self._weights: dict[int, dict[str, torch.Tensor]] = {}
        self.report: dict[str, Any] = {}

    def on_step_end(self, args, state, control, model, **_: Any) -> None:
        if state.global_step % self._every == 0 or state.global_step == state.max_steps:
            self._weights[state.global_step] = {
                name: parameter.detach().clone()
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }

    @torch.no_grad()
    def on_train_end(self, args, state, control, model, **_: Any) -> None:
        checks = Checks(self._folder)
        rows = {row["step"]: row for row in checks.checked}
        chosen = {
            "last": max(rows),
            "loss": min(rows, key=lambda step: rows[step]["expert_loss"]),
            "proxy": max(rows, key=lambda step: (rows[step]["proxy"], -rows[step]["expert_loss"])),
            "proxy_loss": min(rows, key=lambda step: rows[step]["proxy_loss"]),
        }
        found = {}
        for step in sorted(set(chosen.values())):
            for name, parameter in model.named_parameters():
                if name in self._weights[step]:
                    parameter.copy_(self._weights[step][name])
            found[step] = self._scores.measure(model)["scores"]["proxy"]
        for way, step in chosen.items():
            best = found[chosen["proxy"]]
            self.report[way] = {
                "step": step,
                "test": asdict(mean_with_interval(found[step])),
                "proxy_minus_this": asdict(difference_with_interval(best, found[step])),
            }
        self.report["cost"] = cost(checks.rows)
        numbers = ("step", "proxy", "expert", "proxy_loss", "expert_loss", "check_s", "training_s")
        self.report["checks"] = [{key: row[key] for key in numbers} for row in rows.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("rows", help="validation rows")
    parser.add_argument("--num-checks", type=int, default=10)
    parser.add_argument("--json", help="the report goes here as well")
    arguments, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        report = study(arguments.recipe, arguments.rows, arguments.num_checks, folder, overrides)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")
    for row in report.pop("checks"):
        print(" ".join(f"{key} {value:.4g}" for key, value in row.items()))
    print(f"cost {report.pop('cost'):.1%}")
    for way, row in report.items():
        low, high = row["proxy_minus_this"]["ci95"]
        print(
            f"{way}: step {row['step']}, test {row['test']['value']:.1%}; selected by proxy "
            f"{row['proxy_minus_this']['value']:+.1%} [{low:+.1%}, {high:+.1%}]"
        )


def study(
    recipe_path: str, rows: str, num_checks: int, folder: str, overrides: list[str]
) -> dict[str, Any]:
    """The report of one training."""

    def load(every: int) -> Recipe:
        check = f"proxy_check={{rows: {rows}, every_steps: {every}}}"
        ours = [f"output_dir={folder}", check, "decode.bases.0.tune_reference=false"]
        quiet = ["sft.disable_tqdm=true", "sft.save_strategy='no'"]
        return load_recipe(recipe_path, [*ours, *quiet, *overrides])

    every = -(-(load(1).sft or {})["max_steps"] // num_checks)
    recipe = load(every)
    ((experiment, _), *_), (training, *_) = plan(recipe), trainings(recipe)
    config = trainer_config(training, recipe.seed, recipe.name)
    planned = check_rows(recipe, experiment, config)
    assert planned is not None
    test = replace(planned.experiment, questions=experiment.questions)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scores = ProxyScores(test, [None] * len(test.questions), device)
    run = RunFolder(folder)
    choices = Choices(run, scores, every)
    data = training_rows(recipe, [own for own, _ in plan(recipe)], planned.num_held_out)
    checks = proxy_checks(recipe, planned, run, lambda values: None)
    train(training, data, config, [*checks, choices])
    return choices.report


if __name__ == "__main__":
    main()
