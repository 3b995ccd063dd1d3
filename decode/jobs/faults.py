"""Faults: errors that nobody foresaw, as one line, with their traceback in a file.

A library raises in its own words, often from deep below. `doing` adds what the job was at, and
`fault_line` makes the line: what was being done, the library's own first line, and where the whole
traceback is. That is `error.log` in the run's folder, or a temporary file where there is none.
"""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

LONGEST_REASON = 300  # characters of a library's first line

_run: Path | None = None  # the folder of this process's run


def keep_tracebacks_in(folder: Path | None) -> None:
    """Keep tracebacks in a run's folder from now on, if it exists; None is a temporary file."""
    global _run
    _run = folder


@contextmanager
def doing(what: str) -> Iterator[None]:
    """A block or a decorated function whose errors say what was being done, "reading x.json"."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"while {what}")
        raise


def fault_line(error: BaseException, blot: Callable[[str], str]) -> str:
    """One line about an error, whose traceback this writes to a file that the line names.

    Args:
        blot: takes secrets out of a text.
    """
    notes: list[str] = getattr(error, "__notes__", [])
    innermost = [f"{note}: " for note in notes if note.startswith("while ")][:1]
    kind, reason = type(error).__name__, first_line(error)
    said = f"{kind}: {reason}" if reason else kind
    return f"{blot(''.join(innermost) + said)}; {_keep_traceback(error, blot)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut off where it is very long; "" if it has no text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else ""
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}..."


def _keep_traceback(error: BaseException, blot: Callable[[str], str]) -> str:
    """Write the traceback, and say where it is; never raises, a full disk may be the error."""
    rank = os.environ.get("RANK", "0")
    command = " ".join(sys.argv)
    text = f"{datetime.now():%Y-%m-%d %H:%M:%S} {command}\n\n"
    text += "".join(traceback.format_exception(error))
    path = None
    try:
        if _run is not None and _run.is_dir():
            path = _run / ("error.log" if rank == "0" else f"error.{rank}.log")
        else:
            descriptor, name = tempfile.mkstemp(".log", "proxytune-error-")
            os.close(descriptor)
            path = Path(name)
        path.write_text(blot(text), "utf-8", "backslashreplace")
    except OSError as problem:
        return f"the traceback could not be written ({problem})"
    return f"the traceback is in {path}"
