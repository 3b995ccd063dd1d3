"""Being asked to stop: SIGTERM from a scheduler or a launcher, Ctrl-C from a person.

Either raises `Interrupted` in the main thread, wherever it is: what is finished is on disk at any
time, so that little is lost. Training holds it back until the step is done and saved. An entry that
was interrupted says in one line how to go on, and ends with a code of its own.

A launcher that dies leaves its processes behind (`accelerate launch` with one process dies of
SIGTERM at once, any launcher of SIGKILL), and they would train on, unwatched. So a launched process
asks Linux for a SIGTERM when its launcher is gone.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

UNFINISHED = 75  # EX_TEMPFAIL of sysexits.h: try again
CTRL_C = 130  # what shells expect, so that a loop around the command ends as well
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")  # one of them is set by launchers


class Interrupted(BaseException):
    """The process was asked to stop. No Exception: nothing that handles errors may hold it up."""

    def __init__(self, signal_number: int = signal.SIGTERM) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = CTRL_C if signal_number == signal.SIGINT else UNFINISHED


class Request:
    """Whether this process was asked to stop, for those who stop at a moment of their own."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.is_held = False

    @property
    def is_made(self) -> bool:
        return self.signal_number is not None

    def interrupted(self) -> Interrupted:
        """What to raise; also where only another process was asked."""
        return Interrupted(self.signal_number or signal.SIGTERM)


_request = Request()


def interruptible(main: Callable[[], None]) -> int:
    """Runs an entry; the exit code is 0, or another if it was interrupted and is unfinished."""
    _request.signal_number = None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)
    if sys.platform == "linux" and any(name in os.environ for name in LAUNCHED):
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    try:
        main()
    except Interrupted as stop:
        _say(f"{stop}: stopped before the end; the same command goes on from here")
        return stop.exit_code
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # nothing is left that could be lost
    return 0


@contextmanager
def held_back() -> Iterator[Request]:
    """Within, a request to stop is only noted; it takes effect at the end of the block.

    A second Ctrl-C is not held back. An error after the request is no other end than the one asked
    for: a signal to the whole group takes workers and neighbours away.
    """
    _request.is_held = True
    try:
        yield _request
    except Exception as error:
        if not _request.is_made:
            raise
        _say(f"while stopping: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    finally:
        _request.is_held = False
    if _request.is_made:
        raise _request.interrupted()


def _on_signal(number: int, frame: FrameType | None) -> None:
    is_repeated = number == _request.signal_number == signal.SIGINT
    first = not _request.is_made
    _request.signal_number = number if first else _request.signal_number
    if not _request.is_held or is_repeated:
        raise _request.interrupted()
    if first:
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        _say(f"{signal.Signals(number).name}: stopping when this step is done and saved{again}")


def _say(line: str) -> None:
    """One line from the main process; not through a stream that the signal may have interrupted."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{line}\n".encode())
