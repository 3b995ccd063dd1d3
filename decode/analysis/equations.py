r"""The two sides of the equations a completion writes out (arXiv 2401.08565, section 6.1).

An equation is, on one line, an expression of numbers with at least one of + - * / x × ÷ between
them, then "=", then a number: in "so 5*8=40 and 40+2=42" there are two. Numbers may have a $
before, a % after, commas and decimals; the expression may have parentheses. In a chain,
"2*3 = 6 = 12/2", the left side ends at the first "=" and the right are the numbers after each.

A token belongs to a side if any character of it that is no space lies there; one that also holds
"=", or touches both, belongs to neither.
"""

import re
from collections.abc import Sequence
from typing import Literal

Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = ("left", "right")

NUMBER = r"[-+]?\$?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)%?"
OPERAND = rf"\(*[ \t]*{NUMBER}[ \t]*\)*"
OPERATOR = r"[ \t]*[-+*/x\u00d7\u00f7][ \t]*"
EQUATION = re.compile(
    rf"(?<![\w.])(?P<left>{OPERAND}(?:{OPERATOR}{OPERAND})+)(?P<right>(?:[ \t]*=[ \t]*{NUMBER})+)"
)


def sides(pieces: Sequence[str]) -> list[Side | None]:
    """For each piece of a text the side of an equation it is on, if it is on one."""
    text = "".join(pieces)
    places: list[Side | None] = [None] * len(text)
    for equation in EQUATION.finditer(text):
        for side in SIDES:
            for place in range(*equation.span(side)):
                places[place] = side
    found: list[Side | None] = []
    start = 0
    for piece in pieces:
        here = zip(piece, places[start : start + len(piece)], strict=True)
        marks: set[Side] = {mark for character, mark in here if mark and not character.isspace()}
        is_on_one = len(marks) == 1 and "=" not in piece
        found.append(marks.pop() if is_on_one else None)
        start += len(piece)
    return found


def num_equations(text: str) -> int:
    """How many equations a text holds."""
    return sum(1 for _ in EQUATION.finditer(text))
