"""Evaluation rows are found in training rows, and nothing else is."""

import pytest
from support.task_rows import train_rows

from data import TASKS, TrainRow
from data.training.duplicates import EvaluationPrompts

QUESTIONS = (
    "Marcus buys 3 pens at $2.00 each and pays with $10. How much change does he get?",
    "A train leaves at nine and arrives at noon. How long does it take to arrive?",
    "What is the capital of France?",
)
PROMPTS = [f"Answer the following question.\n\nQuestion: {q}\nAnswer:" for q in QUESTIONS]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (TrainRow(PROMPTS[0], " 4"), "exact"),
        (TrainRow(PROMPTS[0].upper().replace("\n", "  "), " 4"), "normalised"),
        (TrainRow(f"user: {QUESTIONS[0]} Think.", " 4"), "contained"),
        (TrainRow("", f"An exercise: {QUESTIONS[1].lower()} Three hours."), "contained"),
        (TrainRow(PROMPTS[0].replace("3 pens", "4 pens"), " 2"), None),
        (TrainRow(f"user: {QUESTIONS[2]}", "Paris"), None),  # short, in another template
        (TrainRow(PROMPTS[2].replace("France", "Spain"), "Madrid"), None),
        (TrainRow("Write a question.", QUESTIONS[0]), None),  # the prompt decides
        (TrainRow("", "..."), None),
    ],
)
def test_kinds(row, kind):
    assert EvaluationPrompts([PROMPTS, ["..."]]).kind(row) == kind


def test_a_question_is_not_found_by_its_beginning():
    asked = EvaluationPrompts([["one two three four five six seven eight nine"]])
    assert asked.kind(TrainRow("", "zero one two three four five six seven eight ninety")) is None
    assert asked.kind(TrainRow("", "zero one two three four five six seven eight nine")) is not None


@pytest.mark.parametrize("name", ["facts", "word_problems"])
def test_the_mini_splits_share_nothing(name):
    task = TASKS[name]
    asked = EvaluationPrompts([[row.prompt for row in task.eval_rows()]])
    assert [row for row in train_rows(task) if asked.kind(row)] == []
