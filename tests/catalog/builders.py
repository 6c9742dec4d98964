"""Small batches for the catalog's tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from catalog.instruments import bar_type
from catalog.records import Batch
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, parse_time

START = parse_time("2024-01-01")
QUARTER = 15 * NS_PER_MINUTE
BTC = "BTCUSDT-PERP.BINANCE"
ETH = "ETHUSDT-PERP.BINANCE"
BTC_15M = bar_type(BTC, "15m")


def bar_columns(first: int, count: int, *, decimals: int = 1) -> dict[str, Any]:
    """Return bars number `first` up to `first + count`; a bar depends on its number alone."""
    number = np.arange(first, first + count)
    step = 10**-decimals
    low = np.round(40_000 + 50 * np.sin(number / 7), decimals)
    spread = np.round((1 + number % 13) * step, decimals)
    ts_init = START + (number + 1) * QUARTER
    return {
        "ts_event": ts_init,
        "ts_init": ts_init,
        "open": np.round(low + spread * (number % 2), decimals),
        "high": np.round(low + 2 * spread, decimals),
        "low": low,
        "close": np.round(low + spread, decimals),
        "volume": np.round(1.0 + number % 97 / 8, 3),
    }


def bars(
    first: int = 0,
    count: int = 8,
    *,
    series: str = BTC_15M,
    source: str = "btc.feather",
    **changes: Any,
) -> Batch:
    fields = {name: changes.pop(name) for name in list(changes) if name in BATCH_FIELDS}
    columns = bar_columns(first, count) | {name: np.asarray(x) for name, x in changes.items()}
    lines = np.arange(len(columns["ts_init"])) + 2
    return Batch("bars", series, columns, source, **({"lines": lines} | fields))


BATCH_FIELDS = ("lines", "vintage", "known_at", "synthetic", "notes")


def funding(first: int = 0, count: int = 5, *, instrument: str = BTC, **fields: Any) -> Batch:
    number = np.arange(first, first + count)
    stamps = START + number * 8 * NS_PER_HOUR
    rates = np.round(1e-4 * np.sin(number), 8)
    columns = {"ts_event": stamps, "ts_init": stamps, "rate": rates}
    return Batch("funding", instrument, columns, "funding.feather", **fields)


def onchain(
    values: dict[str, list[float]],
    *,
    first_day: int = 0,
    delay: int = NS_PER_HOUR,
    source: str = "onchain.csv",
    **fields: Any,
) -> Batch:
    """Return daily metrics: the value at position d belongs to day `first_day` + d."""
    stamps, metrics, numbers = [], [], []
    for metric, series in values.items():
        for day, value in enumerate(series, start=first_day):
            stamps.append(START + (day + 1) * NS_PER_DAY)
            metrics.append(metric)
            numbers.append(value)
    ts_event = np.array(stamps, dtype=np.int64)
    columns = {
        "ts_event": ts_event,
        "ts_init": ts_event + delay,
        "metric": np.array(metrics, dtype=object),
        "value": np.array(numbers),
        "unit": np.array(["count"] * len(numbers), dtype=object),
    }
    return Batch("onchain", "coinmetrics.btc", columns, source, **fields)


def index(count: int = 5, **fields: Any) -> Batch:
    number = np.arange(count)
    stamps = START + (number + 1) * NS_PER_HOUR
    level = 50.0 + number
    columns = {
        "ts_event": stamps,
        "ts_init": stamps,
        "open": level,
        "high": level + 1,
        "low": level - 1,
        "close": level + 0.5,
        "unit": np.array(["percent per year"] * count, dtype=object),
    }
    return Batch("index", "dvol.btc", columns, "dvol.parquet", **fields)


def bar_flow(first: int = 0, count: int = 8, **fields: Any) -> Batch:
    number = np.arange(first, first + count)
    stamps = START + (number + 1) * QUARTER
    columns = {
        "ts_event": stamps,
        "ts_init": stamps,
        "quote_volume": 1_000.0 + number,
        "trade_count": 10 + number,
        "taker_buy_volume": 0.5 + number / 8,
        "taker_buy_quote_volume": 500.0 + number,
    }
    return Batch("bar_flow", BTC_15M, columns, "btc-2024-01.zip", **fields)


def news(headlines: tuple[str, ...] = ("up", "down", "sideways"), **fields: Any) -> Batch:
    count = len(headlines)
    stamps = START + np.arange(count) * NS_PER_HOUR
    columns = {
        "ts_event": stamps,
        "ts_init": stamps + 40 * NS_PER_MINUTE,
        "source": np.array(["outlet"] * count, dtype=object),
        "asset": np.array(["btc"] * count, dtype=object),
        "headline": np.array(headlines, dtype=object),
        "score": np.where(np.arange(count) % 2 == 0, 0.25, np.nan),
        "ts_published": stamps,
    }
    return Batch("news", "wire", columns, "wire.csv", **fields)


def every_kind() -> list[Batch]:
    return [bars(), funding(), onchain({"AdrActCnt": [1.0, 2.0]}), index(), bar_flow(), news()]
