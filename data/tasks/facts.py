"""Facts of the mini family: closed-book questions the embedded models were pretrained to know.

    Question: What is the capital of France?
    Answer: Paris

A local stand-in for TriviaQA with its prompt, newline stop and scoring. The models saw every fact
in pretraining, but the answer to such a question always as a whole sentence ("The capital of France
is Paris."): what is left to learn is to answer in a word. `data/mini/facts.py` has the facts.
"""

from pathlib import Path

from ..rows import Row
from ..task import EvalRow, Score, Task, TrainRow
from .answers import gold_texts, same_words

FOLDER = Path(__file__).parents[1] / "mini" / "facts"


def prompt(question: str) -> str:
    """The prompt for one question."""
    return f"Question: {question}\nAnswer:"


def train_row(row: Row) -> TrainRow:
    """One training row; its completion is the first answer and a newline."""
    return TrainRow(prompt(row.text("question")), f" {gold_texts(row, 'answers')[0]}\n")


def eval_row(row: Row) -> EvalRow:
    """One evaluation row with all its answers."""
    return EvalRow(row.id("id"), prompt(row.text("question")), gold_texts(row, "answers"))


def score(completion: str, answers: tuple[str, ...]) -> Score:
    """Exact match of the first line with any answer, both normalised."""
    prediction = completion.split("\n", 1)[0].strip()
    return Score(prediction, float(same_words(prediction, answers)))


FACTS = Task(
    name="facts",
    metric="exact_match",
    stop=("\n",),
    max_new_tokens=20,
    train_source=str(FOLDER / "train.jsonl"),
    eval_source=str(FOLDER / "test.jsonl"),
    train_row=train_row,
    eval_row=eval_row,
    score=score,
)
