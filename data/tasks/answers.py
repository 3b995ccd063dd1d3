"""Reading short answers and numbers off a completion, so that they can be compared.

The word rule is SQuAD's (Rajpurkar et al. 2016, section 6.1), which TriviaQA's own scorer uses too:
lower-case, no punctuation, no articles, single spaces.
"""

import re
import string
from decimal import Decimal

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "‘’´`")
_DIGIT_COMMA = re.compile(r"(?<=\d),(?=\d)")
_NUMBER = re.compile(r"(?<![\d.])-?\d*\.?\d+")


def normalize(text: str) -> str:
    """`text` in lower case, without punctuation, articles and extra spaces.

    >>> normalize(" The Beatles!")
    'beatles'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def last_number(text: str) -> str:
    """The last number in `text`, commas between digits dropped; "" if there is none.

    A minus counts only where no digit precedes it: "7-3" ends in 3, "= -3" in -3.

    >>> last_number("so she pays $1,250.00.")
    '1250.00'
    """
    numbers = _NUMBER.findall(_DIGIT_COMMA.sub("", text))
    return numbers[-1] if numbers else ""


def same_number(left: str, right: str) -> bool:
    """Whether two numerals as `last_number` gives them are equal in value: 18.00 is 18.

    "" (no number) equals nothing.
    """
    return bool(left) and bool(right) and Decimal(left) == Decimal(right)


def cut(text: str, marks: tuple[str, ...]) -> str:
    """`text` up to the first of `marks` that occurs in it."""
    ends = [text.find(mark) for mark in marks]
    return text[: min((end for end in ends if end >= 0), default=len(text))]
