"""Every recipe loads and builds its trainer's configs; every mistake is one clear line."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from data import TASKS
from data.judges.endpoint import Endpoint
from recipes.schema.folders import slug
from recipes.schema.recipe import (
    Analyze,
    Base,
    Decode,
    Evaluation,
    Expert,
    MoreExpert,
    ProxyCheck,
    Recipe,
    RecipeError,
    TaskChoice,
    Wandb,
    load_recipe,
    save_recipe,
)
from recipes.schema.tasks import ClassifierChoice, EndpointChoice, JudgeChoice

ROOT = Path(__file__).resolve().parents[1]
# Hardware settings, sweeps, and the making of the mini models, are no experiments.
RECIPES = sorted(
    path
    for path in (ROOT / "recipes").rglob("*.yaml")
    if path.parent.name not in ("accelerate", "sweeps") and path.name != "pretrain.yaml"
)
ACCELERATE = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))

MINIMAL = """\
name: toy
seed: 1
output_dir: runs/toy
task:
  name: facts
expert:
  model: owner/small
  dtype: float32
  adapter:
    r: 4
sft:
  learning_rate: 3e-4
decode:
  bases:
    - model: owner/large
  batch_size: 4
"""


@pytest.fixture
def recipe_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small valid recipe, toy.yaml in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(MINIMAL)
    return Path("toy.yaml")


def failure(path: str | Path, *overrides: str) -> str:
    """The one line of the RecipeError that loading raises."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipe_builds(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import LoraConfig
    from trl import SFTConfig

    monkeypatch.chdir(ROOT)
    recipe = load_recipe(path.relative_to(ROOT))
    assert recipe.trains == (recipe.sft is not None)
    trained = recipe.sft or {}
    for sft in [trained, {**trained, **(recipe.decode.reference_sft or {})}] * recipe.trains:
        on_cpu = {**sft, "use_cpu": True, "bf16": False}
        config = SFTConfig(output_dir=str(tmp_path), seed=recipe.seed, report_to="none", **on_cpu)
        assert config.learning_rate == sft["learning_rate"]
    if recipe.expert.adapter is not None:
        assert LoraConfig(**recipe.expert.adapter).r == recipe.expert.adapter["r"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipe_opens_with_what_it_promises(path: Path) -> None:
    text = path.read_text()
    comment = text[: text.index("\nname:")]
    for heading in ("# Reproduces:", "# Command:", "# Hardware and time:", "# Expected:"):
        assert heading in comment
    assert str(path.relative_to(ROOT)) in comment


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipe_names_tasks_and_their_judges(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = load_recipe(path.relative_to(ROOT))
    for evaluation in recipe.evaluations:
        task = TASKS[evaluation.name]
        kinds = {
            name: "endpoint" if judge.endpoint else "classifier"
            for name, judge in evaluation.judges.items()
        }
        assert set(kinds) == set(task.judges)
        assert all(kind in task.judges[name] for name, kind in kinds.items())
        assert evaluation.eval or task.eval_source
    if recipe.trains:
        assert TASKS[recipe.task.name].train_row is not None


def test_tasks_are_the_ones_there_are() -> None:
    assert get_args(Evaluation.model_fields["name"].annotation) == tuple(TASKS)


def test_endpoint_keys_are_the_endpoints_own() -> None:
    """Keys left out have the endpoint's defaults, which the descriptions repeat."""
    fields = {field.name: field for field in dataclasses.fields(Endpoint)}
    assert set(EndpointChoice.model_fields) == set(fields)
    for name, field in EndpointChoice.model_fields.items():
        if name in ("timeout_s", "concurrency", "num_retries", "backoff_s"):
            assert field.default is None and field.description is not None
            assert field.description.endswith(f"null is {fields[name].default:g}.")
    assert Endpoint(base_url="http://x/v1", model="m").parameters == {
        "temperature": 0,
        "max_tokens": 256,
    }


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.name)
def test_hardware_file_parses(path: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    assert config.num_processes >= 1
    deepspeed = config.deepspeed_config
    if deepspeed:
        file = ROOT / deepspeed["deepspeed_config_file"]
        stage = json.loads(file.read_text())["zero_optimization"]["stage"]
        assert path.stem.endswith(f"zero{stage}")
        # accelerate refuses these beside a DeepSpeed file, at launch.
        assert "mixed_precision" not in yaml.safe_load(path.read_text())
        assert set(deepspeed) == {"deepspeed_config_file", "zero3_init_flag"}


def test_zero3_saves_whole_weights() -> None:
    zero3 = json.loads((ROOT / "recipes" / "deepspeed" / "zero3.json").read_text())
    assert zero3["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True


def test_defaults_are_the_papers(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    assert recipe.decode.alphas == (1.0,)
    assert recipe.decode.temperature is None  # the task's own, which is greedy
    assert recipe.decode.bases[0].slug == "large"
    assert recipe.sft == {"learning_rate": 3e-4}  # a number, not the text plain YAML makes of it
    assert recipe.wandb.project is None


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("meta-llama/Llama-2-13b-hf", "Llama-2-13b-hf"),
        ("data/mini/large", "large"),
        ("data/mini/large/", "large"),
        ("data/mini/large//", "large"),
        ("data/mini/large/.", "large"),
        ("data/mini/small/../large", "large"),
        ("./data/mini/large/../large/./", "large"),
        ("~/large/", "large"),
        ("/models/large.v2", "large.v2"),
        (".", Path.cwd().name),
    ],
)
def test_a_model_has_one_slug_however_it_is_spelt(model: str, name: str) -> None:
    assert slug(model) == name
    assert Base(model=model).slug == name
    assert Expert(model=model, dtype="float32").slug == name
    assert Expert(model="small", dtype="float32", trained=model).slug == name


def test_a_slug_names_folders_systems_and_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    from decode.stage.planning import plan

    monkeypatch.chdir(ROOT)
    recipe = load_recipe("recipes/mini/facts.yaml", ["decode.bases.0.model=data/mini/large/."])
    ((experiment, folder),) = plan(recipe)
    names = [system.name for system in experiment.lineup.systems]
    assert {"base-large", "proxy-large-alpha1", "tuned-large"} <= set(names)
    (contender,) = experiment.lineup.contenders
    assert contender.tuned is not None
    assert contender.tuned.name == str(folder.reference(contender.slug))


@pytest.mark.parametrize(
    ("override", "keys", "expected"),
    [
        ("sft.learning_rate=1e-5", ["sft", "learning_rate"], 1e-5),
        ("sft.max_steps=3", ["sft", "max_steps"], 3),
        ("sft.lr_scheduler_kwargs.num_cycles=2", ["sft", "lr_scheduler_kwargs"], {"num_cycles": 2}),
        ("decode.alpha=[0.5,1]", ["decode", "alpha"], [0.5, 1.0]),
        ("expert.adapter=null", ["expert", "adapter"], None),
        ("expert.adapter={lora_alpha: 8}", ["expert", "adapter"], {"lora_alpha": 8}),
        ("expert.adapter.r=8", ["expert", "adapter"], {"r": 8}),
        ("wandb.project=x=y", ["wandb", "project"], "x=y"),
        # as it looks, not as YAML 1.1 has it
        ("name=1:30", ["name"], "1:30"),
        ("name=on", ["name"], "on"),
        ("name=No", ["name"], "No"),
        ("name=yes", ["name"], "yes"),
        ("name=off", ["name"], "off"),
        ("name=y", ["name"], "y"),
        ("name=2024-01-02", ["name"], "2024-01-02"),
        ("name==", ["name"], "="),
        ("name=1:30.5", ["name"], "1:30.5"),
        ("name='010'", ["name"], "010"),
        ("seed=010", ["seed"], 10),
        ("seed=1_000", ["seed"], 1000),
        ("seed=0x1F", ["seed"], 31),
        ("seed=0o17", ["seed"], 15),
        ("seed=+7", ["seed"], 7),
        ("decode.alpha=1e0", ["decode", "alpha"], 1.0),
        ("decode.alpha=.5", ["decode", "alpha"], 0.5),
        ("decode.alpha=[-1.5e-1,5.]", ["decode", "alpha"], [-0.15, 5.0]),
        ("sft.eval_strategy=no", ["sft", "eval_strategy"], "no"),
        ("sft.save_strategy=no", ["sft", "save_strategy"], "no"),
        ("sft.bf16=True", ["sft", "bf16"], True),
        ("decode.bases.0.revision=~", ["decode", "bases", 0, "revision"], None),
        ("sft.optim_args=1:30", ["sft", "optim_args"], "1:30"),
        ("decode.bases.0.model=a/b", ["decode", "bases", 0, "model"], "a/b"),
        ("decode.bases.1.model=a/b", ["decode", "bases", 1, "model"], "a/b"),
        ("decode.bases=[{model: a/b}]", ["decode", "bases", 0, "model"], "a/b"),
    ],
)
def test_override_replaces(
    recipe_file: Path, override: str, keys: list[Any], expected: object
) -> None:
    value: Any = load_recipe(recipe_file, [override]).model_dump(mode="json")
    for key in keys:
        value = value[key]
    assert value == expected


def test_later_override_wins(recipe_file: Path) -> None:
    assert load_recipe(recipe_file, ["seed=2", "seed=3"]).seed == 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        # misspelt keys, wherever they stand
        ("sede=1", "sede (override): unknown key; did you mean seed?"),
        ("task.nam=facts", "task.nam (override): unknown key; did you mean task.name?"),
        ("sft.learning_rat=1", "unknown key; did you mean sft.learning_rate?"),
        ("sft.max_seq_length=9", "unknown key; did you mean sft.max_length?"),
        ("expert.adapter.lora_alhpa=1", "unknown key; did you mean expert.adapter.lora_alpha?"),
        ("decode.bases.0.modle=a/b", "unknown key; did you mean decode.bases.0.model?"),
        ("decode.reference_sft.max_step=1", "did you mean decode.reference_sft.max_steps?"),
        (
            "learning_rate=1",
            "learning_rate (override): unknown key; did you mean sft.learning_rate",
        ),
        ("alpha=1", "unknown key; did you mean decode.alpha?"),
        ("also=[{name: gsm8k, train: x}]", "also.0.train (override): unknown key; did you mean"),
        ("decode.experts=[{export: a/b}]", "unknown key; did you mean decode.experts.0.expert?"),
        (
            "task.judges={truth: {endpoint: {modle: x}}}",
            "task.judges.truth.endpoint.modle (override): unknown key; did you mean "
            "task.judges.truth.endpoint.model?",
        ),
        ("wandb.zzz=1", "unknown key; wandb has project, entity, group, tags, mode"),
        ("task.name.zzz=1", 'task.name.zzz (override): unknown key; task.name is a value, "facts"'),
        # wrong types and values
        ("sft.learning_rate=fast", 'sft.learning_rate (override): found "fast", expected a number'),
        ("sft.max_steps=1.5", "found 1.5, expected an integer"),
        ("sft.lr_scheduler_type=lineer", 'found "lineer", expected one of linear, cosine'),
        ("sft.eval_strategy=false", "sft.eval_strategy (override): found false, expected"),
        ("sft.bf16=no", 'sft.bf16 (override): found "no", expected true or false'),
        ("sft.packing_strategy=x", 'found "x", expected one of bfd'),
        ("sft.per_device_train_batch_size=-1", "found -1, expected at least 1"),
        ("expert.adapter.lora_alpha=x", 'found "x", expected an integer'),
        ("seed=true", "seed (override): found true; should be a valid integer"),
        ("seed=null", "seed (override): found null; should be a valid integer"),
        ("name=3", "name (override): found 3; should be a valid string"),
        ("task.name=gsm", "found \"gsm\"; should be 'facts', 'word_problems', 'gsm8k', "),
        ("task=facts", 'task (override): found "facts"; expected a section of keys'),
        ("sft=null", "sft (override): found null; expected a section of keys"),
        ("decode.batch_size=-1", "found -1; should be greater than or equal to 1"),
        ("decode.bases=[]", "decode.bases (override): found []; expected at least one"),
        ("decode.alpha=one", 'found "one"; expected a number or a list of at least one number'),
        ("decode.alpha=[]", "found []; expected a number or a list of at least one number"),
        ("decode.alpha=[1,x]", 'found [1, "x"]; expected a number or a list'),
        ("decode.alpha=[1,1.0]", "found [1, 1.0]; each alpha may be listed once"),
        ("decode.alpha=.nan", "found nan; expected a number below 3.4e+38"),
        ("sft.learning_rate=.inf", "found inf; expected a number below"),
        ("sft.weight_decay=-.inf", "found -inf; expected a number below"),
        ("expert.proxy_aware={alpha: 1e300}", "found 1e+300; expected a number below"),
        ("sft.learning_rate=-1e-3", "expected above 0 and at most 1"),
        ("sft.learning_rate=1e3", "expected above 0 and at most 1"),
        ("sft.weight_decay=-1.0", "found -1.0, expected at least 0"),
        ("decode.num_draft_tokens=many", 'found "many"; expected auto, or a number of at least 0'),
        ("decode.num_draft_tokens=-1", "found -1; expected auto, or a number of at least 0"),
        ("decode.alpha_warmup_tokens=-1", "found -1; should be greater than or equal to 0"),
        ("decode.experts=[{expert: a}]", "decode.experts.0.antiexpert (override): missing"),
        ("decode.top_p=0", "found 0; should be greater than 0"),
        ("decode.device=gpu", 'found "gpu"; expected auto, cpu, mps, cuda or cuda:N'),
        ("decode.bases.1.model=x/large", "found large, large; results are filed by this last part"),
        ("decode.bases.0={model: a/b, tuned: c/d, tune_reference: true}", "give one"),
        ("also=[{name: facts}]", "found facts, facts; each task may be evaluated once in a run"),
        ("task.judges={judge: {}}", "a judge is either an endpoint or a classifier; give one"),
        ("expert.trained=a/b", "found trained 'a/b' and an adapter to train; give one"),
        ("decode.num_samples=0", "found 0; should be greater than or equal to 1"),
        # keys that live elsewhere
        (
            "sft.output_dir=x",
            "sft.output_dir (override): not set here; give the recipe's own",
        ),
        ("sft.seed=1", "not set here; give the recipe's own seed"),
        ("sft.run_name=x", "not set here; the recipe's own name is the run's name"),
        ("sft.report_to=none", "not set here; see wandb.mode"),
        ("sft.hub_token=x", "recipes are saved with results and hold no secrets"),
        ("decode.reference_sft={seed: 1}", "decode.reference_sft.seed (override): not set here"),
        # keys that would do nothing
        ("expert.trained_revision=main", "expert.trained_revision (override): has no effect: it"),
        ("decode.bases.0.tuned_prompt=chat", "decode.bases.0.tuned_prompt (override): has no eff"),
        ("decode.reference_sft={max_steps: 3}", "decode.reference_sft (override): has no effect"),
        ("decode={bases: [{model: a/b}], batch_size: 1, alpha: 0, alpha_warmup_tokens: 4}", "is 0"),
        ("expert={model: a/b, dtype: auto, trained: c/d}", "sft: has no effect: expert.trained is"),
        ("wandb.tags=[a]", "wandb.tags (override): has no effect: wandb.project is not given"),
        ("wandb.mode=offline", "wandb.mode (override): has no effect: wandb.project is not given"),
        ("sft.resume_from_checkpoint=x", "a killed run goes on where it stopped by itself"),
        ("sft.do_eval=true", "not set here; see task.eval and proxy_check"),
        ("sft.assistant_only_loss=true", "not set here; the loss is on completions"),
        ("sft.eval_strategy=steps", 'found "steps", which has no effect: training evaluates'),
        ("sft.load_best_model_at_end=true", "see proxy_check, and proxy_check.select_by"),
        ("sft.save_strategy=best", 'sft.save_strategy (override): found "best", which has no eff'),
        ("sft.per_device_eval_batch_size=4", "found 4, which has no effect: training evaluates"),
        ("sft.hub_model_id=a/b", "has no effect without push_to_hub: true"),
        # malformed overrides
        ("seed", "override 'seed': expected section.key=value"),
        ("--seed=1", "override '--seed=1': expected section.key=value"),
        ("sft..x=1", "override 'sft..x=1': expected section.key=value"),
        ("seed=", "override 'seed=': no value; write seed=null for none"),
        ("decode.alpha=[1", "override 'decode.alpha=[1': line"),
        ("decode.bases.5.model=a/b", "found index '5', expected 0 to 1, which appends"),
        ("decode.bases.x=a/b", "found index 'x', expected 0 to 1, which appends"),
        # nothing is looked up
        ("name=${oc.env:HOME}", "name: found '${oc.env:HOME}'; recipes look nothing up"),
        ("sft.optim_args=${", "override 'sft.optim_args=${': "),
        # folders
        ("expert.model=./small", "expert.model (override): found './small', but there is no such"),
        ("expert.model=/small", "found '/small', but there is no such folder in "),
        ("expert.model=~/no/small", "no/small', but there is no such folder in "),
        ("expert.model=a/b/small", "found 'a/b/small', but there is no such folder in "),
        (
            "expert={model: a/b, dtype: auto, trained: ./x}",
            "expert.trained (override): found",
        ),
        (
            "decode.experts=[{expert: ./x, antiexpert: a/b, weight: 1}]",
            "decode.experts.0.expert",
        ),
        ("decode.bases.0.tuned=./x", "decode.bases.0.tuned (override): found './x', but there is"),
    ],
)
def test_wrong_override_is_one_line(recipe_file: Path, override: str, expected: str) -> None:
    assert expected in failure(recipe_file, override)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("task.train=x.jsonl", "task.train (override): has no effect: expert.trained is finished"),
        ("task.train_limit=4", "task.train_limit (override): has no effect"),
        ("task.streaming=true", "task.streaming (override): has no effect"),
        ("task.keep_eval_rows=true", "task.keep_eval_rows (override): has no effect"),
        ("mixture=[{task: gsm8k}]", "mixture (override): has no effect"),
        ("sft={max_steps: 1}", "sft (override): has no effect"),
        ("decode.reference_sft={max_steps: 1}", "decode.reference_sft (override): has no effect"),
    ],
)
def test_nothing_is_trained_with_a_finished_expert(
    recipe_file: Path, override: str, expected: str
) -> None:
    finished = ["expert={model: a/b, dtype: auto, trained: c/d, trained_revision: x}", "sft=null"]
    assert not load_recipe(recipe_file, finished).trains
    assert expected in failure(recipe_file, *finished, override)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["decode.top_p=0.9"], "decode.top_p: found 0.9, which has no effect on greedy decoding"),
        (["decode.top_k=5", "decode.temperature=0"], "decode.top_k: found 5, which has no effect"),
        (
            ["task.judges={truth: {classifier: {model: a/b, label: x}}}"],
            "task.judges.truth: 'facts' has no such judge; it has none",
        ),
    ],
)
def test_what_a_task_cannot_use_is_one_line(
    overrides: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from decode.stage.planning import plan

    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=expected):
        plan(load_recipe("recipes/mini/facts.yaml", overrides))


def test_switched_off_keys_may_stay(recipe_file: Path) -> None:
    off = ["wandb.project=null", "wandb.tags=[a]", "sft.eval_strategy=no", "decode.alpha=[0,1]"]
    assert load_recipe(recipe_file, [*off, "decode.alpha_warmup_tokens=2"]).wandb.tags == ("a",)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("learning_rate", "learning_rat", "sft.learning_rat: unknown key; did you mean sft.learn"),
        ("  model: owner/small\n", "", "expert.model: missing; this key has no default"),
        ("sft:\n  learning_rate: 3e-4\n", "", "sft: missing; this recipe trains, so it needs"),
        ("seed: 1\n", "", "seed: missing; this key has no default"),
        ("seed: 1", "sed: 1", "sed: unknown key; did you mean seed?"),  # rather than: missing
        ("r: 4", "r: four", 'expert.adapter.r: found "four", expected an integer'),
        ("name: toy", "name: [toy", "not valid YAML: line 2, column 5: "),
        (
            "seed: 1",
            "seed: 1\nseed: 2",
            "not valid YAML: line 3, column 1: found duplicate key",
        ),
        ("name: toy", "name: ${", "not valid YAML: "),
        (MINIMAL, "- toy\n", "a recipe is sections of `key: value`, found ['toy']"),
        (MINIMAL, "", "missing; this key has no default"),
    ],
)
def test_wrong_file_is_one_line(recipe_file: Path, old: str, new: str, expected: str) -> None:
    assert old in MINIMAL
    recipe_file.write_text(MINIMAL.replace(old, new, 1))
    assert expected in failure(recipe_file)


def test_missing_file_names_its_neighbour(recipe_file: Path) -> None:
    assert failure("toi.yaml") == "toi.yaml: no such recipe; did you mean toy.yaml?"
    assert "no such recipe (looked in " in failure("elsewhere/x.yaml")
    assert failure(".") == ".: found a folder, expected a recipe's .yaml file"


def test_model_folders(recipe_file: Path) -> None:
    Path("runs/small").mkdir(parents=True)
    override = "expert.model=runs/small"
    assert "found 'runs/small', a folder without config.json" in failure(recipe_file, override)
    assert "found 'runs/smal', but there" in failure(recipe_file, "expert.model=runs/smal")
    Path("runs/small/config.json").touch()
    assert load_recipe(recipe_file, [override]).expert.model == "runs/small"
    Path("runs/adapter").mkdir()
    Path("runs/adapter/adapter_config.json").touch()
    tuned = "decode.bases.0.tuned=runs/adapter"
    assert load_recipe(recipe_file, [tuned]).decode.bases[0].tuned == "runs/adapter"


def test_home_is_written_out_in_every_path(recipe_file: Path, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    home = tmp_path / "home"
    for name in ("small", "large", "tuned", "expert"):
        (home / name).mkdir(parents=True)
        (home / name / "config.json").touch()
    judge = "{classifier: {model: ~/small, label: x}}"
    paths = {
        "output_dir": "~/runs/toy",
        "task.train": "~/train.jsonl",
        "task.eval": "~/eval.jsonl",
        "task.judges": f"{{toxicity: {judge}}}",
        "also": "[{name: gsm8k, eval: ~/gsm.jsonl}]",
        "mixture": "[{task: gsm8k, rows: ~/gsm.jsonl}]",
        "expert.model": "~/small",
        "expert.proxy_aware.base": "~/large",
        "decode.bases": "[{model: ~/large, tuned: ~/tuned}, {model: owner/large2}]",
        "decode.experts": "[{expert: ~/expert, antiexpert: ~/small, weight: 1}]",
        "proxy_check.rows": "~/validation.jsonl",
        "analyze.trade_off": "[num_tokens, ~/runs/other:score]",
        "sft.chat_template_path": "~/chat.jinja",
    }
    overrides = [f"{key}={value}" for key, value in paths.items()]
    recipe = load_recipe(recipe_file, [*overrides, "name=~/toy", "wandb.project=~/p"])
    found = recipe.model_dump_json()
    assert recipe.output_dir == f"{home}/runs/toy"
    assert [base.slug for base in recipe.decode.bases] == ["large", "large2"]
    assert recipe.decode.bases[1].model == "owner/large2"
    assert recipe.analyze.trade_off == ("num_tokens", f"{home}/runs/other:score")
    assert (recipe.name, recipe.wandb.project) == ("~/toy", "~/p")
    num_paths = sum(value.count("~/") for value in paths.values())
    assert (found.count("~/"), found.count(f"{home}/")) == (2, num_paths)
    trained = load_recipe(
        recipe_file, ["expert.trained=~/expert", "expert.adapter=null", "sft=null"]
    )
    assert trained.expert.trained == f"{home}/expert"
    save_recipe(recipe, "saved.yaml")
    assert load_recipe("saved.yaml") == recipe
    said = failure(recipe_file, "output_dir=~nobody-here/runs")
    assert "output_dir (override): found '~nobody-here/runs', but ~nobody-here is nobody's" in said


def test_a_file_is_read_as_it_looks(recipe_file: Path) -> None:
    text = MINIMAL.replace("name: toy", "name: 1:30").replace("seed: 1", "seed: 010")
    text = text.replace("  learning_rate: 3e-4", "  learning_rate: 3e-4\n  save_strategy: no")
    judges = "  name: facts\n  judges:\n    on: {classifier: {model: a/b, label: no}}\n"
    recipe_file.write_text(text.replace("  name: facts\n", judges))
    recipe = load_recipe(recipe_file)
    assert (recipe.name, recipe.seed) == ("1:30", 10)
    assert recipe.sft == {"learning_rate": 3e-4, "save_strategy": "no"}
    (judge,) = recipe.task.judges.items()
    assert judge[0] == "on" and judge[1].classifier is not None
    assert judge[1].classifier.label == "no"


@pytest.mark.parametrize(
    "name",
    ["1:30", "no", "on", "010", "09", "0o17", "1e3", "1_0", "2024-01-02", "~", "null", "y", "é: #"],
)
def test_a_saved_text_stays_text(recipe_file: Path, name: str) -> None:
    recipe = load_recipe(recipe_file, [f"name={json.dumps(name)}"])
    save_recipe(recipe, "saved.yaml")
    assert load_recipe("saved.yaml") == recipe
    if name != "1_0":
        assert yaml.safe_load(Path("saved.yaml").read_text("utf-8"))["name"] == name


@pytest.mark.parametrize("overrides", [[], ["decode.alpha=[0.5,1]", "sft.eval_strategy='no'"]])
def test_saved_recipe_loads_equal(recipe_file: Path, overrides: list[str]) -> None:
    recipe = load_recipe(recipe_file, overrides)
    save_recipe(recipe, "saved.yaml")
    assert load_recipe("saved.yaml") == recipe
    assert sorted(path.name for path in Path().iterdir()) == ["saved.yaml", "toy.yaml"]


def test_recipe_is_frozen(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 2  # pyright: ignore[reportAttributeAccessIssue]


def test_every_field_is_described() -> None:
    judges = (JudgeChoice, EndpointChoice, ClassifierChoice)
    for section in (
        TaskChoice,
        Expert,
        Base,
        MoreExpert,
        Decode,
        Analyze,
        ProxyCheck,
        Wandb,
        Recipe,
        *judges,
    ):
        for name, field in section.model_fields.items():
            is_section = name in ("task", "expert", "decode", "analyze", "wandb")
            assert field.description or is_section, f"{section.__name__}.{name}"
