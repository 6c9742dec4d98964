from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from catalog.errors import ConfigError, DataError, IntegrityError
from catalog.store import Catalog
from tests.catalog.builders import (
    BTC,
    BTC_15M,
    ETH,
    QUARTER,
    START,
    bar_columns,
    bars,
    every_kind,
    funding,
    news,
)


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    assert not catalog.ingest(every_kind()).refused
    return catalog


def test_series_say_what_there_is(filled: Catalog) -> None:
    infos = {info.kind: info for info in filled.series()}
    assert set(infos) == {"bars", "funding", "bar_flow", "onchain", "index", "news"}
    assert infos["bars"].series == BTC_15M
    assert (infos["bars"].start, infos["bars"].end) == (START + QUARTER, START + 8 * QUARTER)
    assert (infos["bars"].rows, infos["bars"].vintages) == (8, ("first",))
    assert infos["bars"].bytes > 0
    assert [info.kind for info in filled.series("funding")] == ["funding"]
    info = filled.info()
    assert info["rows"] == sum(len(batch) for batch in every_kind())
    assert info["series"][0]["start"] == "2024-01-01 00:15:00"
    assert info["synthetic"] is False
    assert info["instruments"] == [BTC]


def test_spans_are_open_at_the_start_and_closed_at_the_end(filled: Catalog) -> None:
    found = filled.bars(BTC, "15m", START + 2 * QUARTER, START + 5 * QUARTER)
    assert ((found.ts_init - START) // QUARTER).tolist() == [3, 4, 5]
    assert found.interval_ns == QUARTER
    expected = bar_columns(2, 3)["close"]
    np.testing.assert_allclose(found.close, expected, rtol=1e-15)


def test_every_read_returns_its_records(filled: Catalog) -> None:
    rates = filled.funding(BTC, START, START + 16 * 3600 * 10**9)
    assert (rates.name, rates.unit, len(rates)) == (BTC, "fraction", 2)
    metric = filled.onchain("coinmetrics.btc", "AdrActCnt")
    assert (metric.name, metric.unit) == ("coinmetrics.btc.AdrActCnt", "count")
    assert metric.value.tolist() == [1.0, 2.0]
    level = filled.index("dvol.btc")
    assert (level.unit, level.value.tolist()) == (
        "percent per year",
        [50.5, 51.5, 52.5, 53.5, 54.5],
    )
    flow = filled.bar_flow(BTC, "15m")
    assert (len(flow), flow.trade_count.tolist()[:2]) == (8, [10, 11])
    frame = filled.news()
    assert frame["headline"].tolist() == ["up", "down", "sideways"]
    assert np.isnan(frame["score"][1])
    assert frame["ts_init"].dtype == np.int64
    assert set(frame["series"]) == {"wire"}
    assert len(level.between(level.ts_init[1], None)) == 3


def test_arrays_can_be_written_to_by_kernels(filled: Catalog) -> None:
    for values in filled.records("bars", BTC_15M).values():
        assert values.flags.writeable
        assert values.flags.c_contiguous


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (
            lambda c: c.bars(ETH, "15m"),
            r"bars must be in the catalog .*, was ETHUSDT.* it holds BTC",
        ),
        (lambda c: c.bars(BTC, "1h"), "it holds BTCUSDT-PERP.BINANCE-15-MINUTE"),
        (lambda c: c.funding(ETH), "funding must be in the catalog .*; it holds BTCUSDT"),
        (lambda c: c.index("vix"), r"was vix; it holds dvol\.btc"),
        (lambda c: c.news("blog"), "was blog; it holds wire"),
        (
            lambda c: c.bars(BTC, "15m", START - 20, START - 10),
            r"span must hold records of bars .* was empty from 2023-12-31 .* the catalog has them "
            r"from 2024-01-01 00:15:00 to 2024-01-01 02:00:00",
        ),
        (lambda c: c.bars(BTC, "15m", START + 9 * QUARTER), "was empty from .* to the end"),
        (lambda c: c.news(None, START + 10**17), "was empty from"),
        (lambda c: c.nautilus_bars(ETH, "15m"), "bars must be in the catalog"),
    ],
)
def test_what_is_missing_is_named_with_what_there_is(filled: Catalog, read: Any, text: str) -> None:
    with pytest.raises(DataError, match=text):
        read(filled)


def test_unknown_intervals_and_instruments(filled: Catalog) -> None:
    with pytest.raises(ConfigError, match="interval must be one of"):
        filled.bars(BTC, "7m")
    with pytest.raises(ConfigError, match=r"instrument must be one of BTCUSDT-PERP\.BINANCE"):
        filled.instrument("XUSDT-PERP.BINANCE")
    assert str(filled.instrument(ETH).id) == ETH


def test_news_of_all_sources_leaves_out_the_silent_ones(filled: Catalog) -> None:
    assert len(filled.news(None, None, START + 3600 * 10**9)) == 1
    assert filled.news("wire")["headline"].tolist() == ["up", "down", "sideways"]


def test_an_empty_catalog_holds_no_news(catalog: Catalog) -> None:
    with pytest.raises(DataError, match="holds no news"):
        catalog.news()


def test_data_hash_depends_on_content_and_span_alone(filled: Catalog) -> None:
    whole: list[Any] = [("bars", BTC_15M, None, None), ("funding", BTC, None, None)]
    assert filled.data_hash(whole) == filled.data_hash(whole[::-1]) == filled.data_hash(whole * 2)
    exact: list[Any] = [("bars", BTC_15M, START, START + 8 * QUARTER), whole[1]]
    assert filled.data_hash(exact) == filled.data_hash(whole)
    shorter: list[Any] = [("bars", BTC_15M, START, START + 7 * QUARTER), whole[1]]
    assert filled.data_hash(shorter) != filled.data_hash(whole)
    assert len(filled.data_hash(whole)) == 64
    filled.ingest([news(("later",)), funding(9, 2)])
    assert filled.data_hash(exact[:1]) == filled.data_hash(whole[:1])


def test_synthetic_data_are_marked(catalog: Catalog) -> None:
    catalog.ingest([bars(synthetic=True), funding(instrument=ETH)])
    assert catalog.is_synthetic([BTC, ETH])
    assert not catalog.is_synthetic([ETH])
    assert catalog.series("bars")[0].synthetic
    assert catalog.info()["synthetic"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_files_are_named(filled: Catalog, damage: str) -> None:
    file = filled.manifest.series[1].layers[0].files[0]
    path = filled.path / file.path
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[10] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:100])
    else:
        path.unlink()
    with pytest.raises(IntegrityError, match=r"file data/bars/BTCUSDT-PERP.*\.parquet of the cat"):
        filled.bars(BTC, "15m")
    assert len(filled.funding(BTC)) == 5


def test_importing_and_reading_need_neither_the_engine_nor_pandas(filled: Catalog) -> None:
    program = (
        "import sys; from catalog.store import Catalog; c = Catalog.open(sys.argv[1]);"
        "c.bars('BTCUSDT-PERP.BINANCE', '15m'); c.onchain('coinmetrics.btc', 'AdrActCnt');"
        "c.funding('BTCUSDT-PERP.BINANCE');"
        "print([name for name in ('nautilus_trader', 'pandas', 'duckdb') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(filled.path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
