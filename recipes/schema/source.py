"""A recipe file and its command-line overrides as one plain tree of dicts, lists and values.

Overrides are `dotted.key=value`, the value read as YAML like the file (`3e-4` is a number, `no` a
text, `null` is None, `[0.5,1.0]` a list). A value replaces the one under its key, a list or a
section included; `decode.bases.0.dtype=float32` reaches into a list by index, from 0, and an index
equal to the list's length appends. Nothing is looked up: `${...}` is an error.
"""

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from .credentials import blotted, find_secret, looks_secret
from .plain_yaml import MOST_DEPTH, TOO_DEEP, read_yaml

SECRET = (
    "looks like a key, token or password, and recipes are saved with results; a judge's key_env "
    "takes the name of an environment variable, W&B and the hub have logins of their own"
)
MOST = 3.4e38  # what float32 holds; NaN is not below it either


class RecipeError(ValueError):
    """One line: the recipe's file, the dotted key, what was found, and the remedy; no secrets."""

    def __init__(self, message: str) -> None:
        super().__init__(blotted(message))


def read_tree(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe at `path` with `overrides` applied in order, before any validation.

    Raises:
        RecipeError: no such file, broken YAML, a malformed override, an interpolation, or a secret.
    """
    if looks_secret(str(path)):
        raise RecipeError(f"the recipe's path {SECRET}")
    tree = _read_file(path)
    _refuse_secrets(path, tree)
    for override in overrides:
        key, value = _parse_override(path, override)
        _refuse_secrets(path, {key: value}, " (override)")  # the command line is recorded whole
        _replace(path, tree, key, value)
    _refuse_secrets(path, tree)
    for key, value in _leaves(tree):
        for text in (key, value):
            if isinstance(text, str) and not is_writable(text):
                raise RecipeError(
                    f"{path}: {key}: found {text!r:.80}; NUL and lone surrogates are no text"
                )
        if isinstance(value, int | float) and not abs(value) <= MOST:
            raise RecipeError(
                f"{path}: {key}: found {value!r:.80}; expected a number below {MOST:.1e}"
            )
        if isinstance(value, str) and ("${" in value or value == "???"):
            raise RecipeError(
                f"{path}: {key}: found {value!r}; recipes look nothing up, write the value itself"
            )
    return tree


def _refuse_secrets(path: Path, tree: dict[str, Any], mark: str = "") -> None:
    if (key := find_secret(tree)) is not None:
        raise RecipeError(f"{path}: {key}{mark} {SECRET}")


def _read_file(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            raise RecipeError(f"{path}: found a folder, expected a recipe's .yaml file")
        if not path.is_file():
            siblings = [str(file) for file in path.parent.glob("*.yaml")]
            near = difflib.get_close_matches(str(path), siblings, n=1)
            hint = f"; did you mean {near[0]}?" if near else f" (looked in {Path.cwd()})"
            raise RecipeError(f"{path}: no such recipe{hint}")
        tree = _plain(read_yaml(path.read_text("utf-8")))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {_one_line(error)}") from None
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise RecipeError(f"{path}: a recipe is sections of `key: value`, found {tree!r:.80}")
    return tree


def _plain(tree: Any) -> Any:
    """`tree` in plain dicts and lists. Raises OmegaConfBaseException for broken interpolations."""
    if tree is None:
        return {}
    is_nested = isinstance(tree, dict | list)
    return OmegaConf.to_container(OmegaConf.create(tree), resolve=False) if is_nested else tree


def is_writable(text: str) -> bool:
    """Whether `text` can be a file's name and content: no NUL, no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def override_key(override: str) -> str:
    """The dotted key of `key=value`."""
    return override.partition("=")[0].strip()


def _parse_override(path: Path, override: str) -> tuple[str, Any]:
    key, text = override_key(override), override.partition("=")[2]
    if key.count(".") > MOST_DEPTH:
        raise RecipeError(f"{path}: override {override!r:.80}: {TOO_DEEP}")
    if "=" not in override or key.startswith("-") or not all(key.split(".")):
        raise RecipeError(
            f"{path}: override {override!r}: expected section.key=value, "
            "for example sft.learning_rate=1e-4"
        )
    if not text.strip():
        raise RecipeError(f"{path}: override {override!r}: no value; write {key}=null for none")
    try:
        parsed = _plain({"value": read_yaml(text)})
    except (YAMLError, OmegaConfBaseException) as error:
        raise RecipeError(f"{path}: override {override!r}: {_one_line(error)}") from None
    return key, parsed["value"]


def _replace(path: Path, tree: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` at the dotted `key`, making the sections on the way that are absent or null."""
    *sections, last = key.split(".")
    where = f"{path}: {key} (override)"
    node: Any = tree
    for depth, part in enumerate(sections):
        index = _index(where, node, part)
        if node[index] is None:
            node[index] = {}
        node = node[index]
        if not isinstance(node, dict | list):
            section = ".".join(sections[: depth + 1])
            raise RecipeError(f"{where}: unknown key; {section} is a value, {json.dumps(node):.80}")
    node[_index(where, node, last)] = value


def _index(where: str, node: dict[str, Any] | list[Any], part: str) -> Any:
    """`part` as a key or index that `node` has, made if absent."""
    if isinstance(node, dict):
        node.setdefault(part, None)
        return part
    if not part.isdecimal() or len(part) > len(str(len(node))) or int(part) > len(node):
        raise RecipeError(
            f"{where}: found index {part!r}, expected 0 to {len(node)}, which appends"
        )
    if int(part) == len(node):
        node.append(None)
    return int(part)


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value below `node` with its dotted key."""
    if isinstance(node, dict):
        pairs = list(node.items())
    elif isinstance(node, list):
        pairs = list(enumerate(node))
    else:
        yield key, node
        return
    for name, value in pairs:
        yield from _leaves(value, f"{key}.{name}" if key else str(name))


def _one_line(error: Exception) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error).splitlines()[0]
