"""Slow inputs over real HTTP: what comes is what an import would store, stamped when it came."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from adapters.importing import import_path
from adapters.options import ImportOptions
from adapters.polling import PollService
from adapters.polling_config import (
    DvolSource,
    FearGreedSource,
    FundingSource,
    NewsSource,
    OnchainSource,
    Polling,
    PollLimits,
)
from adapters.polling_records import Polled, batches_of_rows, rows_of
from catalog.records import COLUMNS
from catalog.store import Catalog
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, NS_PER_SECOND, parse_time
from tests.adapters.polling_server import MS, Row, Vendors, serving

BTC = "BTCUSDT-PERP.BINANCE"
START = parse_time("2025-05-14")
MINUTE = 60 * NS_PER_SECOND
STEP = 15 * MINUTE
METRICS = ("AdrActCnt", "FlowInExUSD")
HEADLINES = 60


class Clock:
    """A wall clock that stands until it is told to go on."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(START + NS_PER_DAY)


@pytest.fixture
def vendors(clock: Clock) -> Iterator[Vendors]:
    """Three days of everything; each record is out some time after it happened."""
    random = np.random.default_rng(3)
    made = Vendors(clock)
    for row in range(9):
        at = START + row * 8 * NS_PER_HOUR
        rate = f"{random.normal(0, 1e-4):.8f}"
        # Settlements are stamped some milliseconds late, and are out some seconds later.
        made.funding.append(Row(at + 7 * MS * (row % 2), at + 4 * NS_PER_SECOND, {"rate": rate}))
    level = 55.0
    for row in range(72):
        at = START + row * NS_PER_HOUR
        closing = round(level + random.normal(), 2)
        high, low = max(level, closing) + 0.3, min(level, closing) - 0.3
        values = {"open": level, "high": round(high, 2), "low": round(low, 2), "close": closing}
        made.dvol.append(Row(at, at + NS_PER_HOUR, values))
        level = closing
    for row in range(3):
        at = START + row * NS_PER_DAY
        made.fear_greed.append(Row(at, at + 3 * MINUTE, {"value": str(40 + row)}))
        for place, metric in enumerate(METRICS):
            out = at + NS_PER_DAY + (1 + place) * NS_PER_HOUR
            values = {"metric": metric, "value": f"{random.uniform(1e5, 1e6):.6f}"}
            made.onchain.append(Row(at, out, values))
    for row in range(HEADLINES):
        at = START + row * 71 * MINUTE + 13 * NS_PER_SECOND
        made.news.append(
            Row(
                at,
                at + (row % 4) * 17 * MINUTE + MINUTE,
                {
                    "id": f"n{row}",
                    "source": ("The Wire", "Coin Daily")[row % 2],
                    "headline": f"Bitcoin headline number {row}, {'up' if row % 3 else 'down'}",
                    "score": round(random.uniform(-1, 1), 3),
                },
            )
        )
    made.news.sort(key=lambda one: one.available_ns)
    with serving(made):
        yield made


def polling(url: str, **changes: Any) -> Polling:
    """Readers of everything on the test's grid."""
    pace: dict[str, Any] = {"every_secs": 900.0, "offset_secs": 0.0, "spread_secs": 0.0}
    parts: dict[str, Any] = {
        "funding": FundingSource(instruments=(BTC,), base_url=url, **pace),
        "dvol": DvolSource(base_url=url, **pace),
        "fear_greed": FearGreedSource(base_url=url, **pace),
        "onchain": OnchainSource(metrics=METRICS, base_url=url, **pace),
        "news": (NewsSource(series="wire", url=f"{url}/rss", **pace),),
        "limits": PollLimits(timeout_secs=2.0, deadline_secs=2.0, backoff_secs=1.0),
    }
    return Polling(**{**parts, **changes})


def service_of(config: Polling, clock: Clock, **arguments: Any) -> PollService:
    return PollService(config, clock_ns=clock, ticks_ns=clock, **arguments)


def through(service: PollService, clock: Clock, until: int) -> list[Polled]:
    """Let time pass, polling as it goes."""
    found: list[Polled] = []
    while clock.now <= until:
        found += service.poll_due()
        clock.now += STEP
    return found


def import_files(vendors: Vendors, folder: Path) -> None:
    """Write what the vendors have of the recorded day in the forms of the batch importers."""
    rows = [(row.event_ns // MS, 8, row.fields["rate"]) for row in vendors.funding]
    archive = folder / "futures" / "um"
    archive.mkdir(parents=True)
    frame = pd.DataFrame(rows, columns=["calc_time", "funding_interval_hours", "last_funding_rate"])
    frame.to_csv(archive / "BTCUSDT-fundingRate-2025-05.csv", index=False)
    levels = pd.DataFrame([row.fields for row in vendors.dvol])
    stamps = pd.to_datetime([row.event_ns for row in vendors.dvol], utc=True)
    levels.insert(0, "timestamp", stamps)
    levels.to_parquet(folder / "BTC_dvol.parquet")
    days = [
        (str(pd.Timestamp(row.event_ns))[:10], row.fields["value"]) for row in vendors.fear_greed
    ]
    pd.DataFrame(days, columns=["date", "fear_greed_index"]).to_csv(
        folder / "fear_greed_daily.csv", index=False
    )
    table: dict[int, dict[str, str]] = {}
    for row in vendors.onchain:
        table.setdefault(row.event_ns, {})[row.fields["metric"]] = row.fields["value"]
    chain = pd.DataFrame(
        [{"time": str(pd.Timestamp(at))[:10], **table[at]} for at in sorted(table)]
    )
    chain.to_csv(folder / "coinmetrics_btc.csv", index=False)
    seen = [
        (
            pd.Timestamp(row.event_ns).isoformat(),
            pd.Timestamp(row.available_ns).isoformat(),
            row.fields["headline"],
            row.fields["source"],
        )
        for row in vendors.news
    ]
    pd.DataFrame(seen, columns=["published_at", "first_seen", "headline", "source"]).to_csv(
        folder / "wire.csv", index=False
    )


SERIES = (
    ("funding", BTC),
    ("index", "dvol.btc"),
    ("index", "fear_greed"),
    ("onchain", "coinmetrics.btc"),
    ("news", "wire"),
)


def of_day(catalog: Catalog, kind: Any, series: str) -> list[tuple[Any, ...]]:
    """The day's records without their arrival, by what they speak of."""
    names = ("ts_event", *(column.name for column in COLUMNS[kind]))
    columns = catalog.records(kind, series)
    rows = list(zip(*(columns[name].tolist() for name in names), strict=True))
    inside = [row for row in rows if START + NS_PER_DAY < row[0] <= START + 2 * NS_PER_DAY]
    return sorted(tuple("none" if value != value else value for value in row) for row in inside)


def test_a_polled_day_is_the_day_that_an_import_stores(
    vendors: Vendors, clock: Clock, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    import_files(vendors, folder)
    options = ImportOptions(now_ns=START + 4 * NS_PER_DAY)
    imported = Catalog.open(tmp_path / "imported", create=True)
    assert not import_path(folder, imported, options=options).refused
    service = service_of(polling(vendors.base_url), clock)
    # News of the day's last hour, and its metrics, come on the day after.
    rows = through(service, clock, START + 2 * NS_PER_DAY + 3 * NS_PER_HOUR)
    polled = Catalog.open(tmp_path / "polled", create=True)
    assert not polled.ingest(batches_of_rows(rows)).refused
    for kind, series in SERIES:
        expected = of_day(imported, kind, series)
        assert len(expected) >= {"onchain": 2, "funding": 3}.get(kind, 1), series
        assert of_day(polled, kind, series) == expected, series
    assert len(of_day(polled, "index", "dvol.btc")) == 24
    assert len(of_day(polled, "news", "wire")) == 20


def test_the_arrival_is_honest(vendors: Vendors, clock: Clock) -> None:
    service = service_of(polling(vendors.base_url), clock)
    first = service.poll_due()
    assert first
    assert {row.ts_init for row in first} == {clock.now}
    clock.now += STEP
    rows = through(service, clock, START + 2 * NS_PER_DAY)
    out = {row.event_ns + NS_PER_HOUR: row.available_ns for row in vendors.dvol}
    dvol = [row for row in rows if row.series == "dvol.btc"]
    assert len(dvol) == 24
    # Never before it was out, and at the first poll that could know it.
    assert all(0 <= row.ts_init - out[row.ts_event] < STEP for row in dvol)
    assert all(row.ts_init >= row.ts_event for row in rows)
    stamps = [row.ts_init for row in rows]
    assert stamps == sorted(stamps)


def test_an_hour_under_way_and_the_estimated_rate_are_not_published(
    vendors: Vendors, clock: Clock
) -> None:
    clock.now += 40 * MINUTE
    rows = service_of(polling(vendors.base_url), clock).poll_due()
    assert max(row.ts_event for row in rows if row.kind == "index") <= clock.now - 40 * MINUTE
    assert 0.0999 not in {row.value for row in rows}


def test_an_hour_is_over_by_the_vendors_clock_when_ours_is_ahead(
    vendors: Vendors, clock: Clock
) -> None:
    vendors.skew_ns = -3 * MINUTE
    clock.now += MINUTE
    service = service_of(polling(vendors.base_url, fear_greed=None, onchain=None), clock)
    rows = [row for row in service.poll_due() if row.series == "dvol.btc"]
    # By our clock the last hour is over; the vendor's candle of it still moves.
    assert max(row.ts_event for row in rows) == START + NS_PER_DAY - NS_PER_HOUR
    status = {one.name: one for one in service.status()}["index.dvol.btc"]
    assert status.skewed
    assert status.skew_secs == pytest.approx(-180.0, abs=0.01)


def test_records_of_a_clock_far_ahead_are_refused(vendors: Vendors, clock: Clock) -> None:
    vendors.skew_ns = 9 * NS_PER_HOUR
    service = service_of(polling(vendors.base_url), clock)
    rows = service.poll_due()
    assert all(row.ts_event <= row.ts_init == clock.now for row in rows)
    status = {one.name: one for one in service.status()}
    assert "must not lie in the future" in status[f"funding.{BTC}"].last_error
    assert status["news.wire"].left_out > 0


def test_a_record_of_a_clock_a_little_ahead_is_known_when_it_happened(
    vendors: Vendors, clock: Clock
) -> None:
    vendors.skew_ns = 7 * NS_PER_SECOND
    limits = PollLimits(max_skew_secs=10.0)
    clock.now -= 2 * NS_PER_SECOND
    service = service_of(polling(vendors.base_url, limits=limits), clock)
    rows = [row for row in service.poll_due() if row.kind == "funding"]
    assert rows[-1].ts_event == rows[-1].ts_init == START + NS_PER_DAY
    # Arrival never runs backwards, not even behind a stamp that was ahead of it.
    vendors.news.append(
        Row(clock.now, clock.now, {"id": "x", "source": "The Wire", "headline": "Next"})
    )
    clock.now += NS_PER_SECOND
    for group in service._groups:
        for poller in group:
            poller.due_ticks = 0
    later = service.poll_due()
    assert [row.fields["headline"] for row in later if row.kind == "news"] == ["Next"]
    assert all(row.ts_init >= START + NS_PER_DAY for row in later)


def test_nothing_is_published_twice(vendors: Vendors, clock: Clock) -> None:
    service = service_of(polling(vendors.base_url), clock)
    rows = through(service, clock, clock.now + NS_PER_DAY)
    keys = [(row.name, row.ts_event, row.fields.get("headline")) for row in rows]
    assert len(set(keys)) == len(keys)
    status = {one.name: one for one in service.status()}
    # The last record is read again with each new one, so that a change is seen.
    assert status["index.dvol.btc"].duplicates > 60
    assert status["index.dvol.btc"].failures == 0


def test_settled_rates_are_asked_for_only_once_something_was_settled(
    vendors: Vendors, clock: Clock
) -> None:
    config = polling(vendors.base_url, dvol=None, fear_greed=None, onchain=None, news=())
    service = service_of(config, clock)
    rows = through(service, clock, clock.now + NS_PER_DAY - STEP)
    assert vendors.requests["/fapi/v1/premiumIndex"] == 96
    # The first poll finds a settlement that is not out yet and asks on until it is.
    assert vendors.requests["/fapi/v1/fundingRate"] <= 8
    assert len(rows) == 3 + 3
    assert [row.ts_event % (8 * NS_PER_HOUR) for row in rows] == [0] * 6


def test_a_change_after_the_fact_is_counted_and_the_first_value_stands(
    vendors: Vendors, clock: Clock
) -> None:
    service = service_of(polling(vendors.base_url), clock)
    clock.now += 8 * NS_PER_HOUR
    before = [row for row in service.poll_due() if row.kind == "onchain"]
    assert {row.fields["metric"] for row in before} == set(METRICS)
    place = next(
        n
        for n, row in enumerate(vendors.onchain)
        if row.event_ns == START and row.fields["metric"] == "FlowInExUSD"
    )
    changed = {**vendors.onchain[place].fields, "value": "1.5"}
    vendors.onchain[place] = replace(vendors.onchain[place], fields=changed)
    for _ in range(3):
        clock.now += STEP
        assert not [row for row in service.poll_due() if row.kind == "onchain"]
    status = {one.name: one for one in service.status()}["onchain.coinmetrics.btc.FlowInExUSD"]
    assert status.restated == 1
    assert status.last_value == before[-1].value != 1.5


def test_a_number_that_comes_late_does_not_stand_for_the_newest(
    vendors: Vendors, clock: Clock
) -> None:
    clock.now += 6 * NS_PER_HOUR
    missing = vendors.dvol.pop(28)
    service = service_of(polling(vendors.base_url), clock)
    rows = [row for row in service.poll_due() if row.series == "dvol.btc"]
    vendors.dvol.insert(28, missing)
    # An hour before the last one is not even asked for; told by another reader, it is dropped.
    late = replace(rows[0], ts_event=missing.event_ns + NS_PER_HOUR)
    service._publish([late], 0)
    assert not service.drain()
    assert {one.name: one.late for one in service.status()}["index.dvol.btc"] == 1


def test_history_is_what_an_import_assumes_and_is_not_published_again(
    vendors: Vendors, clock: Clock
) -> None:
    clock.now = START + 2 * NS_PER_DAY + MINUTE
    vendors.page = 7
    service = service_of(polling(vendors.base_url), clock)
    history = service.history(START)
    assert not history.faults
    found = {batch.series: rows_of(batch) for batch in history.batches}
    assert len(found["dvol.btc"]) == 48
    assert all(row.ts_init == row.ts_event for row in found["dvol.btc"])
    assert len(found[BTC]) == 7
    # The second day's metrics are not out yet.
    chain = found["coinmetrics.btc"]
    assert {row.ts_init - row.ts_event for row in chain} == {12 * NS_PER_HOUR}
    news = found["wire"]
    assert all(row.ts_init == row.ts_event + MINUTE for row in news[:-1])
    assert {one.name: one.age_secs for one in service.status()}["index.dvol.btc"] == 60.0
    rows = service.poll_due()
    # What history had not was not out then.
    assert {row.kind for row in rows} <= {"index", "news"}
    assert not {row.ts_event for row in rows} & {row.ts_event for row in found["dvol.btc"]}
    assert service.ages()["index.dvol.btc"] == 60.0


def test_history_begins_where_each_input_ends(vendors: Vendors, clock: Clock) -> None:
    service = service_of(polling(vendors.base_url), clock)
    since = {"index.dvol.btc": START + 20 * NS_PER_HOUR, f"funding.{BTC}": START + NS_PER_HOUR}
    history = service.history(since)
    found = {batch.series: [row.ts_event for row in rows_of(batch)] for batch in history.batches}
    assert set(found) == {"dvol.btc", BTC}
    assert min(found["dvol.btc"]) == START + 20 * NS_PER_HOUR
    assert min(found[BTC]) == START + 8 * NS_PER_HOUR


def test_what_a_catalog_holds_is_not_published(vendors: Vendors, clock: Clock) -> None:
    first = service_of(polling(vendors.base_url), clock)
    batches = batches_of_rows(first.poll_due())
    again = service_of(polling(vendors.base_url), clock)
    again.remember(batches)
    assert not again.poll_due()


def test_headlines_are_scored_before_they_are_stamped_and_measured_in_order(
    vendors: Vendors, clock: Clock
) -> None:
    measured: list[tuple[int, str]] = []

    def novelty(ts: int, text: str) -> float:
        measured.append((ts, text))
        return 0.5

    def scorer(text: str) -> float:
        clock.now += NS_PER_SECOND
        return 0.25

    config = polling(vendors.base_url, funding=None, dvol=None, fear_greed=None, onchain=None)
    service = service_of(config, clock, novelty=novelty, scorer=scorer)
    began = clock.now
    rows = service.poll_due()
    assert len(rows) > 10
    assert {row.value for row in rows} == {0.25}
    assert {row.novelty for row in rows} == {0.5}
    assert {row.ts_init for row in rows} == {clock.now}
    assert clock.now >= began + len(rows) * NS_PER_SECOND
    assert [text for _, text in measured] == [row.fields["headline"] for row in rows]
    assert [row.ts_event for row in rows] == sorted(row.ts_event for row in rows)


def test_a_feed_may_carry_scores(vendors: Vendors, clock: Clock) -> None:
    source = NewsSource(
        series="wire",
        url=f"{vendors.base_url}/feed.json",
        format="json_feed",
        fields={"score": "_sentiment.score"},
    )
    rows = service_of(Polling(news=(source,)), clock).poll_due()
    scores = {row.fields["headline"]: row.fields["score"] for row in vendors.news}
    assert len(rows) > 10
    assert all(row.value == scores[row.fields["headline"]] for row in rows)


def test_the_engines_records_are_those_that_predictors_take(vendors: Vendors, clock: Clock) -> None:
    clock.now += 8 * NS_PER_HOUR
    rows = service_of(polling(vendors.base_url), clock).poll_due()
    by_kind = {row.kind: row for row in rows}
    funding = by_kind["funding"].data()
    assert str(funding.instrument_id) == BTC
    assert float(funding.rate) == by_kind["funding"].value
    assert funding.next_funding_ns == funding.ts_event == by_kind["funding"].ts_event
    for kind in ("index", "onchain", "news"):
        row = by_kind[kind]
        data = row.data()
        assert str(data.data_type.identifier) == row.series
        assert (data.data.ts_event, data.data.ts_init) == (row.ts_event, row.ts_init)
    assert by_kind["index"].data().data.close == by_kind["index"].value
    assert by_kind["onchain"].data().data.asset == "btc"
    stored = by_kind["news"].sentiment().data
    assert stored.headline == by_kind["news"].fields["headline"]
    assert math.isnan(stored.score)


def test_threads_read_and_stop(vendors: Vendors) -> None:
    vendors.clock_ns = lambda: START + NS_PER_DAY
    came = threading.Event()
    rows: list[Polled] = []

    def arrived(found: Any) -> None:
        rows.extend(found)
        came.set()

    service = PollService(polling(vendors.base_url, limits=PollLimits()), clock_ns=vendors.clock_ns)
    service.start(arrived)
    assert came.wait(5.0)
    give_up = time.monotonic() + 5.0
    while len({row.series for row in rows}) < 4 and time.monotonic() < give_up:
        time.sleep(0.01)
    assert {row.series for row in rows} >= {BTC, "dvol.btc", "fear_greed", "wire"}
    began = time.monotonic()
    service.stop(wait_secs=2.0)
    assert time.monotonic() - began < 1.0
    assert not [one for one in threading.enumerate() if one.name.startswith("poll-")]
    assert json.loads(json.dumps([one.last_value for one in service.status()]))
