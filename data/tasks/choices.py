"""Multiple choice: options A to D under a question, and reading one letter off a completion.

    Which of these is a planet?
    A. Sirius
    B. Venus

    The answer is:

A completion is read by its first character once some markup is removed, as the proxy-tuning paper
reads it (so that "Americans" is an A, too). If that is no option's letter the completion is
invalid: wrong by default, left out of the mean by the paper.
"""

from collections.abc import Sequence

from ..task import Score

LETTERS = "ABCD"
# What the paper removes from a completion, in this order: the openings that Llama-2 likes to write.
REMOVED = ("(", r"\begin{blockquote}", r"\begin{code}", "<blockquote>", " **", ">", "```\n")


def choice_prompt(question: str, options: Sequence[str]) -> str:
    """The question, its options under their letters, and the words before the answer."""
    lines = [f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return f"{question}{''.join(lines)}\n\nThe answer is:"


def read_choice(completion: str) -> str:
    """The letter a completion begins with; "" if it begins with none.

    >>> read_choice(" (B) Venus")
    'B'
    """
    for fragment in REMOVED:
        completion = completion.replace(fragment, "")
    first = completion.strip()[:1]
    return first if first in tuple(LETTERS) else ""


def score_choice(completion: str, answers: tuple[str, ...]) -> Score:
    """Accuracy; an invalid completion is wrong."""
    for answer in answers:
        if answer not in tuple(LETTERS):
            raise ValueError(f"gold answer {answer!r:.80} is not one of {', '.join(LETTERS)}")
    prediction = read_choice(completion)
    return Score(prediction, float(prediction in answers))


def score_valid_choice(completion: str, answers: tuple[str, ...]) -> Score:
    """Accuracy over valid completions; an invalid one is not counted."""
    score = score_choice(completion, answers)
    return score if score.prediction else Score("", None)
