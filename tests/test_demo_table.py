"""The figures that CI holds the demo to: they are the README's, and one that is off is told."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHECK = runpy.run_path(str(ROOT / ".ci" / "check_demo.py"))
TABLE, NUM_ROWS = CHECK["TABLE"], CHECK["NUM_ROWS"]


@pytest.fixture
def metrics():
    """The metrics.json of a run that has exactly the table's figures."""

    def system(name):
        percent, closed = TABLE[name]
        gap = {} if closed is None else {"gap_closed": {"value": closed / 100}}
        return {"value": percent / 100, **gap}

    alphas = [name for name in TABLE if "alpha" in name]
    base = {"model": "x/large", "base": system("base"), "tuned": system("tuned directly")}
    base["proxy"] = [{"alpha": float(name.split()[-1]), **system(name)} for name in alphas]
    small = {"antiexpert": system("anti-expert"), "expert": system("expert")}
    return {"num_examples": NUM_ROWS, **small, "bases": [base]}


def test_the_table_is_the_readme_s():
    text = (ROOT / "README.md").read_text("utf-8")
    block = text[text.index("anti-expert   ") :]
    block = block[: block.index("* chosen on")]
    row = re.compile(r"^[ *]*(\S.*?)  +(\d+\.\d) \[.*?\](?:.*?(\d+)% \[.*)?$", re.MULTILINE)
    shown = row.findall(block)
    assert [name for name, _, _ in shown] == list(TABLE)
    for name, percent, closed in shown:
        value, gap = TABLE[name]
        assert float(percent) == pytest.approx(value, abs=0.0501)
        assert bool(closed) == (gap is not None)
        assert not closed or float(closed) == pytest.approx(gap, abs=0.501)


def test_the_table_itself_passes(metrics):
    assert list(CHECK["differences"](metrics)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda m: m["expert"].update(value=0.40),
            "expert: exact match 40.00, expected 42.25 with",
        ),
        (lambda m: m["antiexpert"].update(value=0.02), "anti-expert: exact match 2.00"),
        (lambda m: m["bases"][0]["tuned"].update(value=0.98), "tuned directly: exact match 98.00"),
        (lambda m: m["bases"][0]["proxy"][0].update(value=0.92), "proxy, alpha 1: exact match 92"),
        (
            lambda m: m["bases"][0]["proxy"][0]["gap_closed"].update(value=0.5),
            "alpha 1: gap closed 50",
        ),
        (lambda m: m["bases"][0]["proxy"][0].update(gap_closed=None), "1: gap closed None"),
        (lambda m: m["bases"][0]["proxy"].pop(), "no proxy, alpha 1 among the systems anti-expert"),
        (lambda m: m.update(num_examples=399), "399 rows, expected 400"),
    ],
)
def test_a_figure_that_is_off_is_told(metrics, change, problem):
    change(metrics)
    (found,) = CHECK["differences"](metrics)
    assert problem in found


def test_another_chosen_system_is_let_pass(metrics):
    others = [{"alpha": 0.75, "value": 0.5}, {"alpha": 1.0, "rule": "either0.1", "value": 0.5}]
    metrics["bases"][0]["proxy"] += others
    assert list(CHECK["differences"](metrics)) == []


def test_a_point_up_or_down_is_let_pass(metrics):
    metrics["expert"]["value"] += 0.0099
    metrics["bases"][0]["proxy"][0]["gap_closed"]["value"] -= 0.0099
    assert list(CHECK["differences"](metrics)) == []
