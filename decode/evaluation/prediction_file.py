"""One system's rows on disk, in the questions' order from the first line on.

Rows end in any order, and several processes may each decode a share of them. A row that cannot be
written yet is kept in a second file, beside the first, until its turn has come. A killed run keeps
every finished row, and the first file is at any moment the beginning of the finished file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..jobs.files import FileChanged, append_row, read_rows
from ..jobs.folder import early_files
from ..jobs.processes import ALONE, Replica
from ..jobs.seals import Seals


class PredictionFile:
    """The finished rows of `ids`, found on disk and added to it.

    Args:
        replica: which share of the rows is this process's own; with several, no process writes
            the file itself: that is done by opening it once more as the only one.
        seals: of the file's rows.

    Attributes:
        rows: by id.

    Raises:
        FileChanged: a row on disk is not what was written there; names it.
    """

    def __init__(
        self,
        path: Path,
        ids: Sequence[str],
        replica: Replica = ALONE,
        seals: Seals = Seals(),  # noqa: B008  (frozen)
    ) -> None:
        self._path, self._ids, self._replica, self._seals = path, ids, replica, seals
        stem = path.name.removesuffix(".jsonl")
        self._early = path.with_name(f"{stem}.early{replica.rank}.jsonl")
        in_order = read_rows(path)
        check_rows(path, in_order, ids, seals)
        early: list[dict[str, Any]] = []
        for part in early_files(self._path):
            rows = read_rows(part, is_own=replica.is_alone or part == self._early)
            seals.check(part, rows)
            early += rows
        self.rows: dict[str, dict[str, Any]] = {row["id"]: row for row in [*in_order, *early]}
        self._num_written = len(in_order)
        self._write_what_is_due()

    @property
    def missing(self) -> list[int]:
        """Places of this process's questions that have no row yet."""
        places = self._replica.share(len(self._ids))
        return [place for place in places if self._ids[place] not in self.rows]

    def add(self, row: dict[str, Any]) -> None:
        """Keep a finished row; it is on its way to disk when this returns."""
        row = self._seals.put(row)
        self.rows[row["id"]] = row
        is_due = self._replica.is_alone and row["id"] == self._ids[self._num_written]
        if not is_due:
            append_row(self._early, row)
        self._write_what_is_due()

    def finish(self) -> list[dict[str, Any]]:
        """All rows, in order, when none is missing."""
        for part in early_files(self._path):
            part.unlink()
        return [self.rows[id_] for id_ in self._ids]

    def _write_what_is_due(self) -> None:
        while self._replica.is_alone and self._num_written < len(self._ids):
            row = self.rows.get(self._ids[self._num_written])
            if row is None:
                return
            append_row(self._path, row)
            self._num_written += 1


def check_rows(
    path: Path, rows: Sequence[dict[str, Any]], ids: Sequence[str], seals: Seals
) -> None:
    """Check that the rows of a file are the first of `ids`, in order, and as they were written.

    Raises:
        FileChanged: names the first row that is not.
    """
    seals.check(path, rows)
    known = set(ids)
    for number, row in enumerate(rows, start=1):
        id_ = row.get("id")
        if number > len(ids) and id_ not in known:
            break  # a file of more questions
        expected = f"'{ids[number - 1]}'" if number <= len(ids) else "no more rows"
        if number > len(ids) or id_ != ids[number - 1]:
            raise FileChanged(
                f"{path}, line {number}: found row '{id_}', expected {expected}; rows are missing, "
                f"moved or repeated: put the file back, or delete {path} to make it again"
            )
