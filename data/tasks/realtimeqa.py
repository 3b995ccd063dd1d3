"""RealTimeQA: multiple choice about the week's news (Kasai et al. 2023), answered by one letter.

    Which country won the tournament?
    A. Spain
    B. England

    The answer is:

Rows are those of the data set's own files, which it publishes on GitHub and not on the hub:
`question_id`, `question` (there `question_sentence`), `choices`, and `answer`, a list of places in
`choices` counted from 0. Empty choices are left out. The paper compares the four letters'
probabilities, so its predictions are never invalid, and its accuracy is the default one.
"""

from ..rows import Row
from ..task import EvalRow, Task, TrainRow
from .choices import LETTERS, choice_prompt, score_choice


def train_row(row: Row) -> TrainRow:
    """One training row; its completion is the first right letter."""
    prompt, letters = _asked(row)
    return TrainRow(prompt, f" {letters[0]}")


def eval_row(row: Row) -> EvalRow:
    """One evaluation row with every right letter."""
    prompt, letters = _asked(row)
    row_id = row.id("question_id", "id")
    return EvalRow(row_id, prompt, letters)


def _asked(row: Row) -> tuple[str, tuple[str, ...]]:
    """The prompt and the letters of the right choices."""
    question = row.text(row.first("question", "question_sentence"))
    choices = row.texts("choices")
    right = _places(row, len(choices))
    kept = [place for place, choice in enumerate(choices) if choice.strip()]
    if not 2 <= len(kept) <= len(LETTERS) or not set(right) <= set(kept):
        raise ValueError(
            f"{row.where}: needs two to {len(LETTERS)} choices with text, the right one among "
            f"them, found {list(choices)!r:.80}"
        )
    prompt = choice_prompt(question, [choices[place].strip() for place in kept])
    return prompt, tuple(LETTERS[kept.index(place)] for place in right)


def _places(row: Row, num_choices: int) -> list[int]:
    answer = row.fields[row.first("answer")]
    try:
        is_list = isinstance(answer, list) and not any(isinstance(place, bool) for place in answer)
        places = [int(place) for place in answer if isinstance(place, int | str)] * is_list
    except (TypeError, ValueError):
        places = []
    if not places or len(places) != len(answer) or not set(places) <= set(range(num_choices)):
        raise ValueError(
            f"{row.where}: field 'answer' must be a list of places in 'choices', from 0 to "
            f"{num_choices - 1}, found {answer!r:.80}"
        )
    return places


REALTIMEQA = Task(
    name="realtimeqa",
    metric="accuracy",
    stop=(),
    max_new_tokens=10,  # only the letter counts; some models begin with new lines or markup
    train_source=None,
    eval_source=None,
    train_row=train_row,
    eval_row=eval_row,
    score=score_choice,
    score_as_paper=score_choice,
)
