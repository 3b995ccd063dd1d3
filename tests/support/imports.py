"""The modules of a source tree and what each imports, relative imports and inner ones included."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FOLDERS = ("train", "decode", "data", "recipes")


@dataclass(frozen=True)
class Module:
    """One source file, by its dotted name; a package's `__init__.py` has the package's name."""

    name: str
    path: Path

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def syntax(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @property
    def has_main(self) -> bool:
        """Whether it is started as a script: it has a `__main__` block."""
        return any(
            isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
            for node in self.syntax.body
        )


class Tree:
    """The modules below a root, and the imports between them."""

    def __init__(self, root: Path) -> None:
        paths = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
        self.root = root
        self.modules = {name: Module(name, path) for path in paths if (name := _name(root, path))}

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """The modules that each module imports, at the top of the file or deeper.

        Raises:
            ValueError: a module imports what the tree has not.
        """
        return {name: self._imported(module) for name, module in self.modules.items()}

    def absolute_imports(self, name: str) -> set[str]:
        """The modules of the tree that a module names from the top: `from decode.engine ...`."""
        return self._imported(self.modules[name], relative=False)

    def _imported(self, module: Module, relative: bool = True) -> set[str]:
        found = set()
        for node in ast.walk(module.syntax):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (relative or not node.level):
                names = list(self._named(module, node))
            else:
                continue
            for name in names:
                if name in self.modules:
                    found.add(name)
                elif name.partition(".")[0] in FOLDERS:
                    place = f"{module.path}:{node.lineno}"
                    raise ValueError(f"{place}: {name} is no module of this tree")
        return found

    def _named(self, module: Module, node: ast.ImportFrom) -> Iterator[str]:
        """What `from ORIGIN import a, b` names: ORIGIN.a where that is a module, else ORIGIN."""
        origin = _origin(module, node)
        for alias in node.names:
            inner = f"{origin}.{alias.name}"
            yield inner if inner in self.modules else origin

    def circles(self) -> list[list[str]]:
        """Groups of modules each of which reaches all others of its group by imports."""
        reached = {name: self._reached(name) for name in self.modules}
        groups = {
            tuple(sorted(other for other in reached[name] if name in reached[other]))
            for name in self.modules
            if name in reached[name]
        }
        return sorted(list(group) for group in groups)

    def _reached(self, name: str) -> set[str]:
        found: set[str] = set()
        ahead = list(self.imports[name])
        while ahead:
            if (next_name := ahead.pop()) not in found:
                found.add(next_name)
                ahead += self.imports[next_name]
        return found


def _name(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _origin(module: Module, node: ast.ImportFrom) -> str:
    """The dotted name of the module or package that a `from ... import` names."""
    if not node.level:
        return node.module or ""
    package = module.name.split(".")
    kept = len(package) - node.level + module.is_package
    return ".".join([*package[:kept], *([node.module] if node.module else [])])
