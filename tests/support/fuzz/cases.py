"""Cases: one kind of input a function, each harms a world and says which command meets it."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from recipes.schema.recipe import _keys_by_section

from .harm import BYTES, VALUES, harm_file, harm_json_file, harmed_tree
from .world import World, entry

NOT_HARMED = ("output_dir",)
HEADERS = (
    b"",
    b"Retry-After: 9e99\r\n",
    b"Retry-After: -5\r\n",
    b"Retry-After: Sun, 06 Nov 9999 08:49:37 GMT\r\n",
    b"Location: http://127.0.0.1:1/\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"X: \xff\r\n",
    b"Y" * 70000 + b": 1\r\n",
)
STATUSES = (b"200 OK", b"200 OK", b"429 Slow", b"500 No", b"302 Found", b"999 X", b"x")
RUN_ENTRIES = ("train/sft.py", "decode/run.py", "decode/analyze.py", "decode/compare.py")


@dataclass
class Case:
    """A command line, and what its error may name."""

    arguments: list[str]
    harm: str
    """What was done, for a reader."""
    names: tuple[str, ...]
    """An error names one of these: the file, the key, the line or the place."""
    same_results: bool = False
    """If it ends well, the run's numbers are those it had."""
    answers: list[bytes] = field(default_factory=list)
    """What a judge's endpoint sends, raw, in turns."""


@cache
def _keys() -> tuple[str, ...]:
    """Every key that a recipe may have, the libraries' own included."""
    keys = [f"{s}.{key}".lstrip(".") for s, names in _keys_by_section().items() for key in names]
    return tuple(key.replace("*", "judge") for key in keys if key not in NOT_HARMED)


def recipe(world: World, rng: random.Random) -> Case:
    """A recipe with a key of another value, renamed, removed or added; or its bytes harmed."""
    command, tree = _command(world, rng)
    if rng.random() < 0.15:
        world.write(tree)
        text = harm_file(rng, world.folder / "recipe.yaml")
        return Case([entry(command), "recipe.yaml"], f"recipe {text}", ("recipe.yaml",))
    tree, key = harmed_tree(rng, tree, _keys())
    world.write(tree)
    return Case([entry(command), "recipe.yaml"], key, ("recipe.yaml", key))


def _command(world: World, rng: random.Random) -> tuple[str, dict[str, Any]]:
    """An entry and a recipe that it takes to the end."""
    command = rng.choice(("train/sft.py", "decode/run.py", "train/memory.py"))
    fresh = {**world.recipe, "output_dir": "fresh"}
    return command, _finished(world) if command == "decode/run.py" else fresh


def override(world: World, rng: random.Random) -> Case:
    """An override of any key with any text."""
    command, tree = _command(world, rng)
    world.write(tree)
    key = rng.choice(_keys())
    if rng.random() < 0.1:
        key = rng.choice((f"{key}.x", f"{key}s", f"{key}.0", "", ".", key.upper(), f"-{key}"))
    texts = [json.dumps(value) for value in VALUES] + [repr(value) for value in VALUES]
    text = rng.choice([*texts, "1:30", "!!binary aGk=", "!!python/name:os.system", "&a [*a]", "{"])
    text = text.replace("\x00", "").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    word = f"{key}={text}"
    return Case(
        [entry(command), "recipe.yaml", word], word[:200], ("recipe.yaml", key or "override")
    )


def rows(world: World, rng: random.Random) -> Case:
    """Training or evaluation rows with a field, a line or the whole file harmed."""
    name = rng.choice(("train.jsonl", "eval.jsonl"))
    how = harm_json_file(rng, world.folder / name)
    tree = {**world.recipe, "output_dir": "fresh"}
    if rng.random() < 0.2:
        renamed = name.replace(".jsonl", rng.choice((".json", ".csv", ".jsonl.gz", ".parquet", "")))
        (world.folder / name).rename(world.folder / renamed)
        tree["task"][name.partition(".")[0]] = renamed
        name = renamed
    world.write(tree)
    return Case([entry("train/sft.py"), "recipe.yaml"], f"{name}: {how}", (name, "recipe.yaml"))


def run_folder(world: World, rng: random.Random) -> Case:
    """A finished run with one file harmed, run, analyzed or compared again."""
    files = sorted(p for p in (world.folder / "run").rglob("*") if p.is_file())
    path = rng.choice(files)
    is_json = path.suffix in (".json", ".jsonl") and path.stat().st_size > 2
    how = (harm_json_file if is_json else harm_file)(rng, path)
    command = rng.choice(RUN_ENTRIES)
    targets = ["run", "../whole/run"] if command.endswith("compare.py") else ["recipe.yaml"]
    arguments = [entry(command), *targets]
    return Case(arguments, f"{path.name}: {how}", (path.name, path.parent.name), same_results=True)


def scored_file(world: World, rng: random.Random) -> Case:
    """Files of predictions, one harmed, scored by the command."""
    names = ("base-large", "proxy-large-alpha1", "expert")
    paths = [world.folder / "run" / "predictions" / f"{name}.jsonl" for name in names]
    paths = [path for path in paths if path.is_file()]
    path = rng.choice(paths)
    how = harm_json_file(rng, path)
    mode = rng.choice((["--mode", "paper"], []))
    arguments = [entry("decode/score.py"), "gsm8k", *map(str, paths), *mode]
    return Case(arguments, f"{path.name}: {how}", (path.name,))


def _folder_case(world: World, rng: random.Random, folder: str) -> Case:
    files = sorted(p for p in (world.folder / folder).iterdir() if p.is_file())
    path = rng.choice(files)
    how = (harm_json_file if path.suffix == ".json" else harm_file)(rng, path)
    arguments = [entry(rng.choice(("train/sft.py", "decode/run.py"))), "recipe.yaml"]
    return Case(arguments, f"{folder}/{path.name}: {how}", (path.name, folder, "decode.vocabulary"))


def model_folder(world: World, rng: random.Random) -> Case:
    """A model's folder, small or large, with one file harmed."""
    world.write(_finished(world))
    return _folder_case(world, rng, rng.choice(("small", "large")))


def adapter_folder(world: World, rng: random.Random) -> Case:
    """A finished adapter's folder with one file harmed."""
    world.write(_finished(world))
    return _folder_case(world, rng, "adapter")


def _finished(world: World) -> dict[str, Any]:
    """The recipe with a finished expert, to be decoded anew."""
    tree = {**world.recipe, "sft": None, "output_dir": "fresh"}
    tree["expert"] |= {"trained": "adapter", "adapter": None}
    del tree["task"]["train"]
    return tree


def judge_server(world: World, rng: random.Random) -> Case:
    """A judge that answers with anything; `{port}` is where it listens."""
    lines = [{"id": f"i{i}", "instruction": f"Say {i}.", "output": f"{i}"} for i in range(2)]
    (world.folder / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tree = _finished(world)
    endpoint = {"base_url": "http://127.0.0.1:{port}/v1", "model": "judge", "backoff_s": 0.01}
    endpoint |= {"max_retries": 1, "timeout_s": 2}
    judges = {"judge": {"endpoint": endpoint}}
    tree["task"] = {"name": "instruct", "eval": "eval.jsonl", "judges": judges}
    world.write(tree)
    answers = [_answer(rng) for _ in range(2)]
    arguments = [entry("decode/run.py"), "recipe.yaml"]
    return Case(arguments, repr(answers)[:300], ("127.0.0.1", "judge"), answers=answers)


def _answer(rng: random.Random) -> bytes:
    message = {"role": "assistant", "content": rng.choice(("A", "m", "", "\x1b[2J", "é" * 9))}
    body = {"model": "judge", "choices": [{"index": 0, "message": message}], "usage": {}}
    tree, _ = harmed_tree(rng, body) if rng.random() < 0.6 else (body, "")
    text = rng.choice((json.dumps(tree).encode(), json.dumps(tree).encode(), rng.choice(BYTES)))
    status = rng.choice(
        (b"200 OK", b"200 OK", b"429 Slow", b"500 No", b"302 Found", b"999 X", b"x")
    )
    length = rng.choice((b"%d" % len(text), b"%d" % len(text), b"-1", b"1e9", b"9" * 30, b""))
    more = rng.choice(HEADERS)
    return b"HTTP/1.1 %s\r\nContent-Length: %s\r\n%s\r\n%s" % (status, length, more, text)


KINDS: dict[str, Callable[[World, random.Random], Case]] = {
    kind.__name__: kind
    for kind in (
        recipe,
        override,
        rows,
        run_folder,
        scored_file,
        model_folder,
        adapter_folder,
        judge_server,
    )
}
