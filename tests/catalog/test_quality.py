from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from catalog.encoding import Records
from catalog.errors import DataError, IntegrityError
from catalog.instruments import KNOWN
from catalog.manifest import Layer, SeriesRecord
from catalog.merging import Workspace
from catalog.quality import check, require_sound, robust_z
from catalog.records import Kind
from catalog.store import Catalog
from catalog.transactions import commit, settle
from tests.catalog.builders import (
    BTC,
    BTC_15M,
    ETH,
    START,
    bar_columns,
    bars,
    every_kind,
    funding,
    index,
    onchain,
)

REQUEST: list[Any] = [("bars", BTC_15M, None, None)]


def smuggle(catalog: Catalog, kind: Kind, series: str, records: Records) -> Catalog:
    """Commit records past the checks at the door."""
    import dataclasses

    state = dataclasses.replace(
        catalog.manifest,
        sequence=catalog.manifest.sequence + 1,
        instruments={BTC: KNOWN[BTC]},
    )
    workspace = Workspace(catalog.path, state, 0)
    file = workspace.write(kind, series, "", records)
    record = SeriesRecord(kind, series, False)
    workspace.replace_files(record, Layer("", None, 0), [], file)
    commit(catalog.path, workspace.state)
    settle(catalog.path, workspace.state)
    catalog.refresh()
    return catalog


def found(catalog: Catalog) -> dict[str, tuple[str, int, tuple[str, ...]]]:
    return {f.check: (f.severity, f.count, f.first) for f in check(catalog).findings}


def test_sound_data_have_no_findings(catalog: Catalog) -> None:
    catalog.ingest(every_kind())
    report = check(catalog)
    assert report.findings == ()
    assert str(report) == "6 series, 31 records: 0 fatal, 0 warnings, 0 notes"
    assert json.loads(report.to_json()) == {
        "sound": True,
        "series": 6,
        "records": 31,
        "findings": [],
    }
    assert require_sound(catalog, REQUEST).records == 8


@pytest.mark.parametrize(
    ("name", "row", "value", "fault"),
    [
        ("close", 2, 0.0, "prices"),
        ("low", 2, -1.0, "prices"),
        ("high", 2, 1.0, "candles"),
        ("volume", 2, -1.0, "volume"),
        ("ts_event", 3, START + 3 * 900 * 10**9, "duplicates"),
    ],
)
def test_fatal_faults_stop_a_run(
    catalog: Catalog, name: str, row: int, value: float, fault: str
) -> None:
    columns = {key: np.array(values) for key, values in bar_columns(0, 8).items()}
    columns[name][row] = value
    smuggle(catalog, "bars", BTC_15M, columns)
    findings = {f.check: f for f in check(catalog).fatal}
    assert (findings[fault].count, len(findings[fault].first)) == (1, 1)
    with pytest.raises(DataError, match=r"must be free of fatal faults, was not: bars BTCUSDT"):
        require_sound(catalog, REQUEST)


def test_a_fault_outside_the_span_does_not_stop_a_run(catalog: Catalog) -> None:
    columns = {key: np.array(values) for key, values in bar_columns(0, 8).items()}
    columns["volume"][0] = -1.0
    smuggle(catalog, "bars", BTC_15M, columns)
    later: list[Any] = [("bars", BTC_15M, int(columns["ts_init"][0]), None)]
    assert require_sound(catalog, later).records == 7
    with pytest.raises(DataError, match="volume is negative"):
        require_sound(catalog, REQUEST)


def test_a_clock_that_runs_backwards_is_fatal(catalog: Catalog) -> None:
    columns = {key: np.array(values)[[0, 2, 1, 3]] for key, values in bar_columns(0, 4).items()}
    smuggle(catalog, "bars", BTC_15M, columns)
    assert found(catalog)["clock"][0] == "fatal"
    assert "do not run forward in time" in str(check(catalog))


def test_known_before_it_happened_is_fatal(catalog: Catalog) -> None:
    columns = {key: np.array(values) for key, values in funding().columns.items()}
    columns["ts_event"][2] += 1
    smuggle(catalog, "funding", BTC, columns)
    assert found(catalog)["clock"] == ("fatal", 1, ("2024-01-01 16:00:00",))


def test_gaps_are_counted_in_missing_bars(catalog: Catalog) -> None:
    catalog.ingest([bars(0, 4, source="a"), bars(7, 4, source="b"), bars(12, 2, source="c")])
    assert found(catalog) == {
        "gaps": ("warn", 4, ("2024-01-01 01:15:00", "2024-01-01 03:00:00")),
    }


def test_gaps_of_slow_series(catalog: Catalog) -> None:
    catalog.ingest([funding(0, 4), funding(5, 4)])
    days = onchain({"A": [1.0] * 4, "B": [2.0] * 9})
    later = onchain({"A": [1.0] * 3}, first_day=6, source="later")
    catalog.ingest([days, later])
    findings = {f.kind: f for f in check(catalog).findings}
    assert (findings["funding"].count, findings["funding"].first) == (1, ("2024-01-02 08:00:00",))
    assert findings["onchain"].count == 2
    assert findings["onchain"].first == ("A 2024-01-06 00:00:00",)
    assert findings["onchain"].detail == "days are missing in 1 of 2 metrics"


def test_bars_without_volume_are_a_warning(catalog: Catalog) -> None:
    volume = bars().columns["volume"].copy()
    volume[[1, 5]] = 0.0
    catalog.ingest([bars(volume=volume)])
    assert found(catalog)["volume"] == (
        "warn",
        2,
        ("2024-01-01 00:30:00", "2024-01-01 01:30:00"),
    )
    assert require_sound(catalog, REQUEST).fatal == ()


def test_outliers_are_found_where_they_are(catalog: Catalog) -> None:
    columns = bar_columns(0, 200)
    close, high = columns["close"].copy(), columns["high"].copy()
    close[100] *= 2
    high[100] *= 2
    catalog.ingest([bars(0, 200, close=np.round(close, 1), high=np.round(high, 1))])
    severity, count, first = found(catalog)["outliers"]
    assert (severity, count) == ("warn", 2)
    assert first == ("2024-01-02 01:15:00", "2024-01-02 01:30:00")


@pytest.mark.parametrize(("name", "factor"), [("low", 0.2), ("high", 3.0)])
def test_a_bad_print_inside_a_bar_is_found(catalog: Catalog, name: str, factor: float) -> None:
    price = bar_columns(0, 300)[name].copy()
    price[100] = np.round(price[100] * factor, 1)
    catalog.ingest([bars(0, 300, **{name: price})])
    assert found(catalog) == {"wicks": ("warn", 1, ("2024-01-02 01:15:00",))}
    assert require_sound(catalog, REQUEST).fatal == ()


@pytest.mark.parametrize(("count", "reported"), [(7, False), (8, True), (31, True)])
def test_prices_that_stand_still_while_volume_goes_on_are_found(
    catalog: Catalog, count: int, reported: bool
) -> None:
    columns = {name: np.array(values) for name, values in bar_columns(0, 60).items()}
    for name in ("open", "high", "low", "close"):
        columns[name][10 : 10 + count] = 40_123.4
    catalog.ingest([bars(0, 60, **{n: columns[n] for n in ("open", "high", "low", "close")})])
    expected = {"stale": ("warn", count, ("2024-01-01 02:45:00",))} if reported else {}
    assert {name: what for name, what in found(catalog).items() if name == "stale"} == expected


def test_a_market_without_trades_is_not_stale(catalog: Catalog) -> None:
    level = np.full(20, 40_000.0)
    prices = dict.fromkeys(("open", "high", "low", "close"), level)
    catalog.ingest([bars(0, 20, volume=np.zeros(20), **prices)])
    assert set(found(catalog)) == {"volume"}


@pytest.mark.parametrize("missing", [True, False])
def test_a_damaged_definition_is_fatal_for_its_instrument(catalog: Catalog, missing: bool) -> None:
    catalog.ingest([bars(), funding(), funding(instrument=ETH), onchain({"A": [1.0]})])
    path = catalog.path / catalog.manifest.instrument_files[BTC].path
    if missing:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    (finding,) = check(catalog).fatal
    assert (finding.kind, finding.series, finding.check) == ("instrument", BTC, "files")
    for kind, series in (("bars", BTC_15M), ("funding", BTC)):
        with pytest.raises(IntegrityError, match=path.name):
            require_sound(catalog, [(kind, series, None, None)])  # type: ignore[list-item]
    sound: list[Any] = [("funding", ETH, None, None), ("onchain", "coinmetrics.btc", None, None)]
    assert require_sound(catalog, sound).fatal == ()


def test_a_restated_series_is_a_note(catalog: Catalog) -> None:
    catalog.ingest([index()])
    changed = index()
    changed.columns["close"][0] += 0.25
    catalog.ingest([changed])
    (finding,) = check(catalog).findings
    assert (finding.check, finding.severity, finding.count) == ("restated", "info", 1)
    assert "is restated" in finding.detail


@pytest.mark.parametrize("missing", [True, False])
def test_damaged_files_are_fatal_and_named(catalog: Catalog, missing: bool) -> None:
    catalog.ingest(every_kind())
    path = catalog.path / catalog.manifest.series[1].layers[0].files[0].path
    if missing:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    report = check(catalog)
    (finding,) = report.fatal
    assert (finding.check, finding.kind) == ("files", "bars")
    assert path.name in finding.first[0]
    assert report.series == 6
    with pytest.raises(IntegrityError, match=path.name):
        require_sound(catalog, REQUEST)
    assert require_sound(catalog, [("funding", BTC, None, None)]).records == 5


def test_a_strangers_file_is_fatal(catalog: Catalog) -> None:
    catalog.ingest([bars()])
    path = catalog.path / catalog.manifest.series[0].layers[0].files[0].path
    path.with_name("stranger.parquet").write_bytes(b"")
    assert found(catalog)["files"][0] == "fatal"


def test_the_table_is_aligned_and_complete(catalog: Catalog) -> None:
    catalog.ingest([bars(0, 4, source="a"), bars(7, 4, source="b")])
    lines = str(check(catalog)).splitlines()
    assert lines[0] == "1 series, 8 records: 0 fatal, 1 warnings, 0 notes"
    assert lines[1].split() == ["severity", "kind", "series", "check", "count"]
    assert lines[2].split() == ["warn", "bars", BTC_15M, "gaps", "3"]
    assert len(lines[1]) == len(lines[2])
    assert lines[3] == "    records are missing: 2024-01-01 01:15:00"


def test_progress_is_told(catalog: Catalog) -> None:
    catalog.ingest(every_kind())
    calls: list[tuple[str, int, int]] = []
    check(catalog, progress=lambda *call: calls.append(call))
    assert calls == [("check", done, 6) for done in range(1, 7)]


def test_an_unknown_series_cannot_be_sound(catalog: Catalog) -> None:
    with pytest.raises(DataError, match="bars must be in the catalog"):
        require_sound(catalog, REQUEST)


def test_robust_z_by_hand() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 100.0, np.nan])
    scores = robust_z(values)
    assert scores[2] == 0.0
    assert scores[4] == pytest.approx(97 / 1.4826)
    assert np.isnan(scores[5])
    assert robust_z(np.full(4, 7.0)).tolist() == [0.0] * 4
    mostly_equal = robust_z(np.array([0.0, 0.0, 0.0, 4.0]))
    assert mostly_equal[3] == pytest.approx(4 / 1.2533)
    assert np.isnan(robust_z(np.array([np.nan]))).all()
