"""The barrier in a live node, by the wall clock: a bar that does not come is waited for no longer
than agreed, and what was predicted without it says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest
from nautilus_trader.common import DataActor, DataActorConfig, Environment, LoggerConfig, LogLevel
from nautilus_trader.config import DataClientConfig
from nautilus_trader.live import LiveNodeBuilder, LiveNodeConfig
from nautilus_trader.live.clients import DataClientFactory, MarketDataClient
from nautilus_trader.model import ActorId, Bar, BarType, Price, Quantity, TraderId, Venue

from catalog.arrays import Ohlcv
from catalog.instruments import bar_type, instrument
from research.predictor import Prediction, PredictorSpec
from strategies.predictor_actor import PREDICTION_TYPE, PredictorActor, PredictorActorConfig
from strategies.recorder import RunRecorder

INTERVAL = 900 * 10**9
START = 1_704_067_200 * 10**9
BTC, ETH = NAMES = ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE")
TIMEOUT = 0.8


class Even:
    """Predicts every bar that it is shown."""

    spec = PredictorSpec(NAMES, INTERVAL, 1, 0, "even", False, "0" * 64)

    def update_funding(self, instrument_id: str, rate: float, ts_init: int) -> None:
        raise AssertionError("no funding is needed")

    def update(self, ts_init: int, bars: Mapping[str, Ohlcv]) -> list[Prediction]:
        return [Prediction(name, ts_init, 0.5, 1, "even") for name in NAMES if name in bars]


class Listener(DataActor):
    """Takes predictions down with the wall-clock time at which they came."""

    def __new__(cls) -> Any:
        return super().__new__(cls)

    def __init__(self) -> None:
        super().__init__(DataActorConfig(actor_id=ActorId("LISTENER-001")))
        self.heard: list[tuple[int, str, str, float]] = []

    def on_start(self) -> None:
        self.subscribe_data(PREDICTION_TYPE)

    def on_data(self, data: Any) -> None:
        one = data.data
        number = (one.ts_init - START) // INTERVAL
        self.heard.append((number, one.instrument_id, one.degraded_reason, time.monotonic()))


def bar(name: str, number: int) -> Bar:
    ts = START + number * INTERVAL
    decimals = instrument(name).price_precision
    price = Price(100.0, decimals)
    kind = BarType.from_str(bar_type(name, "15m"))
    volume = Quantity(1.0, instrument(name).size_precision)
    return Bar(kind, price, price, price, price, volume, ts, ts)


class Feed(MarketDataClient):
    """Sends bars by a script of pauses, once both instruments are subscribed to."""

    script: tuple[tuple[float, str, int], ...] = ()
    sent: dict[tuple[str, int], float]
    stop: Any

    async def _connect(self) -> None:
        self._wanted = set(NAMES)
        for name in NAMES:
            self._handle_instrument(instrument(name))

    async def _disconnect(self) -> None:
        return

    async def _subscribe(self, command: Any) -> None:
        return

    async def _unsubscribe(self, command: Any) -> None:
        return

    async def _unsubscribe_bars(self, command: Any) -> None:
        return

    async def _subscribe_bars(self, command: Any) -> None:
        self._wanted.discard(str(command.bar_type.instrument_id))
        if not self._wanted:
            self.create_task(self._play(), "play")

    async def _play(self) -> None:
        try:
            for pause, name, number in type(self).script:
                await asyncio.sleep(pause)
                type(self).sent[name, number] = time.monotonic()
                self._handle_data(bar(name, number))
            await asyncio.sleep(0.2)
        finally:
            type(self).stop()


def run(script: tuple[tuple[float, str, int], ...]) -> tuple[Any, RunRecorder, dict[Any, float]]:
    played = type("Played", (Feed,), {"script": script, "sent": {}})

    class Factory(DataClientFactory):
        @staticmethod
        def create(*, name: str, config: Any, cache: Any, clock: Any) -> MarketDataClient:
            return played(
                venue=Venue("BINANCE"), name=name, config=config, cache=cache, clock=clock
            )

    recorder = RunRecorder(NAMES, 1_000.0)
    listener = Listener()
    actor = PredictorActor(Even(), recorder, PredictorActorConfig(timeout_ms=int(1000 * TIMEOUT)))
    config = LiveNodeConfig(
        environment=Environment.SANDBOX,
        trader_id=TraderId("BARRIER-001"),
        shutdown_on_error=True,
        logging=LoggerConfig(stdout_level=LogLevel.ERROR),
        delay_post_stop_secs=0.0,
        timeout_shutdown_secs=1.0,
    )
    node = (
        LiveNodeBuilder.from_config("barrier", config)
        .add_data_client("BINANCE", Factory, DataClientConfig())
        .build()
    )
    try:
        node.add_actor(listener)
        node.add_actor(actor)
        played.stop = staticmethod(node.handle().stop)
        node.run()
    finally:
        node.dispose()
    return listener.heard, recorder, played.sent


def test_a_bar_that_does_not_come_is_waited_for_as_long_as_agreed_and_no_longer() -> None:
    heard, recorder, sent = run(
        (
            (0.0, BTC, 1),
            (0.0, ETH, 1),
            # Before the alert of the first time would have gone off: it must not close this one.
            (0.6 * TIMEOUT, BTC, 2),
            (3.0 * TIMEOUT, ETH, 2),
            (0.0, BTC, 3),
            (0.0, ETH, 3),
        )
    )
    assert recorder.errors == []
    found = [one[:3] for one in heard]
    assert found == [
        (1, BTC, ""),
        (1, ETH, ""),
        (2, BTC, f"no bar of {ETH}"),
        (3, BTC, ""),
        (3, ETH, ""),
    ]
    assert heard[2][3] - sent[BTC, 2] >= 0.95 * TIMEOUT
    assert heard[2][3] < sent[ETH, 2]
    # The late bar counts as such, and predicts nothing.
    assert recorder.late_bars == 1
    assert recorder.actor_bars == 6


def test_an_exception_in_the_time_out_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def boom(*_: Any) -> None:
        raise ArithmeticError("the original words")

    monkeypatch.setattr(Even, "update", boom)
    heard, recorder, _ = run(((0.0, BTC, 1), (2.0 * TIMEOUT, BTC, 2)))
    assert heard == []
    assert recorder.errors[0] == "PredictorActor._on_timeout: ArithmeticError: the original words"
