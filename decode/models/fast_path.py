"""Whether graphs and lanes are used. They change the speed and nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager


class FastPath:
    """One switch for the process: off, models compute eagerly, one after another."""

    is_on = True

    @contextmanager
    def off(self) -> Iterator[None]:
        """Turn it off for a while."""
        before, self.is_on = self.is_on, False
        try:
            yield
        finally:
            self.is_on = before


fast_path = FastPath()
