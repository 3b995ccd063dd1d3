"""Rows of the judged tasks, their classifier, and the released ToxiGen verdicts.

Where a text is to be "toxic", it is about cabbage: nothing offensive belongs in a test.
"""

import math
from pathlib import Path

import pytest
import torch
from support.rows import jsonl
from support.toxicity import save_classifier, toxigen_row
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from data.judges.classifier import Classifier
from data.judges.judge import Verdict
from data.rows import Row, read_rows
from data.scoring.verdicts import toxic_by_group
from data.tasks import instruct, toxigen, truthfulqa

SHARED = Path(__file__).parents[2] / "shared"
REAL = SHARED / "datasets"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_classifier_equals_the_model_text_by_text(tmp_path, architecture):
    texts = ["i like cabbage very much", "", "apples", "soup and soup and soup", "i like apples"]
    folder = save_classifier(tmp_path, architecture)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    found = Classifier(folder, "LABEL_1", batch_size=2).classify(texts)
    for text, classification in zip(texts, found, strict=True):
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
        assert math.isclose(classification.probability, logits.softmax(-1)[1], abs_tol=1e-6)
        assert classification.has_label == bool(logits[1] > logits[0])
    assert len({round(one.probability, 6) for one in found}) == len(texts)
    other = Classifier(folder, "LABEL_0").classify(texts)
    assert [one.has_label for one in other] == [not one.has_label for one in found]


def test_classifier_of_nothing(tmp_path):
    assert Classifier(save_classifier(tmp_path), "LABEL_1").classify([]) == []


@pytest.mark.parametrize("limit", [{}, {"model_max_length": 10}])
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_long_texts_are_cut_and_counted(tmp_path, caplog, architecture, limit):
    classifier = Classifier(save_classifier(tmp_path, architecture, **limit), "LABEL_1")
    num_tokens = limit.get("model_max_length", 22)
    fits = "soup " * (num_tokens - 2)
    whole, longer = classifier.classify([fits, fits + "cabbage " * 30])
    assert whole.probability == pytest.approx(longer.probability, abs=1e-6)
    assert f"1 of 2 texts are longer than the classifier's {num_tokens} tokens" in caplog.text


def test_wrong_classifiers_are_one_line(tmp_path):
    folder = save_classifier(tmp_path / "two", labels=("kind", "unkind"))
    with pytest.raises(ValueError, match="has no label 'toxic', only kind, unkind"):
        Classifier(folder, "toxic")
    single = save_classifier(tmp_path / "one", labels=("only",))
    with pytest.raises(ValueError, match="does not choose one label of several"):
        Classifier(single, "only")
    with pytest.raises(ValueError, match="could not be loaded") as raised:
        Classifier(str(tmp_path / "none"), "toxic")
    assert "\n" not in str(raised.value)


class CabbageClassifier(Classifier):
    """Minds cabbage; a stand-in with a verdict that the test can foresee."""

    def __init__(self):
        pass

    def classify(self, texts):
        from data.judges.classifier import Classification

        return [Classification("cabbage" in text, float("cabbage" in text)) for text in texts]


def test_toxigen_rows(tmp_path):
    groups = ["women", "women", "women", "asian", "trans", "bisexual"]
    rows = [toxigen_row(i, group) for i, group in enumerate(groups)]
    path = jsonl(tmp_path / "rows.jsonl", [*rows, toxigen_row(6, "asian", "neutral")])
    found = toxigen.eval_rows(path)
    assert [row.id for row in found] == ["x0", "x1", "x2", "x3", "x4"]
    assert found[0].prompt == "- cabbages are round\n- cabbages are green\n-"
    assert found[0].answers == ()
    assert sorted(row.group for row in toxigen.eval_rows(path, 3)) == ["asian", "trans", "women"]
    assert len(toxigen.eval_rows(path, 100)) == 5
    released = {"text": "- a\\n-", "label": "hate", "target_groups": ["muslim"]}
    row = toxigen.eval_row(Row(released, "f, line 1"))
    assert (row.id, row.prompt, row.group, row.kind) == ("f, line 1", "- a\n-", "muslim", "hate")


def test_toxigen_errors_show_no_prompts(tmp_path):
    neutral = jsonl(tmp_path / "rows.jsonl", [toxigen_row(0, "women", "neutral")])
    with pytest.raises(
        ValueError, match="no row of kind 'hate' about any of asian, black"
    ) as raised:
        toxigen.eval_rows(neutral)
    assert "cabbage" not in str(raised.value)
    for fields in (
        {"prompt": ["cabbage"], "group": "women", "kind": "hate"},
        {"prompt": "cabbage", "kind": "hate"},
        {"prompt": "cabbage", "group": 5, "kind": "hate"},
    ):
        with pytest.raises(ValueError, match=r"^f, line 1: field '(prompt|group)'") as raised:
            toxigen.eval_row(Row(fields, "f, line 1"))
        assert "cabbage" not in str(raised.value)


def test_toxigen_judge_and_groups():
    rows = [
        toxigen.eval_row(Row(toxigen_row(i, group), "x"))
        for i, group in enumerate(["women", "women", "trans"])
    ]
    verdicts = toxigen.judge(rows, [" cabbage", " soup", " cabbage"], CabbageClassifier())
    notes = {"is_toxic": True, "target_groups": ["women"]}
    assert verdicts[0] == Verdict(1.0, {"probability": 1.0}, notes)
    noted = [Row(dict(verdict.notes), "x") for verdict in verdicts]
    assert toxic_by_group(noted) == {"trans": 1.0, "women": 0.5}
    with pytest.raises(ValueError, match="3 rows, but 1 completions"):
        toxigen.judge(rows, ["soup"], CabbageClassifier())


def test_truthfulqa_by_classifiers():
    fields = {
        "id": "t",
        "question": "What is green?",
        "best_answer": "Grass.",
        "correct_answers": ["Grass."],
        "incorrect_answers": ["Snow."],
    }
    rows = [truthfulqa.eval_row(Row(fields, "x"))] * 2
    judge = CabbageClassifier()
    verdicts = truthfulqa.judge(rows, ["cabbage", "snow"], judge, judge)
    assert verdicts[0] == Verdict(1.0, {"true": 1.0, "informative": 1.0})
    assert verdicts[1] == Verdict(0.0, {"true": 0.0, "informative": 0.0})


def test_truthfulqa_rows():
    fields = {
        "question": "What is green?",
        "best_answer": "Grass.",
        "correct_answers": ["A leaf.", "Grass."],
        "incorrect_answers": ["Snow."],
    }
    row = truthfulqa.eval_row(Row(fields, "f, line 2"))
    assert row.id == "f, line 2"
    assert row.prompt == "What is green?\n\nAnswer:"
    assert row.answers == ("Grass.", "A leaf.")
    assert row.incorrect == ("Snow.",)
    with pytest.raises(ValueError, match="f, line 3: field 'best_answer' is missing"):
        truthfulqa.eval_row(Row({"question": "What?"}, "f, line 3"))


def test_instruct_train_rows():
    rows = [
        {"instruction": "Add.", "input": "2, 3", "output": "5"},
        {"instruction": "Add 2 and 3.", "input": "", "output": "5"},
        {"instruction": "Add 2 and 3.", "output": "5"},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Add 2 and 3."},
                {"role": "assistant", "content": "5"},
            ]
        },
    ]
    found = [instruct.train_row(Row(row, "x")) for row in rows]
    assert [row.prompt for row in found] == [
        "Add.\n\n2, 3",
        "Add 2 and 3.",
        "Add 2 and 3.",
        "Be brief.\n\nAdd 2 and 3.",
    ]
    assert {row.completion for row in found} == {"\n\n5"}


@pytest.mark.parametrize(
    "messages",
    [
        "hello",
        [],
        [{"role": "assistant", "content": "5"}],
        [{"role": "user", "content": "5"}] * 2,
        [{"role": "user", "content": None}, {"role": "assistant", "content": "5"}],
    ],
)
def test_bad_messages_are_named(messages):
    with pytest.raises(ValueError, match=r"f, line 4: field 'messages' (must be a list|holds no)"):
        instruct.train_row(Row({"messages": messages}, "f, line 4"))


def test_instruct_eval_row():
    row = instruct.eval_row(Row({"instruction": "Add.", "output": "5", "generator": "x"}, "f, 1"))
    assert (row.id, row.prompt, row.answers) == ("f, 1", "Add.", ("5",))


@needs_real
def test_real_instruct_rows():
    rows = [
        instruct.eval_row(row) for row in read_rows(str(REAL / "instruct_eval/alpaca_eval.jsonl"))
    ]
    assert len({row.id for row in rows}) == 500
    assert all(row.prompt and row.answers[0] for row in rows)
    for name, count in (("alpaca_2k", 2000), ("basic_tasks", 1068), ("seed_tasks", 174)):
        path = str(REAL / "instructions" / f"{name}.jsonl")
        train = [instruct.train_row(row) for row in read_rows(path)]
        assert len(train) == count
        assert all(row.prompt and row.completion.startswith("\n\n") for row in train)


@needs_real
def test_real_truthfulqa_rows():
    path = str(REAL / "truthfulqa" / "truthfulqa.jsonl")
    rows = [truthfulqa.eval_row(row) for row in read_rows(path)]
    assert len({row.id for row in rows}) == 500
    assert all(row.answers and row.incorrect for row in rows)
    assert all(row.prompt == f"{row.question}\n\nAnswer:" for row in rows)


@needs_real
def test_real_toxigen_rows():
    rows = toxigen.eval_rows(str(REAL / "toxigen" / "prompts.jsonl"))
    assert len({row.id for row in rows}) == 14 * 50
    assert {row.group for row in rows} == set(toxigen.GROUPS)
    assert all(row.prompt.endswith("\n-") for row in rows)
