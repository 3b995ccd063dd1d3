"""What pydantic finds wrong in a recipe, as the problem of one key."""

import json

from pydantic import ValidationError

from .decoding import BEHIND_ENDPOINT, HERE, of_other_kind
from .keys import KeyProblem
from .prompts import CHAT, WORD


def first_problem(error: ValidationError) -> KeyProblem:
    """The problem to tell of all that pydantic found in a recipe: its key and one line."""
    # A misspelt key comes first: it is the likely cause of the missing one.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    kind = next((part for part in problem["loc"] if part in (HERE, BEHIND_ENDPOINT)), None)
    key = ".".join(str(part) for part in problem["loc"] if part not in (kind, WORD, CHAT))
    if problem["type"] == "extra_forbidden":
        own = kind and of_other_kind(str(problem["loc"][-1]), str(kind))
        return KeyProblem(key, own or "unknown key")
    if problem["type"] == "missing":
        return KeyProblem(key, "missing; this key has no default")
    texts = {
        "too_short": "expected at least one",
        "model_type": "expected a section of keys",
        "dict_type": "expected a section of keys",
        "tuple_type": "expected a list",
    }
    text = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
    text = texts.get(problem["type"], text)
    found = json.dumps(problem["input"])
    # A whole section or list of them tells a reader nothing; the text does. A key stays unsaid.
    is_shown = "{" not in found and problem["loc"][-1] not in ("base_url", "endpoint", "key_env")
    return KeyProblem(key, f"found {found:.80}; {text}" if is_shown else text)
