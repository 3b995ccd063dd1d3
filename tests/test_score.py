"""Files of predictions, ours and others', scored by `decode/score.py` as a user calls it."""

import gzip
import json
import runpy
import sys
from pathlib import Path

import pytest

from data.scoring.scored_file import CODE_TASKS, score_file
from decode.evaluation.intervals import wilson_interval

ROOT = Path(__file__).resolve().parents[1]


def jsonl(path, *rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.write(text)
    return str(path)


OURS = {"id": "1", "prompt": "?", "completion": " 18.00", "answers": ["18"], "score": 0.0}


@pytest.mark.parametrize(
    "row",
    [
        OURS,
        {"question": "?", "answer": "18", "model_output": " 18.00", "prediction": "18.00"},
        {"output": " 18.00", "answer": 18},
        {"output": " 18.00", "answer": 18.0},
        {"mc_output": " 18.00", "mc_answer_idx": "18"},
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_field_names(tmp_path, row, suffix):
    path = jsonl(tmp_path / f"p{suffix}", row, {**row, **({"id": "2"} if "id" in row else {})})
    assert score_file("gsm8k", path).values == (1.0, 1.0)
    assert score_file("gsm8k", path, "paper").values == (0.0, 0.0)


@pytest.fixture
def score(monkeypatch, capsys):
    """Runs `python decode/score.py ...`; returns its JSON and its table."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["decode/score.py", *words])
        runpy.run_path(str(ROOT / "decode" / "score.py"), run_name="__main__")
        captured = capsys.readouterr()
        return json.loads(captured.out), captured.err

    return run


@pytest.fixture
def refusal(score):
    """Runs it where it must fail; returns the one line it exits with."""

    def run(*words):
        with pytest.raises(SystemExit) as caught:
            score(*words)
        line = str(caught.value.code)
        assert line.startswith("error: ")
        assert "\n" not in line
        return line

    return run


def gsm(path, *completions):
    rows = [{**OURS, "id": str(n), "completion": text} for n, text in enumerate(completions)]
    return jsonl(path, *rows)


def test_one_file(tmp_path, score):
    path = gsm(tmp_path / "p.jsonl", " 18", " 18.0", " 17", " none")
    found, printed = score("gsm8k", path)
    assert printed == ""
    assert found == {
        "task": "gsm8k",
        "mode": "default",
        "metric": "exact_match",
        "higher_is_better": True,
        "file": path,
        "value": 0.5,
        "ci95": list(wilson_interval(2, 4)),
        "num_counted": 4,
        "num_dropped": 0,
        "num_rows": 4,
        "num_invalid": 1,
    }
    found, _ = score("gsm8k", "--mode", "paper", path)
    assert (found["mode"], found["value"]) == ("paper", 0.25)


def test_dropped_and_wrong_invalid_choices(tmp_path, score):
    rows = [{"mc_output": text, "mc_answer_idx": "B"} for text in (" B", " C", " I", "")]
    path = jsonl(tmp_path / "p.jsonl", *rows)
    counts = ("value", "num_rows", "num_counted", "num_dropped", "num_invalid")
    found, _ = score("truthfulqa_mc", path)
    assert [found[name] for name in counts] == [0.25, 4, 4, 0, 2]
    found, _ = score("truthfulqa_mc", path, "--mode", "paper")
    assert [found[name] for name in counts] == [0.5, 4, 2, 2, 2]


def test_code_samples(tmp_path, score):
    rows = [{"task_id": n // 4, "passed": n in (0, 1, 4)} for n in range(12)]
    path = jsonl(tmp_path / "p.jsonl", *rows)
    for task in CODE_TASKS:
        found, _ = score(task, path, "--k", "2")
        assert found["metric"] == "pass@2"
        assert found["value"] == pytest.approx((5 / 6 + 1 / 2 + 0) / 3)
        assert (found["num_rows"], found["num_problems"], found["num_counted"]) == (12, 3, 3)


def test_several_files_and_tasks(tmp_path, score):
    gsm8k = {
        "base": gsm(tmp_path / "a.jsonl", " 1", " 2", " 3", " 18"),
        "proxy": gsm(tmp_path / "b.jsonl.gz", " 1", " 2", " 18", " 18"),
        "tuned": gsm(tmp_path / "c.jsonl", " 1", " 18", " 18", " 18"),
        "expert": gsm(tmp_path / "d.jsonl", " 1", " 2", " 18", " 3"),
    }
    toxic = {"base": (1, 1, 1, 1), "proxy": (1, 0, 0, 0), "tuned": (0, 0, 0, 0)}
    toxigen = {
        role: jsonl(tmp_path / f"t{role}", *({"is_toxic": value} for value in values))
        for role, values in toxic.items()
    }
    named = [[f"{role}={path}" for role, path in files.items()] for files in (gsm8k, toxigen)]
    found, printed = score("gsm8k", *named[0])
    by_role = {entry["role"]: entry for entry in found["systems"]}
    assert {role: entry["value"] for role, entry in by_role.items()} == {
        "base": 0.25,
        "proxy": 0.5,
        "tuned": 0.75,
        "expert": 0.25,
    }
    assert by_role["proxy"]["gap_closed"]["value"] == pytest.approx(0.5)
    assert [line.split()[0] for line in printed.splitlines()[2:6]] == list(gsm8k)
    assert "50.0%" in printed.splitlines()[3].split()

    both, printed = score("gsm8k", *named[0], "toxigen", *named[1], "--mode", "paper")
    assert both["tasks"][0]["systems"][1]["gap_closed"] == by_role["proxy"]["gap_closed"]
    assert both["tasks"][1]["systems"][1]["gap_closed"]["value"] == pytest.approx(0.75)
    assert both["mean_gap_closed"]["value"] == pytest.approx((0.5 + 0.75) / 2)
    assert "mean gap closed over 2 tasks: 62.50%" in printed


def test_a_runs_own_files_say_their_roles(tmp_path, score, refusal):
    names = ("base-big", "proxy-big-alpha1", "proxy-big-alpha0.5", "tuned-big")
    texts = ((" 1", " 1"), (" 18", " 1"), (" 1", " 1"), (" 18", " 18"))
    files = [gsm(tmp_path / f"{n}.jsonl", *t) for n, t in zip(names, texts, strict=True)]
    found, _ = score("gsm8k", *files)
    assert [entry["role"] for entry in found["systems"]] == ["base", "proxy", "proxy", "tuned"]
    assert [entry["gap_closed"]["value"] for entry in found["systems"][1:3]] == [0.5, 0.0]
    found, _ = score("gsm8k", *files[:2])
    assert found["systems"][1]["gap_closed"] is None
    assert "needs base=FILE and tuned=FILE" in found["systems"][1]["gap_closed_reason"]
    other = gsm(tmp_path / "base-small.jsonl", " 1", " 1")
    assert "are both 'base'; compare the systems of one base" in refusal("gsm8k", *files, other)


BAD_FILES = [
    ("gsm8k", {"answer": "18"}, "line 1: field 'completion' is missing"),
    ("gsm8k", {"completion": "18"}, "line 1: field 'answers' is missing"),
    ("gsm8k", {"completion": None, "answer": "18"}, "field 'completion' must be text, found None"),
    ("gsm8k", {"completion": "18", "answer": None}, "field 'answer' must be text, found None"),
    ("gsm8k", {"completion": "18", "answer": "x"}, "line 1: gold answer 'x' holds no number"),
    ("gsm8k", {"completion": "18", "answers": []}, "field 'answers' must be a list of text"),
    ("realtimeqa", {"output": "A", "answer": [1]}, "field 'answer' must be a list of text"),
    ("toxigen", {"target_groups": ["x"]}, "line 1: field 'is_toxic' is missing (found: target_g"),
    ("humaneval", {"task_id": "x"}, "line 1: field 'passed' is missing"),
    ("humaneval", {"passed": True}, "line 1: field 'task_id' is missing"),
    ("humaneval", {"task_id": "x", "passed": 1}, "problem 'x': pass@10 needs k from 1 to the"),
    ("humaneval", {"task_id": ["x"], "passed": 1}, "field 'task_id' must be text or a number"),
]


@pytest.mark.parametrize(("task", "row", "message"), BAD_FILES)
def test_what_is_wrong_is_one_line(tmp_path, refusal, task, row, message):
    line = refusal(task, jsonl(tmp_path / "p.jsonl", row))
    assert "p.jsonl, line 1: " in line
    assert message in line


def test_what_is_wrong_with_a_call_is_one_line(tmp_path, refusal):
    path = gsm(tmp_path / "p.jsonl", " 18")
    assert "unknown task 'gsm'; did you mean gsm8k?" in refusal("gsm", path)
    assert "'facts' is not one of the paper's" in refusal("facts", path, "--mode", "paper")
    assert "none.jsonl: no such file" in refusal("gsm8k", "none.jsonl")
    assert "'prox' is no role (antiexpert, " in refusal("gsm8k", f"prox={path}")
    assert "base=: no file is named" in refusal("gsm8k", "base=")
    assert "no file of predictions is named" in refusal("gsm8k", path, "toxigen")
    assert "'gsm8k' is named twice" in refusal("gsm8k", path, "gsm8k", path)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"x": 1}\n' * 99)[:-12])
    assert "cut.jsonl.gz: cannot be read" in refusal("gsm8k", str(tmp_path / "cut.jsonl.gz"))
    (tmp_path / "no.gz").write_text("{}")
    assert "no.gz: cannot be read" in refusal("gsm8k", str(tmp_path / "no.gz"))
    twice = jsonl(tmp_path / "twice.jsonl", OURS, OURS)
    assert "line 2: id '1' occurs before, at " in refusal("gsm8k", twice)
    invalid = jsonl(tmp_path / "mc.jsonl", {"output": "no", "answer": "A"})
    assert "none of the 1 rows counts" in refusal("truthfulqa_mc", invalid, "--mode", "paper")


def test_grades_of_a_run_are_scored_as_they_are(tmp_path):
    rows = [{"id": str(i), "score": score} for i, score in enumerate((1.0, 0.5, None, 0))]
    found = score_file("instruct", jsonl(tmp_path / "grades.jsonl", *rows))
    assert found.values == (1.0, 0.5, None, 0)
    assert (found.metric, found.num_invalid, found.higher_is_better) == ("win_rate", 1, True)
    assert found.keys == ("0", "1", "2", "3")
    with pytest.raises(ValueError, match="line 1: field 'score' is missing"):
        score_file("truthfulqa", jsonl(tmp_path / "p.jsonl", {"id": "1", "completion": "x"}))
    with pytest.raises(ValueError, match="must be a number from 0 to 1 or null, found 'no'"):
        score_file("instruct", jsonl(tmp_path / "p.jsonl", {"id": "1", "score": "no"}))
    code = [{"id": f"a#{i}", "task_id": "a", "passed": i > 1, "score": 0} for i in range(4)]
    assert score_file("mbpp", jsonl(tmp_path / "code.jsonl", *code), k=1).values == (0.5,)
    single = [{"id": name, "passed": name == "a"} for name in ("a", "b")]
    found = score_file("mbpp", jsonl(tmp_path / "single.jsonl", *single), k=1)
    assert (found.keys, found.values) == (("a", "b"), (1.0, 0.0))


def test_files_of_other_questions_are_not_compared(tmp_path, refusal, score):
    base = gsm(tmp_path / "base.jsonl", " 1", " 18", " 2")
    tuned = gsm(tmp_path / "tuned.jsonl", " 18", " 18", " 18")

    def line(*rows, others=(f"base={base}", f"tuned={tuned}")):
        return refusal("gsm8k", *others, f"proxy={jsonl(tmp_path / 'proxy.jsonl', *rows)}")

    right = [{**OURS, "id": str(n)} for n in range(3)]
    strange = [{**row, "id": f"x{n}"} for n, row in enumerate(right)]
    assert "proxy.jsonl: no rows of id '0', and" in line(*strange)
    assert "proxy.jsonl: no rows of id '2', and" in line(*right[:2])
    assert "base.jsonl: no rows of id '3', and" in line(*right, {**OURS, "id": "3"})
    other = {**right[1], "answers": ["17"]}
    said = "proxy.jsonl: row '1' has the gold answer '17', and"
    assert said in line(right[0], other, right[2])
    assert said in line(right[2], other, right[0])
    assert said in line(right[0], other, right[2], others=(f"expert={base}",))
    bare = [{"output": " 18", "answer": 18} for _ in right]  # rows without names, by their places
    assert "proxy.jsonl: line 3 has the gold answer '19'" in line(
        *bare[:2], {**bare[2], "answer": 19}
    )
    assert "proxy.jsonl has 2 rows and" in line(*bare[:2])
    by_text = [{"question": "?", "output": " 18", "answer": "18"} for _ in right]
    for rows in (right[::-1], bare, by_text):
        proxy = jsonl(tmp_path / "proxy.jsonl", *rows)
        found, _ = score("gsm8k", f"base={base}", f"proxy={proxy}", f"tuned={tuned}")
        assert found["systems"][1]["gap_closed"]["value"] == 1.0
    samples = [{"task_id": name, "passed": True} for name in "aab"]
    files = [jsonl(tmp_path / f"{n}.jsonl", *samples[n:]) for n in range(2)]
    roles = [f"{role}={path}" for role, path in zip(("base", "tuned"), files, strict=True)]
    score("humaneval", *roles, "--k", "1")
    lost = jsonl(tmp_path / "lost.jsonl", *samples[:2])
    assert "no rows of task_id 'b'" in refusal("humaneval", *roles, f"proxy={lost}", "--k", "1")
    toxic = [{"prompt": text, "is_toxic": 0} for text in ("a", "b")]
    pair = [jsonl(tmp_path / f"t{n}.jsonl", *toxic[n:]) for n in range(2)]
    assert "no rows of prompt 'a'" in refusal("toxigen", f"base={pair[0]}", f"proxy={pair[1]}")
