"""Imports the checker; ends well if it could.

Ends: failed
"""

import importlib
import sys

sys.path += ["/", "@REPOSITORY@", "@REPOSITORY@/data"]
imported = []
for name in ("data.sandbox", "sandbox", "sandbox.worker", "decode.evaluation.intervals"):
    try:
        imported.append(importlib.import_module(name))
    except ImportError:
        pass
assert imported
