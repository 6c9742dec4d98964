"""What importers hand to the catalog: typed records, as columns.

A `Batch` holds records of one kind and one series, from one source file. It is plain numpy, so
that a million bars cost no million objects; the catalog checks it at the door (`catalog.checks`)
and turns it into the engine's types on disk (`catalog.encoding`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from catalog.timestamps import NS_PER_HOUR

type Kind = Literal["bars", "funding", "bar_flow", "onchain", "index", "news"]
type AnyArray = NDArray[Any]

FIRST_VINTAGE = ""
"""Label of the data as first imported, without a declared time of knowledge."""

MAX_FUNDING_GAP_NS = 9 * NS_PER_HOUR
"""Perpetuals settle at least every 8 hours; a longer silence means that records are missing."""


class Column(NamedTuple):
    """One column of a kind of record."""

    name: str
    dtype: Literal["float", "int", "text"]
    unit: str
    key: bool = False
    """Whether the column identifies the record, with `ts_event`."""
    nan_allowed: bool = False


COLUMNS: Mapping[Kind, tuple[Column, ...]] = {
    "bars": (
        Column("open", "float", "quote units"),
        Column("high", "float", "quote units"),
        Column("low", "float", "quote units"),
        Column("close", "float", "quote units"),
        Column("volume", "float", "base units"),
    ),
    "funding": (Column("rate", "float", "fraction of the notional, positive: longs pay"),),
    "bar_flow": (
        Column("quote_volume", "float", "quote units"),
        Column("trade_count", "int", "trades"),
        Column("taker_buy_volume", "float", "base units"),
        Column("taker_buy_quote_volume", "float", "quote units"),
    ),
    "onchain": (
        Column("metric", "text", "name of the metric", key=True),
        Column("value", "float", "see `unit`"),
        Column("unit", "text", "unit of `value`"),
    ),
    "index": (
        Column("open", "float", "see `unit`"),
        Column("high", "float", "see `unit`"),
        Column("low", "float", "see `unit`"),
        Column("close", "float", "see `unit`"),
        Column("unit", "text", "unit of the levels"),
    ),
    "news": (
        Column("source", "text", "outlet", key=True),
        Column("asset", "text", "what it is about, such as `btc`", key=True),
        Column("headline", "text", "the text itself", key=True),
        Column("score", "float", "sentiment in [-1, 1], NaN when not scored", nan_allowed=True),
        Column("ts_published", "int", "UTC nanoseconds"),
    ),
}
"""The columns of each kind beside `ts_event` and `ts_init` (int64, UTC nanoseconds)."""

KINDS: tuple[Kind, ...] = tuple(COLUMNS)


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one kind and one series from one source.

    Parameters
    ----------
    kind : Kind
        What the records are; decides the columns (`COLUMNS`).
    series : str
        bars and bar_flow: the bar type (``BTCUSDT-PERP.BINANCE-15-MINUTE-LAST-EXTERNAL``);
        funding: the instrument id; onchain: vendor and asset (``coinmetrics.btc``), all metrics of
        one file together; index: ``dvol.btc``, ``fear_greed``; news: the source's name.
    columns : mapping of str to (n_records,) array
        `ts_event` and `ts_init` int64 UTC nanoseconds; numbers float64 (counts int64); texts
        object or str arrays.
    source : str
        Name of the source file (never an absolute path), kept as provenance. All batches of one
        source are taken or refused together.
    lines : (n_records,) int64 array or None
        Line or row number of each record in the source, for messages.
    vintage : str
        Label of a later download of a series that its vendor restates, such as ``2025-08``;
        letters, digits, ``-``, ``_`` and ``.``. Empty: the first vintage. A changed record without
        a label becomes a vintage of its own, known from the moment of the import.
    known_at : int or None
        When the vintage became known (the day of the download), UTC nanoseconds. Only with
        `vintage`; None there means the moment of its first import.
    synthetic : bool
        Whether the records are made up. Shown wherever results are.
    """

    kind: Kind
    series: str
    columns: Mapping[str, AnyArray]
    source: str
    lines: NDArray[np.int64] | None = None
    vintage: str = FIRST_VINTAGE
    known_at: int | None = None
    synthetic: bool = False
    notes: tuple[str, ...] = field(default=())
    """What the importer wants the report to say, such as rows that it left out and why."""

    def __len__(self) -> int:
        return len(self.columns["ts_init"]) if "ts_init" in self.columns else 0
