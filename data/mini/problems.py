"""Word problems of the mini family: templates of one to three steps with small numbers.

    question    Tom has 12 apples. Tom finds 7 more and gives 4 to Ann. How many apples are left?
    worked      12+7=19
                19-4=15
                #### 15
    prose       12+7=19, so Tom has 19 apples. 19-4=15, so 15 apples are left. The answer is 15.

In pretraining the answer to a question is the prose; the worked form is what an expert learns.
"""

import random
from dataclasses import dataclass

MAX_VALUE = 199

NAMES = (
    "Tom Ann Ben Mia Sam Eva Leo Zoe Max Lucy Jack Nina Omar Rosa Paul Jane Luis Maya Adam Ella "
    "Noah Lena Hugo Iris Karl Sara Amir Dina Finn Cora"
).split()
THINGS = (
    "apples pears books coins pens cards shells stamps eggs cups balls roses plums nuts cakes "
    "stones beads toys keys bricks lemons tickets candles buttons marbles"
).split()

_SMALL, _MIDDLE, _LARGE = (2, 9), (3, 20), (11, 60)


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of problem.

    Attributes:
        question: its text; {a}, {b}, ... are numbers, {n} and {m} names, {t} a thing.
        ranges: the smallest and largest value of a, b, ... in order.
        steps: (expression, meaning) pairs; results are named x, y, z; {r} is the step's own result.
    """

    question: str
    ranges: tuple[tuple[int, int], ...]
    steps: tuple[tuple[str, str], ...]


TEMPLATES = (
    Template(
        "{n} has {a} {t} and buys {b} more. How many {t} does {n} have now?",
        (_LARGE, _LARGE),
        (("a+b", "{n} has {r} {t}"),),
    ),
    Template(
        "{n} has {a} {t} and gives {b} to {m}. How many {t} are left?",
        (_LARGE, _MIDDLE),
        (("a-b", "{r} {t} are left"),),
    ),
    Template(
        "{n} has {a} {t}. {n} finds {b} more and gives {c} to {m}. How many {t} are left?",
        (_LARGE, _MIDDLE, _MIDDLE),
        (("a+b", "{n} has {r} {t}"), ("x-c", "{r} {t} are left")),
    ),
    Template(
        "{n} buys {a} boxes with {b} {t} in each. How many {t} does {n} buy?",
        (_SMALL, _MIDDLE),
        (("a*b", "{n} buys {r} {t}"),),
    ),
    Template(
        "{n} has {a} bags with {b} {t} in each and gives {c} to {m}. How many {t} are left?",
        (_SMALL, _MIDDLE, _MIDDLE),
        (("a*b", "{n} has {r} {t}"), ("x-c", "{r} {t} are left")),
    ),
    Template(
        "{n} has {a} {t} and {m} has {b} times as many. How many {t} do they have together?",
        (_MIDDLE, (2, 5)),
        (("a*b", "{m} has {r} {t}"), ("a+x", "together they have {r} {t}")),
    ),
    Template(
        "{n} has {a} {t}. {m} has {b} more than {n}. How many {t} do they have together?",
        (_LARGE, _MIDDLE),
        (("a+b", "{m} has {r} {t}"), ("a+x", "together they have {r} {t}")),
    ),
    Template(
        "{n} has {a} {t}. {m} has {b} fewer than {n}. How many {t} do they have together?",
        (_LARGE, _MIDDLE),
        (("a-b", "{m} has {r} {t}"), ("a+x", "together they have {r} {t}")),
    ),
    Template(
        "{n} earns {a} dollars an hour. {n} works {b} hours and spends {c} dollars. "
        "How many dollars are left?",
        (_MIDDLE, _SMALL, _MIDDLE),
        (("a*b", "{n} earns {r} dollars"), ("x-c", "{r} dollars are left")),
    ),
    Template(
        "{n} buys {a} {t} at {b} dollars each and pays with {c} dollars. What is the change?",
        (_SMALL, _SMALL, (20, 99)),
        (("a*b", "the {t} cost {r} dollars"), ("c-x", "the change is {r} dollars")),
    ),
    Template(
        "{n} shares {a} {t} equally among {b} friends. How many {t} does each friend get?",
        ((6, 99), _SMALL),
        (("a/b", "each friend gets {r} {t}"),),
    ),
    Template(
        "{n} has {a} {t} and {m} has {b}. They put them in bags of {c}. How many bags are there?",
        (_MIDDLE, _MIDDLE, _SMALL),
        (("a+b", "together they have {r} {t}"), ("x/c", "there are {r} bags")),
    ),
    Template(
        "{n} reads {a} pages on Monday, {b} on Tuesday and {c} on Friday. "
        "How many pages does {n} read?",
        (_LARGE, _LARGE, _MIDDLE),
        (("a+b", "{n} reads {r} pages by Tuesday"), ("x+c", "{n} reads {r} pages")),
    ),
    Template(
        "{n} saves {a} dollars a week for {b} weeks and then gets {c} dollars. "
        "How many dollars does {n} have?",
        (_MIDDLE, _SMALL, _MIDDLE),
        (("a*b", "{n} saves {r} dollars"), ("x+c", "{n} has {r} dollars")),
    ),
    Template(
        "A box holds {a} {t}. {b} are red, {c} are blue and the rest are green. "
        "How many {t} are green?",
        (_LARGE, _MIDDLE, _MIDDLE),
        (("a-b", "{r} {t} are not red"), ("x-c", "{r} {t} are green")),
    ),
    Template(
        "{n} needs {a} {t}. {n} has {b} and {m} brings {c}. How many more {t} does {n} need?",
        (_LARGE, _MIDDLE, _MIDDLE),
        (("b+c", "they have {r} {t}"), ("a-x", "{n} needs {r} more {t}")),
    ),
    Template(
        "{n} buys {a} bags with {b} {t} each and {c} boxes with {d} {t} each. "
        "How many {t} does {n} buy?",
        (_SMALL, _SMALL, _SMALL, _SMALL),
        (
            ("a*b", "the bags hold {r} {t}"),
            ("c*d", "the boxes hold {r} {t}"),
            ("x+y", "{n} buys {r} {t}"),
        ),
    ),
    Template(
        "{n} has {a} {t}. {n} buys {b} more, loses {c} and gets {d} from {m}. "
        "How many {t} does {n} have now?",
        (_LARGE, _MIDDLE, _MIDDLE, _MIDDLE),
        (("a+b", "{n} has {r} {t}"), ("x-c", "{r} {t} are left"), ("y+d", "{n} has {r} {t}")),
    ),
    Template(
        "{n} is {a} years old. {m} is {b} years older. How old will {m} be in {c} years?",
        (_MIDDLE, _MIDDLE, _MIDDLE),
        (("a+b", "{m} is {r} years old"), ("x+c", "{m} will be {r} years old")),
    ),
    Template(
        "A bus carries {a} people. {b} get off and {c} get on. How many people are on the bus?",
        (_LARGE, _MIDDLE, _MIDDLE),
        (("a-b", "{r} people stay on the bus"), ("x+c", "{r} people are on the bus")),
    ),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One drawn problem; `key` says which template and numbers, whatever the names and things."""

    key: tuple[int, ...]
    question: str
    equations: tuple[str, ...]
    meanings: tuple[str, ...]
    answer: int

    @property
    def worked(self) -> str:
        """Equations line by line, then `#### answer`."""
        return "\n".join((*self.equations, f"#### {self.answer}"))

    @property
    def prose(self) -> str:
        """The same equations in sentences."""
        pairs = zip(self.equations, self.meanings, strict=True)
        sentences = " ".join(f"{equation}, so {meaning}." for equation, meaning in pairs)
        return f"{sentences} The answer is {self.answer}."


def draw_problem(rng: random.Random) -> Problem:
    """A random problem all of whose results are whole, at least 1 and at most MAX_VALUE."""
    index = rng.randrange(len(TEMPLATES))
    template = TEMPLATES[index]
    while True:
        given = [rng.randint(low, high) for low, high in template.ranges]
        values = dict(zip("abcd", given, strict=False))
        equations: list[str] = []
        for (expression, _), result_name in zip(template.steps, "xyz", strict=False):
            left, operator, right = expression
            result = _result(values[left], operator, values[right])
            if result is None:
                break
            equations.append(f"{values[left]}{operator}{values[right]}={result}")
            values[result_name] = result
        if len(equations) == len(template.steps):
            break
    name, other = rng.sample(NAMES, 2)
    words = {"n": name, "m": other, "t": rng.choice(THINGS)}
    meanings = tuple(
        meaning.format(**words, r=values[result_name])
        for (_, meaning), result_name in zip(template.steps, "xyz", strict=False)
    )
    question = template.question.format(**words, **values)
    answer = values["xyz"[len(equations) - 1]]
    return Problem((index, *given), question, tuple(equations), meanings, answer)


def _result(left: int, operator: str, right: int) -> int | None:
    if operator == "/":
        return left // right if left % right == 0 and left > right else None
    result = {"+": left + right, "-": left - right, "*": left * right}[operator]
    return result if 1 <= result <= MAX_VALUE else None
