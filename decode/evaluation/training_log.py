"""The log of a training: what its trainer logged, entry by entry, in `training_log.json`."""

import json
from pathlib import Path
from typing import Any


def log_entries(model: Path) -> list[dict[str, Any]]:
    """The log in a trained model's folder; empty if it was trained elsewhere."""
    try:
        entries = json.loads((model / "training_log.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return []
    return entries


def training_facts(model: Path) -> dict[str, Any]:
    """Steps and losses of a finished training, as far as its log has them."""
    entries = log_entries(model)
    last = next((entry for entry in reversed(entries) if "train_loss" in entry), {})
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    facts = {"num_steps": last.get("step"), "train_loss": last.get("train_loss")}
    facts |= {"last_loss": losses[-1]} if losses else {}
    return {name: value for name, value in facts.items() if value is not None}
