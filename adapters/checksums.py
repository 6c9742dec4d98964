"""`SHA256SUMS`: what the files of a folder must be, as `sha256sum` writes it.

A folder that brings such a list is compared with it before anything is imported: a download that
was cut short, or changed since, may be a perfectly readable table.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from adapters.report import FileOutcome
from catalog.errors import DataError

NAME = "SHA256SUMS"
_LINE = re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>.+)")


class Checksums(NamedTuple):
    """The lists below a folder.

    Parameters
    ----------
    expected : mapping of str to set of str
        The SHA-256 that a file may have by its name relative to the imported folder, hex digits;
        more than one only where several lists name it.
    outcomes : mapping of str to FileOutcome
        What became of each list, by its own name.
    """

    expected: Mapping[str, frozenset[str]]
    outcomes: Mapping[str, FileOutcome]


def collect(files: Sequence[tuple[Path, str]]) -> Checksums:
    """Read the lists among some files.

    Parameters
    ----------
    files : sequence of (Path, str)
        Files and their names relative to the imported folder.
    """
    expected: dict[str, frozenset[str]] = {}
    outcomes: dict[str, FileOutcome] = {}
    names = {name for _, name in files}
    for path, name in files:
        if path.name != NAME:
            continue
        try:
            listed = _read(path, name)
        except DataError as error:
            outcomes[name] = FileOutcome(name, "refused", "checksums", reason=str(error))
            continue
        for file, digest in listed.items():
            expected[file] = expected.get(file, frozenset()) | {digest}
        absent = sorted(file for file in listed if file not in names)
        notes = [f"{len(listed) - len(absent)} files compared with it"]
        if absent:
            more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
            notes.append(f"listed but not there: {', '.join(absent[:3])}{more}")
        outcomes[name] = FileOutcome(name, "used", "checksums", notes=tuple(notes))
    return Checksums(expected, outcomes)


def difference(path: Path, name: str, checksums: Checksums) -> str:
    """Return why a file is not what a list says, or nothing."""
    allowed = checksums.expected.get(name)
    if allowed is None:
        return ""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""  # whoever reads it says why it cannot be read
    if allowed == {digest}:
        return ""
    listed = ", ".join(f"{one[:16]}…" for one in sorted(allowed))
    return (
        f"{name}: differs from {NAME}: its SHA-256 must be {listed}, was {digest[:16]}…; download "
        f"it again, or put the list right if the file was changed on purpose"
    )


def _read(path: Path, name: str) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: must be a readable list of checksums, was not: {error}") from None
    folder = PurePosixPath(name).parent
    found = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise DataError(
                f"{name}, line {number}: must be 64 hex digits, two spaces and a file's name, was "
                f"{line[:80]!r}; write it with sha256sum"
            )
        file = (folder / match["name"]).as_posix()
        found[file] = match["digest"].lower()
    return found
