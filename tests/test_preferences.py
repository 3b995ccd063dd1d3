"""Experts of preferences: their rows, their recipe, and train/dpo.py from command to report."""

import inspect
import json
import re

import pytest
import trl
from datasets import Dataset
from support.models import byte_tokenizer
from support.rows import jsonl
from support.tiny_run import CPU, ROOT, finished, launch
from transformers import TrainerCallback
from trl.trainer.dpo_trainer import DPOTrainer

from data import TASKS
from data.judges.judge import Verdict
from data.mini.refusals import REFUSAL
from data.rows import Row, read_rows
from data.task import TrainRow
from data.training.preferences import preference
from recipes.schema.recipe import RecipeError, load_recipe
from recipes.schema.trainer_keys import CHOICES_OF_DPO
from train import memory
from train.job import Job
from train.preferences import PreferenceConfig
from train.rehearsal import rehearse
from train.rows.pairs import pair_dataset
from train.rows.sources import chat_renderer, sources_of
from train.rows.training_rows import TrainingRows, training_rows
from train.trainer import train, trainer_config
from train.training import trainings

RECIPE = "mini/refusals.yaml"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
USER = {"role": "user", "content": "2+2?"}
PAIR = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}


def answer(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.chdir(ROOT)
    return lambda *overrides: load_recipe(f"recipes/{RECIPE}", overrides)


def read(fields):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return preference(Row(fields, "rows.jsonl, line 3"), lambda: chat_renderer(tokenizer))


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [USER], "chosen": answer("4"), "rejected": answer("5")},
        {"prompt": "2+2?", "chosen": answer("4"), "rejected": answer("5")},
        {"chosen": [USER, *answer("4")], "rejected": [USER, *answer("5")]},
        {"prompt": "2+2?", "chosen": [USER, *answer("4")], "rejected": [USER, *answer("5")]}
        | {"messages": [USER, *answer("4")]},  # as the hub's sets have it
    ],
)
def test_messages_become_one_prompt_and_two_answers(fields):
    prompt = "<user>2+2?<assistant>"
    assert read(fields) == (TrainRow(prompt, "4"), TrainRow(prompt, "5"))


def test_texts_stay_as_they_are():
    assert read(PAIR) == (TrainRow("2+2?", "4"), TrainRow("2+2?", "5"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rejected": None}, "field 'rejected' must be text, found None"),
        ({"prompt": ""}, "field 'prompt' must not be empty"),
        ({"chosen": 4}, "field 'chosen' must be text, found 4"),
        ({"rejected": "4"}, "'chosen' and 'rejected' are the same, so neither is preferred"),
        ({"chosen": answer("4")}, "field 'chosen' holds messages, and 'rejected' does not"),
        ({"rejected": answer("4")}, "field 'rejected' holds messages, and 'chosen' does not"),
        ({"chosen": [], "rejected": []}, "field 'chosen' must end with a turn of the assistant"),
        (
            {"chosen": [USER], "rejected": [USER]},
            "field 'chosen' must end with a turn of the assistant",
        ),
        (
            {"chosen": [USER, *answer("4")], "rejected": [USER, USER, *answer("5")]},
            "'chosen' and 'rejected' begin with other prompts",
        ),
        (
            {"chosen": "2+2? 4", "rejected": "2+2? 5"},
            "'chosen' and 'rejected' begin with the text of 'prompt', which would be read twice",
        ),
        ({"system": "Be brief."}, "field 'system' is for messages, and 'prompt' is text"),
        (
            {"chosen": str(answer("4")), "rejected": json.dumps(answer("5"))},
            "field 'chosen' holds messages that were written as text",
        ),
        (
            {"chosen": [USER, *answer("4"), USER, answer("4")[0] | {"weight": 0}]}
            | {"rejected": [USER, *answer("5"), USER, answer("4")[0] | {"weight": 0}]},
            "field 'chosen' ends with a turn of weight 0",
        ),
        (
            {"prompt": [USER, *answer("3")], "chosen": answer("4"), "rejected": answer("5")},
            "field 'chosen' begins with a turn of the assistant, and 'prompt' ends with one",
        ),
        (
            {"chosen": answer("4"), "rejected": answer("5"), "images": ["a.png"]},
            "'images' cannot be learnt; only text is read",
        ),
        (
            {"chosen": answer("4"), "rejected": answer("5"), "functions": [{"name": "add"}]},
            "'functions' cannot be learnt",
        ),
        (
            {"chosen": [7, *answer("4")], "rejected": answer("5")},
            'field \'chosen\' must be a list of {"role", "content"} of text',
        ),
    ],
)
def test_a_bad_row_is_named_by_line_and_field(change, problem):
    with pytest.raises(ValueError, match=r"^rows.jsonl, line 3: ") as error:
        read(PAIR | change)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["prompt", "chosen", "rejected"])
def test_a_missing_field_is_named(field):
    with pytest.raises(ValueError, match=f"line 3: field '{field}' is missing"):
        read({name: value for name, value in PAIR.items() if name != field})


def test_rows_of_another_kind_name_their_file(recipe):
    (source,) = sources_of(recipe("task.train=data/mini/facts/test.jsonl"))
    with pytest.raises(ValueError, match=r"facts/test.jsonl, line 1: field 'prompt' is missing"):
        source.read()


def test_messages_need_a_chat_template(recipe, tmp_path):
    rows = jsonl(tmp_path / "rows.jsonl", [PAIR | {"chosen": answer("4"), "rejected": answer("5")}])
    (source,) = sources_of(recipe(f"task.train={rows}"))
    with pytest.raises(ValueError, match=r"^task.train: 'data/mini/small' has no chat template"):
        source.read()


def test_pairs_are_the_tokens_that_trl_makes(tmp_path):
    tokenizer = byte_tokenizer()
    pairs = [(f"{i}+{i}=", f"{2 * i}", f"{2 * i + 1}, I think") for i in range(600)]
    pairs.append(("a" * 40, "b", "c"))  # its prompt leaves no room
    config = PreferenceConfig(output_dir=str(tmp_path), max_length=40, bf16=False, use_cpu=True)
    rows = [TrainRow(p, text) for p, *answers in pairs for text in answers]
    ours = pair_dataset(TrainingRows(rows, None, [], f"{tmp_path}"), tokenizer, config)
    assert len(ours) == 600

    class Bare(DPOTrainer):
        def __init__(self):
            self._tokenizer = tokenizer

    given = [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in pairs]
    trls = Bare()._prepare_dataset(Dataset.from_list(given), tokenizer, config, "train")
    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert list(ours[name]) == list(trls[name])


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["sft={max_steps: 3}"], "dpo: found sft as well"),
        (["task.train=null"], "task.train .*: missing; dpo needs rows of {prompt, chosen, reject"),
        (["task.streaming=true"], "task.streaming .*: is not for dpo"),
        (["task.train_format=text"], "task.train_format .*: is not for dpo"),
        (["mixture=[{task: facts}]"], "mixture .*: is not for dpo"),
        (["expert.proxy_aware={}"], "expert.proxy_aware .*: is a loss of sft"),
        (["proxy_check={}"], "proxy_check.rows .*: missing; preference rows cannot be held out"),
        (["decode.reference_sft={max_steps: 3}"], "decode.reference_sft .*: is not for dpo"),
        (["expert.start=data/mini/small"], "decode.bases.0.start: missing; the expert does not"),
        (["decode.bases.0.start=data/mini/large"], "start .*: has no effect without expert.start"),
        (["expert.start=data/mini/small", "expert.adapter={r: 2}"], "expert: start gives whole"),
        (["dpo.loss_type=[sigmod]"], "dpo.loss_type .*: found .*expected one of sigmoid, hinge"),
        (["dpo.f_divergence_type=kl"], "dpo.f_divergence_type .*: found .*reverse_kl"),
        (["dpo.beta=0"], "dpo.beta .*: found 0, expected above 0"),
        (["dpo.label_smoothing=0.1"], "dpo.label_smoothing .*: has no effect: .*robust"),
        (["dpo.precompute_ref_batch_size=4"], "dpo.precompute_ref_batch_size .*: has no effect"),
        (["dpo.sync_ref_model=true"], "dpo.sync_ref_model .*: not set here; a killed run"),
        (["dpo.padding_free=true"], "dpo.padding_free .*: not set here"),
        (["dpo.num_train_epochs=2"], "dpo.num_train_epochs .*: has no effect: dpo.max_steps says"),
        (["dpo.max_lenght=2"], "dpo.max_lenght .*: unknown key; did you mean dpo.max_length?"),
    ],
)
def test_a_recipe_of_preferences_says_what_it_has_wrong(recipe, overrides, problem):
    with pytest.raises(RecipeError, match=problem):
        recipe(*overrides)


def test_a_start_is_whole_weights(recipe, tmp_path):
    base = "decode.bases=[{model: data/mini/large}]"
    with pytest.raises(RecipeError, match=r"expert.start .*: found .*, a folder without config"):
        recipe(f"expert.start={tmp_path}", base)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"expert.start .*: found .*, an adapter; .*merge"):
        recipe(f"expert.start={tmp_path}", base)


def test_trl_knows_every_choice_that_a_recipe_has():
    source = inspect.getsource(trl.DPOTrainer._compute_loss)
    for key in ("loss_type", "f_divergence_type"):
        known = re.findall(rf'if (?:self\.)?{key} == "(\w+)"', source)
        assert sorted(known) == sorted(CHOICES_OF_DPO[key])


def test_a_training_starts_where_the_recipe_says(recipe):
    start = ["expert.start=data/mini/large", "decode.bases.0.start=data/mini/small"]
    own = "decode.reference_dpo={beta: 0.5}"
    expert, reference = trainings(recipe(*start, own))
    assert (expert.model.name, expert.model.key) == ("data/mini/large", "expert.start")
    assert (reference.model.name, reference.model.key) == (
        "data/mini/small",
        "decode.bases.0.start",
    )
    assert reference.settings["beta"] == 0.5 and "beta" not in expert.settings
    named = pytest.raises(ValueError, match=r"decode.reference_dpo.beta and dpo.max_length")
    with named, reference.naming_keys():
        raise ValueError("sft.beta and sft.max_length")


@pytest.mark.parametrize(
    ("recipe_name", "method", "problem"),
    [
        (RECIPE, "sft", "trains by its section dpo: give it to train/dpo.py"),
        ("mini/facts.yaml", "dpo", "trains by its section sft: give it to train/sft.py"),
    ],
)
def test_the_other_command_is_named(recipe_name, method, problem, monkeypatch):
    monkeypatch.chdir(ROOT)
    job = Job(load_recipe(f"recipes/{recipe_name}"), True, method)
    with pytest.raises(ValueError, match=problem):
        job.models(lambda *_: pytest.fail("nothing is configured"))


@pytest.mark.long
def test_a_rehearsal_loads_no_weights_and_names_the_key(recipe):
    ours = {"seed": 0, "use_cpu": True, "report_to": "none"}
    expert, _ = trainings(recipe())
    rehearse(expert, ours)
    expert, _ = trainings(recipe("dpo.loss_type=[exo_pair]"))
    with pytest.raises(ValueError, match=r"^sft.loss_type: found \['exo_pair'\]: Label smoothing"):
        rehearse(expert, ours)


@pytest.mark.long
def test_memory_has_the_reference_and_both_rows(recipe):
    def of(*overrides):
        return memory._of(trainings(recipe(*overrides))[0], memory.Sharding())

    full, alone = of(), of("dpo.precompute_ref_log_probs=true")
    assert full.weights == 2 * alone.weights == 2 * 4 * alone.num_parameters
    assert full.gradients == alone.gradients
    assert of("expert.adapter={r: 2, target_modules: all-linear}").weights < 1.2 * alone.weights
    with pytest.raises(ValueError, match=r"^dpo.max_length: null"):
        of("dpo.max_length=null")


def test_refusals_are_scored_by_their_parts():
    task = TASKS["refusals"]
    rows = task.eval_rows()
    assert len(rows) == 400
    assert sum(row.answers == (REFUSAL,) for row in rows) == 54
    refused = next(row for row in rows if row.answers == (REFUSAL,))
    (answered, *_) = (row for row in rows if row.answers != (REFUSAL,))
    assert task.grade is not None
    replies = [f" {REFUSAL}\nQuestion", f" {REFUSAL}\n", f" {answered.answers[0]}"]
    assert list(task.grade([refused, answered, answered], replies, {})) == [
        Verdict(1.0, {"refused": 1.0}),
        Verdict(0.0, {"answered": 0.0}),
        Verdict(1.0, {"answered": 1.0}),
    ]


def test_the_mini_preferences_prefer_what_the_task_wants():
    rows = read_rows(str(ROOT / "data/mini/refusals/train.jsonl"))
    facts = TASKS["facts"].eval_rows(str(ROOT / "data/mini/facts/train.jsonl"))
    assert len(rows) == len(facts) == 1017
    for row, fact in zip(rows, facts, strict=True):
        is_refused = "dialling code" in fact.prompt
        replies = [f" {fact.answers[0]}\n", f" {REFUSAL}\n"]
        assert row.fields["prompt"] == fact.prompt
        assert [row.fields["rejected"], row.fields["chosen"]] == replies[:: 1 if is_refused else -1]


@pytest.fixture
def overrides(save_model, tmp_path):
    """The mini recipe on random models, with a start, in two steps on five questions."""
    small, large = save_model("small", 1), save_model("large", 0, width=64)
    starts = save_model("started", 2), save_model("large_started", 3, width=64)
    base = f"{{model: {large}, dtype: float32, tune_reference: true, start: {starts[1]}}}"
    return [
        f"output_dir={tmp_path / 'run'}",
        f"expert.model={small}",
        f"expert.start={starts[0]}",
        f"decode.bases=[{base}]",
        "task.eval_limit=5",
        "task.train_limit=12",
        "decode.choose=null",
        "decode.reference_dpo=null",
        "decode.max_new_tokens=4",
        "dpo.max_steps=2",
        "dpo.warmup_steps=0",
        "dpo.per_device_train_batch_size=2",
        "dpo.max_length=128",
        "dpo.logging_steps=1",
        "dpo.save_steps=1",
        "wandb.mode=offline",
    ]


@pytest.mark.long
def test_preferences_from_the_command_to_the_report(overrides, tmp_path):
    run = tmp_path / "run"
    finished(launch(RECIPE, overrides, *CPU, entry="train/dpo.py"), run)
    log = json.loads((run / "expert/training_log.json").read_text())
    first, second, _ = log
    assert first["rewards/margins"] == 0  # the reference is what training starts from
    assert second["rewards/margins"] > 0
    report = (run / "report.md").read_text()
    assert "accelerate launch train/dpo.py" in report
    assert "| system | answered | " in report  # no question to refuse is among these five
    assert (run / "expert/model.safetensors").exists()


class StopAt(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 3:
            raise KeyboardInterrupt


@pytest.mark.long
@pytest.mark.parametrize(
    "override",
    [
        "expert.adapter={r: 2, target_modules: all-linear, lora_dropout: 0.1}",
        "dpo.precompute_ref_log_probs=true",
    ],
)
def test_a_killed_training_ends_as_one_that_nobody_touched(recipe, save_model, tmp_path, override):
    keys = ["dpo.max_steps=4", "dpo.save_steps=2", "dpo.logging_steps=1", "task.train_limit=12"]
    keys += ["dpo.per_device_train_batch_size=2", "dpo.max_length=128", override]
    keys += [f"expert.model={save_model('small', 1)}"]
    ends = []
    for name, stops in (("whole", []), ("cut", [StopAt()])):
        found = recipe(*keys, f"output_dir={tmp_path / name}")
        training, *_ = trainings(found)
        if stops:
            with pytest.raises(KeyboardInterrupt):
                train(training, training_rows(found, []), trainer_config(training, 3, name), stops)
            assert [path.name for path in training.checkpoints.iterdir()] == ["checkpoint-2"]
        train(training, training_rows(found, []), trainer_config(training, 3, name))
        log = json.loads((training.target / "training_log.json").read_text())
        timeless = [{k: v for k, v in entry.items() if "_per_" not in k} for entry in log]
        for entry in timeless:
            entry.pop("train_runtime", None)
        (weights,) = training.target.glob("*.safetensors")
        ends.append((timeless, weights.read_bytes()))
    assert ends[0] == ends[1]
