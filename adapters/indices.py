"""Indices of the market's mood: Fear & Greed (daily CSV) and Deribit's DVOL (hourly Parquet)."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from adapters import checks
from adapters.checks import IntColumn, Place
from adapters.options import ImportOptions
from adapters.sources import SourceFile, TextTable, read_table, read_text
from adapters.tables import numbers_of, rows_of, times_of
from catalog.errors import DataError
from catalog.records import Batch
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR

FEAR_GREED_UNIT = "points 0-100"
DVOL_UNIT = "percent per year"
_DVOL_NAME = re.compile(r"(?P<asset>[A-Za-z0-9]+)[_-]dvol", re.IGNORECASE)
_DVOL_COLUMNS = ("timestamp", "open", "high", "low", "close")


def matches_fear_greed(source: SourceFile) -> bool:
    """Return whether a file is a Fear & Greed table."""
    return source.format == "csv" and source.has("fear_greed_index")


def read_fear_greed(source: SourceFile, options: ImportOptions) -> list[Batch]:
    """Read a daily Fear & Greed CSV: columns `date` and `fear_greed_index`.

    The index is published at 00:00 UTC of its date: ``ts_event = ts_init`` = that midnight. One
    number a day: it stands in `open`, `high`, `low` and `close`.

    Raises
    ------
    DataError
        If the file is damaged or a row cannot be.
    """
    return [fear_greed_batch(read_text(source), options)]


def fear_greed_batch(table: TextTable, options: ImportOptions) -> Batch:
    """Return a table with the columns `date` and `fear_greed_index` as a batch; see above.

    Raises
    ------
    DataError
        If a column is missing or a row cannot be.
    """
    checks.require_columns(table.source, tuple(table.columns), ("date", "fear_greed_index"))
    checks.require_rows(table.source, len(table))
    place = Place(table.source, table.lines)
    published = checks.times(place, "date", table["date"])
    place.refuse(
        published % NS_PER_DAY != 0,
        "date must be a day without a time",
        lambda row: repr(table["date"][row]),
    )
    checks.check_ascending(place, published, "a date")
    checks.check_times(place, published, options.clock_ns(), "a date")
    level = checks.numbers(place, "fear_greed_index", table.columns["fear_greed_index"])
    place.refuse(
        (level < 0.0) | (level > 100.0),
        "fear_greed_index must be between 0 and 100",
        lambda row: f"{level[row]:g}",
    )
    columns = {
        "ts_event": published,
        "ts_init": published,
        **dict.fromkeys(("open", "high", "low", "close"), level),
        "unit": np.full(len(table), FEAR_GREED_UNIT, dtype=object),
    }
    return Batch("index", "fear_greed", columns, table.source, table.lines)


def matches_dvol(source: SourceFile) -> bool:
    """Return whether a file is a DVOL table: OHLC by `timestamp`, without a volume."""
    return (
        source.format == "parquet"
        and source.has("timestamp", "open", "close")
        and not source.has("volume")
    )


def read_dvol(source: SourceFile, options: ImportOptions) -> list[Batch]:
    """Read an hourly DVOL Parquet file: columns `timestamp`, `open`, `high`, `low`, `close`.

    The stamp is the hour's start, and the hour is known one hour later:
    ``ts_event = ts_init = timestamp + 1 hour``. The currency stands in the name only
    (``BTC_dvol.parquet``).

    Raises
    ------
    DataError
        If the file is damaged, its name says no currency, or a row cannot be.
    """
    match = _DVOL_NAME.fullmatch(source.stem)
    if match is None:
        raise DataError(
            f"{source.name}: the name must say the currency, such as BTC_dvol.parquet, "
            f"was {source.stem!r}"
        )
    return [dvol_batch(source.name, match["asset"].lower(), read_table(source), options)]


def dvol_batch(name: str, asset: str, table: pa.Table, options: ImportOptions) -> Batch:
    """Return an hourly table of DVOL as a batch; see `read_dvol`.

    Parameters
    ----------
    name : str
        Where the table is from, for messages.
    asset : str
        Lower case, such as ``btc``.
    table : pyarrow.Table
        `timestamp` (the hour's start), `open`, `high`, `low`, `close`.
    options : ImportOptions
        Gives the clock.

    Raises
    ------
    DataError
        If a column is missing or a row cannot be.
    """
    checks.require_columns(name, table.column_names, _DVOL_COLUMNS)
    checks.require_rows(name, len(table))
    place = rows_of(name, table)
    start = _hours(place, table)
    levels = {column: numbers_of(place, table, column) for column in _DVOL_COLUMNS[1:]}
    for column, level in levels.items():
        place.refuse(
            ~(np.isfinite(level) & (level > 0.0)),
            f"{column} must be above 0",
            checks.shown(level),
        )
    checks.check_extremes(place, levels)
    known = start + NS_PER_HOUR
    checks.check_times(place, known, options.clock_ns(), "the end of an hour")
    columns = {
        "ts_event": known,
        "ts_init": known,
        **levels,
        "unit": np.full(len(table), DVOL_UNIT, dtype=object),
    }
    return Batch("index", f"dvol.{asset}", columns, name, place.lines)


def _hours(place: Place, table: pa.Table) -> IntColumn:
    start = times_of(place, table, "timestamp")
    checks.check_ascending(place, start, "an hour")
    place.refuse(
        start % NS_PER_HOUR != 0,
        "timestamp must be the start of an hour",
        lambda row: f"{start[row]} ns",
    )
    return start
