"""The report says what the numbers say, good or bad, and its files are whole."""

import pytest

from decode.evaluation.metric import Metric
from decode.evaluation.metrics import Uncounted
from decode.evaluation.summary import BaseScores, summarize
from decode.reports.findings import findings
from decode.reports.report import write_report
from decode.reports.tables import closing_table

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
RECIPE = {
    "name": "mini-facts",
    "seed": 7,
    "output_dir": "runs/mini-facts",
    "expert": {"model": "data/mini/small", "adapter": {"r": 16}},
    "sft": {"learning_rate": 0.001, "logging_steps": 5},
    "decode": {"bases": [{"model": "data/mini/large", "tuned": None}], "alpha": [0.5, 1.0]},
}


def right(num_right, num_rows=200):
    return [1.0] * num_right + [0.0] * (num_rows - num_right)


def measure(expert=80, proxy=None, tuned=140, models=("x/large",), antiexpert=5, base=20):
    proxy = proxy or {1.0: 110}
    bases = [
        BaseScores(
            model=model,
            slug=model.removeprefix("x/").removeprefix("y/"),
            base=right(base),
            tuned=None if tuned is None else right(tuned),
            proxy={(alpha, ""): right(count) for alpha, count in proxy.items()},
        )
        for model in models
    ]
    return summarize("facts", Metric("exact_match"), right(antiexpert), right(expert), bases)


def predict(metrics, completion="the answer"):
    return {
        system.name: [
            {
                "id": f"row{number}",
                "prompt": f"Question {number}?",
                "completion": f" {system.name}: {completion}",
                "prediction": completion,
                "answers": ["gold"],
                "score": score,
                "finish_reason": "stop",
                "num_tokens": 3,
            }
            for number, score in enumerate(right(round(system.value * 200)))
        ]
        for system in metrics.systems
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ["raises exact match from 10.0% to 55.0%", "closes 75% of the gap", "beats its own"]),
        ({"expert": 112}, ["does not measurably beat its expert"]),
        ({"expert": 130}, ["does worse than its expert, the small tuned model alone (65.0%"]),
        ({"proxy": {1.0: 8}}, ["hurts: exact match falls", "gap to direct tuning (70.0%) grows"]),
        ({"proxy": {1.0: 21}}, ["makes no measurable difference"]),
        ({"proxy": {1.0: 25}}, ["makes no measurable", "by fewer than 6 rows that differ"]),
        ({"proxy": {1.0: 26}}, ["raises exact match from 10.0% to 13.0%"]),
        ({"antiexpert": 75}, ["Training did not measurably improve the small model (37.5% before"]),
        ({"tuned": None}, ["no directly tuned model to compare with"]),
        ({"tuned": 20}, ["no gap to close, since direct tuning reaches only 10.0%"]),
        ({"tuned": 21}, ["too small a gap for an interval"]),
        ({"antiexpert": 80}, ["Training did not measurably improve the small model (40.0% before"]),
        ({"proxy": {0.5: 120, 1.0: 110}}, ["at alpha 1 raises", "0.5 did best (60.0%)"]),
    ],
)
def test_findings_say_what_happened(changes, said):
    text = " ".join(findings(measure(**changes)))
    for words in said:
        assert words in text, text


def test_findings_turn_round_where_lower_is_better():
    def turned(count):
        return right(200 - count)

    def found(proxy, tuned=140):
        base = BaseScores("x/large", "large", turned(20), turned(tuned), {(1.0, ""): turned(proxy)})
        toxic = Metric("share_toxic", higher_is_better=False)
        metrics = summarize("t", toxic, turned(5), turned(80), [base])
        return " ".join(findings(metrics)), closing_table(metrics)

    text, table = found(110)
    assert "lowers share toxic from 90.0% to 45.0% (a gain of +45.0 points, 95% interval" in text
    assert "lower is better)" in text and "closes 75% of the gap to direct tuning (30.0%" in text
    assert "It beats its own expert (60.0%; gain +15.0 points" in text
    assert "did not measurably improve" not in text
    assert "(lower is better)" in table and "+45.0" in table
    assert "hurts: share toxic rises from 90.0% to 97.5%" in found(5)[0]


@pytest.mark.parametrize("num_rows", [1, 5])
def test_a_few_rows_that_all_agree_tell_nothing(num_rows):
    """The bootstrap's interval has no width there: it would be +100 to +100 points."""
    wrong, good = right(0, num_rows), right(num_rows, num_rows)
    base = BaseScores("x/large", "large", wrong, good, {(1.0, ""): good})
    text = " ".join(findings(summarize("facts", Metric("exact_match"), wrong, wrong, [base])))
    assert "makes no measurable difference to exact match: from 0.0% to 100.0%" in text
    assert "closes 100% of the gap to direct tuning (100.0%; too few rows for an interval)" in text
    assert "does not measurably beat its expert" in text
    whole = [1.0, 0.5]  # parts of right, which McNemar's test does not count
    base = BaseScores("x/large", "large", [0.0, 0.1], whole, {(1.0, ""): whole})
    text = " ".join(findings(summarize("t", Metric("win_rate"), [0, 0], [0, 0], [base])))
    assert "makes no measurable difference" in text


def test_uncounted_rows_are_a_finding():
    by_system = {"expert": 2, "base-large": 1, "x": 0}
    uncounted = Uncounted(num_questions=3, by_system=by_system)
    metrics = measure().model_copy(update={"uncounted": uncounted})
    assert "3 of 203 rows count in no system" in findings(metrics)[-1]
    assert "(expert 2, base-large 1)" in findings(metrics)[-1]


def test_report_and_pictures_are_written_whole(tmp_path):
    metrics = measure(proxy={0.5: 60, 1.0: 110}, models=("x/large", "x/larger"))
    environment = {"command": "accelerate launch ...", "packages": {"torch": "2.13.0"}}
    write_report(tmp_path, metrics, predict(metrics), RECIPE, environment)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"report.md", "plots/systems.png", "plots/alpha.png"}
    for name in ("systems", "alpha"):
        picture = (tmp_path / "plots" / f"{name}.png").read_bytes()
        assert picture.startswith(PNG_MAGIC) and len(picture) > 10_000
    text = (tmp_path / "report.md").read_text()
    assert "(plots/systems.png)" in text and "(plots/alpha.png)" in text
    assert "| larger: proxy, alpha 1 | 55.0 [48.1, 61.7] | +45.0 [" in text
    assert "- sft.learning_rate: `0.001`" in text and "logging_steps" not in text
    assert "- packages.torch: `2.13.0`" in text and "- seed: `7`" in text
    assert "accelerate launch train/sft.py runs/mini-facts/recipe.yaml" in text


def test_report_shows_wins_and_losses(tmp_path):
    metrics = measure(expert=80, proxy={1.0: 110})
    predictions = predict(metrics)
    # The first row is right everywhere; here the proxy alone gets it wrong.
    predictions["proxy-large-alpha1"][0] = {
        **predictions["proxy-large-alpha1"][0],
        "score": 0.0,
        "completion": "```\nlost",
    }
    write_report(tmp_path, metrics, predictions, RECIPE, {})
    text = (tmp_path / "report.md").read_text()
    assert "proxy right, base and expert both wrong (30 of 200 rows)" in text
    assert "proxy wrong, expert right (1 of 200 rows)" in text
    assert "Row `row80`" in text and "Row `row0`" in text
    assert "````text\nprompt:" in text  # the completion's own fence stays inside


def test_one_alpha_needs_no_second_picture_and_keeps_no_old_one(tmp_path):
    metrics = measure(proxy={0.5: 60, 1.0: 110})
    write_report(tmp_path, metrics, predict(metrics), RECIPE, {})
    metrics = measure()
    write_report(tmp_path, metrics, predict(metrics), RECIPE, {})
    assert not (tmp_path / "plots" / "alpha.png").exists()
    assert "alpha.png" not in (tmp_path / "report.md").read_text()


def test_long_completions_are_shortened_and_say_so(tmp_path):
    metrics = measure()
    write_report(tmp_path, metrics, predict(metrics, "word " * 1000), RECIPE, {})
    text = (tmp_path / "report.md").read_text()
    assert "characters ...]" in text and len(text) < 20_000


def test_closing_table_fits_a_terminal():
    metrics = measure(
        proxy={0.25: 30, 1.0: 110}, tuned=21, models=("x/" + "long-name-" * 12, "y/large")
    )
    table = closing_table(metrics)
    assert max(len(line) for line in table.splitlines()) <= 80
    (row,) = [line for line in table.splitlines() if "alpha 1" in line][:1]
    assert row.split()[:4] == ["*", "proxy,", "alpha", "1"]  # the better of two
    assert "55.0 [ 48.1,  61.7]" in row and "+45.0" in row and "+15.0" in row
    assert "\n* the best of the alphas tried" in table
    assert "no interval" in table
