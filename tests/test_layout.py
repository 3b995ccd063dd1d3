"""The order of the rooms: imports point down and in no circle, and no name hides another.

A room is a folder one level below `train`, `decode`, `data` or `recipes`, or a module that stands
there by itself. Each rule takes a tree and returns its violations, one a line. Each is tried on
this checkout, and on a small made-up tree that breaks it.
"""

import ast
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.imports import FOLDERS, Module, Tree

import decode

ROOT = Path(__file__).resolve().parents[1]

# A module imports its own room and the rooms on the lines above its own.
FLOORS = {
    "decode": """
        engine jobs
        models
        backends
        evaluation
        reports
        analysis tracking
        serving
        stage
        __init__ run score compare analyze serve export workspace harness
    """,
    "train": """
        zero checkpoints footprint divergence progress
        pretraining proxy_loss preferences
        training
        claims contradictions rows
        rehearsal
        trainer
        proxy_check
        job
        __init__ sft dpo memory pretrain
    """,
    "data": """
        row_files
        rows judges sandbox mini
        task chats
        tasks training
        __init__
        scoring
    """,
    "recipes": """
        schema
        __init__
    """,
}
# Rooms that know nothing of each other, although one stands on a higher line.
APART = {("decode.models", "decode.jobs"), ("decode.backends", "decode.jobs")}
# Top-level folders that a room may import besides its own. Entries may import all.
CROSSING = {"train": {"decode", "data", "recipes"}, "decode.stage": {"data", "recipes"}}
PLANNED = {
    "decode.backends",
    "train.job",
    "train.pretraining",
}  # rooms that may be missing

MOST_OUTSIDE_ROOMS = 9
MOST_ENGINE_LINES = 1050
HEIGHTS = {
    folder if name == "__init__" else f"{folder}.{name}": height
    for folder, floors in FLOORS.items()
    for height, floor in enumerate(floors.strip().splitlines())
    for name in floor.split()
}


def room(name: str) -> str:
    """The room of a module, by their dotted names: `decode.engine` for `decode.engine.stops`."""
    return ".".join(name.split(".")[:2])


def folder(name: str) -> str:
    return name.partition(".")[0]


def is_entry(module: Module) -> bool:
    """Whether it stands directly in `train/` or `decode/` and is started as a script."""
    return module.has_main and module.name.count(".") == 1


def arrows(tree: Tree) -> list[tuple[str, str]]:
    """(importing module, imported module) for every import of the tree."""
    return [(name, other) for name in sorted(tree.imports) for other in sorted(tree.imports[name])]


def modules_without_a_place(tree: Tree) -> list[str]:
    return [
        f"{name} is in no room of the order" for name in tree.modules if room(name) not in HEIGHTS
    ]


def rooms_without_a_module(tree: Tree) -> list[str]:
    rooms = {room(name) for name in tree.modules} | PLANNED
    return [f"{name} is in the order and not in the tree" for name in HEIGHTS if name not in rooms]


def imports_that_run_up(tree: Tree) -> list[str]:
    return [
        f"{name} imports {other}"
        for name, other in arrows(tree)
        if folder(name) == folder(other) and room(name) != room(other)
        if (room(name), room(other)) in APART
        or HEIGHTS.get(room(name), 0) <= HEIGHTS.get(room(other), 0)
    ]


def imports_that_cross(tree: Tree) -> list[str]:
    return [
        f"{name} imports {other}"
        for name, other in arrows(tree)
        if folder(name) != folder(other) and not is_entry(tree.modules[name])
        if folder(other) not in CROSSING.get(folder(name), set()) | CROSSING.get(room(name), set())
    ]


def absolute_imports_of_the_own_folder(tree: Tree) -> list[str]:
    """Entries have no package, and `train/` is an application; libraries import relatively."""
    return [
        f"{name} imports {other} absolutely"
        for name in sorted(tree.modules)
        if folder(name) != "train" and not tree.modules[name].has_main
        for other in sorted(tree.absolute_imports(name))
        if folder(other) == folder(name)
    ]


def imports_of_entries(tree: Tree) -> list[str]:
    return [
        f"{name} imports {other}" for name, other in arrows(tree) if tree.modules[other].has_main
    ]


def circles(tree: Tree) -> list[str]:
    return [" and ".join(circle) for circle in tree.circles()]


def modules_outside_rooms(tree: Tree) -> list[str]:
    outside = [path.name for path in (tree.root / "decode").glob("*.py")]
    return [] if len(outside) <= MOST_OUTSIDE_ROOMS else [f"{len(outside)} in decode/"]


def lines_of_the_engine(tree: Tree) -> list[str]:
    modules = [module for name, module in tree.modules.items() if room(name) == "decode.engine"]
    num_lines = sum(len(module.text.splitlines()) for module in modules)
    return [] if num_lines <= MOST_ENGINE_LINES else [f"{num_lines} lines in decode/engine/"]


def names_that_hide(tree: Tree) -> list[str]:
    """A launched script puts its own folder first on sys.path: its neighbours hide packages."""
    hidden = {*importlib.metadata.packages_distributions(), *sys.stdlib_module_names, "tests"}
    hidden.update(FOLDERS)
    names = [name for name in tree.modules if "." in name]
    return [f"{name} hides {last}" for name in names if (last := name.split(".")[-1]) in hidden]


# Rule: a made-up tree that breaks it (a file's path: its text), and what the rule says of it.
WELL = {
    "decode/engine/loop.py": "from __future__ import annotations\nimport torch\n",
    "decode/models/pair.py": "from ..engine.loop import step\nfrom ..engine import loop\n",
    "decode/run.py": 'from data.task import Task\nif __name__ == "__main__":\n    main()\n',
    "decode/stage/planning.py": "from data.task import Task\nfrom . import command\n",
    "decode/stage/command.py": "",
    "data/task.py": "from .rows import read_rows\n",
    "data/rows.py": "",
    "train/trainer.py": "from data.task import Task\nfrom .training import Training\n",
    "train/training.py": "",
}
INNER = "def f():\n    from ..models.pair import x\n"
TYPING = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..models import pair\n"
BROKEN = [
    (modules_without_a_place, {"decode/leftover.py": ""}, "decode.leftover is in no room of"),
    (modules_without_a_place, {"data/extra/a.py": ""}, "data.extra.a is in no room of"),
    (rooms_without_a_module, {}, "decode.reports is in the order and not"),
    (imports_that_run_up, {"decode/engine/up.py": "from ..models.pair import x"}, "engine.up imp"),
    (
        imports_that_run_up,
        {"decode/engine/up.py": "from ..models import pair"},
        "engine.up imports",
    ),
    (
        imports_that_run_up,
        {"decode/engine/up.py": "import decode.models.pair"},
        "decode.models.pair",
    ),
    (imports_that_run_up, {"decode/engine/up.py": INNER}, "decode.engine.up imports decode.models"),
    (
        imports_that_run_up,
        {"decode/engine/up.py": TYPING},
        "decode.engine.up imports decode.models",
    ),
    (
        imports_that_run_up,
        {"decode/__init__.py": "", "decode/engine/up.py": "from .. import x"},
        "",
    ),
    (
        imports_that_run_up,
        {"decode/jobs/lock.py": "", "decode/models/up.py": "from ..jobs.lock import occupy"},
        "decode.models.up imports decode.jobs.lock",
    ),
    (
        imports_that_run_up,
        {"decode/tracking/a.py": "", "decode/analysis/b.py": "from ..tracking import a"},
        "decode.analysis.b imports decode.tracking.a",
    ),
    (
        imports_that_run_up,
        {"data/rows.py": "from .task import Task"},
        "data.rows imports data.task",
    ),
    (imports_that_run_up, {"train/training.py": "from . import trainer"}, "train.training imports"),
    (imports_that_cross, {"decode/models/a.py": "from data.task import Task"}, "decode.models.a"),
    (imports_that_cross, {"data/rows.py": "import decode.engine.loop"}, "data.rows imports decode"),
    (imports_that_cross, {"decode/stage/a.py": "from train import training"}, "decode.stage.a"),
    (
        imports_that_cross,
        {"decode/run.py": "from data.task import Task"},
        "decode.run imports data",
    ),
    (
        absolute_imports_of_the_own_folder,
        {"decode/models/a.py": "from decode.engine import loop"},
        "decode.models.a imports decode.engine.loop absolutely",
    ),
    (imports_of_entries, {"decode/stage/a.py": "from ..run import main"}, "decode.stage.a imports"),
    (imports_of_entries, {"train/training.py": "from decode import run"}, "train.training imports"),
    (
        circles,
        {"data/tasks/a.py": "from .b import x", "data/tasks/b.py": "def f():\n    from . import a"},
        "data.tasks.a and data.tasks.b",
    ),
    (modules_outside_rooms, {f"decode/m{i}.py": "" for i in range(9)}, "10 in decode/"),
    (lines_of_the_engine, {"decode/engine/long.py": "\n" * 1050}, "1052 lines in decode/engine/"),
    (names_that_hide, {"train/json.py": ""}, "train.json hides json"),
    (
        names_that_hide,
        {"decode/evaluate.py": "", "decode/torch/__init__.py": ""},
        "torch hides torch",
    ),
    (names_that_hide, {"decode/stage/data.py": ""}, "decode.stage.data hides data"),
]
RULES = sorted({rule for rule, _, _ in BROKEN}, key=lambda rule: rule.__name__)


@pytest.fixture(scope="module")
def checkout() -> Tree:
    return Tree(ROOT)


def planted(root: Path, files: dict[str, str]) -> Tree:
    """A tree of WELL with these files added or replaced."""
    for name, text in {**WELL, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return Tree(root)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_this_checkout_keeps_the_rule(rule, checkout: Tree) -> None:
    assert rule(checkout) == []


@pytest.mark.parametrize(
    ("rule", "files", "violation"), BROKEN, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_broken_rule_is_told(rule, files, violation, tmp_path: Path) -> None:
    found = rule(planted(tmp_path, files))
    assert found and violation in "\n".join(found)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_tree_in_order_breaks_no_rule(rule, tmp_path: Path) -> None:
    if rule is not rooms_without_a_module:
        assert rule(planted(tmp_path, {})) == []


def test_an_import_of_a_missing_module_is_an_error(tmp_path: Path) -> None:
    tree = planted(tmp_path, {"data/rows.py": "from .gone import x"})
    with pytest.raises(ValueError, match=r"rows\.py:1: data\.gone is no module"):
        tree.imports  # noqa: B018


def test_vllm_imports_our_model_with_its_own_packages_alone(checkout: Tree) -> None:
    ours = {f"decode.backends.vllm_{part}" for part in ("plugin", "model", "requests")}
    while more := {other for name in ours for other in checkout.imports[name]} - ours:
        ours |= more
    found = set()
    for node in (node for name in ours for node in ast.walk(checkout.modules[name].syntax)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
    packages = {name.partition(".")[0] for name in found} - sys.stdlib_module_names
    assert packages == {"numpy", "tokenizers", "torch", "transformers", "vllm"}
    code = "import decode.backends.vllm_plugin, sys; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False\n"


def test_public_names_are_found_when_they_are_asked_for() -> None:
    assert all(hasattr(decode, name) for name in decode.__all__)
    with pytest.raises(AttributeError, match="module 'decode' has no attribute 'proxy'"):
        decode.proxy  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_packages_are_this_checkout_from_anywhere(tmp_path: Path) -> None:
    code = (
        "import json, sys; from importlib.machinery import PathFinder; "
        "specs = {name: PathFinder.find_spec(name) for name in sys.argv[1:]}; "
        "print(json.dumps({name: spec and spec.origin for name, spec in specs.items()}))"
    )
    command = [sys.executable, "-c", code, *FOLDERS]
    found = json.loads(subprocess.check_output(command, cwd=tmp_path, text=True))
    expected = {name: str(ROOT / name / "__init__.py") for name in FOLDERS}
    assert found == expected, "run `pip install --no-deps -e .` here, or uninstall what shadows it"


@pytest.mark.parametrize("name", FOLDERS)
def test_packages_are_regular_and_typed(name: str) -> None:
    assert (ROOT / name / "__init__.py").is_file()
    assert (ROOT / name / "py.typed").is_file()


def test_tests_are_no_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
