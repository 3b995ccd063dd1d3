"""Recipes, overrides and rows that were harmed, for every scene."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recipes.schema.recipe import _keys_by_section

from .case import Case
from .harm import VALUES, harm_file, harm_yaml, harmed_tree
from .row_files import KINDS_OF_ROWS, write_as
from .scenes import Scene, some_scene
from .world import World, entry

NOT_HARMED = ("output_dir",)
WORDS = ("1:30", "!!binary aGk=", "!!python/name:os.system", "&a [*a]", "{", "*a", "- 1", "a: b: c")
WORDS += ("'", '"\\x"', "[1,,2]", "{a: 1, a: 2}", "<<: {a: 1}", "|", "? 1", "@x", "%x", "#x", "=")
STRANGE_KEYS = ("{}.x", "{}s", "{}.0", "", ".", "-{}", "{}.-1", "{}..x", " {} ", "{}[0]", "é.{}")


def recipe(world: World, rng: random.Random) -> Case:
    """A recipe with keys of other values, renamed, removed or added; or its text harmed."""
    scene = some_scene(world, rng)
    scene.write(world)
    path, how = world.folder / "recipe.yaml", rng.random()
    if how < 0.15:
        harm, keys = harm_file(rng, path), []
    elif how < 0.4:
        text = yaml.safe_dump(scene.tree, sort_keys=False)
        text, harm, key = harm_yaml(rng, text)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        keys = [key]
    else:
        tree, keys = scene.tree, []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            tree, key = harmed_tree(rng, tree, _keys())
            keys.append(key)
        world.write(tree)
        harm = f"keys {', '.join(keys)}"
    return _case(scene, [], f"recipe: {harm}", ("recipe.yaml", *keys))


def override(world: World, rng: random.Random) -> Case:
    """Overrides of any keys with any text, one to three."""
    scene = some_scene(world, rng)
    scene.write(world)
    words = [_override(scene, rng) for _ in range(rng.choice((1, 1, 2, 3)))]
    keys = [word.partition("=")[0].strip() for word in words]
    return _case(scene, words, repr(words), ("recipe.yaml", *keys, "override"))


def _override(scene: Scene, rng: random.Random) -> str:
    key, how = rng.choice(_keys()), rng.random()
    if how < 0.1:
        key = rng.choice((*STRANGE_KEYS, key.upper())).format(key)
    if how < 0.7:
        texts = [json.dumps(value) for value in VALUES] + [repr(value) for value in VALUES]
        text = rng.choice([*texts, *WORDS])
    else:
        key = rng.choice(list(scene.tree))
        if key in NOT_HARMED:
            key = "task"
        text = json.dumps(harmed_tree(rng, scene.tree[key])[0])
    text = text.replace("\x00", "").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return f"{key}={text}" if rng.random() < 0.97 else key


def rows(world: World, rng: random.Random) -> Case:
    """Rows of any kind of file, of which a field, a line, the bytes or the place is harmed."""
    scene = some_scene(world, rng)
    name = rng.choice(list(scene.rows))
    given, harm = scene.rows.pop(name), []
    for _ in range(rng.choice((0, 1, 1, 2))):
        at = rng.randrange(len(given))
        given[at], key = harmed_tree(rng, given[at])
        harm.append(f"row {at + 1}: {key}")
    kind = rng.choice((".jsonl", *KINDS_OF_ROWS))
    stem = name.partition(".")[0]
    place, path = _placed(rng, world.folder, stem, kind)
    try:
        write_as(kind, given, path)
    except (ValueError, TypeError, ArithmeticError, AttributeError):  # no table can hold that
        write_as(".jsonl", given, path)
    if not harm or rng.random() < 0.2:
        harm.append(harm_file(rng, path))
    tree = json.loads(json.dumps(scene.tree).replace(json.dumps(name), json.dumps(place)))
    scene.tree = tree
    scene.write(world)
    names = (path.name, place, f"{stem}s/", "recipe.yaml", *_keys_with(tree, place))
    return _case(scene, [], f"{place} of {kind}: {', '.join(harm)}", names)


def _placed(rng: random.Random, folder: Path, stem: str, kind: str) -> tuple[str, Path]:
    """How a recipe names a file of rows, and where it is."""
    how = rng.random()
    if how < 0.6:
        suffix = rng.choice((kind, kind, kind, *KINDS_OF_ROWS, "", kind.upper()))
        return f"{stem}{suffix}", folder / f"{stem}{suffix}"
    (folder / f"{stem}s").mkdir()
    path = folder / f"{stem}s" / f"part-0{kind}"
    if how < 0.7:
        path.with_name(rng.choice((f"part-1{kind}", "README.md", f".part{kind}"))).write_bytes(b"")
    places = (f"{stem}s", f"{stem}s/", f"{stem}s/*", f"{stem}s/*{kind}", f"**/part-*{kind}")
    return rng.choice(places), path


def _keys_with(tree: Any, value: str, key: str = "") -> list[str]:
    """The dotted keys that hold a value."""
    if isinstance(tree, dict | list):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return [k for name, inner in pairs for k in _keys_with(inner, value, f"{key}.{name}")]
    return [key.lstrip(".")] if tree == value else []


def _case(scene: Scene, words: list[str], harm: str, names: tuple[str, ...]) -> Case:
    return Case(
        [entry(scene.command), "recipe.yaml", *words], harm, names, answers=scene.sent_answers
    )


@cache
def _keys() -> tuple[str, ...]:
    """Every key that a recipe may have, the libraries' own included."""
    keys = [f"{s}.{key}".lstrip(".") for s, names in _keys_by_section().items() for key in names]
    return tuple(key.replace("*", "judge") for key in keys if key not in NOT_HARMED)
