"""Candles and funding rates in freqtrade's feather format.

The table says what it is: columns ``date, open, high, low, close, volume``, where `date` is the
candle's OPEN, or, for funding, the settlement with its RATE in `open` and zeros elsewhere. Only the
market and the interval stand in the name: ``BTC_USDT_USDT-15m-futures.feather`` is a perpetual
margined in USDT, ``BTC_USDT-15m.feather`` is spot,
``BTC_USDT_USDT-8h-funding_rate.feather`` is funding.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from adapters import checks
from adapters.checks import FloatColumn, IntColumn, Place
from adapters.options import ImportOptions
from adapters.sources import SourceFile, read_table
from adapters.tables import numbers_of, rows_of, times_of
from catalog.errors import ConfigError, DataError
from catalog.instruments import bar_type
from catalog.records import Batch
from catalog.timestamps import interval_ns

VENUE = "BINANCE"
COLUMNS = ("date", "open", "high", "low", "close", "volume")
_NAME = re.compile(
    r"(?P<base>[A-Z0-9]+)_(?P<quote>[A-Z0-9]+)(?:_(?P<settle>[A-Z0-9]+))?"
    r"-(?P<interval>\d+[A-Za-z]+)(?:-(?P<candle>[a-z_]+))?"
)
_EXPECTED_NAME = (
    "name it as freqtrade does, such as BTC_USDT_USDT-15m-futures.feather (perpetual), "
    "BTC_USDT-15m.feather (spot) or BTC_USDT_USDT-8h-funding_rate.feather"
)


class Market(NamedTuple):
    """What a freqtrade file's name says."""

    instrument_id: str
    interval: str
    candle: str


def matches(source: SourceFile) -> bool:
    """Return whether a file is a freqtrade table: a feather file with a `date` or damaged."""
    return source.format == "feather" and source.has("date", "open")


def read(source: SourceFile, options: ImportOptions) -> list[Batch]:
    """Read one file of candles or funding rates.

    A candle is known at its close: ``ts_init = ts_event = date + interval``. A settlement is known
    at its stamp: ``ts_init = ts_event = date``.

    Parameters
    ----------
    source : SourceFile
        The file.
    options : ImportOptions
        Gives the clock against which candles from the future are refused.

    Raises
    ------
    DataError
        If the file is damaged, its name says no market, or a row cannot be.
    """
    table = read_table(source)
    checks.require_columns(source.name, table.column_names, COLUMNS)
    checks.require_rows(source.name, len(table))
    market = parse_name(source)
    place = rows_of(source.name, table)
    date = times_of(place, table, "date")
    values = {name: numbers_of(place, table, name) for name in COLUMNS[1:]}
    is_funding = not any(np.any(values[name]) for name in ("high", "low", "close", "volume"))
    _refuse_contradiction(source, market, is_funding=is_funding)
    if is_funding:
        return [_funding(place, market, date, values["open"], options)]
    return [_bars(place, market, date, values, options)]


def parse_name(source: SourceFile) -> Market:
    """Read symbol, interval and kind of candle from a file's name.

    Raises
    ------
    DataError
        If the name has another form, the interval is unknown or the market is not supported.
    """
    match = _NAME.fullmatch(source.stem)
    if match is None:
        raise DataError(
            f"{source.name}: the file's name must say its market, was {source.stem!r}; "
            + _EXPECTED_NAME
        )
    base, quote, settle = match["base"], match["quote"], match["settle"]
    if settle is not None and settle != quote:
        raise DataError(
            f"{source.name}: a futures contract must be margined in its quote currency, "
            f"was margined in {settle}; coin-margined contracts are not supported"
        )
    try:
        interval_ns(match["interval"])
    except ConfigError as error:
        raise DataError(f"{source.name}: {error}") from error
    suffix = "" if settle is None else "-PERP"
    candle = match["candle"] or "spot"
    return Market(f"{base}{quote}{suffix}.{VENUE}", match["interval"], candle)


def _refuse_contradiction(source: SourceFile, market: Market, *, is_funding: bool) -> None:
    named_funding = market.candle == "funding_rate"
    if named_funding and not is_funding:
        raise DataError(
            f"{source.name}: a funding file must have its rate in `open` and zeros in high, low, "
            "close and volume, had prices there; the name says funding_rate, the content candles"
        )
    if is_funding and not named_funding:
        raise DataError(
            f"{source.name}: candles must have prices, had zeros in high, low, close and volume; "
            "if these are funding rates the name must end with -8h-funding_rate.feather"
        )
    known = {"spot", "futures", "funding_rate"}
    if market.candle not in known or (market.candle == "spot") == ("-PERP" in market.instrument_id):
        raise DataError(
            f"{source.name}: the kind of candle in the name must fit the market, was "
            f"{market.candle!r} for {market.instrument_id}; " + _EXPECTED_NAME
        )


def _bars(
    place: Place,
    market: Market,
    open_ns: IntColumn,
    prices: dict[str, FloatColumn],
    options: ImportOptions,
) -> Batch:
    length = interval_ns(market.interval)
    checks.check_ascending(place, open_ns, "a candle")
    checks.check_candles(place, open_ns, prices, length)
    checks.check_spacing(place, open_ns, length)
    close_ns = open_ns + length
    checks.check_times(place, close_ns, options.clock_ns(), "the close of a candle")
    return Batch(
        kind="bars",
        series=bar_type(market.instrument_id, market.interval),
        columns={"ts_event": close_ns, "ts_init": close_ns, **prices},
        source=place.source,
        lines=place.lines,
    )


def _funding(
    place: Place, market: Market, stamp: IntColumn, rate: FloatColumn, options: ImportOptions
) -> Batch:
    checks.check_ascending(place, stamp, "a settlement")
    checks.check_times(place, stamp, options.clock_ns(), "a settlement")
    checks.check_funding(place, rate)
    return Batch(
        kind="funding",
        series=market.instrument_id,
        columns={"ts_event": stamp, "ts_init": stamp, "rate": rate},
        source=place.source,
        lines=place.lines,
    )
