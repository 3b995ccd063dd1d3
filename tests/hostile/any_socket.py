"""Opens sockets of every family and kind, and pairs of them; ends well if it got one.

Ends: failed
"""

import socket

opened = []
for family in range(64):
    for kind in (1, 2, 3, 4, 5, 10):
        try:
            socket.socket(family, kind)
            opened.append((family, kind))
        except OSError:
            pass
        try:
            socket.socketpair(family, kind)
            if (family, kind) != (socket.AF_UNIX, socket.SOCK_STREAM):  # event loops need these
                opened.append(("pair", family, kind))
        except OSError:
            pass
assert opened
