"""Checks during training: they leave it alone, say what decoding says, and decide what they say."""

import gc
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import fork_server
from support.models import byte_tokenizer, save_tiny, save_trained
from support.runs import run
from transformers import LlamaForCausalLM, TrainerCallback

from data import TASKS
from decode.evaluation.check_record import Checks, cost
from decode.evaluation.summary import measure
from decode.jobs.folder import RunFolder, SettingsChanged
from decode.reports.check_section import check_findings, checks_section
from decode.stage.planning import plan
from recipes.schema.recipe import Recipe, RecipeError, load_recipe
from train.claims import claim
from train.proxy_check.callback import proxy_checks
from train.proxy_check.rows import CheckRows, check_rows, claim_checks
from train.proxy_check.steps import CheckSteps
from train.rows.training_rows import TrainingRows, training_rows
from train.trainer import train, trainer_config
from train.training import trainings

ROOT = Path(__file__).resolve().parents[1]
WORDS = ("red", "blue", "green", "grey", "pink", "gold", "black", "white")


def write_rows(path: Path, first: int, num_rows: int) -> str:
    rows = [
        {"id": f"row-{i}", "question": f"Colour {i}?", "answers": [WORDS[i % len(WORDS)]]}
        for i in range(first, first + num_rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A small and a large model that say nothing sensible, saved with their tokenizers."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed, width in (("small", 1, 16), ("large", 0, 32)):
        save_tiny(folder / name, seed, width=width, sharpness=2.0)
    save_trained(folder / "other", 2)
    return folder


@pytest.fixture
def recipe_of(models, tmp_path: Path):
    """A recipe with a proxy check, changed by overrides."""
    text = f"""
name: toy
seed: 0
output_dir: {tmp_path / "run"}
task:
  name: facts
  train: {write_rows(tmp_path / "train.jsonl", 0, 24)}
  eval: {write_rows(tmp_path / "eval.jsonl", 100, 6)}
expert:
  model: {models / "small"}
  dtype: float32
  adapter: {{r: 4, lora_alpha: 8, lora_dropout: 0.1, target_modules: all-linear}}
sft:
  max_steps: 6
  per_device_train_batch_size: 4
  learning_rate: 2e-2
  lr_scheduler_type: constant
  max_length: 64
  bf16: false
  activation_checkpointing: false
  disable_tqdm: true
  logging_steps: 1
  save_steps: 2
proxy_check:
  rows: {write_rows(tmp_path / "validation.jsonl", 200, 5)}
  every_steps: 1
decode:
  bases:
    - {{model: {models / "large"}, dtype: float32}}
  batch_size: 4
  max_new_tokens: 5
"""
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    return lambda *overrides: load_recipe(
        path, [override.replace("{models}", str(models)) for override in overrides]
    )


FULL = "expert.adapter=null"
MIXED = ("sft.bf16=true", "sft.activation_checkpointing=true")  # as most real recipes have it
MAPPED = ("decode.vocabulary=mapped", "expert.model={models}/other")  # another tokenizer
UNCHECKED = "proxy_check=null"


def planned(recipe: Recipe) -> CheckRows | None:
    (training,) = trainings(recipe)
    config = trainer_config(training, recipe.seed, recipe.name)
    return check_rows(recipe, plan(recipe)[0][0], config)


def rows_of(recipe: Recipe, checks: CheckRows | None) -> TrainingRows:
    num_held_out = 0 if checks is None else checks.num_held_out
    return training_rows(recipe, [own for own, _ in plan(recipe)], num_held_out)


def train_expert(recipe: Recipe, *more: TrainerCallback, log: Any = lambda values: None) -> Path:
    """Train as train/sft.py does; returns the expert's folder."""
    folder, checks = RunFolder(recipe.output_dir), planned(recipe)
    rows = rows_of(recipe, checks)
    claim(recipe, trainings(recipe), rows.digest)
    if checks is not None:
        claim_checks(recipe, checks, folder)
    (training,) = trainings(recipe)
    config = trainer_config(training, recipe.seed, recipe.name)
    train(training, rows, config, [*proxy_checks(recipe, checks, folder, log), *more])
    return folder.expert


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def same(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.long
@pytest.mark.parametrize(
    "adapter", [MIXED, (FULL,), (FULL, *MIXED)], ids=["lora", "full", "full mixed"]
)
def test_training_is_the_same_with_checks_and_without(recipe_of, tmp_path, adapter):
    logged: list[dict] = []
    checked = train_expert(recipe_of(*adapter), log=logged.append)
    plain = train_expert(recipe_of(*adapter, UNCHECKED, f"output_dir={tmp_path / 'plain'}"))
    assert same(checked, plain)
    logs = [json.loads((path / "training_log.json").read_text()) for path in (checked, plain)]
    losses = [[row["loss"] for row in log if "loss" in row] for log in logs]
    assert losses[0] == losses[1]
    assert {"kept_step": 6, "select_by": "last"}.items() <= logs[0][-1].items()
    rows = Checks(RunFolder(tmp_path / "run")).rows
    assert [row["step"] for row in rows] == list(range(7))
    assert [values["proxy_check/step"] for values in logged] == list(range(1, 7))
    assert rows[-1]["expert_loss"] < rows[1]["expert_loss"]
    assert logged[-1]["proxy_check/expert_loss"] == rows[-1]["expert_loss"]
    assert not (tmp_path / "run" / "checkpoints" / "expert").exists()


@pytest.mark.long
@pytest.mark.parametrize("adapter", [(), (FULL,), MAPPED], ids=["lora", "full", "mapped"])
def test_a_check_says_what_decoding_says(recipe_of, tmp_path, adapter):
    """The last check's scores and loss, against the finished expert on the same rows."""
    learnt = ["sft.max_steps=30", "sft.learning_rate=3e-2", "proxy_check.every_steps=15"]
    recipe = recipe_of(*adapter, *learnt, "sft.save_strategy='no'", "sft.save_steps=null")
    expert = train_expert(recipe)
    checks = Checks(RunFolder(tmp_path / "run"))
    again = recipe_of(*adapter, *learnt, f"task.eval={recipe.proxy_check.rows}", UNCHECKED)
    ((experiment, _),) = plan(again)
    folder = RunFolder(tmp_path / "decoded")
    predictions = run(experiment, folder)
    metrics = measure(experiment, predictions, folder)
    last = checks.checked[-1]
    assert last["expert"] == metrics.expert.value
    assert last["proxy"] == metrics.bases[0].proxy[0].value
    assert checks.first["base"] == metrics.bases[0].base.value
    scores = [row["score"] for row in predictions["proxy-large-alpha1"]]
    assert last["scores"]["proxy"] == scores
    if adapter is not MAPPED:  # there the loss is over the base's tokens
        assert last["expert_loss"] == pytest.approx(loss_of(expert, recipe), abs=1e-5)


def loss_of(expert: Path, recipe: Recipe) -> float:
    """Mean loss over completion tokens, written from the definition."""
    from decode.models.model_source import ModelSource
    from decode.models.pair import load_tuned

    model = load_tuned(ModelSource(str(expert), dtype="float32"), "cpu").model
    tokenizer, losses = byte_tokenizer(), []
    for question, completion in TASKS["facts"].validation_rows(recipe.proxy_check.rows, 32):
        prompt = tokenizer(question.prompt)["input_ids"]
        gold = [*tokenizer(completion)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + gold])).logits[0, len(prompt) - 1 : -1]
        losses += torch.nn.functional.cross_entropy(
            logits, torch.tensor(gold), reduction="none"
        ).tolist()
    return math.fsum(losses) / len(losses)


class KeepAll(TrainerCallback):
    """The weights of every step."""

    def __init__(self) -> None:
        self.by_step: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_end(self, args, state, control, model, **_):
        self.by_step[state.global_step] = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters()
        }


@pytest.mark.long
@pytest.mark.parametrize("adapter", [(), (FULL,)], ids=["lora", "full"])
def test_the_expert_is_the_best_check_and_patience_ends_training(recipe_of, tmp_path, adapter):
    """A learning rate that soon does harm: the lowest loss is not the last."""
    keep = KeepAll()
    harm = ["sft.learning_rate=0.3", "sft.max_steps=12", "sft.max_grad_norm=1e9"]
    chosen = ["proxy_check.select_by=loss", "proxy_check.patience=3"]
    expert = train_expert(recipe_of(*adapter, *harm, *chosen), keep)
    checks = Checks(RunFolder(tmp_path / "run"))
    best = min(checks.checked, key=lambda row: row["expert_loss"])
    last = checks.checked[-1]["step"]
    assert last == best["step"] + 3 < 12
    assert checks.best == best
    saved, at_best = weights(expert), keep.by_step[best["step"]]
    for name, tensor in saved.items():
        inside = name.replace(".weight", ".default.weight") if not adapter else name
        assert torch.equal(tensor, at_best[inside]), name
    log = json.loads((expert / "training_log.json").read_text())
    assert {"step": last, "kept_step": best["step"]}.items() <= log[-1].items()
    (sentence,) = check_findings(tmp_path / "run")
    assert f"weights of step {best['step']} of {last} are the expert (select_by loss)" in sentence
    (section,) = checks_section(tmp_path / "run")
    assert f"| {best['step']} (kept) |" in section
    assert (tmp_path / "run/plots/proxy_check.png").stat().st_size > 10_000


class Killed(BaseException):
    pass


class KillAt(TrainerCallback):
    """Ends the process, as far as a test can, right after a step's checks."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self._step:
            raise Killed


@pytest.mark.long
def test_a_killed_training_goes_on_with_its_checks(recipe_of, tmp_path):
    chosen = ["proxy_check.select_by=loss", "proxy_check.patience=5", "sft.learning_rate=0.3"]
    chosen += ["sft.max_steps=12", "sft.max_grad_norm=1e9"]
    whole = train_expert(recipe_of(*chosen, f"output_dir={tmp_path / 'whole'}"))
    cut = recipe_of(*chosen)
    record = RunFolder(tmp_path / "run")
    for step in (3, 5):
        with pytest.raises(Killed):
            train_expert(cut, KillAt(step))
        assert Checks(record).rows[-1]["step"] == step
    before = Checks(record).rows[:5]  # up to the checkpoint of step 4
    assert same(train_expert(cut), whole)
    after, expected = Checks(record).rows, Checks(RunFolder(tmp_path / "whole")).rows
    assert after[:5] == before
    clocks = {"check_s": 0, "training_s": 0, "base_s": 0, "seal": ""}
    assert [row | clocks for row in after] == [row | clocks for row in expected]
    with pytest.raises(SettingsChanged, match="proxy_check"):
        train_expert(recipe_of(*chosen, "proxy_check.patience=2"))


class CountBases(TrainerCallback):
    """How many large models are in memory after each step."""

    def __init__(self) -> None:
        self.found: list[int] = []

    def on_step_end(self, args, state, control, **_):
        models = (each for each in gc.get_objects() if type(each) is LlamaForCausalLM)
        self.found.append(sum(model.config.hidden_size == 32 for model in models))


@pytest.mark.long
def test_proxy_aware_training_lends_its_base_to_the_checks(recipe_of, tmp_path):
    gc.collect()
    count = CountBases()
    train_expert(recipe_of("expert.proxy_aware={}"), count)
    assert count.found == [1] * 6
    assert len(Checks(RunFolder(tmp_path / "run")).checked) == 6


class KillAtSave(TrainerCallback):
    """Ends it right after a step's checkpoint is whole."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_save(self, args, state, control, **_):
        if state.global_step == self._step:
            raise Killed


@pytest.mark.long
def test_a_training_that_is_over_does_not_go_on(recipe_of, tmp_path):
    """Killed after the checkpoint of its last step, which patience has made the last."""
    chosen = ["proxy_check.select_by=loss", "proxy_check.patience=2", "sft.learning_rate=0.3"]
    chosen += ["sft.max_steps=12", "sft.max_grad_norm=1e9", "sft.save_steps=1"]
    whole = train_expert(recipe_of(*chosen, f"output_dir={tmp_path / 'whole'}"))
    last = Checks(RunFolder(tmp_path / "whole")).rows[-1]["step"]
    assert last < 12
    with pytest.raises(Killed):
        train_expert(recipe_of(*chosen), KillAtSave(last))
    cut = train_expert(recipe_of(*chosen))
    assert same(cut, whole)
    timeless = [
        [{k: v for k, v in entry.items() if k in ("step", "loss", "kept_step")} for entry in log]
        for log in (json.loads((run / "training_log.json").read_text()) for run in (cut, whole))
    ]
    assert timeless[0] == timeless[1]


def test_equal_scores_are_told_apart_by_the_loss(tmp_path):
    checks = Checks(RunFolder(tmp_path))
    about = {"step": 0, "select_by": "proxy", "alpha": 1.0}
    about |= {"metric": "exact_match", "higher_is_better": True}
    checks.add(checks.completed({**about, "scores": {"base": [0.0, 1.0], "tuned": [1.0, 1.0]}}))
    assert checks.best is None
    for step, second, loss in ((1, 0, 0.1), (2, 1, 0.9), (3, 1, 0.5), (4, 1, 0.7)):
        row = {"step": step, "scores": {"proxy": [second, 1]}, "expert_loss": loss}
        checks.add(checks.completed(row))
    assert checks.best is not None and checks.best["step"] == 3
    assert checks.num_since_best == 1
    assert checks.rows[1]["gain_over_base"] == 0
    assert checks.rows[3]["gap_closed"] == 1
    checks.rows[0]["higher_is_better"] = False
    assert checks.best["step"] == 1
    assert [row["step"] for row in Checks(RunFolder(tmp_path), up_to_step=2).rows] == [
        0,
        1,
        2,
    ]
    assert len(Checks(RunFolder(tmp_path)).rows) == 3


def test_checks_are_spaced_by_what_they_cost():
    steps = CheckSteps.at_most(95)
    assert [step for step in range(1, 96) if steps.is_due(step)] == [*range(10, 95, 10), 95]
    cheap = steps.affordable(10, step_s=1.0, check_s=0.5, spent_s=1.0)
    assert cheap == steps  # 9.5 s may be spent, 1 is, and 9 checks take 4.5
    dear = steps.affordable(10, step_s=1.0, check_s=2.0, spent_s=3.0)
    assert [step for step in range(11, 96) if dear.is_due(step)] == [40, 80, 95]
    dearest = steps.affordable(10, step_s=1.0, check_s=20.0, spent_s=20.0)
    assert [step for step in range(11, 96) if dearest.is_due(step)] == [95]
    assert CheckSteps.at_most(3).every == 1
    rows = [{"training_s": 0.0, "check_s": 1.0}, {"training_s": 40.0, "check_s": 3.0}]
    assert cost(rows) == 0.1


def test_the_last_step_is_checked_whatever_it_costs(recipe_of, tmp_path):
    train_expert(recipe_of("proxy_check.every_steps=null"))
    rows = Checks(RunFolder(tmp_path / "run")).rows
    assert rows[0]["step"] == 0
    assert rows[-1]["step"] == 6
    assert all(row["training_s"] > 0 for row in rows[1:])
    assert {row["every"] for row in rows[1:]} == {rows[-1]["every"]}


def test_rows_are_held_out_of_training(recipe_of):
    recipe = recipe_of("proxy_check.rows=null", "proxy_check.num_rows=4", "task.train_limit=20")
    checks = planned(recipe)
    assert checks is not None
    assert [q.id for q in checks.experiment.questions] == [f"row-{i}" for i in range(16, 20)]
    assert checks.completions == [f" {WORDS[i % 8]}\n" for i in range(16, 20)]
    rows = rows_of(recipe, None).rows
    assert rows_of(recipe, checks).rows == rows[:16]
    assert rows_of(recipe, replace(checks, num_held_out=0)).rows == rows
    with pytest.raises(ValueError, match=r"num_rows: 20 rows are held out of 20"):
        rows_of(recipe, replace(checks, num_held_out=20))


def test_what_cannot_be_checked_is_one_line(recipe_of, tmp_path, monkeypatch):
    def refused(*overrides: str) -> str:
        with pytest.raises(ValueError, match="proxy_check") as error:
            planned(recipe_of(*overrides))
        assert "\n" not in str(error.value)
        return str(error.value)

    evaluated = tmp_path / "eval.jsonl"
    assert "6 of 6 are evaluation rows as well" in refused(f"proxy_check.rows={evaluated}")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "Colour?", "completion": " red"}\n' * 40)
    held_out = refused("proxy_check.rows=null", f"task.train={pairs}")
    assert "name validation rows in proxy_check.rows" in held_out
    assert "no such file" in refused("proxy_check.rows=nowhere.jsonl")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "sharded (ZeRO-3, FSDP)" in refused()
    with pytest.raises(RecipeError, match="patience needs select_by proxy or loss"):
        recipe_of("proxy_check.patience=2")
    with pytest.raises(RecipeError, match="no training to check"):
        recipe_of(f"expert.trained={tmp_path}", FULL)
    with pytest.raises(RecipeError, match=r"did you mean proxy_check\.every_steps"):
        recipe_of("proxy_check.every_step=2")


@pytest.mark.long
def test_two_processes_check_together_and_report(recipe_of, tmp_path):
    """The main job; one process checks, both stop at the step that it says."""
    recipe_of()  # writes toy.yaml
    arguments = ["train/sft.py", str(tmp_path / "toy.yaml"), "proxy_check.select_by=loss"]
    arguments += ["proxy_check.patience=1", "sft.learning_rate=0.5", "sft.max_steps=30"]
    arguments.append("sft.max_grad_norm=1e9")
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    result = fork_server.run(arguments, environment, num_processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    folder = RunFolder(tmp_path / "run")
    assert json.loads(folder.environment.read_text())["world_size"] == 2
    checks = Checks(folder)
    assert checks.best is not None
    last = checks.checked[-1]["step"]
    assert last == checks.best["step"] + 1 < 30
    assert result.stderr.count(f"step {last}: proxy") == 1
    report = (folder.path / "report.md").read_text()
    assert f"the weights of step {checks.best['step']} of {last} are the expert" in report
    assert "plots/proxy_check.png" in report
