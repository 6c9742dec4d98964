"""Reading records of one state of the catalog, and moving to the next when files are replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from catalog.arrays import span_slice
from catalog.checks import joined, take
from catalog.encoding import Records, decode
from catalog.errors import DataError, IntegrityError
from catalog.manifest import FileRecord, Layer, Manifest, SeriesRecord, file_folder
from catalog.records import Kind
from catalog.timestamps import format_time
from catalog.transactions import newest, read_file
from catalog.vintages import FIRST, LATEST, Choice, Layers, Restatement, resolve, restatements

_RETRIES = 100
PLAIN = Choice()
"""The first vintage, at any time."""


@dataclass(frozen=True, slots=True)
class Query:
    """One read.

    Parameters
    ----------
    kind, series
        What to read; see `catalog.records.Batch`.
    start, end : int or None
        ``start < ts_init <= end``, UTC nanoseconds; None leaves a side open.
    choice : Choice
        Which vintage.
    metric : str or None
        Only this metric; on-chain series only.
    """

    kind: Kind
    series: str
    start: int | None = None
    end: int | None = None
    choice: Choice = PLAIN
    metric: str | None = None


class Reader:
    """Reads one state of a catalog; `refresh` moves to the newest."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    def refresh(self) -> None:
        """Look at the newest commit.

        Raises
        ------
        IntegrityError
            If there is none any more.
        """
        manifest = newest(self.root)
        if manifest is None and not self.manifest.commits:
            return  # a new catalog, of which nothing is written yet
        if manifest is None:
            raise IntegrityError(f"the catalog {self.root} has lost its commit record")
        self.manifest = manifest

    def records(self, query: Query) -> Records:
        """Return the columns asked for, sorted by `ts_init`.

        Raises
        ------
        DataError
            If the series, the vintage or the span holds nothing.
        IntegrityError
            If a file is missing or its bytes have changed.
        """
        return self._retried(lambda: self._records(query, self._layers(query)))

    def records_and_changes(self, query: Query) -> tuple[Records, tuple[Restatement, ...]]:
        """Return the columns asked for, and what later vintages changed of the series."""

        def read() -> tuple[Records, tuple[Restatement, ...]]:
            layers = self._layers(query)
            changes = restatements(query.kind, query.series, layers, query.choice)
            return self._records(query, layers), tuple(changes)

        return self._retried(read)

    def changes(self, query: Query) -> list[Restatement]:
        """Return what later vintages changed of a series."""

        def read() -> list[Restatement]:
            if len(self.series(query.kind, query.series).layers) < 2:
                return []
            return restatements(query.kind, query.series, self._layers(query), query.choice)

        return self._retried(read)

    def series(self, kind: Kind, series: str) -> SeriesRecord:
        """Return what the commit record says of a series."""
        record = self.manifest.find(kind, series)
        if record is None:
            held = [other.series for other in self.manifest.series if other.kind == kind]
            raise DataError(
                f"{kind} must be in the catalog {self.root}, was {series}; it holds "
                f"{', '.join(held) or f'no {kind} at all'}. Import it with `levibot data import` "
                f"or `levibot data fetch`"
            )
        return record

    def metrics(self, series: str) -> list[str]:
        """Return the metrics of an on-chain series, over all its vintages."""
        layers = self._retried(lambda: self._layers(Query("onchain", series)))
        return sorted({name for _, rows in layers for name in rows["metric"].tolist()})

    def file(self, kind: Kind, file: FileRecord) -> Records:
        """Return one file's records, checked against its hash.

        Raises
        ------
        IntegrityError
            If it is missing, changed or cannot be decoded.
        """
        try:
            return decode(kind, read_file(self.root, self.manifest, file))
        except FileNotFoundError as error:
            raise IntegrityError(
                f"file {file.path} of the catalog must exist, was missing; restore it from a copy "
                f"or import its source again into a new catalog"
            ) from error
        except (pa.ArrowException, KeyError) as error:
            raise IntegrityError(
                f"file {file.path} of the catalog must hold the records that its commit record "
                f"names, was not readable ({error}); import its source again into a new catalog"
            ) from error

    def strays(self, record: SeriesRecord) -> list[str]:
        """Return Parquet files that lie in a series' folders without belonging to the catalog.

        The engine reads whatever lies there, so that they would mix with the catalog's records.
        """
        found = []
        for layer in record.layers:
            folder = file_folder(record.kind, record.series, layer.label)
            own = {file.path for file in layer.files}
            names = sorted(path.name for path in (self.root / folder).glob("*.parquet"))
            found += [f"{folder}/{name}" for name in names if f"{folder}/{name}" not in own]
        return found

    def _records(self, query: Query, layers: Layers) -> Records:
        resolved = resolve(query.kind, layers, query.choice)
        rows = span_slice(resolved["ts_init"], query.start, query.end)
        found = {name: values[rows] for name, values in resolved.items()}
        if not len(found["ts_init"]):
            raise DataError(self._empty(query))
        return found

    def _layers(self, query: Query) -> Layers:
        """Return the vintages that a read needs; a series of one only for the span asked for."""
        record = self.series(query.kind, query.series)
        label = query.choice.vintage
        start, end = query.start, query.end
        layers = record.layers
        if label not in (FIRST, LATEST):
            chosen = record.layer(label)
            if chosen is None:
                raise DataError(
                    f"vintage of {query.kind} {query.series} must be one of "
                    f"{', '.join([LATEST, *labels(record)])}, was {label!r}"
                )
            layers = (chosen,)
        if len(layers) > 1 or layers[0].known_at is not None:
            start, end = None, None
        found = [(layer, self._layer(query.kind, layer, start, end)) for layer in layers]
        return found if query.metric is None else self._of_metric(query, found)

    def _layer(self, kind: Kind, layer: Layer, start: int | None, end: int | None) -> Records:
        files = [
            file
            for file in layer.files
            if (start is None or file.last_init > start) and (end is None or file.first_init <= end)
        ]
        if files:
            return joined([self.file(kind, file) for file in files])
        nothing = self.file(kind, layer.files[0])
        return take(nothing, np.zeros(len(nothing["ts_init"]), dtype=np.bool_))

    def _of_metric(self, query: Query, layers: Layers) -> Layers:
        found = [(layer, take(rows, rows["metric"] == query.metric)) for layer, rows in layers]
        if not any(len(rows["ts_init"]) for _, rows in found):
            held = self.metrics(query.series)
            if query.metric not in held:
                raise DataError(
                    f"metric of {query.series} must be one of {', '.join(held)}, was "
                    f"{query.metric!r}"
                )
        return found

    def _retried[T](self, read: Callable[[], T]) -> T:
        """Read; if a file is gone because another process replaced it, read the new state."""
        for _ in range(_RETRIES):
            sequence = self.manifest.sequence
            try:
                return read()
            except IntegrityError:
                self.refresh()
                if self.manifest.sequence == sequence:
                    raise
        raise IntegrityError(f"the catalog {self.root} changes faster than it can be read")

    def _empty(self, query: Query) -> str:
        record = self.series(query.kind, query.series)
        first, last = span_of(record)
        begin = "the beginning" if query.start is None else format_time(query.start)
        finish = "the end" if query.end is None else format_time(query.end)
        known = "" if query.choice.as_of is None else f" known {query.choice}"
        what = f"{query.kind} {query.series}" + (f" {query.metric}" if query.metric else "")
        return (
            f"span must hold records of {what}{known}, was empty from {begin} to {finish}; the "
            f"catalog has them from {format_time(first)} to {format_time(last)}"
        )


def labels(record: SeriesRecord) -> tuple[str, ...]:
    """Return the vintages' labels for people: the first one is called ``first``."""
    return tuple(layer.label or FIRST for layer in record.layers)


def span_of(record: SeriesRecord) -> tuple[int, int]:
    """Return the first and last `ts_init` of a series over all vintages, both inclusive."""
    files = [file for layer in record.layers for file in layer.files]
    return min(file.first_init for file in files), max(file.last_init for file in files)
