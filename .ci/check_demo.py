"""Whether a demo's metrics.json has the figures of the README's table, within one point.

    python .ci/check_demo.py runs/mini-facts/metrics.json

Another processor may round a near-tie between two tokens the other way, which moves a system by a
row or two of 400, and may let the validation rows choose a neighbour of alpha 1, which is then one
more system. A change that moves a figure for good changes TABLE and the README alike.
Exits 1 with one line for each figure that is off.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The demo's table: percent exact match, and percent of the gap closed.
TABLE = {
    "anti-expert": (0.0, None),
    "expert": (42.25, None),
    "base": (0.0, None),
    "proxy, alpha 1": (94.5, 94.5),
    "tuned directly": (100.0, None),
}
NUM_ROWS = 400
TOLERANCE = 1.0  # points


def main() -> None:
    """Check the file named on the command line."""
    (path,) = sys.argv[1:]
    problems = list(differences(json.loads(Path(path).read_text("utf-8"))))
    sys.exit("\n".join(f"{path}: {problem}" for problem in problems) or None)


def differences(metrics: dict[str, Any]) -> Iterator[str]:
    """The figures of the table that `metrics` has not, within TOLERANCE, one line each."""
    if metrics["num_examples"] != NUM_ROWS:
        yield f"{metrics['num_examples']} rows, expected {NUM_ROWS}"
    found = table(metrics)
    if missing := [system for system in TABLE if system not in found]:
        yield f"no {', '.join(missing)} among the systems {', '.join(found)}"
        return
    for system, expected in TABLE.items():
        names = ("exact match", "gap closed")
        for name, value, figure in zip(names, found[system], expected, strict=True):
            if (value is None) != (figure is None):
                yield f"{system}: {name} {value}, expected {figure}"
            elif value is not None and figure is not None and abs(value - figure) > TOLERANCE:
                yield f"{system}: {name} {value:.2f}, expected {figure} within {TOLERANCE} point"


def table(metrics: dict[str, Any]) -> dict[str, tuple[float, float | None]]:
    """Percent exact match and percent of the gap closed of every system that was measured."""
    (entry,) = metrics["bases"]
    systems = {"anti-expert": metrics["antiexpert"], "expert": metrics["expert"]}
    systems["base"] = entry["base"]
    formula = [proxy for proxy in entry["proxy"] if not proxy.get("rule")]
    systems |= {f"proxy, alpha {proxy['alpha']:g}": proxy for proxy in formula}
    systems["tuned directly"] = entry["tuned"]
    return {
        name: (
            100 * system["value"],
            (closed := system.get("gap_closed")) and 100 * closed["value"],
        )
        for name, system in systems.items()
    }


if __name__ == "__main__":
    main()
