from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nautilus_trader.model import OrderStatus

from catalog.instruments import instrument
from live.paper_book import (
    PaperAccept,
    PaperBook,
    PaperCancel,
    PaperEvent,
    PaperFill,
    PaperOrder,
    PaperReject,
)
from live.paper_reports import PaperAccount, mass_status
from strategies.execution import ExecutionConfig, InstrumentTerms, commission, slipped_price
from tests.strategies.settings import plain_execution

BTC, ETH = "BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE"
LATENCY = 200 * 10**6
TICK = Decimal("0.1")
EXECUTION = plain_execution(
    maker_fee_bps=2,
    taker_fee_bps=5,
    latency_ms=200,
    slippage_bps=1,
    funding="recorded",
    starting_balance=10_000,
    leverage=3,
)


def book(execution: ExecutionConfig = EXECUTION) -> PaperBook:
    terms = {
        name: InstrumentTerms(
            name, TICK, Decimal("0.001"), Decimal("0.001"), Decimal(5), Decimal("0.004")
        )
        for name in (BTC, ETH)
    }
    return PaperBook(terms, execution)


def market(
    name: str, side: int = 1, quantity: float = 1.0, *, reduce: bool = False, on: str = BTC
) -> PaperOrder:
    return PaperOrder(name, on, side, quantity, None, reduce)  # type: ignore[arg-type]


def stop(name: str, side: int, trigger: float, *, reduce: bool = True) -> PaperOrder:
    return PaperOrder(name, BTC, side, 1.0, trigger, reduce)  # type: ignore[arg-type]


def only_fill(events: list[PaperEvent]) -> PaperFill:
    fills = [one for one in events if not isinstance(one, PaperAccept)]
    assert len(fills) == 1
    assert isinstance(fills[0], PaperFill)
    return fills[0]


def long_book() -> PaperBook:
    paper = book()
    paper.submit(market("E"), 0)
    only_fill(paper.on_quote(BTC, 100.0, LATENCY))
    return paper


def test_a_market_order_fills_at_the_next_open_with_slippage_and_fee() -> None:
    paper = book()
    paper.submit(market("E", quantity=2.0), 1_000)
    # A gap: the bar that the decision was made on closed at 100, the next opens at 105.
    assert paper.on_quote(BTC, 100.0, 1_000) == []
    fill = only_fill(paper.on_quote(BTC, 105.0, 1_000 + LATENCY))
    assert fill.reference == 105.0
    assert fill.price == slipped_price(1, 105.0, 1.0, TICK) == 105.1
    assert fill.commission == commission(2.0, 105.1, 5.0)
    assert fill.ts_event == 1_000 + LATENCY
    assert paper.ledger.quantity(BTC) == 2.0
    assert paper.ledger.cash == pytest.approx(10_000 - fill.commission, abs=1e-8)
    assert paper.open_orders() == []


def test_a_market_order_waits_for_a_quote_of_its_own_instrument() -> None:
    paper = book()
    paper.submit(market("E", on=ETH), 0)
    assert paper.on_quote(BTC, 100.0, 10 * LATENCY) == []
    assert paper.on_bar(ETH, (50.0, 51.0, 49.0, 50.0), 11 * LATENCY) == []
    assert only_fill(paper.on_quote(ETH, 50.0, 12 * LATENCY)).reference == 50.0


@pytest.mark.parametrize(
    ("bar", "reference"),
    [((100.0, 101.0, 94.0, 94.0), 95.0), ((93.0, 96.0, 92.0, 96.0), 93.0)],
    ids=["inside the bar at the trigger", "gap at the open"],
)
def test_a_stop_fills_at_its_trigger_or_at_the_open_of_a_gap(
    bar: tuple[float, float, float, float], reference: float
) -> None:
    paper = long_book()
    paper.submit(stop("S", -1, 95.0), LATENCY)
    fill = only_fill(paper.on_bar(BTC, bar, 10 * LATENCY))
    assert fill.reference == reference
    assert fill.price == slipped_price(-1, reference, 1.0, TICK)
    assert fill.ts_event == 10 * LATENCY
    assert paper.ledger.positions == {}


def test_a_stop_works_within_the_bar_of_its_entry_but_not_before_it_arrives() -> None:
    paper = long_book()
    paper.submit(stop("S", -1, 95.0), LATENCY)
    assert paper.on_quote(BTC, 96.0, 2 * LATENCY - 1) == []
    assert only_fill(paper.on_bar(BTC, (100.0, 101.0, 94.0, 100.0), 2 * LATENCY)).reference == 95.0


def test_a_stop_that_the_range_misses_stays() -> None:
    paper = long_book()
    paper.submit(stop("S", -1, 95.0), LATENCY)
    (accepted,) = paper.on_bar(BTC, (100.0, 120.0, 95.1, 100.0), 10 * LATENCY)
    assert accepted == PaperAccept(stop("S", -1, 95.0), 2 * LATENCY)
    assert [order.client_order_id for order in paper.open_orders()] == ["S"]


def test_of_a_passed_stop_and_an_exit_at_one_open_the_stop_trades() -> None:
    # The engine's order, and an exchange's: the stop rests there while the exit is on its way.
    paper = long_book()
    paper.submit(stop("S", -1, 95.0), LATENCY)
    paper.submit(market("X", -1, reduce=True), 5 * LATENCY)
    _, stopped, refused = paper.on_quote(BTC, 90.0, 6 * LATENCY)
    assert isinstance(stopped, PaperFill)
    assert stopped.order.client_order_id == "S"
    assert stopped.reference == 90.0
    assert isinstance(refused, PaperReject)
    assert refused.reason == "Reduce-only order X (MARKET-SELL) would have increased position"
    assert paper.ledger.positions == {}
    assert paper.open_orders() == []


def test_a_cancel_takes_effect_one_latency_later() -> None:
    paper = long_book()
    paper.submit(stop("S", -1, 95.0), LATENCY)
    assert paper.cancel("S", 5 * LATENCY)
    paper_late = long_book()
    paper_late.submit(stop("S", -1, 95.0), LATENCY)
    assert paper_late.cancel("S", 5 * LATENCY)
    # A price at the moment of arrival still meets the stop: it rested first.
    assert only_fill(paper.on_quote(BTC, 94.0, 6 * LATENCY)).order.client_order_id == "S"
    accepted, event = paper_late.on_quote(BTC, 94.0, 6 * LATENCY + 1)
    assert isinstance(accepted, PaperAccept)
    assert isinstance(event, PaperCancel)
    assert not paper.cancel("S", 7 * LATENCY)


def test_a_node_that_starts_is_told_which_orders_have_not_arrived() -> None:
    traded = instrument(BTC)
    account = PaperAccount("BINANCE", "BINANCE-001", {BTC: traded})
    paper = book()
    paper.submit(stop("S", 1, 110.0, reduce=False), 0)

    def status() -> Any:
        found = mass_status(account, paper, 0)
        assert found is not None
        (report,) = found.order_reports.values()
        return report.order_status

    # As accepted the engine would take it, and tell nobody when it is.
    assert status() == OrderStatus.SUBMITTED
    (accepted,) = paper.on_time(LATENCY + 1)
    assert isinstance(accepted, PaperAccept)
    assert status() == OrderStatus.ACCEPTED
    paper.cancel("S", LATENCY)
    assert status() == OrderStatus.ACCEPTED


def test_a_reduce_only_order_never_turns_the_position() -> None:
    paper = long_book()
    paper.submit(market("X", -1, quantity=5.0, reduce=True), LATENCY)
    assert only_fill(paper.on_quote(BTC, 100.0, 2 * LATENCY)).quantity == 1.0
    assert paper.ledger.positions == {}


def test_funding_is_paid_on_what_is_held_at_the_mark() -> None:
    paper = long_book()
    cash = paper.ledger.cash
    paper.on_mark(BTC, 30_000.0)
    row = paper.on_funding(BTC, 0.001, 9 * LATENCY)
    assert row is not None
    # NAUTILUS.md 8: one long BTC pays 30 USDT at a settlement of 0.1 % at 30,000.
    assert row.payment == -30.0
    assert paper.ledger.cash == cash - 30.0
    assert paper.on_funding(ETH, 0.001, 9 * LATENCY) is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["buy", "sell", "exit", "stop", "quote", "bar"]),
            st.integers(80, 120),
            st.integers(0, 10),
        ),
        max_size=40,
    )
)
def test_every_order_ends_at_most_once_and_would_act_never_misses_an_event(
    steps: list[tuple[str, int, int]],
) -> None:
    paper = book()
    ended: list[str] = []
    for number, (what, price, spread) in enumerate(steps):
        now = number * LATENCY
        name = f"O{number}"
        if what in ("buy", "sell"):
            paper.submit(market(name, 1 if what == "buy" else -1), now)
        elif what == "exit":
            side = -1 if paper.ledger.quantity(BTC) > 0 else 1
            paper.submit(market(name, side, quantity=9.0, reduce=True), now)
        elif what == "stop":
            side = -1 if paper.ledger.quantity(BTC) > 0 else 1
            paper.submit(stop(name, side, float(price)), now)
        else:
            ended += _show(paper, what, (price, spread), now)
    assert len(ended) == len(set(ended))
    assert not set(ended) & {order.client_order_id for order in paper.open_orders()}


def _show(paper: PaperBook, what: str, price: tuple[int, int], now: int) -> list[str]:
    high, low = float(price[0] + price[1]), float(price[0] - price[1])
    if what == "quote":
        high = low = float(price[0])
    before = abs(paper.ledger.quantity(BTC))
    if what == "quote":
        would = paper.quote_would_act(BTC, high, now)
        events = paper.on_quote(BTC, high, now)
    else:
        would = paper.bar_would_act(BTC, high, low, now)
        events = paper.on_bar(BTC, (float(price[0]), high, low, low), now)
    assert would or not events
    for event in events:
        if isinstance(event, PaperFill) and event.order.reduce_only:
            assert abs(paper.ledger.quantity(BTC)) <= max(before, 40.0)
    return [one.order.client_order_id for one in events if not isinstance(one, PaperAccept)]


def test_an_immediate_order_takes_its_part_of_the_last_bar_and_the_rest_is_cancelled() -> None:
    thin = {"max_participation": 0.1, "impact_bps": 100.0, "impact_cap_bps": 1_000.0}
    paper = book(EXECUTION.model_copy(update=thin))
    paper.on_bar(BTC, (100.0, 100.0, 100.0, 100.0), 0)
    paper.on_volume(BTC, 4.0)
    paper.submit(PaperOrder("E", BTC, 1, 1.0, None, False, immediate=True), 0)
    fill, cancel = paper.on_quote(BTC, 100.0, LATENCY)
    assert isinstance(fill, PaperFill)
    assert isinstance(cancel, PaperCancel)
    # A tenth of the bar costs 1 bp and the square root of a tenth of 100 bp more: 100.33.
    assert (fill.quantity, fill.price) == (0.4, 100.4)
    assert paper.open_orders() == []
    assert paper.filled == {"E": 0.4}
    # A stop takes all that is held, and pays for the size that it has.
    paper.submit(stop("S", -1, 95.0), LATENCY)
    closed = only_fill(paper.on_bar(BTC, (100.0, 100.0, 94.0, 94.0), 3 * LATENCY))
    assert (closed.quantity, closed.price) == (0.4, 94.6)


def test_an_order_that_must_get_out_is_not_limited() -> None:
    paper = book(EXECUTION.model_copy(update={"max_participation": 0.1}))
    paper.on_volume(BTC, 1.0)
    paper.submit(market("X"), 0)
    assert only_fill(paper.on_quote(BTC, 100.0, LATENCY)).quantity == 1.0


def test_an_account_that_does_not_cover_its_positions_says_so() -> None:
    paper = book(EXECUTION.model_copy(update={"liquidation": True}))
    paper.submit(market("E", quantity=300.0), 0)
    only_fill(paper.on_quote(BTC, 100.0, LATENCY))
    assert paper.liquidation() is None
    # 30,000 at the entry need 120; of the 10,000 a fall by 33 leaves less than that.
    paper.on_quote(BTC, 67.3, 2 * LATENCY)
    assert paper.liquidation() is None
    paper.on_quote(BTC, 67.2, 3 * LATENCY)
    found = paper.liquidation()
    assert found is not None
    assert "must be more than the maintenance margin 120.12" in found
    assert book().liquidation() is None


def test_an_entry_that_waits_is_taken_back_though_its_instrument_pauses() -> None:
    paper = book()
    paper.submit(market("E", on=ETH), 0)
    assert paper.cancel("E", 10 * LATENCY)
    assert paper.next_arrival() == LATENCY
    assert paper.on_time(LATENCY + 1) == []
    assert paper.next_arrival() == 11 * LATENCY
    assert paper.on_time(11 * LATENCY - 1) == []
    (event,) = paper.on_time(11 * LATENCY)
    assert isinstance(event, PaperCancel)
    assert (event.order.client_order_id, event.ts_event) == ("E", 11 * LATENCY)
    assert paper.open_orders() == []
    assert paper.on_time(12 * LATENCY) == []
    assert paper.on_quote(ETH, 50.0, 12 * LATENCY) == []


def target(name: str, side: int, trigger: float) -> PaperOrder:
    return PaperOrder(name, BTC, side, 1.0, trigger, True, is_target=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bar", "reference"),
    [((100.0, 105.0, 99.0, 100.0), 105.0), ((107.0, 108.0, 106.0, 107.0), 107.0)],
    ids=["a touch at the trigger", "a gap at the better open"],
)
def test_a_target_fills_and_ends_the_stop_with_the_position(
    bar: tuple[float, float, float, float], reference: float
) -> None:
    paper = long_book()
    paper.submit(stop("S", -1, 95.0), LATENCY)
    paper.submit(target("T", -1, 105.0), LATENCY)
    *_, fill, cancel = paper.on_bar(BTC, bar, 10 * LATENCY)
    assert isinstance(fill, PaperFill)
    assert (fill.order.client_order_id, fill.reference) == ("T", reference)
    assert cancel == PaperCancel(stop("S", -1, 95.0), 10 * LATENCY)
    assert paper.open_orders() == []


def test_a_bar_that_reaches_both_fills_what_is_higher_first_and_only_that() -> None:
    paper = long_book()
    paper.submit(stop("S", -1, 95.0), LATENCY)
    paper.submit(target("T", -1, 105.0), LATENCY)
    events = paper.on_bar(BTC, (100.0, 106.0, 94.0, 100.0), 10 * LATENCY)
    fills = [one.order.client_order_id for one in events if isinstance(one, PaperFill)]
    assert fills == ["T"]
    assert not any(isinstance(one, PaperReject) for one in events)


def test_of_two_stops_the_tighter_one_fills() -> None:
    paper = long_book()
    paper.submit(stop("old", -1, 95.0), LATENCY)
    paper.submit(stop("new", -1, 97.0), LATENCY)
    events = paper.on_bar(BTC, (100.0, 101.0, 94.0, 100.0), 10 * LATENCY)
    fills = [one.order.client_order_id for one in events if isinstance(one, PaperFill)]
    assert fills == ["new"]


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (
            stop("S", -1, 101.0),
            "STOP_MARKET SELL order stop px of 101.0 was in the market: bid=100.0, ask=100.0, but "
            "rejected because of configuration",
        ),
        (
            target("S", -1, 100.0),
            "MARKET_IF_TOUCHED SELL order trigger px of 100.0 was in the market: bid=100.0, "
            "ask=100.0, but rejected because of configuration",
        ),
        (
            stop("S", 1, 120.0),
            "Reduce-only order S (STOP_MARKET-BUY) would have increased position",
        ),
    ],
    ids=["stop", "target", "wrong side"],
)
def test_an_exit_is_refused_on_arrival_in_the_engines_words(order: PaperOrder, words: str) -> None:
    paper = long_book()
    paper.submit(order, LATENCY)
    (event,) = paper.on_bar(BTC, (100.0, 130.0, 70.0, 100.0), 10 * LATENCY)
    assert event == PaperReject(order, 2 * LATENCY, words)
    assert paper.open_orders() == []


def test_a_market_order_trades_before_a_cancel_that_was_sent_after_it() -> None:
    paper = book()
    resting = PaperOrder("P", BTC, 1, 1.0, None, False, limit=90.0)
    paper.submit(resting, 0)
    paper.on_quote(BTC, 100.0, LATENCY)
    paper.submit(market("F"), 1_000)
    paper.cancel("P", 1_000)
    events = paper.on_quote(BTC, 100.0, 1_000 + LATENCY)
    assert [(type(one), one.order.client_order_id) for one in events] == [
        (PaperFill, "F"),
        (PaperCancel, "P"),
    ]


def test_what_has_waited_for_a_price_comes_after_what_arrives_with_it() -> None:
    paper = long_book()
    paper.submit(market("F", -1, reduce=True), 1_000)
    assert paper.on_time(2 * LATENCY) == []
    paper.submit(stop("S", -1, 95.0), 2 * LATENCY)
    events = paper.on_quote(BTC, 100.0, 3 * LATENCY)
    assert [(type(one), one.order.client_order_id) for one in events] == [
        (PaperAccept, "S"),
        (PaperFill, "F"),
        (PaperCancel, "S"),
    ]
