"""Slow inputs in a live node: what is polled reaches those who subscribed to it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any, Self

import pytest
from nautilus_trader.common import DataActor, DataActorConfig, Environment, LoggerConfig, LogLevel
from nautilus_trader.config import DataClientConfig
from nautilus_trader.live import LiveNodeBuilder, LiveNodeConfig
from nautilus_trader.model import ActorId, ClientId, DataType, InstrumentId, TraderId

from adapters.polling import PollService
from adapters.polling_client import POLLING, polling_data_factory
from adapters.polling_config import DvolSource, FearGreedSource, FundingSource, NewsSource, Polling
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, parse_time
from tests.adapters.polling_server import Row, Vendors, drops, serving

BTC = "BTCUSDT-PERP.BINANCE"
START = parse_time("2025-05-14")
NOW = START + NS_PER_DAY
LONGEST_SECS = 10.0


class Listener(DataActor):
    """Notes what comes, and stops the node once enough has."""

    def __new__(cls, wanted: list[DataType], enough: int) -> Self:
        return super().__new__(cls)

    def __init__(self, wanted: list[DataType], enough: int) -> None:
        super().__init__(DataActorConfig(actor_id=ActorId("LISTENER-001")))
        self.wanted, self.enough = wanted, enough
        self.data: list[Any] = []
        self.rates: list[Any] = []
        self.stop: Callable[[], None] = lambda: None
        self.thread = threading.current_thread()

    def on_start(self) -> None:
        for data_type in self.wanted:
            self.subscribe_data(data_type, client_id=ClientId(POLLING))
        identity = InstrumentId.from_str(BTC)
        self.subscribe_funding_rates(identity, client_id=ClientId(POLLING))

    def on_data(self, data: Any) -> None:
        self.data.append(data)
        self._look()

    def on_funding_rate(self, funding_rate: Any) -> None:
        self.rates.append(funding_rate)
        self._look()

    def _look(self) -> None:
        assert threading.current_thread() is self.thread
        if len(self.data) + len(self.rates) >= self.enough:
            self.stop()


def run(service: PollService, listener: Listener) -> None:
    config = LiveNodeConfig(
        environment=Environment.SANDBOX,
        trader_id=TraderId("LEVIBOT-001"),
        shutdown_on_error=True,
        logging=LoggerConfig(stdout_level=LogLevel.ERROR),
        delay_post_stop_secs=0.0,
        timeout_shutdown_secs=1.0,
    )
    node = (
        LiveNodeBuilder.from_config("levibot", config)
        .add_data_client(POLLING, polling_data_factory(service), DataClientConfig())
        .build()
    )
    listener.stop = node.handle().stop
    alarm = threading.Timer(LONGEST_SECS, listener.stop)
    alarm.start()
    try:
        node.add_actor(listener)
        node.run()
    finally:
        alarm.cancel()
        listener.stop = lambda: None
        node.dispose()
        del node
        gc.collect()


@pytest.mark.parametrize("fails", [False, True], ids=["at once", "after a failure"])
def test_subscribers_get_what_is_polled(fails: bool) -> None:
    vendors = Vendors(lambda: NOW)
    for row in range(24):
        values = {"open": 50.0, "high": 60.0, "low": 49.0, "close": 50.0 + row / 10}
        vendors.dvol.append(Row(START + row * NS_PER_HOUR, 0, values))
    vendors.fear_greed.append(Row(NOW, NOW, {"value": "40"}))
    vendors.funding.append(Row(NOW - 8 * NS_PER_HOUR, 0, {"rate": "0.0002"}))
    story = {"id": "1", "source": "Wire", "headline": "Bitcoin rises"}
    vendors.news.append(Row(NOW - NS_PER_HOUR, 0, story))
    if fails:
        vendors.faults += [drops] * 4
    with serving(vendors):
        url = vendors.base_url
        config = Polling(
            funding=FundingSource(instruments=(BTC,), base_url=url),
            dvol=DvolSource(base_url=url),
            fear_greed=FearGreedSource(base_url=url),
            news=(NewsSource(series="wire", url=f"{url}/rss"),),
            limits={"backoff_secs": 0.1},
        )
        service = PollService(config, novelty=lambda ts, text: 0.75, clock_ns=lambda: NOW)
        wanted = [
            DataType("IndexLevel", None, "dvol.btc"),
            DataType("NewsArrival", None, "wire"),
            DataType("NewsSentiment", None, "wire"),
        ]
        listener = Listener(wanted, enough=7 + 1 + 1 + 1)
        run(service, listener)
    by_type: dict[str, list[Any]] = {}
    for one in listener.data:
        by_type.setdefault(type(one.data).__name__, []).append(one)
    # What ended in the last six hours at the first poll; Fear & Greed has no subscriber.
    levels = [one.data.close for one in by_type["IndexLevel"]]
    assert levels == [51.7, 51.8, 51.9, 52.0, 52.1, 52.2, 52.3]
    assert {str(one.data_type.identifier) for one in by_type["IndexLevel"]} == {"dvol.btc"}
    (arrival,), (stored,) = by_type["NewsArrival"], by_type["NewsSentiment"]
    assert arrival.data.novelty == 0.75
    assert stored.data.headline == "Bitcoin rises"
    (rate,) = listener.rates
    assert float(rate.rate) == 0.0002
    assert rate.ts_event == rate.next_funding_ns == NOW - 8 * NS_PER_HOUR
    assert {one.data.ts_init for one in listener.data} == {NOW} == {rate.ts_init}
    failures = sum(one.failures for one in service.status())
    assert failures >= 2 if fails else failures == 0
