"""The proxy-tuning paper's figures, again, from the outputs its authors released.

Every released run beside this checkout is scored in paper mode and compared with the metric the
authors published for it; files added there are compared too. All of them come out: nothing is left
to explain, and the rules know no file.

`tests/released/` has ten rows of each of the authors' formats. These rows were written for the
tests, with figures worked out by hand, so that every checkout scores every format.
"""

import json
import re
import runpy
import sys
from pathlib import Path
from statistics import fmean

import pytest

from data import TASKS
from data.rows import read_rows
from data.scoring.scored_file import score_file
from decode.evaluation.gap_closed import gap_closed, mean_gap_closed

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT.parent / "shared" / "paper"
OURS = ROOT / "tests" / "released"
EXACT = 1e-9
released = pytest.mark.skipif(
    not PAPER.is_dir(), reason="the authors' released outputs are not beside this checkout"
)


def runs(folder):
    return sorted((PAPER / folder).glob("*.jsonl.gz"))


def run_name(path):
    return path.name.removesuffix(".jsonl.gz")


@pytest.fixture(scope="module")
def published():
    return json.loads((PAPER / "published_metrics.json").read_text())


def mean(path, task):
    return fmean(v for v in score_file(task, str(path), "paper").values if v is not None)


def assert_predictions_are_theirs(task, path, names, prediction_of):
    """Our prediction of every row is the one its file records."""
    score = TASKS[task].scorer("paper")
    for row in read_rows(str(path)):
        completion, answer, theirs = (row.text(name) for name in names)
        assert score(completion, (answer,)).prediction == prediction_of(theirs)


def assert_gsm_predictions(path):
    # The authors record the whole output where there is no number in it.
    names = ("model_output", "answer", "prediction")

    def number(theirs):
        return theirs if re.search(r"\d", theirs) else ""

    assert_predictions_are_theirs("gsm8k", path, names, number)


def assert_choice_predictions(path):
    names = ("mc_output", "mc_answer_idx", "parsed_output")
    assert_predictions_are_theirs("truthfulqa_mc", path, names, str)


def scored_on_the_command_line(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["decode/score.py", *words, "--mode", "paper"])
    runpy.run_path(str(ROOT / "decode" / "score.py"), run_name="__main__")
    return json.loads(capsys.readouterr().out)


# ---- ten rows of each format


def right(task, path, mode="paper", **options):
    """How many rows are right, and how many are counted."""
    values = score_file(task, str(OURS / path), mode, **options).values
    counted = [value for value in values if value is not None]
    return sum(counted), len(counted)


@pytest.mark.parametrize(
    ("system", "paper", "default"),
    [
        ("base", (2, 10), (2, 10)),
        # -10 is read as 10, and 7.5 as 75; by value 18.00 is 18, and those two are wrong
        ("proxy", (6, 10), (5, 10)),
        ("tuned", (8, 10), (8, 10)),
    ],
)
def test_ten_rows_of_gsm(system, paper, default):
    path = f"gsm-{system}.jsonl"
    assert right("gsm8k", path) == paper
    assert right("gsm8k", path, "default") == default
    assert_gsm_predictions(OURS / path)


def test_ten_rows_of_truthfulqa_mc():
    path = "truthfulqa_mc.jsonl"
    assert right("truthfulqa_mc", path) == (6, 8)  # two completions name no option
    assert right("truthfulqa_mc", path, "default") == (6, 10)
    scored = score_file("truthfulqa_mc", str(OURS / path), "paper")
    assert (scored.num_rows, scored.num_invalid) == (10, 2)
    correct = [row.fields["correct"] for row in read_rows(str(OURS / path))]
    assert [None if value is None else bool(value) for value in scored.values] == correct
    assert_choice_predictions(OURS / path)


def test_ten_rows_of_toxigen():
    scored = score_file("toxigen", str(OURS / "toxigen-proxy.jsonl"), "paper")
    assert not scored.higher_is_better
    assert right("toxigen", "toxigen-proxy.jsonl") == (4, 10)
    groups = {"women": 1 / 3, "asian": 2 / 3, "muslim": 0, "trans": 1 / 2}
    assert scored.groups == pytest.approx(groups, abs=EXACT)


@pytest.mark.parametrize(("k", "first"), [(1, 2 / 5), (2, 7 / 10), (4, 1)])
def test_ten_samples_of_two_programs(k, first):
    """Two of five samples pass: of the ten pairs of them, three have none that passes."""
    scored = score_file("humaneval", str(OURS / "humaneval.jsonl"), k=k)
    assert scored.metric == f"pass@{k}"
    assert scored.keys == ("Toy/0", "Toy/1")
    assert scored.values == pytest.approx((first, 0), abs=EXACT)


def test_gap_closed_from_ten_rows(monkeypatch, capsys):
    """(6 - 2) / (8 - 2) on GSM; (8 - 4) / (8 - 1) on ToxiGen, where fewer are better."""
    words = []
    for task, stem in (("gsm8k", "gsm"), ("toxigen", "toxigen")):
        systems = ("base", "proxy", "tuned")
        words += [task, *(f"{name}={OURS / f'{stem}-{name}.jsonl'}" for name in systems)]
    found = scored_on_the_command_line(words, monkeypatch, capsys)
    for result, expected in zip(found["tasks"], (4 / 6, 4 / 7), strict=True):
        (proxy,) = (entry for entry in result["systems"] if entry["role"] == "proxy")
        assert proxy["gap_closed"]["value"] == pytest.approx(expected, abs=EXACT)
    assert found["mean_gap_closed"]["value"] == pytest.approx(13 / 21, abs=EXACT)


# ---- the released files


@released
def test_the_released_runs_are_all_there():
    counts = {folder: len(runs(folder)) for folder in ("gsm", "truthfulqa_mc", "toxigen")}
    assert counts["gsm"] >= 9
    assert counts["truthfulqa_mc"] >= 4
    assert counts["toxigen"] >= 3
    assert len(runs("humaneval")) >= 4


@released
@pytest.mark.parametrize("path", runs("gsm"), ids=run_name)
def test_gsm(path, published):
    expected = published[f"gsm/{run_name(path)}/metrics.json"]["exact_match"]
    assert mean(path, "gsm8k") == pytest.approx(expected, abs=EXACT)
    assert_gsm_predictions(path)


@released
@pytest.mark.parametrize("path", runs("truthfulqa_mc"), ids=run_name)
def test_truthfulqa_mc(path, published):
    expected = published[f"truthfulqa/{run_name(path)}/mc_metrics.json"]
    scored = score_file("truthfulqa_mc", str(path), "paper")
    assert scored.num_rows == expected["tot"]
    assert scored.num_invalid == expected["num_invalid_predictions"]
    assert sum(value is None for value in scored.values) == scored.num_invalid
    assert mean(path, "truthfulqa_mc") == pytest.approx(expected["acc"], abs=EXACT)
    assert_choice_predictions(path)


@released
@pytest.mark.parametrize("path", runs("toxigen"), ids=run_name)
def test_toxigen(path, published):
    expected = published[f"toxigen/{run_name(path)}/metrics.json"]
    scored = score_file("toxigen", str(path), "paper")
    assert not scored.higher_is_better
    found = {"overall": mean(path, "toxigen"), **scored.groups}
    assert found == pytest.approx(expected, abs=EXACT)


@released
@pytest.mark.parametrize("path", runs("humaneval"), ids=run_name)
def test_humaneval(path, published):
    expected = published[f"codex_humaneval/{run_name(path)}/metrics.json"]["pass@10"]
    assert len(score_file("humaneval", str(path)).values) == 164
    assert mean(path, "humaneval") == pytest.approx(expected, abs=EXACT)


# Instruction tuning, paper table 2: where each metric stands, and whether a high one is good.
INSTRUCTION = {
    "alpaca_farm": ("alpaca_farm/{}/metrics.json", "win_rate", True),
    "gsm8k": ("gsm/{}/metrics.json", "exact_match", True),
    "toxigen": ("toxigen/{}/metrics.json", "overall", False),
    "truthfulqa_mc": ("truthfulqa/{}/mc_metrics.json", "acc", True),
    "truthfulqa": ("truthfulqa/{}/open_metrics.json", "GPT-true-info acc", True),
}


def published_gaps(published, size):
    gaps = {}
    for task, (place, metric, higher_is_better) in INSTRUCTION.items():
        prompt = "-helpful-prompt" if task.startswith("truthfulqa") else ""
        names = (f"llama2-{size}", f"dexperts-{size}{prompt}", f"llama2-chat-{size}{prompt}")
        trio = [published[place.format(name)][metric] for name in names]
        base, proxy, tuned = trio if higher_is_better else [-value for value in trio]
        gaps[task] = gap_closed(base, proxy, tuned)
    return gaps


@released
@pytest.mark.parametrize(("size", "percent"), [("13B", "91.05"), ("70B", "88.07")])
def test_mean_gap_closed(published, size, percent):
    gaps = published_gaps(published, size)
    assert all(gap is not None and 0.5 < gap < 1.5 for gap in gaps.values())
    assert f"{mean_gap_closed(gaps).value:.2%}" == f"{percent}%"


@released
def test_gap_closed_from_the_released_outputs(published, monkeypatch, capsys):
    """The command a user gives, on every 13B task whose outputs are there, in one call."""
    words = []
    for task, folder in (("gsm8k", "gsm"), ("toxigen",) * 2, ("truthfulqa_mc",) * 2):
        prompt = "-helpful-prompt" if task == "truthfulqa_mc" else ""
        words += [task, f"base={PAPER / folder / 'llama2-13B.jsonl.gz'}"]
        words += [f"proxy={PAPER / folder / f'dexperts-13B{prompt}.jsonl.gz'}"]
        words += [f"tuned={PAPER / folder / f'llama2-chat-13B{prompt}.jsonl.gz'}"]
    found = scored_on_the_command_line(words, monkeypatch, capsys)
    expected = published_gaps(published, "13B")
    for result in found["tasks"]:
        (proxy,) = (entry for entry in result["systems"] if entry["role"] == "proxy")
        assert proxy["gap_closed"]["value"] == pytest.approx(expected[result["task"]], abs=EXACT)
    three = fmean(expected[result["task"]] for result in found["tasks"])
    assert found["mean_gap_closed"]["value"] == pytest.approx(three, abs=EXACT)


@released
@pytest.mark.parametrize(
    ("task", "path", "paper", "default"),
    [
        # 18.00 is 18 after all; 27 rows are right for it, none wrong
        ("gsm8k", "gsm/llama2-chat-13B", (428, 1319), (455, 1319)),
        # 19 gained likewise; two lost, "... = -100" and "have -20 pounds", read without the sign
        ("gsm8k", "gsm/dexperts-13B", (348, 1319), (365, 1319)),
        # 7.5 was 75
        ("gsm8k", "gsm/dexperts-gsm-13B", (579, 1319), (578, 1319)),
        ("gsm8k", "gsm/llama2-gsm-13B", (673, 1319), (673, 1319)),
        # 29 dropped ones are wrong
        ("truthfulqa_mc", "truthfulqa_mc/llama2-13B", (304, 788), (304, 817)),
    ],
)
def test_what_the_default_rules_change(task, path, paper, default):
    for mode, expected in (("paper", paper), ("default", default)):
        values = score_file(task, str(PAPER / f"{path}.jsonl.gz"), mode).values
        counted = [value for value in values if value is not None]
        assert (sum(counted), len(counted)) == expected
