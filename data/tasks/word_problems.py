"""Word problems of the mini family: one to three steps, written in GSM8K's answer style.

    Question: Tom has 12 apples. He buys 7 more and eats 4. How many apples does Tom have now?
    Answer: 12+7=19
    19-4=15
    #### 15

A local stand-in for GSM8K. In pretraining the models saw such questions answered in prose, and
steps with `####` only elsewhere (`data/mini/stream.py`); an expert learns to answer in steps. A
completion is scored by the number after its last `####`, so an answer in any other style counts
wrong. `data/mini/problems.py` has the templates.
"""

from pathlib import Path

from ..rows import Row
from ..task import EvalRow, Score, Task, TrainRow
from .answers import cut, gold_number, gold_of_steps, marked_number, same_number

STOP = ("Question:",)
FOLDER = Path(__file__).parents[1] / "mini" / "word_problems"


def prompt(question: str) -> str:
    """The prompt for one question."""
    return f"Question: {question}\nAnswer:"


def train_row(row: Row) -> TrainRow:
    """One training row; its completion is the worked answer."""
    gold_of_steps(row)
    return TrainRow(prompt(row.text("question")), " " + row.text("answer"))


def eval_row(row: Row) -> EvalRow:
    """One evaluation row; its answer is the number after `####`."""
    return EvalRow(row.id("id"), prompt(row.text("question")), (gold_of_steps(row),))


def score(completion: str, answers: tuple[str, ...]) -> Score:
    """Exact match of the number after the last `####` of the first question, by value."""
    prediction = marked_number(cut(completion, STOP))
    golds = [gold_number(answer) for answer in answers]
    return Score(prediction, float(any(same_number(prediction, gold) for gold in golds)))


WORD_PROBLEMS = Task(
    name="word_problems",
    metric="exact_match",
    stop=STOP,
    max_new_tokens=72,
    train_source=str(FOLDER / "train.jsonl"),
    eval_source=str(FOLDER / "test.jsonl"),
    train_row=train_row,
    eval_row=eval_row,
    score=score,
)
