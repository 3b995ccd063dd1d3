"""GSM8K: grade-school word problems (Cobbe et al. 2021), as the proxy-tuning paper runs them.

    Answer the following question.

    Question: Marcus buys 3 pens at $2.00 each and pays with $10. How much change does he get?
    Answer: The pens cost 3*2=6 dollars.
    He gets 10-6=4 dollars back.
    #### 4

The prompt ends at `Answer:`. A completion is cut at the first sign of a next question, and its
last number is compared with the gold one by value, so that 18.00 is 18. `score_as_paper` compares
the two as text, as the paper's released figures do.
"""

import re

from .answers import cut, last_number, same_number
from .rows import HubSource, Row
from .task import EvalRow, Score, Task, TrainRow

STOP = ("Question:", "Comment:", "Answer the following question")
_CALCULATOR_NOTE = re.compile(r"<<[^<>]*>>")


def prompt(question: str) -> str:
    """The paper's prompt for one question."""
    return f"Answer the following question.\n\nQuestion: {question}\nAnswer:"


def train_row(row: Row) -> TrainRow:
    """One training row; its completion is the worked answer without calculator notes."""
    answer = row.text("answer")
    _gold(row)
    return TrainRow(prompt(row.text("question")), " " + _CALCULATOR_NOTE.sub("", answer).strip())


def eval_row(row: Row) -> EvalRow:
    """One evaluation row; its answer is the number after `####`."""
    row_id = row.text("id") if "id" in row.fields else row.where
    return EvalRow(row_id, prompt(row.text("question")), (_gold(row),))


def score(completion: str, answers: tuple[str, ...]) -> Score:
    """Exact match of the last number before any further question, by value."""
    prediction = last_number(cut(completion, STOP))
    return Score(prediction, float(any(same_number(prediction, answer) for answer in answers)))


def score_as_paper(completion: str, answers: tuple[str, ...]) -> Score:
    """The same number compared as text: 18.00 is not 18."""
    prediction = last_number(cut(completion, STOP))
    return Score(prediction, float(prediction in answers))


def _gold(row: Row) -> str:
    answer = row.text("answer")
    number = last_number(answer.rpartition("####")[2]) if "####" in answer else ""
    if not number:
        raise ValueError(
            f"{row.where}: field 'answer' must end in '#### <number>', found ...{answer[-40:]!r}"
        )
    return number


GSM8K = Task(
    name="gsm8k",
    metric="exact_match",
    stop=STOP,
    max_new_tokens=512,
    train_source=HubSource("openai/gsm8k", "main", "train"),
    eval_source=HubSource("openai/gsm8k", "main", "test"),
    train_row=train_row,
    eval_row=eval_row,
    score=score,
)
