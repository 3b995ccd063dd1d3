"""Asks for sizes and times of files outside, and goes there; ends well if it could.

Landlock leaves names open that any user could ask for; contents and lists of names are shut.

Ends: failed (landlock: passed)
"""

import os

try:
    os.listdir("@CANARY@")
except OSError:
    pass
else:
    os._exit(1)
os.chdir("@CANARY@")
assert os.stat("file").st_size == len("precious")
