"""A file to import, looked at before it is read: what it is by its bytes, columns and values.

Names decide nothing that content can: a name is asked only for what no candle file says inside,
its symbol.
"""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
from numpy.typing import NDArray

from catalog.errors import DataError

type Format = Literal["feather", "parquet", "csv", "unreadable", "other"]
type Text = tuple[str, ...]

HEAD_BYTES = 65_536
"""How much of a text file is looked at to tell what it is."""

_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"ARROW1", "feather"),
    (b"PAR1", "parquet"),
)
_DAMAGE = (
    OSError,
    EOFError,
    pa.ArrowException,
    ValueError,  # names that are not UTF-8
    RuntimeError,  # a zip that is encrypted or packed in an unknown way
    zipfile.BadZipFile,
    zlib.error,
)
"""What the readers raise for bytes that are not what they should be."""
_DELIMITERS = (",", ";", "\t", "|")
_DATA_SUFFIXES = frozenset({".csv", ".feather", ".parquet", ".zip", ".gz"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as far as it must be known to choose its importer.

    Parameters
    ----------
    path : Path
        Where it lies.
    name : str
        How it is called in messages and in the catalog: relative to the imported folder.
    format : Format
        By content: ``csv`` is any delimited text (plain, gzip or the only member of a zip).
    stem : str
        The name without folders and endings; inside a zip, the member's.
    columns : tuple of str
        Column names of a table file, or the fields of a text file's first line.
    first_rows : tuple of tuple of str
        The first lines of a text file after `columns`, split; empty for table files.
    delimiter : str
        What separates the fields of a text file.
    problem : str
        Why the file cannot be read, when `format` is ``unreadable``.
    """

    path: Path
    name: str
    format: Format
    stem: str
    columns: Text = ()
    first_rows: tuple[Text, ...] = ()
    delimiter: str = ","
    problem: str = ""

    @property
    def folders(self) -> Text:
        """The folders that the file lies in, lower case, outermost first."""
        return tuple(part.lower() for part in self.path.parts[:-1])

    def has(self, *names: str) -> bool:
        """Return whether all of `names` are columns of the file."""
        return set(names) <= set(self.columns)


@dataclass(frozen=True, slots=True)
class TextTable:
    """A delimited text file, split and still text, with the line of each row.

    Parameters
    ----------
    source : str
        Name of the file for messages.
    columns : dict of str to Arrow array of texts
        The fields by column name, each ``(n_rows,)``.
    lines : (n_rows,) int64 array
        Line of the file on which each row begins (1 is the first line).
    """

    source: str
    columns: dict[str, pa.Array]
    lines: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, name: str) -> Text:
        """Return a column as strings; numbers are better read from `columns`."""
        return tuple(self.columns[name].to_pylist())


def open_source(path: Path, name: str | None = None) -> SourceFile:
    """Look at a file and tell what it is, without reading it all.

    Never raises for a bad file: one that cannot be read has the format ``unreadable``, and one
    that is no table at all has the format ``other``.
    """
    name = name or path.name
    try:
        return _look(path, name)
    except _DAMAGE as error:
        return SourceFile(path, name, "unreadable", _stem(path.name), problem=_plain(error))


def read_table(source: SourceFile) -> pa.Table:
    """Read a feather or Parquet file.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    try:
        if source.format == "feather":
            return pa.feather.read_table(source.path, memory_map=False)
        return pa.parquet.read_table(source.path)
    except _DAMAGE as error:
        raise DataError(
            f"{source.name}: must be a whole {source.format} file, was damaged or cut short "
            f"({_plain(error)}); download or write it again"
        ) from error


def read_text(source: SourceFile, header: Sequence[str] | None = None) -> TextTable:
    """Read a delimited text file into columns of text, remembering lines.

    Parameters
    ----------
    source : SourceFile
        A file whose format is ``csv``.
    header : sequence of str or None
        The column names of a file that has no header line; None takes them from its first line.

    Raises
    ------
    DataError
        If the file is damaged, is not UTF-8, or a line has too few or too many fields.
    """
    text = _whole_text(source)
    first_line, _, rest = text.partition("\n")
    names = tuple(header) if header is not None else _clean(_fields(first_line, source.delimiter))
    if len(set(names)) != len(names):
        raise DataError(f"{source.name}: column names must differ, were {', '.join(names)}")
    body, first = (text, 1) if header is not None else (rest, 2)
    plain = _read_plain(body, names, source.delimiter)
    if plain is not None:
        lines = np.arange(first, first + len(plain), dtype=np.int64)
        arrays = [column.combine_chunks() for column in plain.columns]
        return TextTable(source.name, dict(zip(names, arrays, strict=True)), lines)
    return _read_by_line(source, body, names, first)


def _read_plain(body: str, names: Text, delimiter: str) -> pa.Table | None:
    """Read rows without quotes, gaps and faults at full speed; None for any others."""
    if not body or '"' in body or "\r" in body.replace("\r\n", ""):
        return None
    try:
        return pa.csv.read_csv(
            pa.BufferReader(body.encode()),
            pa.csv.ReadOptions(column_names=list(names)),
            pa.csv.ParseOptions(delimiter=delimiter, quote_char=False, ignore_empty_lines=False),
            pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except pa.ArrowInvalid:
        return None  # the slow way finds the line


def _read_by_line(source: SourceFile, body: str, names: Text, first: int) -> TextTable:
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=source.delimiter)
    rows: list[list[str]] = []
    lines: list[int] = []
    line = first
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(line)
            line = reader.line_num + first
    except csv.Error as error:
        raise DataError(
            f"{source.name}, line {line}: must be delimited text, was not: {error}"
        ) from error
    _refuse_ragged(source.name, rows, lines, len(names))
    fields = zip(*rows, strict=True) if rows else ((),) * len(names)
    columns = {
        name: pa.array(column, pa.string()) for name, column in zip(names, fields, strict=True)
    }
    return TextTable(source.name, columns, np.asarray(lines, dtype=np.int64))


def _fields(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line.rstrip("\r")], delimiter=delimiter), [])


def _look(path: Path, name: str) -> SourceFile:
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"FEA1"):
        problem = "feather version 1, which is no longer read; write it again as version 2"
        return SourceFile(path, name, "unreadable", _stem(path.name), problem=problem)
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            columns = tuple(_schema(path, kind).names)
            return SourceFile(path, name, kind, _stem(path.name), columns=columns)
    member = path.name
    if start.startswith(b"PK"):
        members = _members(path)
        if len(members) != 1:
            return SourceFile(path, name, "other", _stem(path.name))
        member = PurePosixPath(members[0]).name
    return _look_at_text(path, name, member)


def _schema(path: Path, kind: Format) -> pa.Schema:
    if kind == "parquet":
        return pa.parquet.read_schema(path)
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).schema


def _look_at_text(path: Path, name: str, member: str) -> SourceFile:
    head = _read_bytes(path, HEAD_BYTES)
    stem = _stem(member)
    if b"\0" in head or PurePosixPath(member.removesuffix(".gz")).suffix not in {".csv", ".txt"}:
        return SourceFile(path, name, "other", stem)
    text = head.decode("utf-8-sig", errors="replace")
    delimiter = _delimiter(text)
    whole_lines = list(io.StringIO(text, newline=""))
    if len(head) == HEAD_BYTES:
        whole_lines = whole_lines[:-1]
    try:
        rows = [
            tuple(row) for row in islice(csv.reader(whole_lines, delimiter=delimiter), 50) if row
        ]
    except csv.Error:
        return SourceFile(path, name, "other", stem)
    if not rows:
        return SourceFile(path, name, "unreadable", stem, problem="the file is empty")
    return SourceFile(path, name, "csv", stem, _clean(rows[0]), tuple(rows[1:]), delimiter)


def _delimiter(text: str) -> str:
    """Choose what separates the fields: the candidate seen most often in the first line."""
    first_line = text.partition("\n")[0]
    return max(_DELIMITERS, key=first_line.count)


def _members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [member for member in archive.namelist() if not member.endswith("/")]


def _read_bytes(path: Path, limit: int = -1) -> bytes:
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK":
        with zipfile.ZipFile(path) as archive, archive.open(_members(path)[0]) as inner:
            return inner.read(limit)
    if start == b"\x1f\x8b":
        with gzip.open(path) as inner:
            return inner.read(limit)
    with path.open("rb") as file:
        return file.read(limit)


def _whole_text(source: SourceFile) -> str:
    try:
        data = _read_bytes(source.path)
    except _DAMAGE as error:
        raise DataError(
            f"{source.name}: must be a whole file, was damaged or cut short ({_plain(error)}); "
            "download or write it again"
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{source.name}, line {line}: text must be UTF-8, was the byte "
            f"0x{data[error.start]:02x}; convert the file"
        ) from error


def _refuse_ragged(name: str, rows: list[list[str]], lines: list[int], width: int) -> None:
    for row, line in zip(rows, lines, strict=True):
        if len(row) != width:
            raise DataError(
                f"{name}, line {line}: must have {width} fields, had {len(row)}; "
                "the file is damaged, cut short or not what its first line says"
            )


def _clean(names: Sequence[str]) -> Text:
    return tuple(name.strip() for name in names)


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    while path.suffix.lower() in _DATA_SUFFIXES:
        path = PurePosixPath(path.stem)
    return path.name


def _plain(error: BaseException) -> str:
    """Return an error's first line, without the paths of this machine."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
