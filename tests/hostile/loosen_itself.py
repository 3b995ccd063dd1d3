"""Undoes what binds it to its parent, and hands its memory to others; ends well if it could.

Ends: failed
"""

import ctypes

libc = ctypes.CDLL(None)
done = []
for name, option, value in (
    ("PR_SET_PDEATHSIG", 1, 0),
    ("PR_SET_DUMPABLE", 4, 1),
    ("PR_SET_KEEPCAPS", 8, 1),
    ("PR_SET_CHILD_SUBREAPER", 36, 1),
    ("PR_SET_PTRACER", 0x59616D61, -1),
    ("PR_SET_SECUREBITS", 28, 0),
    ("PR_MCE_KILL", 33, 0),
):
    if libc.prctl(option, value, 0, 0, 0) == 0:
        done.append(name)
assert done
