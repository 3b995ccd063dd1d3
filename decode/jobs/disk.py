"""Whether files can be written: asked before weights load, and said in one line if a disk is full.

Nothing is lost with a full disk. Files appear whole or not at all, a row that was cut off is
dropped when its file is read, and a checkpoint counts when all of it is there.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# torch and safetensors write past Python: they say it in words, torch only that a write failed.
IN_WORDS = (
    "no space left on device",
    "quota exceeded",
    "file too large",
    "pytorchstreamwriter failed",
    "inline_container.cc",
)


def check_writable(key: str, file: Path) -> None:
    """Check that a file can be made, in a folder that may be yet to be made, and leave nothing.

    Args:
        key: what names the file or its folder: a recipe's key or an option.

    Raises:
        ValueError: in one line what is in the way.
    """
    try:
        whole = Path(os.path.abspath(file))
        if whole.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        there = next(folder for folder in whole.parents if os.path.lexists(folder))
        with tempfile.TemporaryDirectory(prefix=".", dir=there) as probe:
            tried = Path(probe, whole.relative_to(there))
            tried.parent.mkdir(parents=True, exist_ok=True)
            tried.write_bytes(bytes(4096))  # a full disk takes a name and no bytes
    except (OSError, ValueError) as error:  # a NUL byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{key}: {str(file)!r:.160} cannot be written ({reason}); choose another place"
        ) from None


def full_line(error: BaseException) -> str | None:
    """One line if an error, or what it was raised from, is a full disk; else None."""
    for one in _chain(error):
        is_said = any(words in str(one).lower() for words in IN_WORDS)
        if is_said or (isinstance(one, OSError) and one.errno in FULL):
            place = getattr(one, "filename", None)
            return (
                f"the disk is full{f' at {place}' if place else ''} ({str(one).splitlines()[0]}); "
                "make room and start the same command again: what was finished is kept"
            )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
