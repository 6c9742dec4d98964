"""What a catalog holds and where it came from, as rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from catalog.instruments import parse_bar_type
from catalog.manifest import Manifest, SeriesRecord
from catalog.reading import labels, span_of
from catalog.records import Kind
from catalog.timestamps import format_time


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """One series of a catalog.

    Parameters
    ----------
    kind, series
        What it is; see `catalog.records.Batch`.
    start, end : int
        First and last `ts_init`, both inclusive, UTC nanoseconds.
    rows : int
        Records of all vintages together.
    vintages : tuple of str
        Labels, in the order in which they became known; the first vintage is ``first``.
    synthetic : bool
        Whether the records are made up.
    bytes : int
        Size on disk.
    """

    kind: Kind
    series: str
    start: int
    end: int
    rows: int
    vintages: tuple[str, ...]
    synthetic: bool
    bytes: int


def series_info(record: SeriesRecord) -> SeriesInfo:
    """Return one series' row."""
    start, end = span_of(record)
    return SeriesInfo(
        kind=record.kind,
        series=record.series,
        start=start,
        end=end,
        rows=sum(layer.rows for layer in record.layers),
        vintages=labels(record),
        synthetic=record.synthetic,
        bytes=sum(file.bytes for layer in record.layers for file in layer.files),
    )


def instrument_of(record: SeriesRecord) -> str | None:
    """Return the instrument that a series belongs to; None for on-chain, indices and news."""
    if record.kind in ("bars", "bar_flow"):
        return parse_bar_type(record.series)[0]
    return record.series if record.kind == "funding" else None


def inventory(path: Path, manifest: Manifest) -> dict[str, Any]:
    """Return what a catalog holds and which commits made it, for JSON."""
    infos = [series_info(record) for record in manifest.series]
    times = {"start": format_time, "end": format_time}
    return {
        "path": str(path),
        "commit": manifest.sequence,
        "bytes": sum(info.bytes for info in infos),
        "rows": sum(info.rows for info in infos),
        "synthetic": any(info.synthetic for info in infos),
        "instruments": sorted(manifest.instruments),
        "series": [
            {key: times[key](value) if key in times else value for key, value in row.items()}
            for row in map(asdict, infos)
        ],
        "commits": [dict(commit) for commit in manifest.commits],
    }
