"""A seccomp filter: system calls that a program has no honest use for fail with EPERM.

`NEVER` is refused to every program: making namespaces and mounts (a private tmpfs is memory that no
limit counts), kernel objects that outlive or escape the limits (memfd, System V memory, io_uring),
and looking into other processes. `ALONE` is refused as well where no namespace keeps the program
apart: sockets, further processes, signals to anybody but itself, leaving its process group, and
what Landlock does not cover (owner, mode, times of files that belong to the same user).

Numbers are from the kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h); one number means the same on both machines, None means absent.
"""

import ctypes
import errno
import os
import struct

from . import kernel

NEVER: dict[str, tuple[int | None, int | None]] = {  # name: (x86_64, aarch64)
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
}
ALONE: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "fork": (57, None),
    "vfork": (58, None),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "truncate": (76, 45),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
}
SELF_ONLY = {  # the first argument must be this process
    "kill": (62, 129),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "prlimit64": (302, 261),
}
CLONE, CLONE3, FCNTL, IOCTL = (56, 220), (435, 435), (72, 25), (16, 29)
CLONE_THREAD = 0x00010000
CLONE_NEW_NAMESPACE = 0x00020000 | 0x02000000 | 0x7C000000  # mount; cgroup; uts to net
SIGNAL_COMMANDS = (8, 10, 15)  # fcntl F_SETOWN, F_SETSIG, F_SETOWN_EX: a signal by way of a file
SIGNAL_REQUESTS = (0x8901, 0x8902)  # ioctl FIOSETOWN, SIOCSPGRP: the same

Instruction = tuple[int, int, int, int]  # operation, jump if true, jump if false, value
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NUMBER, _ARCH = 0, 4  # offsets into struct seccomp_data


def _refuse(error: int) -> Instruction:
    return (_RETURN, 0, 0, 0x00050000 | error)


_EPERM, _ENOSYS = _refuse(errno.EPERM), _refuse(errno.ENOSYS)


def install(alone: bool) -> None:
    """Filter this process and all it will start, for good; no_new_privs must be set.

    Args:
        alone: no namespaces around it: refuse `ALONE` and signals to others, too.
    """
    instructions = _instructions(kernel.machine(), os.getpid() if alone else None)
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    code = ctypes.create_string_buffer(packed, len(packed))
    header = struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(code))  # sock_fprog
    kernel.prctl(kernel.PR_SET_SECCOMP, 2, header)


def _instructions(machine: str, alone_pid: int | None) -> list[Instruction]:
    """The filter for one machine, `alone_pid` the only process that may be signalled."""
    column = 0 if machine == "x86_64" else 1
    code = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),  # another architecture's calls have other numbers
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_JUMP_AT_LEAST, 0, 1, 0x40000000), _ENOSYS]  # the x32 table
    # clone3 passes its flags in memory, where a filter cannot look; libraries then use clone.
    code += [(_JUMP_EQUAL, 0, 1, CLONE3[column]), _ENOSYS]
    refused = NEVER if alone_pid is None else NEVER | ALONE
    for numbers in refused.values():
        if (number := numbers[column]) is not None:
            code += [(_JUMP_EQUAL, 0, 1, number), _EPERM]
    if alone_pid is None:
        namespaces = [(_JUMP_ANY_BIT, 0, 1, CLONE_NEW_NAMESPACE), _EPERM]
        return [*code, *_on_argument(CLONE[column], 0, namespaces), (_RETURN, 0, 0, _ALLOW)]
    code += _on_argument(CLONE[column], 0, [(_JUMP_ANY_BIT, 1, 0, CLONE_THREAD), _EPERM])
    others = [(_JUMP_EQUAL, 2, 0, alone_pid), (_JUMP_EQUAL, 1, 0, 0), _EPERM]
    for name, numbers in SELF_ONLY.items():
        # 0 is this process for prlimit64, but its whole group for kill.
        check = others if name == "prlimit64" else [(_JUMP_EQUAL, 1, 0, alone_pid), _EPERM]
        code += _on_argument(numbers[column], 0, check)
    for number, commands in ((FCNTL, SIGNAL_COMMANDS), (IOCTL, SIGNAL_REQUESTS)):
        refusals = [step for value in commands for step in ((_JUMP_EQUAL, 0, 1, value), _EPERM)]
        code += _on_argument(number[column], 1, refusals)
    return [*code, (_RETURN, 0, 0, _ALLOW)]


def _on_argument(number: int, argument: int, check: list[Instruction]) -> list[Instruction]:
    """`check` on the low half of one argument of one call; a value that passes is allowed."""
    body = [(_LOAD, 0, 0, 16 + 8 * argument), *check, (_RETURN, 0, 0, _ALLOW)]
    return [(_JUMP_EQUAL, 0, len(body), number), *body]
