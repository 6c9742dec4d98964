from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import binance_archive, freqtrade
from adapters.binance_archive import nominal_settlement
from adapters.options import ImportOptions
from adapters.sources import open_source
from catalog.errors import DataError
from catalog.timestamps import NS_PER_HOUR, parse_time

PERP = "BTCUSDT-PERP.BINANCE-15-MINUTE-LAST-EXTERNAL"
SPOT = "BTCUSDT.BINANCE-15-MINUTE-LAST-EXTERNAL"


def read(path, options):
    source = open_source(path)
    assert binance_archive.matches(source)
    return binance_archive.read(source, options)


def same(one, other):
    return all(np.array_equal(one.columns[name], other.columns[name]) for name in one.columns)


def test_an_archive_month_equals_the_same_candles_from_freqtrade(
    klines, text_file, feather, candles, options
):
    frame = candles(96)
    bars, _ = read(text_file("BTCUSDT-15m-2024-01.csv", klines(frame)), options)
    (reference,) = freqtrade.read(open_source(feather(frame)), options)
    assert bars.series == reference.series == PERP
    assert same(bars, reference)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("unit", ["ms", "us"])
@pytest.mark.parametrize("packed", [True, False])
def test_header_stamps_and_packing_make_no_difference(
    klines, text_file, zipped, candles, options, tmp_path, header, unit, packed
):
    frame = candles(20)
    reference = read(text_file("BTCUSDT-15m-2024-01.csv", klines(frame), "reference"), options)
    text = klines(frame, header=header, unit=unit)
    if packed:
        path = zipped(tmp_path / "BTCUSDT-15m-2024-01.zip", text)
    else:
        path = text_file("BTCUSDT-15m-2024-01.csv", text)
    for batch, expected in zip(read(path, options), reference, strict=True):
        assert (batch.kind, batch.series) == (expected.kind, expected.series)
        assert same(batch, expected)
    assert read(path, options)[0].lines[0] == (2 if header else 1)


def test_the_flow_is_kept_beside_the_bars(klines, text_file, candles, options):
    text = klines(candles(3))
    bars, flow = read(text_file("BTCUSDT-15m-2024-01.csv", text), options)
    assert (flow.kind, flow.series) == ("bar_flow", bars.series)
    assert np.array_equal(flow.columns["ts_init"], bars.columns["ts_init"])
    assert flow.columns["trade_count"].tolist() == [3, 4, 5]
    second = text.splitlines()[2].split(",")
    assert flow.columns["quote_volume"][1] == float(second[7])
    assert flow.columns["taker_buy_volume"][1] == float(second[9])
    assert flow.columns["taker_buy_quote_volume"][1] == float(second[10])


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        (9, "1000.001", "line 3: taker_buy_volume must not exceed volume, was 1000 > "),
        (7, "0", "line 3: quote_volume must not be zero where volume is not"),
    ],
)
def test_flow_that_contradicts_its_candle_is_refused(
    klines, text_file, candles, options, field, value, complaint
):
    lines = klines(candles(4)).splitlines()
    row = lines[2].split(",")
    row[field] = value
    lines[2] = ",".join(row)
    path = text_file("BTCUSDT-15m-2024-01.csv", "\n".join(lines) + "\n")
    with pytest.raises(DataError, match=complaint):
        read(path, options)


def test_a_candle_without_trades_has_no_flow(klines, text_file, candles, options):
    frame = candles(4)
    frame["volume"] = 0.0
    _, flow = read(text_file("BTCUSDT-15m-2024-01.csv", klines(frame)), options)
    assert flow.columns["quote_volume"].tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("folder", "market", "series", "noted"),
    [
        ("data/futures/um/monthly/klines", None, PERP, False),
        ("data/spot/monthly/klines", None, SPOT, False),
        ("spot/futures/um", None, PERP, False),
        ("inbox", None, PERP, True),
        ("inbox", "spot", SPOT, False),
    ],
)
def test_the_folders_say_the_market(
    klines, text_file, candles, options, folder, market, series, noted
):
    path = text_file("BTCUSDT-15m-2024-01.csv", klines(candles(2)), folder)
    bars, _ = read(path, options.model_copy(update={"market": market}))
    assert bars.series == series
    assert bool(bars.notes) == noted


def test_settlements_are_put_on_their_hour(settlements, text_file, options):
    path = text_file("BTCUSDT-fundingRate-2024-01.csv", settlements(late_ms=(0, 3, 999)))
    (batch,) = read(path, options)
    hours = parse_time("2024-01-01") + np.arange(9) * 8 * NS_PER_HOUR
    assert batch.columns["ts_event"].tolist() == hours.tolist()
    assert batch.columns["ts_init"].tolist() == hours.tolist()
    assert batch.columns["rate"].tolist() == [(row - 3) / 10_000 for row in range(9)]
    assert "6 settlement stamps put on their hour" in batch.notes


def test_a_settlement_without_header_or_far_from_its_hour(settlements, text_file, options):
    text = settlements(count=2, late_ms=(0, 1_500), header=False)
    (batch,) = read(text_file("BTCUSDT-fundingRate-2024-01.csv", text), options)
    start = parse_time("2024-01-01")
    late = start + 8 * NS_PER_HOUR + 1_500 * 10**6
    assert batch.columns["ts_init"].tolist() == [start, late]


@given(
    hour=st.integers(350_000, 500_000),
    late=st.integers(0, NS_PER_HOUR - 1),
)
def test_a_settlement_is_never_moved_forward_nor_by_a_second(hour, late):
    stamp = np.array([hour * NS_PER_HOUR + late], dtype=np.int64)
    moved = nominal_settlement(stamp)
    assert 0 <= stamp[0] - moved[0] < 10**9
    assert nominal_settlement(moved)[0] == moved[0]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("candles.csv", "the file's name must say its symbol, was 'candles'"),
        ("BTCUSDT-7m-2024-01.csv", "interval must be one of .*, was '7m'"),
        ("BTCUSDT-1w-2024-01.csv", "interval must be one of .*, was '1w'"),
        ("BTCUSDT-fundingRate-2024-01.csv", "the name says funding, the content is candles"),
        ("BTCUSDT-1h-2024-01.csv", "a candle must open on a multiple of its interval"),
        ("BTCUSDT-5m-2024-01.csv", "must lie that far apart, was 15m everywhere"),
    ],
)
def test_a_name_that_does_not_fit_is_refused(klines, text_file, candles, options, name, complaint):
    path = text_file(name, klines(candles(8)))
    with pytest.raises(DataError, match=complaint):
        read(path, options)


def test_coin_margined_futures_are_refused(klines, text_file, candles, options):
    path = text_file("BTCUSD_PERP-15m-2024-01.csv", klines(candles(2)), "data/futures/cm")
    with pytest.raises(DataError, match="must say its symbol"):
        read(path, options)
    path = text_file("BTCUSD-15m-2024-01.csv", klines(candles(2)), "data/futures/cm")
    with pytest.raises(DataError, match=r"coin-margined \(cm\), which is not supported"):
        read(path, options)


def test_a_candle_cut_short_is_refused(klines, text_file, candles, options):
    lines = klines(candles(3)).splitlines()
    fields = lines[2].split(",")
    fields[6] = str(int(fields[6]) - 60_000)
    lines[2] = ",".join(fields)
    path = text_file("BTCUSDT-15m-2024-01.csv", "\n".join(lines))
    with pytest.raises(DataError, match="line 3: close_time must be the end of the interval"):
        read(path, options)


def test_the_last_candle_of_an_unfinished_day_is_from_the_future(klines, text_file, candles):
    path = text_file("BTCUSDT-15m-2024-01.csv", klines(candles(4)))
    with pytest.raises(
        DataError, match=r"line 5: the close of a candle must not lie in the future"
    ):
        read(path, ImportOptions(now_ns=parse_time("2024-01-01T00:50")))
