"""Takes memory and disk that limits do not count: secret, locked, huge, past a file's end.

Ends: failed
"""

import ctypes
import os

libc = ctypes.CDLL(None)
libc.syscall.restype = ctypes.c_long
column = 1 if os.uname().machine == "aarch64" else 0
file = os.open("file", os.O_RDWR | os.O_CREAT)
room = ctypes.create_string_buffer(4096)
size, nothing = ctypes.c_long(1 << 34), ctypes.c_long(0)
taken = []
for name, numbers, *arguments in (
    ("memfd_create", (319, 279), b"hoard", 0),
    ("memfd_secret", (447, 447), 0),
    ("mlock2", (325, 284), room, 4096, 0),
    ("mlockall", (151, 230), 1),
    ("fallocate", (285, 47), file, 1, nothing, size),
    ("setxattr", (188, 5), b"file", b"user.hoard", room, 1000, 0),
    ("mmap MAP_LOCKED", (9, 222), None, 1 << 21, 3, 0x2022, -1, nothing),
    ("mmap MAP_HUGETLB", (9, 222), None, 1 << 21, 3, 0x40022, -1, nothing),
):
    if libc.syscall(numbers[column], *arguments) != -1:
        taken.append(name)
assert taken, "none to be had"
