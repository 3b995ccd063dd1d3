"""The checkout is what gets imported, its names hide nothing, and imports point one way."""

import ast
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("train", "decode", "data", "recipes")
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
# Entries are launched as scripts and may import every folder.
SCRIPTS = ("run.py", "score.py", "analyze.py", "compare.py", "workspace.py")
ENTRIES = {ROOT / "decode" / name for name in SCRIPTS}
# What the two entries share: the library modules that know recipes and tasks.
SHARED = ("stage/stage.py", "stage/planning.py", "stage/artifacts.py", "stage/command.py")
ENTRIES |= {ROOT / "decode" / name for name in SHARED}
MAY_IMPORT = {"train": set(PACKAGES), "decode": set(), "data": set(), "recipes": set()}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_packages(path: Path) -> set[str]:
    """The top-level names a module imports absolutely, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_packages_are_this_checkout_from_anywhere(tmp_path: Path) -> None:
    code = (
        "import json, sys; from importlib.machinery import PathFinder; "
        "specs = {name: PathFinder.find_spec(name) for name in sys.argv[1:]}; "
        "print(json.dumps({name: spec and spec.origin for name, spec in specs.items()}))"
    )
    command = [sys.executable, "-c", code, *PACKAGES]
    found = json.loads(subprocess.check_output(command, cwd=tmp_path, text=True))
    expected = {name: str(ROOT / name / "__init__.py") for name in PACKAGES}
    assert found == expected, "run `pip install --no-deps -e .` here, or uninstall what shadows it"


@pytest.fixture(scope="module")
def installed() -> set[str]:
    """The top-level names of everything in the environment."""
    return set(importlib.metadata.packages_distributions())


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_name_hides_nothing(path: Path, installed: set[str]) -> None:
    name = path.parent.name if path.stem == "__init__" else path.stem
    if path.parent.parent == ROOT and path.stem == "__init__":
        return
    # A launched script puts its own folder first on sys.path.
    assert name not in sys.stdlib_module_names
    assert name not in installed
    assert name not in (*PACKAGES, "tests")


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_point_down(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    allowed = set(PACKAGES) if path in ENTRIES else MAY_IMPORT[package]
    assert imported_packages(path) & set(PACKAGES) <= allowed


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_entries_are_imported_by_no_module(path: Path) -> None:
    scripts = {p for p in MODULES if 'if __name__ == "__main__":' in p.read_text()}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            # `from .run import x`, `from decode.run import x` and `from . import run`
            folder = path.parents[node.level - 1] if node.level else ROOT
            target = folder.joinpath(*(node.module or "").split("."))
            targets = {target.with_suffix(".py")} if node.module else set()
            targets |= {target / f"{alias.name}.py" for alias in node.names}
            assert not targets & scripts


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_are_regular_and_typed(name: str) -> None:
    assert (ROOT / name / "__init__.py").is_file()
    assert (ROOT / name / "py.typed").is_file()


def test_tests_are_no_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
