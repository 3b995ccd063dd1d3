"""YAML as it looks: the core schema of YAML 1.2.

YAML 1.1, which PyYAML reads, makes 90 of `1:30`, true of `on`, false of `no`, and 8 of `010`; and
text of `3e-4`. Here these are texts, but for the number ten, and 3e-4. Booleans are `true` and
`false`, octal numbers begin with `0o`. A key may stand once.
"""

import re
from typing import Any

import yaml

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


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping",
                    node.start_mark,
                    f"found duplicate key {key.value}",
                    key.start_mark,
                )
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node).replace("_", "")
        return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


_Loader.yaml_implicit_resolvers = {}  # in place of 1.1's


class _Dumper(yaml.SafeDumper):
    """Quotes what either version would not read as text."""


for _name, _pattern, _first in _RULES:
    _whole = re.compile(f"(?:{_pattern.pattern})$")  # resolvers match from the start
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _whole, list(_first))
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _whole, list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


def read_yaml(text: str) -> Any:
    """What `text` holds. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def write_yaml(tree: Any) -> str:
    """`tree` as text that `read_yaml` reads back, and any reader of YAML 1.1 as well."""
    return yaml.dump(tree, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
