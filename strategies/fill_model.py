"""The replay's exchange: fill prices and fees from the functions in `strategies.execution`.

The engine asks for a book to fill an order against. It gets one level, at the reference price
moved by the slippage, as deep as the order may take: an order that is immediate or cancel up to
the participation limit, and so a limit order in each bar, any other in full. The engine shows this
model neither time nor the bar's open (its best bid is the bar's extreme) nor what was traded, so
all are looked up by the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from nautilus_trader.execution import FeeModel, FillModel
from nautilus_trader.model import (
    BookOrder,
    BookType,
    Currency,
    LiquiditySide,
    Money,
    OrderBook,
    OrderSide,
    OrderType,
    Price,
    Quantity,
    TimeInForce,
)

from catalog.errors import RunFailedError
from strategies.callbacks import guarded
from strategies.execution import (
    BUY,
    SELL,
    ExecutionConfig,
    InstrumentTerms,
    Side,
    commission,
    slipped_price,
    stop_reference,
    target_reference,
)
from strategies.impact import fill_slippage_bps, takes
from strategies.limit_orders import (
    QUANTITY_DECIMALS,
    Waiting,
    gaps_through,
    maker_fill,
    taker_fill,
)
from strategies.market_data import BarVolumes, OpenQuotes, price_number
from strategies.recorder import LIQUIDATION_PREFIX, RunRecorder

_DEPTH = 1e9


@dataclass(frozen=True, slots=True)
class ReplayMarket:
    """What the exchange of a replay knows.

    Parameters
    ----------
    execution : ExecutionConfig
        Fees and slippage.
    quotes : mapping of instrument id to OpenQuotes
        The prices at which market orders fill.
    volumes : mapping of instrument id to BarVolumes
        What was traded in each bar.
    now : callable
        The replay's time, UTC nanoseconds.
    """

    execution: ExecutionConfig
    quotes: Mapping[str, OpenQuotes]
    volumes: Mapping[str, BarVolumes]
    now: Callable[[], int]


class ReplayFillModel(FillModel):
    """Fill market and stop orders at the reference price moved by the slippage, limits at theirs.

    Parameters
    ----------
    market : ReplayMarket
        What the exchange knows.
    recorder : RunRecorder
        Is told the reference price of each fill.
    """

    def __new__(cls, market: ReplayMarket, recorder: RunRecorder) -> Self:
        """Create the native part without arguments."""
        return super().__new__(cls)

    def __init__(self, market: ReplayMarket, recorder: RunRecorder) -> None:
        self.recorder = recorder
        self._market = market
        self._terms: dict[Any, InstrumentTerms] = {}
        self._taken: dict[str, tuple[int, float]] = {}

    def is_limit_filled(self) -> bool:
        """Return False: a price that only touches a limit fills nothing."""
        return False

    @guarded
    def get_orderbook_for_fill_simulation(
        self, instrument: Any, order: Any, best_bid: Any = None, best_ask: Any = None
    ) -> OrderBook | None:
        """Return the book against which the engine fills an order."""
        if order.order_type == OrderType.LIMIT:
            return self._limit_book(instrument, order)
        now = self._market.now()
        terms = self._terms_of(instrument)
        side = BUY if order.side == OrderSide.BUY else SELL
        reference = self._market.quotes[terms.instrument_id].last(now)
        if order.order_type == OrderType.STOP_MARKET:
            reference = stop_reference(side, price_number(order.trigger_price), reference)
        elif order.order_type == OrderType.MARKET_IF_TOUCHED:
            reference = target_reference(side, price_number(order.trigger_price), reference)
        elif order.order_type != OrderType.MARKET:
            raise RunFailedError(
                f"order type must be MARKET, LIMIT, STOP_MARKET or MARKET_IF_TOUCHED, was "
                f"{order.order_type}"
            )
        volume = self._market.volumes[terms.instrument_id].before(now)
        execution, quantity = self._market.execution, price_number(order.quantity)
        if order.is_reduce_only:
            # The engine makes it as small as what is held, but only after it has asked.
            quantity = min(quantity, abs(self.recorder.ledger.quantity(terms.instrument_id)))
        depth = _DEPTH
        forced = order.client_order_id.value.startswith(LIQUIDATION_PREFIX)
        if order.time_in_force == TimeInForce.IOC and not forced:
            depth = quantity = takes(quantity, volume, execution.max_participation, terms.step)
        slippage = fill_slippage_bps(execution, quantity, volume)
        price = slipped_price(side, reference, slippage, terms.tick)
        self.recorder.reference(order.client_order_id.value, reference)
        return _book(instrument, side, price, depth, now)

    def _limit_book(self, instrument: Any, order: Any) -> OrderBook:
        """Return what a limit order meets: its part of the bar, which may be used up.

        The engine looks again whenever anything happens, at the price that it saw last, though
        nothing trades between a bar and the next open.
        """
        now, name = self._market.now(), order.client_order_id.value
        terms = self._terms_of(instrument)
        volumes = self._market.volumes[terms.instrument_id]
        opened = self._market.quotes[terms.instrument_id].at(now)
        made = order.liquidity_side == LiquiditySide.MAKER
        side, limit = BUY if order.side == OrderSide.BUY else SELL, price_number(order.price)
        if opened is None:
            trades = volumes.closes_at(now)
        else:
            trades = not made or gaps_through(side, limit, *opened)
        if not trades:
            return OrderBook(instrument.id, BookType.L2_MBP)
        bar = volumes.row_before(now)
        earlier, taken = self._taken.get(name, (bar, 0.0))
        taken = taken if earlier == bar else 0.0
        left = price_number(order.leaves_qty)
        waiting = Waiting(side, limit, left, taken)
        execution, volume = self._market.execution, volumes.before(now)
        if made or opened is None:
            found = maker_fill(waiting, volume, execution, terms)
        else:
            found = taker_fill(waiting, opened[1], volume, execution, terms)
        if found.quantity == 0.0:
            return OrderBook(instrument.id, BookType.L2_MBP)
        self._taken[name] = (bar, round(taken + found.quantity, QUANTITY_DECIMALS))
        if found.quantity == left:
            del self._taken[name]
        self.recorder.reference(name, found.reference)
        return _book(instrument, side, found.price, found.quantity, now)

    def _terms_of(self, instrument: Any) -> InstrumentTerms:
        """Return the terms, read once: reading them takes longer than the rest of a fill."""
        identity = instrument.id
        terms = self._terms.get(identity)
        if terms is None:
            terms = self._terms[identity] = InstrumentTerms.of(instrument)
        return terms


def _book(instrument: Any, side: Side, price: float, depth: float, now: int) -> OrderBook:
    """Return a book with one level, which an order of a side takes from."""
    book = OrderBook(instrument.id, BookType.L2_MBP)
    level = BookOrder(
        OrderSide.SELL if side == BUY else OrderSide.BUY,
        Price(price, instrument.price_precision),
        Quantity(depth, instrument.size_precision),
        1,
    )
    book.add(level, 0, 0, now)
    return book


class ReplayFeeModel(FeeModel):
    """Charge the maker's fee for limits that rested, the taker's for all else.

    Parameters
    ----------
    execution : ExecutionConfig
        The fees.
    recorder : RunRecorder
        Is told of errors, which would leave the order SUBMITTED for ever.
    """

    def __new__(cls, execution: ExecutionConfig, recorder: RunRecorder) -> Self:
        """Create the native part without arguments."""
        return super().__new__(cls)

    def __init__(self, execution: ExecutionConfig, recorder: RunRecorder) -> None:
        self.recorder = recorder
        self._execution = execution
        self._currency = Currency.from_str("USDT")

    @guarded
    def get_commission(self, order: Any, quantity: Any, price: Any, instrument: Any) -> Money:
        """Return the commission of a fill."""
        made = order.liquidity_side == LiquiditySide.MAKER
        fee_bps = self._execution.maker_fee_bps if made else self._execution.taker_fee_bps
        paid = commission(price_number(quantity), price_number(price), fee_bps)
        return Money(paid, self._currency)
