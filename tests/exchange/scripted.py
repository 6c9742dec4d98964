"""One scripted strategy on two exchanges: the paper client in a replay, and the test exchange.

Run as ``python -m tests.exchange.scripted paper CATALOG START END`` (nanoseconds) or ``... exchange
URL``: a live node is alone in its process. It prints fills, ends of orders and cash as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from nautilus_trader.adapters.binance import (
    BinanceDataClientConfig,
    BinanceDataClientFactory,
    BinanceEnvironment,
    BinanceExecutionClientConfig,
    BinanceExecutionClientFactory,
    BinanceProductType,
)
from nautilus_trader.common import Environment, LoggerConfig, LogLevel
from nautilus_trader.live import (
    LiveExecutionEngineConfig,
    LiveNodeBuilder,
    LiveNodeConfig,
    LiveRiskEngineConfig,
)
from nautilus_trader.model import (
    AccountId,
    BarType,
    ClientOrderId,
    InstrumentId,
    OrderSide,
    Price,
    Quantity,
    TimeInForce,
    TraderId,
)
from nautilus_trader.trading import Strategy, StrategyConfig

from adapters.replay import ReplayConfig, ReplayFeed, ReplaySession
from catalog.instruments import bar_type
from catalog.store import Catalog
from catalog.timestamps import NS_PER_SECOND
from live.node import run_node
from live.paper import PaperWiring
from strategies.execution import ExecutionConfig
from strategies.order_ids import order_id
from strategies.replay_data import ReplayInputs, record_groups
from tests.exchange.lockstep import ClientView, LockStep
from tests.exchange.settings import COSTS

NAMES = ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE")
SIZES = {NAMES[0]: 0.05, NAMES[1]: 1.2}
_EXIT = 0.002


class Scripted(Strategy):
    """Trades by the number of the bar, with a stop and a target on each position."""

    def __new__(cls, view: ClientView) -> Scripted:
        """Create the native part, whose own constructor refuses our arguments."""
        return super().__new__(cls)

    def __init__(self, view: ClientView) -> None:
        super().__init__(StrategyConfig(order_id_tag="F1"))
        self.view = view
        self.bars = dict.fromkeys(NAMES, 0)
        self.held = dict.fromkeys(NAMES, 0.0)
        self.limits: dict[str, tuple[str, int]] = {}
        self.exits: dict[str, list[str]] = {name: [] for name in NAMES}
        self.now = 0
        self.fills: list[list[Any]] = []
        self.ends: list[list[Any]] = []
        self.errors: list[str] = []

    def on_start(self) -> None:
        """Subscribe."""
        for name in NAMES:
            self.subscribe_bars(BarType.from_str(bar_type(name, "15m")))

    def on_bar(self, bar: Any) -> None:
        """Decide by the number of the bar; count it last."""
        try:
            self.decide(bar)
        except BaseException as error:
            self.errors.append(repr(error))
            raise
        symbol = str(bar.bar_type.instrument_id.symbol).removesuffix("-PERP").lower()
        self.view.saw(f"{symbol}@kline_15m")

    def decide(self, bar: Any) -> None:
        """Enter, leave, or rest a limit."""
        name = str(bar.bar_type.instrument_id)
        # The venue stamps a close with its last millisecond.
        self.now = -(-bar.ts_event // NS_PER_SECOND) * NS_PER_SECOND
        self.bars[name] += 1
        number, held = self.bars[name], self.held[name]
        if name in self.limits and number >= self.limits[name][1]:
            self.cancel_order(ClientOrderId(self.limits.pop(name)[0]))
        elif number % 7 == 1 and held == 0.0:
            self.market("E", name, 1 if number % 2 else -1, SIZES[name])
        elif number % 7 == 5 and held != 0.0:
            self.market("X", name, -1 if held > 0.0 else 1, abs(held))
        elif number % 7 == 6 and held == 0.0 and name not in self.limits:
            self.limit(name, float(bar.close) * 0.999, number)

    def market(self, kind: Any, name: str, side: int, size: float) -> None:
        """Send a market order, immediate or cancel as the strategy's own."""
        decimals = 3
        identity = ClientOrderId(order_id("F1", kind, name, self.now))
        self.submit_order(
            self.order_factory.market(
                InstrumentId.from_str(name),
                OrderSide.BUY if side > 0 else OrderSide.SELL,
                Quantity(size, decimals),
                TimeInForce.IOC,
                reduce_only=kind == "X",
                client_order_id=identity,
            )
        )

    def limit(self, name: str, price: float, number: int) -> None:
        """Rest a limit order for two bars."""
        decimals = 1 if name == NAMES[0] else 2
        identity = order_id("F1", "E", name, self.now + NS_PER_SECOND)
        self.limits[name] = (identity, number + 2)
        self.submit_order(
            self.order_factory.limit(
                InstrumentId.from_str(name),
                OrderSide.BUY,
                Quantity(SIZES[name], 3),
                Price(price, decimals),
                client_order_id=ClientOrderId(identity),
            )
        )

    def on_order_event(self, event: Any) -> None:
        """Take down fills and ends; protect a position."""
        try:
            self.note(event)
        except BaseException as error:
            self.errors.append(repr(error))
            raise
        self.view.on_order_event(event)

    def note(self, event: Any) -> None:
        """Take down what happened."""
        what, identity = type(event).__name__, str(event.client_order_id)
        name = str(event.instrument_id)
        if what in ("OrderCanceled", "OrderRejected", "OrderExpired"):
            self.ends.append([what, identity])
            if name in self.limits and self.limits[name][0] == identity:
                del self.limits[name]
        if what != "OrderFilled":
            return
        side = 1 if event.order_side == OrderSide.BUY else -1
        quantity, price = float(event.last_qty), float(event.last_px)
        fee = float(event.commission.as_double())
        row = [event.ts_event, identity, side, quantity, round(price, 4), round(fee, 8)]
        self.fills.append(row)
        before = self.held[name]
        self.held[name] = round(before + side * quantity, 6)
        if before == 0.0:
            self.protect(name, side, event.ts_event, price)
        if name in self.limits and self.limits[name][0] == identity:
            del self.limits[name]

    def protect(self, name: str, side: int, ts: int, price: float) -> None:
        """Send a stop and a target for what is held."""
        decimals = 1 if name == NAMES[0] else 2
        common: dict[str, Any] = {"reduce_only": True}
        out = OrderSide.SELL if side > 0 else OrderSide.BUY
        size = Quantity(abs(self.held[name]), 3)
        where = InstrumentId.from_str(name)
        for kind, make, way in (
            ("S", self.order_factory.stop_market, -1),
            ("T", self.order_factory.market_if_touched, 1),
        ):
            trigger = Price(price * (1 + way * side * _EXIT), decimals)
            identity = ClientOrderId(order_id("F1", kind, name, ts))  # type: ignore[arg-type]
            self.submit_order(make(where, out, size, trigger, client_order_id=identity, **common))


def inputs(catalog: Path, span: tuple[int, int]) -> ReplayInputs:
    """Return what both exchanges replay."""
    store = Catalog.open(catalog)
    bars = tuple(store.bars(name, "15m", *span) for name in NAMES)
    funding = {name: store.funding(name, *span) for name in NAMES}
    return ReplayInputs(tuple(store.instrument(name) for name in NAMES), bars, funding)


def on_paper(catalog: Path, span: tuple[int, int]) -> dict[str, Any]:
    """Run the script in a replay with the paper client."""
    execution, replay = ExecutionConfig(**COSTS), inputs(catalog, span)
    records = [one for group in record_groups(replay, execution) for one in group]
    records.sort(key=lambda one: int(one.ts_init))
    session = ReplaySession(ReplayFeed("BINANCE", replay.instruments, records), ReplayConfig())
    strategy = Scripted(ClientView())
    wiring = PaperWiring(
        venue="BINANCE",
        account_id="BINANCE-001",
        instruments=replay.instruments,
        execution=execution,
        now=lambda: session.now,
        note_reference=lambda name, price: None,
        on_error=session.fail,
        on_account_query=lambda given: session.fence_arrived(int(given["replay_fence"])),
    )
    client = run_node(session, wiring, [], [strategy])
    if session.failure is not None:
        raise session.failure
    return {
        "fills": strategy.fills,
        "ends": strategy.ends,
        "errors": strategy.errors,
        "cash": client.book.ledger.cash,
    }


def binance_node(url: str, strategy: Any) -> Any:
    """Return a live node with the compiled adapter on a test exchange."""
    streams = url.replace("http", "ws", 1)
    common: dict[str, Any] = {
        "product_type": BinanceProductType.USD_M,
        "environment": BinanceEnvironment.LIVE,
        "base_url_http": url,
        "base_url_ws": f"{streams}/ws",
        "api_key": "test-key",
        "api_secret": "test-secret",
    }
    config = LiveNodeConfig(
        environment=Environment.LIVE,
        trader_id=TraderId("LEVIBOT-001"),
        logging=LoggerConfig(stdout_level=LogLevel.ERROR),
        delay_post_stop_secs=0.0,
        exec_engine=LiveExecutionEngineConfig(reconciliation=True, inflight_check_interval_ms=0),
        risk_engine=LiveRiskEngineConfig(max_order_submit_rate="10000/00:00:01"),
    )
    execution = BinanceExecutionClientConfig(
        account_id=AccountId("BINANCE-001"),
        base_url_ws_trading=f"{streams}/ws-fapi/v1",
        treat_expired_as_canceled=True,
        **common,
    )
    node = (
        LiveNodeBuilder.from_config("levibot", config)
        .add_data_client("BINANCE", BinanceDataClientFactory(), BinanceDataClientConfig(**common))
        .add_exec_client("BINANCE", BinanceExecutionClientFactory(), execution)
        .build()
    )
    node.add_strategy(strategy)
    return node


def on_exchange(url: str) -> dict[str, Any]:
    """Run the script on a test exchange in lock-step."""
    view = ClientView()
    streams = [f"{name.split('-')[0].lower()}@kline_15m" for name in NAMES]
    view.expect(*streams)
    strategy = Scripted(view)
    node = binance_node(url, strategy)
    stop, failed = node.handle().stop, []

    def drive() -> None:
        try:
            steps = LockStep(url, view)
            steps.await_client(streams)
            steps.run()
            steps.close()
        except BaseException as error:
            failed.append(repr(error))
        finally:
            stop()

    driver = threading.Thread(target=drive, daemon=True)
    driver.start()
    node.run()
    driver.join(5.0)
    return {
        "fills": strategy.fills,
        "ends": strategy.ends,
        "errors": [*strategy.errors, *failed],
    }


def main() -> None:
    """Run one of the two."""
    mode, place = sys.argv[1], sys.argv[2]
    if mode == "paper":
        found = on_paper(Path(place), (int(sys.argv[3]), int(sys.argv[4])))
    else:
        found = on_exchange(place)
    print("RESULT " + json.dumps(found), flush=True)
    gc.collect()
    os._exit(0)


if __name__ == "__main__":
    main()
