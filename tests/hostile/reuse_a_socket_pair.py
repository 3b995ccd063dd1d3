"""Turns a pair of sockets, which it may have, to other addresses; ends well if it could.

Ends: failed
"""

import socket

reached = []
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    for address in ("@SOCKET@", "@DATAGRAMS@", "\0@ABSTRACT@", "\0sandbox-new"):
        for method in ("connect", "bind", "sendto", "sendmsg", "listen"):
            try:
                end, _ = socket.socketpair(socket.AF_UNIX, kind)
                arguments = {
                    "sendto": (b"hello", address),
                    "sendmsg": ([b"hello"], [], 0, address),
                    "listen": (),
                }
                getattr(end, method)(*arguments.get(method, (address,)))
                reached.append((kind, address, method))
            except OSError:
                pass
assert reached
