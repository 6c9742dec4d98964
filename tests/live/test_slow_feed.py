"""The past of slow inputs: the catalog's end and the readers' beginning meet without a seam."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adapters.polling import PollService
from adapters.polling_client import POLLING
from adapters.polling_config import (
    DvolSource,
    FearGreedSource,
    NewsSource,
    OnchainSource,
    Polling,
)
from adapters.polling_records import Polled, batches_of_rows
from catalog.errors import ConfigError
from catalog.store import Catalog
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, parse_time
from live.engine_exchange import ExchangeEngine
from live.history import StoredHistory, stored_history
from live.slow_feed import SlowFeed, open_slow_feed
from strategies.slow_records import input_name
from tests.adapters.polling_server import Row, Vendors, says, serving, status

START = parse_time("2025-05-14")
NOW = START + 3 * NS_PER_DAY + 90 * 60 * 10**9
SEAM = START + 37 * NS_PER_HOUR
SERIES = (
    "index.dvol.btc",
    "index.fear_greed",
    "onchain.coinmetrics.btc.AdrActCnt",
    "news.wire",
)
BTC = "BTCUSDT-PERP.BINANCE"


def spec(*series: str) -> Any:
    return SimpleNamespace(
        series=series,
        instruments=(BTC,),
        interval_ns=15 * 60 * 10**9,
        warmup_bars=10,
        uses_funding=False,
    )


@pytest.fixture
def vendors() -> Iterator[Vendors]:
    made = Vendors(lambda: NOW)
    for row in range(74):
        values = {"open": 50.0, "high": 60.0, "low": 40.0, "close": 50.0 + row / 10}
        made.dvol.append(Row(START + row * NS_PER_HOUR, 0, values))
    for row in range(4):
        at = START + row * NS_PER_DAY
        made.fear_greed.append(Row(at, at, {"value": str(40 + row)}))
        made.onchain.append(Row(at, at, {"metric": "AdrActCnt", "value": str(1000.0 + row)}))
    for row in range(60):
        at = START + row * 70 * 60 * 10**9
        story = {"id": str(row), "source": "Wire", "headline": f"Bitcoin story {row // 2}"}
        made.news.append(Row(at + 1_000_000_000, at, story))
    with serving(made):
        yield made


def rows(vendors: Vendors, until: int) -> list[Polled]:
    """What an import at some time has of the vendors' records: what it has is known."""
    unit = {"unit": "some"}
    found = []
    for one in vendors.dvol:
        at = one.event_ns + NS_PER_HOUR
        found.append(Polled("index", "dvol.btc", "", at, at, one.fields | unit))
    for one in vendors.fear_greed:
        levels = dict.fromkeys(("open", "high", "low", "close"), float(one.fields["value"]))
        found.append(Polled("index", "fear_greed", "", one.event_ns, one.event_ns, levels | unit))
    for one in vendors.onchain:
        at = one.event_ns + NS_PER_DAY
        value = one.fields | unit | {"value": float(one.fields["value"])}
        known = at + 12 * NS_PER_HOUR
        found.append(Polled("onchain", "coinmetrics.btc", "", at, known, value))
    for one in vendors.news:
        story = {
            "source": "Wire",
            "asset": "crypto",
            "headline": one.fields["headline"],
            "score": np.nan,
            "ts_published": one.event_ns,
        }
        known = one.event_ns + 60 * 10**9
        found.append(Polled("news", "wire", "", one.event_ns, known, story))
    return [replace(one, ts_init=min(one.ts_init, until)) for one in found if one.ts_event <= until]


def catalog_of(folder: Path, found: list[Polled]) -> Path:
    report = Catalog.open(folder, create=True).ingest(batches_of_rows(found))
    assert not report.refused
    return folder


def polling(vendors: Vendors, **changes: Any) -> Polling:
    url = vendors.base_url
    parts: dict[str, Any] = {
        "dvol": DvolSource(base_url=url),
        "fear_greed": FearGreedSource(base_url=url),
        "onchain": OnchainSource(metrics=("TxCnt",), base_url=url),
        "news": (NewsSource(series="wire", url=f"{url}/feed.json", format="json_feed",
                            outlet="Wire"),),
        "limits": {"backoff_secs": 0.01, "max_backoff_secs": 0.1},
    }  # fmt: skip
    return Polling(**{**parts, **changes})


def opened(vendors: Vendors, catalog: Path | None, *series: str) -> SlowFeed:
    needs = spec(*(series or SERIES))
    stored = stored_history(catalog, needs, SEAM, until=NOW)
    found = open_slow_feed(polling(vendors), needs, catalog, stored, clock_ns=lambda: NOW)
    assert found is not None
    return found


@pytest.mark.parametrize("seam", [SEAM, SEAM + 17, 0], ids=["a day", "between", "no catalog"])
def test_a_catalog_that_ended_is_completed_to_what_one_that_ends_now_holds(
    vendors: Vendors, tmp_path: Path, seam: int
) -> None:
    whole = catalog_of(tmp_path / "whole", rows(vendors, NOW))
    expected = stored_history(whole, spec(*SERIES), SEAM, until=NOW).slow.series
    part = catalog_of(tmp_path / "part", rows(vendors, seam)) if seam else None
    found = opened(vendors, part)
    assert not found.faults
    assert found.stored.lacking == ()
    for name in SERIES:
        one, other = found.stored.slow.series[name], expected[name]
        assert one.ts_init.tolist() == other.ts_init.tolist(), name
        assert np.array_equal(one.value, other.value, equal_nan=True), name
        if other.extra is not None:
            # Novelty looks back over the seam: every second headline was there before.
            assert one.extra is not None
            assert one.extra.tolist() == other.extra.tolist()
            assert set(one.extra[1::2].tolist()) == {0.0}
    # Nothing of it is published again.
    assert found.service.poll_due() == []


def test_what_comes_later_is_measured_against_the_past(vendors: Vendors, tmp_path: Path) -> None:
    found = opened(vendors, catalog_of(tmp_path / "part", rows(vendors, SEAM)))
    again = {"id": "new", "source": "Wire", "headline": "Bitcoin story 29"}
    vendors.news.append(Row(NOW - 5 * 10**9, NOW, again))
    (row,) = found.service.poll_due()
    assert row.ts_init == NOW
    assert row.novelty == 0.0


def test_a_vendor_that_fails_leaves_the_catalogs_part(vendors: Vendors, tmp_path: Path) -> None:
    vendors.faults += [status(503)] * 4
    found = opened(vendors, catalog_of(tmp_path / "part", rows(vendors, SEAM)), "index.dvol.btc")
    assert "answered 503" in found.faults["dvol btc"]
    assert found.stored.slow.series["index.dvol.btc"].ts_init[-1] == SEAM
    # The reader goes on where the catalog ended.
    later = found.service.poll_due()
    assert [row.ts_event for row in later] == list(range(SEAM + NS_PER_HOUR, NOW, NS_PER_HOUR))
    assert {row.ts_init for row in later} == {NOW}


def test_vendors_that_say_nothing_keep_nobody_waiting_for_long(
    vendors: Vendors, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        limits = {"timeout_secs": 2.0, "history_secs": 1.0, "backoff_secs": 0.01}
        silent = OnchainSource(
            metrics=("TxCnt",), base_url=f"http://127.0.0.1:{mute.getsockname()[1]}"
        )
        needs = spec(*SERIES, *(f"onchain.coinmetrics.{one}.TxCnt" for one in ("eth", "sol")))
        stored = stored_history(None, needs, SEAM, until=NOW)
        config = polling(vendors, onchain=silent, limits=limits)
        began = time.monotonic()
        found = open_slow_feed(config, needs, None, stored, clock_ns=lambda: NOW)
        took = time.monotonic() - began
    assert found is not None
    # One after the other they would take 4 tries of 2 s each.
    assert took < 8.0
    assert set(found.faults) == {f"onchain {one}" for one in ("btc", "eth", "sol")}
    assert set(found.faults.values()) == {"must have answered within 1 s, had not"}
    # The others are complete, and those that are late are not taken for known.
    assert set(found.stored.slow.series) == {one for one in SERIES if not one.startswith("onchain")}
    assert len(found.stored.lacking) == 3


def test_a_page_instead_of_an_answer_is_asked_for_again(vendors: Vendors, tmp_path: Path) -> None:
    vendors.faults += [says("<html>we are back soon</html>")] * 3
    found = opened(vendors, None, "index.dvol.btc")
    assert found.faults == {}
    assert found.stored.lacking == ()


def test_a_predictor_without_slow_inputs_needs_no_readers() -> None:
    assert open_slow_feed(Polling(), spec(), None, StoredHistory()) is None


def test_a_series_that_nobody_reads_is_refused() -> None:
    needs = spec("news.wire")
    with pytest.raises(ConfigError, match=r"lacked news.wire"):
        open_slow_feed(Polling(), needs, None, StoredHistory())


def engine(vendors: Vendors, inputs: Path | None, clock: Any, *series: str) -> Any:
    """As much of an engine as its slow inputs look at."""
    told: list[str] = []
    return SimpleNamespace(
        _is_real=False,
        _request=SimpleNamespace(inputs=inputs, catalog=None),
        _prepared=SimpleNamespace(predictor=SimpleNamespace(spec=spec(*series))),
        _teller=SimpleNamespace(event=lambda kind, text: told.append(text)),
        clock=clock,
        now=lambda: NOW,
        told=told,
    )


def test_an_engine_polls_what_its_predictor_looks_at(vendors: Vendors, tmp_path: Path) -> None:
    settings = tmp_path / "inputs.yaml"
    settings.write_text(f"dvol: {{base_url: '{vendors.base_url}'}}\nlimits: {{backoff_secs: 0.01}}")
    running = engine(vendors, settings, None, "index.dvol.btc")
    running._slow = ExchangeEngine._slow_inputs(running, StoredHistory())
    assert len(running._slow.stored.slow.series["index.dvol.btc"]) == 73
    ((name, _, _),) = ExchangeEngine._others(running)
    assert name == POLLING
    vendors.faults += [status(503)] * 4
    failing = engine(vendors, settings, None, "index.dvol.btc")
    found = ExchangeEngine._slow_inputs(failing, StoredHistory())
    assert found is not None
    assert found.stored.lacking == ("index.dvol.btc",)
    assert "history of dvol btc cannot be had" in failing.told[0]


def test_beside_recorded_data_nobody_is_asked_who_is_not_named(vendors: Vendors) -> None:
    recorded = engine(vendors, None, lambda: NOW, *SERIES)
    assert ExchangeEngine._slow_inputs(recorded, StoredHistory()) is None
    recorded._slow = None
    assert ExchangeEngine._others(recorded) == ()
    with pytest.raises(ConfigError, match=r"lacked news.wire"):
        ExchangeEngine._slow_inputs(engine(vendors, None, None, *SERIES), StoredHistory())


def test_a_record_is_called_what_its_predictor_calls_it(vendors: Vendors) -> None:
    config = polling(vendors).for_predictor(SERIES, ())
    found = PollService(config, clock_ns=lambda: NOW).poll_due()
    assert {input_name(row.data()) for row in found} == set(SERIES)
    assert all(input_name(row.data()) == row.name for row in found)
