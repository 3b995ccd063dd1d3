"""Harm, drawn by a seeded generator: to a value, to a JSON or YAML tree, to a file."""

import copy
import itertools
import json
import random
import shutil
from pathlib import Path
from typing import Any

LONE_SURROGATE = "\ud800"
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**32, 2**63, -(2**63), 10**30, 0.5, -0.1, 1e-320),
    *(float("inf"), float("-inf"), float("nan"), 1e300, "", " ", "0", "-1", "no", "auto", "null"),
    *(
        "nosuch",
        "/nope",
        "~nobody/x",
        "../..",
        "/dev/null",
        "a\x00b",
        "\x1b[31mred",
        "${oc.env:HOME}",
    ),
    *("é" * 40, "x" * 4000, "1e400", LONE_SURROGATE, [], {}, [None], [[]], [0, -1], {"nope": 1}),
    *({"": None}, [{"model": "x"}], ["a", 1, None], "cuda", "cuda:9", "org/name", "a/b/c", "١٢"),
)
BYTES = (b"", b"\x00" * 64, b"\xff\xfe\xfa" * 9, b"5", b"[]", b"null", b"{", b"\n\n", b"[" * 5000)

TAGS = ("!!python/object/apply:os.system [x]", "!!binary aGk=", "!!set {a}", "!env HOME")
TAGS += ("!!int x", "!!float []", "!!null x", "!!str [1]", "!!timestamp 2026-01-01", "!!bool 2")
ODD_LINES = ("<<: {seed: 2}", "<<: [1]", "<<: x", "? [a, b]\n: 1", "1: x", "true: x", "null: x")
ODD_LINES += ("- x", "x", "'': x", "...", "---", "@x: 1", "é: 1", "[]: 1", "{}: {}", "~: ~", "# x")


def some_value(rng: random.Random) -> Any:
    """A value that few keys expect."""
    return copy.deepcopy(rng.choice(VALUES))


def paths_in(tree: Any, path: tuple = ()) -> list[tuple]:
    """Every place below `tree`, the tree's own included; of long lists and vocabularies a few."""
    if not isinstance(tree, dict | list):
        return [path]
    pairs = list(tree.items() if isinstance(tree, dict) else enumerate(tree))
    pairs = pairs if len(pairs) <= 64 else pairs[7:10]
    return [path, *(place for key, value in pairs for place in paths_in(value, (*path, key)))]


def harmed_tree(rng: random.Random, tree: Any, keys: tuple[str, ...] = ()) -> tuple[Any, str]:
    """A copy of a JSON tree with one place changed, and that place's key.

    Args:
        keys: dotted keys that the tree may also have; an empty section is made for one.
    """
    tree = copy.deepcopy(tree)
    if keys and rng.random() < 0.5:
        place: tuple = tuple(rng.choice(keys).split("."))
        node = tree
        for part, after in itertools.pairwise(place):
            at = int(part) if isinstance(node, list) else part
            inner = node[at] if isinstance(node, list) else node.get(at)
            if not isinstance(inner, dict | list):
                inner = [{}] if after == "0" else {}
            node[at] = inner
            node = inner
        node[place[-1]] = some_value(rng)
        return tree, place[-1]
    places = [place for place in paths_in(tree) if place]
    if not places:
        return some_value(rng), ""
    place = rng.choice(places)
    node = tree
    for part in place[:-1]:
        node = node[part]
    last, how = place[-1], rng.random()
    if how < 0.1:
        del node[last]
    elif how < 0.2 and isinstance(node, dict):
        node[f"{last}{rng.choice('x_ .')}"] = node.pop(last)
    elif how < 0.25 and isinstance(node, list):
        node.append(node[last])
    else:
        node[last] = some_value(rng)
    return tree, str(last)


def harm_file(rng: random.Random, path: Path) -> str:
    """Change a file's bytes, or what stands in its place; returns how."""
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    cut = rng.randrange(len(content) + 1)
    hows = {
        "truncated": lambda: path.write_bytes(content[:cut]),
        "appended to": lambda: path.write_bytes(content + rng.choice(BYTES)),
        "overwritten in the middle": lambda: path.write_bytes(
            content[:cut] + rng.randbytes(9) + content[cut + 9 :]
        ),
        "replaced": lambda: path.write_bytes(rng.choice(BYTES)),
        "without a line": lambda: path.write_bytes(b"".join(without(rng, lines))),
        "with a line twice": lambda: path.write_bytes(b"".join(lines + lines[-1:])),
        "with lines in another order": lambda: path.write_bytes(b"".join(lines[::-1])),
        "removed": path.unlink,
        "a folder": lambda: (path.unlink(), path.mkdir()),
        "a link to nothing": lambda: (path.unlink(), path.symlink_to("nowhere")),
        "a link to itself": lambda: (path.unlink(), path.symlink_to(path.name)),
    }
    how = rng.choice(list(hows))
    hows[how]()
    return how


def harm_yaml(rng: random.Random, text: str) -> tuple[str, str, str]:
    """YAML with a line changed, or all of it, how, and the line's key; some ways leave it right."""
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    line, indent = lines[at], lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    key = line.partition(":")[0]
    hows = {
        "a tab before it": f"\t{line}",
        "deeper": f"  {line}",
        "shallower": line.removeprefix("  "),
        "twice": line * 2,
        "without its colon": line.replace(":", "", 1),
        "without a space": line.replace(": ", ":"),
        "with a comment": f"{line.rstrip()}  # why\n",
        "after an anchor": f"{key}: &a {line.partition(':')[2]}",
        "an alias of nothing": f"{key}: *nowhere\n",
        "itself": f"{key}: &a [*a]\n",
        "a tagged value": f"{key}: {rng.choice(TAGS)}\n",
        "a block": f"{key}: |\n{indent}    x\n",
        "an open quote": f"{key}: '\n",
        "an open list": f"{key}: [1, 2\n",
        "a date": f"{key}: 2026-01-01\n",
        "several lines of text": f"{key}: a\n{indent}  b\n{indent}  c\n",
        **{f"after {odd!r}": f"{indent}{odd}\n{line}" for odd in ODD_LINES},
    }
    wholes = {
        "with returns": text.replace("\n", "\r\n"),
        "with a mark before it": f"\ufeff{text}",
        "with another document": f"{text}---\n{text}",
        "after a start": f"---\n{text}...\n",
        "after a directive": f"%YAML 9.9\n---\n{text}",
        "in a list": "".join(f"- {line}" if line[0] != " " else f"  {line}" for line in lines),
        "of half a character": text + "x: \ud800\n",
        "with a control character": text + "# \x07\n",
    }
    if rng.random() < 0.2:
        how = rng.choice(list(wholes))
        return wholes[how], how, ""
    how = rng.choice(list(hows))
    changed = "".join([*lines[:at], hows[how], *lines[at + 1 :]])
    return changed, f"line {at + 1} {how}", key.strip("- \n")


def harm_json_file(rng: random.Random, path: Path) -> str:
    """Change a file of JSON, one tree or one a line, by a place in it or by its bytes."""
    if rng.random() < 0.3:
        return harm_file(rng, path)
    text = path.read_text("utf-8")
    if path.suffix == ".jsonl":
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        tree, key = harmed_tree(rng, json.loads(lines[at]))
        lines[at] = json.dumps(tree)
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return f"line {at + 1}: {key}"
    tree, key = harmed_tree(rng, json.loads(text))
    path.write_text(json.dumps(tree), "utf-8")
    return f"key {key}"


def without(rng: random.Random, lines: list[bytes]) -> list[bytes]:
    """The lines but one."""
    gone = rng.randrange(len(lines)) if lines else 0
    return lines[:gone] + lines[gone + 1 :]


def clear(folder: Path) -> None:
    """Remove a folder and what is in it, whatever was done to it."""
    shutil.rmtree(folder, ignore_errors=True)
