"""Takes what the machine or a user has a fixed number of; ends well if it got any.

Ends: failed
"""

import ctypes
import os

libc = ctypes.CDLL(None)
room = ctypes.create_string_buffer(128)
column = 1 if os.uname().machine == "aarch64" else 0
file = os.open("file", os.O_RDONLY | os.O_CREAT)
taken = []
for name, numbers, *arguments in (
    ("io_setup", (206, 0), 64, room),
    ("io_uring_setup", (425, 425), 1, room),
    ("inotify_init1", (294, 26), 0),
    ("fanotify_init", (300, 262), 0x200, 0),
    ("add_key", (248, 217), b"user", b"name", b"value", 5, -3),
    ("keyctl", (250, 219), 0, -3, 1),
    ("shmget", (29, 194), 0, 4096, 0o1600),
    ("semget", (64, 190), 0, 1, 0o1600),
    ("msgget", (68, 186), 0, 0o1600),
    ("mq_open", (240, 180), b"queue", 0o102, 0o600, None),
    ("timer_create", (222, 107), 0, None, room),
    ("timerfd_create", (283, 85), 0, 0),
    ("perf_event_open", (298, 241), room, 0, -1, -1, 0),
    ("bpf", (321, 280), 0, room, 128),
    ("userfaultfd", (323, 282), 1),
    ("landlock_create_ruleset", (444, 444), None, 0, 1),
    ("sync", (162, 81)),
    ("fcntl F_NOTIFY", (72, 25), os.open(".", os.O_RDONLY), 1026, 2),
    ("fcntl F_SETLEASE", (72, 25), file, 1024, 0),
    ("fcntl F_SETPIPE_SZ", (72, 25), os.pipe()[1], 1031, 1 << 20),
):
    if libc.syscall(numbers[column], *arguments) != -1:
        taken.append(name)
assert taken, "none to be had"
