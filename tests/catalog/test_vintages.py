"""What was known when."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import DataError
from catalog.manifest import Layer
from catalog.records import Batch
from catalog.store import Catalog
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, parse_time
from catalog.vintages import Choice, resolve, restatements
from tests.catalog.builders import START, bars, index, onchain

SERIES = "coinmetrics.btc"
KNOWN = START + 100 * NS_PER_DAY


def two_vintages(catalog: Catalog, *, reverse: bool = False) -> Catalog:
    """Import days 0-3, and a later download of days 1-5 that changes day 2."""
    first = onchain({"Flow": [10.0, 11.0, 12.0, 13.0]}, source="a.csv")
    later = onchain(
        {"Flow": [11.0, 99.0, 13.0, 14.0, 15.0]},
        first_day=1,
        source="b.csv",
        vintage="2024-04",
        known_at=KNOWN,
    )
    for batch in (later, first) if reverse else (first, later):
        report = catalog.ingest([batch])
        assert (report.added, report.restated) == (len(batch), 0)
    return catalog


@pytest.mark.parametrize("reverse", [False, True])
def test_a_plain_read_shows_what_was_known_at_the_time(catalog: Catalog, reverse: bool) -> None:
    series = two_vintages(catalog, reverse=reverse).onchain(SERIES, "Flow")
    assert series.value.tolist() == [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]
    assert series.shown == "first"
    # Days 4 and 5 came only with the later download: nobody knew them before it.
    own = (START + np.arange(1, 5) * NS_PER_DAY + NS_PER_HOUR).tolist()
    assert series.ts_init.tolist() == [*own, KNOWN, KNOWN]


@pytest.mark.parametrize("reverse", [False, True])
def test_as_of_shows_what_was_known_then(catalog: Catalog, reverse: bool) -> None:
    two_vintages(catalog, reverse=reverse)
    just_before = catalog.onchain(SERIES, "Flow", as_of=KNOWN - 1)
    assert just_before.value.tolist() == [10.0, 11.0, 12.0, 13.0]
    assert just_before.restatements == ()
    then = catalog.onchain(SERIES, "Flow", as_of=KNOWN)
    assert then.value.tolist() == [10.0, 11.0, 99.0, 13.0, 14.0, 15.0]
    early = catalog.onchain(SERIES, "Flow", as_of=START + 2 * NS_PER_DAY + NS_PER_HOUR)
    assert early.value.tolist() == [10.0, 11.0]
    with pytest.raises(DataError, match=r"Flow known as of 2024-01-01 00:00:00, was empty"):
        catalog.onchain(SERIES, "Flow", as_of=START)


def test_a_restated_read_says_so(catalog: Catalog) -> None:
    two_vintages(catalog)
    for series in (
        catalog.onchain(SERIES, "Flow"),
        catalog.onchain(SERIES, "Flow", as_of=KNOWN),
        catalog.onchain(SERIES, "Flow", vintage="latest"),
    ):
        (change,) = series.restatements
        assert str(change) == (
            "onchain coinmetrics.btc is restated: vintage 2024-04, known since "
            "2024-04-10 00:00:00, changes 1 records from 2024-01-04 00:00:00 to 2024-01-04 00:00:00"
        )
    assert catalog.restated("onchain", SERIES, as_of=KNOWN - 1) == []
    assert len(catalog.restated("onchain", SERIES, as_of=KNOWN)) == 1


def test_latest_and_labels(catalog: Catalog) -> None:
    two_vintages(catalog)
    latest = catalog.onchain(SERIES, "Flow", vintage="latest")
    assert latest.value.tolist() == [10.0, 11.0, 99.0, 13.0, 14.0, 15.0]
    alone = catalog.onchain(SERIES, "Flow", vintage="2024-04")
    assert alone.value.tolist() == [11.0, 99.0, 13.0, 14.0, 15.0]
    assert set(alone.ts_init.tolist()) == {KNOWN}
    with pytest.raises(
        DataError,
        match=r"vintage of onchain coinmetrics\.btc must be one of latest, first, 2024-04",
    ):
        catalog.onchain(SERIES, "Flow", vintage="2023")
    with pytest.raises(DataError, match="either a vintage or as_of, was given both"):
        catalog.onchain(SERIES, "Flow", vintage="latest", as_of=KNOWN)


def test_a_metric_that_only_the_later_vintage_has(catalog: Catalog) -> None:
    two_vintages(catalog)
    catalog.ingest([onchain({"NewMetric": [7.0]}, source="c", vintage="2024-04", known_at=KNOWN)])
    assert catalog.metrics(SERIES) == ["Flow", "NewMetric"]
    series = catalog.onchain(SERIES, "NewMetric")
    assert (series.value.tolist(), series.ts_init.tolist()) == ([7.0], [KNOWN])
    with pytest.raises(
        DataError, match=r"metric of coinmetrics\.btc must be one of Flow, NewMetric"
    ):
        catalog.onchain(SERIES, "Typo")


def test_later_bars_and_settlements_are_public_at_their_time(catalog: Catalog) -> None:
    """A bar downloaded late was nevertheless known at its close."""
    catalog.ingest([bars(0, 4, vintage="redo", known_at=KNOWN)])
    found = catalog.bars("BTCUSDT-PERP.BINANCE", "15m")
    np.testing.assert_array_equal(found.ts_init, bars(0, 4).columns["ts_init"])
    catalog.ingest([index(vintage="redo", known_at=KNOWN)])
    assert set(catalog.index("dvol.btc").ts_init.tolist()) == {KNOWN}


def test_a_vintage_has_one_time_of_knowledge(catalog: Catalog) -> None:
    two_vintages(catalog)
    other = onchain({"Flow": [1.0]}, first_day=9, vintage="2024-04", known_at=KNOWN + 1)
    (result,) = catalog.ingest([other]).refused
    assert "vintage '2024-04' of coinmetrics.btc must have one time of knowledge" in result.refused
    same = onchain({"Flow": [1.0]}, first_day=9, vintage="2024-04")
    assert catalog.ingest([same]).added == 1


def test_a_vintage_without_a_date_is_known_from_its_import(catalog: Catalog) -> None:
    catalog.ingest([onchain({"Flow": [1.0]})])
    catalog.ingest([onchain({"Flow": [2.0]}, source="b", vintage="new")], now=KNOWN)
    assert catalog.onchain(SERIES, "Flow", as_of=KNOWN - 1).value.tolist() == [1.0]
    assert catalog.onchain(SERIES, "Flow", as_of=KNOWN).value.tolist() == [2.0]


def test_importing_two_downloads_in_turn_settles(catalog: Catalog) -> None:
    two_vintages(catalog)
    manifest = catalog.manifest
    two = onchain(
        {"Flow": [11.0, 99.0, 13.0, 14.0, 15.0]}, first_day=1, vintage="2024-04", known_at=KNOWN
    )
    for batch in (onchain({"Flow": [10.0, 11.0, 12.0, 13.0]}), two):
        assert catalog.ingest([batch]).commit is None
    assert catalog.manifest == manifest


def test_data_hash_is_that_of_what_was_known_at_the_time(catalog: Catalog, tmp_path: Path) -> None:
    request = [("onchain", SERIES, None, START + 10 * NS_PER_DAY)]
    two_vintages(catalog)
    alone = Catalog.open(tmp_path / "alone", create=True)
    alone.ingest([onchain({"Flow": [10.0, 11.0, 12.0, 13.0]})])
    assert catalog.data_hash(request) == alone.data_hash(request)  # type: ignore[arg-type]


@st.composite
def layered(draw: st.DrawFn) -> list[tuple[Layer, dict[str, np.ndarray]]]:
    layers = []
    known = sorted(draw(st.lists(st.integers(1, 60), min_size=1, max_size=3, unique=True)))
    for number, moment in enumerate([None, *known]):
        days = sorted(draw(st.sets(st.integers(1, 8), min_size=0 if number else 1)))
        if not days:
            continue
        event = np.array(days, dtype=np.int64) * 5
        delay = np.array(draw(st.lists(st.integers(0, 9), min_size=len(days), max_size=len(days))))
        records = {
            "ts_event": event,
            "ts_init": event + delay,
            "metric": np.array(["m"] * len(days), dtype=object),
            "value": np.array(
                draw(st.lists(st.integers(0, 2), min_size=len(days), max_size=len(days))),
                dtype=float,
            ),
            "unit": np.array(["u"] * len(days), dtype=object),
        }
        layers.append((Layer(f"{number}" if number else "", moment, 0), records))
    return layers


@given(layered(), st.one_of(st.none(), st.integers(0, 70)), st.sampled_from(["first", "latest"]))
@settings(max_examples=200)
def test_resolving_agrees_with_the_literal_definition(
    layers: list[tuple[Layer, dict[str, np.ndarray]]], as_of: int | None, vintage: str
) -> None:
    choice = Choice("first", as_of) if as_of is not None else Choice(vintage)
    expected = {}
    for layer, records in layers:
        known_at = layer.known_at or 0
        for row in range(len(records["ts_event"])):
            usable = max(int(records["ts_init"][row]), known_at)
            if as_of is not None and usable > as_of:
                continue
            key = int(records["ts_event"][row])
            first = expected.get(key)
            if first is None:
                expected[key] = (usable, records["value"][row])
            elif as_of is not None or vintage == "latest":
                expected[key] = (first[0], records["value"][row])
    found = resolve("onchain", layers, choice)
    got = {
        int(event): (int(init), value)
        for event, init, value in zip(
            found["ts_event"], found["ts_init"], found["value"], strict=True
        )
    }
    assert got == expected
    assert np.all(np.diff(found["ts_init"]) >= 0)
    changes = restatements("onchain", "s", layers, choice)
    if as_of is not None:
        assert all(change.known_at <= as_of for change in changes)


def coinmetrics(path: Path, names: tuple[str, ...], **fields: object) -> Batch:
    """Read some columns of a Coin Metrics file; a day is known an hour after its end."""
    stamps, metrics, values = [], [], []
    with path.open() as handle:
        for row in csv.DictReader(handle):
            end = parse_time(row["time"]) + NS_PER_DAY
            for name in names:
                if row[name]:
                    stamps.append(end)
                    metrics.append(name)
                    values.append(float(row[name]))
    ts_event = np.array(stamps)
    columns = {
        "ts_event": ts_event,
        "ts_init": ts_event + NS_PER_HOUR,
        "metric": np.array(metrics, dtype=object),
        "value": np.array(values),
        "unit": np.array(["x"] * len(values), dtype=object),
    }
    return Batch("onchain", SERIES, columns, path.name, **fields)  # type: ignore[arg-type]


def test_the_real_restated_pair(catalog: Catalog, shared_data: Path) -> None:
    names = ("FlowInExUSD", "AdrActCnt", "PriceUSD", "CapMVRVCur")
    folder = shared_data / "onchain"
    known_at = parse_time("2025-08-18")
    catalog.ingest([coinmetrics(folder / "coinmetrics_btc.csv", names)])
    later = coinmetrics(
        folder / "coinmetrics_btc_vintage2.csv", names, vintage="2025-08", known_at=known_at
    )
    catalog.ingest([later])
    inflow = catalog.onchain(SERIES, "FlowInExUSD")
    (change,) = inflow.restatements
    assert change.rows == 1_964
    for name in ("AdrActCnt", "PriceUSD", "CapMVRVCur"):
        assert catalog.onchain(SERIES, name).restatements == ()
    before = catalog.onchain(SERIES, "FlowInExUSD", as_of=known_at - 1)
    after = catalog.onchain(SERIES, "FlowInExUSD", as_of=known_at)
    np.testing.assert_array_equal(before.value, inflow.value)
    np.testing.assert_array_equal(before.ts_event, after.ts_event)
    assert np.count_nonzero(before.value != after.value) == change.rows
    price = catalog.onchain(SERIES, "PriceUSD", parse_time("2024-01-01"), parse_time("2024-01-03"))
    assert round(float(price.value[0])) == 44_049 or round(float(price.value[1])) == 44_049
