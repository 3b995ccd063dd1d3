"""TriviaQA: closed-book questions with short answers (Joshi et al. 2017).

    Question: The WMO is an agency of the UN dealing with what?
    Answer: Meteorology

The prompt ends at `Answer:`; a training completion is the first answer and a newline, which is also
where decoding stops. Local rows hold `question` and one `answer` or a list `answers`; rows from the
hub hold `answer: {value, aliases, normalized_aliases}`. A prediction is right if it is any alias
after `answers.normalize`, the rule of the data set's own script: lower case, punctuation as spaces,
no articles. The paper only lower-cases it (`score_as_paper`), so it counts "The Beatles." wrong
where the aliases say "beatles".
"""

from ..rows import HubSource, Row
from ..task import EvalRow, Score, Task, TrainRow
from .answers import check_texts, gold_texts, same_words


def prompt(question: str) -> str:
    """The paper's prompt for one question."""
    return f"Question: {question}\nAnswer:"


def train_row(row: Row) -> TrainRow:
    """One training row; its completion is the preferred answer and a newline."""
    return TrainRow(prompt(row.text("question")), f" {_answers(row)[0].strip()}\n")


def eval_row(row: Row) -> EvalRow:
    """One evaluation row with every alias of its answer."""
    row_id = row.id("question_id", "id")
    return EvalRow(row_id, prompt(row.text("question")), _answers(row))


def score(completion: str, answers: tuple[str, ...]) -> Score:
    """Exact match of the first line with any alias, both normalised."""
    prediction = _first_line(completion)
    return Score(prediction, float(same_words(prediction, answers)))


def score_as_paper(completion: str, answers: tuple[str, ...]) -> Score:
    """Exact match of the first line with any alias, both only lower-cased."""
    check_texts(answers)
    prediction = _first_line(completion)
    golds = {answer.strip().lower() for answer in answers}
    return Score(prediction, float(prediction.lower() in golds))


def _first_line(completion: str) -> str:
    return completion.split("\n", 1)[0].strip()


def _answers(row: Row) -> tuple[str, ...]:
    """All aliases, the preferred one first, from any shape of row."""
    if "answers" in row.fields or "answer" not in row.fields:
        return gold_texts(row, "answers")
    answer = row.fields["answer"]
    if isinstance(answer, str) and answer.strip():
        return (answer,)
    if not isinstance(answer, dict):
        raise ValueError(
            f"{row.where}: field 'answer' must be text, or an object with 'value' and 'aliases', "
            f"found {answer!r:.80}; or give a list of text in 'answers'"
        )
    inner = Row(answer, f"{row.where}, field 'answer'")
    if not (first := inner.text("value")).strip():
        raise ValueError(f"{inner.where}: field 'value' is empty")
    more = [
        alias
        for field in ("aliases", "normalized_aliases")
        if answer.get(field)
        for alias in inner.texts(field)
        if alias.strip()
    ]
    return tuple(dict.fromkeys([first, *more]))


TRIVIAQA = Task(
    name="triviaqa",
    metric="exact_match",
    stop=("\n",),
    max_new_tokens=20,
    train_source=HubSource("mandarjoshi/trivia_qa", "rc.nocontext", "train"),
    eval_source=HubSource("mandarjoshi/trivia_qa", "rc.nocontext", "validation"),
    train_row=train_row,
    eval_row=eval_row,
    score=score,
    score_as_paper=score_as_paper,
)
