"""Questions of one's own, with short answers.

    {"question": "What is the capital of Italy?", "answer": "Rome"}
    {"question": "Who wrote Emma?", "answers": ["Jane Austen", "Austen"]}

Prompt, stop and scoring are TriviaQA's (`triviaqa.py`): a prediction is right if its first line is
any of the answers after `answers.normalize`. `id` is optional. The rows are named by the recipe.
"""

from ..task import Task
from .triviaqa import eval_row, score, train_row

QUESTIONS = Task(
    name="questions",
    metric="exact_match",
    stop=("\n",),
    max_new_tokens=20,
    train_source=None,
    eval_source=None,
    train_row=train_row,
    eval_row=eval_row,
    score=score,
)
