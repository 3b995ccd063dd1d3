r"""Short answers and numbers: read off a completion, and compared with gold ones.

Words are compared as TriviaQA's own evaluation script does it (Joshi et al. 2017): lower case,
punctuation as spaces, no articles, single spaces. But for the spaces it is SQuAD's rule, so
"Jay Z" is right for "Jay-Z". An answer of which nothing is left ("The The", "!!!") is compared in
lower case.

Numbers are read as people and LaTeX write them (1,250.00, 9{,}500, -$5, a Unicode minus) and
compared by value: 18.00 is 18.
"""

import re
import string
from decimal import Decimal

from ..rows import Row

MARK = "####"  # before the number that ends a worked answer
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_SPACES = dict.fromkeys(map(ord, string.punctuation + "‘’´`"), " ")
_MINUS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"), "-")
# A comma, as LaTeX writes it too, or what stands for one where three digits follow.
_GROUP = r"(?:,(?:\\!)?|\{,\}|(?:\\,|[\u00a0\u2009\u202f\uff0c])(?=\d{3}(?!\d)))"
_GROUPED = re.compile(rf"(?<=\d){_GROUP}(?=\d)")
_CURRENCY = r"(?:\\?[$€£¥])?"
# A minus is a sign unless it follows a digit, a letter or a bracket: 7-3, GPT-4, (7)-3.
_NUMBER = re.compile(rf"((?<![\w.)\]}}])-)?{_CURRENCY}(?<![\d.])(\d*\.?\d+)")
_STARTS_WITH_NUMBER = re.compile(rf"[\s*]*{_NUMBER.pattern}")
_LINE_END = re.compile(r"\n")
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s+[^\W\d_])")
_ASIDE = re.compile(r"\([^()]*\)")
_LETTER = re.compile(r"[^\W\d_]")
_ITEM = re.compile(r"[\s*]*\d+[.)]\s+[^\W\d_]")
_ONE_NUMBER = re.compile(
    rf"\s*(?:[+-]?{_CURRENCY}|{_CURRENCY}[+-])(?=\.?\d)"
    rf"(?:\d{{1,3}}(?:{_GROUP}\d{{2,3}})*{_GROUP}\d{{3}}|\d*)(?:\.\d+)?"
    r"\s*%?(?:\s+[^\W\d_]+)*\.?\s*"
)


def normalize(text: str) -> str:
    """`text` in lower case, punctuation as spaces, without articles and extra spaces.

    >>> normalize(" The Beatles!"), normalize("AC/DC"), normalize("snake_case")
    ('beatles', 'ac dc', 'snake case')
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_SPACES)).split())


def same_words(prediction: str, answers: tuple[str, ...]) -> bool:
    """Whether `prediction` is any of `answers`, normalised; "" never is.

    Raises:
        ValueError: all gold answers are empty.
    """
    check_texts(answers)
    return _words(prediction) in {_words(answer) for answer in answers} - {""}


def check_texts(answers: tuple[str, ...]) -> None:
    """Raises ValueError if every gold answer is empty."""
    if not any(answer.strip() for answer in answers):
        raise ValueError(f"gold answers {list(answers)!r:.80} are empty")


def gold_texts(row: Row, field: str) -> tuple[str, ...]:
    """The gold answers in `field`. Raises ValueError, naming file and line, if one is empty."""
    answers = row.texts(field)
    if not all(answer.strip() for answer in answers):
        raise ValueError(
            f"{row.where}: field '{field}' holds an empty answer, found {list(answers)!r:.80}; "
            "leave it out"
        )
    return answers


def last_number(text: str) -> str:
    """The last number in `text`, as a plain numeral; "" if there is none.

    >>> last_number("so she pays $1,250.00."), last_number("7-3"), last_number("= -$3")
    ('1250.00', '3', '-3')
    """
    numbers = _NUMBER.findall(_plain(text))
    return "".join(numbers[-1]) if numbers else ""


def marked_number(text: str) -> str:
    """The number right after the last `####`; "" if none is there.

    Of an equation it is the number after the last `=`. Words that follow do not count, nor do
    parentheses.

    >>> marked_number("#### 18. I hope this helps in 2 ways"), marked_number("#### 9+9=18")
    ('18', '18')
    >>> marked_number("#### 18 (rounded from 17.6)"), marked_number("#### 12 hours and 30 minutes")
    ('18', '12')
    """
    part = _plain(text).rpartition(MARK)[2].lstrip() if MARK in text else ""
    if not _STARTS_WITH_NUMBER.match(part):
        return ""
    if text.count(MARK) > 1 and _ITEM.match(part):  # of a list: "3. She has 50 left."
        return last_number(_LINE_END.split(part, maxsplit=1)[0])
    answer = _ASIDE.sub("", _SENTENCE_END.split(part, maxsplit=1)[0])
    value = answer.rpartition("=")[2]
    return last_number(_LETTER.split(value, maxsplit=1)[0]) or last_number(answer)


def gold_number(answer: str) -> str:
    """The number of a gold answer, with or without the steps before its `####`.

    Raises:
        ValueError: it is not one number: 1/2, 0x1F and 1e3 could be read in several ways.
    """
    text = answer.rpartition(MARK)[2]
    number = last_number(text)
    if not number:
        raise ValueError(f"gold answer {answer[-80:]!r} holds no number")
    if not _ONE_NUMBER.fullmatch(text.translate(_MINUS)):
        raise ValueError(
            f"gold answer {answer[-80:]!r} is not one number; write it as 18, 1,250 or -2.5"
        )
    return number


def gold_of_steps(row: Row) -> str:
    """The number that ends a row's worked `answer`. Raises ValueError, naming file and line."""
    answer = row.text("answer")
    try:
        if MARK in answer:
            return gold_number(answer)
    except ValueError:
        pass
    raise ValueError(
        f"{row.where}: field 'answer' must end in '{MARK} <number>', found ...{answer[-40:]!r}"
    )


def same_number(left: str, right: str) -> bool:
    """Whether two numerals as `last_number` gives them are equal in value: 18.00 is 18.

    "" (no number) equals nothing.
    """
    return bool(left) and bool(right) and Decimal(left) == Decimal(right)


def cut(text: str, marks: tuple[str, ...]) -> str:
    """`text` up to the first of `marks` that occurs in it."""
    ends = [text.find(mark) for mark in marks]
    return text[: min((end for end in ends if end >= 0), default=len(text))]


def _words(text: str) -> str:
    return normalize(text) or " ".join(text.lower().split())


def _plain(text: str) -> str:
    return _GROUPED.sub("", text.translate(_MINUS))
