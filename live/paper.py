"""The paper execution client: real data, our own exchange.

The engine's sandbox fills at once at the last close and books no funding, so its results say
nothing about the backtest's. This client fills with the backtest's own functions (see
`live.paper_book`) and books fees and funding as the backtest does.

It takes market data through `on_record` and orders through the engine's hooks, and knows nothing
of replays: a replay session or an actor that listens to an exchange may feed it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from nautilus_trader.common import Clock
from nautilus_trader.config import ExecutionClientConfig
from nautilus_trader.live import ClientCache
from nautilus_trader.live.clients import ExecutionClient, ExecutionClientFactory
from nautilus_trader.model import (
    AccountBalance,
    AccountId,
    AccountType,
    Bar,
    ClientOrderId,
    Currency,
    FundingRateUpdate,
    LiquiditySide,
    MarkPriceUpdate,
    Money,
    OmsType,
    OrderSide,
    OrderType,
    Price,
    Quantity,
    QuoteTick,
    TimeInForce,
    TradeId,
    TraderId,
    Venue,
)

from catalog.errors import RunFailedError
from live.paper_book import PaperAccept, PaperBook, PaperCancel, PaperEvent, PaperFill, PaperOrder
from live.paper_reports import PaperAccount, mass_status, venue_order_id
from live.paper_state import SCHEMA, DueFunding, PaperSnapshot
from live.paper_store import NamedEvent, PaperStore
from strategies.execution import ExecutionConfig, InstrumentTerms
from strategies.limit_orders import QUANTITY_DECIMALS
from strategies.market_data import price_number

_CURRENCY = "USDT"
_NEVER = 1 << 62
_ORDER_TYPES = (
    OrderType.MARKET,
    OrderType.LIMIT,
    OrderType.STOP_MARKET,
    OrderType.MARKET_IF_TOUCHED,
)


@dataclass(frozen=True, slots=True)
class PaperWiring:
    """What a paper client is connected to.

    Parameters
    ----------
    venue : str
        Name of the exchange and of the client, such as ``BINANCE``.
    account_id : str
        Such as ``BINANCE-001``.
    instruments : tuple of Nautilus instruments
        What can be traded.
    execution : ExecutionConfig
        Fees, latency, slippage, whether funding is booked, the starting balance.
    now : callable
        The time by which commands are stamped, UTC nanoseconds: the replay's or the wall clock.
    note_reference : callable
        Told the client order id and the price before slippage of each fill.
    on_error : callable
        Told an exception in a hook, which the node would only log.
    on_account_query : callable
        Told the parameters of each account query.
    store : PaperStore, optional
        Where the account outlives its process; None for one that begins and ends with it. With a
        store the node must reconcile at its start: it is told there what is open.
    """

    venue: str
    account_id: str
    instruments: tuple[Any, ...]
    execution: ExecutionConfig
    now: Callable[[], int]
    note_reference: Callable[[str, float], None]
    on_error: Callable[[BaseException], None]
    on_account_query: Callable[[dict[str, Any]], None]
    store: PaperStore | None = None


class PaperExecutionClient(ExecutionClient):
    """Accept market orders, stops and targets and fill them from the market data it is shown."""

    def __init__(self, wiring: PaperWiring, **arguments: Any) -> None:
        super().__init__(
            venue=Venue(wiring.venue),
            account_id=AccountId(wiring.account_id),
            account_type=AccountType.MARGIN,
            oms_type=OmsType.NETTING,
            base_currency=Currency.from_str(_CURRENCY),
            **arguments,
        )
        self._wiring = wiring
        self._instruments = {str(one.id): one for one in wiring.instruments}
        terms = {name: InstrumentTerms.of(one) for name, one in self._instruments.items()}
        self._orders: dict[str, Any] = {}
        self._due: list[DueFunding] = []
        self._quoted = _NEVER
        self._currency = Currency.from_str(_CURRENCY)
        self.book = PaperBook(terms, wiring.execution)
        self._fills = 0
        self._shown: dict[str, int] = {}
        self._shown_before: dict[str, int] = {}
        self._restore()
        self.received = 0
        """Orders taken in."""
        self.emitted = 0
        """Grows with every emission of events."""

    def acts_on(self, record: Any) -> bool:
        """Return whether a record could make this client emit an event."""
        if self._due and record.ts_init > self._due[0].ts_init and self.book.ledger.positions:
            return True
        if self.book.next_arrival() < record.ts_init:
            return True
        if isinstance(record, QuoteTick):
            price = price_number(record.bid_price)
            return self.book.quote_would_act(str(record.instrument_id), price, record.ts_init)
        if isinstance(record, Bar):
            name = str(record.bar_type.instrument_id)
            high, low = price_number(record.high), price_number(record.low)
            return self.book.bar_would_act(name, high, low, record.ts_init)
        return False

    def on_record(self, record: Any) -> None:
        """Take a record of market data; fills are emitted at once, settlements a time later.

        What an earlier process has taken already is left out.
        """
        if self._shown_before and record.ts_init <= self._shown_before.get(_stream(record), -1):
            return
        if record.ts_init > self._quoted:
            self.require_solvent()
        self.settle(record.ts_init)
        self._publish(self.book.on_time(record.ts_init))
        if isinstance(record, QuoteTick):
            self.on_quote(record)
        elif isinstance(record, Bar):
            self.on_bar(record)
        elif isinstance(record, MarkPriceUpdate):
            self.book.on_mark(str(record.instrument_id), price_number(record.value))
            self._note(record)
        elif isinstance(record, FundingRateUpdate):
            self.on_funding(record)

    def next_due(self) -> int:
        """Return when the next order or cancel arrives, UTC nanoseconds."""
        return self.book.next_arrival()

    def on_clock(self, ts: int) -> None:
        """Let orders and cancels arrive at a time of which there is no record."""
        self._publish(self.book.on_time(ts + 1))

    def on_quote(self, quote: QuoteTick) -> None:
        """Fill what a quote fills (bid and ask are the open in replay)."""
        price = price_number(quote.bid_price)
        name = str(quote.instrument_id)
        events = self.book.on_quote(name, price, quote.ts_init)
        self._quoted = quote.ts_init
        self._note(quote)
        self._publish(events)

    def on_bar(self, bar: Bar) -> None:
        """Fill the stops and targets that a complete bar reached."""
        prices = (
            price_number(bar.open),
            price_number(bar.high),
            price_number(bar.low),
            price_number(bar.close),
        )
        name = str(bar.bar_type.instrument_id)
        events = self.book.on_bar(name, prices, bar.ts_init)
        self.book.on_volume(name, price_number(bar.volume))
        self._note(bar)
        if not events:
            self._keep()
        self._publish(events)

    def on_funding(self, funding: FundingRateUpdate) -> None:
        """Take a settlement, where the execution settings say so.

        It is paid once its time is over: a stop that was hit in the bar that ends with it was
        hit before it, and nothing is held any more. The backtest engine has the same order.
        """
        if self._books_funding:
            name, rate = str(funding.instrument_id), str(funding.rate)
            self._due.append(DueFunding(name, rate, funding.ts_event, funding.ts_init))
            self._note(funding)
            self._keep()

    def require_solvent(self) -> None:
        """Stop when the exchange would take the positions away, after the quotes of a time.

        A backtest goes on with what is left. Here the node would have to be told of orders that
        it never sent, and an account that is lost is a matter for a person.

        Raises
        ------
        RunFailedError
            Saying what the account is worth.
        """
        self._quoted = _NEVER
        fault = self.book.liquidation()
        if fault is not None:
            raise RunFailedError(f"the paper account was liquidated: {fault} USDT")

    def finish(self) -> None:
        """Pay the settlements that are still due: no further record follows."""
        self.require_solvent()
        self.settle(self._wiring.now() + 1)

    def settle(self, now: int) -> None:
        """Pay the settlements of times before `now`."""
        while self._due and self._due[0].ts_init < now:
            funding = self._due.pop(0)
            name = funding.instrument_id
            row = self.book.on_funding(name, float(funding.rate), funding.ts_event)
            if row is not None:
                self._keep()
                self._publish_account(row.ts_event)

    @property
    def _books_funding(self) -> bool:
        return self._wiring.execution.funding == "recorded"

    def _note(self, record: Any) -> None:
        """Take note of up to where a stream of records was taken."""
        if self._wiring.store is not None:
            self._shown[_stream(record)] = record.ts_init

    def _keep(self, events: list[NamedEvent] | None = None) -> None:
        """Write the account down, where it outlives the process."""
        if self._wiring.store is not None:
            self._wiring.store.keep(self._snapshot(), events or ())

    def _snapshot(self) -> PaperSnapshot:
        shown, due = dict(self._shown), tuple(self._due)
        return PaperSnapshot(SCHEMA, self.book.snapshot(), due, self._quoted, self._fills, shown)

    def _restore(self) -> None:
        found = None if self._wiring.store is None else self._wiring.store.snapshot()
        if found is None:
            return
        self.book.restore(found.book)
        self._due, self._quoted, self._fills = list(found.due), found.quoted, found.fills
        self._shown, self._shown_before = dict(found.shown), dict(found.shown)

    def _named(self, event: PaperEvent) -> NamedEvent:
        if not isinstance(event, PaperFill):
            return NamedEvent(event)
        self._fills += 1
        return NamedEvent(event, f"T{self._fills}-{event.order.client_order_id}")

    def _order(self, name: str) -> Any:
        """Return the engine's order, which an earlier process may have sent."""
        order = self._orders.get(name) or self.cache.order(ClientOrderId(name))
        if order is None:
            raise RunFailedError(
                f"order {name} of an earlier process must be known to the node, was not: switch "
                f"reconciliation on where the paper account has a store"
            )
        return order

    def _publish(self, events: list[PaperEvent]) -> None:
        if not events:
            return
        named = [self._named(one) for one in events]
        # Written before it is told: who starts again can ask for it.
        self._keep(named)
        for event, trade_id in named:
            name = event.order.client_order_id
            order = self._order(name)
            self.emitted += 1
            if isinstance(event, PaperFill):
                self._publish_fill(order, event, trade_id)
            elif isinstance(event, PaperAccept):
                self.generate_order_accepted(order, venue_order_id(name), event.ts_event)
            elif isinstance(event, PaperCancel):
                self.generate_order_canceled(order, venue_order_id(name), event.ts_event)
            else:
                self.generate_order_rejected(order, event.reason, event.ts_event, event.would_take)
        # Whatever else an event is about has ended: the rest of a partial fill goes with it.
        for event in events:
            waits = isinstance(event, PaperFill) and event.left > 0.0
            if not waits and not isinstance(event, PaperAccept):
                self._orders.pop(event.order.client_order_id, None)

    def _publish_fill(self, order: Any, fill: PaperFill, trade_id: str) -> None:
        name = fill.order.client_order_id
        instrument = self._instruments[fill.order.instrument_id]
        self._wiring.note_reference(name, fill.reference)
        if fill.order.trigger is None and fill.order.limit is None:
            self.generate_order_accepted(order, venue_order_id(name), fill.ts_event)
        elif fill.order.reduce_only:
            self._resize(order, fill)
        self._publish_account(fill.ts_event)
        self.generate_order_filled(
            order,
            venue_order_id(name),
            None,
            TradeId(trade_id),
            Quantity(fill.quantity, instrument.size_precision),
            Price(fill.price, instrument.price_precision),
            self._currency,
            Money(fill.commission, self._currency),
            LiquiditySide.MAKER if fill.made else LiquiditySide.TAKER,
            fill.ts_event,
        )

    def _resize(self, order: Any, fill: PaperFill) -> None:
        """Tell of an order that covers more or less than it was sent for: its position changed."""
        name, paper = fill.order.client_order_id, fill.order
        instrument = self._instruments[paper.instrument_id]
        covered = round(self.book.filled[name] + fill.left, QUANTITY_DECIMALS)
        if covered == price_number(order.quantity):
            return
        decimals = instrument.price_precision
        self.generate_order_updated(
            order,
            venue_order_id(name),
            Quantity(covered, instrument.size_precision),
            None if paper.limit is None else Price(paper.limit, decimals),
            None if paper.trigger is None else Price(paper.trigger, decimals),
            None,
            fill.ts_event,
        )

    def _publish_account(self, ts_event: int) -> None:
        total = Money(self.book.ledger.cash, self._currency)
        balance = AccountBalance(total, Money(0.0, self._currency), total)
        self.emitted += 1
        self.generate_account_state([balance], [], True, ts_event)

    async def _connect(self) -> None:
        self._publish_account(self._wiring.now())

    async def _disconnect(self) -> None:
        return

    async def _submit_order(self, command: Any) -> None:
        try:
            self._take_order(command.order)
        except BaseException as error:
            self._wiring.on_error(error)
            raise

    def _take_order(self, order: Any) -> None:
        name = str(order.client_order_id)
        now = self._wiring.now()
        self.received += 1
        self.emitted += 1
        self.generate_order_submitted(order)
        if order.order_type not in _ORDER_TYPES:
            reason = (
                f"paper exchange takes market orders, limits, stops and targets, was "
                f"{order.order_type}"
            )
            self.generate_order_rejected(order, reason, now, False)
            return
        kind = order.order_type
        is_limit = kind == OrderType.LIMIT
        triggered = kind in (OrderType.STOP_MARKET, OrderType.MARKET_IF_TOUCHED)
        paper_order = PaperOrder(
            client_order_id=name,
            instrument_id=str(order.instrument_id),
            side=1 if order.side == OrderSide.BUY else -1,
            quantity=price_number(order.quantity),
            trigger=price_number(order.trigger_price) if triggered else None,
            reduce_only=order.is_reduce_only,
            immediate=order.time_in_force == TimeInForce.IOC,
            is_target=kind == OrderType.MARKET_IF_TOUCHED,
            limit=price_number(order.price) if is_limit else None,
            post_only=bool(is_limit and order.is_post_only),
        )
        self._orders[name] = order
        self.book.submit(paper_order, now)
        if self._wiring.store is not None:
            self._wiring.store.keep(self._snapshot(), received=(paper_order, now))

    async def _cancel_order(self, command: Any) -> None:
        try:
            self._take_cancel(command.client_order_id)
        except BaseException as error:
            self._wiring.on_error(error)
            raise

    def _take_cancel(self, client_order_id: Any) -> None:
        now = self._wiring.now()
        name = str(client_order_id)
        if self.book.cancel(name, now):
            self._keep()
        else:
            order = self.cache.order(client_order_id)
            if order is not None and order.is_closed:
                # It ended while the cancel was on its way, such as a stop with its position.
                return
            self.emitted += 1
            reason = f"order {name} must be open to be cancelled, has ended or was never received"
            self.generate_order_cancel_rejected(order, None, reason, now)

    async def _cancel_all_orders(self, command: Any) -> None:
        for order in self.book.open_orders():
            if order.instrument_id == str(command.instrument_id):
                self.book.cancel(order.client_order_id, self._wiring.now())
        self._keep()

    async def _query_account(self, command: Any) -> None:
        self._wiring.on_account_query(dict(command.params or {}))

    async def _generate_mass_status(self, lookback_mins: int | None) -> Any:
        try:
            account = PaperAccount(self._wiring.venue, self._wiring.account_id, self._instruments)
            # A new account has nothing to tell.
            return mass_status(account, self.book, self._wiring.now())
        except BaseException as error:
            self._wiring.on_error(error)
            raise

    async def _generate_order_status_reports(self, command: Any) -> list[Any]:
        return []

    async def _generate_fill_reports(self, command: Any) -> list[Any]:
        return []

    async def _generate_position_status_reports(self, command: Any) -> list[Any]:
        return []


def _stream(record: Any) -> str:
    of = record.bar_type.instrument_id if isinstance(record, Bar) else record.instrument_id
    return f"{type(record).__name__} {of}"


def leveraged(instruments: tuple[Any, ...], leverage: float) -> tuple[Any, ...]:
    """Return instruments that need as much margin as an account with a leverage would ask for.

    A live node cannot be told the leverage of an account of ours, and takes it for 1: it would
    deny what the backtest's exchange fills.
    """
    return tuple(
        type(one).from_dict(
            {**one.to_dict(), "margin_init": str(one.margin_init / Decimal(repr(leverage)))}
        )
        for one in instruments
    )


def paper_factory(
    wiring: PaperWiring, created: Callable[[PaperExecutionClient], None]
) -> type[ExecutionClientFactory]:
    """Return a factory class that gives the wiring to the client and the client to `created`."""

    class _Factory(ExecutionClientFactory):
        @staticmethod
        def create(
            *,
            name: str,
            config: ExecutionClientConfig,
            cache: ClientCache,
            clock: Clock,
            trader_id: TraderId,
        ) -> PaperExecutionClient:
            client = PaperExecutionClient(
                wiring, name=name, config=config, cache=cache, clock=clock, trader_id=trader_id
            )
            created(client)
            return client

    return _Factory
