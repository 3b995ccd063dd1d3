"""Seals: what binds a row on disk to its file, to the settings it was made with and to its content.

    seal = digest(key of the file, row)        key = digest(the file's place, its settings)

A row that was edited, or copied from the file of another system or of other settings, has another
seal. It is written with the row, in one write, so a killed run keeps every row that fits.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import FileChanged, json_digest

SEAL = "seal"
SEALED = {"rows": "sealed"}  # among the settings of a file all of whose rows have a seal
DECODING_SEALED = {"decoding": "sealed"}  # of rows whose decoding's statistics have one

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seals:
    """The seals of one file.

    Attributes:
        key: None if it has no settings on record; rows are not sealed then.
        is_needed: every row has a seal; rows of earlier versions have none.
    """

    key: str | None = None
    is_needed: bool = False

    def put(self, row: Row) -> Row:
        """The row with its seal, an earlier one replaced."""
        found = bare(row)
        return found if self.key is None else {**found, SEAL: json_digest([self.key, found])}

    def fits(self, row: Row) -> bool:
        """Whether the row is as it was written, for this file and its settings."""
        if SEAL not in row:
            return not self.is_needed
        return self.key is not None and row[SEAL] == json_digest([self.key, bare(row)])

    def check(self, path: Path, rows: Iterable[Row]) -> None:
        """Raises FileChanged if a row does not fit; names the first."""
        for number, row in enumerate(rows, start=1):
            if not self.fits(row):
                raise FileChanged(
                    f"{path}, line {number}: row '{row.get('id')}' is not what was written here "
                    "with the recorded settings (edited, or from another file); put the file back, "
                    f"or delete {path} to make it again"
                )


def bare(row: Row) -> Row:
    """The row without its seal."""
    return {name: value for name, value in row.items() if name != SEAL}
