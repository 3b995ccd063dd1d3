"""Leaves exits everywhere: at exit, in a hook, a signal handler, a collector, a forked child.

Ends: failed
"""

import atexit
import gc
import os
import signal
import sys

atexit.register(os._exit, 0)
sys.excepthook = sys.unraisablehook = lambda *details: os._exit(0)
signal.signal(signal.SIGALRM, lambda *details: os._exit(0))
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    if os.fork():
        os._exit(0)
except OSError:
    gc.callbacks.append(lambda *details: os._exit(0))
gc.collect()
raise AssertionError
