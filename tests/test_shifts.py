"""What a shift is, on logits written by hand, and what many of them come to."""

import json
import math

import pytest
import torch

from decode.analysis.equations import num_equations, sides
from decode.analysis.shift_summary import summarize_shifts, token_table
from decode.analysis.shifts import candidates, logprobs, shifts
from decode.analysis.trade_off import read_sweeps, trade_offs
from decode.evaluation.metric import Metric
from decode.evaluation.metrics_file import write_metrics
from decode.evaluation.summary import BaseScores, summarize
from decode.jobs.files import write_rows
from decode.jobs.folder import RunFolder

INF = math.inf


def log(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def test_a_shift_by_hand():
    base, proxy = log(0.7, 0.2, 0.1), log(0.1, 0.6, 0.3)
    moved = shifts(base, proxy, torch.tensor([1]))
    assert moved.base_logprob.item() == pytest.approx(math.log(0.2), abs=1e-6)
    assert moved.proxy_logprob.item() == pytest.approx(math.log(0.6), abs=1e-6)
    assert moved.delta_logprob.item() == pytest.approx(math.log(3), abs=1e-6)
    assert moved.delta_probability.item() == pytest.approx(0.4, abs=1e-6)
    assert (moved.base_rank.item(), moved.proxy_rank.item()) == (2, 1)
    assert moved.is_top1_changed.item() is True
    assert moved.total_variation.item() == pytest.approx(0.6, abs=1e-6)
    least = shifts(base, proxy, torch.tensor([2]))
    assert (least.base_rank.item(), least.proxy_rank.item()) == (3, 2)


def test_a_constant_and_a_narrow_type_change_nothing():
    base, proxy = torch.tensor([[3.0, 1.0, 0.5]]), torch.tensor([[0.5, 2.0, 0.5]])
    wanted = shifts(base, proxy, torch.tensor([0]))
    found = shifts((base + 7).bfloat16(), (proxy - 3).bfloat16(), torch.tensor([0]))
    for name in ("delta_logprob", "delta_probability", "total_variation"):
        assert getattr(found, name).dtype == torch.float32
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), abs=1e-6)


def test_what_is_ruled_out_makes_no_nan():
    base, proxy = log(0.5, 0.5, 0.0), log(0.0, 1.0, 0.0)
    moved = shifts(base.repeat(3, 1), proxy.repeat(3, 1), torch.tensor([0, 1, 2]))
    assert moved.delta_probability.tolist() == pytest.approx([-0.5, 0.5, 0])
    assert moved.delta_logprob.tolist() == pytest.approx([-INF, math.log(2), 0])
    assert moved.total_variation.tolist() == pytest.approx([0.5] * 3)
    assert candidates(proxy, 3) == [[(1, 0.0)]]


def test_equal_tokens_share_the_better_rank():
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    moved = shifts(logits.repeat(4, 1), logits.repeat(4, 1), torch.arange(4))
    assert moved.base_rank.tolist() == [3, 1, 1, 4]
    assert not moved.is_top1_changed.any()
    assert moved.total_variation.tolist() == [0] * 4
    sure = torch.tensor([[1.0, 2.0, 9.0, 0.0]])  # the base does not prefer 1 to 2
    assert not shifts(logits, sure, torch.tensor([2])).is_top1_changed.any()
    assert shifts(sure, logits.flip(-1), torch.tensor([1])).is_top1_changed.all()


def test_candidates_come_best_first():
    (found,) = candidates(log(0.1, 0.6, 0.3), 2)
    assert [id_ for id_, _ in found] == [1, 2]
    assert [value for _, value in found] == pytest.approx([math.log(0.6), math.log(0.3)])
    assert logprobs(log(0.1, 0.6, 0.3), torch.tensor([0])).item() == pytest.approx(math.log(0.1))


def test_shapes_must_belong_together():
    with pytest.raises(ValueError, match=r"found \(1, 3\), \(1, 2\) and \(1,\)"):
        shifts(torch.zeros(1, 3), torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize(
    ("text", "left", "right"),
    [
        ("so 5*8=40.", "5*8", "40"),
        ("16 - 3 = 13, then 2 x 4 = 8", "16-32x4", "138"),
        ("<<48/2=24>>24 clips", "48/2", "24"),
        ("(3 + 4) * $2 = $14.50", "(3+4)*$2", "$14.50"),
        ("2*3 = 6 = 12/2", "2*3", "612"),
        ("1,200 \u00d7 50% = 600", "1,200\u00d750%", "600"),
        ("x = 5 and 7 = 7", "", ""),
        ("5*8\n=40", "", ""),
        ("on 2026-11-21 it was 5", "", ""),
        ("-3+5=2", "-3+5", "2"),
    ],
)
def test_sides_of_equations(text, left, right):
    """One piece a character: what is on each side, without spaces."""
    on = sides(list(text))
    found = {
        side: "".join(c for c, where in zip(text, on, strict=True) if where == side)
        for side in ("left", "right")
    }
    # A token that holds "=" is on neither side.
    assert found == {"left": left, "right": right}


def test_a_token_on_both_sides_is_on_neither():
    assert sides(["We", " 5", "*", "8=", "40", " so"]) == [
        None, "left", "left", None, "right", None,
    ]  # fmt: skip
    assert sides(["1+1", "=2"]) == ["left", None]
    assert sides(["1+1", "", " =", " 2"]) == ["left", None, None, "right"]
    assert num_equations("5*8=40 and 40+2=42") == 2


def token(text, delta=0.0, changed=False, id_=None, end=False, rank=1):
    return {
        "id": len(text) if id_ is None else id_,
        "text": text,
        "is_end": end,
        **dict.fromkeys(("base_logprob", "expert_logprob", "antiexpert_logprob"), -1.0),
        "proxy_logprob": -0.5,
        "delta_logprob": 0.5,
        "delta_probability": delta,
        "base_rank": 2,
        "proxy_rank": rank,
        "is_top1_changed": changed,
        "total_variation": abs(delta),
        "top": {role: [[1, role[:1], -0.1]] for role in ("base", "expert", "antiexpert", "proxy")},
    }


def row(number, tokens):
    return {"id": f"r{number}", "tokens": tokens}


def test_a_summary_counts_tokens():
    rows = [
        row(
            number,
            [
                token("5", 0.5, changed=True),
                token("+1", 0.3),
                token("=6", 0.9, id_=90),
                *[token("!", 0.0, id_=91)] * (number < 2),
                token("<eos>", 0.1, end=True, rank=1 + (number == 0)),
            ],
        )
        for number in range(6)
    ]
    summary = summarize_shifts(rows)
    assert summary["num_rows"] == 6
    assert summary["num_tokens"] == 26
    assert summary["top1_changed"]["value"] == pytest.approx(6 / 26)
    low, high = summary["top1_changed"]["ci95"]
    assert 6 / 30 <= low <= 6 / 26 <= high <= 6 / 24
    assert summary["changed_to_expert_top1"] == 1  # "5" is one character: id 1, as in `top`
    assert summary["emitted_is_top1"] == pytest.approx(25 / 26)
    places = summary["top1_changed_by_position"]
    assert [place["top1_changed"] for place in places] == [1, 0, 0, 0]  # the fifth has two rows
    assert places[0] == {"position": 1, "num_rows": 6, "top1_changed": 1.0}
    equations = summary["equations"]
    assert equations["num_equations"] == 6
    assert equations["left"]["num_tokens"] == 12
    assert equations["left"]["mean_delta_probability"] == pytest.approx(0.4)
    assert equations["right"] == {
        "num_tokens": 0, "mean_delta_probability": None, "top1_changed": None,
    }  # fmt: skip
    listed = [(kind["text"], kind["count"]) for kind in summary["most_shifted"]]
    assert listed == [("=6", 6), ("5", 6), ("+1", 6), ("<eos>", 6)]  # "!" is too rare
    assert summary["most_shifted"][1]["most_often_after"] == ""
    assert summary["most_shifted"][0]["most_often_after"] == "+1"
    json.dumps(summary, allow_nan=False)
    columns, lines = token_table(rows)
    assert len(lines) == 26
    assert {len(line) for line in lines} == {len(columns)}


def make_run(folder, metric, scores, extra):
    """A run folder with metrics and predictions; `extra` gives a row's further fields."""
    base = BaseScores("x/large", "large", scores["base"], scores["tuned"], scores["proxy"])
    metrics = summarize("task", Metric(metric), [0, 0], [0, 1], [base])
    run = RunFolder(folder)
    write_metrics(run.metrics, metrics)
    for system in metrics.systems:
        rows = [{"id": str(i), "score": 0.0, **extra(system)} for i in range(2)]
        write_rows(run.predictions(system.name), rows)
    return run


def test_the_trade_off_of_two_columns(tmp_path):
    scores = {"base": [0, 0], "tuned": [1, 1], "proxy": {(1.0, ""): [1, 1], (0.5, ""): [0, 1]}}

    def lengths(system):
        return {"num_tokens": 10 - 4 * (system.alpha or 0), "true": system.role == "tuned"}

    run = make_run(tmp_path / "one", "exact_match", scores, lengths)
    (curve,) = trade_offs(run, None)
    assert (curve.x, curve.y) == ("num_tokens", "exact_match")
    assert curve.points == [(0, 10, 0), (0.5, 8, 0.5), (1, 6, 1)]
    assert curve.marks == {"expert": (10, 0.5), "tuned": (10, 1)}
    assert read_sweeps(run)["large"].columns == ["exact_match", "num_tokens", "true"]
    other = {"base": [1, 1], "tuned": None, "proxy": {(1.0, ""): [0, 0]}}
    make_run(tmp_path / "two", "toxic", other, lengths)
    (curve,) = trade_offs(run, (f"{tmp_path / 'two'}:toxic", "true"))
    assert curve.points == [(0, 1, 0), (1, 0, 0)]
    assert (curve.x, curve.y) == ("toxic (two)", "true")
    assert set(curve.marks) == {"expert"}
    with pytest.raises(ValueError, match="found 'helpful', expected one of exact_match, num_tok"):
        trade_offs(run, ("helpful", "exact_match"))
    with pytest.raises(ValueError, match="not there; give the folder of a finished run"):
        trade_offs(run, (f"{tmp_path / 'three'}:toxic", "true"))
