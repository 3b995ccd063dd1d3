"""Cases: one kind of input a function, each harms a world and says which command meets it."""

import random
from collections.abc import Callable
from typing import Any

from .case import Case
from .harm import harm_file, harm_json_file
from .judges import judge_server
from .predictions import scored_file
from .recipes import override, recipe, rows
from .world import World, entry

MODELS = ("small", "large", "gpt2", "gemma3_text", "sharded")
RUN_ENTRIES = ("train/sft.py", "decode/run.py", "decode/analyze.py", "decode/compare.py")


def run_folder(world: World, rng: random.Random) -> Case:
    """A finished run with one file harmed, run, analyzed or compared again."""
    run, recipe = rng.choice((("run", "recipe.yaml"), ("full", "full.yaml")))
    files = sorted(p for p in (world.folder / run).rglob("*") if p.is_file())
    path = rng.choice(files)
    is_json = path.suffix in (".json", ".jsonl") and path.stat().st_size > 2
    how = (harm_json_file if is_json else harm_file)(rng, path)
    command = rng.choice(RUN_ENTRIES)
    targets = [run, "../whole/run"] if command.endswith("compare.py") else [recipe]
    arguments = [entry(command), *targets]
    return Case(arguments, f"{path.name}: {how}", (path.name, path.parent.name), same_results=True)


def _folder_case(world: World, rng: random.Random, folder: str) -> Case:
    files = sorted(p for p in (world.folder / folder).iterdir() if p.is_file())
    path = rng.choice(files)
    how = (harm_json_file if path.suffix == ".json" else harm_file)(rng, path)
    arguments = [entry(rng.choice(("train/sft.py", "decode/run.py"))), "recipe.yaml"]
    return Case(arguments, f"{folder}/{path.name}: {how}", (path.name, folder, "decode.vocabulary"))


def model_folder(world: World, rng: random.Random) -> Case:
    """A model's folder, small or large, of one of several architectures, with one file harmed."""
    tree, folder = _finished(world), rng.choice(MODELS)
    if folder != "small":
        tree["decode"]["bases"][0]["model"] = folder
    world.write(tree)
    return _folder_case(world, rng, folder)


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
