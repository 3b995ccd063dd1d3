"""Training rows that hold an evaluation question, which a model must not have learnt.

There are three kinds, the strictest first:

    exact        the prompt is an evaluation prompt, character by character
    normalised   the same words in the same order; case, punctuation and white space do not count,
                 but for signs between numbers
    contained    the words of the question, at least MIN_WORDS of them, occur in the row in order

The words that all prompts of a task begin and end with ("Question: ... Answer:") do not belong to
the question. Shorter questions are only looked for as whole prompts: two rows may share six words
by chance. The prompt of a row is searched; if a row has no prompt, its whole text is. A question in
other words is not found.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from ..task import TrainRow

Kind = Literal["exact", "normalised", "contained"]
KINDS: tuple[Kind, ...] = ("exact", "normalised", "contained")
MIN_WORDS = 8
_WORD = re.compile(r"\w+|(?<=\d)\s*[-+*/^<>=×÷]\s*(?=\d)")


class EvaluationPrompts:
    """The prompts of some tasks, each task's together, to be found in training rows."""

    def __init__(self, prompts_by_task: Iterable[Sequence[str]]) -> None:
        self._exact: set[str] = set()
        self._normalised: set[str] = set()
        self._questions: dict[str, set[str]] = {}  # by their first MIN_WORDS words
        for prompts in prompts_by_task:
            self._exact.update(prompts)
            words = [_words(prompt) for prompt in prompts]
            self._normalised.update(" ".join(each) for each in words)
            for question in _without_template(words):
                if len(question) >= MIN_WORDS:
                    start = " ".join(question[:MIN_WORDS])
                    self._questions.setdefault(start, set()).add(" ".join(question))
        # A prompt without a word, of punctuation say, tells nothing.
        self._normalised.discard("")

    def kind(self, row: TrainRow) -> Kind | None:
        """How the row holds one of the prompts, None if it does not."""
        if row.prompt and row.prompt in self._exact:
            return "exact"
        words = _words(row.prompt or row.completion)
        text = " ".join(words)
        if row.prompt and text in self._normalised:
            return "normalised"
        padded = f"{text} "
        for start, begin in _windows(words):
            for question in self._questions.get(start, ()):
                if padded.startswith(f"{question} ", begin):
                    return "contained"
        return None


def question_key(prompt: str) -> str:
    """What prompts of one question share: their words, however they are spelt and spaced; of a
    prompt without a word, itself.

    >>> question_key(" who wrote 'Emma'?") == question_key("Who wrote Emma?")
    True
    >>> question_key("What is 12 + 7?") == question_key("What is 12 - 7?")
    False
    """
    return " ".join(_words(prompt)) or prompt


def _words(text: str) -> list[str]:
    return [word.strip() for word in _WORD.findall(text.casefold())]


def _windows(words: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Every run of MIN_WORDS words, and where it begins in the text."""
    begin = 0
    for i in range(len(words) - MIN_WORDS + 1):
        yield " ".join(words[i : i + MIN_WORDS]), begin
        begin += len(words[i]) + 1


def _without_template(prompts: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    if len(prompts) < 2:
        yield from prompts  # one prompt does not show what is its template
        return
    shortest = min(map(len, prompts))
    start, end = _num_common(prompts, shortest, 1), _num_common(prompts, shortest, -1)
    for words in prompts:
        yield words[start : max(start, len(words) - end)]


def _num_common(prompts: Sequence[Sequence[str]], most: int, direction: int) -> int:
    """How many words all prompts begin (1) or end (-1) with."""
    for i in range(most):
        at = i if direction == 1 else -1 - i
        if len({words[at] for words in prompts}) > 1:
            return i
    return most
