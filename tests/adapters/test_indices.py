from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from adapters import indices
from adapters.sources import open_source
from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, parse_time


def fear_greed(path, options):
    source = open_source(path)
    assert indices.matches_fear_greed(source)
    return indices.read_fear_greed(source, options)[0]


def dvol(path, options):
    source = open_source(path)
    assert indices.matches_dvol(source)
    return indices.read_dvol(source, options)[0]


def test_fear_and_greed_is_known_at_midnight_of_its_date(text_file, options):
    batch = fear_greed(
        text_file("fg.csv", "date,fear_greed_index\n2024-01-01,65\n2024-01-03,71\n"), options
    )
    assert (batch.kind, batch.series) == ("index", "fear_greed")
    assert batch.columns["ts_init"].tolist() == [parse_time("2024-01-01"), parse_time("2024-01-03")]
    assert np.array_equal(batch.columns["ts_event"], batch.columns["ts_init"])
    for name in ("open", "high", "low", "close"):
        assert batch.columns[name].tolist() == [65.0, 71.0]
    assert set(batch.columns["unit"]) == {"points 0-100"}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("2024-01-02,101", "line 3: fear_greed_index must be between 0 and 100, was 101"),
        ("2024-01-02,greedy", "line 3: fear_greed_index must be a finite number, was 'greedy'"),
        ("2024-01-01,50", "line 3: a date must come once"),
        ("2023-12-31,50", "line 3: a date must be in time order"),
        ("2024-01-02 08:00,50", "line 3: date must be a day without a time"),
        ("2025-06-02,50", "line 3: a date must not lie in the future"),
    ],
)
def test_bad_fear_and_greed_rows_are_refused(text_file, options, row, complaint):
    path = text_file("fg.csv", f"date,fear_greed_index\n2024-01-01,65\n{row}\n")
    with pytest.raises(DataError, match=complaint):
        fear_greed(path, options)


@pytest.fixture
def levels():
    return pd.DataFrame(
        {
            "timestamp": pd.to_datetime(
                ["2024-01-01 00:00", "2024-01-01 01:00", "2024-01-01 03:00"], utc=True
            ).as_unit("ms"),
            "open": [60.0, 61.0, 62.0],
            "high": [62.0, 62.5, 64.0],
            "low": [59.0, 60.5, 61.0],
            "close": [61.0, 62.0, 63.0],
        }
    )


def test_an_hour_of_dvol_is_known_one_hour_later(levels, tmp_path, options):
    levels.to_parquet(tmp_path / "ETH_dvol.parquet")
    batch = dvol(tmp_path / "ETH_dvol.parquet", options)
    assert (batch.kind, batch.series) == ("index", "dvol.eth")
    start = parse_time("2024-01-01")
    assert batch.columns["ts_init"].tolist() == [start + hours * NS_PER_HOUR for hours in (1, 2, 4)]
    assert batch.columns["close"].tolist() == [61.0, 62.0, 63.0]


@pytest.mark.parametrize(
    ("column", "row", "value", "complaint"),
    [
        ("close", 1, 99.0, "row 2: high must not be below close, was 62.5 < 99.0"),
        ("low", 2, np.nan, "row 3: low must be above 0, was nan"),
        ("open", 0, -1.0, "row 1: open must be above 0, was -1"),
        ("timestamp", 2, "2024-01-01 01:00", "row 3: an hour must come once"),
        ("timestamp", 2, "2024-01-01 03:30", "row 3: timestamp must be the start of an hour"),
        ("timestamp", 2, "2025-06-01 00:00", "row 3: the end of an hour must not lie in the fut"),
    ],
)
def test_bad_dvol_rows_are_refused(levels, tmp_path, options, column, row, value, complaint):
    if column == "timestamp":
        value = pd.Timestamp(value, tz="UTC")
    levels.loc[row, column] = value
    levels.to_parquet(tmp_path / "BTC_dvol.parquet")
    with pytest.raises(DataError, match=complaint):
        dvol(tmp_path / "BTC_dvol.parquet", options)


def test_a_nameless_dvol_file_or_one_with_a_missing_column_is_refused(levels, tmp_path, options):
    levels.to_parquet(tmp_path / "volatility.parquet")
    with pytest.raises(DataError, match=r"the name must say the currency, such as BTC_dvol\.par"):
        dvol(tmp_path / "volatility.parquet", options)
    levels.drop(columns="low").to_parquet(tmp_path / "BTC_dvol.parquet")
    with pytest.raises(DataError, match="missing: low, present: timestamp, open, high, close"):
        dvol(tmp_path / "BTC_dvol.parquet", options)


def test_the_real_indices(shared_data, options):
    batch = fear_greed(shared_data / "onchain/fear_greed_daily.csv", options)
    gaps = np.flatnonzero(np.diff(batch.columns["ts_init"]) != NS_PER_DAY)
    assert len(batch) == 2_328
    assert batch.columns["ts_init"][gaps].tolist() == [parse_time("2024-10-25")]
    for name, rows in (("BTC", 35_844), ("ETH", 28_051)):
        assert len(dvol(shared_data / f"volatility/{name}_dvol.parquet", options)) == rows
