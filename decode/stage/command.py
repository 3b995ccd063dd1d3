"""What the entries share at the command line: the recipe, logging, and how an error ends them."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from data.judges.client import EndpointError
from data.judges.judge import RecordError
from recipes.schema.recipe import Recipe, RecipeError, load_recipe

from ..evaluation.summary import NothingCountsError
from ..jobs.files import FileChanged
from ..jobs.processes import ReplicaLost

# A user can act on these wherever they are raised.
USER_ERRORS = (
    RecipeError,
    FileChanged,
    EndpointError,
    RecordError,
    NothingCountsError,
    ReplicaLost,
)


@contextmanager
def user_errors(*more: type[Exception]) -> Iterator[None]:
    """A block, or a decorated `main`, that a user's mistake ends with one line and exit code 1.

        with user_errors(ValueError):
            plan(recipe)

    Args:
        more: errors that are a user's mistake in this block. Before weights load a ValueError is
            one; afterwards it is a fault of the program, and its traceback is shown.
    """
    try:
        yield
    except (*USER_ERRORS, *more) as error:
        sys.exit(f"error: {error}")


def recipe_from_command_line(description: str | None) -> Recipe:
    """The recipe that an entry was called with, overrides applied.

    Raises:
        RecipeError: in one line what the recipe or an override has wrong.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="a YAML file, such as recipes/mini/facts.yaml")
    parser.add_argument("overrides", nargs="*", help="section.key=value, applied in order")
    arguments = parser.parse_args()
    return load_recipe(arguments.recipe, arguments.overrides)


def start_logging() -> bool:
    """Whether this is the main process (rank zero), which alone logs from now on."""
    is_main_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # A user of a recipe cannot act on deprecations inside the libraries.
    warnings.filterwarnings("ignore", category=FutureWarning)
    for package in ("train", "decode", "data"):
        logging.getLogger(package).setLevel(logging.INFO if is_main_process else logging.ERROR)
    return is_main_process
