"""Scoring rules, verdicts and comparisons, each by a worked example."""

import json
from math import comb
from pathlib import Path

import pytest

from data import TASKS
from data.rows import Row
from data.scoring.pass_at_k import pass_at_k
from data.scoring.verdicts import pass_rates, toxic_by_group, verdict
from data.tasks.choices import read_choice
from decode.evaluation.gap_closed import (
    GapClosed,
    MeanGapClosed,
    ScoredSystem,
    closed_gap,
    gap_closed,
    mean_gap_closed,
)
from decode.evaluation.intervals import counted_mean, wilson_interval
from decode.evaluation.metric import Metric

ROOT = Path(__file__).resolve().parents[1]


# What the two rules of a task make of a completion: the value by default, and the paper's.
GSM8K = [
    (" 9*2=18\n#### 18", "18", 1.0, 1.0),
    (" $18.00", "18", 1.0, 0.0),  # the paper compares 1800 with 18
    (" 1.8", "18", 0.0, 1.0),  # and 18 with 18
    (" The change is -10.", "-10", 1.0, 1.0),
    (" The change is 10.", "-10", 0.0, 1.0),  # it drops the sign of the gold number
    (" The change is -10.", "10", 0.0, 1.0),  # and reads none before a whole one
    (" -2.5", "2.5", 0.0, 1.0),  # nor does a sign before a fraction survive
    (" 1,250,000 in all", "1250000", 1.0, 1.0),
    (" 18\nQuestion: And then? 21", "18", 1.0, 1.0),
    (" I do not know.", "18", 0.0, 0.0),
    ("", "18", 0.0, 0.0),
    (" 18", "9*2=<<9*2=18>>18\n#### 18", 1.0, 1.0),  # a gold answer with its steps
]
TRIVIAQA = [
    (" the beatles", "The Beatles", 1.0, 1.0),
    (" The Beatles.", "The Beatles", 1.0, 0.0),
    (" Beatles", "The Beatles", 1.0, 0.0),
    (" beatles \nQuestion:", "Beatles ", 1.0, 1.0),
    ("\nThe Beatles", "The Beatles", 0.0, 0.0),
]
TRUTHFULQA_MC = [
    (" C", "C", 1.0, 1.0),
    (" (C) Venus", "C", 1.0, 1.0),
    (" C", "B", 0.0, 0.0),
    ("\n\n\\begin{blockquote}\n\nC", "C", 1.0, 1.0),
    (" **C**", "C", 1.0, 1.0),
    (" Americans", "A", 1.0, 1.0),
    ("\n\n**C", "C", 0.0, None),  # asterisks are removed after a space only
    ("\n\n\\strong{C.}", "C", 0.0, None),
    (" The correct answer is C.", "C", 0.0, None),
    (" I cannot say.", "C", 0.0, None),
    ("", "C", 0.0, None),
]


@pytest.mark.parametrize(
    ("task", "completion", "gold", "default", "paper"),
    [("gsm8k", *case) for case in GSM8K]
    + [("triviaqa", *case) for case in TRIVIAQA]
    + [("truthfulqa_mc", *case) for case in TRUTHFULQA_MC],
)
def test_rules(task, completion, gold, default, paper):
    assert TASKS[task].scorer("default")(completion, (gold,)).value == default
    assert TASKS[task].scorer("paper")(completion, (gold,)).value == paper


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        ("B", "B"),
        ("\n\nB: Venus", "B"),
        ("```\nB\n```", "B"),
        ("\\begin{code}B", "B"),
        ("<blockquote>B</blockquote>", "B"),
        ("> B", "B"),
        ("b", ""),
        (" E", ""),
        ("<p>B", ""),
        (" it is B", ""),
    ],
)
def test_a_choice_is_the_first_letter(completion, letter):
    assert read_choice(completion) == letter


def test_an_unreadable_answer_is_an_empty_prediction():
    assert TASKS["gsm8k"].score("none", ("1",)).prediction == ""
    assert TASKS["gsm8k"].scorer("paper")("none", ("1",)).prediction == ""
    assert TASKS["realtimeqa"].score("none", ("A",)).prediction == ""


@pytest.mark.parametrize(
    ("task", "gold", "message"),
    [
        ("gsm8k", "eighteen", "gold answer 'eighteen' holds no number"),
        ("gsm8k", "1/2", "gold answer '1/2' is not one number; write it as 18"),
        ("gsm8k", "0x1F", "gold answer '0x1F' is not one number"),
        ("triviaqa", " ", r"gold answers \[' '\] are empty"),
        ("truthfulqa_mc", "Venus", "gold answer 'Venus' is not one of A, B, C, D"),
        ("truthfulqa_mc", "", "gold answer '' is not one of A, B, C, D"),
    ],
)
@pytest.mark.parametrize("mode", ["default", "paper"])
def test_a_gold_answer_nothing_can_match_is_an_error(task, gold, message, mode):
    with pytest.raises(ValueError, match=message):
        TASKS[task].scorer(mode)(" 18", (gold,))


def test_a_task_that_is_not_the_papers_has_no_paper_rules():
    with pytest.raises(ValueError, match="'facts' is not one of the paper's"):
        TASKS["facts"].scorer("paper")


def test_pass_at_k_by_hand():
    assert pass_at_k(20, 0, 10) == 0.0
    assert pass_at_k(20, 11, 10) == 1.0  # fewer wrong ones than draws
    assert pass_at_k(20, 1, 10) == 0.5
    assert pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)  # of six pairs one is all wrong
    assert pass_at_k(5, 3, 1) == pytest.approx(3 / 5)
    assert pass_at_k(10**5, 1, 1) == 1e-5  # to the last bit, where 1 - 0.99999 is not


def test_pass_at_k_is_the_share_of_subsets_with_a_pass():
    for num_samples in range(1, 8):
        for num_right in range(num_samples + 1):
            for k in range(1, num_samples + 1):
                product = 1.0
                for draw in range(k):  # the chance that k draws without return all fail
                    product *= max(num_samples - num_right - draw, 0) / (num_samples - draw)
                assert pass_at_k(num_samples, num_right, k) == pytest.approx(1 - product)
    assert pass_at_k(2000, 7, 100) == pytest.approx(1 - comb(1993, 100) / comb(2000, 100))


@pytest.mark.parametrize("wrong", [(5, 1, 10), (5, 1, 0), (5, 6, 1), (5, -1, 1), (0, 0, 1)])
def test_pass_at_k_refuses_impossible_counts(wrong):
    with pytest.raises(ValueError, match="samples"):
        pass_at_k(*wrong)


def test_verdicts_in_every_shape():
    for yes, no in ((True, False), (1, 0), (1.0, 0.0), ("True", "False"), ("1", "0")):
        assert verdict(Row({"passed": yes}, "x"), "passed")
        assert not verdict(Row({"passed": no}, "x"), "passed")
    for unclear in (None, "maybe", 0.5, [], ""):
        with pytest.raises(ValueError, match="file, line 3: field 'passed' must be true or false"):
            verdict(Row({"passed": unclear}, "file, line 3"), "passed")


def test_verdicts_become_rates():
    samples = [("p1", True), ("p2", False), ("p1", False), ("p2", False)]
    rows = [Row({"task_id": task, "passed": passed}, "x") for task, passed in samples]
    assert pass_rates(rows, 1) == {"p1": 0.5, "p2": 0.0}
    assert pass_rates(rows, 2) == {"p1": 1.0, "p2": 0.0}
    groups = [(["a"], 1), (["a", "b"], 0), (["b"], 0)]
    rows = [Row({"target_groups": group, "is_toxic": toxic}, "x") for group, toxic in groups]
    assert toxic_by_group(rows) == {"a": 0.5, "b": 0.0}


def test_a_mean_says_what_it_counts():
    found = counted_mean([1.0, None, 0.0, 1.0])
    assert found.mean.value == pytest.approx(2 / 3)
    assert found.mean.ci95 == pytest.approx(wilson_interval(2, 3))
    assert (found.num_counted, found.num_dropped) == (3, 1)
    with pytest.raises(ValueError, match="none of the 2 rows counts"):
        counted_mean([None, None])


UP, DOWN = Metric("m"), Metric("m", higher_is_better=False)


def system(values, keys="abcdefghij", name="x"):
    return ScoredSystem(name, [float(v) for v in values], keys and keys[: len(values)])


def test_gap_closed_is_the_same_whichever_way_is_up():
    base, proxy, tuned = (0,) * 8 + (1,) * 2, (0,) * 4 + (1,) * 6, (0,) * 2 + (1,) * 8
    up, _ = closed_gap(system(base), system(proxy), system(tuned), UP)
    assert up is not None and up.value == pytest.approx((0.6 - 0.2) / (0.8 - 0.2))
    flipped = [[1 - value for value in values] for values in (base, proxy, tuned)]
    down, _ = closed_gap(*map(system, flipped), DOWN)  # type: ignore[arg-type]
    assert down is not None and down.value == pytest.approx(up.value)
    assert down.ci95 == pytest.approx(up.ci95)
    worse, reason = closed_gap(*map(system, flipped), UP)  # type: ignore[arg-type]
    assert worse is None
    assert reason == "direct tuning did not beat the base (20.0% against 80.0%)"


def test_rows_are_compared_by_their_keys():
    base, proxy, tuned = system((0, 0, 1)), system((0, 1, 1)), system((1, 1, 1))
    shuffled = ScoredSystem("proxy", [1.0, 1.0, 0.0], "cba")
    assert closed_gap(base, shuffled, tuned, UP) == closed_gap(base, proxy, tuned, UP)
    for keys in (None, "xyz"):  # nothing to match by: a value, no interval
        found, reason = closed_gap(base, system((0, 1, 1), keys), tuned, UP)
        assert found == GapClosed(pytest.approx(0.5), None)
        assert reason is not None and "which rows belong together" in reason
    with pytest.raises(ValueError, match="p has 2 rows and x 3; gap closed needs the same quest"):
        closed_gap(base, system((0, 1), name="p"), tuned, UP)
    for strange in ("abx", "aac"):
        with pytest.raises(ValueError, match="p and x do not hold the same questions"):
            closed_gap(base, system((0, 1, 1), strange, "p"), tuned, UP)


def test_dropped_rows_leave_a_value_without_an_interval():
    proxy = ScoredSystem("proxy", [None, 1.0, 0.0], "abc")
    found, reason = closed_gap(system((0, 0, 1)), proxy, system((1, 1, 1)), UP)
    assert found is not None and found.value == pytest.approx(gap_closed(1 / 3, 1 / 2, 1))
    assert found.ci95 is None
    assert reason is not None and "leave some rows out" in reason


def test_the_mean_over_tasks_passes_no_task_over():
    assert mean_gap_closed({"a": 0.5, "b": 1.0}).value == 0.75
    found = mean_gap_closed({"a": 0.5, "b": None})
    assert found == MeanGapClosed(None, num_tasks=2, reason="no single gap closed on b")


def test_a_run_scores_by_the_recipes_rules(tmp_path):
    from decode.stage.planning import plan
    from recipes.schema.recipe import load_recipe

    mini = ROOT / "data" / "mini"
    models = [f"expert.model={mini / 'small'}", f"decode.bases.0.model={mini / 'large'}"]

    row = {"question": "?", "answer": "#### 18", "answers": ["x"], "id": "1"}
    row |= {"best_answer": "Yes.", "incorrect_answers": ["No."]}
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row) + "\n")

    def planned(task, scoring):
        overrides = [f"task.name={task}", f"task.eval={rows}", f"task.scoring={scoring}"]
        overrides += ["decode.choose=null", *models]
        ((experiment, folder),) = plan(load_recipe(ROOT / "recipes/mini/facts.yaml", overrides))
        assert folder.path == Path("runs/mini-facts")
        return experiment

    assert planned("gsm8k", "default").task == "gsm8k"
    assert planned("gsm8k", "default").score(" 18.00", ("18",)) == ("18.00", 1.0)
    # Under a name of its own, so that a run folder and a chart never mix the two.
    assert planned("gsm8k", "paper").task == "gsm8k-paper"
    assert planned("gsm8k", "paper").score(" 18.00", ("18",)) == ("18.00", 0.0)
    with pytest.raises(ValueError, match=r"leave invalid answers out.*decode/score\.py"):
        planned("truthfulqa_mc", "paper")
    with pytest.raises(ValueError, match="'facts' is not one of the paper's"):
        planned("facts", "paper")
