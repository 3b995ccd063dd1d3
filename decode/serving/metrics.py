"""Counts of a server in Prometheus's text format."""

from collections import Counter
from collections.abc import Iterable

from .loop import Loop

PREFIX = "proxytune"


class Counts:
    """What was asked of the server so far; changed on the event loop alone."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by system ("" is none) and status
        self.prompt_tokens: Counter[str] = Counter()  # by system
        self.completion_tokens: Counter[str] = Counter()


def metrics_text(counts: Counts, loop: Loop) -> str:
    """The body of `/metrics`."""
    engines = loop.engines
    families = [
        (
            "requests_total",
            "counter",
            "requests answered, by HTTP status (499: the client went away)",
            [
                (f'model="{name}",code="{code}"', number)
                for (name, code), number in sorted(counts.requests.items())
            ],
        ),
        (
            "prompt_tokens_total",
            "counter",
            "prompt tokens",
            _by_model(counts.prompt_tokens, engines),
        ),
        (
            "completion_tokens_total",
            "counter",
            "completion tokens sent",
            _by_model(counts.completion_tokens, engines),
        ),
        (
            "rows",
            "gauge",
            "completions under way or waiting",
            [(f'model="{name}"', loop.num_rows(name)) for name in engines],
        ),
        (
            "rows_stepped",
            "gauge",
            "completions stepped together at most",
            [(f'model="{name}"', engine.batch_size) for name, engine in engines.items()],
        ),
        (
            "decoding_seconds_total",
            "counter",
            "time spent in the engine's steps",
            [(f'model="{name}"', engine.stats.wall_s) for name, engine in engines.items()],
        ),
    ]
    return "".join(_family(*family) for family in families)


def _by_model(counter: Counter[str], names: Iterable[str]) -> list[tuple[str, float]]:
    return [(f'model="{name}"', counter[name]) for name in names]


def _family(name: str, kind: str, told: str, samples: list[tuple[str, float]]) -> str:
    name = f"{PREFIX}_{name}"
    lines = [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]
    lines += [f"{name}{{{labels}}} {value:.10g}" for labels, value in samples]
    return "\n".join(lines) + "\n"
