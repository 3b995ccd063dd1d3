"""What a recipe trains on: order, weights, left-out rows, streams, tokens, and the report of it."""

import json
import logging
import re
from dataclasses import asdict
from itertools import islice

import pytest
import yaml
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from support.models import byte_tokenizer
from support.task_rows import train_rows
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from data import TASKS, TrainRow
from data.training.mixture import mixed_stream, weighted
from decode.models.sources import load_tokenizer
from decode.reports.training_table import training_table
from decode.stage.planning import plan
from recipes.schema.recipe import RecipeError, load_recipe
from train.rows.report import cut_warning, flat_numbers, rows_report
from train.rows.tokens import token_dataset, token_rows, tokenizer_digest
from train.rows.training_rows import TrainingRows, training_rows
from train.trainer import train, trainer_config
from train.training import trainings


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def trivia(path, first, num_rows):
    rows = [
        {"question": f"Who is number {i}?", "answers": [f"N{i}"]}
        for i in range(first, first + num_rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def recipe_of(save_model, tmp_path):
    """A recipe of one expert and one base on TriviaQA rows, with overrides."""
    small = save_model("small", 1)
    tree = {
        "name": "mix",
        "seed": 3,
        "output_dir": str(tmp_path / "run"),
        "task": {
            "name": "triviaqa",
            "train": trivia(tmp_path / "train.jsonl", 0, 12),
            "eval": trivia(tmp_path / "eval.jsonl", 500, 4),
        },
        "expert": {"model": small, "dtype": "float32"},
        "sft": {"max_steps": 2, "bf16": False},
        "decode": {"bases": [{"model": small}], "alpha": 1.0, "batch_size": 4},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return lambda *overrides: load_recipe(path, overrides)


def rows_of(recipe, **options) -> TrainingRows:
    return training_rows(recipe, [experiment for experiment, _ in plan(recipe)], **options)


def test_sources_follow_the_tasks_own_rows_in_order(recipe_of, tmp_path):
    more = trivia(tmp_path / "more.jsonl", 100, 5)
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "plain"}\n')
    recipe = recipe_of(
        "task.train_limit=3",
        f"mixture=[{{task: triviaqa, rows: {more}, limit: 2}}, {{format: text, rows: {text}}}]",
    )
    found = rows_of(recipe)
    task = TASKS["triviaqa"]
    own, further = train_rows(task, recipe.task.train, 3), train_rows(task, more, 2)
    assert found.rows == [*own, *further, TrainRow("", "plain")]
    assert [source["num_used"] for source in found.sources] == [3, 2, 1]
    assert rows_of(recipe).digest == found.digest
    assert rows_of(recipe_of("task.train_limit=4")).digest != found.digest
    held_out = rows_of(recipe_of("task.train_limit=3"), num_held_out=1)
    assert held_out.rows == own[:2]


def test_rows_that_choose_alpha_and_rule_are_left_out(recipe_of, tmp_path):
    both = tmp_path / "both.jsonl"
    both.write_text((tmp_path / "train.jsonl").read_text() + (tmp_path / "eval.jsonl").read_text())
    validation = tmp_path / "validation.jsonl"
    validation.write_text("".join((tmp_path / "train.jsonl").read_text().splitlines(True)[:2]))
    found = rows_of(
        recipe_of(f"task.train={both}", f"decode.choose={{rows: {validation}, alpha: 1}}")
    )
    assert found.rows == rows_of(recipe_of()).rows[2:]
    found = rows_of(recipe_of(f"task.train={both}", "decode.choose={rows: 0.5, alpha: 1}"))
    assert found.rows == rows_of(recipe_of()).rows  # what is set apart is not trained on either


def test_weights():
    rows = list(range(10))
    assert weighted(rows, 1.0, "s") == rows
    assert weighted(rows, 2.0, "s") == rows * 2
    half = weighted(rows, 0.5, "s")
    assert len(set(half)) == 5
    assert half == sorted(half) == weighted(rows, 0.5, "s")
    assert half != weighted(rows, 0.5, "t")
    assert weighted(rows, 1.5, "s") == [*rows, *half]


def test_evaluation_rows_are_left_out_and_said(recipe_of, tmp_path, caplog):
    both = tmp_path / "both.jsonl"
    both.write_text((tmp_path / "train.jsonl").read_text() + (tmp_path / "eval.jsonl").read_text())
    with caplog.at_level(logging.WARNING):
        found = rows_of(recipe_of(f"task.train={both}"))
    assert found.rows == rows_of(recipe_of()).rows
    assert found.sources[0]["duplicates"] == {"exact": 4, "normalised": 0, "contained": 0}
    said = "4 of 16 training rows are evaluation or validation rows and left out (4 exact)"
    assert said in caplog.text
    kept = rows_of(recipe_of(f"task.train={both}", "task.keep_eval_rows=true"))
    assert len(kept.rows) == 16
    with pytest.raises(ValueError, match=r"every training row of .* is an evaluation or valid"):
        rows_of(recipe_of(f"task.train={tmp_path / 'eval.jsonl'}"))


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["mixture=[{rows: x.jsonl}]"], "give one of task and format"),
        (["mixture=[{task: gsm8k, format: text}]"], "give one of task and format"),
        (["mixture=[{format: text}]"], "rows is missing"),
        (["mixture=[{task: gsm8k, weight: 0}]"], "should be greater than 0"),
        (["mixture=[{task: gsm8k, wieght: 1}]"], "did you mean mixture.0.weight?"),
        (["task.train=null", "task.train_format=text"], "train is missing"),
    ],
)
def test_a_wrong_mixture_is_one_line(recipe_of, overrides, problem):
    with pytest.raises(RecipeError) as error:
        recipe_of(*overrides)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["mixture=[{task: toxigen}]"], "mixture.0.task: task 'toxigen' is for evaluation only"),
        (["mixture=[{format: text, rows: no.jsonl}]"], "no.jsonl: no such file"),
        (
            ["mixture=[{task: questions}]"],
            "mixture.0.rows: task 'questions' has no rows of its own",
        ),
        (
            ["mixture=[{task: facts, rows: a/b}]"],
            "mixture.0.rows: a/b: no such file, and this task",
        ),
        (["mixture=[{task: gsm8k}]"], "mixture.0.rows: data set 'openai/gsm8k' could not be"),
        (["task.name=questions", "task.train=null"], "task.train: task 'questions' has no rows"),
        (["task.train=null"], "task.train: data set 'mandarjoshi/trivia_qa' could not be loaded"),
        (
            ["task.train=a/b", "task.streaming=true", "sft.max_steps=1"],
            "task.train: data set 'a/b' could not be loaded",
        ),
        (
            ["mixture=[{format: text, rows: x.jsonl}, {format: messages, rows: x.jsonl}]"],
            "mixture.1.format: '",
        ),
        (["task.train_format=messages"], "task.train_format: '"),
        (
            ["task.streaming=true", "sft.max_steps=-1"],
            "sft.max_steps: missing; a stream has no end",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_one_line_with_its_key(recipe_of, overrides, problem):
    with pytest.raises(ValueError, match=re.escape(problem)) as error:
        rows_of(recipe_of(*overrides))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("evaluation", "problem"),
    [
        ("{name: questions}", "eval: task 'questions' has no rows of its own to be evaluated on"),
        ("{name: facts, eval: a/b}", "eval: a/b: no such file, and this task has no data set"),
        ("{name: gsm8k}", "eval: data set 'openai/gsm8k' could not be loaded"),
        ("{name: gsm8k, extract: fences}", "extract: 'gsm8k' runs no programs"),
        ("{name: truthfulqa_mc, scoring: paper}", "scoring: the paper's rules for 'truthfulqa_mc'"),
        ("{name: facts, scoring: paper}", "scoring: task 'facts' is not one of the paper's"),
        (
            "{name: gsm8k, judges: {j: {classifier: {model: a/b, label: c}}}}",
            "judges.j: 'gsm8k' has no such judge; it has none",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_one_line_with_its_key(recipe_of, evaluation, problem):
    for override, section in (
        (f"task={evaluation}", "task"),
        (f"also=[{{name: word_problems}}, {evaluation}]", "also.1"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"{section}.{problem}")) as error:
            plan(recipe_of(override))
        assert "\n" not in str(error.value)


def test_a_model_that_is_nowhere_is_one_line_with_its_key(recipe_of):
    override = "decode={bases: [{model: a/b, tuned: a/c}, {model: d/e}], batch_size: 1, "
    override += "experts: [{expert: a/f, antiexpert: a/g, weight: 1}]}"
    recipe = recipe_of(override, "sft=null", "task.train=null", "expert.trained=a/h")
    ((experiment, _),) = plan(recipe)
    lineup = experiment.lineup
    first, second = lineup.contenders
    sources = [first.base, first.tuned, second.base]
    sources += [source for pair in lineup.experts for source in (pair.expert, pair.antiexpert)]
    told = {}
    for source in sources:
        try:
            load_tokenizer(source)
        except ValueError as error:
            told[source.name] = str(error).partition(": model '")[0]
    assert told == {
        "a/b": "decode.bases.0.model",
        "a/c": "decode.bases.0.tuned",
        "d/e": "decode.bases.1.model",
        "a/h": "expert.trained",
        "a/f": "decode.experts.0.expert",
        "a/g": "decode.experts.0.antiexpert",
    }


def test_tokens_are_those_trl_would_make(tmp_path):
    rows = [*train_rows(TASKS["facts"], None, 8), TrainRow("", "def f():\n    pass\n")]
    for tokenizer in (byte_tokenizer(), AutoTokenizer.from_pretrained("data/mini/small")):
        trainer = SFTTrainer.__new__(SFTTrainer)
        trainer._tokenizer, trainer.chat_template = tokenizer, None
        for only in (True, False):
            trainer.completion_only_loss = only
            config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, max_length=24)
            config.completion_only_loss = only
            theirs, ours = (
                trainer._prepare_dataset(dataset, tokenizer, config, False, None, "train")
                for dataset in (
                    Dataset.from_list([asdict(row) for row in rows]),
                    token_dataset(TrainingRows(rows, None, [], f"{only}"), tokenizer, config),
                )
            )
            assert (
                ours.select_columns(["input_ids", "labels"])[:]
                == (theirs.select_columns(["input_ids", "labels"])[:])
            )


def test_tokens_are_made_once_for_the_same_content(tmp_path, monkeypatch):
    config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    rows, tokenizer = TrainingRows([TrainRow("a", "b")], None, [], "one"), byte_tokenizer()
    first = token_dataset(rows, tokenizer, config)[:]
    digest = tokenizer_digest(tokenizer)
    tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)  # leaves a trace in it
    assert tokenizer_digest(tokenizer) == digest != tokenizer_digest(byte_tokenizer(("<x>",)))
    monkeypatch.setattr("train.rows.tokens.token_rows", lambda *_: pytest.fail("made again"))
    assert token_dataset(rows, byte_tokenizer(), config)[:] == first


def test_the_report_counts_by_hand(tmp_path):
    rows = [TrainRow("ab", "c"), TrainRow("", "defg"), TrainRow("abcdefghij", "k")]  # 4, 5, 12
    config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, max_length=8)
    source = {"name": "x", "num_rows": 3, "duplicates": {"exact": 0}, "weight": 1.0, "num_used": 3}
    found = TrainingRows(rows, None, [source], "three")
    report = rows_report(found, byte_tokenizer(), config)
    assert report["tokens"] == {"median": 5, "p95": 12, "max": 12, "total": 21}
    assert (report["num_cut"], report["num_lost_tokens"]) == (1, 4)
    assert report["num_without_loss"] == 1
    assert report["loss_share"] == 9 / 21
    assert report["packing"] is None
    assert "1 of 3 training rows (33.3%) are longer than sft.max_length 8" in cut_warning(report)
    assert "1 rows (33.3%), 4 tokens lost; 1 rows have nothing left" in training_table(report)
    assert flat_numbers(report)["training_rows/tokens/p95"] == 12

    config.packing, config.max_length = True, 12
    report = rows_report(found, byte_tokenizer(), config)
    assert report["packing"] == {"num_sequences": 2, "efficiency": 21 / 24}
    assert (report["num_cut"], cut_warning(report)) == (0, None)


def test_a_stream_is_endless_mixed_and_the_same_again():
    def stream():
        return mixed_stream([lambda: iter(range(20)), lambda: iter("ab")], [3.0, 1.0], 0, 8)

    found = list(islice(stream(), 4000))
    assert found == list(islice(stream(), 4000))
    letters = sum(isinstance(row, str) for row in found)
    assert 900 < letters < 1100
    numbers = [row for row in found if isinstance(row, int)]
    counts = [numbers.count(i) for i in range(20)]
    assert max(counts) - min(counts) <= 8  # whole passes, but for what is in the buffer
    assert numbers[:20] != list(range(20))
    with pytest.raises(ValueError, match="no rows left"):
        next(mixed_stream([lambda: iter(())], [1.0], 0))


def test_streamed_rows_are_the_rows(recipe_of, tmp_path):
    recipe = recipe_of("task.streaming=true")
    found, whole = rows_of(recipe), rows_of(recipe_of())
    assert found.stream is not None
    first = list(islice(found.stream(), 1200))
    assert set(first) == set(whole.rows)
    assert list(found.rows) == first[:1000]
    assert rows_of(recipe).digest == found.digest
    config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, max_length=64)
    dataset = token_dataset(found, byte_tokenizer(), config)
    expected = list(token_rows(first[:5], byte_tokenizer(), "<eos>"))
    assert list(islice(dataset, 5)) == expected
    trivia(tmp_path / "train.jsonl", 1, 12)
    assert rows_of(recipe).digest != found.digest


def test_two_processes_share_a_stream(recipe_of, tmp_path):
    found = rows_of(recipe_of("task.streaming=true"))
    config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)

    def batches(**options):
        dataset = token_dataset(found, byte_tokenizer(), config)
        loader = DataLoader(dataset, batch_size=2, collate_fn=lambda rows: rows)
        options |= {"dispatch_batches": False, "put_on_device": False}
        return list(islice(prepare_data_loader(loader, **options), 6))

    alone = [row for batch in batches(num_processes=1) for row in batch]
    first, second = (batches(num_processes=2, process_index=i)[:3] for i in (0, 1))
    dealt = [row for pair in zip(first, second, strict=True) for batch in pair for row in batch]
    assert dealt == alone


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.long
@pytest.mark.parametrize("packing", ["false", "true"])
def test_an_interrupted_training_on_a_stream_ends_as_an_uninterrupted_one(
    recipe_of, tmp_path, packing
):
    keys = ["task.streaming=true", "sft.max_steps=6", "sft.save_steps=3", "sft.max_length=64"]
    keys += ["sft.per_device_train_batch_size=2", f"sft.packing={packing}", "sft.logging_steps=1"]
    weights = []
    for name, stops in (("whole", []), ("cut", [StopAt(4)])):
        recipe = recipe_of(*keys, f"output_dir={tmp_path / name}")
        (training,) = trainings(recipe)
        if stops:
            with pytest.raises(KeyboardInterrupt):
                train(training, rows_of(recipe), trainer_config(training, 3, name), stops)
            assert list(training.checkpoints.glob("checkpoint-3"))
        train(training, rows_of(recipe), trainer_config(training, 3, name))
        weights.append((training.target / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
