"""From a decision to an order at the exchange: what the strategy sends, and what is on its way.

The desk knows the engine's orders; what to send is decided elsewhere. It also says what is held
and under way in the words of sizing and risk guard.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from nautilus_trader.model import (
    BarType,
    ClientOrderId,
    OrderSide,
    Price,
    Quantity,
    TimeInForce,
)

from catalog.instruments import bar_type
from catalog.timestamps import NS_PER_SECOND, interval_name
from strategies.callbacks import nothing
from strategies.execution import BUY, InstrumentTerms, Side
from strategies.guard_orders import Book
from strategies.intent import NO_COSTS, AccountView, TradeCosts
from strategies.limit_orders import LimitStyle, ends_at
from strategies.market_data import price_number
from strategies.order_ids import OrderKind, check_tag, order_id
from strategies.policy import FORCED_REASONS, LIQUIDATED
from strategies.recorder import (
    EXIT_TYPES,
    LIMIT,
    LIQUIDATION_PREFIX,
    TAKEN_BACK,
    OrderRow,
    RunRecorder,
)

if TYPE_CHECKING:
    from strategies.outbox import Outbox


@dataclass(frozen=True, slots=True)
class StrategySettings:
    """Where a strategy trades.

    Parameters
    ----------
    instruments : tuple of Nautilus instruments
        What is traded, in the profile's order.
    interval_ns : int
        Length of a bar, nanoseconds.
    tag : str
        Part of every order's identifier, 1 to 6 letters or digits, different for each strategy
        of an account.
    books_funding : bool
        Whether settlements are booked in the ledger.
    costs : TradeCosts
        What a trade is expected to cost, for rules and sizes that ask.
    settle_after_ns : int
        If positive, a clock alert that long after a stop or a cancel is sent. A replay looks at
        orders under way only when something happens, so without it a stop would be dead for
        the whole entry bar. A live engine needs none.
    send_at : callable, optional
        For a replay, whose engine would fill an order without a price at the last one that there
        was: told instrument and decision time, says when a market order goes to the engine, or
        None for never. Where the instrument's next bar is missing that is later than the decision,
        so that the order waits for the next open as it would in a live market that pauses.
    limits : LimitStyle, optional
        How decisions are sent as limit orders; None for market orders.
    fed : bool
        Whether somebody hands bars, marks and settlements to the strategy by calling its handlers,
        in order and complete: it subscribes to predictions only.
    claims : bool
        Whether orders and positions that the engine finds at the exchange, in the instruments that
        are traded, are this strategy's: after a restart it must be able to cancel its own.
    """

    instruments: tuple[Any, ...]
    interval_ns: int
    tag: str = "F1"
    books_funding: bool = True
    costs: TradeCosts = NO_COSTS
    settle_after_ns: int = 0
    send_at: Callable[[str, int], int | None] | None = None
    limits: LimitStyle | None = None
    fed: bool = False
    claims: bool = False


@dataclass(slots=True)
class InstrumentState:
    """One instrument: its terms, the orders under way, and since when the position is wanted.

    `stop_frac` is the distance of the stop that the entry last sent is to have (NaN for none),
    `stopped_at` the close of the bar in which a stop last filled (0 for never), `degraded_bars`
    how many predictions in a row were degraded, `volume` what was traded in the last bar (NaN
    where nobody asks), `bar_ts` its stamp.
    """

    terms: InstrumentTerms
    identity: Any
    precision: tuple[int, int]
    since: int = 0
    weight: float = 0.0
    under_way: set[str] = field(default_factory=set)
    stop_frac: float = math.nan
    stopped_at: int = 0
    degraded_bars: int = 0
    volume: float = math.nan
    funding_rate: float = 0.0
    bar_ts: int = 0


class Intent(NamedTuple):
    """What a decision wants traded.

    `quantity` is signed, `kind` E or X, `price` the last close; `ts_decided` when it was first
    decided, if a limit order was tried before.
    """

    kind: OrderKind
    instrument_id: str
    ts: int
    quantity: float
    price: float
    reason: str
    bound_by: str = ""
    stop_frac: float = math.nan
    ts_decided: int = 0


class ExitOrder(NamedTuple):
    """A stop (kind S) or target (T); `quantity` is signed, `named` the time in its identifier."""

    kind: OrderKind
    instrument_id: str
    ts: int
    quantity: float
    trigger: float
    reason: str
    named: int


class OrderDesk:
    """Sends orders, and knows what is under way.

    Parameters
    ----------
    strategy : Strategy
        In whose name; its clock and its order factory are used.
    settings : StrategySettings
        Where.
    recorder : RunRecorder
        Takes the orders down, and holds the ledger.

    Attributes
    ----------
    states : dict of InstrumentState
        By instrument id, in the profile's order.
    instrument_of : dict of str
        Instrument id by bar type.
    outbox : Outbox or None
        Where orders and cancels go in a live process, which journals them; None in a replay.
    silent : set of str
        Orders under way that the exchange has not answered and says that it does not know. They
        stand in nobody's way.
    expires : bool
        Whether the exchange is told when a limit entry ends: a process that died ends none.
    """

    def __init__(self, strategy: Any, settings: StrategySettings, recorder: RunRecorder) -> None:
        # The strategy holds the desk. Were it held by it as well, only the garbage collector could
        # free it, from any thread: the engine allows none but its own.
        self._strategy = weakref.proxy(strategy)
        self._settings = settings
        self._recorder = recorder
        self._held_back: dict[str, list[Any]] = {}
        self.states: dict[str, InstrumentState] = {}
        self.instrument_of: dict[BarType, str] = {}
        self.outbox: Outbox | None = None
        self.silent: set[str] = set()
        self.expires = False
        interval = interval_name(settings.interval_ns)
        for instrument in settings.instruments:
            terms = InstrumentTerms.of(instrument)
            precision = (instrument.price_precision, instrument.size_precision)
            self.states[terms.instrument_id] = InstrumentState(terms, instrument.id, precision)
            kind = BarType.from_str(bar_type(terms.instrument_id, interval))
            self.instrument_of[kind] = terms.instrument_id
        check_tag(settings.tag, tuple(self.states))

    # ---- what is held and under way

    def account(self, instrument_id: str) -> AccountView:
        """Return the account without one instrument, orders under way counted as filled."""
        ledger = self._recorder.ledger
        gross = net = 0.0
        for name, quantity in self.coming().items():
            if name != instrument_id:
                value = quantity * ledger.marks[name]
                gross += abs(value)
                net += value
        return AccountView(ledger.equity(), gross, net)

    def coming(self) -> dict[str, float]:
        """Return the positions as they will be, by instrument: orders under way have filled."""
        found = {}
        for name in self.states:
            quantity = self._recorder.ledger.quantity(name) + self._coming(name)
            if quantity != 0.0:
                found[name] = quantity
        return found

    def book(self) -> Book:
        """Return what is held and what may still be added, for the risk guard."""
        ledger = self._recorder.ledger
        buying: dict[str, float] = {}
        selling: dict[str, float] = {}
        for name, state in self.states.items():
            for identity in state.under_way:
                row = self._recorder.orders[identity]
                if not row.reduce_only:
                    found = buying if row.side > 0 else selling
                    left = row.quantity - row.filled_quantity
                    found[name] = found.get(name, 0.0) + left
        held = {name: one.quantity for name, one in ledger.positions.items()}
        return Book(ledger.equity(), held, buying, selling)

    def under_way(self) -> int:
        """Return how many orders that are no stops have not ended."""
        return sum(len(state.under_way) for state in self.states.values())

    def is_leaving(self, instrument_id: str) -> bool:
        """Return whether a market order is under way that only reduces."""
        rows = (self._recorder.orders[one] for one in self.states[instrument_id].under_way)
        return any(row.reduce_only and row.type == "MARKET" for row in rows)

    def _coming(self, instrument_id: str) -> float:
        rows = (self._recorder.orders[one] for one in self.states[instrument_id].under_way)
        return sum(row.side * (row.quantity - row.filled_quantity) for row in rows)

    # ---- what is sent

    def market(
        self,
        kind: OrderKind,
        instrument_id: str,
        ts: int,
        quantity: float,
        reason: str,
        *,
        bound_by: str = "",
        stop_frac: float = math.nan,
        reduce_only: bool | None = None,
        ts_decided: int = 0,
    ) -> str:
        """Send a market order and return its identifier.

        Parameters
        ----------
        kind : {"E", "X", "F", "R"}
            Entry, or one that may only reduce: exit by decision, or forced; rebalancing may do
            either. Each has names of its own, because a second may hold all of them.
        instrument_id : str
            What is traded.
        ts : int
            Of the decision, UTC nanoseconds.
        quantity : float
            Base units, signed: positive buys.
        reason, bound_by : str
            Why it is sent, and what decided its size.
        stop_frac : float
            Distance of the stop that the position is to have, NaN for none.
        reduce_only : bool, optional
            Whether it may only reduce; without it, every kind but an entry does.
        ts_decided : int
            When it was first decided, if a limit order was tried before.
        """
        if reduce_only is None:
            reduce_only = kind != "E"
        identity = self._name(kind, instrument_id, ts)
        side: Side = BUY if quantity > 0.0 else -1
        row = OrderRow(
            identity, ts, instrument_id, side, abs(quantity), reason, reduce_only=reduce_only
        )
        row.bound_by, row.stop_frac = bound_by, stop_frac
        row.ts_decided = ts_decided or ts
        self.states[instrument_id].under_way.add(identity)
        self._submit(row)
        return identity

    def send(self, intent: Intent) -> str:
        """Send what a decision wants at the market, and return its identifier."""
        return self.market(
            *(intent.kind, intent.instrument_id, intent.ts, intent.quantity, intent.reason),
            bound_by=intent.bound_by,
            stop_frac=intent.stop_frac,
            ts_decided=intent.ts_decided,
        )

    def limit(self, intent: Intent, price: float, *, post_only: bool) -> str:
        """Send a limit order, which stays until it is complete or taken back; return its name."""
        kind, name, ts = intent.kind, intent.instrument_id, intent.ts
        identity = self._name(kind, name, ts)
        side: Side = BUY if intent.quantity > 0.0 else -1
        row = OrderRow(identity, ts, name, side, abs(intent.quantity), intent.reason, LIMIT)
        row.limit_price, row.post_only, row.reduce_only = price, post_only, kind != "E"
        row.bound_by, row.stop_frac = intent.bound_by, intent.stop_frac
        self.states[name].under_way.add(identity)
        self._submit(row)
        return identity

    def protect(self, order: ExitOrder) -> str:
        """Send a stop or a target and return its identifier."""
        identity = order_id(self._settings.tag, order.kind, order.instrument_id, order.named)
        side: Side = BUY if order.quantity > 0.0 else -1
        row = OrderRow(
            identity, order.ts, order.instrument_id, side, abs(order.quantity), order.reason
        )
        row.type = "STOP_MARKET" if order.kind == "S" else "MARKET_IF_TOUCHED"
        row.trigger_price, row.reduce_only = order.trigger, True
        self._submit(row)
        self.settle()
        return identity

    def cancel(self, client_order_id: str) -> None:
        """Take an order back."""
        if self.outbox is not None:
            self.outbox.cancel(client_order_id)
            return
        self.recall(client_order_id)
        self.settle()

    def withdraw(self, client_order_id: str, ts: int, detail: str = "") -> None:
        """Take an order back, once; in a replay one that has not left yet ends here."""
        row = self._recorder.orders[client_order_id]
        if row.ts_cancel:
            return
        row.ts_cancel = ts
        self._recorder.order_status(client_order_id, row.status, detail)
        for orders in self._held_back.values():
            kept = [one for one in orders if one.client_order_id.value != client_order_id]
            if len(kept) < len(orders):
                orders[:] = kept
                self._recorder.order_status(client_order_id, "CANCELED")
                self.ended(client_order_id)
                return
        self.cancel(client_order_id)

    def make_way(self, instrument_id: str, ts: int) -> bool:
        """Take back the limits of an instrument; return whether nothing else is under way."""
        under_way = self.states[instrument_id].under_way - self.silent
        rows = [self._recorder.orders[one] for one in under_way]
        limits = [row.client_order_id for row in rows if row.type == LIMIT]
        for identity in sorted(limits):
            self.withdraw(identity, ts)
        return len(limits) == len(rows)

    def settle(self) -> None:
        """Let a replay look at what is under way soon, though nothing else happens."""
        after = self._settings.settle_after_ns
        if after > 0:
            clock = self._strategy.clock
            due = clock.timestamp_ns() + after
            clock.set_time_alert_ns(f"settle-{due}", due, nothing)

    def has_sent(self, kind: OrderKind, instrument_id: str, ts: int) -> bool:
        """Return whether the name of an order is taken: a second has one of each kind."""
        return order_id(self._settings.tag, kind, instrument_id, ts) in self._recorder.orders

    def ended(self, client_order_id: str) -> None:
        """Take note that an order has ended."""
        row = self._recorder.orders[client_order_id]
        self.states[row.instrument_id].under_way.discard(client_order_id)
        self.silent.discard(client_order_id)

    def take_back_entries(self, ts: int) -> None:
        """Take back what adds risk and has not filled: what waits for an open, and limits.

        What waits for an open has not left yet in a replay; a live exchange must be asked.
        """
        for state in self.states.values():
            for identity in sorted(state.under_way):
                if not self._recorder.orders[identity].reduce_only:
                    self.withdraw(identity, ts, TAKEN_BACK)

    def adopt(self, event: Any) -> OrderRow:
        """Take down the fill of an order that the exchange sent in our name: a liquidation.

        Raises
        ------
        LookupError
            If the order is no liquidation: nobody else may trade for us.
        """
        raw = event.client_order_id.value
        if not raw.startswith(LIQUIDATION_PREFIX):
            raise LookupError(f"order {raw} must be one of this strategy, was filled without it")
        name, ts = str(event.instrument_id), event.ts_event
        identity = order_id(self._settings.tag, "L", name, ts)
        side: Side = BUY if event.order_side == OrderSide.BUY else -1
        row = OrderRow(identity, ts, name, side, price_number(event.last_qty), LIQUIDATED)
        row.type, row.reduce_only = "LIQUIDATION", True
        self._recorder.adopt(raw, row)
        return row

    def send_held_back(self, name: str) -> None:
        """Submit the orders that waited for an alert."""
        for order in self._held_back.pop(name):
            self._strategy.submit_order(order)

    def leave(self, client_order_id: str) -> None:
        """Hand an order that has been journalled to the engine, now."""
        row = self._recorder.orders[client_order_id]
        self._strategy.submit_order(self._order(row))

    def recall(self, client_order_id: str) -> None:
        """Hand a cancel to the engine, now.

        After a restart the engine has the orders that were open when it asked. One that has ended
        since our own books were made is not among them, and refusing it would end the process: the
        account's watch learns what became of it, or takes it back where it rests all the same.
        """
        identity = ClientOrderId(client_order_id)
        if self.outbox is not None and self._strategy.cache.order(identity) is None:
            return
        self._strategy.cancel_order(identity)

    def _name(self, kind: OrderKind, instrument_id: str, ts: int) -> str:
        """Return an order's identifier; in a live process one that was never used.

        There a forced exit may be refused, and the next one follow within the second.
        """
        identity = order_id(self._settings.tag, kind, instrument_id, ts)
        while self.outbox is not None and identity in self._recorder.orders:
            ts += NS_PER_SECOND
            identity = order_id(self._settings.tag, kind, instrument_id, ts)
        return identity

    def _submit(self, row: OrderRow) -> None:
        self._recorder.order(row)
        if self.outbox is None:
            self._send(row, self._order(row))
        else:
            self.outbox.submit(row)

    def _order(self, row: OrderRow) -> Any:
        """Return the engine's order."""
        state = self.states[row.instrument_id]
        price_decimals, size_decimals = state.precision
        quantity = Quantity(row.quantity, size_decimals)
        side = OrderSide.BUY if row.side == BUY else OrderSide.SELL
        identity = ClientOrderId(row.client_order_id)
        factory = self._strategy.order_factory
        common = {"reduce_only": row.reduce_only, "client_order_id": identity}
        if row.type in EXIT_TYPES:
            trigger = Price(row.trigger_price, price_decimals)
            make = factory.stop_market if row.type == "STOP_MARKET" else factory.market_if_touched
            order = make(state.identity, side, quantity, trigger, **common)
        elif row.type == LIMIT:
            price = Price(row.limit_price, price_decimals)
            common["post_only"] = row.post_only
            if self.expires and not (row.reduce_only or row.post_only):
                now, limits = self._strategy.clock.timestamp_ns(), self._settings.limits
                common["time_in_force"] = TimeInForce.GTD
                common["expire_time"] = ends_at(limits, now, self._settings.interval_ns)
            order = factory.limit(state.identity, side, quantity, price, **common)
        else:
            forced = row.reason in FORCED_REASONS
            duration = TimeInForce.GTC if forced else TimeInForce.IOC
            order = factory.market(state.identity, side, quantity, duration, **common)
        return order

    def _send(self, row: OrderRow, order: Any) -> None:
        """Submit an order, in a replay no earlier than it can meet a price."""
        ts = row.ts_init
        due: int | None = ts
        if self._settings.send_at is not None and row.type in ("MARKET", LIMIT):
            due = self._settings.send_at(row.instrument_id, ts)
        if due is None:
            # It stays under way until the end of the data, unless it is taken back.
            self._held_back.setdefault("", []).append(order)
            return
        if due <= ts:
            self._strategy.submit_order(order)
            return
        name = f"send-{due}-{row.instrument_id}"
        if name not in self._held_back:
            self._held_back[name] = []
            self._strategy.clock.set_time_alert_ns(name, due, self._strategy.on_held_back)
        self._held_back[name].append(order)
