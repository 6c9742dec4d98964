"""Daily on-chain metrics: Coin Metrics' CSV and Etherscan's chart exports.

A row describes a whole day, and `time` is the START of it: ``ts_event`` is the day's end. Coin
Metrics says in `AssetEODCompletionTime` (Unix seconds) when the day was complete in its store, and
that is ``ts_init``. Mind that the vendor recomputed its history in 2021: days before carry that
later stamp and therefore count as known only from then on, which is late but never early. Where
the stamp is absent, and for Etherscan, a day counts as known at its end plus
`ImportOptions.publication_delay_hours`.

Vintages. The vendor restates exchange flows, so a later download says other things about the same
days. A file is a later vintage if its name says so (``coinmetrics_btc_vintage2.csv``). No file says
when it was downloaded: `ImportOptions.known_at_ns` does, or else vintage n counts as downloaded
n - 1 quarters (of `VINTAGE_SPACING_DAYS`) after the end of its last day. Values of the vintage
are known from that moment, however old the days that they describe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters import checks
from adapters.checks import FloatColumn, IntColumn, Place
from adapters.options import ImportOptions
from adapters.sources import SourceFile, TextTable, read_text
from catalog.errors import DataError
from catalog.records import FIRST_VINTAGE, Batch
from catalog.timestamps import NS_PER_DAY, NS_PER_SECOND, format_time

VINTAGE_SPACING_DAYS = 92
COMPLETION = "AssetEODCompletionTime"
UNITS: Mapping[str, str] = {
    "AdrActCnt": "count",
    "AdrBalCnt": "count",
    "BlkCnt": "count",
    "CapMVRVCur": "ratio",
    "CapMrktCurUSD": "USD",
    "CapMrktEstUSD": "USD",
    "FeeTotNtv": "native units",
    "FlowInExNtv": "native units",
    "FlowInExUSD": "USD",
    "FlowOutExNtv": "native units",
    "FlowOutExUSD": "USD",
    "HashRate": "terahashes per second",
    "IssTotNtv": "native units",
    "IssTotUSD": "USD",
    "PriceBTC": "BTC",
    "PriceUSD": "USD",
    "ROI1yr": "percent",
    "ROI30d": "percent",
    "ReferenceRate": "USD",
    "ReferenceRateETH": "ETH",
    "ReferenceRateEUR": "EUR",
    "ReferenceRateUSD": "USD",
    "SplyCur": "native units",
    "SplyExNtv": "native units",
    "SplyExUSD": "USD",
    "SplyExpFut10yr": "native units",
    "TxCnt": "count",
    "TxTfrCnt": "count",
    "volume_reported_spot_usd_1d": "USD",
}
"""Units of the vendor's metrics. Others are told by their ending (`_ENDINGS`) or left out."""
_ENDINGS = {"Cnt": "count", "USD": "USD", "Ntv": "native units"}
_TIMES = ("AssetCompletionTime", COMPLETION)
_METRIC = re.compile(r"[A-Z][A-Za-z0-9]*")
_ASSET = re.compile(r"coinmetrics_(?P<asset>[a-z0-9]+)(?:_|$)", re.IGNORECASE)
_VINTAGE = re.compile(r"vintage[_-]?(?P<number>\d+)", re.IGNORECASE)

_ETHERSCAN_DATE = "Date(UTC)"
_ETHERSCAN_STAMP = "UnixTimeStamp"
_ETHERSCAN_METRICS: Mapping[str, tuple[str, str]] = {
    "TxGrowth": ("TxCnt", "count"),
    "GasUsed": ("GasUsed", "gas"),
    "AvgGasPrice": ("AvgGasPrice", "wei"),
}


@dataclass(frozen=True, slots=True)
class _Days:
    """The rows of one asset: where they are and what time they speak of."""

    place: Place
    rows: NDArray[np.int64]
    ts_event: IntColumn
    ts_init: IntColumn


def matches(source: SourceFile) -> bool:
    """Return whether a file is a Coin Metrics table: `time` and a known metric."""
    known = any(name in UNITS or name in _TIMES for name in source.columns)
    return source.format == "csv" and source.has("time") and known


def read(source: SourceFile, options: ImportOptions) -> list[Batch]:
    """Read a Coin Metrics CSV: one batch for each asset, all of its metrics together.

    Columns that are neither in `UNITS` nor named as the vendor names metrics (``…Cnt``, ``…USD``,
    ``…Ntv``) are left out and reported: a number without a definition cannot be used rightly.

    Raises
    ------
    DataError
        If the file is damaged, the asset is unknown, or a row cannot be.
    """
    return batches_of(source, read_text(source), options)


def batches_of(source: SourceFile, table: TextTable, options: ImportOptions) -> list[Batch]:
    """Return a table as `read` does, whatever it was read from; `source` names it.

    Raises
    ------
    DataError
        As `read`.
    """
    checks.require_rows(source.name, len(table))
    place = Place(source.name, table.lines)
    start = checks.times(place, "time", table["time"])
    place.refuse(
        start % NS_PER_DAY != 0,
        "time must be the midnight at which a day starts",
        lambda row: repr(table["time"][row]),
    )
    assets = np.asarray(_assets(source, table), dtype=object)
    units = {name: unit for name in table.columns if (unit := metric_unit(name)) is not None}
    if not units:
        raise DataError(f"{source.name}: must hold a metric, columns: {', '.join(table.columns)}")
    values = {name: checks.numbers(place, name, table.columns[name], empty=True) for name in units}
    known = _completion(place, table, start + NS_PER_DAY, options)
    notes = _left_out(table, units)
    batches = []
    for asset in sorted(set(assets)):
        rows = np.flatnonzero(assets == asset)
        days = _Days(place[rows], rows, start[rows] + NS_PER_DAY, known[rows])
        checks.check_ascending(days.place, days.ts_event, "a day")
        checks.check_times(days.place, days.ts_event, options.clock_ns(), "the end of a day")
        vintage, known_at = _vintage(source, int(days.ts_event[-1]), options)
        batches.append(
            Batch(
                "onchain",
                f"coinmetrics.{asset}",
                *_long_format(days, values, units),
                vintage=vintage,
                known_at=known_at,
                notes=notes + _vintage_notes(vintage, known_at),
            )
        )
        notes = ()
    return batches


def matches_etherscan(source: SourceFile) -> bool:
    """Return whether a file is an Etherscan chart export."""
    return source.format == "csv" and source.has(_ETHERSCAN_DATE, _ETHERSCAN_STAMP)


def read_etherscan(source: SourceFile, options: ImportOptions) -> list[Batch]:
    """Read a daily chart export of Etherscan: one metric of the asset ``eth``.

    The export of transactions and that of used gas have the same columns: only the name
    (``export-TxGrowth``, ``export-GasUsed``, ``export-AvgGasPrice``) tells them apart.

    Raises
    ------
    DataError
        If the file is damaged, its metric is unknown, or a row cannot be.
    """
    chart = next((name for name in _ETHERSCAN_METRICS if name in source.stem), None)
    if chart is None:
        raise DataError(
            f"{source.name}: the name must say which chart it is, one of "
            f"{', '.join('export-' + name for name in _ETHERSCAN_METRICS)}, was {source.stem!r}"
        )
    metric, unit = _ETHERSCAN_METRICS[chart]
    table = read_text(source)
    value_columns = [name for name in table.columns if name.startswith("Value")]
    checks.require_columns(source.name, [*table.columns, *value_columns[:1]], (_ETHERSCAN_STAMP,))
    if not value_columns:
        checks.require_columns(source.name, tuple(table.columns), ("Value",))
    checks.require_rows(source.name, len(table))
    place = Place(source.name, table.lines)
    seconds = checks.whole_numbers(place, _ETHERSCAN_STAMP, table.columns[_ETHERSCAN_STAMP])
    place.refuse(
        (seconds % 86_400 != 0) | (seconds < 0) | (seconds > 10**11),
        f"{_ETHERSCAN_STAMP} must be a midnight in Unix seconds",
        lambda row: seconds[row],
    )
    ts_event = seconds * NS_PER_SECOND + NS_PER_DAY
    checks.check_ascending(place, ts_event, "a day")
    checks.check_times(place, ts_event, options.clock_ns(), "the end of a day")
    value = checks.numbers(place, value_columns[0], table.columns[value_columns[0]])
    days = _Days(place, np.arange(len(table)), ts_event, _assumed(ts_event, options))
    columns, source_name, lines = _long_format(days, {metric: value}, {metric: unit})
    return [Batch("onchain", "etherscan.eth", columns, source_name, lines)]


def metric_unit(name: str) -> str | None:
    """Return the unit of one of the vendor's metrics, None if it is none that is known."""
    if name in UNITS:
        return UNITS[name]
    if _METRIC.fullmatch(name) is None:
        return None
    return next((unit for ending, unit in _ENDINGS.items() if name.endswith(ending)), None)


def _left_out(table: TextTable, units: Mapping[str, str]) -> tuple[str, ...]:
    """Name the columns that are not imported, and those that hold nothing."""
    own = {"time", "asset", *_TIMES}
    unknown = [name for name in table.columns if name not in units and name not in own]
    empty = [name for name in units if not any(table[name])]
    notes = []
    if unknown:
        notes.append(f"columns left out, not the vendor's metrics: {', '.join(unknown)}")
    if empty:
        notes.append(f"columns without a value: {', '.join(empty)}")
    return tuple(notes)


def _assets(source: SourceFile, table: TextTable) -> tuple[str, ...]:
    if "asset" in table.columns:
        return tuple(asset.strip().lower() for asset in table["asset"])
    match = _ASSET.search(source.stem)
    if match is None:
        raise DataError(
            f"{source.name}: the asset must stand in a column `asset` or in the name "
            f"(coinmetrics_btc.csv), was in neither"
        )
    return (match["asset"].lower(),) * len(table)


def _completion(
    place: Place, table: TextTable, day_end: IntColumn, options: ImportOptions
) -> IntColumn:
    """Return when each day was known: the vendor's stamp, or the day's end and the delay."""
    assumed = _assumed(day_end, options)
    if COMPLETION not in table.columns:
        return assumed
    seconds = checks.numbers(place, COMPLETION, table.columns[COMPLETION], empty=True)
    stated = np.isfinite(seconds)
    place.refuse(
        stated & ((seconds < 1.2e9) | (seconds > 1e11)),
        f"{COMPLETION} must be Unix seconds",
        lambda row: f"{seconds[row]:g}",
    )
    stamp = np.ceil(np.where(stated, seconds, 0.0)).astype(np.int64) * NS_PER_SECOND
    place.refuse(
        stated & (stamp < day_end),
        f"{COMPLETION} must not be before the end of the day described",
        lambda row: f"{format_time(int(stamp[row]))} UTC",
        "is `time` the start of the day?",
    )
    return np.where(stated, stamp, assumed)


def _assumed(day_end: IntColumn, options: ImportOptions) -> IntColumn:
    known = day_end + options.publication_delay_ns
    return checks.known_by_now(known, day_end, options.clock_ns())


def _vintage(
    source: SourceFile, last_day_end: int, options: ImportOptions
) -> tuple[str, int | None]:
    match = _VINTAGE.search(source.stem)
    if match is None and options.known_at_ns is None:
        return FIRST_VINTAGE, None
    quarters = int(match["number"]) - 1 if match else 0
    if options.known_at_ns is None and quarters == 0:
        return FIRST_VINTAGE, None
    known_at = options.known_at_ns
    if known_at is None:
        known_at = last_day_end + quarters * VINTAGE_SPACING_DAYS * NS_PER_DAY
    return format_time(known_at)[:10], known_at


def _vintage_notes(vintage: str, known_at: int | None) -> tuple[str, ...]:
    if known_at is None:
        return ()
    return (f"vintage {vintage}: its values count as known from {format_time(known_at)} UTC",)


def _long_format(
    days: _Days, values: Mapping[str, FloatColumn], units: Mapping[str, str]
) -> tuple[dict[str, NDArray[np.generic]], str, IntColumn]:
    """Turn a day's columns into one record for each metric that has a value, in order of time."""
    event, init, line, metric, value = [], [], [], [], []
    for name, column in values.items():
        present = np.isfinite(column[days.rows])
        event.append(days.ts_event[present])
        init.append(days.ts_init[present])
        line.append(days.place.lines[present])
        value.append(column[days.rows][present])
        metric.append(np.full(np.count_nonzero(present), name, dtype=object))
    names = np.concatenate(metric)
    ts_event, ts_init = np.concatenate(event), np.concatenate(init)
    order = np.lexsort((ts_event, ts_init))  # stable: the metrics of a day keep the file's order
    names = names[order]
    columns: dict[str, NDArray[np.generic]] = {
        "ts_event": ts_event[order],
        "ts_init": ts_init[order],
        "metric": names,
        "value": np.concatenate(value)[order],
        "unit": np.array([units[name] for name in names], dtype=object),
    }
    return columns, days.place.source, np.concatenate(line)[order]
