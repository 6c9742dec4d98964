from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from adapters import freqtrade, generic
from adapters.generic import GenericColumns, load_columns
from adapters.options import ImportOptions
from adapters.sources import open_source
from catalog.errors import ConfigError, DataError
from catalog.timestamps import NS_PER_HOUR, parse_time

PRICES = {"open": "O", "high": "H", "low": "L", "close": "C", "volume": "V"}
BARS = {
    "kind": "bars",
    "series": "BTCUSDT-PERP.BINANCE",
    "interval": "15m",
    "time": {"column": "T", "unit": "s", "means": "open"},
    "columns": PRICES,
}


def read(path, options, **changes):
    columns = GenericColumns.model_validate(BARS | changes)
    (batch,) = generic.read(open_source(path), options, columns)
    return batch


@pytest.fixture
def table(candles):
    """Candles under foreign names, the time in Unix seconds."""
    frame = candles(12).rename(columns=PRICES)
    frame.insert(0, "T", frame.pop("date").to_numpy("datetime64[s]").astype(np.int64))
    return frame


@pytest.fixture
def reference(candles, feather, options):
    return freqtrade.read(open_source(feather(candles(12))), options)[0]


def equal(one, other):
    return one.series == other.series and all(
        np.array_equal(one.columns[name], other.columns[name]) for name in other.columns
    )


@pytest.mark.parametrize("form", ["csv", "semicolons", "parquet", "feather"])
def test_a_mapped_file_equals_the_known_form(table, reference, tmp_path, options, form):
    path = tmp_path / f"export.{form}"
    if form in {"csv", "semicolons"}:
        path = tmp_path / "export.csv"
        table.to_csv(path, index=False, sep="," if form == "csv" else ";")
    elif form == "parquet":
        table.to_parquet(path)
    else:
        table.to_feather(path)
    assert equal(read(path, options), reference)


@pytest.mark.parametrize("unit", ["ms", "us", "ns", "iso", "%d.%m.%Y %H:%M:%S"])
def test_the_unit_of_the_time_does_not_matter(table, reference, tmp_path, options, unit):
    seconds = table["T"]
    if unit in {"ms", "us", "ns"}:
        table["T"] = seconds * {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    else:
        stamps = pd.to_datetime(seconds, unit="s")
        table["T"] = stamps.dt.strftime("%Y-%m-%dT%H:%M:%S" if unit == "iso" else unit)
    table.to_csv(tmp_path / "export.csv", index=False)
    time = {"column": "T", "unit": unit, "means": "open"}
    assert equal(read(tmp_path / "export.csv", options, time=time), reference)


def test_a_close_stamp_and_newest_first_make_no_difference(table, reference, tmp_path, options):
    table["T"] += 900
    table[::-1].to_csv(tmp_path / "export.csv", index=False)
    batch = read(
        tmp_path / "export.csv", options, time={"column": "T", "unit": "s", "means": "close"}
    )
    assert batch.columns["ts_init"][::-1].tolist() == reference.columns["ts_init"].tolist()
    assert batch.columns["close"][::-1].tolist() == reference.columns["close"].tolist()
    assert batch.lines[0] == 2


def test_a_parquet_time_needs_no_unit(table, reference, tmp_path, options):
    table["T"] = pd.to_datetime(table["T"], unit="s", utc=True)
    table.to_parquet(tmp_path / "export.parquet")
    time = {"column": "T", "means": "open"}
    assert equal(read(tmp_path / "export.parquet", options, time=time), reference)


def test_funding_index_and_onchain_by_map(text_file, options):
    path = text_file("x.csv", "when,what\n2024-01-01T08:00:00Z,0.0001\n")
    time = {"column": "when", "means": "close"}
    funding = read(
        path, options, kind="funding", time=time, interval=None, columns={"rate": "what"}
    )
    assert (funding.kind, funding.series) == ("funding", "BTCUSDT-PERP.BINANCE")
    assert funding.columns["rate"].tolist() == [0.0001]
    index = read(
        path,
        options,
        kind="index",
        series="vix",
        unit="points",
        interval="1h",
        time={"column": "when", "means": "open", "delay_secs": 60},
        columns={"close": "what"},
    )
    assert index.columns["ts_event"][0] == parse_time("2024-01-01T09:00")
    assert index.columns["ts_init"][0] == parse_time("2024-01-01T09:01")
    assert index.columns["open"].tolist() == index.columns["close"].tolist() == [0.0001]
    assert index.columns["unit"].tolist() == ["points"]
    onchain = read(
        path,
        options,
        kind="onchain",
        series="glassnode.btc",
        metric="sopr",
        unit="ratio",
        interval="1d",
        time={"column": "when", "means": "open", "delay_secs": 12 * 3600},
        columns={"value": "what"},
    )
    assert onchain.columns["metric"].tolist() == ["sopr"]
    event = onchain.columns["ts_event"][0]
    assert event == parse_time("2024-01-02T08:00")
    assert onchain.columns["ts_init"][0] == event + 12 * NS_PER_HOUR


def test_headlines_by_map(text_file, options):
    text = "day,said,mood\n01.02.2024 10:30,Up,0.5\n01.02.2024 09:30,Down,\n"
    batch = read(
        text_file("x.csv", text),
        options,
        kind="news",
        series="desk",
        asset="eth",
        interval=None,
        time={"column": "day", "unit": "%d.%m.%Y %H:%M", "means": "close"},
        columns={"headline": "said", "score": "mood"},
    )
    assert batch.columns["headline"].tolist() == ["Down", "Up"]
    assert batch.columns["ts_published"][0] == parse_time("2024-02-01T09:30")
    assert batch.columns["asset"].tolist() == ["eth", "eth"]
    assert batch.columns["source"].tolist() == ["desk", "desk"]
    assert batch.columns["score"][1] == 0.5


@pytest.mark.parametrize(
    ("first_seen", "delay_secs", "known"),
    [
        # Published at 10:30, scored a minute after it can be had.
        (None, 0, "10:31"),
        (None, 3600, "11:31"),
        ("10:40", 0, "10:41"),
        ("10:40", 3600, "11:31"),  # the map says that nobody has it before 11:30
        ("12:00", 3600, "12:01"),  # what was recorded, where it is later
    ],
)
def test_a_headline_is_not_known_before_its_delay(
    text_file, options, first_seen, delay_secs, known
):
    seen = f"2024-02-01T{first_seen}" if first_seen else ""
    batch = read(
        text_file("x.csv", f"day,said,seen\n2024-02-01T10:30,Up,{seen}\n"),
        options,
        kind="news",
        series="desk",
        interval=None,
        time={"column": "day", "means": "close", "delay_secs": delay_secs},
        columns={"headline": "said"} | ({"first_seen": "seen"} if first_seen else {}),
    )
    assert batch.columns["ts_init"][0] == parse_time(f"2024-02-01T{known}")
    assert batch.columns["ts_event"][0] == parse_time("2024-02-01T10:30")


def test_the_delay_of_a_date_without_a_time_counts_from_the_end_of_the_day(text_file, options):
    batch = read(
        text_file("x.csv", "day,said\n2024-02-01,Up\n"),
        options,
        kind="news",
        series="desk",
        interval=None,
        time={"column": "day", "means": "close", "delay_secs": 3600},
        columns={"headline": "said"},
    )
    assert batch.columns["ts_init"][0] == parse_time("2024-02-02T01:01")


@pytest.mark.parametrize("delay", [1e300, 1e12, 366 * 86_400])
def test_a_delay_beyond_a_year_is_a_wrong_unit(tmp_path, delay):
    path = tmp_path / "map.json"
    time = {"column": "T", "unit": "s", "means": "open", "delay_secs": delay}
    path.write_text(json.dumps(BARS | {"time": time}))
    with pytest.raises(ConfigError, match=r"time\.delay_secs: .* less than or equal to 31536000"):
        load_columns(path)
    with pytest.raises(ValidationError, match="scoring_delay_secs"):
        ImportOptions(scoring_delay_secs=delay)
    with pytest.raises(ValidationError, match="publication_delay_hours"):
        ImportOptions(publication_delay_hours=delay)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"columns": {"open": "O"}}, "missing: high, low, close, volume"),
        ({"columns": PRICES | {"vwap": "W"}}, "unknown: vwap"),
        ({"interval": None}, "interval must be given for bars"),
        ({"interval": "7m"}, "interval must be one of"),
        ({"time": {"column": "T", "unit": "weeks", "means": "open"}}, "unit must be s, ms, us"),
        ({"time": {"column": "T", "unit": "s"}}, "time.means"),
        ({"time": {"column": "T", "unit": "s", "means": "middle"}}, "'open' or 'close'"),
        ({"kind": "index", "columns": {"close": "C"}}, "unit must be given for index"),
        ({"kind": "onchain", "columns": {"value": "C"}, "unit": "x"}, "metric must be given"),
        ({"shape": "round"}, "shape: Extra inputs are not permitted"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(tmp_path, changes, complaint):
    path = tmp_path / "map.json"
    path.write_text(json.dumps(BARS | changes))
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_columns(path)
    assert str(caught.value).startswith("map.json: must be a column map")


def test_a_map_is_read_from_yaml(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text(
        "kind: bars\nseries: BTCUSDT-PERP.BINANCE\ninterval: 15m\n"
        "time: {column: T, unit: s, means: open}\n"
        "columns: {open: O, high: H, low: L, close: C, volume: V}\n"
    )
    assert load_columns(path) == GenericColumns.model_validate(BARS)


@pytest.mark.parametrize(
    "content",
    [
        "a: [",
        "- 1",
        "",
        "a: 2024-13-01",
        "a: !!bool maybe",
        "a: !!int ''",
        "a: !!timestamp soon",
        "[" * 20_000,
        "a: \udcff",
    ],
)
def test_what_is_no_map_is_refused(tmp_path, content):
    path = tmp_path / "map.yaml"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=r"map\.yaml: must be a"):
        load_columns(path)
    with pytest.raises(ConfigError, match=r"absent\.yaml: must be a readable"):
        load_columns(tmp_path / "absent.yaml")


def test_an_interval_in_python_is_checked_as_in_a_file():
    with pytest.raises(ValidationError, match="interval must be one of"):
        GenericColumns.model_validate(BARS | {"interval": "7m"})


@pytest.mark.parametrize(
    ("cell", "value", "complaint"),
    [
        ((3, "H"), 1.0, "line 5: high must not be below"),
        ((3, "C"), "n/a", "line 5: C must be a finite number, was 'n/a'"),
        ((3, "T"), 1704067200, "line 5: a record must be in time order"),
        ((3, "T"), 1704070000, "line 5: a candle must open on a multiple"),
        ((3, "V"), -1.0, "line 5: volume must be 0 or more, was -1"),
        ((3, "T"), 1798761600, "line 5: .*must not lie in the future"),
        ((3, "T"), 10**18, "line 5: T must be a time in s"),
        ((3, "T"), "soon", "line 5: T must be a whole number, was 'soon'"),
    ],
)
def test_bad_cells_are_refused_by_line(table, tmp_path, options, cell, value, complaint):
    table = table.astype(object)
    table.loc[cell] = value
    table.to_csv(tmp_path / "export.csv", index=False)
    with pytest.raises(DataError, match=complaint):
        read(tmp_path / "export.csv", options)


def test_a_column_that_is_not_there_is_named(table, tmp_path, options):
    table.drop(columns="L").to_csv(tmp_path / "export.csv", index=False)
    with pytest.raises(DataError, match="missing: L, present: T, O, H, C, V"):
        read(tmp_path / "export.csv", options)
    table.drop(columns="L").to_parquet(tmp_path / "export.parquet")
    with pytest.raises(DataError, match="missing: L"):
        read(tmp_path / "export.parquet", options)


def test_empty_numbers_and_times_of_a_parquet_file_are_refused(table, tmp_path, options):
    holed = table.copy()
    holed.loc[2, "C"] = np.nan
    holed.to_parquet(tmp_path / "export.parquet")
    with pytest.raises(DataError, match="row 3: C must be a finite number, was nan"):
        read(tmp_path / "export.parquet", options)
    table["T"] = pd.to_datetime(table["T"], unit="s", utc=True)
    table.loc[2, "T"] = pd.NaT
    table.to_parquet(tmp_path / "export.parquet")
    with pytest.raises(
        DataError, match=r"T must be a time on every row, was timestamp.* with 1 empty"
    ):
        read(tmp_path / "export.parquet", options)
