"""The lock of a run's folder: one run at a time.

A killed run may still be at work: a launcher dies at once, its processes when their step is saved.
Two runs that write the same checkpoints and predictions would damage both, so the second waits.
"""

import fcntl
import logging
import os
import socket
import time
from pathlib import Path

logger = logging.getLogger(__name__)

LONGEST_WAIT_S = 300.0  # for a large model's last step and its checkpoint
POLL_S = 0.2

_held: dict[Path, int] = {}  # folders that this process has locked, with their descriptors


def occupy(folder: Path, longest_wait_s: float = LONGEST_WAIT_S) -> int:
    """The file descriptor of the lock of `folder`, which this process holds from now on.

    Do not close it: the lock ends with the process, however that ends.

    Raises:
        ValueError: another process still holds it after `longest_wait_s`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (place := folder.resolve()) in _held:
        return _held[place]
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    if not _is_taken(descriptor):
        owner = os.pread(descriptor, 200, 0).decode() or "another process"
        logger.info("waiting for %s, which is still at work in %s", owner, folder)
        until = time.monotonic() + longest_wait_s
        while not _is_taken(descriptor):
            if time.monotonic() > until:
                os.close(descriptor)
                raise ValueError(
                    f"{owner} is at work in {folder}; choose another output_dir, or stop it"
                )
            time.sleep(POLL_S)
    _held[place] = descriptor
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return descriptor


def _is_taken(descriptor: int) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # some shared file systems have no locks
        logger.info("no locks on this file system (%s): start one run at a time", error)
    return True
