"""What readers of slow inputs do when servers fail, lie, drag on or say too much."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

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
from adapters.polling_records import InputStatus, Polled
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, NS_PER_SECOND, parse_time
from tests.adapters.polling_server import (
    Row,
    Vendors,
    bomb,
    cut,
    drips,
    drops,
    says,
    serving,
    silent,
    status,
)

BTC = "BTCUSDT-PERP.BINANCE"
START = parse_time("2025-05-14")
NOW = START + NS_PER_DAY + 600 * NS_PER_SECOND


class Clock:
    """A wall clock that stands until it is told to go on."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vendors(clock: Clock) -> Iterator[Vendors]:
    """A day of implied volatility that goes up by a point an hour."""
    made = Vendors(clock)
    for row in range(48):
        level = 40.0 + row
        values = {"open": level, "high": level + 1.0, "low": level - 1.0, "close": level + 0.5}
        made.dvol.append(Row(START + row * NS_PER_HOUR, 0, values))
    with serving(made):
        yield made


LIMITS = PollLimits(
    timeout_secs=0.3, deadline_secs=0.5, max_bytes=100_000, backoff_secs=2.0, max_backoff_secs=60.0
)
PACE: dict[str, Any] = {"every_secs": 60.0, "offset_secs": 0.0, "spread_secs": 0.0}


def dvol_service(
    vendors: Vendors, clock: Clock, limits: PollLimits = LIMITS, **changes: Any
) -> PollService:
    source = DvolSource(base_url=vendors.base_url, **{**PACE, **changes})
    config = Polling(dvol=source, limits=limits)
    return PollService(config, clock_ns=clock, ticks_ns=clock)


def only(service: PollService) -> InputStatus:
    (found,) = service.status()
    return found


FAULTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "500": (status(500), "answered 500"),
    "502": (status(502, "<html>Bad gateway</html>"), "answered 502"),
    "429": (status(429), "answered 429"),
    "418": (status(418), "bans this address"),
    "403": (status(403, '{"error": "forbidden"}'), r'answered 403 .*: \{"error": "forbidden"\}'),
    "404": (status(404), "answered 404"),
    "silence": (silent(0.6), "timed out"),
    "drops": (drops, "connection failed"),
    "cut": (cut, r"connection failed: IncompleteRead"),
    "drips": (drips, r"must be there within 0.5 s"),
    "huge": (says(b" " * 200_000), "at most 100,000 bytes"),
    "bomb": (bomb, "at most 100,000 bytes"),
    "empty": (says(""), "must answer with JSON"),
    "html": (says("<html>Maintenance</html>"), "must answer with JSON, was b'<html>Maintenance"),
    "half": (says('{"result": {"data": [[1'), "must answer with JSON"),
    "nan": (says('{"result": NaN}'), "NaN is no JSON"),
    "bytes": (says(bytes(range(128, 256))), "must answer with JSON"),
    "nested": (says("[" * 50_000), "must answer with JSON"),
    "list": (says("[]"), r"the answer must be an object, was \[\]"),
    "error": (says('{"error": {"code": -32602}}'), "result must be an object, was None"),
    "candle": (says('{"result": {"data": [[1, 2]], "continuation": null}}'), "a candle must be"),
    "text": (
        says('{"result": {"data": [["1", 2, 2, 2, 2]], "continuation": null}}'),
        "a candle must be",
    ),
    "fraction": (
        says('{"result": {"data": [[1747180800000, 0.5, 0.6, 0.4, 0.5]], "continuation": null}}'),
        "must be percent a year, at least 2, was 0.4",
    ),
    "crossed": (
        says('{"result": {"data": [[1747180800000, 50, 40, 60, 50]], "continuation": null}}'),
        "high must not be below low",
    ),
    "seconds": (
        says('{"result": {"data": [[1746000000, 50, 51, 49, 50]], "continuation": null}}'),
        "must be after 2009-01-01",
    ),
    "off the hour": (
        says('{"result": {"data": [[1747180800001, 50, 51, 49, 50]], "continuation": null}}'),
        "must be the start of an hour",
    ),
    "endless": (
        says('{"result": {"data": [[1747180800000, 50, 51, 49, 50]], "continuation": 9e99}}'),
        "continuation must be earlier",
    ),
    "two": (
        says(
            '{"result": {"data": [[1747180800000, 50, 51, 49, 50], [1747180800000, 50, 51, 49, '
            '50.5]], "continuation": null}}'
        ),
        "must have one candle, had two",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_publishes_nothing_is_told_and_passes(
    vendors: Vendors, clock: Clock, name: str
) -> None:
    fault, message = FAULTS[name]
    service = dvol_service(vendors, clock)
    before = service.poll_due()[-1]
    clock.now += NS_PER_HOUR
    vendors.faults.append(fault)
    began = time.monotonic()
    assert not service.poll_due()
    assert time.monotonic() - began < 2.0
    found = only(service)
    assert (found.failures, found.failures_in_row) == (1, 1)
    assert re.search(message, found.last_error), found.last_error
    # What is known stands, and grows old.
    assert found.last_value == before.value
    assert found.age_secs == 3_600.0
    assert 2.0 <= (found.next_poll_ns - clock.now) / NS_PER_SECOND <= 60.0 * 1.25
    clock.now = found.next_poll_ns
    after = service.poll_due()
    assert [row.ts_event for row in after] == [before.ts_event + NS_PER_HOUR]
    assert only(service).failures_in_row == 0
    assert only(service).last_error == ""


def waits(service: PollService, clock: Clock, polls: int) -> list[float]:
    """Poll when due; return the seconds that were waited in between."""
    found = []
    for _ in range(polls):
        service.poll_due()
        found.append((only(service).next_poll_ns - clock.now) / NS_PER_SECOND)
        clock.now = only(service).next_poll_ns
    return found


def test_failures_in_a_row_are_waited_for_longer_and_longer(vendors: Vendors, clock: Clock) -> None:
    vendors.faults += [status(500)] * 8
    service = dvol_service(vendors, clock)
    found = waits(service, clock, 9)
    for wait, least in zip(found, (2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0), strict=False):
        assert least <= wait <= 1.25 * least
    assert found[8] <= 60.0
    # Engines that failed together must not come back together.
    assert len({wait / 60.0 for wait in found[5:8]}) == 3


def test_a_server_that_says_how_long_is_waited_for(vendors: Vendors, clock: Clock) -> None:
    vendors.faults += [status(429, retry_after="90"), status(418), status(418, retry_after="600")]
    service = dvol_service(vendors, clock)
    found = waits(service, clock, 3)
    assert 90.0 <= found[0] <= 113.0
    assert 60.0 <= found[1] <= 75.0
    assert 600.0 <= found[2] <= 750.0


def test_a_refusal_is_not_repeated_quickly(vendors: Vendors, clock: Clock) -> None:
    vendors.faults.append(status(403))
    assert waits(dvol_service(vendors, clock), clock, 1)[0] >= 60.0


def test_polls_lie_on_the_grid(vendors: Vendors, clock: Clock) -> None:
    clock.now += 17 * NS_PER_SECOND
    service = dvol_service(vendors, clock, every_secs=300.0, offset_secs=5.0)
    service.poll_due()
    assert (only(service).next_poll_ns - START) % (300 * NS_PER_SECOND) == 5 * NS_PER_SECOND
    clock.now = only(service).next_poll_ns
    service.poll_due()
    assert only(service).next_poll_ns - clock.now == 300 * NS_PER_SECOND
    spread = dvol_service(vendors, clock, spread_secs=20.0)
    waited = {round(wait % 60.0, 3) for wait in waits(spread, clock, 5)}
    assert len(waited) > 1


def test_content_that_does_not_move_on_is_stale_however_well_the_server_answers(
    vendors: Vendors, clock: Clock
) -> None:
    del vendors.dvol[24:]
    service = dvol_service(vendors, clock)
    service.poll_due()
    assert not only(service).stale
    clock.now += 3 * NS_PER_HOUR
    assert not service.poll_due()
    found = only(service)
    assert found.failures == 0
    assert found.stale
    assert found.age_secs == 3 * 3_600.0
    assert service.ages() == {"index.dvol.btc": 3 * 3_600.0}


def test_an_input_that_never_came_has_no_age(vendors: Vendors, clock: Clock) -> None:
    vendors.faults.append(status(500))
    service = dvol_service(vendors, clock)
    service.poll_due()
    assert only(service).stale
    assert only(service).last_value is None
    assert service.ages() == {}


def test_after_an_outage_all_that_was_missed_comes_in_order(vendors: Vendors, clock: Clock) -> None:
    service = dvol_service(vendors, clock)
    service.poll_due()
    clock.now += 9 * NS_PER_HOUR
    vendors.faults += [drops]
    service.poll_due()
    clock.now = only(service).next_poll_ns
    rows = service.poll_due()
    assert [row.ts_event for row in rows] == [START + (25 + row) * NS_PER_HOUR for row in range(9)]
    assert {row.ts_init for row in rows} == {clock.now}


def test_a_silent_server_keeps_no_other_reader_waiting(vendors: Vendors, clock: Clock) -> None:
    vendors.faults.append(silent(1.5))
    source: dict[str, Any] = {"base_url": vendors.base_url, **PACE}
    rows: list[Polled] = []
    vendors.fear_greed.append(Row(START, START, {"value": "40"}))
    limits = PollLimits(timeout_secs=5.0)
    config = Polling(dvol=DvolSource(**source), limits=limits)
    slow = PollService(config, clock_ns=clock)
    slow.start(rows.extend)
    while not vendors.requests:
        time.sleep(0.005)
    both = Polling(fear_greed=FearGreedSource(**source), limits=limits)
    quick = PollService(both, clock_ns=clock)
    began = time.monotonic()
    quick.start(rows.extend)
    while not rows:
        assert time.monotonic() - began < 1.0
        time.sleep(0.005)
    began = time.monotonic()
    slow.stop(wait_secs=0.1)
    quick.stop()
    assert time.monotonic() - began < 0.5


def test_an_exception_that_nobody_foresaw_does_not_end_the_reading(
    vendors: Vendors, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = dvol_service(vendors, clock)

    def boom(*_: Any) -> None:
        raise KeyError("planted")

    with monkeypatch.context() as patched:
        patched.setattr(service, "_read", boom)
        assert not service.poll_due()
    assert "planted" in only(service).last_error
    clock.now = only(service).next_poll_ns
    assert service.poll_due()


def test_history_repeats_and_then_names_who_failed(vendors: Vendors, clock: Clock) -> None:
    quick = LIMITS.model_copy(update={"backoff_secs": 0.01})
    vendors.faults += [status(503), drops, says("<html>back soon</html>")]
    service = dvol_service(vendors, clock, quick)
    assert len(service.history(START).batches[0]) == 24
    vendors.faults += [status(503)] * 4
    found = dvol_service(vendors, clock, quick).history(START)
    assert not found.batches
    assert found.faults.keys() == {"dvol btc"}
    assert "answered 503" in found.faults["dvol btc"]


def test_history_that_comes_too_late_is_not_taken_and_disturbs_no_poll(
    vendors: Vendors, clock: Clock
) -> None:
    vendors.faults += [silent(0.6)]
    limits = {"timeout_secs": 5.0, "history_secs": 0.1, "backoff_secs": 0.01}
    service = dvol_service(vendors, clock, LIMITS.model_copy(update=limits))
    began = time.monotonic()
    found = service.history(START)
    assert time.monotonic() - began < 0.5
    assert not found.batches
    assert found.faults == {"dvol btc": "must have answered within 0.1 s, had not"}
    # The first poll waits for the question that is under way, and finds what is there.
    assert service.poll_due()
    assert vendors.requests.total() == 2
    assert only(service).failures == 0


SECRET = "s3cr3t-value"


def secret_service(vendors: Vendors, clock: Clock) -> PollService:
    source = FearGreedSource(
        base_url=vendors.base_url,
        query_from_env={"api_key": "LEVIBOT_TEST_KEY"},
        headers_from_env={"X-Key": "LEVIBOT_TEST_HEADER"},
        **PACE,
    )
    return PollService(Polling(fear_greed=source, limits=LIMITS), clock_ns=clock, ticks_ns=clock)


def test_keys_come_from_the_environment_and_are_shown_nowhere(
    vendors: Vendors,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = secret_service(vendors, clock)
    service.poll_due()
    lacked = only(service).last_error
    assert lacked.startswith("keys of a polled service must be in the environment, lacked LEVIBOT")
    assert not vendors.requests
    monkeypatch.setenv("LEVIBOT_TEST_KEY", SECRET)
    monkeypatch.setenv("LEVIBOT_TEST_HEADER", f"{SECRET}-2")
    vendors.faults += [
        status(403, f"your key {SECRET}, sent as {SECRET}-2, is bad"),
        drops,
        says(f'"{SECRET}"'),
        status(302, location="http://192.0.2.1/"),
    ]
    for _ in range(4):
        clock.now = only(service).next_poll_ns
        service.poll_due()
        found = only(service)
        assert found.last_error
        assert SECRET not in str(found)
    assert "redirects are not followed where a key is sent" in found.last_error
    assert vendors.queries[0]["api_key"] == SECRET
    assert vendors.headers[0]["X-Key"] == f"{SECRET}-2"
    assert SECRET not in caplog.text
    assert SECRET not in service.config.model_dump_json()


def test_a_refused_connection_names_host_and_path(clock: Clock) -> None:
    source = FearGreedSource(base_url="http://127.0.0.1:9", **PACE)
    service = PollService(Polling(fear_greed=source), clock_ns=clock, ticks_ns=clock)
    service.poll_due()
    assert only(service).last_error.startswith("127.0.0.1/fng/: the connection failed: ")


WRONG: dict[str, tuple[str, str, str]] = {
    "fear_greed value": ("fear_greed", '{"data": [{"value": 40, "timestamp": "1747180800"}]}',
                         "value must be a text, was 40"),
    "fear_greed range": ("fear_greed", '{"data": [{"value": "140", "timestamp": "1747180800"}]}',
                         "must be between 0 and 100"),
    "fear_greed error": ("fear_greed", '{"data": [], "metadata": {"error": "down"}}',
                         "without an error, was 'down'"),
    "fear_greed two": (
        "fear_greed",
        '{"data": [{"value": "40", "timestamp": "1747180800"}, '
        '{"value": "41", "timestamp": "1747180900"}]}',
        "a day must have one value, had 40 and 41",
    ),
    "onchain asset": (
        "onchain",
        '{"data": [{"asset": "eth", "time": "2025-05-14T00:00:00.0Z", "AdrActCnt": "1"}]}',
        r"asset must be btc, was \['eth'\]",
    ),
    "onchain number": (
        "onchain",
        '{"data": [{"asset": "btc", "time": "2025-05-14T00:00:00.0Z", "AdrActCnt": "many"}]}',
        "AdrActCnt must be a finite number, was 'many'",
    ),
    "onchain hour": (
        "onchain",
        '{"data": [{"asset": "btc", "time": "2025-05-14T01:00:00.0Z", "AdrActCnt": "1"}]}',
        "must be the midnight at which a day starts",
    ),
    "onchain token": ("onchain", '{"data": [{}], "next_page_token": 7}', "must be a text, was 7"),
    "funding symbol": ("funding", '{"symbol": "ETHUSDT"}', "must be BTCUSDT, was 'ETHUSDT'"),
    "funding time": ("funding", '{"symbol": "BTCUSDT", "time": "now"}', "time must be a whole"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_an_answer_that_breaks_its_form_is_refused_whole(
    vendors: Vendors, clock: Clock, name: str
) -> None:
    kind, body, message = WRONG[name]
    source: dict[str, Any] = {"base_url": vendors.base_url, **PACE}
    parts: dict[str, Any] = {
        "fear_greed": FearGreedSource(**source),
        "onchain": OnchainSource(metrics=("AdrActCnt",), **source),
        "funding": FundingSource(instruments=(BTC,), **source),
    }
    vendors.faults.append(says(body))
    service = PollService(Polling(**{kind: parts[kind]}), clock_ns=clock, ticks_ns=clock)
    assert not service.poll_due()
    assert re.search(message, only(service).last_error), only(service).last_error


@pytest.mark.parametrize(
    "rate", ["0.5", "nan", "1e400", ""], ids=["percent", "nan", "infinite", "empty"]
)
def test_a_rate_that_cannot_be_is_refused(vendors: Vendors, clock: Clock, rate: str) -> None:
    vendors.funding.append(Row(START + NS_PER_DAY, START, {"rate": rate}))
    source = FundingSource(instruments=(BTC,), base_url=vendors.base_url, **PACE)
    config = Polling(funding=source)
    service = PollService(config, clock_ns=clock, ticks_ns=clock)
    assert not service.poll_due()
    assert "rate must be a f" in only(service).last_error


def test_a_feed_that_has_not_changed_is_not_read_again_but_a_broken_one_is(
    vendors: Vendors, clock: Clock
) -> None:
    vendors.news.append(Row(START, START, {"id": "1", "source": "W", "headline": "One"}))
    source = NewsSource(series="wire", url=f"{vendors.base_url}/rss", **PACE, first_secs=1e6)
    service = PollService(Polling(news=(source,)), clock_ns=clock, ticks_ns=clock)
    vendors.faults.append(says("<html>Back soon</html>"))
    assert not service.poll_due()
    assert "must answer with an RSS or Atom feed" in only(service).last_error
    vendors.faults.append(says("<html>Back soon</html>"))
    for _ in range(4):
        clock.now = only(service).next_poll_ns
        service.poll_due()
    asked = [one.get("If-None-Match") for one in vendors.headers]
    assert asked[:3] == [None, None, None]
    assert asked[3] is not None
    assert only(service).duplicates == 0
    assert only(service).records == 1
