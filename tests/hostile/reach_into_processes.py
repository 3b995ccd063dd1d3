"""Reads, writes, copies from and slows down other processes; ends well if it could.

Ends: failed
"""

import ctypes
import os
import struct

libc = ctypes.CDLL(None)
libc.syscall.restype = ctypes.c_long
column = 1 if os.uname().machine == "aarch64" else 0
room = ctypes.create_string_buffer(64)
vector = struct.pack("QQ", ctypes.addressof(room), 64)
reached = []
for pid in {1, os.getppid(), os.getpid()}:
    for name, numbers, *arguments in (
        ("process_vm_readv", (310, 270), pid, vector, 1, vector, 1, 0),
        ("process_vm_writev", (311, 271), pid, vector, 1, vector, 1, 0),
        ("ptrace", (101, 117), 0x4206, pid, 0, 0),
        ("kcmp", (312, 272), pid, pid, 0, 0, 0),
        ("pidfd_open", (434, 434), pid, 0),
        ("get_robust_list", (274, 100), pid, room, room),
        ("move_pages", (279, 239), pid, 0, None, None, None, 0),
        ("migrate_pages", (256, 238), pid, 64, room, room),
        ("ioprio_set", (251, 30), 1, pid, 0x6007),
        ("setpriority", (141, 140), 0, pid, 19),
        ("sched_setaffinity", (203, 122), pid, 64, b"\1" * 64),
        ("sched_setscheduler", (144, 119), pid, 3, room),
    ):
        if libc.syscall(numbers[column], *arguments) != -1:
            reached.append((name, pid))
    if pid != os.getpid() and libc.prlimit(pid, 0, None, room) != -1:
        reached.append(("prlimit", pid))
assert reached
