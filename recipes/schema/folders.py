"""A model's name: what it is for short, and whether it is a folder here or an id on the hub."""

import os
from pathlib import Path

from .keys import KeyProblem


def slug(name: str) -> str:
    """The last part of a model's hub id or folder: systems, files and tags are called after it.

    However a folder is spelt (`large/`, `large/.`, `other/../large`), it has one slug.
    """
    return os.path.basename(os.path.abspath(name))


def check_model(
    key: str,
    name: str,
    files: tuple[str, ...],
    revision: str | None = None,
    revision_key: str | None = None,
) -> None:
    """Refuse a path that leads nowhere, before the hub is asked for a model of that name.

    A name is meant as a path if it starts with `.` or `/`, has more than one slash, exists,
    or lies in a folder that exists; anything else is a hub id and is left alone.

    Args:
        key: the dotted key that holds the name.
        name: a hub id or a folder.
        files: a model's folder holds at least one of these.
        revision: on the hub; a folder has none.
        revision_key: the dotted key that holds it; None is `revision` beside `key`.

    Raises:
        KeyProblem: no such folder, a folder without any of `files`, or a folder's revision.
    """
    folder = Path(name)
    in_known_folder = "/" in name and os.path.isdir(folder.parent)
    looks_local = name.startswith((".", "/")) or name.count("/") > 1
    if not (looks_local or in_known_folder or os.path.exists(name)):
        return
    hint = ""
    if name.lower().endswith(".gguf") or (os.path.isdir(name) and any(folder.glob("*.gguf"))):
        hint = "; GGUF files are not read (docs/quantization.md says what to do)"
    if os.path.isfile(name):
        raise KeyProblem(key, f"found {name!r}, a file; a model is a folder{hint}")
    if not os.path.isdir(name):  # which also says so of a name that is too long
        raise KeyProblem(key, f"found {name!r:.200}, but there is no such folder in {Path.cwd()}")
    if not any((folder / file).is_file() for file in files):
        raise KeyProblem(key, f"found {name!r}, a folder without {' or '.join(files)}{hint}")
    if revision is not None:
        raise KeyProblem(
            revision_key or f"{key.rpartition('.')[0]}.revision",
            f"has no effect: {name!r} is a folder here, and not on the hub; leave it out",
        )
