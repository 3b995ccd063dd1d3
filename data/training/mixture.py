"""Training rows of several sources: one after the other, or as an endless stream.

In memory the sources are concatenated in their order; the trainer shuffles. A weight says
how often a source's rows are there: 1 once, 2 twice, 0.5 half of them, drawn by the seed.

A stream is for sets larger than memory. It draws from its sources in proportion to their weights,
begins a source again when it ends, and is shuffled within a buffer. It is a function of its sources
and the seed: reading it again gives the same rows.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..rows import HubSource, Row, SourceError, read_rows, stream_rows
from ..task import TrainRow

MOST_ROWS = 100_000_000  # by their weight; they are all in memory
BUFFER_ROWS = 10_000  # of a stream, among which is shuffled
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """Where training rows come from, and how they are read.

    Attributes:
        name: what a report calls it.
        to_train: one data row to its training rows.
        limit: only the first so many data rows; None is all.
        weight: how often each row is there; of a stream, the source's share.
        key: the recipe's, which names the place.
    """

    name: str
    place: str | HubSource
    to_train: Callable[[Row], Iterable[TrainRow]]
    limit: int | None = None
    weight: float = 1.0
    key: str = "task.train"

    def read(self) -> list[TrainRow]:
        """Every row once. Raises ValueError, naming file, line and field."""
        try:
            rows = read_rows(self.place, self.limit)
        except SourceError as error:
            raise ValueError(f"{self.key}: {error}") from error
        return [kept for row in rows for kept in self.to_train(row)]

    def stream(self) -> Iterator[TrainRow]:
        """The same one by one."""
        try:
            for row in stream_rows(self.place, self.limit):
                yield from self.to_train(row)
        except SourceError as error:
            raise ValueError(f"{self.key}: {error}") from error


def weighted(rows: Sequence[T], weight: float, seed: int | str) -> list[T]:
    """The rows as often as `weight` says, in their order; a fraction is drawn by the seed.

    Raises:
        ValueError: that is more than MOST_ROWS.
    """
    if weight > 1 and weight * len(rows) > MOST_ROWS:
        raise ValueError(
            f"weight {weight:g} makes more than {MOST_ROWS:,} of {len(rows):,} rows; give a "
            "smaller weight, or a stream (task.streaming)"
        )
    times = math.floor(weight)
    num_more = round((weight - times) * len(rows))
    chosen = sorted(random.Random(f"{seed}").sample(range(len(rows)), num_more))
    return [*itertools.chain.from_iterable([rows] * times), *(rows[i] for i in chosen)]


def mixed_stream(
    streams: Sequence[Callable[[], Iterator[T]]],
    weights: Sequence[float],
    seed: int,
    buffer_rows: int = BUFFER_ROWS,
) -> Iterator[T]:
    """Rows without end, from all streams in proportion to the weights, shuffled.

    Raises:
        ValueError: a stream has no rows.
    """
    rng = random.Random(f"mixture-{seed}")
    rows = [_again_and_again(stream) for stream in streams]

    def drawn() -> Iterator[T]:
        while True:
            yield next(rng.choices(rows, weights)[0])

    # The same generator draws and shuffles: one seed, one order.
    source = drawn()
    buffer = list(itertools.islice(source, buffer_rows))
    for row in source:
        place = rng.randrange(len(buffer))
        buffer[place], kept = row, buffer[place]
        yield kept


def _again_and_again(stream: Callable[[], Iterator[T]]) -> Iterator[T]:
    while True:
        is_empty = True
        for row in stream():
            is_empty = False
            yield row
        if is_empty:
            raise ValueError("a source of the training stream has no rows left to train on")
