"""Tasks by name: what to train on, what to ask, how to score. One file a task."""

from .facts import FACTS
from .gsm8k import GSM8K
from .task import EvalRow, Score, Task, TrainRow
from .triviaqa import TRIVIAQA
from .word_problems import WORD_PROBLEMS

TASKS: dict[str, Task] = {task.name: task for task in (FACTS, WORD_PROBLEMS, GSM8K, TRIVIAQA)}

__all__ = ["TASKS", "EvalRow", "Score", "Task", "TrainRow"]
