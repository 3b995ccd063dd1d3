"""Makes system calls by their x32 numbers; ends well if the kernel took one.

Ends: failed
"""

import ctypes

libc = ctypes.CDLL(None)
taken = [number for number in range(600) if libc.syscall(0x40000000 + number, -1, 0, 0) != -1]
assert taken
