"""Every recipe loads and builds its trainer's configs; every mistake is one clear line."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import ValidationError

from data import TASKS
from data.judges.endpoint import Endpoint
from decode.models.chat import PromptForm
from decode.stage.recipe_models import lineup_of
from recipes.schema.endpoint_base import EndpointBase
from recipes.schema.folders import slug
from recipes.schema.keys import lora_class, sft_class
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
from recipes.schema.tasks import ClassifierChoice, EndpointChoice, HarnessTask, JudgeChoice
from train.rows.sources import _say_what_disagrees

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
    from trl import DPOConfig, SFTConfig

    monkeypatch.chdir(ROOT)
    recipe = load_recipe(path.relative_to(ROOT))
    assert recipe.trains == bool(recipe.trainer)
    kind = {"sft": SFTConfig, "dpo": DPOConfig}[recipe.method]
    own = getattr(recipe.decode, f"reference_{recipe.method}") or {}
    for keys in [recipe.trainer, {**recipe.trainer, **own}] * recipe.trains:
        on_cpu = {**keys, "use_cpu": True, "bf16": False}
        config = kind(output_dir=str(tmp_path), seed=recipe.seed, report_to="none", **on_cpu)
        assert config.learning_rate == keys["learning_rate"]
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
    ours = [one for one in recipe.evaluations if not isinstance(one, HarnessTask)]
    for evaluation in ours:
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


def test_a_judge_is_not_asked_for_ever() -> None:
    with pytest.raises(ValidationError, match="num_retries"):
        EndpointChoice(base_url="http://x/v1", model="m", num_retries=101)
    assert EndpointChoice(base_url="http://x/v1", model="m", num_retries=100).num_retries == 100


def test_endpoint_keys_are_the_endpoints_own() -> None:
    """Keys left out have the endpoint's defaults, which the descriptions repeat."""
    fields = {field.name: field for field in dataclasses.fields(Endpoint)}
    assert set(EndpointChoice.model_fields) == set(fields)
    assert set(fields) - set(EndpointBase.model_fields) == {"base_url"}  # there it is endpoint
    defaults = {**EndpointBase.model_fields, **EndpointChoice.model_fields}
    for name, field in defaults.items():
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
        ("sft.model_init_kwargs.a=2", ["sft", "model_init_kwargs"], {"a": 2}),
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
        ("sft.chat_template_path=1:30", ["sft", "chat_template_path"], "1:30"),
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


def test_a_prompt_is_a_word_or_a_chat_for_every_role(recipe_file: Path, tmp_path: Path) -> None:
    chat = "{system: Be brief., template: {enable_thinking: false, effort: [1]}, prefix: It is}"
    overrides = [
        "expert.prompt=chat",
        f"expert.antiexpert_prompt={chat}",
        f"decode.bases.0.prompt={chat}",
        "decode.thinking={max_tokens: 64}",
    ]
    made = load_recipe(recipe_file, overrides)
    save_recipe(made, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == made
    lineup = lineup_of(made)
    form = PromptForm(True, "Be brief.", "It is", {"enable_thinking": False, "effort": [1]})
    assert lineup.contenders[0].prompt == lineup.antiexpert_prompt == form
    assert lineup.expert_prompt == PromptForm(True)
    plain = lineup_of(load_recipe(recipe_file))
    assert plain.contenders[0].prompt == plain.expert_prompt == PromptForm()
    behind = "decode.bases.1={endpoint: 'http://127.0.0.1:1/v1', model: b, top_logprobs: 5}"
    assert "decode.thinking (override): needs bases that" in failure(
        recipe_file, behind, "decode.thinking={}"
    )
    aware = ("expert.proxy_aware={}", "decode.bases.0.prompt=chat")
    assert "decode.bases.0.prompt (override): expert.proxy_aware" in failure(recipe_file, *aware)
    assert "proxy_check asks for" in failure(
        recipe_file, "proxy_check={num_rows: 2}", "decode.thinking={}"
    )


@pytest.mark.parametrize(
    ("overrides", "is_chat", "told"),
    [
        ([], True, ["the expert learns from chats, and will be asked without"]),
        (["expert.prompt=chat"], True, []),
        (["expert.prompt=chat"], False, ["the expert learns from raw prompts, and will be asked"]),
        (["expert.prompt={system: Be brief.}"], True, ["learns from the rows' own"]),
        (["decode.bases.0.tune_reference=true"], False, []),
        (
            ["decode.bases.0={model: a/large, tune_reference: true, tuned_prompt: chat}"],
            False,
            ["the directly tuned large learns from raw prompts"],
        ),
        (["expert={model: a/b, dtype: auto, trained: c/d, prompt: chat}", "sft=null"], False, []),
    ],
)
def test_a_model_asked_otherwise_than_it_learns_is_told_of(
    recipe_file: Path,
    caplog: pytest.LogCaptureFixture,
    overrides: list[str],
    is_chat: bool,
    told: list[str],
) -> None:
    _say_what_disagrees(load_recipe(recipe_file, overrides), is_chat)
    assert len(caplog.messages) == len(told)
    assert all(words in said for words, said in zip(told, caplog.messages, strict=True))


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
        ("task.name=gsm", "found \"gsm\"; should be 'facts', 'word_problems', 'refusals', "),
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
        ("sft.learning_rate=-1e-3", "expected above 0"),
        ("sft.learning_rate=1e3", "expected at most 1"),
        ("sft.max_length=1", "sft.max_length (override): found 1, expected at least 2"),
        ("sft.max_steps=0", "sft.max_steps (override): found 0, expected above 0"),
        ("sft.num_train_epochs=0", "sft.num_train_epochs (override): found 0, expected above 0"),
        ("sft.save_steps=-1", "sft.save_steps (override): found -1, expected above 0"),
        ("sft.data_seed=-3", "sft.data_seed (override): found -3, expected at least 0"),
        ("expert.adapter={r: 0}", "expert.adapter.r (override): found 0, expected at least 1"),
        ("seed=-1", "seed (override): found -1; should be greater than or equal to 0"),
        ("seed=4294967296", "should be less than or equal to 4294967295"),
        ("wandb.project=team/runs", "wandb.entity is the team, wandb.project the project in it"),
        ("wandb.entity=a?b", "wandb.entity (override): found"),
        ("wandb={project: ''}", "W&B takes 1 to 128 printable characters"),
        (f"wandb.project={'x' * 129}", "W&B takes 1 to 128 printable characters"),
        ("wandb={project: p, group: ''}", "W&B takes 1 to 128 printable characters"),
        ("sft.weight_decay=-1.0", "found -1.0, expected at least 0"),
        ("decode.num_draft_tokens=many", 'found "many"; expected auto, or a number of at least 0'),
        ("decode.num_draft_tokens=-1", "found -1; expected auto, or a number of at least 0"),
        ("decode.rule.warmup_tokens=-1", "found -1; should be greater than or equal to 0"),
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
        ("expert.prompt=chatt", "found \"chatt\"; should be 'raw' or 'chat'"),
        ("expert.prompt={sistem: a}", "expert.prompt.sistem (override): unknown key; did you mean"),
        ("expert.antiexpert_prompt={prefix: 3}", "antiexpert_prompt.prefix (override): found 3; "),
        ("decode.bases.0.prompt={template: a}", "decode.bases.0.prompt.template (override): found"),
        ("decode.bases.0.prompt={templat: {}}", "did you mean decode.bases.0.prompt.template?"),
        ("decode.thinking={start: <a>}", "start and end go together; give both"),
        ("decode.thinking={max_tokens: 0}", "decode.thinking.max_tokens (override): found 0; sh"),
        ("decode.thinking={max_token: 9}", "did you mean decode.thinking.max_tokens?"),
        # keys that would do nothing
        ("expert.trained_revision=main", "expert.trained_revision (override): has no effect: it"),
        ("decode.bases.0.tuned_prompt=chat", "decode.bases.0.tuned_prompt (override): has no eff"),
        (
            "decode={vocabulary: matched, num_draft_tokens: 4, batch_size: 1, bases: [{model: a}]}",
            "decode.num_draft_tokens (override): has no effect: with decode.vocabulary matched",
        ),
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
        ("sft.hub_model_id=a/b", "has no effect: it is for push_to_hub: true"),
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


def test_keys_without_effect_for_one_reason_are_named_together(recipe_file: Path) -> None:
    finished = "expert={model: a/b, dtype: auto, trained: c/d}"
    message = failure(recipe_file, finished, "task.train=x.jsonl", "task.train_limit=4")
    assert message.endswith("leave it out, and likewise task.train, task.train_limit")
    assert failure(recipe_file, finished).endswith("leave it out")


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


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            "{max_steps: 3, num_train_epochs: 2}",
            "num_train_epochs (override): has no effect: sft.max_",
        ),
        ("{logging_strategy: epoch, logging_steps: 1}", "it is for logging_strategy: steps"),
        ("{save_strategy: 'no', save_steps: 5}", "sft.save_steps (override): has no effect"),
        ("{packing_strategy: wrapped}", "has no effect: it is for packing: true"),
        ("{lr_scheduler_type: constant, warmup_steps: 0.1}", "see constant_with_warmup"),
        (
            "{warmup_ratio: 0.1, warmup_steps: 4}",
            "sft.warmup_ratio (override): unknown key; did you",
        ),
        ("{lr_scheduler_kwargs: {num_cycles: 2}}", "found num_cycles; linear takes none"),
        (
            "{lr_scheduler_type: constant_with_warmup, lr_scheduler_kwargs: {power: 2}}",
            "sft.lr_scheduler_kwargs (override): found power; constant_with_warmup takes none",
        ),
        (
            "{lr_scheduler_type: cosine_with_min_lr}",
            "expected one of min_lr and min_lr_rate; cosine",
        ),
        (
            "{lr_scheduler_type: warmup_stable_decay}",
            "num_decay_steps is missing; warmup_stable_dec",
        ),
        ("{lr_scheduler_type: greedy}", "training evaluates nothing of TRL's own"),
        ("{lr_scheduler_type: reduce_lr_on_plateau}", "training evaluates nothing of TRL's own"),
        ("{lr_scheduler_kwargs: '{}'}", "expected a mapping"),
        ("{model_init_kwargs: '{}'}", "sft.model_init_kwargs (override): found"),
        (
            "{optim: sgd, adam_beta2: 0.5}",
            "sft.adam_beta2 (override): has no effect: the optimizer",
        ),
        (
            "{optim: adafactor, adam_epsilon: 1.0}",
            "the optimizer of sft.optim is not of Adam's kind",
        ),
        ("{optim_args: eps=1}", "the optimizer of sft.optim takes none; see adam_beta1"),
        ("{optim_target_modules: [q_proj]}", "it is for the GaLore and APOLLO optimizers"),
        ("{loss_type: dft, label_smoothing_factor: 0.1}", "it is for loss_type: nll"),
        (
            "{gradient_checkpointing: false, gradient_checkpointing_kwargs: {use_reentrant: true}}",
            "it is for activation_checkpointing: true",
        ),
        ("{liger_kernel_config: {rope: true}}", "it is for use_liger_kernel: true"),
        ("{fsdp_config: {min_num_params: 1}}", "it is for fsdp"),
        ("{dataloader_prefetch_factor: 2}", "it is for dataloader_num_workers"),
        ("{dataloader_persistent_workers: true}", "it is for dataloader_num_workers"),
        ("{label_names: [labels]}", "sft.label_names (override): not set here; a row's labels are"),
        ("{length_column_name: a}", "not set here; a row is as long as its tokens"),
        ("{remove_unused_columns: false}", "not set here; rows have no columns but their tokens"),
        ("{dataset_kwargs: {skip_prepare_dataset: true}}", "see sft.max_length"),
        (
            "{restore_callback_states_from_checkpoint: true}",
            "a killed run goes on where it stopped",
        ),
        ("{save_only_model: true}", "without its optimizer; leave it out"),
        ("{enable_jit_checkpoint: true}", "SIGTERM always saves a checkpoint"),
        ("{ignore_data_skip: true}", "would learn its first rows again; leave it out"),
    ],
)
def test_trainer_keys_without_effect_are_one_line(
    recipe_file: Path, keys: str, expected: str
) -> None:
    assert expected in failure(recipe_file, f"sft={keys}")
    base = "decode.bases.0={model: a/b, tune_reference: true}"
    said = failure(recipe_file, base, f"decode.reference_sft={keys}")
    assert "decode.reference_sft." in said and expected.rpartition("(override): ")[2] in said


def test_what_a_reference_overrides_is_judged_with_the_rest(recipe_file: Path) -> None:
    base = "decode.bases.0={model: a/b, tune_reference: true}"
    epochs = [base, "sft={num_train_epochs: 2}"]
    assert load_recipe(recipe_file, [*epochs, "decode.reference_sft={max_steps: 3}"]).sft == {
        "num_train_epochs": 2
    }
    steps = [base, "sft={max_steps: 3, logging_strategy: epoch}"]
    said = failure(recipe_file, *steps, "decode.reference_sft={num_train_epochs: 2}")
    assert "decode.reference_sft.num_train_epochs (override): has no effect" in said
    load_recipe(recipe_file, [*steps, "decode.reference_sft={logging_steps: 10}"])  # the default
    strategy = "decode.reference_sft={logging_steps: 4, logging_strategy: steps}"
    load_recipe(recipe_file, [*steps, strategy])


def test_null_leaves_a_trainer_key_to_trl(recipe_file: Path) -> None:
    given = ["sft={num_train_epochs: 2, max_length: null}", "sft.max_steps=3"]
    assert "or null" in failure(recipe_file, *given)
    found = load_recipe(recipe_file, [*given, "sft.num_train_epochs=null"])
    assert found.sft == {"max_length": None, "max_steps": 3}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            "{task_type: SEQ_CLS}",
            'expert.adapter.task_type (override): found "SEQ_CLS", expected CAU',
        ),
        ("{peft_type: IA3}", 'found "IA3", expected LORA'),
        ("{inference_mode: true}", "not set here; the adapter is trained"),
        ("{revision: main}", "not set here; see expert.revision"),
        ("{base_model_name_or_path: a/b}", "not set here; see expert.model"),
        ("{eva_config: {rho: 2.0}}", "it is for init_lora_weights: eva"),
        ("{loftq_config: {loftq_bits: 4}}", "it is for init_lora_weights: loftq"),
        ("{qalora_group_size: 8}", "it is for use_qalora: true"),
    ],
)
def test_adapter_keys_without_effect_are_one_line(
    recipe_file: Path, keys: str, expected: str
) -> None:
    assert expected in failure(recipe_file, f"expert.adapter={keys}")


def test_a_folder_has_no_revision(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    here = f"model: {tmp_path}, revision: main"
    judge = f"{{j: {{classifier: {{{here}, label: x}}}}}}"
    for key, override in {
        "expert.revision": f"expert={{{here}, dtype: auto}}",
        "expert.trained_revision": f"expert={{model: a/b, dtype: auto, trained: {tmp_path}, "
        "trained_revision: main}",
        "expert.proxy_aware.revision": f"expert.proxy_aware={{base: {tmp_path}, revision: main}}",
        "decode.bases.0.revision": f"decode.bases=[{{{here}}}]",
        "task.judges.j.classifier.revision": f"task.judges={judge}",
        "also.0.judges.j.classifier.revision": f"also=[{{name: toxigen, judges: {judge}}}]",
    }.items():
        said = failure(recipe_file, override)
        assert f": {key} (override): has no effect: '{tmp_path}' is a folder here" in said
    missing = "task.judges={j: {classifier: {model: ./no, label: x}}}"
    assert "task.judges.j.classifier.model (override): found './no'" in failure(
        recipe_file, missing
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["analyze.alpha=2"], "analyze.alpha (override): found 2, and decode.alpha is 1"),
        (["decode.alpha=[0.5,1]", "analyze.alpha=0.7"], "found 0.7, and decode.alpha is 0.5, 1"),
        (["proxy_check.alpha=0"], "proxy_check.alpha (override): at alpha 0 an expert steers noth"),
        (
            ["proxy_check={}", "decode.alpha=0"],
            "proxy_check.alpha (override): at alpha 0 an expert",
        ),
        (
            ["decode.alpha=0", "decode.experts=[{expert: a/b, antiexpert: c/d, weight: 1}]"],
            "decode.experts (override): has no effect: decode.alpha is 0",
        ),
        (
            ["decode.experts=[{expert: a/b, antiexpert: c/d, weight: 0}]"],
            "decode.experts.0 (override): has no effect: its weight is 0",
        ),
        (
            [
                "task.scoring=paper",
                "task.judges={j: {classifier: {model: a, label: x}}}",
            ],
            "judges have no effect: scoring: paper asks none; leave them out",
        ),
        (
            ["task.streaming=true", "sft={max_steps: 2, train_sampling_strategy: sequential}"],
            "sft.train_sampling_strategy (override): has no effect: task.streaming keeps",
        ),
    ],
)
def test_keys_of_a_recipe_that_do_nothing_are_one_line(
    recipe_file: Path, overrides: list[str], expected: str
) -> None:
    assert expected in failure(recipe_file, *overrides)


def test_every_key_of_the_trainer_is_known_to_the_table() -> None:
    """A key that a new version drops or renames leaves the table with it."""
    from recipes.schema import trainer_keys as table

    names = {field.name for field in dataclasses.fields(sft_class())}
    known = {*table.OURS, *table.OF_EVALUATION, *table.UNFIT, *table.IDLE, *table.WAITING}
    assert known <= names
    names = {field.name for field in dataclasses.fields(lora_class())}
    assert {*table.OURS_OF_LORA, *table.IDLE_OF_LORA, *table.LORA_ONLY} <= names


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
    recipe = load_recipe(recipe_file, [*overrides, "name=~/toy", "wandb={project: p, group: ~/g}"])
    found = recipe.model_dump_json()
    assert recipe.output_dir == f"{home}/runs/toy"
    assert [base.slug for base in recipe.decode.bases] == ["large", "large2"]
    assert recipe.decode.bases[1].model == "owner/large2"
    assert recipe.analyze.trade_off == ("num_tokens", f"{home}/runs/other:score")
    assert (recipe.name, recipe.wandb.group) == ("~/toy", "~/g")
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
        EndpointBase,
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
