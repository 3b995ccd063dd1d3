"""What every benchmark writes: settings and hardware, then what was measured."""

import argparse
import json
from pathlib import Path
from typing import Any

from decode.jobs.environment import describe_environment


def record(arguments: argparse.Namespace, measured: dict[str, Any]) -> dict[str, Any]:
    """The whole report, also written to the file that `--json` names."""
    report = {"settings": vars(arguments), "hardware": describe_environment(), **measured}
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")
    return report


def where(report: dict[str, Any]) -> str:
    """The hardware in a few words."""
    hardware = report["hardware"]
    processor = ", ".join(hardware["gpus"]) or f"{hardware['processor']}, CPU"
    return f"{processor}, {hardware['num_threads']} thread(s)"
