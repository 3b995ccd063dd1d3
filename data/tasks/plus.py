"""EvalPlus's inputs (Liu et al. 2023): many more for each problem of HumanEval and MBPP.

Its own files hold `base_input` and `plus_input`, lists of arguments, and no results: what the
`canonical_solution` returns is right, within `atol` for floating-point numbers. A sample is right
if it is so for all of them. JSON knows no tuples, sets and complex numbers: arguments of MBPP+ take
the types that they have in the row's `assertion`. A few problems have several right answers; as in
EvalPlus they are compared by the rules below. The files of the hub have all this in `test`.
"""

import ast
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from ..rows import Row
from ..sandbox import Limits

INPUTS = ("base_input", "plus_input")
LIMITS = Limits(cpu_s=60, wall_s=120.0, memory_mib=4096)  # thousands of inputs, NumPy in `test`

# Problems that are compared in another way, by the function's name.
SAME_SET = (
    "similar_elements find_char_long common_in_nested_lists extract_singly larg_nnum "
    "intersection_array find_dissimilar Diff".split()
)
ANY_VALUE = "check_str text_match_three text_starta_endb".split()  # right if it is a value or none
ALSO_RIGHT = {
    "are_equivalent": "True",
    "sum_div": "found == 0",
    # the height taken for that of the apex
    "surface_Area": "abs(found - round(given[0] ** 2 + 2 * given[0] * "
    "((given[0] / 2) ** 2 + given[1] ** 2) ** 0.5)) <= atol",
    # digits paired from the last one on
    "digit_distance_nums": "found == sum(abs(int(a) - int(b)) for a, b in zip(*("
    "str(n).zfill(max(map(len, map(str, given)))) for n in given)))",
}
_CHECK = """
def _check_plus(candidate, inputs, reference, name, atol):
    import copy

    def is_float(value):
        if isinstance(value, (list, tuple)) and value:
            return all(isinstance(item, float) for item in value)
        return isinstance(value, float)

    def is_close(found, expected):
        if isinstance(expected, (list, tuple)):
            pairs = zip(found, expected)
            return len(found) == len(expected) and all(is_close(a, b) for a, b in pairs)
        return found == expected or abs(found - expected) <= atol + 1e-7 * abs(expected)

    known = {{}}
    exec(reference, known)
    for given in inputs:
        found = candidate(*copy.deepcopy(given))
        if name == "find_zero":
            assert abs(sum(c * found**i for i, c in enumerate(given[0]))) <= atol
            continue
        expected = known[name](*copy.deepcopy(given))
        if name in {any_value}:
            expected = expected is not None
            found = found if isinstance(found, bool) else found is not None
        is_right = found == expected
        if name in {same_set}:
            is_right = set(found) == set(expected)
        is_right = is_right or {also_right}
        atol = atol or 1e-6 * is_float(expected)
        assert is_right or (atol and type(found) is type(expected) and is_close(found, expected))
"""


def has_inputs(row: Row) -> bool:
    """Whether the row is of one of EvalPlus's own files."""
    return any(name in row.fields for name in INPUTS)


def takes_long(row: Row) -> bool:
    """Whether the row has EvalPlus's inputs, here or in its `test`; its programs need LIMITS."""
    test = row.fields.get("test")
    return has_inputs(row) or (isinstance(test, str) and "assertion(" in test)


def check_inputs(row: Row) -> None:
    """Refuse a row that cannot be tested. Raises ValueError, naming file, line and field."""
    row.text("canonical_solution")
    if not row.text("entry_point").isidentifier():
        found = row.fields["entry_point"]
        raise ValueError(f"{row.where}: field 'entry_point' must name a function, found {found!r}")
    if not _inputs(row):
        raise ValueError(f"{row.where}: field 'base_input' holds no inputs")


def check(row: Row, reference: str) -> str:
    """Code that compares the function with `reference`, the program of the right solution."""
    name = row.text("entry_point")
    rules = {"any_value": ANY_VALUE, "same_set": SAME_SET}
    code = _CHECK.format(**rules, also_right=ALSO_RIGHT.get(name, "False"))
    atol = float(row.fields.get("atol") or 0)
    inputs = f"(lambda inf, nan: {_inputs(row)!r})(float('inf'), float('nan'))"
    return f"{code}\n_check_plus({name}, {inputs}, {reference!r}, {name!r}, {atol!r})\n"


def _inputs(row: Row) -> list[list[Any]]:
    """All inputs, each a list of arguments in the types they have in the row's own assertions."""
    found: list[list[Any]] = []
    for field in INPUTS:
        inputs = row.fields.get(field) or []
        if not isinstance(inputs, list) or not all(isinstance(given, list) for given in inputs):
            raise ValueError(
                f"{row.where}: field '{field}' must be a list of lists of arguments, "
                f"found {inputs!r:.80}"
            )
        found += inputs
    by_place = list(zip_longest(*_examples(row)))
    return [
        [
            _argument(value, by_place[i] if i < len(by_place) else ())
            for i, value in enumerate(given)
        ]
        for given in found
    ]


def _examples(row: Row) -> list[list[Any]]:
    """The arguments in the row's assertions."""
    code, name = row.fields.get("assertion"), row.fields.get("entry_point")
    if not isinstance(code, str):
        return []
    calls = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]
    return [[_literal(argument) for argument in call.args] for call in calls]


def _literal(node: ast.expr) -> Any:
    try:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "complex":
            return complex(*map(ast.literal_eval, node.args))
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return None  # says nothing of the type


def _argument(value: Any, examples: Sequence[Any]) -> Any:
    kinds = {type(example) for example in examples if example is not None}
    if isinstance(value, str) and kinds and kinds <= {int, float, complex}:
        try:
            return (complex if complex in kinds else float)(value)  # JSON has it as text
        except ValueError:
            return value
    return _like(value, examples)


def _like(value: Any, examples: Sequence[Any]) -> Any:
    """`value`, as JSON has it, with tuples and sets where the examples have them."""
    if isinstance(value, dict):
        inner = [item for kind in examples if isinstance(kind, dict) for item in kind.values()]
        return {key: _like(item, inner) for key, item in value.items()}
    kinds = [kind for kind in examples if isinstance(kind, list | tuple | set)]
    if not isinstance(value, list) or not kinds:
        return value
    inner = [
        item
        for kind in kinds
        for item in kind
        if isinstance(item, list | tuple | set) or (isinstance(item, dict) and item)
    ]
    if len({type(item) for item in inner}) > 1:  # what is at a place has a type of its own
        places = [[list(kind)[i] for kind in kinds if i < len(kind)] for i in range(len(value))]
    else:
        places = [inner] * len(value)
    return type(kinds[0])([_like(item, place) for item, place in zip(value, places, strict=True)])
