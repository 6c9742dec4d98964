"""Bad input: each is refused with the rule, the count and the lines, and nothing is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.checks import check_batch
from catalog.errors import DataError
from catalog.instruments import bar_type
from catalog.records import Batch
from catalog.store import Catalog
from catalog.timestamps import parse_time
from tests.catalog.builders import (
    BTC,
    BTC_15M,
    QUARTER,
    START,
    bar_columns,
    bar_flow,
    bars,
    every_kind,
    funding,
    index,
    news,
    onchain,
)

NOW = parse_time("2025-01-01")


def changed(batch: Batch, name: str, row: int, value: Any) -> Batch:
    columns = {key: np.array(values) for key, values in batch.columns.items()}
    columns[name][row] = value
    return dataclasses.replace(batch, columns=columns)


@pytest.mark.parametrize("batch", every_kind(), ids=lambda batch: batch.kind)
def test_sound_batches_pass_unchanged(batch: Batch) -> None:
    checked = check_batch(batch, NOW)
    assert (checked.duplicates, checked.offered, checked.notes) == (0, len(batch), ())
    for name, values in checked.records.items():
        if values.dtype == np.float64:
            np.testing.assert_allclose(values, batch.columns[name], rtol=1e-15)
        else:
            np.testing.assert_array_equal(values, batch.columns[name])


@pytest.mark.parametrize(
    ("name", "row", "value", "text"),
    [
        (
            "high",
            3,
            1.0,
            r"high must not be below low; was not in 1 of 8 records: line 5 \(ts_init",
        ),
        ("low", 0, 99_999.0, "high must not be below low"),
        ("close", 2, 1.0, r"open and close must lie between low and high; .* line 4"),
        ("open", 7, 0.0, r"open must be a positive price; .* line 9 \(ts_init .*, open 0\.0\)"),
        ("close", 1, -5.0, "close must be a positive price"),
        ("volume", 1, -1.0, "volume must be zero or a positive quantity"),
        ("volume", 1, 1e15, "volume must be zero or a positive quantity"),
        ("close", 4, np.nan, "open, high, low, close, volume must be finite numbers; .* line 6"),
        ("high", 4, np.inf, "must be finite numbers"),
        ("ts_init", 5, START + 6 * QUARTER + 1, "ts_event of a bar must be its close"),
        ("ts_event", 5, START + 6 * QUARTER + 1, "ts_init must not be earlier than ts_event"),
        ("ts_event", 5, 1_704_067_200, "ts_event of a bar must be its close"),
        ("ts_init", 5, 2**62, "ts_init must be UTC nanoseconds between 1970 and 2100"),
        ("volume", 6, 1 / 3, "volume must be a decimal number of at most 16 decimals"),
    ],
)
def test_impossible_bars_are_refused(name: str, row: int, value: float, text: str) -> None:
    with pytest.raises(DataError, match=text):
        check_batch(changed(bars(), name, row, value), NOW)


def test_bars_off_their_grid_are_refused() -> None:
    columns = bar_columns(0, 4)
    stamps = columns["ts_init"] + 60_000_000_000
    with pytest.raises(DataError, match=r"ts_init must lie on the grid of 15m bars; was not in 4"):
        check_batch(bars(0, 4, ts_init=stamps, ts_event=stamps), NOW)


def test_a_candle_from_the_future_is_refused() -> None:
    batch = bars(0, 8)
    now = int(batch.columns["ts_init"][5])
    with pytest.raises(
        DataError,
        match=r"ts_init must not lie in the future \(it is 2024-01-01 01:30:00\); was not in 2 "
        r"of 8 records: line 8 \(ts_init 2024-01-01 01:45:00\); line 9",
    ):
        check_batch(batch, now)
    assert len(check_batch(batch, now + 2 * QUARTER).records["ts_init"]) == 8


def test_shuffled_rows_are_sorted_and_said_so() -> None:
    order = np.array([0, 3, 1, 2, 7, 4, 5, 6])
    batch = bars()
    columns = {name: values[order] for name, values in batch.columns.items()}
    checked = check_batch(dataclasses.replace(batch, columns=columns), NOW)
    assert checked.notes == ("2 records were out of order, first at line 4: sorted",)
    np.testing.assert_array_equal(checked.records["ts_init"], batch.columns["ts_init"])


def test_newest_first_is_an_order_too() -> None:
    batch = bars()
    columns = {name: values[::-1] for name, values in batch.columns.items()}
    checked = check_batch(dataclasses.replace(batch, columns=columns), NOW)
    assert checked.notes == ()
    np.testing.assert_array_equal(checked.records["ts_init"], batch.columns["ts_init"])


def test_exact_repetitions_are_dropped_and_counted() -> None:
    batch = bars()
    rows = np.array([0, 1, 1, 2, 3, 3, 3])
    columns = {name: values[rows] for name, values in batch.columns.items()}
    checked = check_batch(Batch("bars", BTC_15M, columns, "x.csv"), NOW)
    assert (checked.offered, checked.duplicates, len(checked.records["close"])) == (7, 3, 4)
    assert checked.notes == ("3 records repeated another one exactly: dropped",)


def test_contradicting_repetitions_are_refused() -> None:
    batch = bars()
    rows = np.array([0, 1, 1, 2])
    columns = {name: np.array(values[rows]) for name, values in batch.columns.items()}
    columns["volume"][2] += 1
    with pytest.raises(
        DataError,
        match=r"records of the same time and key must agree; was not in 1 of 4 .*record 2",
    ):
        check_batch(Batch("bars", BTC_15M, columns, "x.csv"), NOW)


def test_many_faults_show_the_first_and_count_the_rest() -> None:
    with pytest.raises(DataError, match=r"was not in 20 of 20 records: .* and 15 more"):
        check_batch(bars(0, 20, close=np.zeros(20)), NOW)


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (
            changed(funding(), "rate", 1, 1.5),
            "rate must be a fraction of the notional from -1 to 1",
        ),
        (changed(funding(), "rate", 1, np.nan), "rate must be finite"),
        (changed(index(), "low", 1, 1e6), "high must not be below low"),
        (changed(onchain({"A": [1.0, 2.0]}), "value", 0, np.inf), "value must be finite"),
        (changed(bar_flow(), "taker_buy_volume", 0, -1.0), "taker_buy_volume must be zero or"),
        (changed(bar_flow(), "taker_buy_quote_volume", 0, 1e9), "must not exceed quote_volume"),
        (changed(news(), "score", 0, 2.0), r"score must be from -1 to 1"),
        (changed(news(), "headline", 0, ""), "must hold texts that are not empty"),
        (changed(news(), "headline", 0, None), "column headline must hold texts"),
        (changed(news(), "ts_published", 0, 2 * START), "ts_published must not be later than"),
        (changed(onchain({"A": [1.0]}), "metric", 0, "a\0b"), "contain no zero byte"),
    ],
)
def test_impossible_records_of_other_kinds_are_refused(batch: Batch, text: str) -> None:
    with pytest.raises(DataError, match=text):
        check_batch(batch, NOW)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "ticks"}, "kind must be one of bars, funding"),
        ({"series": "../../etc"}, "series must consist of letters, digits"),
        ({"series": "BTCUSDT-PERP.BINANCE-7-MINUTE-LAST-EXTERNAL"}, "bar type must look like"),
        ({"source": "/elsewhere/x.csv"}, "source must be a file's name"),
        ({"source": ""}, "source must be a file's name"),
        ({"vintage": "a/b"}, "vintage must consist of letters"),
        ({"vintage": "restated-1"}, "must not begin with 'restated-'"),
        ({"known_at": 1}, "known_at must come with a vintage's name"),
        ({"lines": np.arange(3)}, "lines must be as many as records, was 3 for 8"),
    ],
)
def test_impossible_batches_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        check_batch(dataclasses.replace(bars(), **changes), NOW)


def test_columns_must_be_complete_known_equally_long_and_of_their_type() -> None:
    columns = bar_columns(0, 4)
    without = {name: values for name, values in columns.items() if name != "volume"}
    cases = [
        (without, "missing: volume"),
        (columns | {"vwap": columns["close"]}, "bars has no columns vwap"),
        (columns | {"close": columns["close"][:3]}, "columns must be equally long"),
        (columns | {"close": columns["close"].astype(str)}, "column close must be .* type float"),
        (columns | {"ts_init": columns["ts_init"] / 1.0}, "column ts_init must be .* of type int"),
        ({name: values[:0] for name, values in columns.items()}, "at least one record"),
    ]
    for bad, text in cases:
        with pytest.raises(DataError, match=text):
            check_batch(Batch("bars", BTC_15M, bad, "x.csv"), NOW)


def test_a_refused_source_leaves_the_catalog_as_it_was(catalog: Catalog) -> None:
    catalog.ingest([bars(0, 8)])
    before = {path: path.read_bytes() for path in catalog.path.rglob("*") if path.is_file()}
    good_half, bad_half = bars(8, 4, source="f"), bars(12, 4, source="f", close=np.zeros(4))
    report = catalog.ingest([good_half, bad_half])
    assert report.commit is None
    assert [result.refused[:34] for result in report.refused] == [
        "close must be a positive price; wa"
    ] * 2
    after = {path: path.read_bytes() for path in catalog.path.rglob("*") if path.is_file()}
    assert {path.name for path in before} == {path.name for path in after}
    assert all(before[path] == after[path] for path in before if path.name != ".lock")


def test_a_refused_source_does_not_stop_another(catalog: Catalog) -> None:
    eth = bar_type("ETHUSDT-PERP.BINANCE", "15m")
    bad = bars(0, 4, source="bad.csv", close=np.zeros(4))
    good = bars(0, 4, series=eth, source="good.csv")
    report = catalog.ingest([bad, good])
    assert [result.source for result in report.refused] == ["bad.csv"]
    assert report.added == 4
    assert [info.series for info in catalog.series()] == [eth]


def test_an_instrument_without_a_recognisable_name_is_refused(catalog: Catalog) -> None:
    report = catalog.ingest([bars(series=bar_type("XAU.LBMA", "15m"))])
    (result,) = report.refused
    assert "instrument id must look like BTCUSDT-PERP.BINANCE" in result.refused
    assert catalog.instruments() == []


def test_an_importer_that_fails_half_way_changes_nothing(catalog: Catalog) -> None:
    def importer() -> Any:
        yield bars()
        raise DataError("btc.csv: close must be a number, was 'n/a' in line 12")

    with pytest.raises(DataError, match="was 'n/a' in line 12"):
        catalog.ingest(importer())
    assert catalog.series() == []
    assert not (Path(catalog.path) / "staging").exists()
    assert BTC not in catalog.instruments()


@pytest.mark.parametrize("series", ["hello", "BTCUSDT.BINANCE", "BTCUSDT-PERP"])
def test_only_perpetuals_pay_funding(series: str) -> None:
    with pytest.raises(DataError, match=f"must be the id of a perpetual.*, was '{series}'"):
        check_batch(funding(instrument=series), NOW)
    assert check_batch(funding(instrument="XUSDT-PERP.VENUE"), NOW).offered == 5
