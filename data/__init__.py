"""Tasks by name: what to train on, what to ask, how to score. One file a task."""

from .task import EvalRow, Judges, Mode, Score, Task, TrainRow
from .tasks.ds1000 import DS1000
from .tasks.facts import FACTS
from .tasks.gsm8k import GSM8K
from .tasks.humaneval import HUMANEVAL
from .tasks.instruct import INSTRUCT
from .tasks.mbpp import MBPP
from .tasks.questions import QUESTIONS
from .tasks.realtimeqa import REALTIMEQA
from .tasks.refusals import REFUSALS
from .tasks.toxigen import TOXIGEN
from .tasks.triviaqa import TRIVIAQA
from .tasks.truthfulqa import TRUTHFULQA
from .tasks.truthfulqa_mc import TRUTHFULQA_MC
from .tasks.word_problems import WORD_PROBLEMS

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        FACTS,
        WORD_PROBLEMS,
        REFUSALS,
        GSM8K,
        TRIVIAQA,
        QUESTIONS,
        INSTRUCT,
        TRUTHFULQA,
        TRUTHFULQA_MC,
        TOXIGEN,
        REALTIMEQA,
        HUMANEVAL,
        MBPP,
        DS1000,
    )
}

__all__ = ["TASKS", "EvalRow", "Judges", "Mode", "Score", "Task", "TrainRow"]
