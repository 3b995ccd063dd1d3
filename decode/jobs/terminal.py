"""What a person sees of a job while it runs: its progress, and log lines above it.

On a terminal a stage is one line that moves, with the time that is left. In a file it is a line
when it starts, and more only if it takes long. Only the main process shows its progress; there are
no colours. Libraries keep their warnings and errors, and lose their bars.
"""

import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

T = TypeVar("T")

SHORT_S = 10.0  # a log gets no second line of what takes less, nor two lines within it
LONG_S = 600.0  # nor is it without one for so long
NUM_PARTS = 10  # a line a tenth otherwise
MOVING = "{desc}: {n_fmt}/{total_fmt} {unit} |{bar}| {remaining} left{postfix}"
ENDED = "{desc}: {n_fmt}/{total_fmt} {unit} in {elapsed}{postfix}"
ROOM = 44  # columns for all of it but the description
NO_GPU = "Setting accelerator to CPU"  # DeepSpeed's, on every import without one


def is_main_process() -> bool:
    """Whether this process is the first of its job (rank zero), which alone speaks."""
    return os.environ.get("RANK", "0") == "0"


def has_terminal() -> bool:
    """Whether standard error is a terminal on which a line can move."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class Progress:
    """The progress of one stage; closed at the end of a `with` block.

    Args:
        doing: what the stage does, in a few words.
        total: how many units that takes.
        unit: what is counted, in the plural.
        num_done: how many were done before.
        is_part: of a stage that is shown already, and leaves no line of its own.
    """

    def __init__(
        self, doing: str, total: int, unit: str = "rows", num_done: int = 0, is_part: bool = False
    ) -> None:
        self._doing, self._total, self._unit, self._is_part = doing, total, unit, is_part
        self._num_before = self._num_done = self._num_said = num_done
        self._start_s = self._said_s = time.monotonic()
        self._details = ""
        self._bar: tqdm | None = None
        self._is_open = is_main_process()
        if self._is_open and has_terminal():
            size = shutil.get_terminal_size()  # never 0 by 0, as some terminals are to tqdm
            self._bar = tqdm(
                desc=_fitted(doing, size.columns - ROOM),
                total=total,
                unit=unit,
                initial=num_done,
                leave=not is_part,
                bar_format=MOVING,
                ncols=size.columns - 1,
                nrows=size.lines,
            )
        elif self._is_open and not is_part:
            kept = f", {num_done:,} of them done before" if num_done else ""
            logger.info("%s: %s %s%s", doing, f"{total:,}", unit, kept)

    def add(self, num: int = 1) -> None:
        """Counts what was done."""
        self._num_done += num
        if self._bar is not None:
            self._bar.update(num)
        elif self._is_open and self._is_due():
            self._say(f", {self._left()} left")

    def tell(self, details: str) -> None:
        """Shows what else is known of the stage now, such as its loss."""
        self._details = details
        if self._bar is not None:
            self._bar.set_postfix_str(details, refresh=False)

    def follow(self, items: Iterable[T]) -> Iterator[T]:
        """The items, each counted when the next is asked for."""
        with self:
            for item in items:
                yield item
                self.add()

    def close(self) -> None:
        """Leaves the line as it is at the end."""
        if self._bar is not None:
            self._bar.bar_format = ENDED
            self._bar.close()
        elif self._is_open and not self._is_part:
            elapsed_s = time.monotonic() - self._start_s
            if self._details or elapsed_s >= SHORT_S:
                self._say(f" in {tqdm.format_interval(elapsed_s)}")
        self._is_open, self._bar = False, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_due(self) -> bool:
        since_s = time.monotonic() - self._said_s
        is_part_done = self._num_done - self._num_said >= self._total / NUM_PARTS
        is_last = self._num_done >= self._total  # which `close` tells
        return not is_last and (since_s >= LONG_S or (since_s >= SHORT_S and is_part_done))

    def _left(self) -> str:
        per_unit_s = (time.monotonic() - self._start_s) / (self._num_done - self._num_before)
        return tqdm.format_interval((self._total - self._num_done) * per_unit_s)

    def _say(self, when: str) -> None:
        counted = f"{self._num_done:,}/{self._total:,} {self._unit}"
        details = f", {self._details}" if self._details else ""
        logger.info("%s: %s%s%s", self._doing, counted, when, details)
        self._said_s, self._num_said = time.monotonic(), self._num_done


class AboveProgress(logging.StreamHandler):
    """Writes log lines to standard error, above a line that moves."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def quiet_libraries() -> None:
    """Take from the libraries what a user of a recipe cannot act on; other warnings stay.

    Bars of Hugging Face's libraries are shown on a terminal if they take long, as a download does,
    and leave no line.
    """
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("DeepSpeed").addFilter(lambda record: NO_GPU not in record.getMessage())
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    if is_main_process() and has_terminal():
        transformers_logging.set_tqdm_hook(_only_if_long)
    else:
        transformers_logging.disable_progress_bar()
        disable_progress_bars()


def _only_if_long(bar: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return bar(*given, **{**named, "leave": False, "delay": 2.0})


def _fitted(text: str, width: int) -> str:
    """The text with its middle left out if it is wider."""
    if len(text) <= width:
        return text
    return f"{text[: width // 3]}...{text[len(text) - max(1, width - width // 3 - 3) :]}"
