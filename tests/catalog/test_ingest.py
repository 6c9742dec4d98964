from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.instruments import bar_type
from catalog.records import Batch
from catalog.store import Catalog
from catalog.timestamps import parse_time
from tests.catalog.builders import BTC, BTC_15M, START, bars, every_kind, funding, news, onchain

LATER = parse_time("2025-06-01")
ALL = [(batch.kind, batch.series, None, None) for batch in every_kind()]


def part(batch: Batch, rows: list[int], source: str) -> Batch:
    columns = {name: values[np.array(rows)] for name, values in batch.columns.items()}
    lines = None if batch.lines is None else batch.lines[np.array(rows)]
    return dataclasses.replace(batch, columns=columns, source=source, lines=lines)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    catalog = Catalog.open(tmp_path_factory.mktemp("whole"), create=True)
    report = catalog.ingest(every_kind())
    assert report.added == report.rows == sum(len(batch) for batch in every_kind())
    return catalog


@st.composite
def pieces(draw: st.DrawFn) -> list[list[Batch]]:
    """Return all records of all kinds in pieces, some repeated, in any order, in 1-3 imports."""
    found: list[Batch] = []
    for batch in every_kind():
        rows = list(range(len(batch)))
        owner = draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
        for number in range(3):
            mine = [row for row, other in zip(rows, owner, strict=True) if other == number]
            repeats = draw(st.lists(st.sampled_from(rows), max_size=3))
            chosen = draw(st.permutations(mine + repeats))
            if chosen:
                found.append(part(batch, chosen, f"{batch.kind}-{number}"))
    shuffled = draw(st.permutations(found))
    cuts = sorted(draw(st.lists(st.integers(0, len(shuffled)), min_size=2, max_size=2)))
    return [shuffled[: cuts[0]], shuffled[cuts[0] : cuts[1]], shuffled[cuts[1] :]]


@given(imports=pieces(), small=st.sampled_from([0, 3, 50_000]))
@settings(max_examples=25)
def test_any_split_in_any_order_with_repeats_gives_the_same_content(
    whole: Catalog,
    tmp_path_factory: pytest.TempPathFactory,
    imports: list[list[Batch]],
    small: int,
) -> None:
    catalog = Catalog.open(tmp_path_factory.mktemp("parts"), create=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catalog.merging.SMALL_FILE_ROWS", small)
        reports = [catalog.ingest(batches) for batches in imports]
    assert not any(report.refused for report in reports)
    assert sum(report.added for report in reports) == sum(len(batch) for batch in every_kind())
    assert sum(report.restated for report in reports) == 0
    assert catalog.data_hash(ALL) == whole.data_hash(ALL)
    for kind, series, _, _ in ALL:
        for name, values in catalog.records(kind, series).items():
            np.testing.assert_array_equal(values, whole.records(kind, series)[name])
    for record in catalog.manifest.series:
        files = record.layers[0].files
        assert all(a.last_init < b.first_init for a, b in pairwise(files))


def test_a_second_import_adds_nothing_and_makes_no_commit(whole: Catalog) -> None:
    before = whole.manifest
    files = sorted(path for path in whole.path.rglob("*") if path.is_file())
    report = whole.ingest(every_kind())
    assert (report.added, report.restated, report.commit) == (0, 0, None)
    assert [result.known for result in report.results] == [len(batch) for batch in every_kind()]
    assert whole.manifest == before
    assert sorted(path for path in whole.path.rglob("*") if path.is_file()) == files


def test_an_overlapping_import_adds_only_what_is_new(catalog: Catalog) -> None:
    catalog.ingest([bars(0, 8)])
    (result,) = catalog.ingest([bars(5, 8, source="second.csv")]).results
    assert (result.offered, result.known, result.added, result.restated) == (8, 3, 5, 0)
    assert len(catalog.bars(BTC, "15m")) == 13


def test_records_fill_a_gap(catalog: Catalog) -> None:
    catalog.ingest([bars(0, 4), bars(8, 4)])
    catalog.ingest([bars(4, 4)])
    assert np.all(np.diff(catalog.bars(BTC, "15m").ts_init) == 15 * 60 * 10**9)


def test_small_files_are_joined_and_the_old_ones_removed(catalog: Catalog) -> None:
    for first in range(0, 40, 4):
        catalog.ingest([bars(first, 4)])
    assert len(catalog.manifest.series[0].layers[0].files) == 1
    assert len(list((catalog.path / "data" / "bars").rglob("*.parquet"))) == 1


def test_changed_content_with_equal_stamps_becomes_a_vintage(catalog: Catalog) -> None:
    catalog.ingest([bars(0, 8)])
    first = catalog.bars(BTC, "15m")
    other = bars(0, 8, source="again.csv", volume=np.full(8, 9.5))
    (result,) = catalog.ingest([other], now=LATER).results
    assert (result.added, result.known, result.restated) == (0, 0, 8)
    np.testing.assert_array_equal(catalog.bars(BTC, "15m").volume, first.volume)
    assert catalog.bars(BTC, "15m", vintage="latest").volume.tolist() == [9.5] * 8
    np.testing.assert_array_equal(catalog.bars(BTC, "15m", as_of=LATER - 1).volume, first.volume)
    assert catalog.bars(BTC, "15m", as_of=LATER).volume.tolist() == [9.5] * 8
    (change,) = catalog.restated("bars", BTC_15M)
    assert (change.rows, change.known_at, change.vintage) == (
        8,
        LATER,
        "restated-20250601T000000Z",
    )
    assert catalog.series()[0].vintages == ("first", "restated-20250601T000000Z")


def test_a_restatement_is_not_kept_twice(catalog: Catalog) -> None:
    catalog.ingest([bars(0, 8)])
    other = bars(0, 8, source="other.csv", volume=np.full(8, 9.5))
    catalog.ingest([other])
    for batch in (bars(0, 8), other):
        report = catalog.ingest([batch])
        assert (report.added, report.restated, report.commit) == (0, 0, None)


def test_a_second_restatement_is_kept_beside_the_first(catalog: Catalog) -> None:
    for number, volume in enumerate((1.0, 2.0, 3.0)):
        batch = bars(0, 4, volume=np.full(4, volume))
        catalog.ingest([batch], now=LATER + number * 10**9)
    assert [change.rows for change in catalog.restated("bars", BTC_15M)] == [4, 4]
    for number, volume in enumerate((1.0, 2.0, 3.0)):
        found = catalog.bars(BTC, "15m", as_of=LATER + number * 10**9).volume
        assert found.tolist() == [volume] * 4


def test_restatements_within_one_import_are_all_kept(catalog: Catalog) -> None:
    batches = [
        bars(0, 4, source=f"{volume}.csv", volume=np.full(4, volume)) for volume in (1.0, 2.0, 3.0)
    ]
    report = catalog.ingest(batches, now=LATER)
    assert [(result.added, result.restated) for result in report.results] == [
        (4, 0),
        (0, 4),
        (0, 4),
    ]
    assert catalog.bars(BTC, "15m").volume.tolist() == [1.0] * 4
    assert len(catalog.series()[0].vintages) == 3


def test_a_partly_restated_month_keeps_the_rest_as_it_is(catalog: Catalog) -> None:
    catalog.ingest([bars(0, 8)])
    volume = bars(4, 8).columns["volume"].copy()
    volume[1] = 77.0
    (result,) = catalog.ingest([bars(4, 8, volume=volume)]).results
    assert (result.known, result.added, result.restated) == (3, 4, 1)
    latest = catalog.bars(BTC, "15m", vintage="latest")
    assert len(latest) == 12
    assert np.flatnonzero(latest.volume != catalog.bars(BTC, "15m").volume).tolist() == [5]


def test_equal_content_known_at_another_time_keeps_the_first_stamp(catalog: Catalog) -> None:
    catalog.ingest([onchain({"A": [1.0, 2.0]}, delay=10)])
    (result,) = catalog.ingest([onchain({"A": [1.0, 2.0]}, delay=99)]).results
    assert (result.known, result.retimed, result.restated) == (2, 2, 0)
    series = catalog.onchain("coinmetrics.btc", "A")
    assert (series.ts_init - series.ts_event).tolist() == [10, 10]


def test_synthetic_and_real_records_do_not_mix(catalog: Catalog) -> None:
    catalog.ingest([bars(0, 4, synthetic=True)])
    assert catalog.is_synthetic([BTC])
    (result,) = catalog.ingest([bars(4, 4)]).refused
    assert "must be either real or synthetic: the catalog's are synthetic" in result.refused
    both = [funding(), dataclasses.replace(funding(5), synthetic=True, source="synthetic")]
    assert [r.source for r in catalog.ingest(both).refused] == ["synthetic"]
    assert catalog.is_synthetic(["ETHUSDT-PERP.BINANCE"]) is False


def test_an_unknown_instrument_is_inferred_and_widened_when_data_need_it(catalog: Catalog) -> None:
    series = bar_type("PEPEUSDT-PERP.BINANCE", "15m")
    catalog.ingest([bars(0, 4, series=series)])
    assert catalog.instrument("PEPEUSDT-PERP.BINANCE").price_precision == 1
    close = bars(4, 4).columns["close"] + 0.005
    high = close + 1.0
    report = catalog.ingest([bars(4, 4, series=series, source="b", close=close, high=high)])
    assert not report.refused
    assert catalog.instrument("PEPEUSDT-PERP.BINANCE").price_precision == 3
    found = catalog.nautilus_bars("PEPEUSDT-PERP.BINANCE", "15m")
    assert {bar.close.precision for bar in found} == {3}
    assert len(found) == 8
    expected = [bar.close.raw / 10**16 for bar in found]
    assert catalog.bars("PEPEUSDT-PERP.BINANCE", "15m").close.tolist() == expected
    engine_files = list((catalog.path / "data").rglob("crypto_perpetual/*/*.parquet"))
    assert len(engine_files) == 1


def test_widening_reaches_other_intervals_and_vintages(catalog: Catalog) -> None:
    quarter, minute = bar_type("PEPEUSDT-PERP.BINANCE", "15m"), "PEPEUSDT-PERP.BINANCE"
    catalog.ingest([bars(0, 4, series=quarter)])
    catalog.ingest([bars(0, 4, series=quarter, volume=np.full(4, 3.0))])
    hash_before = catalog.data_hash([("bars", quarter, None, None)])
    close = bars(4, 1).columns["close"] + 0.05
    wide = bars(4, 1, series=bar_type(minute, "5m"), source="m", close=close, high=close + 1)
    assert not catalog.ingest([wide]).refused
    assert {bar.close.precision for bar in catalog.nautilus_bars(minute, "15m")} == {2}
    assert catalog.data_hash([("bars", quarter, None, None)]) == hash_before
    assert catalog.bars(minute, "15m", vintage="latest").volume.tolist() == [3.0] * 4


def test_every_commit_says_where_its_records_came_from(catalog: Catalog) -> None:
    report = catalog.ingest([bars(0, 4), news()], now=LATER)
    assert report.commit == 1
    (entry,) = catalog.info()["commits"]
    assert (entry["sequence"], entry["time"]) == (1, LATER)
    first = entry["sources"][0]
    assert (first["source"], first["rows"], first["added"]) == ("btc.feather", 4, 4)
    assert first["first_init"] == bars().columns["ts_init"][0]
    assert first["synthetic"] is False
    assert len(first["content_sha256"]) == 64
    parsed = json.loads(report.to_json())
    assert [result["added"] for result in parsed["results"]] == [4, 3]


def test_progress_is_told(catalog: Catalog) -> None:
    calls: list[tuple[str, int, int]] = []
    catalog.ingest(every_kind(), progress=lambda *call: calls.append(call))
    assert [call for call in calls if call[0] == "write"] == [("write", n, 6) for n in range(7)]
    assert [call for call in calls if call[0] == "check"] == [("check", n, 6) for n in range(1, 7)]
    calls.clear()
    catalog.ingest(iter([bars(8, 4)]), progress=lambda *call: calls.append(call))
    assert {call[0] for call in calls} == {"write"}  # nobody knows how many are to come


def test_stamps_do_not_depend_on_where_the_catalog_lies(tmp_path: Path) -> None:
    hashes = set()
    for name in ("a", "b"):
        catalog = Catalog.open(tmp_path / name, create=True)
        catalog.ingest([bars(0, 8)] if name == "a" else [bars(0, 3), bars(3, 5, source="x")])
        hashes.add(catalog.data_hash([("bars", BTC_15M, START, None)]))
    assert len(hashes) == 1
