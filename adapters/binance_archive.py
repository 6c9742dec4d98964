"""Monthly candles and funding rates of Binance's public archive, as CSV or zip.

The content says which it is: twelve columns are candles, three are funding settlements; a header
line is there in some months and absent in others; stamps are milliseconds, and microseconds in
spot files since 2025. Symbol and interval stand in the name
(``BTCUSDT-15m-2024-01.zip``, ``BTCUSDT-fundingRate-2024-01.zip``), the market in the archive's
folders (``data/futures/um``, ``data/spot``).

Stamps are put on the grid that they stand for. A candle closes one millisecond before its interval
ends (x:59.999): it counts as known at open + interval. A settlement is booked a few milliseconds
after its hour (08:00:00.003): within one second it counts as the hour's, because the same
settlement from another source must be the same record and not a second payment, and because a
candle that closes at 08:00 is itself idealised to that instant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from adapters import checks
from adapters.checks import FloatColumn, IntColumn, Place
from adapters.options import ImportOptions
from adapters.sources import SourceFile, TextTable, read_text
from catalog.errors import ConfigError, DataError
from catalog.instruments import bar_type
from catalog.records import AnyArray, Batch
from catalog.timestamps import NS_PER_HOUR, NS_PER_SECOND, interval_ns

VENUE = "BINANCE"
KLINE_COLUMNS = (
    "open_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "close_time",
    "quote_volume",
    "count",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "ignore",
)
FUNDING_COLUMNS = ("calc_time", "funding_interval_hours", "last_funding_rate")
SETTLEMENT_SLACK_NS = NS_PER_SECOND
_MICROSECONDS_FROM = 10**14
"""Milliseconds stay below this until the year 5138; microseconds passed it in 1973."""
_NAME = re.compile(
    r"(?P<symbol>[A-Z0-9]+)-(?P<what>\d+[A-Za-z]+|fundingRate)-\d{4}-\d{2}(?:-\d{2})?"
)
_EXPECTED_NAME = (
    "name it as the archive does, such as BTCUSDT-15m-2024-01.zip or "
    "BTCUSDT-fundingRate-2024-01.zip"
)


class Market(NamedTuple):
    """What the name and the folders of an archive file say."""

    instrument_id: str
    what: str
    """An interval such as ``15m``, or ``fundingRate``."""
    notes: tuple[str, ...]


def matches(source: SourceFile) -> bool:
    """Return whether a file is a text of candles or settlements as the archive writes them."""
    return source.format == "csv" and _expected_columns(source) is not None


def read(source: SourceFile, options: ImportOptions) -> list[Batch]:
    """Read one archive file: candles give `bars` and `bar_flow`, settlements `funding`.

    Parameters
    ----------
    source : SourceFile
        The file.
    options : ImportOptions
        Gives the market where the path is silent, and the clock.

    Raises
    ------
    DataError
        If the file is damaged, its name says no symbol, or a row cannot be.
    """
    expected = _expected_columns(source)
    if expected is None:
        raise DataError(f"{source.name}: must be an archive file, was another table")
    headed = not _is_number(source.columns[0])
    table = read_text(source, header=None if headed else expected)
    checks.require_columns(source.name, tuple(table.columns), expected)
    checks.require_rows(source.name, len(table))
    market = parse_name(source, options)
    place = Place(source.name, table.lines)
    if expected is FUNDING_COLUMNS:
        return [_funding(place, market, table, options)]
    return _klines(place, market, table, options)


def parse_name(source: SourceFile, options: ImportOptions) -> Market:
    """Read the symbol and what the file holds from its name, and the market from its folders.

    Raises
    ------
    DataError
        If the name has another form or the market is not supported.
    """
    match = _NAME.fullmatch(source.stem)
    if match is None:
        raise DataError(
            f"{source.name}: the file's name must say its symbol, was {source.stem!r}; "
            + _EXPECTED_NAME
        )
    notes: tuple[str, ...] = ()
    market = options.market or _market_of(source)
    if market is None:
        market = "um"
        notes = ("taken as a USDT-margined perpetual: the path names no market",)
    suffix = "-PERP" if market == "um" else ""
    return Market(f"{match['symbol']}{suffix}.{VENUE}", match["what"], notes)


def _market_of(source: SourceFile) -> str | None:
    """Return the market of the innermost folders that name one."""
    folders = source.folders
    for at in range(len(folders) - 1, -1, -1):
        if folders[at] == "spot":
            return "spot"
        if at > 0 and folders[at - 1] == "futures" and folders[at] in {"um", "cm"}:
            if folders[at] == "um":
                return "um"
            raise DataError(
                f"{source.name}: the market must be USDT-margined futures (um) or spot, was "
                "coin-margined (cm), which is not supported"
            )
    return None


def _expected_columns(source: SourceFile) -> tuple[str, ...] | None:
    if source.delimiter != ",":
        return None
    if source.has("open_time", "close_time") or source.has("open_time", "taker_buy_volume"):
        return KLINE_COLUMNS
    if source.has("calc_time") or source.has("last_funding_rate"):
        return FUNDING_COLUMNS
    width = len(source.columns)
    if not _is_stamp(source.columns[0]):
        return None
    return {len(KLINE_COLUMNS): KLINE_COLUMNS, len(FUNDING_COLUMNS): FUNDING_COLUMNS}.get(width)


def _klines(place: Place, market: Market, table: TextTable, options: ImportOptions) -> list[Batch]:
    if market.what == "fundingRate":
        raise DataError(f"{place.source}: the name says funding, the content is candles; rename it")
    try:
        length = interval_ns(market.what)
    except ConfigError as error:
        raise DataError(f"{place.source}: {error}") from error
    open_ns = _stamps(place, "open_time", table)
    prices = {
        name: checks.numbers(place, name, table.columns[name])
        for name in ("open", "high", "low", "close", "volume")
    }
    checks.check_ascending(place, open_ns, "a candle")
    checks.check_candles(place, open_ns, prices, length)
    checks.check_spacing(place, open_ns, length)
    _check_close_stamps(place, open_ns, _stamps(place, "close_time", table), length)
    close_ns = open_ns + length
    checks.check_times(place, close_ns, options.clock_ns(), "the close of a candle")
    times = {"ts_event": close_ns, "ts_init": close_ns}
    series = bar_type(market.instrument_id, market.what)
    flow = {
        "quote_volume": checks.numbers(place, "quote_volume", table.columns["quote_volume"]),
        "trade_count": checks.whole_numbers(place, "count", table.columns["count"]),
        "taker_buy_volume": checks.numbers(
            place, "taker_buy_volume", table.columns["taker_buy_volume"]
        ),
        "taker_buy_quote_volume": checks.numbers(
            place, "taker_buy_quote_volume", table.columns["taker_buy_quote_volume"]
        ),
    }
    _check_flow(place, prices["volume"], flow)
    source, lines = place.source, place.lines
    return [
        Batch("bars", series, times | prices, source, lines, notes=market.notes),
        Batch("bar_flow", series, times | flow, source, lines),
    ]


def _check_flow(place: Place, volume: FloatColumn, flow: Mapping[str, AnyArray]) -> None:
    """Refuse order flow that contradicts the candle that it is a part of."""
    bought = flow["taker_buy_volume"]
    place.refuse(
        bought > volume * (1 + 1e-9),
        "taker_buy_volume must not exceed volume",
        lambda row: f"{bought[row]:g} > {volume[row]:g}",
    )
    place.refuse(
        (flow["quote_volume"] == 0) & (volume > 0),
        "quote_volume must not be zero where volume is not",
        lambda row: f"zero with a volume of {volume[row]:g}",
    )


def _check_close_stamps(place: Place, open_ns: IntColumn, stamp_ns: IntColumn, length: int) -> None:
    """Refuse candles cut short: the archive's close stamp is the last unit of the interval."""
    last_unit = open_ns + length - stamp_ns
    place.refuse(
        (last_unit < 0) | (last_unit > NS_PER_SECOND // 1000),
        "close_time must be the end of the interval that opens at open_time",
        lambda row: f"{stamp_ns[row]} ns for the open at {open_ns[row]} ns",
        "the candle is unfinished or of another interval than the name says",
    )


def _funding(place: Place, market: Market, table: TextTable, options: ImportOptions) -> Batch:
    if market.what != "fundingRate":
        raise DataError(f"{place.source}: the name says candles, the content is funding; rename it")
    if "-PERP" not in market.instrument_id:
        raise DataError(f"{place.source}: funding must belong to a perpetual, the path says spot")
    return funding_batch(place, market, table, options)


def funding_batch(place: Place, market: Market, table: TextTable, options: ImportOptions) -> Batch:
    """Return settlements, columns `calc_time` and `last_funding_rate` (a fraction), as a batch.

    Raises
    ------
    DataError
        If a row cannot be.
    """
    stamp = _stamps(place, "calc_time", table)
    checks.check_ascending(place, stamp, "a settlement")
    rate = checks.numbers(place, "last_funding_rate", table.columns["last_funding_rate"])
    checks.check_funding(place, rate)
    settled = nominal_settlement(stamp)
    checks.check_ascending(place, settled, "a settlement")
    checks.check_times(place, settled, options.clock_ns(), "a settlement")
    moved = int(np.count_nonzero(settled != stamp))
    notes = (f"{moved} settlement stamps put on their hour",) if moved else ()
    columns = {"ts_event": settled, "ts_init": settled, "rate": rate}
    return Batch(
        "funding",
        market.instrument_id,
        columns,
        place.source,
        place.lines,
        notes=market.notes + notes,
    )


def nominal_settlement(stamp_ns: IntColumn) -> IntColumn:
    """Return the hour of settlements stamped less than a second after it, others unchanged.

    Parameters
    ----------
    stamp_ns : (n_records,) int64 array
        When the exchange booked each settlement, UTC nanoseconds.
    """
    late = stamp_ns % NS_PER_HOUR
    return np.where(late < SETTLEMENT_SLACK_NS, stamp_ns - late, stamp_ns)


def _stamps(place: Place, name: str, table: TextTable) -> IntColumn:
    """Return stamps in nanoseconds, telling milliseconds from microseconds by their size."""
    stamp = checks.whole_numbers(place, name, table.columns[name])
    place.refuse(
        (stamp <= 0) | (stamp >= 10**17),
        f"{name} must be milliseconds or microseconds since 1970",
        lambda row: stamp[row],
    )
    unit = np.where(stamp < _MICROSECONDS_FROM, np.int64(10**6), np.int64(10**3))
    return np.asarray(stamp * unit, dtype=np.int64)


def _is_stamp(text: str) -> bool:
    return text.isdecimal() and len(text) in {13, 16}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
