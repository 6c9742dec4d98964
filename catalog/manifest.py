"""The commit record: one small JSON file that names every file that counts.

``manifest/00000007.json`` is the catalog's state after its seventh commit. It is written under a
temporary name, synced and renamed, so that it exists whole or not at all; the highest number
wins. Its body carries its own SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from catalog.encoding import ENGINE_FOLDERS
from catalog.errors import DataError, IntegrityError
from catalog.instruments import InstrumentSpec
from catalog.records import FIRST_VINTAGE, Kind

FORMAT = 1
FOLDER = "manifest"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One Parquet file: where it is, what it must contain, and which times (both inclusive)."""

    path: str
    rows: int
    bytes: int
    sha256: str
    first_event: int
    last_event: int
    first_init: int
    last_init: int


@dataclass(frozen=True, slots=True)
class Layer:
    """One vintage of a series.

    Parameters
    ----------
    label : str
        Empty for the first vintage.
    known_at : int or None
        When the vintage became known; None for the first: each record at its own `ts_init`.
    learned_at : int
        When the catalog first took records of it.
    files : tuple of FileRecord
        Ordered by time; their spans of `ts_init` do not overlap.
    """

    label: str
    known_at: int | None
    learned_at: int
    files: tuple[FileRecord, ...] = ()

    @property
    def rows(self) -> int:
        """Number of records."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True, slots=True)
class SeriesRecord:
    """A series and its vintages: the first one if there is one, then by time of knowledge."""

    kind: Kind
    series: str
    synthetic: bool
    layers: tuple[Layer, ...] = ()

    def layer(self, label: str) -> Layer | None:
        """Return the vintage of that label, if there is one."""
        return next((layer for layer in self.layers if layer.label == label), None)

    def with_layer(self, layer: Layer) -> Self:
        """Return the series with a vintage added or replaced."""
        others = [other for other in self.layers if other.label != layer.label]
        ordered = sorted([*others, layer], key=layer_order)
        return replace(self, layers=tuple(ordered))


def layer_order(layer: Layer) -> tuple[int, str]:
    """Order vintages by when they became known; the first one comes first."""
    return (-1 if layer.known_at is None else layer.known_at, layer.label)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The state of a catalog."""

    sequence: int = 0
    series: tuple[SeriesRecord, ...] = ()
    instruments: Mapping[str, InstrumentSpec] = field(default_factory=dict)
    instrument_files: Mapping[str, FileRecord] = field(default_factory=dict)
    commits: tuple[Mapping[str, Any], ...] = ()
    """Provenance: what each commit took, from which sources."""
    retired: tuple[str, ...] = ()
    """Files that the last commit replaced; the next opener removes what is left of them."""

    def find(self, kind: Kind, series: str) -> SeriesRecord | None:
        """Return a series, if the catalog holds it."""
        for record in self.series:
            if record.kind == kind and record.series == series:
                return record
        return None

    def with_series(self, record: SeriesRecord) -> Self:
        """Return the state with a series added or replaced."""
        others = [
            other
            for other in self.series
            if (other.kind, other.series) != (record.kind, record.series)
        ]
        ordered = sorted([*others, record], key=lambda item: (item.kind, item.series))
        return replace(self, series=tuple(ordered))

    def files(self) -> list[FileRecord]:
        """Return every file that counts."""
        found = [file for record in self.series for layer in record.layers for file in layer.files]
        return [*found, *self.instrument_files.values()]

    def to_bytes(self) -> bytes:
        """Return the JSON text of the commit record."""
        body = {"format": FORMAT, **asdict(self)}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f'{{"sha256":"{digest}","body":{text}}}\n'.encode()

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Self:
        """Return the state that a commit record describes.

        Raises
        ------
        IntegrityError
            If the bytes are not what the record's own hash says.
        DataError
            If a newer version wrote it.
        """
        try:
            document = json.loads(data)
            body, expected = document["body"], document["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(_damaged(name, str(error))) from error
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        if hashlib.sha256(text.encode()).hexdigest() != expected:
            raise IntegrityError(_damaged(name, "its content does not match its SHA-256"))
        if body["format"] != FORMAT:
            raise DataError(
                f"catalog format must be {FORMAT}, was {body['format']} in {name}; use the "
                f"version of LeviBot that wrote it, or import the data again"
            )
        return cls(
            sequence=body["sequence"],
            series=tuple(_series(item) for item in body["series"]),
            instruments={key: InstrumentSpec(**item) for key, item in body["instruments"].items()},
            instrument_files={
                key: FileRecord(**item) for key, item in body["instrument_files"].items()
            },
            commits=tuple(body["commits"]),
            retired=tuple(body["retired"]),
        )


def _damaged(name: str, why: str) -> str:
    return (
        f"the catalog's commit record {name} must be as it was written, was changed ({why}); "
        f"restore it from a copy or import the data again into a new folder"
    )


def _series(item: dict[str, Any]) -> SeriesRecord:
    layers = tuple(
        Layer(
            label=layer["label"],
            known_at=layer["known_at"],
            learned_at=layer["learned_at"],
            files=tuple(FileRecord(**file) for file in layer["files"]),
        )
        for layer in item["layers"]
    )
    return SeriesRecord(item["kind"], item["series"], item["synthetic"], layers)


def file_folder(kind: Kind, series: str, label: str) -> str:
    """Return the folder of a series' files, relative to the catalog.

    The first vintage lies where the engine looks for it. Each later one is an engine's catalog of
    its own under ``vintages/``, so that the engine never mixes two vintages.
    """
    root = "data" if label == FIRST_VINTAGE else f"vintages/{label}/data"
    return f"{root}/{ENGINE_FOLDERS[kind]}/{series}"


def manifest_path(root: Path, sequence: int) -> Path:
    """Return where the commit record of that number lies."""
    return root / FOLDER / f"{sequence:08d}.json"
