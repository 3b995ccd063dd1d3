"""Sweep files, run as W&B's own agent runs them, but for the server that deals out the trials."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from support.wandb_runs import records_of

from decode.workspace import layout
from recipes.schema.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
SWEEPS = sorted((ROOT / "recipes" / "sweeps").glob("*.yaml"))


def trial(sweep, **changes):
    """The parameters of a sweep's first trial, as the server sends them."""
    values = {
        name: choice["value"] if "value" in choice else choice["values"][0]
        for name, choice in sweep["parameters"].items()
    }
    return {name: {"value": value} for name, value in {**values, **changes}.items()}


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Has W&B's agent build and start a trial in a copy of the checkout; returns its exit code."""
    for name in ("data", "decode", "recipes", "train"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    environment = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SWEEP_ID": "s1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):  # the agent sets them
        monkeypatch.setenv(name, "")

    def start(sweep, run_id, parameters):
        from wandb.wandb_agent import Agent

        agent = Agent(None, None, sweep_id="s1")
        agent._sweep_command = list(sweep["command"])
        agent._command_run({"run_id": run_id, "program": sweep["program"], "args": parameters})
        return agent._run_processes[run_id].wait(timeout=900)

    return start


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_a_trial_is_a_recipe_with_overrides(path, launch, tmp_path, capfd):
    sweep = yaml.safe_load(path.read_text())
    shown = {**sweep, "command": ["echo" if w == "python" else w for w in sweep["command"]]}
    assert launch(shown, "t1", trial(sweep)) == 0
    words = capfd.readouterr().out.strip()
    program, recipe, rest = words.split(" ", 2)
    assert program == "train/sft.py"
    overrides = [f"{key}={choice['value']}" for key, choice in trial(sweep).items()]
    place = "output_dir=runs/sweep-s1/t1"
    assert rest == " ".join([*overrides, place])
    resolved = load_recipe(recipe, [*overrides, place])
    assert resolved.decode.alphas == tuple(sweep["parameters"]["decode.alpha"]["value"])
    _, task, _, base = sweep["metric"]["name"].split("/")
    assert task == resolved.task.name and base in [base.slug for base in resolved.decode.bases]


@pytest.mark.long
def test_a_trial_is_one_wandb_run_with_the_agents_id(launch, tmp_path):
    sweep = yaml.safe_load((ROOT / "recipes" / "sweeps" / "facts.yaml").read_text())
    few = {
        "sft.max_steps": 1,
        "sft.logging_steps": 1,
        "task.eval_limit": 4,
        "decode.alpha": [0.5, 1.0],
    }
    assert launch(sweep, "trial1", trial(sweep, **few)) == 0
    run = tmp_path / "runs" / "sweep-s1" / "trial1"
    assert json.loads((run / "metrics.json").read_text())["num_examples"] == 4
    (file,) = tmp_path.rglob("run-*.wandb")
    found = records_of(file)
    (began,) = [record["run"] for record in found if record["type"] == "run"]
    assert (began["run_id"], began["display_name"]) == ("trial1", "mini-facts-trial1")
    assert began["config"]["update"]["sft"]["learning_rate"] == 0.0005
    keys = {key for r in found if r["type"] == "history" for key in r["history"]["item"]}
    assert {"train/loss", "over_alpha/alpha", sweep["metric"]["name"]} <= keys
    resolved = load_recipe(run / "recipe.yaml")
    shown = {section.name: section.panels for section in layout(resolved)}
    for panel in (*shown["Results"], *shown["Training"], *shown["Decoding speed"]):
        assert {*panel.keys, *([panel.x] if panel.x else [])} <= keys
    assert set(began["tags"]) >= {"task:facts", "base:large", "expert:small", "adapter:lora"}
    assert began["run_group"] == "mini-facts"
    artifacts = [r["artifact"] for r in found if r["type"] == "artifact"]
    lineage = [(a["name"], bool(a.get("use_after_commit"))) for a in artifacts]
    assert [pair for pair in lineage if not pair[0].startswith("run-")] == [
        ("facts-train", True),
        ("mini-facts-expert", False),
        ("facts-eval", True),
        ("mini-facts-expert", True),
        ("mini-facts-evaluation", False),
    ]
