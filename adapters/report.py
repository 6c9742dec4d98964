"""What an import did, file by file, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Literal

from catalog.errors import DataError

type Status = Literal["took", "unchanged", "used", "skipped", "refused"]

STATUSES: tuple[Status, ...] = ("took", "unchanged", "used", "skipped", "refused")
"""took: records were added; unchanged: all were there already; used: a list that the others were
compared with; skipped: not something to import; refused: something is wrong with the file, and
nothing of it was stored."""


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """What became of one file.

    Parameters
    ----------
    file : str
        Its name, relative to what was imported.
    status : Status
        See `STATUSES`.
    importer : str
        Which importer read it; empty where none did.
    series : tuple of str
        The series that it belongs to.
    rows : int
        Records in the file.
    added : int
        Records that were new.
    restated : int
        Records that say something else than before; kept as a vintage.
    reason : str
        Why it was skipped or refused.
    notes : tuple of str
        What else to know: rows left out, assumptions made.
    """

    file: str
    status: Status
    importer: str = ""
    series: tuple[str, ...] = ()
    rows: int = 0
    added: int = 0
    restated: int = 0
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import took, skipped and refused.

    Parameters
    ----------
    files : tuple of FileOutcome
        In the order of import.
    seconds : float
        How long it took.
    """

    files: tuple[FileOutcome, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether no file was refused."""
        return not self.refused

    @property
    def refused(self) -> tuple[FileOutcome, ...]:
        """The files with which something is wrong."""
        return tuple(file for file in self.files if file.status == "refused")

    @property
    def exit_code(self) -> int:
        """The process's exit status: 0, or that of a `DataError` if a file was refused."""
        return 0 if self.ok else DataError.exit_code

    @property
    def added(self) -> int:
        """Records that were new."""
        return sum(file.added for file in self.files)

    def counts(self) -> dict[Status, int]:
        """Return how many files ended in each status."""
        counted = Counter(file.status for file in self.files)
        return {status: counted[status] for status in STATUSES}

    def to_json(self) -> str:
        """Return the report as JSON: `ok`, `seconds`, `added`, `counts` and `files`."""
        content = {
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "added": self.added,
            "counts": self.counts(),
            "files": [asdict(file) for file in self.files],
        }
        return json.dumps(content, indent=2, ensure_ascii=False)

    def __str__(self) -> str:
        """Return one aligned table, the reasons below the files that they belong to."""
        width = max((len(file.file) for file in self.files), default=4)
        lines = [f"{'file':<{width}}  {'result':<9}  {'records':>9}  {'new':>9}"]
        for file in self.files:
            lines.append(
                f"{file.file:<{width}}  {file.status:<9}  {file.rows:>9,}  {file.added:>9,}"
            )
            details = [file.reason] if file.reason else []
            if file.restated:
                details.append(f"{file.restated:,} records restated, kept as a vintage")
            lines.extend(f"    {detail}" for detail in (*details, *file.notes))
        counts = ", ".join(f"{count} {status}" for status, count in self.counts().items() if count)
        lines.append(f"{counts or 'no files'}; {self.added:,} new records in {self.seconds:.1f} s")
        return "\n".join(lines)
