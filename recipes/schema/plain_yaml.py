"""YAML as it looks: the core schema of YAML 1.2.

YAML 1.1, which PyYAML reads, makes 90 of `1:30`, true of `on`, false of `no`, and 8 of `010`; and
text of `3e-4`. Here these are texts, but for the number ten, and 3e-4. Booleans are `true` and
`false`, octal numbers begin with `0o`. A key may stand once. Tags of other types (`!!binary`,
`!!set`) and trees that no person writes (nested by the hundred, grown by aliases) are errors.
"""

import re
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.scanner import ScannerError

_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_NULL = re.compile(r"~|null|Null|NULL|")
_RULES = (
    ("bool", _BOOLEAN, "tTfF"),
    ("int", _INTEGER, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", _NULL, "~nN"),
    ("null", _NULL, ("",)),
    ("merge", re.compile("<<"), "<"),
)
TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in "map seq str int float bool null".split())
MOST_DEPTH = 50
TOO_DEEP = f"nested more than {MOST_DEPTH} deep"
MOST_VALUES = 100_000
MOST_DIGITS = 1_000


class _Loader(yaml.SafeLoader):
    def fetch_flow_collection_start(self, TokenClass: type) -> None:
        if self.flow_level > MOST_DEPTH:  # before the scanner, which is slow at depth, reads on
            raise ScannerError(None, None, TOO_DEEP, self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

    def get_single_node(self) -> yaml.Node | None:
        root = super().get_single_node()
        num_values, left = 0, [] if root is None else [(root, 0)]
        while left:  # every value as often as aliases repeat it
            node, depth = left.pop()
            num_values += 1
            if depth > MOST_DEPTH:
                raise ComposerError(None, None, TOO_DEEP, node.start_mark)
            if num_values > MOST_VALUES:
                what = f"more than {MOST_VALUES:,} values"
                raise ComposerError(None, None, what, node.start_mark)
            if isinstance(node, yaml.MappingNode):
                left += [(each, depth + 1) for pair in node.value for each in pair]
            elif isinstance(node, yaml.SequenceNode):
                left += [(each, depth + 1) for each in node.value]
        return root

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, IndexError):
            kind = node.tag.rpartition(":")[2]
            raise ConstructorError(
                None, None, f"found {node.value!r:.80}, which is no {kind}", node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep)  # which says that it is none
        seen = set()
        for key, _ in node.value:
            is_text = isinstance(key.value, str)
            if is_text and key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise ConstructorError(
                    "while reading a mapping",
                    node.start_mark,
                    f"found duplicate key {key.value}",
                    key.start_mark,
                )
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node).replace("_", "")
        if len(text) > MOST_DIGITS:
            raise ConstructorError(
                None, None, f"found a number of {len(text):,} digits", node.start_mark
            )
        return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


_Loader.yaml_implicit_resolvers = {}  # in place of 1.1's
_Loader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag in (*TAGS, None)
}


class _Dumper(yaml.SafeDumper):
    """Quotes what either version would not read as text."""


for _name, _pattern, _first in _RULES:
    _whole = re.compile(f"(?:{_pattern.pattern})$")  # resolvers match from the start
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _whole, list(_first))
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _whole, list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


def read_yaml(text: str) -> Any:
    """What `text` holds. Raises yaml.YAMLError."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError(TOO_DEEP) from None


def write_yaml(tree: Any) -> str:
    """`tree` as text that `read_yaml` reads back, and any reader of YAML 1.1 as well."""
    return yaml.dump(tree, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
