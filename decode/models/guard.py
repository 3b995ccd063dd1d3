"""A watch over graphs, lanes and fused kernels: now and then a read is done again without them.

A fault there is silent: models that disturb each other give other tokens, not an error. A recording
that is wrong shows whenever it is replayed, and a disturbed cache in any later read of the row.
What an unchecked read does once to its logits alone shows nowhere.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine.request import Completion
from ..engine.row import Row
from .fast_path import beyond_rounding, fast_path
from .language_model import LanguageModel
from .steered import Steered

NUM_FIRST = 3  # reads that are checked at once
EVERY = 512  # reads, of which one is checked


class FastPathWrong(RuntimeError):
    """Reads with graphs and lanes, and the same reads without, have different logits."""


class Guarded:
    """A model whose reads are checked; in everything else it is that model.

    Attributes:
        num_unchecked: reads since the last one that was checked.
    """

    def __init__(self, model: LanguageModel | Steered) -> None:
        self._model = model
        models = model.models if isinstance(model, Steered) else [model]
        watched = [one.model.dtype for one in models if one.capture or one.lane.stream]
        self._is_needed = bool(watched)
        # that which rounds most; a base behind an endpoint has none
        self._dtype = next((one for one in watched if one != torch.float32), torch.float32)
        self._models = models
        self._num_reads = self.num_unchecked = self._num_recorded = 0
        self._last: tuple[Sequence[Row], list[int], Tensor, Tensor] | None = None
        self._is_new = False  # whether a forward of that read was recorded, so computed eagerly

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def read(self, rows: Sequence[Row], drafts: Tensor) -> Tensor:
        """See `engine.Steppable`. Raises FastPathWrong."""
        logits = self._model.read(rows, drafts)
        if not (self._is_needed and fast_path.is_on):
            return logits
        self._last = rows, [len(row.token_ids) for row in rows], drafts, logits
        num_recorded = sum(one.num_recorded for one in self._models)
        self._is_new = num_recorded > self._num_recorded
        self._num_recorded = num_recorded
        self._num_reads += 1
        self.num_unchecked += 1
        if self._num_reads <= NUM_FIRST or self._num_reads % EVERY == 0:
            self.check()
        return logits

    def prefill(self, rows: Sequence[Row], slots: Sequence[int]) -> Tensor:
        """See `engine.Steppable`."""
        self._last = None  # it may have been of rows in the same slots
        return self._model.prefill(rows, slots)

    def move(self, source: int, target: int) -> None:
        """See `engine.Steppable`."""
        self._last = None
        self._model.move(source, target)

    def checked(self, completions: Iterable[Completion]) -> Iterator[Completion]:
        """The completions of this model, each as soon as a read at its end or later was checked.

        Raises:
            FastPathWrong: those not yet given are to be made again.
        """
        held = []
        for completion in completions:
            held.append(completion)
            if not self.num_unchecked:
                yield from held
                held.clear()
        self.check()
        yield from held

    def check(self) -> None:
        """Compare the last read. Raises FastPathWrong."""
        if self._last is None:
            return
        rows, lengths, drafts, logits = self._last
        emitted = [row.token_ids for row in rows]
        for row, length in zip(rows, lengths, strict=True):
            row.token_ids = row.token_ids[:length]  # as they were read
        try:
            found = [logits, self._model.read(rows, drafts)] if self._is_new else [logits]
            with fast_path.off():
                expected = self._model.read(rows, drafts)
        finally:
            for row, ids in zip(rows, emitted, strict=True):
                row.token_ids = ids
        for logits in found:
            difference = beyond_rounding(logits, expected, self._dtype)
            if difference is not None:
                raise FastPathWrong(f"logits were off by {difference:.3g}")
        self.num_unchecked = 0
        self._last = None
