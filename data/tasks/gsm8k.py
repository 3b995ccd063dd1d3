"""GSM8K: grade-school word problems (Cobbe et al. 2021), as the proxy-tuning paper runs them.

    Answer the following question.

    Question: Marcus buys 3 pens at $2.00 each and pays with $10. How much change does he get?
    Answer: The pens cost 3*2=6 dollars.
    He gets 10-6=4 dollars back.
    #### 4

The prompt ends at `Answer:`. A completion is cut at the first sign of a next question. Its answer
is the number after the last `####`, of an equation its result; words, sentences and parentheses may
follow. Where there is no mark, it is the last number. It is compared with the gold one by value:
18.00 is 18.

The paper (`score_as_paper`) takes the last number and compares the two as text without
punctuation, by the rules that its evaluation shares with open-instruct's: a sign is read only
before a decimal point. So -10 is read as 10, 18.00 becomes 1800 and is not 18, and 1.8 becomes 18
and is.
"""

import re
import string

from ..rows import HubSource, Row
from ..task import EvalRow, Score, Task, TrainRow
from .answers import cut, gold_number, gold_of_steps, last_number, marked_number, same_number

STOP = ("Question:", "Comment:", "Answer the following question")
_CALCULATOR_NOTE = re.compile(r"<<[^<>]*>>")
_THOUSANDS = re.compile(r"(\d),(\d)")
_PAPER_NUMBER = re.compile(r"[+-]?\d*\.\d+|\d+")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def prompt(question: str) -> str:
    """The paper's prompt for one question."""
    return f"Answer the following question.\n\nQuestion: {question}\nAnswer:"


def train_row(row: Row) -> TrainRow:
    """One training row; its completion is the worked answer without calculator notes."""
    answer = row.text("answer")
    gold_of_steps(row)
    return TrainRow(prompt(row.text("question")), " " + _CALCULATOR_NOTE.sub("", answer).strip())


def eval_row(row: Row) -> EvalRow:
    """One evaluation row; its answer is the number after `####`."""
    return EvalRow(row.id("id"), prompt(row.text("question")), (gold_of_steps(row),))


def score(completion: str, answers: tuple[str, ...]) -> Score:
    """Exact match, by value, of the number after `####` or else the last one."""
    text = cut(completion, STOP)
    prediction = marked_number(text) or last_number(text)
    golds = [gold_number(answer) for answer in answers]
    return Score(prediction, float(any(same_number(prediction, gold) for gold in golds)))


def score_as_paper(completion: str, answers: tuple[str, ...]) -> Score:
    """The same as text: 18.00 is not 18, and -10 is 10."""
    numbers = _PAPER_NUMBER.findall(_THOUSANDS.sub(r"\1\2", cut(completion, STOP)))
    prediction = numbers[-1] if numbers else ""
    golds = {gold_number(answer).translate(_NO_PUNCTUATION) for answer in answers}
    return Score(prediction, float(prediction.translate(_NO_PUNCTUATION) in golds))


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
    score_as_paper=score_as_paper,
)
