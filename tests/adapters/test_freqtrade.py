from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from adapters import freqtrade
from adapters.options import ImportOptions
from adapters.sources import open_source
from catalog.errors import DataError
from catalog.timestamps import interval_ns, parse_time


def read(path, options):
    source = open_source(path)
    assert freqtrade.matches(source)
    (batch,) = freqtrade.read(source, options)
    return batch


@pytest.mark.parametrize("interval", ["1m", "5m", "15m", "1h", "4h", "1d"])
def test_a_candle_is_known_at_its_close(feather, candles, options, interval):
    frame = candles(5, interval=interval)
    batch = read(feather(frame, f"BTC_USDT_USDT-{interval}-futures.feather"), options)
    opened = frame["date"].to_numpy("datetime64[ns]").astype(np.int64)
    assert batch.kind == "bars"
    assert batch.columns["ts_init"].tolist() == (opened + interval_ns(interval)).tolist()
    assert np.array_equal(batch.columns["ts_event"], batch.columns["ts_init"])
    for name in ("open", "high", "low", "close", "volume"):
        assert batch.columns[name].tolist() == frame[name].tolist()
    assert batch.lines.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("BTC_USDT_USDT-15m-futures.feather", "BTCUSDT-PERP.BINANCE-15-MINUTE-LAST-EXTERNAL"),
        ("BTC_USDT-15m.feather", "BTCUSDT.BINANCE-15-MINUTE-LAST-EXTERNAL"),
        (
            "1000PEPE_USDT_USDT-15m-futures.feather",
            "1000PEPEUSDT-PERP.BINANCE-15-MINUTE-LAST-EXTERNAL",
        ),
    ],
)
def test_the_name_says_the_market(feather, candles, options, name, series):
    assert read(feather(candles(4), name), options).series == series


def funding_frame(rates, start="2024-01-01"):
    stamps = pd.to_datetime(
        parse_time(start) + np.arange(len(rates)) * interval_ns("8h"), utc=True
    ).as_unit("ns")
    zeros = dict.fromkeys(("high", "low", "close", "volume"), 0.0)
    return pd.DataFrame({"date": stamps, "open": rates, **zeros})


def test_a_funding_rate_stands_in_open_and_is_known_at_its_settlement(feather, options):
    frame = funding_frame([0.0001, -0.0002, 0.0])
    batch = read(feather(frame, "BTC_USDT_USDT-8h-funding_rate.feather"), options)
    assert (batch.kind, batch.series) == ("funding", "BTCUSDT-PERP.BINANCE")
    assert batch.columns["rate"].tolist() == [0.0001, -0.0002, 0.0]
    start = parse_time("2024-01-01")
    stamps = [start, start + interval_ns("8h"), start + 2 * interval_ns("8h")]
    assert batch.columns["ts_event"].tolist() == stamps
    assert batch.columns["ts_init"].tolist() == stamps


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("bitcoin.feather", "the file's name must say its market, was 'bitcoin'"),
        ("BTC_USDT_USDT-7m-futures.feather", "interval must be one of 1m, .*was '7m'"),
        ("BTC_USD_BTC-15m-futures.feather", "must be margined in its quote currency"),
        ("BTC_USDT_USDT-15m-mark.feather", "must fit the market, was 'mark'"),
        ("BTC_USDT-15m-futures.feather", "must fit the market, was 'futures'"),
        (
            "BTC_USDT_USDT-8h-funding_rate.feather",
            "the name says funding_rate, the content candles",
        ),
        ("BTC_USDT_USDT-5m-futures.feather", "must lie that far apart, was 15m everywhere"),
        ("BTC_USDT_USDT-1h-futures.feather", "row 2: a candle must open on a multiple of .*60m"),
    ],
)
def test_a_name_that_does_not_fit_is_refused(feather, candles, options, name, complaint):
    path = feather(candles(8), name)
    with pytest.raises(DataError, match=complaint):
        freqtrade.read(open_source(path), options)


def test_funding_under_a_candles_name_is_refused(feather, options):
    path = feather(funding_frame([0.0001, 0.0002]), "BTC_USDT_USDT-8h-futures.feather")
    with pytest.raises(DataError, match="had zeros in high, low, close and volume"):
        freqtrade.read(open_source(path), options)


def test_a_percentage_is_no_funding_rate(feather, options):
    path = feather(funding_frame([0.01, 1.5]), "BTC_USDT_USDT-8h-funding_rate.feather")
    with pytest.raises(DataError, match=r"row 2: a funding rate must be a fraction .* was 1.5"):
        freqtrade.read(open_source(path), options)


def test_a_candle_that_has_not_closed_is_from_the_future(feather, candles):
    path = feather(candles(4))
    just_before = ImportOptions(now_ns=parse_time("2024-01-01T00:59:59"))
    with pytest.raises(DataError, match=r"row 4: the close of a candle must not lie in the future"):
        freqtrade.read(open_source(path), just_before)
    at_the_close = ImportOptions(now_ns=parse_time("2024-01-01T01:00:00"))
    assert len(freqtrade.read(open_source(path), at_the_close)[0]) == 4


def test_anchors_of_the_real_files(shared_data, options):
    """The README's anchor for spot, and the perpetual's first open."""
    spot = read(shared_data / "bars/spot/BTC_USDT-15m.feather", options)
    first_of_2024 = parse_time("2024-01-01T00:15:00")
    (row,) = np.flatnonzero(spot.columns["ts_init"] == first_of_2024)
    assert spot.columns["open"][row] == 42_283.58
    perp = read(shared_data / "bars/perp/BTC_USDT_USDT-15m-futures.feather", options)
    assert perp.columns["ts_init"][0] == parse_time("2023-01-01T00:15:00")
    # The spot market opened that day at 16,541.77: the perpetual lies within a few basis points.
    assert perp.columns["open"][0] == pytest.approx(16_541.77, rel=5e-4)
    assert len(perp) == 83_328
    assert np.unique(np.diff(perp.columns["ts_init"])).tolist() == [interval_ns("15m")]
