"""Tasks of lm-eval in `also`; what needs lm-eval is skipped where it is not installed."""

import json
import sys
from importlib.util import find_spec

import pytest
from support.decode_run import decode
from support.models import byte_tokenizer
from support.rows import jsonl

import decode.evaluation.prediction_file as prediction_file
import decode.models.loaded as decode_loaded
from decode.jobs.files import read_rows
from recipes.schema.recipe import HarnessTask, RecipeError, load_recipe, save_recipe

needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval")
CHOICES = {"lm_eval": "sums", "metric": "acc_norm", "num_fewshot": 2}
SAID = {"lm_eval": "said", "metric": "exact_match", "filter": "first"}


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder of three tasks on the same ten rows: choices, a sampled answer, a text."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"q": f"{n}+{n}=", "choices": [str(n), str(2 * n)], "gold": n % 2} for n in range(10)]
    rows_at = jsonl(tmp_path / "sums.jsonl", rows)
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": rows_at, "train": rows_at}},
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "metadata": {"version": 3},
    }
    sums = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold"}
    sums |= {"fewshot_split": "train"}
    sums |= {"metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}, {"metric": "mcc"}]}
    said = {"output_type": "generate_until", "doc_to_target": "{{choices[gold]}}"}
    said |= {"generation_kwargs": {"max_gen_toks": 4, "do_sample": True, "temperature": 2.0}}
    said |= {"num_fewshot": 0, "repeats": 2, "metric_list": [{"metric": "exact_match"}]}
    take = [{"function": "take_first"}]
    said["filter_list"] = [{"name": name, "filter": take} for name in ("first", "other")]
    text = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{q}}"}
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, own in (("sums", sums), ("said", said), ("text", text)):
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **common, **own}))
    return folder


@pytest.fixture
def written(recipe, tmp_path):
    """A recipe of two questions, and of what is given of lm-eval's tasks."""
    rows = [{"question": f"What is {n}+{n}?", "answer": f"{2 * n}"} for n in range(2)]
    asked = jsonl(tmp_path / "asked.jsonl", rows)

    def write(*also, **changes):
        return recipe(task={"name": "questions", "eval": asked}, also=list(also), **changes)

    return write


def test_a_recipe_names_them_among_its_further_tasks(written, tmp_path):
    loaded = load_recipe(written({"name": "gsm8k"}, {**CHOICES, "eval_limit": 5}))
    assert loaded.also[1] == HarnessTask(**CHOICES, eval_limit=5)
    assert loaded.also[1].name == loaded.also[1].label == "lm_eval-sums"
    save_recipe(loaded, tmp_path / "again.yaml")
    assert load_recipe(tmp_path / "again.yaml") == loaded
    same_name = load_recipe(written({"name": "gsm8k"}, {"lm_eval": "gsm8k", "metric": "acc"}))
    assert [own.name for own in same_name.also] == ["gsm8k", "lm_eval-gsm8k"]


@pytest.mark.parametrize(
    ("also", "line"),
    [
        ({"lm_eval": "sums"}, "also.0.metric: missing; this key has no default"),
        ({**CHOICES, "metrc": 1}, "also.0.metrc: unknown key; did you mean also.0.metric?"),
        ({**CHOICES, "limit": 1}, "also.0.limit: unknown key; did you mean also.0.eval_limit?"),
        ({**CHOICES, "name": "gsm8k"}, "also.0.name: unknown key"),
        ({**CHOICES, "num_fewshot": -1}, "also.0.num_fewshot: found -1; should be greater"),
        ({**CHOICES, "eval_limit": 0}, "also.0.eval_limit: found 0; should be greater"),
        ({**CHOICES, "lm_eval": "../sums"}, 'also.0.lm_eval: found "../sums"; '),
        ({**CHOICES, "lm_eval": ["a"]}, 'also.0.lm_eval: found ["a"]; should be a valid string'),
        ({"name": "gsm8k", "metric": "acc"}, "also.0.metric: unknown key; "),
        ({"name": "gsm9k"}, 'also.0.name: found "gsm9k"; should be'),
        (3, "also.0: found 3; expected a section of keys"),
    ],
)
def test_what_a_recipe_may_have_wrong_is_one_line(written, also, line):
    with pytest.raises(RecipeError) as raised:
        load_recipe(written(also))
    assert line in str(raised.value) and "\n" not in str(raised.value)
    assert "(name)" not in str(raised.value) and "(lm_eval)" not in str(raised.value)


def test_a_task_of_lm_eval_is_named_once(written):
    with pytest.raises(RecipeError, match="lm_eval-sums; each task may be evaluated once"):
        load_recipe(written(CHOICES, CHOICES))


def test_without_lm_eval_one_line_says_what_to_install(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    expected = 'error: also.0.lm_eval: this needs lm-eval: pip install -e ".[eval]"'
    assert decode(written(CHOICES)) == expected


def test_validation_rows_choose_nothing_for_a_task_of_lm_eval(written):
    found = decode(written(CHOICES), "decode.choose={rows: 0.5, alpha: [1, 2]}")
    assert str(found).startswith("error: also.0.lm_eval: decode.choose needs validation rows")


@needs_lm_eval
@pytest.mark.long
def test_what_cannot_be_measured_is_one_line_before_weights_load(
    written, tasks, tmp_path, monkeypatch
):
    def loads(*_):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(decode_loaded.LoadedModels, "steered", loads)
    monkeypatch.setattr(decode_loaded.LoadedModels, "pair", loads)
    here = {"include_path": str(tasks)}
    (tasks / "far.yaml").write_text(
        json.dumps({**json.loads((tasks / "sums.yaml").read_text()), "task": "far"}).replace(
            "sums.jsonl", "nowhere.jsonl"
        )
    )
    for name, keys in (
        ("code", {"unsafe_code": True}),
        ("picture", {"doc_to_image": "q"}),
        ("beams", {"generation_kwargs": {"num_beams": 4}}),
        ("endless", {"generation_kwargs": {"max_gen_toks": 100_000}}),
        ("wide", {"doc_to_text": "{{q * 999}}"}),
    ):
        own = {**json.loads((tasks / "said.yaml").read_text()), "task": name, **keys}
        (tasks / f"{name}.yaml").write_text(json.dumps(own))
    (tasks / "some.yaml").write_text(json.dumps({"group": "some", "task": ["sums", "said"]}))
    for also, line in (
        ({**CHOICES, "lm_eval": "sum", **here}, "also.0.lm_eval: 'sum' is no task of lm-eval 0."),
        ({**CHOICES, "lm_eval": "some", **here}, "also.0.lm_eval: 'some' is a group of tasks; na"),
        ({**CHOICES, "lm_eval": "far", **here}, "also.0.lm_eval: 'far' cannot be loaded (FileNot"),
        ({**CHOICES, "include_path": "no"}, "also.0.include_path: found 'no'; there is no such f"),
        ({**CHOICES, **here, "metric": "mcc"}, "also.0.metric: found 'mcc'; the means over rows "
         "of 'sums' are acc, acc_norm (mcc: of all rows at once, so no row has a value)"),
        ({"lm_eval": "text", **here, "metric": "bits_per_byte"}, "the means over rows of 'text' "
         "are none (word_perplexity, byte_perplexity, bits_per_byte: of all rows at once, so no "
         "row has a value); measure it with decode/harness.py"),
        ({**SAID, **here, "filter": None}, "also.0.filter: missing; those of 'said' are first, o"),
        ({**SAID, **here, "filter": "a"}, "also.0.filter: found 'a'; those of 'said' are first, "),
        ({**CHOICES, **here, "filter": "a"}, "also.0.filter: found 'a'; those of 'sums' are none"),
        ({**SAID, **here, "num_fewshot": 1}, "also.0.num_fewshot: found 1, and 'said' is always "),
        ({**CHOICES, **here, "num_fewshot": 99}, "also.0.lm_eval: 'sums' cannot be asked ("),
        ({**SAID, **here, "lm_eval": "code"}, "'code' runs code that models write, unconfined; "),
        ({**SAID, **here, "lm_eval": "picture"}, "also.0.lm_eval: 'picture' "),
        ({**SAID, **here, "lm_eval": "beams"}, "lm-eval's task 'beams': generation_kwargs: num_b"),
        ({**SAID, **here, "lm_eval": "endless"}, "lm-eval's task 'endless': max_gen_toks: found "),
    ):  # fmt: skip
        found = decode(written(also))
        assert str(found).startswith("error: ") and "\n" not in str(found), found
        assert line in str(found)
    for name in ("small", "expert"):
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
        tokenizer.save_pretrained(tmp_path / name)
    found = decode(written({**SAID, **here, "lm_eval": "wide"}), "expert.prompt=chat")
    assert "lm-eval's task 'wide': a context has 3998 tokens in its chat template" in str(found)


@needs_lm_eval
@pytest.mark.long
def test_every_system_is_measured_as_by_lm_evals_command(written, tasks, tmp_path):
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    from decode.stage.harness_system import HarnessSystem

    here = {"include_path": str(tasks)}
    path = written({**CHOICES, **here, "eval_limit": 8}, {**SAID, **here})
    assert decode(path) is None
    run = tmp_path / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    sums, said = metrics["also"]
    assert (sums["task"], sums["metric"], sums["num_examples"]) == ("lm_eval-sums", "acc_norm", 8)
    assert (said["task"], said["metric"], said["num_examples"]) == (
        "lm_eval-said",
        "exact_match",
        10,
    )
    assert set(metrics["mean_gap_closed"][0]["gaps"]) == {"questions", sums["task"], said["task"]}
    systems = {name: name.partition("-")[0] for name in ("antiexpert", "expert", "base-large")} | {
        "proxy-large-alpha1": "proxy",
        "tuned-large": "tuned",
    }
    folder = run / "tasks" / "lm_eval-sums"
    values = {"antiexpert": sums["antiexpert"], "expert": sums["expert"]}
    values |= {"base-large": sums["bases"][0]["base"], "tuned-large": sums["bases"][0]["tuned"]}
    values |= {"proxy-large-alpha1": sums["bases"][0]["proxy"][0]}
    for name, system in systems.items():
        theirs = simple_evaluate(
            model=HarnessSystem(run=str(run), system=system, device="cpu", batch_size=4),
            tasks=["sums"],
            num_fewshot=2,
            limit=8,
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            bootstrap_iters=0,
        )
        rows = read_rows(folder / "predictions" / f"{name}.jsonl")
        samples = theirs["samples"]["sums"]
        assert [row["score"] for row in rows] == [one["acc_norm"] for one in samples]
        for row, one in zip(rows, samples, strict=True):
            found = [logprob for ((logprob, _),) in row["responses"]]
            expected = [logprob for ((logprob, _),) in one["resps"]]
            assert found == pytest.approx(expected, abs=1e-4)
        assert values[name]["value"] == pytest.approx(theirs["results"]["sums"]["acc_norm,none"])
    report = (folder / "report.md").read_text()
    assert "acc norm" in report and "## How fast it was decoded" not in report
    row = read_rows(folder / "predictions" / "expert.jsonl")[3]
    assert (row["id"], row["prompt"], row["answers"]) == ("3", "3+3=", ["6"])
    sampled = read_rows(run / "tasks" / "lm_eval-said" / "predictions" / "expert.jsonl")
    assert all(len(set(row["responses"][0])) == 2 for row in sampled[:3])
    record = json.loads((folder / "settings" / "predictions" / "expert.json").read_text())
    assert record["lm_eval"]["num_fewshot"] == 2 and record["lm_eval"]["task_version"] == "3"

    for change, key in (
        ("also.0.metric=acc", "lm_eval.metric"),
        ("also.0.num_fewshot=1", "lm_eval.num_fewshot"),
        ("also.0.eval_limit=7", "questions"),
        ("also.1.filter=other", "lm_eval.filter"),
        ("also.0.lm_eval=text", "also.0.metric: found 'acc_norm'"),
    ):
        assert key in str(decode(path, change)), change
    rows_before = {file: file.read_bytes() for file in run.rglob("predictions/*.jsonl")}
    assert decode(path) is None
    assert {file: file.read_bytes() for file in run.rglob("predictions/*.jsonl")} == rows_before


@needs_lm_eval
@pytest.mark.long
def test_a_killed_run_goes_on_and_draws_the_same(written, tasks, tmp_path, monkeypatch):
    also = {**SAID, "include_path": str(tasks)}
    batch = {"output_dir": str(tmp_path / "whole")}
    assert decode(written(also), f"output_dir={batch['output_dir']}") is None
    kept, num_rows = prediction_file.append_row, 0

    def until_the_13th(*given):
        nonlocal num_rows
        num_rows += 1
        if num_rows == 13:
            raise KeyboardInterrupt
        kept(*given)

    monkeypatch.setattr(prediction_file, "append_row", until_the_13th)
    with pytest.raises(KeyboardInterrupt):
        decode(written(also))
    monkeypatch.setattr(prediction_file, "append_row", kept)
    assert decode(written(also), "decode.batch_size=1") is None
    for name in ("expert", "base-large", "proxy-large-alpha1"):
        place = f"tasks/lm_eval-said/predictions/{name}.jsonl"
        whole, cut = (read_rows(tmp_path / run / place) for run in ("whole", "run"))
        assert [row["responses"] for row in cut] == [row["responses"] for row in whole]


@needs_lm_eval
@pytest.mark.long
def test_a_metric_that_is_no_fraction_ends_in_one_line(written, tasks):
    own = json.loads((tasks / "said.yaml").read_text())
    own |= {"task": "long", "process_results": "!function scores.lengths"}
    (tasks / "scores.py").write_text("def lengths(doc, results):\n    return {'exact_match': 7}\n")
    text = json.dumps(own).replace('"!function scores.lengths"', "!function scores.lengths")
    (tasks / "long.yaml").write_text(text)
    found = decode(written({**SAID, "lm_eval": "long", "include_path": str(tasks)}))
    assert "lm-eval's task 'long', row 0: exact_match is 7, and a run compares" in str(found)
