"""What decoding cost and how speculation went: counts and seconds, from which rates follow."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(slots=True)
class DecodingStats:
    """Counts of some decoding; ratios are taken at the end.

    Attributes:
        accepted: how often n drafts of a row were accepted, by n, in rounds with drafts.
        num_drafted, num_tokens: tokens drafted; tokens emitted and kept.
        num_verifies: rows times rounds, each one read of the large model for that row.
        num_verified: tokens those gave; a prompt's reading gives one more.
        seconds: by stage (prefill, draft, verify, choose), device time on a GPU; wall_s: all of it.
    """

    accepted: Counter[int] = field(default_factory=Counter)
    num_drafted: int = 0
    num_tokens: int = 0
    num_verifies: int = 0
    num_verified: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    wall_s: float = 0.0
    _events: list[tuple[str, Any, Any]] = field(default_factory=list)

    def add_row(self, num_drafted: int, num_accepted: int, num_kept: int) -> None:
        """What a round gave one row."""
        if num_drafted:
            self.accepted[num_accepted] += 1
            self.num_drafted += num_drafted
        self.num_verified += num_kept
        self.num_verifies += 1

    @contextmanager
    def stage(self, name: str, device: torch.device) -> Iterator[None]:
        """Time a stage without making the host wait for a GPU."""
        if device.type != "cuda":
            start = time.perf_counter()
            yield
            self.seconds[name] += time.perf_counter() - start
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        self._events.append((name, begin, end))

    def settle(self) -> None:
        """Read the timings of a GPU that has nothing left to do."""
        for name, begin, end in self._events:
            self.seconds[name] += begin.elapsed_time(end) / 1000
        self._events.clear()

    def summary(self) -> dict[str, Any]:
        """Rates and counts by name; a rate is None where nothing was counted."""
        num_accepted = sum(count * times for count, times in self.accepted.items())
        num_verifies, most = self.num_verifies, max(self.accepted, default=-1)
        return {
            "num_tokens": self.num_tokens,
            "tokens_per_second": self.num_tokens / self.wall_s if self.wall_s else None,
            "tokens_per_verify": self.num_verified / num_verifies if num_verifies else None,
            "acceptance_rate": num_accepted / self.num_drafted if self.num_drafted else None,
            "accepted_drafts": [self.accepted[count] for count in range(most + 1)],
            "seconds": {name: round(seconds, 3) for name, seconds in self.seconds.items()},
        }
