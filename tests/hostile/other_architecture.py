"""Makes a system call of 32-bit programs, whose numbers mean other calls.

Ends: killed
"""

import ctypes
import mmap
import os
import signal

if os.uname().machine != "x86_64":  # no instruction there makes one
    os.kill(os.getpid(), signal.SIGSYS)
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\xb8\x14\0\0\0\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
