"""Any CSV or Parquet file, with a map that says which column is what.

The map is a `GenericColumns`, written by hand as YAML or JSON::

    kind: bars
    series: BTCUSDT-PERP.BINANCE
    interval: 15m
    time: {column: Timestamp, unit: s, means: open}
    columns: {open: Open, high: High, low: Low, close: Close, volume: Volume}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from adapters import checks
from adapters.checks import FloatColumn, IntColumn, Place
from adapters.news import MARKET_WIDE, Headlines, to_batch
from adapters.options import LONGEST_DELAY_SECS, ImportOptions
from adapters.sources import SourceFile, read_table, read_text
from adapters.tables import is_number, is_time, numbers_of, rows_of, texts_of, times_of
from catalog.config import Config
from catalog.errors import ConfigError
from catalog.instruments import bar_type
from catalog.records import Batch
from catalog.timestamps import NS_PER_SECOND, interval_ns

_UNREADABLE = (OSError, yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)
"""What reading YAML raises: beside its own errors those of scalars that no day, number or truth
value can be (``2024-13-01``, ``!!bool maybe``), and of nesting without end."""

type TimeUnit = Literal["s", "ms", "us", "ns", "iso"]
type GenericKind = Literal["bars", "funding", "index", "onchain", "news"]

_UNIT_NS = {"s": NS_PER_SECOND, "ms": 10**6, "us": 10**3, "ns": 1}
_PRICES = ("open", "high", "low", "close")
_TARGETS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # kind: (must be mapped, may be mapped)
    "bars": ((*_PRICES, "volume"), ()),
    "funding": (("rate",), ()),
    "index": (("close",), ("open", "high", "low")),
    "onchain": (("value",), ("metric", "unit")),
    "news": (("headline",), ("source", "asset", "score", "first_seen")),
}


class TimeColumn(Config):
    """Where the time of a record stands and what it means.

    Parameters
    ----------
    column : str
        Its name.
    unit : str
        ``s``, ``ms``, ``us`` or ``ns`` since 1970, ``iso`` (ISO 8601, UTC if no zone is named), or
        a strptime format such as ``%d.%m.%Y %H:%M``.
    means : {"open", "close"}
        Whether the time is the start of what the record describes (a candle's open; the record is
        known `interval` later) or the moment it ended or happened.
    delay_secs : float
        How long after its end a record became known, seconds, at most a year. Of headlines: how
        long after its publication one could be had. A `first_seen` that is later counts instead,
        and the scoring delay (`ImportOptions.scoring_delay_secs`) comes on top of either.
    """

    column: str
    unit: str = "iso"
    means: Literal["open", "close"]
    delay_secs: float = Field(default=0.0, ge=0.0, le=LONGEST_DELAY_SECS)

    @model_validator(mode="after")
    def _known_unit(self) -> Self:
        if self.unit not in _UNIT_NS and self.unit != "iso" and "%" not in self.unit:
            raise ValueError(
                "unit must be s, ms, us, ns, iso or a strptime format such as %d.%m.%Y, "
                f"was {self.unit!r}"
            )
        return self

    @property
    def delay_ns(self) -> int:
        """Return `delay_secs` in nanoseconds."""
        return round(self.delay_secs * NS_PER_SECOND)


class GenericColumns(Config):
    """Which column of a file is what.

    Parameters
    ----------
    kind : {"bars", "funding", "index", "onchain", "news"}
        What the records are.
    series : str
        bars and funding: the instrument id (``BTCUSDT-PERP.BINANCE``); index and onchain: a name
        such as ``dvol.btc`` or ``glassnode.btc``; news: the name of the source.
    interval : str or None
        Length of a bar (``15m``), or of the span that a record with ``means: open`` describes.
    time : TimeColumn
        The time of a record.
    columns : mapping of str to str
        The record's fields (``open``, ``rate``, ``close``, ``value``, ``headline`` …) and the
        file's columns.
    unit : str or None
        Unit of an index or an on-chain value without a `unit` column.
    metric : str or None
        Name of an on-chain metric without a `metric` column.
    asset : str or None
        What headlines are about where no column says it; None: the whole market.
    """

    kind: GenericKind
    series: str = Field(min_length=1)
    interval: str | None = None
    time: TimeColumn
    columns: dict[str, str]
    unit: str | None = None
    metric: str | None = None
    asset: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        required, optional = _TARGETS[self.kind]
        missing = [name for name in required if name not in self.columns]
        unknown = [name for name in self.columns if name not in (*required, *optional)]
        if missing or unknown:
            raise ValueError(
                f"columns of {self.kind} must map {', '.join(required)}"
                f"{' and may map ' + ', '.join(optional) if optional else ''}; "
                f"missing: {', '.join(missing) or 'none'}, unknown: {', '.join(unknown) or 'none'}"
            )
        if self.interval is None and (self.kind == "bars" or self.time.means == "open"):
            raise ValueError("interval must be given for bars and where time.means is open")
        if self.interval is not None:
            try:
                interval_ns(self.interval)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        if self.kind in {"index", "onchain"} and self.unit is None and "unit" not in self.columns:
            raise ValueError(f"unit must be given for {self.kind}, as a text or as a column")
        if self.kind == "onchain" and self.metric is None and "metric" not in self.columns:
            raise ValueError("metric must be given for onchain, as a text or as a column")
        return self


def load_columns(path: Path) -> GenericColumns:
    """Read a column map from a YAML or JSON file.

    Raises
    ------
    ConfigError
        If the file is absent or is no column map.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except _UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{path.name}: must be a readable YAML or JSON file: {reason}") from error
    try:
        return GenericColumns.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'map'}: "
            f"{problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        )
        raise ConfigError(f"{path.name}: must be a column map: {problems}") from error


def read(source: SourceFile, options: ImportOptions, columns: GenericColumns) -> list[Batch]:
    """Read a CSV or Parquet file as its column map says.

    Parameters
    ----------
    source : SourceFile
        A delimited text, Parquet or feather file.
    options : ImportOptions
        Gives the clock and, for news, the scoring delay.
    columns : GenericColumns
        The map.

    Raises
    ------
    DataError
        If the file is damaged, lacks a mapped column, or a row cannot be.
    """
    fields = _Fields(source, columns)
    place, stamp = fields.place, fields.stamp()
    length = interval_ns(columns.interval) if columns.interval is not None else 0
    ts_event = stamp + length if columns.time.means == "open" else stamp
    if columns.kind == "news":
        return [to_batch(columns.series, fields.headlines(ts_event), options)]
    known = ts_event + columns.time.delay_ns
    known = checks.known_by_now(known, ts_event, options.clock_ns())
    times = {"ts_event": ts_event, "ts_init": known}
    checks.check_times(place, ts_event, options.clock_ns(), "the time of a record")
    if columns.kind == "onchain":
        content = fields.onchain()
        order = np.lexsort((ts_event, times["ts_init"]))
        shuffled = {name: column[order] for name, column in (times | content).items()}
        return [Batch("onchain", columns.series, shuffled, place.source, place.lines[order])]
    if not np.all(np.diff(ts_event) < 0):  # newest first is in order, only in the other one
        checks.check_ascending(place, ts_event, "a record")
    return [_series(fields, times, ts_event - length, length)]


def _series(fields: _Fields, times: dict[str, IntColumn], open_ns: IntColumn, length: int) -> Batch:
    """Return bars, funding or index levels, checked."""
    columns, place = fields.columns, fields.place
    if columns.kind == "funding":
        rate = fields.floats("rate")
        checks.check_funding(place, rate)
        return Batch("funding", columns.series, times | {"rate": rate}, place.source, place.lines)
    if columns.kind == "bars":
        assert columns.interval is not None
        prices = {name: fields.floats(name) for name in (*_PRICES, "volume")}
        checks.check_candles(place, open_ns, prices, length)
        checks.check_spacing(place, open_ns, length)
        series = bar_type(columns.series, columns.interval)
        return Batch("bars", series, times | prices, place.source, place.lines)
    levels = {name: fields.floats(name if name in columns.columns else "close") for name in _PRICES}
    checks.check_extremes(place, levels)
    unit = {"unit": fields.texts_or("unit", columns.unit)}
    return Batch("index", columns.series, times | levels | unit, place.source, place.lines)


class _Fields:
    """The mapped columns of a file, whatever its format."""

    def __init__(self, source: SourceFile, columns: GenericColumns) -> None:
        self.columns = columns
        wanted = [columns.time.column, *columns.columns.values()]
        self._columns: Mapping[str, pa.Array] = {}
        self._table: pa.Table | None = None
        if source.format in {"parquet", "feather"}:
            self._table = read_table(source)
            checks.require_columns(source.name, self._table.column_names, wanted)
            self.place = rows_of(source.name, self._table)
        else:
            table = read_text(source)
            checks.require_columns(source.name, tuple(table.columns), wanted)
            self._columns = table.columns
            self.place = Place(source.name, table.lines)
        checks.require_rows(source.name, len(self.place.lines))

    def stamp(self) -> IntColumn:
        """Return the time column, UTC nanoseconds."""
        time = self.columns.time
        if self._table is not None and is_time(self._table.column(time.column).type):
            return times_of(self.place, self._table, time.column)
        texts = self._as_texts(time.column)
        if time.unit not in _UNIT_NS:
            format_ = "ISO8601" if time.unit == "iso" else time.unit
            return checks.times(self.place, time.column, texts, format_)
        unit = _UNIT_NS[time.unit]
        stamp = checks.whole_numbers(self.place, time.column, texts)
        self.place.refuse(
            np.abs(stamp) > (2**63 - 1) // unit,
            f"{time.column} must be a time in {time.unit}",
            lambda row: stamp[row],
        )
        return stamp * unit

    def floats(self, field: str, *, empty: bool = False) -> FloatColumn:
        """Return a mapped column of numbers; NaN for an empty one where that is allowed."""
        name = self.columns.columns[field]
        if self._table is not None and is_number(self._table.column(name).type):
            values = numbers_of(self.place, self._table, name)
            bad = np.isinf(values) if empty else ~np.isfinite(values)
            self.place.refuse(bad, f"{name} must be a finite number", checks.shown(values))
            return values
        return checks.numbers(self.place, name, self._as_texts(name), empty=empty)

    def texts_or(self, field: str, constant: str | None) -> NDArray[np.object_]:
        """Return a mapped column of texts, or a constant where none is mapped."""
        if field in self.columns.columns:
            texts = checks.strings(self._as_texts(self.columns.columns[field]))
            return np.array([text.strip() for text in texts], dtype=object)
        return np.full(len(self.place.lines), constant, dtype=object)

    def onchain(self) -> dict[str, NDArray[np.generic]]:
        """Return the columns of on-chain records and refuse repeated ones."""
        return {
            "metric": self.texts_or("metric", self.columns.metric),
            "value": self.floats("value"),
            "unit": self.texts_or("unit", self.columns.unit),
        }

    def headlines(self, published: IntColumn) -> Headlines:
        """Return the columns of headlines."""
        mapped = self.columns.columns
        seen = None
        if "first_seen" in mapped:
            seen = checks.times(
                self.place, mapped["first_seen"], self._as_texts(mapped["first_seen"])
            )
        score = np.full(len(published), np.nan)
        if "score" in mapped:
            score = self.floats("score", empty=True)
        return Headlines(
            self.place,
            published,
            seen,
            tuple(self.texts_or("source", self.columns.series)),
            tuple(self.texts_or("asset", self.columns.asset or MARKET_WIDE)),
            tuple(self.texts_or("headline", None)),
            score,
            self.columns.time.delay_ns,
        )

    def _as_texts(self, name: str) -> checks.Texts:
        if self._table is not None:
            return texts_of(self.place, self._table, name)
        return self._columns[name]
