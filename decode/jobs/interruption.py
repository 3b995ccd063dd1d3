"""Interruption: SIGTERM from a scheduler or a launcher, Ctrl-C from a person.

Either raises `Interrupted` in the main thread at once: finished results are on disk at any time, so
little is lost. Training delays it until the step is done and saved. An interrupted entry says in
one line how to continue, and ends with an exit code of its own.

Processes outlive a launcher that dies (`accelerate launch` with one process dies of SIGTERM at
once, any launcher of SIGKILL). So a launched process asks Linux for a SIGTERM when its launcher
ends.
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
    """The process was asked to stop. No Exception, so that no error handler catches it."""

    def __init__(self, signal_number: int = signal.SIGTERM) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = CTRL_C if signal_number == signal.SIGINT else UNFINISHED


class Request:
    """Whether this process was asked to stop, for code that stops at a moment of its own."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.is_held = False

    @property
    def is_made(self) -> bool:
        return self.signal_number is not None

    def interrupted(self) -> Interrupted:
        """The exception to raise; also if only another process was asked."""
        return Interrupted(self.signal_number or signal.SIGTERM)


_request = Request()


def interruptible(main: Callable[[], None]) -> int:
    """The exit code of an entry that is run here: 0, or another if it was interrupted."""
    _request.signal_number = None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)
    if sys.platform == "linux" and any(name in os.environ for name in LAUNCHED):
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    try:
        main()
    except Interrupted as stop:
        _say(f"{stop}: stopped, and what is done is kept; the same command goes on from here")
        return stop.exit_code
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # nothing is left that could be lost
    return 0


@contextmanager
def held_back() -> Iterator[Request]:
    """The request to stop, which takes effect only at the end of the block.

    A second Ctrl-C takes effect at once. An error after the request is logged and counts as the
    interruption: a signal to the whole group also ends data workers and other processes.
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
        beside = "\n" if os.isatty(2) else ""  # a line of progress may stand there
        name = signal.Signals(number).name
        _say(f"{beside}{name}: stopping when this step is done and saved{again}")


def _say(line: str) -> None:
    """Write one line from the main process; not by a stream, whose write a signal may interrupt."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{line}\n".encode())
