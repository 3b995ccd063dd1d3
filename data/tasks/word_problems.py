"""Word problems of the mini family: one to three steps, written in GSM8K's answer style.

    Question: Tom has 12 apples. He buys 7 more and eats 4. How many apples does Tom have now?
    Answer: 12+7=19
    19-4=15
    #### 15

A local stand-in for GSM8K. In pretraining the models saw such questions answered in prose, and
steps with `####` only elsewhere (`data/mini/stream.py`); an expert learns to answer in steps. A
completion is scored by the last number after its first `####`, so an answer in any other style
counts wrong. `data/mini/problems.py` has the templates.
"""

from pathlib import Path

from ..rows import Row
from ..task import EvalRow, Score, Task, TrainRow
from .answers import last_number, same_number

FOLDER = Path(__file__).parents[1] / "mini" / "word_problems"
MARK = "####"


def prompt(question: str) -> str:
    """The prompt for one question."""
    return f"Question: {question}\nAnswer:"


def train_row(row: Row) -> TrainRow:
    """One training row; its completion is the worked answer."""
    _gold(row)
    return TrainRow(prompt(row.text("question")), " " + row.text("answer"))


def eval_row(row: Row) -> EvalRow:
    """One evaluation row; its answer is the number after `####`."""
    return EvalRow(row.text("id"), prompt(row.text("question")), (_gold(row),))


def score(completion: str, answers: tuple[str, ...]) -> Score:
    """Exact match of the last number after the first `####` of the first question, by value."""
    prediction = last_number(completion.split("Question:", 1)[0].partition(MARK)[2])
    return Score(prediction, float(any(same_number(prediction, answer) for answer in answers)))


def _gold(row: Row) -> str:
    answer = row.text("answer")
    number = last_number(answer.partition(MARK)[2])
    if not number:
        raise ValueError(
            f"{row.where}: field 'answer' must end in '#### <number>', found ...{answer[-40:]!r}"
        )
    return number


WORD_PROBLEMS = Task(
    name="word_problems",
    metric="exact_match",
    stop=("Question:",),
    max_new_tokens=72,
    train_source=str(FOLDER / "train.jsonl"),
    eval_source=str(FOLDER / "test.jsonl"),
    train_row=train_row,
    eval_row=eval_row,
    score=score,
)
