"""What the entries share at the command line: the recipe, logging, and how an error ends them."""

import argparse
import logging
import os
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from data.judges.client import EndpointError
from data.judges.known_key import KnownKey
from data.judges.record import RecordError
from recipes.schema.credentials import blotted, looks_secret
from recipes.schema.recipe import Recipe, RecipeError, load_recipe
from recipes.schema.source import SECRET

from ..backends.completer import NotFinite
from ..evaluation.experiment import OutOfRange
from ..evaluation.summary import NothingCountsError
from ..jobs.disk import full_line
from ..jobs.faults import doing, fault_line, keep_tracebacks_in
from ..jobs.files import FileChanged
from ..jobs.interruption import Interrupted
from ..jobs.processes import ReplicaLost
from ..jobs.terminal import AboveProgress, is_main_process, quiet_libraries

CHECKOUT = Path(__file__).parents[2]

# A user can act on these wherever they are raised.
USER_ERRORS = (
    RecipeError,
    FileChanged,
    EndpointError,
    RecordError,
    NothingCountsError,
    NotFinite,
    OutOfRange,
    ReplicaLost,
)


SECRET_VARIABLES = ("KEY", "TOKEN", "SECRET", "PASSWORD")  # the ends of their names
PATIENCE_S = 10.0  # for the launcher to end this process, after the first one failed alike


@contextmanager
def entry(*more: type[Exception]) -> Iterator[None]:
    """A decorated `main`, which any error ends with one line and exit code 1.

    A user's mistake is its own line. Of any other error the line says what was being done, and in
    which file the traceback is. Where several processes fail alike, the first one says so.

    Args:
        more: errors that are a user's mistake wherever they are raised.
    """
    keep_tracebacks_in(None)
    try:
        with user_errors(*more):
            yield
    except (SystemExit, KeyboardInterrupt, Interrupted):
        raise
    except BaseException as error:  # a panic in a library's Rust is no Exception
        _end(full_line(error) or fault_line(error, without_secrets))


@contextmanager
def user_errors(*more: type[Exception]) -> Iterator[None]:
    """A block that a user's mistake ends with one line and exit code 1.

        with user_errors(ValueError):
            plan(recipe)

    Args:
        more: errors that are a user's mistake in this block. Before weights load a ValueError is
            one; afterwards it is a fault of the program.
    """
    try:
        yield
    except (*USER_ERRORS, *more) as error:
        _end(without_secrets(" ".join(str(error).splitlines())))


def without_secrets(text: str) -> str:
    """`text` without the secrets that the environment holds, and without what looks like one."""
    for name, value in os.environ.items():
        if name.upper().endswith(SECRET_VARIABLES):
            text = KnownKey(value.strip()).blotted(text)
    return blotted(text)


def _end(line: str) -> NoReturn:
    if os.environ.get("RANK", "0") != "0":
        time.sleep(PATIENCE_S)
    sys.exit(f"error: {plain(line)}")


def plain(line: str) -> str:
    """`line` with an escape for what is no text; libraries quote values as they are."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


class HelpFormatter(argparse.HelpFormatter):
    """Help with its paragraphs filled to the terminal's width, and its examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(
            part if part.startswith(" ") else textwrap.fill(part, width) for part in paragraphs
        )


def recipe_from_command_line(description: str | None) -> Recipe:
    """The recipe that an entry was called with, overrides applied.

    Raises:
        RecipeError: in one line what the recipe or an override has wrong.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    parser.add_argument("recipe", help="a YAML file, such as recipes/mini/facts.yaml")
    parser.add_argument("overrides", nargs="*", help="section.key=value, applied in order")
    if any(looks_secret(argument) for argument in sys.argv[1:] if argument.startswith("-")):
        raise RecipeError(f"an option on the command line {SECRET}")  # argparse would repeat it
    arguments = parser.parse_args()
    with doing(f"reading {arguments.recipe}"):
        recipe = load_recipe(arguments.recipe, arguments.overrides)
    keep_tracebacks_in(Path(recipe.output_dir))
    return recipe


def start_logging() -> bool:
    """Whether this is the main process (rank zero), which alone logs from now on."""
    is_main = is_main_process()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[AboveProgress()])
    quiet_libraries()
    for package in ("train", "decode", "data"):
        logging.getLogger(package).setLevel(logging.INFO if is_main else logging.ERROR)
    return is_main


def command_line(entry: str, *arguments: str | Path) -> str:
    """What starts an entry of this checkout as a user types it: where we are, by this interpreter.

    Args:
        entry: its path in the checkout, such as `decode/analyze.py`.
    """
    python = shutil.which("python")
    is_this = python is not None and Path(python).parent == Path(sys.executable).parent
    words = ["python" if is_this else _from_here(sys.executable)]
    words += [_from_here(CHECKOUT / entry), *map(str, arguments)]
    return shlex.join(words)


def _from_here(path: str | Path) -> str:
    """A path relative to the working folder, if it is below it."""
    path, here = os.path.abspath(path), os.getcwd()
    return os.path.relpath(path, here) if path.startswith(f"{here}{os.sep}") else path
