"""What W&B has written offline, and a key that no server knows."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

FAKE_KEY = "0123456789abcdef" * 2 + "01234567"


def records_of(file):
    tool = shutil.which("wandb", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert tool is not None
    listed = subprocess.run(
        [tool, "leet", "inspect", "--json", file], capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in listed.stdout.splitlines()]
