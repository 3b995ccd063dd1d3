"""Sets clocks, names, personality, modules and the like; ends well if a call was open to it.

Ends: failed
"""

import ctypes
import os

libc = ctypes.CDLL(None)
libc.syscall.restype = ctypes.c_long
column = 1 if os.uname().machine == "aarch64" else 0
room = ctypes.create_string_buffer(512)
done = []
for name, numbers, *arguments in (
    ("personality", (135, 92), 0xFFFFFFFF),
    ("adjtimex", (159, 171), room),
    ("clock_adjtime", (305, 266), 0, room),
    ("clock_settime", (227, 112), 0, room),
    ("sethostname", (170, 161), b"mine", 4),
    ("syslog", (103, 116), 10, None, 0),
    ("acct", (163, 89), None),
    ("vhangup", (153, 58)),
    ("kexec_load", (246, 104), 0, 0, None, 0),
    ("delete_module", (176, 106), b"none", 0),
    ("chroot", (161, 51), b"."),
    ("unshare", (272, 97), 0),
    ("seccomp", (317, 277), 2, 0, room),
    ("capget", (125, 90), room, room),
    ("name_to_handle_at", (303, 264), -100, b"/usr", room, room, 0),
    ("mknod a disk", (133, 33), b"disk", 0o60600, 0x800)
    if not column
    else ("mknodat a disk", (259, 33), -100, b"disk", 0o60600, 0x800),
):
    if libc.syscall(numbers[column], *arguments) != -1:
        done.append(name)
assert done
