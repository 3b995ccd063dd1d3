"""Recipes for real models run on tiny ones: models, rows and judges are replaced, nothing else."""

import json
from pathlib import Path

import pytest
from support.decode_run import decode
from support.rows import jsonl
from support.toxicity import save_classifier, toxigen_row
from transformers import AutoTokenizer

from data.sandbox import best_confinement
from decode.jobs.files import read_rows

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = "{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}"


@pytest.fixture
def tiny(save_model, tmp_path):
    """Overrides that put tiny models in the place of a recipe's, with chat templates."""

    def chat(name: str, seed: int, **size) -> str:
        folder = save_model(name, seed, **size)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = TEMPLATE
        tokenizer.save_pretrained(folder)
        return folder

    overrides = [
        f"output_dir={tmp_path / 'run'}",
        f"expert.model={save_model('small', 1)}",
        "expert.dtype=float32",
        "decode.max_new_tokens=5",
        "decode.device=cpu",
    ]
    for place, (name, seed) in enumerate((("13b", 2), ("70b", 3))):
        overrides += [
            f"decode.bases.{place}.model={save_model(name, seed, width=64)}",
            f"decode.bases.{place}.dtype=float32",
        ]
    tuned = [
        f"expert.trained={chat('expert', 4)}",
        f"decode.bases.0.tuned={chat('13b-tuned', 5, width=64)}",
        f"decode.bases.1.tuned={chat('70b-tuned', 6, width=64)}",
    ]
    return overrides, tuned


def truthful(tmp_path):
    rows = [
        {
            "id": f"t{i}",
            "question": f"What is {i}?",
            "best_answer": f"{i}.",
            "correct_answers": [f"{i}.", "A number."],
            "incorrect_answers": ["A cabbage.", "Nothing."],
        }
        for i in range(2)
    ]
    return jsonl(tmp_path / "truthful.jsonl", rows)


def judged(server, judges):
    names = ("truth", "information")
    return [f"{judges}.{name}.endpoint.base_url={server.base_url}" for name in names]


def answer(request):
    """The instruction's judge speaks chat, TruthfulQA's go on with yes or no."""
    if request["path"].endswith("chat/completions"):
        assert request["key"] == "Bearer key-of-the-judge"
        return "tie"
    assert request["body"]["max_tokens"] == 2
    return " yes" if request["prompt"].endswith("True:") else " no"


@pytest.mark.long
def test_instruct7b(tiny, serve, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-judge")
    server = serve(answer)
    overrides, tuned = tiny
    instructions = [{"id": "i", "instruction": "Say so.", "output": "So."}]
    problems = [{"id": f"g{i}", "question": f"{i}?", "answer": f"#### {i}"} for i in range(2)]
    toxic = [toxigen_row(i, group) for i, group in enumerate(("women", "asian"))]
    failed = decode(
        ROOT / "recipes" / "instruct7b.yaml",
        *overrides,
        *tuned,
        f"task.eval={jsonl(tmp_path / 'instruct.jsonl', instructions)}",
        f"task.judges.judge.endpoint.base_url={server.base_url}",
        f"also.0.eval={jsonl(tmp_path / 'gsm.jsonl', problems)}",
        f"also.1.eval={truthful(tmp_path)}",
        *judged(server, "also.1.judges"),
        f"also.2.eval={truthful(tmp_path)}",
        f"also.3.eval={jsonl(tmp_path / 'toxic.jsonl', toxic)}",
        f"also.3.judges.classifier.classifier.model={save_classifier(tmp_path / 'classifier')}",
        "also.3.judges.classifier.classifier.revision=null",
    )
    assert failed is None
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["expert"]["value"] == 0.5
    further = {own["task"]: own for own in metrics["also"]}
    assert list(further) == ["gsm8k", "truthfulqa", "truthfulqa_mc", "toxigen"]
    assert further["truthfulqa"]["parts"]["expert"] == {"true": 1.0, "informative": 0.0}
    assert {mean["model"].rpartition("/")[2] for mean in metrics["mean_gap_closed"]} == {
        "13b",
        "70b",
    }
    assert not any(
        b"key-of-the-judge" in path.read_bytes()
        for path in (tmp_path / "run").rglob("*")
        if path.is_file()
    )
    # chat models read their template, which changes what they say; the others read the bare prompt
    settings = tmp_path / "run" / "settings" / "predictions"
    assert json.loads((settings / "tuned-13b.json").read_text())["chat"] is True


@pytest.mark.long
def test_truthfulqa_alpha(tiny, serve, tmp_path):
    overrides, (trained, tuned, _) = tiny
    server = serve(answer)
    failed = decode(
        ROOT / "recipes" / "truthfulqa_alpha.yaml",
        *(override for override in overrides if "bases.1" not in override),
        trained,
        tuned,
        f"task.eval={truthful(tmp_path)}",
        *judged(server, "task.judges"),
    )
    assert failed is None
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    alphas = [proxy["alpha"] for proxy in metrics["bases"][0]["proxy"]]
    assert alphas == [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0]
    assert all(f"proxy-13b-alpha{alpha:g}" in metrics["parts"] for alpha in alphas)
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| proxy-13b-alpha0.2 | 100.0 | 0.0 | 0 |" in report


@pytest.fixture
def problems(tmp_path):
    try:
        best_confinement()
    except RuntimeError as error:
        pytest.skip(str(error))
    function = {
        "task_id": "Toy/0",
        "prompt": "def f():\n    return 0\n#",
        "entry_point": "f",
        "canonical_solution": "",
        "test": "def check(candidate):\n    assert candidate() == 0\n",
    }
    question = {
        "prompt": "A:\n<code>\n",
        "reference_code": "x = 1",
        "metadata": {"problem_id": 0},
        "code_context": "def test_execution(solution):\n    assert isinstance(solution, str)\n",
    }
    sentence = {
        "text": "Write f.",
        "code": "def f(): pass",
        "task_id": 1,
        "test_setup_code": "",
        "test_list": ["assert f() is None"],
    }
    rows = {"humaneval": function, "ds1000": question, "mbpp": sentence}
    return {name: jsonl(tmp_path / f"{name}.jsonl", [row]) for name, row in rows.items()}


@pytest.mark.long
def test_code7b(tiny, problems, tmp_path):
    overrides, tuned = tiny
    evals = [f"task.eval={problems['humaneval']}", f"also.0.eval={problems['ds1000']}"]
    fewer = "decode.num_samples=12"  # of the paper's 20
    assert decode(ROOT / "recipes" / "code7b.yaml", *overrides, *tuned, *evals, fewer) is None
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["metric"] == metrics["also"][0]["metric"] == "pass@10"
    assert metrics["also"][0]["expert"]["value"] == 1.0  # any text passes
    grades = read_rows(tmp_path / "run" / "tasks" / "ds1000" / "grades" / "base-13b.jsonl")
    assert [grade["sample"] for grade in grades] == list(range(12))


@pytest.mark.long
def test_code7b_lora(tiny, problems, tmp_path):
    """Trains on packed instructions and plain text, then decodes."""
    from support.tiny_run import launch

    overrides, _ = tiny
    rows = [{"instruction": f"Say {i}.", "output": f"print({i})"} for i in range(20)]
    rows += [{"content": f"x = {i}\n"} for i in range(20)]
    settings = [
        *overrides,
        f"task.train={jsonl(tmp_path / 'code.jsonl', rows)}",
        f"task.eval={problems['humaneval']}",
        f"also.0.eval={problems['mbpp']}",
        "decode.num_samples=2",
        "decode.pass_at=1",
        "sft.max_steps=2",
        "sft.num_train_epochs=null",
        "sft.bf16=false",
        "sft.activation_checkpointing=false",
        "sft.max_length=128",
        "wandb.mode=disabled",
    ]
    result = launch("code7b_lora.yaml", settings, "--config_file", "recipes/accelerate/cpu.yaml")
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["metric"], metrics["also"][0]["task"]) == ("pass@1", "mbpp")
    assert (tmp_path / "run" / "expert" / "adapter_config.json").exists()
    assert metrics["bases"][0]["tuned"] is not None and metrics["bases"][1]["tuned"] is None
