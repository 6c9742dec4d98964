from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import pytest
from nautilus_trader.model import (
    Bar,
    BarType,
    ClientOrderId,
    OrderSide,
    OrderType,
    Price,
    Quantity,
    QuoteTick,
)
from nautilus_trader.trading import Strategy, StrategyConfig

from adapters.replay import ReplayConfig, ReplayFeed, ReplaySession
from catalog.errors import RunFailedError
from catalog.instruments import instrument
from live.node import fence_answer, run_node
from live.paper import PaperExecutionClient, PaperWiring
from strategies.execution import ExecutionConfig
from tests.strategies.settings import plain_execution

MINUTE = 60 * 10**9
START = 1_704_067_200 * 10**9
LATENCY = 100 * 10**6
BTC = instrument("BTCUSDT-PERP.BINANCE")
BAR_TYPE = BarType.from_str(f"{BTC.id}-1-MINUTE-LAST-EXTERNAL")
EXECUTION = plain_execution(
    maker_fee_bps=2,
    taker_fee_bps=5,
    latency_ms=100,
    slippage_bps=0,
    funding="none",
    starting_balance=10_000,
    leverage=1,
)


def records(closes: list[float]) -> list[Any]:
    """Bars that open where the one before closed, each open quoted one latency later."""
    found: list[Any] = []
    for row, close in enumerate(closes):
        open_ = closes[max(row - 1, 0)]
        end = START + (row + 1) * MINUTE
        quoted = end - MINUTE + LATENCY
        price, size = Price(open_, 1), Quantity(1e6, 3)
        found.append(QuoteTick(BTC.id, price, price, size, size, quoted, quoted))
        prices = [Price(one, 1) for one in (open_, max(open_, close), min(open_, close), close)]
        found.append(Bar(BAR_TYPE, *prices, Quantity(1, 3), end, end))
    return found


class Scripted(Strategy):
    """Run one action per bar and note every order event with the replay's time."""

    def __new__(cls, *arguments: Any) -> Self:
        return super().__new__(cls)

    def __init__(
        self, session: ReplaySession, actions: dict[int, Callable[[Scripted], None]]
    ) -> None:
        super().__init__(StrategyConfig(order_id_tag="S"))
        self.session = session
        self.actions = actions
        self.bars = 0
        self.events: list[tuple[str, str, int]] = []
        self.reasons: list[str] = []
        self.fills: list[Any] = []
        self.balances: list[float] = []

    def on_start(self) -> None:
        self.subscribe_bars(BAR_TYPE)

    def on_bar(self, bar: Bar) -> None:
        self.bars += 1
        account = self.cache.account_for_venue(BTC.id.venue)
        self.balances.append(float(account.balance_total(BTC.quote_currency).as_decimal()))
        if self.bars in self.actions:
            self.actions[self.bars](self)

    def market(self, name: str, side: OrderSide = OrderSide.BUY) -> None:
        order = self.order_factory.market(
            BTC.id, side, Quantity(0.001, 3), client_order_id=ClientOrderId(name)
        )
        self.submit_order(order)

    def stop_sell(self, name: str, trigger: float) -> None:
        order = self.order_factory.stop_market(
            BTC.id,
            OrderSide.SELL,
            Quantity(0.001, 3),
            Price(trigger, 1),
            reduce_only=True,
            client_order_id=ClientOrderId(name),
        )
        self.submit_order(order)

    def limit(self, name: str, price: float, *, post_only: bool = False) -> None:
        order = self.order_factory.limit(
            BTC.id,
            OrderSide.BUY,
            Quantity(0.002, 3),
            Price(price, 1),
            post_only=post_only,
            client_order_id=ClientOrderId(name),
        )
        self.submit_order(order)

    def stop_limit(self, name: str) -> None:
        order = self.order_factory.stop_limit(
            BTC.id,
            OrderSide.BUY,
            Quantity(0.001, 3),
            Price(100_000.0, 1),
            Price(100_000.0, 1),
            client_order_id=ClientOrderId(name),
        )
        self.submit_order(order)

    def _note(self, what: str, event: Any) -> None:
        self.events.append((what, event.client_order_id.value, self.session.now - START))

    def on_order_submitted(self, event: Any) -> None:
        self._note("submitted", event)

    def on_order_accepted(self, event: Any) -> None:
        self._note("accepted", event)

    def on_order_rejected(self, event: Any) -> None:
        self._note("rejected", event)
        self.reasons.append(event.reason)

    def on_order_canceled(self, event: Any) -> None:
        self._note("canceled", event)

    def on_order_cancel_rejected(self, event: Any) -> None:
        self._note("cancel rejected", event)
        self.reasons.append(event.reason)

    def on_order_denied(self, event: Any) -> None:
        self._note("denied", event)
        self.reasons.append(event.reason)

    def on_order_filled(self, event: Any) -> None:
        self._note("filled", event)
        self.fills.append(event)


def play(
    closes: list[float],
    actions: dict[int, Callable[[Scripted], None]],
    execution: ExecutionConfig = EXECUTION,
) -> tuple[Scripted, PaperExecutionClient, dict[str, float]]:
    session = ReplaySession(
        ReplayFeed("BINANCE", (BTC,), records(closes)), ReplayConfig(timeout_secs=5)
    )
    references: dict[str, float] = {}
    wiring = PaperWiring(
        venue="BINANCE",
        account_id="BINANCE-001",
        instruments=(BTC,),
        execution=execution,
        now=lambda: session.now,
        note_reference=references.__setitem__,
        on_error=session.fail,
        on_account_query=lambda parameters: fence_answer(session, parameters),
    )
    strategy = Scripted(session, actions)
    client = run_node(session, wiring, [], [strategy])
    if session.failure is not None:
        raise session.failure
    return strategy, client, references


def test_a_market_order_is_filled_at_the_next_open_and_the_account_follows() -> None:
    strategy, client, references = play(
        [100_000.0, 102_000.0, 104_000.0], {1: lambda s: s.market("M")}
    )
    assert strategy.events == [
        ("submitted", "M", MINUTE),
        ("accepted", "M", MINUTE + LATENCY),
        ("filled", "M", MINUTE + LATENCY),
    ]
    (fill,) = strategy.fills
    assert fill.ts_event == START + MINUTE + LATENCY
    assert str(fill.last_px) == "100000.0"
    assert str(fill.commission) == "0.05000000 USDT"
    assert references == {"M": 100_000.0}
    assert strategy.balances == [10_000.0, 9_999.95, 9_999.95]
    assert client.book.ledger.cash == 9_999.95


def test_a_stop_rests_until_a_bar_reaches_it() -> None:
    strategy, client, _ = play(
        [100_000.0, 100_000.0, 99_000.0, 97_000.0],
        {1: lambda s: s.market("M"), 2: lambda s: s.stop_sell("S", 98_000.0)},
    )
    stop = [(what, when) for what, name, when in strategy.events if name == "S"]
    assert stop == [
        ("submitted", 2 * MINUTE),
        ("accepted", 2 * MINUTE + LATENCY),
        ("filled", 4 * MINUTE),
    ]
    assert str(strategy.fills[1].last_px) == "98000.0"
    assert client.book.ledger.positions == {}


def test_a_cancelled_stop_does_not_fill() -> None:
    strategy, client, _ = play(
        [100_000.0, 100_000.0, 99_000.0, 97_000.0],
        {
            1: lambda s: s.market("M"),
            2: lambda s: s.stop_sell("S", 98_000.0),
            3: lambda s: s.cancel_order(ClientOrderId("S")),
        },
    )
    assert ("canceled", "S", 3 * MINUTE + LATENCY) in strategy.events
    assert len(strategy.fills) == 1
    assert client.book.ledger.quantity(str(BTC.id)) == 0.001


def test_cancel_all_takes_back_every_order_of_the_instrument() -> None:
    strategy, client, _ = play(
        [100_000.0, 100_000.0, 99_000.0, 97_000.0],
        {
            1: lambda s: s.market("M"),
            2: lambda s: (s.stop_sell("S1", 98_000.0), s.stop_sell("S2", 97_500.0)),
            3: lambda s: s.cancel_all_orders(BTC.id),
        },
    )
    cancelled = {name for what, name, _ in strategy.events if what == "canceled"}
    assert cancelled == {"S1", "S2"}
    assert client.book.open_orders() == []


def test_other_kinds_of_orders_are_refused_with_a_reason() -> None:
    strategy, client, _ = play([100_000.0, 100_000.0], {1: lambda s: s.stop_limit("L")})
    assert [what for what, _, _ in strategy.events] == ["submitted", "rejected"]
    assert strategy.reasons == [
        f"paper exchange takes market orders, limits, stops and targets, was {OrderType.STOP_LIMIT}"
    ]
    assert client.book.open_orders() == []


def test_a_limit_rests_until_the_price_trades_through_it() -> None:
    strategy, client, references = play(
        [100_000.0, 100_000.0, 99_000.0, 98_990.0],
        {1: lambda s: (s.limit("L", 99_000.0), s.limit("P", 100_000.0, post_only=True))},
    )
    # Bars go from close to close: the touch of 99,000 is not enough, 98,990 is.
    assert ("filled", "L", 4 * MINUTE) in strategy.events
    assert [what for what, name, _ in strategy.events if name == "P"] == ["submitted", "rejected"]
    assert strategy.reasons == [
        "POST_ONLY LIMIT BUY order limit px of 100000.0 would have been a TAKER: "
        "bid=100000.0, ask=100000.0"
    ]
    assert references == {"L": 99_000.0}
    assert client.book.open_orders() == []


@pytest.mark.parametrize("side", [OrderSide.BUY, OrderSide.SELL])
def test_positions_and_cash_follow_from_the_fills(side: OrderSide) -> None:
    other = OrderSide.SELL if side == OrderSide.BUY else OrderSide.BUY
    strategy, client, _ = play(
        [100_000.0, 110_000.0, 110_000.0, 110_000.0],
        {1: lambda s: s.market("A", side), 2: lambda s: s.market("B", other)},
    )
    sign = 1 if side == OrderSide.BUY else -1
    assert client.book.ledger.cash == pytest.approx(10_000 + sign * 10.0 - 0.05 - 0.055)
    assert strategy.balances[-1] == pytest.approx(client.book.ledger.cash)
    assert client.book.ledger.positions == {}


def test_a_liquidated_account_stops_the_run_after_the_quotes_of_a_time() -> None:
    # 300 USDT of Bitcoin with 101 of equity: a third of the price is all of it but the margin.
    thin = EXECUTION.model_copy(update={"liquidation": True, "starting_balance": 101.0})
    held = {1: lambda s: [s.market(name) for name in ("A", "B", "C")]}
    strategy, _, _ = play([100_000.0, 100_000.0, 67_000.0, 67_000.0], held, thin)
    assert len(strategy.fills) == 3
    with pytest.raises(RunFailedError, match=r"paper account was liquidated: equity must be more"):
        play([100_000.0, 100_000.0, 66_000.0, 66_000.0], held, thin)
