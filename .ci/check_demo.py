"""Whether a demo's metrics.json is whole and shows proxy-tuning at work; exits 1 if not."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> None:
    """Check the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("metrics", type=Path)
    parser.add_argument("--base-at-most", type=float, required=True)
    parser.add_argument("--gap-closed-at-least", type=float, required=True)
    arguments = parser.parse_args()
    metrics = json.loads(arguments.metrics.read_text())
    problems = list(_problems(metrics, arguments.base_at_most, arguments.gap_closed_at_least))
    sys.exit("\n".join(f"{arguments.metrics}: {problem}" for problem in problems) or None)


def _problems(
    metrics: dict[str, Any], base_at_most: float, gap_closed_at_least: float
) -> Iterator[str]:

    missing = {"task", "metric", "num_examples", "antiexpert", "expert", "bases"} - set(metrics)
    if missing:
        yield f"{', '.join(sorted(missing))} missing"
        return
    expert = metrics["expert"]["value"]
    if not metrics["bases"]:
        yield "no base was measured"
    for base in metrics["bases"]:
        name, base_value = base["model"], base["base"]["value"]
        proxy = next((system for system in base["proxy"] if system["alpha"] == 1.0), None)
        if proxy is None:
            yield f"{name}: alpha 1 was not measured"
            continue
        for system in (metrics["expert"], metrics["antiexpert"], base["base"], proxy):
            low, high = system["ci95"]
            if not 0 <= low <= system["value"] <= high <= 1:
                yield f"{name}: {system['value']} is not within its interval {low} to {high}"
        if base_value > base_at_most:
            yield f"{name}: base {base_value:.3f}, expected at most {base_at_most}"
        if proxy["value"] <= expert:
            yield f"{name}: proxy {proxy['value']:.3f} does not beat the expert {expert:.3f}"
        closed = proxy["gap_closed"]
        if closed is None or closed["value"] < gap_closed_at_least:
            yield f"{name}: gap closed {closed}, expected at least {gap_closed_at_least}"


if __name__ == "__main__":
    main()
