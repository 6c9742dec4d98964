"""A live node with the paper exchange on wall-clock time, fed by a script that plays the market and
the people around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nautilus_trader.config import DataClientConfig
from nautilus_trader.live import ClientCache
from nautilus_trader.live.clients import DataClientFactory, MarketDataClient
from nautilus_trader.model import Bar, BarType, Price, Quantity, QuoteTick, Venue

from catalog.arrays import Ohlcv
from catalog.instruments import bar_type, definition, infer_instrument
from live.live_guard import GuardFiles, LiveGuard, Traded, live_guard
from live.node import run_feed
from live.paper import PaperExecutionClient, PaperWiring
from research.predictor import Prediction, PredictorSpec
from strategies.execution import ExecutionConfig
from strategies.fusion import FusionPolicy, FusionStrategy, StrategySettings
from strategies.guard import Guard
from strategies.limit_orders import LimitStyle
from strategies.predictor_actor import PredictorActor, PredictorActorConfig
from strategies.recorder import RunRecorder
from strategies.risk_guard import RiskGuard, RiskGuardConfig
from strategies.risk_policy import load_risk_policy
from tests.strategies.settings import plain_execution

INTERVAL = 900 * 10**9
BTC = "BTCUSDT-PERP.BINANCE"
QUOTE_SECS = 0.02


class Always:
    """Predicts the same at every bar."""

    def __init__(self, names: tuple[str, ...], up: float) -> None:
        self.spec = PredictorSpec(names, INTERVAL, 4, 0, "always", False, "0" * 64)
        self.up = up

    def update_funding(self, instrument_id: str, rate: float, ts_init: int) -> None:
        raise AssertionError("no funding is needed")

    def update(self, ts_init: int, bars: Mapping[str, Ohlcv]) -> list[Prediction]:
        found = [Prediction(name, ts_init, self.up, 4, "always") for name in bars]
        return [one._replace(volatility=0.01) for one in found]


@dataclass
class World:
    """What a script can see and change, on the node's own thread.

    `price` is what the exchange quotes, `quiet` that it quotes nothing.
    """

    folder: Path
    strategy: FusionStrategy
    risk_guard: RiskGuard
    recorder: RunRecorder
    exchange: PaperExecutionClient | None = None
    publish: Any = None
    price: float = 30_000.0
    quiet: bool = False
    failure: BaseException | None = None
    stop: Callable[[], None] = lambda: None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def guard(self) -> Guard:
        assert self.strategy.guard is not None
        return self.strategy.guard.guard

    @property
    def kill_switch(self) -> Path:
        return self.folder / "KILL"

    @property
    def state_file(self) -> Path:
        return self.folder / "guard.json"

    @property
    def policy_file(self) -> Path:
        return self.folder / "risk.yaml"

    def flat(self) -> bool:
        """Neither our books nor the exchange's hold anything, and no order is alive."""
        assert self.exchange is not None
        book = self.exchange.book
        return not (self.recorder.ledger.positions or book.ledger.positions or book.open_orders())

    def held(self) -> bool:
        """A position is open in each instrument, and what protects it is at the exchange."""
        assert self.exchange is not None
        exits = [one for one in self.exchange.book.open_orders() if one.trigger is not None]
        stops = self.strategy.policy.stops
        count = 1 if stops is None or stops.target_vol_multiple is None else 2
        positions = len(self.recorder.ledger.positions)
        return positions == len(self.names) and len(exits) == count * positions

    def told(self, kind: str, reason: str) -> bool:
        return any((one.kind, one.reason) == (kind, reason) for one in self.recorder.guard_events)

    @property
    def names(self) -> tuple[str, ...]:
        return self.recorder.instruments

    def quote(self) -> None:
        """Quote the present price in each instrument."""
        now = time.time_ns()
        for one in self.strategy.settings.instruments:
            bid = ask = Price(self.price, one.price_precision)
            size = Quantity(1_000.0, one.size_precision)
            self._show(QuoteTick(one.id, bid, ask, size, size, now, now))

    def bar(self) -> None:
        """Complete a bar of each instrument at the present price, now."""
        now = time.time_ns()
        for one in self.strategy.settings.instruments:
            price = Price(self.price, one.price_precision)
            kind = BarType.from_str(bar_type(str(one.id), "15m"))
            volume = Quantity(1_000.0, one.size_precision)
            self._show(Bar(kind, price, price, price, price, volume, now, now))

    async def until(self, what: Callable[[], bool], name: str, within_secs: float = 5.0) -> None:
        """Wait for something to be so, and note how long it took."""
        started = time.monotonic()
        while not what():
            if time.monotonic() - started > within_secs:
                raise AssertionError(f"{name} did not come true within {within_secs} s")
            await asyncio.sleep(0.005)
        self.seconds[name] = time.monotonic() - started

    async def decide(self) -> None:
        """Let the strategy decide for the first time: to buy."""
        await self.until(self.risk_guard.is_running, "running")
        self.quote()
        self.bar()

    async def open_position(self) -> None:
        await self.decide()
        await self.until(self.held, "held")

    def _show(self, record: Any) -> None:
        assert self.exchange is not None
        self.exchange.on_record(record)
        self.publish(record)


class Stream(MarketDataClient):
    """Quotes all the time, and plays the script once the bars are subscribed to."""

    def __init__(self, world: World, script: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._world = world
        self._script = script

    async def _connect(self) -> None:
        self._world.publish = self._handle_data
        for one in self._world.strategy.settings.instruments:
            self._handle_instrument(one)

    async def _disconnect(self) -> None:
        return

    async def _subscribe_bars(self, command: Any) -> None:
        if self._script is not None:
            script, self._script = self._script, None
            self.create_task(self._play(script), "script")
            self.create_task(self._quote(), "quotes")

    async def _quote(self) -> None:
        while True:
            if not self._world.quiet:
                self._world.quote()
            await asyncio.sleep(QUOTE_SECS)

    async def _play(self, script: Any) -> None:
        try:
            await script(self._world)
        except BaseException as error:
            self._world.failure = error
        finally:
            self._world.stop()

    async def _nothing(self, command: Any) -> None:
        return

    _subscribe = _subscribe_quotes = _subscribe_mark_prices = _subscribe_instrument = _nothing
    _unsubscribe = _unsubscribe_bars = _unsubscribe_quotes = _unsubscribe_mark_prices = _nothing


def play(
    folder: Path,
    script: Any,
    *,
    names: tuple[str, ...] = (BTC,),
    look_interval_ms: int = 100,
    execution: ExecutionConfig | None = None,
    **strategy: Any,
) -> World:
    """Run a node in a folder with ``risk.yaml``, until the script has ended."""
    files = GuardFiles(folder / "guard.json", folder / "risk.yaml")
    policy = FusionPolicy(
        entry_threshold=0.6,
        exit_threshold=0.5,
        position_frac=0.5 / len(names),
        risk=load_risk_policy(folder / "risk.yaml"),
        **(strategy or {"stop_loss_frac": 0.2}),
    )
    execution = execution or plain_execution()
    # A bar of a second, as far as the guard knows, so that data can be late within a test.
    restored = live_guard(policy, execution, Traded(names, 10**9), files)
    setting = _Setting(folder, script, names, policy, execution, restored)
    try:
        return _play(setting, look_interval_ms)
    finally:
        restored.store.give_up()


class _Setting(NamedTuple):
    folder: Path
    script: Any
    names: tuple[str, ...]
    policy: FusionPolicy
    execution: ExecutionConfig
    restored: LiveGuard


def _play(setting: _Setting, look_interval_ms: int) -> World:
    folder, script, names, policy, execution, restored = setting
    instruments = tuple(definition(infer_instrument(name, 2, 3)) for name in names)
    recorder = RunRecorder(names, 100_000.0)
    settings = StrategySettings(
        instruments, INTERVAL, books_funding=False, limits=LimitStyle.of(execution)
    )
    strategy = FusionStrategy(policy, settings, recorder, restored.guard)
    actor = PredictorActor(Always(names, 0.9), recorder, PredictorActorConfig(timeout_ms=500))
    looker = RiskGuard(strategy, RiskGuardConfig(look_interval_ms, restored.watch))
    world = World(folder, strategy, looker, recorder)

    class Factory(DataClientFactory):
        @staticmethod
        def create(
            *, name: str, config: DataClientConfig, cache: ClientCache, clock: Any
        ) -> MarketDataClient:
            return Stream(
                world,
                script,
                name=name,
                config=config,
                cache=cache,
                clock=clock,
                venue=Venue("BINANCE"),
            )

    def ready(client: PaperExecutionClient, stop: Callable[[], None]) -> None:
        world.exchange, world.stop = client, stop

    wiring = PaperWiring(
        venue="BINANCE",
        account_id="BINANCE-001",
        instruments=instruments,
        execution=execution,
        now=time.time_ns,
        note_reference=recorder.reference,
        on_error=lambda error: recorder.error(repr(error)),
        on_account_query=lambda parameters: None,
    )
    run_feed(Factory, wiring, ready, [actor, looker], [strategy])
    if world.failure is not None:
        raise world.failure
    assert recorder.errors == []
    return world
