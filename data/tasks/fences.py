"""Code in the fences of an answer, as instruct models write it.

    Here is the function:
    ```python
    def add(a, b):
        return a + b
    ```
    It adds two numbers.

The longest fence whose code is Python is taken, by lines that are not blank; fences of other
languages are passed over. EvalPlus looks for no fences: it takes the longest run of lines that
parses, and of that the imports and what the function needs. The two agree on answers that fence one
whole solution. Of an answer without a fence EvalPlus takes the lines that parse; here it is run as
it is, and its part `extracted` is 0.
"""

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..judges.judge import Verdict
from ..task import Grader, Judges

PYTHON = ("", "python", "python3", "py")  # what a fence of Python may say
_FENCE = re.compile(
    r"^(?P<indent> *)`{3,}(?P<language>[^`\s]*)[^`\n]*\n(?P<code>.*?)(?:^ *`{3,}\s*?$|\Z)",
    re.MULTILINE | re.DOTALL,
)


def fenced(text: str) -> str | None:
    r"""The code in a text's fences: the longest of Python, else the longest; None without a fence.

    A fence that is still open at the end counts, since a limit on tokens may have cut it off.

    >>> fenced("Sure:\n```python\nx = 1\n```")
    'x = 1\n'
    """
    codes = [
        re.sub(rf"^ {{0,{len(match['indent'])}}}", "", match["code"], flags=re.MULTILINE)
        for match in _FENCE.finditer(text.replace("\r\n", "\n"))
        if match["language"].lower() in PYTHON and match["code"].strip()
    ]
    return max(codes, key=lambda code: (_is_python(code), _num_lines(code)), default=None)


def of_fences(grade: Grader) -> Grader:
    """`grade` on the code in the completions' fences; the part `extracted` says where it was.

    The code stands on a line of its own: below a prompt that is a function without a body, it is
    that body or the whole function anew. A completion without a fence is taken as it is.
    """

    def extracting(
        rows: Sequence[Any], completions: Sequence[str], judges: Judges
    ) -> Iterator[Verdict]:
        codes = [fenced(completion) for completion in completions]
        texts = [
            completion if code is None else f"\n{code}"
            for completion, code in zip(completions, codes, strict=True)
        ]
        for code, verdict in zip(codes, grade(rows, texts, judges), strict=True):
            yield replace(verdict, parts={**verdict.parts, "extracted": float(code is not None)})

    return extracting


def _is_python(code: str) -> bool:
    """Whether it parses, as a module or as the body of a function."""
    for whole in (code, f"def f():\n{code}"):
        try:
            with warnings.catch_warnings(action="ignore"):
                ast.parse(whole)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return True
    return False


def _num_lines(code: str) -> int:
    return sum(bool(line.strip()) for line in code.splitlines())
