"""A seccomp filter: system calls outside `system_calls` fail with EPERM, newer ones with ENOSYS.

Some are allowed by their arguments: threads but no namespaces (`clone`), memory but no huge pages
(`mmap`), the harmless requests of `fcntl`, `ioctl` and `prctl`, limits of this process, and
`socketpair` for a pair of Unix streams, which event loops need and which can reach nobody; there is
no other socket of any family. Where no namespace keeps a program apart, it also starts no process
and signals nobody but itself. Another architecture's calls, which have other numbers, kill it.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

from . import kernel, system_calls

# clone3 passes its flags in memory, where a filter cannot look. ENOSYS makes libraries use clone,
# and do without whatever else is newer than Linux 5.0.
FIRST_NEWER_CALL = 424
FIRST_X32_CALL = 0x40000000
CLONE_THREAD = 0x00010000
CLONE_NEW_NAMESPACE = 0x00020000 | 0x02000000 | 0x7C000000  # mount; cgroup; uts to net
MAP_HUGETLB = 0x40000  # pages from a pool that the whole machine shares
AF_UNIX = SOCK_STREAM = 1
SOCK_FLAGS = 0x80800  # close on exec, non-blocking
# Duplicates, flags and locks; not F_SETOWN, F_SETSIG (a signal by way of a file), leases, watches.
FCNTL_COMMANDS = (*range(8), 36, 37, 38, 1030, 1032)
# Whether it is a terminal, and its size; bytes to read; non-blocking; close on exec, and not.
IOCTL_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5451, 0x5450)
# Reads of its own state; names of threads and of memory. It stays bound to its parent's life.
PRCTL_OPTIONS = (2, 3, 15, 16, 21, 23, 39, 0x53564D41)

Instruction = tuple[int, int, int, int]  # operation, jump if true, jump if false, value
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_EQUAL, _JUMP_ABOVE, _JUMP_AT_LEAST, _JUMP_ANY_BIT = 0x15, 0x25, 0x35, 0x45
_NUMBER, _ARCH = 0, 4  # offsets into struct seccomp_data


def _refuse(error: int) -> Instruction:
    return (_RETURN, 0, 0, 0x00050000 | error)


_ALLOW, _KILL = (_RETURN, 0, 0, 0x7FFF0000), (_RETURN, 0, 0, 0x80000000)
_EPERM, _ENOSYS = _refuse(errno.EPERM), _refuse(errno.ENOSYS)


def install(alone: bool) -> None:
    """Filter this process and all it will start, for good; no_new_privs must be set.

    Args:
        alone: no namespaces around it: no further processes, no signals to others.
    """
    instructions = _instructions(kernel.machine(), os.getpid(), alone)
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    code = ctypes.create_string_buffer(packed, len(packed))
    header = struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(code))  # sock_fprog
    kernel.prctl(kernel.PR_SET_SECCOMP, 2, header)


def _instructions(machine: str, pid: int, alone: bool) -> list[Instruction]:
    """The filter for one machine and process."""
    code = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        _KILL,
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_JUMP_AT_LEAST, 0, 1, FIRST_X32_CALL), _ENOSYS]
    number = system_calls.numbers(f"{system_calls.CHECKED}, {system_calls.SIGNALS}", machine)
    for name, check in _checks(pid, alone).items():
        code += [(_JUMP_EQUAL, 0, len(check), number[name]), *check]
    tables = [
        system_calls.FILES,
        system_calls.WAITING,
        system_calls.ITSELF,
        system_calls.PAIR,
        *([] if alone else [system_calls.APART, system_calls.SIGNALS]),
    ]
    for first, last in _spans(system_calls.numbers(", ".join(tables), machine).values()):
        code += [(_JUMP_AT_LEAST, 0, 2, first), (_JUMP_ABOVE, 1, 0, last), _ALLOW]
    return [*code, (_JUMP_AT_LEAST, 0, 1, FIRST_NEWER_CALL), _ENOSYS, _EPERM]


def _checks(pid: int, alone: bool) -> dict[str, list[Instruction]]:
    """What decides about the calls that are allowed with some arguments only."""
    a_thread = [(_JUMP_ANY_BIT, 1, 0, CLONE_THREAD), _EPERM] if alone else []
    checks = {
        "mmap": [_argument(3), (_JUMP_ANY_BIT, 0, 1, MAP_HUGETLB), _EPERM, _ALLOW],
        "clone": [
            _argument(0),
            (_JUMP_ANY_BIT, 0, 1, CLONE_NEW_NAMESPACE),
            _EPERM,
            *a_thread,
            _ALLOW,
        ],
        "fcntl": _one_of(1, FCNTL_COMMANDS),
        "ioctl": _one_of(1, IOCTL_REQUESTS),
        "prctl": _one_of(0, PRCTL_OPTIONS),
        "prlimit64": _one_of(0, (0, pid)),
        "socketpair": [
            _argument(0),
            (_JUMP_EQUAL, 1, 0, AF_UNIX),
            _EPERM,
            _argument(1),
            (_AND, 0, 0, 0xFFFFFFFF ^ SOCK_FLAGS),
            (_JUMP_EQUAL, 1, 0, SOCK_STREAM),
            _EPERM,
            _ALLOW,
        ],
    }
    if alone:  # 0 is this process for prlimit64, but its whole group for kill
        signals = ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
        checks |= {name: _one_of(0, (pid,)) for name in signals}
    return checks


def _argument(position: int) -> Instruction:
    """Load the low half of an argument, all that the checked calls look at."""
    return (_LOAD, 0, 0, 16 + 8 * position)


def _one_of(position: int, values: tuple[int, ...]) -> list[Instruction]:
    jumps = [(_JUMP_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_argument(position), *jumps, _EPERM, _ALLOW]


def _spans(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of every run of consecutive numbers."""
    spans: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return spans
