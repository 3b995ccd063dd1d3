"""Talks to a service through a socket in the file system and through an abstract one.

Ends: failed
"""

import socket

reached = 0
for address in ("@SOCKET@", "\0@ABSTRACT@", "/run/docker.sock", "/var/run/docker.sock"):
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
        reached += 1
    except OSError:
        pass
assert reached
