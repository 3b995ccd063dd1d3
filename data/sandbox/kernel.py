"""The Linux calls that the standard library lacks, each raising OSError where it fails."""

import ctypes
import os
import signal
import struct
from contextlib import suppress
from pathlib import Path

# prctl(2)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
# Numbers these calls have on every architecture, as all calls newer than 2018.
MOUNT_SETATTR, LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = (
    442,
    444,
    445,
    446,
)
# Users nobody has: below 65536, so that containers which map only that many have them too.
FIRST_UNUSED_UID, NUM_UNUSED_UIDS = 64_200, 800

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """What the C function `name` returns; int arguments are passed as long.

    Raises:
        OSError: it returned -1.
    """
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = getattr(_libc, name)(*converted)
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}{arguments}: {os.strerror(error)}")
    return result


def prctl(option: int, value: int, more: bytes | int = 0) -> None:
    """Set one property of this process; some need a second value or a structure."""
    call("prctl", option, value, more, 0, 0)


def pivot_root(new_root: str, put_old: str) -> None:
    """Change the root folder, which the C library has no function for."""
    number = {"x86_64": 155, "aarch64": 41}[machine()]
    call("syscall", number, new_root.encode(), put_old.encode())


def machine() -> str:
    """x86_64 or aarch64. Raises OSError on any other machine, whose call numbers are not here."""
    name = os.uname().machine
    if os.uname().sysname != "Linux" or name not in ("x86_64", "aarch64"):
        raise OSError(f"Linux on x86_64 or aarch64 is needed, this is {os.uname().sysname} {name}")
    return name


def unused_uid() -> int | None:
    """A user for this process's programs, or None where this process cannot change users.

    Root's processes escape the limit on their number and own half the machine's files, so root
    runs programs as an unused user. Every other user runs them as themselves.
    """
    if os.geteuid() != 0:
        return None
    uid = FIRST_UNUSED_UID + os.getpid() % NUM_UNUSED_UIDS
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, _, length = map(int, line.split())
        if inside <= uid < inside + length:
            return uid
    return None


def give_up_powers(uid: int | None) -> None:
    """Become user `uid`, if any, without a capability or a way to one, and die with the parent.

    Raises:
        OSError: this process may not change users.
    """
    with suppress(OSError):  # past the last one, or not permitted: then exec gains none anyway
        for number in range(64):
            prctl(PR_CAPBSET_DROP, number)
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    prctl(PR_CAP_AMBIENT, 4)  # clear all
    call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))  # version 3; this process
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of users clears it


def num_tasks(uid: int) -> int:
    """Processes and threads of user `uid` now, as RLIMIT_NPROC counts them."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == uid:
                total += len(os.listdir(folder / "task"))
        except OSError:  # it has ended
            continue
    return total
