"""Several vintages of one series: the first, the latest, or what was known at a time.

A vintage is a layer of records. A key (day and metric, a bar's close, …) may occur in several
layers; they are ordered by when they became known, the first vintage first. Every read takes one
record per key:

- ``first`` (the default): the first that was known. This is what a backtest may use.
- ``latest``: the one that became known last.
- as of a time: the last one known by then.
- a vintage's label: the records of that vintage alone.

`ts_init` of the result is when a value for the key could first be known, whatever vintage
the value itself comes from: a restated day keeps its place in the series, as in the vintage
data bases of the statistics offices. What a vendor delivers in a dated download (on-chain,
indices, news) was not known before that download if no earlier vintage holds it; a bar or a
settlement is public when it happens, whenever it was downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import SeriesArrays
from catalog.checks import equal_content, joined, key_order, ranks, same_key, take
from catalog.encoding import Records
from catalog.errors import DataError
from catalog.manifest import Layer
from catalog.records import COLUMNS, Kind
from catalog.timestamps import format_time

FIRST = "first"
LATEST = "latest"
AUTOMATIC_PREFIX = "restated-"
"""Begins the labels of vintages that the catalog made of changed records."""

_VENDOR_KINDS: frozenset[Kind] = frozenset({"onchain", "index", "news"})


@dataclass(frozen=True, slots=True)
class Restatement:
    """A later vintage that says something else about records that were already known.

    Parameters
    ----------
    kind, series
        Whose records.
    vintage : str
        Label of the later vintage.
    known_at : int
        When it became known, UTC nanoseconds.
    start, end : int
        First and last `ts_event` among the changed records, UTC nanoseconds.
    rows : int
        How many records changed.
    """

    kind: Kind
    series: str
    vintage: str
    known_at: int
    start: int
    end: int
    rows: int

    def __str__(self) -> str:
        return (
            f"{self.kind} {self.series} is restated: vintage {self.vintage}, known since "
            f"{format_time(self.known_at)}, changes {self.rows} records from "
            f"{format_time(self.start)} to {format_time(self.end)}"
        )


@dataclass(frozen=True, slots=True)
class PointInTimeSeries(SeriesArrays):
    """A `SeriesArrays` that says which vintage it shows and which restatements exist.

    Parameters
    ----------
    shown : str
        ``first``, ``latest``, a vintage's label, or ``as of`` a time.
    restatements : tuple of Restatement
        Later vintages that changed records of this series, known by the time of an as-of read
        or ever; empty for a series that was never restated.
    """

    shown: str = FIRST
    restatements: tuple[Restatement, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """Which vintage a read wants: a name, or what was known at `as_of` (UTC nanoseconds)."""

    vintage: str = FIRST
    as_of: int | None = None

    def __post_init__(self) -> None:
        if self.as_of is not None and self.vintage != FIRST:
            raise DataError(
                f"a read takes either a vintage or as_of, was given both: vintage "
                f"{self.vintage!r} and as_of {format_time(self.as_of)}"
            )

    def __str__(self) -> str:
        return self.vintage if self.as_of is None else f"as of {format_time(self.as_of)}"


type Layers = list[tuple[Layer, Records]]


def resolve(kind: Kind, layers: Layers, choice: Choice) -> Records:
    """Return one record per key, sorted by (`ts_init`, `ts_event`, key).

    Parameters
    ----------
    kind : Kind
        What the records are.
    layers : list of (Layer, Records)
        All vintages of the series in the order in which they became known.
    choice : Choice
        Which one to show.
    """
    if len(layers) == 1 and layers[0][0].known_at is None:
        records = layers[0][1]
        if choice.as_of is not None:
            records = take(records, records["ts_init"] <= choice.as_of)
        return in_time_order(kind, records)
    ordered, position = _stacked(kind, layers)
    if choice.as_of is not None:
        known_at = np.array([_known_at(layer) for layer, _ in layers], dtype=np.int64)
        visible = (known_at[position] <= choice.as_of) & (ordered["ts_init"] <= choice.as_of)
        ordered = take(ordered, visible)
        if not visible.any():
            return ordered
    starts = np.flatnonzero(~same_key(kind, ordered))
    ends = np.append(starts[1:], len(ordered["ts_init"])) - 1
    chosen = take(ordered, starts if str(choice) == FIRST else ends)
    # A copy, because `take` may have returned views of what the caller still holds.
    return in_time_order(kind, chosen | {"ts_init": ordered["ts_init"][starts].copy()})


def restatements(kind: Kind, series: str, layers: Layers, choice: Choice) -> list[Restatement]:
    """Return what each later vintage changed of what was known before it."""
    if len(layers) < 2:
        return []
    ordered, position = _stacked(kind, layers)
    repeated = same_key(kind, ordered)
    before = take(ordered, np.maximum(np.arange(len(repeated)) - 1, 0))
    changed = repeated & ~equal_content(kind, ordered, before)
    found = []
    for place, (layer, _) in enumerate(layers):
        stamps = ordered["ts_event"][changed & (position == place)]
        if len(stamps) and (choice.as_of is None or _known_at(layer) <= choice.as_of):
            found.append(
                Restatement(
                    kind=kind,
                    series=series,
                    vintage=layer.label,
                    known_at=_known_at(layer),
                    start=int(stamps.min()),
                    end=int(stamps.max()),
                    rows=len(stamps),
                )
            )
    return found


def _stacked(kind: Kind, layers: Layers) -> tuple[Records, NDArray[np.int64]]:
    """Return all layers' records by (`ts_event`, key, layer), and each one's layer."""
    parts = []
    for layer, records in layers:
        if layer.known_at is not None and kind in _VENDOR_KINDS:
            lifted = np.maximum(records["ts_init"], layer.known_at)
            parts.append(records | {"ts_init": lifted})
        else:
            parts.append(records)
    position = np.repeat(np.arange(len(layers)), [len(part["ts_init"]) for part in parts])
    together = joined(parts)
    order = key_order(kind, together, position)
    return take(together, order), position[order]


def _known_at(layer: Layer) -> int:
    return 0 if layer.known_at is None else layer.known_at


def in_time_order(kind: Kind, records: Records) -> Records:
    """Return the records sorted by (`ts_init`, `ts_event`, key)."""
    ts_init = records["ts_init"]
    if bool(np.all(np.diff(ts_init) > 0)):
        return records
    names = [column.name for column in COLUMNS[kind] if column.key]
    keys = [ranks(records[name]) for name in reversed(names)]
    return take(records, np.lexsort((*keys, records["ts_event"], ts_init)))
