"""The strategy of a live process: the same decisions, and nothing that a killed process would lose.

`KeptStrategy` adds to `FusionStrategy` what only a live process needs: each callback is one
transaction (`strategies.outbox`), a trade that is told twice is booked once, news that arrive late
do not bring an order back to life, and positions open and close by our own books, because an engine
that has been started anew knows them from the exchange only.

After a restart: `restore` what was committed last, tell it what became of each order
(`recovered`, `lost`, `send_again`), then show it the records from the snapshot's time on, that time
included. What it has seen already changes nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import wraps
from operator import attrgetter
from typing import Any, Self

from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR
from strategies.callbacks import is_inferred
from strategies.execution import BUY, SELL, Side
from strategies.fusion import FusionStrategy, StrategySettings
from strategies.guard import Guard
from strategies.market_data import price_number
from strategies.order_ids import order_id
from strategies.order_reports import OrderReport, TradeReport, as_event
from strategies.outbox import Journal, Outbox
from strategies.paid_fees import fee_reported
from strategies.paid_funding import PaidFunding
from strategies.policy_config import FusionPolicy
from strategies.recorder import (
    EXIT_TYPES,
    FINAL_STATUSES,
    Decision,
    FillRow,
    OrderRow,
    RunRecorder,
)
from strategies.snapshots import (
    SCHEMA,
    InstrumentSnapshot,
    OrderSnapshot,
    StrategySnapshot,
)

RECONCILED = "reconciled"
"""The reason of a fill that only brings our books to what the exchange holds."""
LOST = "never reached the exchange"
"""The detail of an order that was journalled, and that the exchange does not know."""
UNANSWERED = "INFLIGHT_TIMEOUT"
"""Why the engine refuses, in the exchange's name, an order that nobody has answered."""
_ORDER_FIELDS = tuple(one.name for one in fields(OrderSnapshot) if one.name != "trades")
_ROW = attrgetter(*_ORDER_FIELDS)
_KEEP_NS = 2 * NS_PER_DAY
_NAMES_TAKEN_NS = NS_PER_HOUR


def _kept[T](callback: Callable[[Any, T], None]) -> Callable[[KeptStrategy, T], None]:
    """Make one transaction of a callback."""

    @wraps(callback)
    def call(self: KeptStrategy, argument: T, /) -> None:
        with self.outbox:
            callback(self, argument)

    return call


def _of_ours(callback: Callable[[Any, Any], None]) -> Callable[[KeptStrategy, Any], None]:
    """Make one transaction of a callback about an order, and leave the orders of others alone."""

    @wraps(callback)
    def call(self: KeptStrategy, event: Any, /) -> None:
        if event.client_order_id.value not in self.recorder.orders:
            self.foreign += 1
            return
        with self.outbox:
            callback(self, event)

    return call


class KeptStrategy(FusionStrategy):
    """Trade as `FusionStrategy` does, and survive the end of the process at any instant.

    Parameters
    ----------
    policy, settings, recorder, guard
        As for `FusionStrategy`.
    journal : Journal
        Where transactions go, such as a `live.state_store.StateStore`.

    Attributes
    ----------
    outbox : Outbox
        What is to leave; `outbox.hold()` keeps it until `outbox.release()`.
    foreign : int
        Events of orders that are not ours.
    inferred : set of str or None
        Orders of which the engine has made a fill up, for whoever asks the account for the real
        one; None where nobody asks, and what the engine says is taken.
    unanswered : set of str
        Orders that the engine has given up because nobody answered; asked for as well.
    trims : bool
        Whether what ended two days ago is dropped from memory; the journal keeps it.
    """

    def __new__(
        cls,
        policy: FusionPolicy,
        settings: StrategySettings,
        recorder: RunRecorder,
        guard: Guard | None = None,
        journal: Journal | None = None,
    ) -> Self:
        """Create the native part, whose own constructor refuses our arguments."""
        return super().__new__(cls, policy, settings, recorder, guard)

    def __init__(
        self,
        policy: FusionPolicy,
        settings: StrategySettings,
        recorder: RunRecorder,
        guard: Guard | None = None,
        journal: Journal | None = None,
    ) -> None:
        super().__init__(policy, settings, recorder, guard)
        if journal is None:
            raise ConfigError("a kept strategy must have a journal, had none: give it a StateStore")
        self.outbox = Outbox(journal, weakref.proxy(self))
        self.desk.outbox = self.outbox
        self.foreign = 0
        self.trims = True
        self.inferred: set[str] | None = None
        self.unanswered: set[str] = set()
        self._trades: dict[str, list[str]] = {}
        self._trade = ""
        self._funded: dict[str, int] = {}
        self._paid = PaidFunding(recorder.ledger)
        self._told = recorder.decision_count
        self._restored_ts = 0
        self._trimmed_at = 0

    # ---- callbacks

    on_bar: Any = _kept(FusionStrategy.on_bar)
    on_data: Any = _kept(FusionStrategy.on_data)
    on_mark_price: Any = _kept(FusionStrategy.on_mark_price)
    on_order_accepted: Any = _of_ours(FusionStrategy.on_order_accepted)
    on_order_submitted: Any = _of_ours(FusionStrategy.on_order_submitted)
    _refuse: Any = _of_ours(FusionStrategy.on_order_rejected)
    on_order_denied: Any = _of_ours(FusionStrategy.on_order_denied)
    on_order_canceled: Any = _of_ours(FusionStrategy.on_order_canceled)
    on_order_expired: Any = _of_ours(FusionStrategy.on_order_expired)

    def on_funding_rate(self, funding_rate: Any) -> None:
        """Take note of a settlement, once; of one that is known, another rate."""
        name, ts = str(funding_rate.instrument_id), funding_rate.ts_event
        with self.outbox:
            if ts > max(self._funded.get(name, -1), self._restored_ts):
                self._funded[name] = ts
                super().on_funding_rate(funding_rate)
            elif self._paid.correct(name, float(funding_rate.rate), ts):
                self.outbox.touched = True

    def on_order_rejected(self, event: Any) -> None:
        """Note a refusal; where the engine only gave up waiting, somebody asks for the order."""
        name = event.client_order_id.value
        if self.inferred is None or str(event.reason) != UNANSWERED:
            self._refuse(event)
        elif not self.has_ended(name):
            self.unanswered.add(name)

    def on_order_filled(self, event: Any) -> None:
        """Book a fill of ours, once."""
        order_id_ = event.client_order_id.value
        if order_id_ not in self.recorder.orders:
            self.foreign += 1
            return
        if self.inferred is not None and is_inferred(event):
            self.inferred.add(order_id_)
            return
        if self._is_news(order_id_, str(event.trade_id)):
            with self.outbox:
                super().on_order_filled(event)

    def on_position_opened(self, event: Any) -> None:
        """Do nothing: our own books say what is open."""

    def on_position_closed(self, event: Any) -> None:
        """Do nothing: our own books say what is open."""

    def on_stop(self) -> None:
        """Leave the books as they are: settlements that are due are booked by the next process."""

    # ---- what a restart must not lose

    def snapshot(self) -> StrategySnapshot:
        """Return the state between two callbacks."""
        portfolio = self.portfolio_desk
        return StrategySnapshot(
            schema=SCHEMA,
            tag=self.settings.tag,
            interval_ns=self._interval_ns,
            ts=self._ts,
            instruments={name: self._instrument(name) for name in self._states},
            orders=self._orders(),
            ledger=self.recorder.ledger.snapshot(),
            protection=self.protection.snapshot(),
            limits=self.limits.snapshot(),
            portfolio=None if portfolio is None else portfolio.snapshot(),
            due=tuple(self._due),
            guard=None if self.guard is None else self.guard.snapshot(),
            funding=self._paid.snapshot(),
        )

    def restore(self, snapshot: StrategySnapshot) -> None:
        """Go on where an earlier process ended; before the node starts.

        Raises
        ------
        ConfigError
            If the snapshot is of another strategy, or of instruments that are no longer traded.
        """
        self._require_own(snapshot)
        self._ts = self._restored_ts = snapshot.ts
        self._seen = 0
        self._due = list(snapshot.due)
        self.recorder.ledger.restore(snapshot.ledger)
        self._paid.restore(snapshot.funding)
        for one in snapshot.orders:
            self._trades[one.client_order_id] = list(one.trades)
            self.recorder.order(OrderRow(**dict(zip(_ORDER_FIELDS, _ROW(one), strict=True))))
        for name, state in self._states.items():
            if name in snapshot.instruments:
                values = asdict(snapshot.instruments[name])
                self._decided.restore(name, values.pop("decided_slot"))
                self._funded[name] = values.pop("funded_ts")
                state.under_way = set(values.pop("under_way"))
                for key, value in values.items():
                    setattr(state, key, value)
        self.protection.restore(snapshot.protection)
        self.limits.restore(snapshot.limits)
        if self.portfolio_desk is not None and snapshot.portfolio is not None:
            self.portfolio_desk.restore(snapshot.portfolio)
        if self.guard is not None and snapshot.guard is not None:
            self.guard.restore(snapshot.guard)

    def alive(self) -> list[OrderRow]:
        """Return our orders that have not ended, in the order in which they were decided."""
        return [row for row in self.recorder.orders.values() if row.status not in FINAL_STATUSES]

    def recovered(self, *reports: OrderReport) -> None:
        """Take what the exchange says of orders, as if it were told now for the first time.

        What it tells again changes nothing. Trades and refusals are taken in the order of time: a
        refusal leads to an exit while its position is held. Then come the other statuses.
        """
        told = [(one, trade) for one in reports for trade in one.trades or (None,)]
        with self.outbox:
            for one, trade in sorted(told, key=lambda pair: (pair[1] or pair[0]).ts_event):
                if trade is not None:
                    self._take_trade(self.recorder.orders[one.client_order_id], trade)
                elif one.status == "REJECTED":
                    self._status(as_event(one), one.status, one.detail)
            for one in reports:
                if one.status == "ACCEPTED":
                    FusionStrategy.on_order_accepted(self, as_event(one))
                elif one.status in FINAL_STATUSES and one.status != "FILLED":
                    self._status(as_event(one), one.status, one.detail)

    def lost(self, client_order_id: str, ts: int) -> None:
        """Give an order up that the exchange does not know.

        A stop or target is sent anew under another name; anything else is decided anew.
        """
        row = self.recorder.orders[client_order_id]
        with self.outbox:
            event = as_event(OrderReport(client_order_id, "CANCELED", ts_event=ts))
            self._status(event, "CANCELED", LOST)
            if row.type in EXIT_TYPES:
                self.protection.lost(client_order_id, ts)

    def send_again(self, client_order_id: str) -> None:
        """Let an order leave that was journalled and never sent, under its own name."""
        self.outbox.resume(client_order_id)

    def take_back_strays(self) -> list[str]:
        """Cancel what is alive and wanted no more: the cancel may have died with its process."""
        wanted = self.protection.wanted()
        for state in self._states.values():
            wanted |= state.under_way
        strays = [
            row.client_order_id
            for row in self.alive()
            if row.ts_cancel or row.client_order_id not in wanted
        ]
        with self.outbox:
            for one in strays:
                self.outbox.cancel(one)
        return strays

    def reconciled(self, instrument_id: str, quantity: float, price: float, ts: int) -> str:
        """Bring our books to a position that the exchange holds, and protect it as usual.

        For what no order of ours explains, such as a liquidation: the exchange is right.

        Parameters
        ----------
        instrument_id : str
            Of which.
        quantity : float
            What the exchange holds, base units, signed.
        price : float
            At which the difference is booked, quote units.
        ts : int
            UTC nanoseconds.

        Returns
        -------
        str
            Name of the order under which it is booked, "" where nothing differs.
        """
        change = round(quantity - self.recorder.ledger.quantity(instrument_id), 9)
        if change == 0.0:
            return ""
        identity = order_id(self.settings.tag, "L", instrument_id, ts)
        side: Side = BUY if change > 0.0 else SELL
        row = OrderRow(identity, ts, instrument_id, side, abs(change), RECONCILED)
        row.type = "RECONCILIATION"
        with self.outbox:
            self.recorder.order(row)
            self._take_trade(row, TradeReport(identity, ts, abs(change), price, 0.0))
        return identity

    # ---- for the outbox

    def new_decisions(self) -> Sequence[Decision]:
        """Return the decisions since the last call."""
        found = self.recorder.decisions_from(self._told)
        self._told += len(found)
        return found

    def unjournalled(self, rows: Sequence[OrderRow], detail: str) -> None:
        """End trading where nothing can be written down; entries that were to leave are denied."""
        for row in rows:
            self.recorder.order_status(row.client_order_id, "DENIED", detail)
            self._ended(row.client_order_id)
        self.recorder.error(f"KeptStrategy.journal: {detail}")
        if self.guard is not None:
            self.guard.guard.halt(self._ts, detail, "state_unsaved")
            self.guard.act(self._ts)

    def unsent(self, what: str, client_order_id: str, detail: str) -> None:
        """Take note that the engine did not take a command; an order counts as denied."""
        self.recorder.error(f"KeptStrategy.{what} of {client_order_id}: {detail}")
        if what == "submit":
            report = OrderReport(client_order_id, "DENIED", ts_event=self._ts)
            self._status(as_event(report), "DENIED", detail)

    def has_ended(self, client_order_id: str) -> bool:
        """Return whether an order of ours has an outcome."""
        row = self.recorder.orders.get(client_order_id)
        return row is None or row.status in FINAL_STATUSES

    # ---- how

    def _complete(self, ts: int) -> None:
        super()._complete(ts)
        self.outbox.touched = True
        if self.trims and ts - self._trimmed_at >= NS_PER_DAY:
            self._trimmed_at = ts
            self._trim(ts - _KEEP_NS)

    def _take(self, prediction: Any) -> None:
        self.outbox.touched = True
        name, ts = prediction.instrument_id, prediction.ts_init
        if ts <= self._restored_ts and ts // self._interval_ns <= self._decided.slot(name):
            # Decided before the restart.
            return
        super()._take(prediction)

    def _mark(self, name: str, bar: Any) -> None:
        if bar.ts_init <= self._states[name].bar_ts:
            # Shown again after a restart; a mark price of its time may have come again as well.
            self.recorder.ledger.mark(name, price_number(bar.close))
            return
        super()._mark(name, bar)

    def _status(self, event: Any, status: str, detail: str = "") -> None:
        row = self.recorder.orders[event.client_order_id.value]
        if row.status in FINAL_STATUSES or (status == "SUBMITTED" and row.status != "INITIALIZED"):
            return
        if not (row.status == "PARTIALLY_FILLED" and status == "ACCEPTED"):
            super()._status(event, status, detail)
        self.outbox.changed(row)

    def _is_news(self, client_order_id: str, trade_id: str) -> bool:
        """Return whether a trade is told for the first time, and remember it."""
        known = self._trades.setdefault(client_order_id, [])
        if trade_id in known:
            return False
        known.append(trade_id)
        self._trade = trade_id
        return True

    def _take_trade(self, row: OrderRow, trade: TradeReport) -> None:
        if not self._is_news(row.client_order_id, trade.trade_id):
            return
        self._pay(trade.ts_event - 1)
        fill = FillRow(
            ts_event=trade.ts_event,
            client_order_id=row.client_order_id,
            instrument_id=row.instrument_id,
            side=row.side,
            quantity=trade.quantity,
            price=trade.price,
            commission=fee_reported(trade, self.settings.costs.fees),
            reason=row.reason,
            liquidity=trade.liquidity,
        )
        self._book(row, fill)

    def _book(self, row: OrderRow, fill: FillRow) -> None:
        ledger, name = self.recorder.ledger, row.instrument_id
        before, ended = ledger.quantity(name), row.status in FINAL_STATUSES and row.status
        super()._book(row, fill)
        self._paid.moved(fill)
        if ended:
            # A trade that was told after the order's end does not bring it back.
            row.status = ended
        self.outbox.filled(self._trade, self.recorder.fills[-1])
        self.outbox.changed(row)
        after = ledger.quantity(name)
        if before != 0.0 and before * after <= 0.0:
            self._closed(name, fill.ts_event)
        if after != 0.0 and before * after <= 0.0:
            self._opened(name, fill.ts_event, row.client_order_id)

    def _instrument(self, name: str) -> InstrumentSnapshot:
        state = self._states[name]
        return InstrumentSnapshot(
            since=state.since,
            weight=state.weight,
            under_way=tuple(sorted(state.under_way)),
            stop_frac=state.stop_frac,
            stopped_at=state.stopped_at,
            degraded_bars=state.degraded_bars,
            volume=state.volume,
            funding_rate=state.funding_rate,
            bar_ts=state.bar_ts,
            decided_slot=self._decided.slot(name),
            funded_ts=self._funded.get(name, -1),
        )

    def _orders(self) -> tuple[OrderSnapshot, ...]:
        """Return the orders that matter: alive, referred to, or with a name that is taken."""
        wanted = self.protection.wanted() | self.limits.wanted()
        since = self._ts - max(_NAMES_TAKEN_NS, 2 * self._interval_ns)
        return tuple(
            self._order(row)
            for row in self.recorder.orders.values()
            if row.status not in FINAL_STATUSES
            or row.ts_init >= since
            or row.client_order_id in wanted
        )

    def _order(self, row: OrderRow) -> OrderSnapshot:
        values = (*_ROW(row), tuple(self._trades.get(row.client_order_id, ())))
        return OrderSnapshot(*values)

    def _require_own(self, snapshot: StrategySnapshot) -> None:
        ours = (self.settings.tag, self._interval_ns)
        theirs = (snapshot.tag, snapshot.interval_ns)
        if ours != theirs:
            raise ConfigError(
                f"tag and interval of a snapshot must be those of the strategy, {ours}, were "
                f"{theirs}: use the profile that wrote it, or another state folder"
            )
        held = {*snapshot.ledger.positions}
        held |= {one.instrument_id for one in snapshot.orders if one.status not in FINAL_STATUSES}
        gone = sorted(held - set(self._states))
        if gone:
            raise ConfigError(
                f"instruments with positions or orders must be traded, {', '.join(gone)} are not "
                f"any more: close them with the old profile first"
            )

    def _settle(self, name: str, rate: float, ts: int) -> None:
        self._paid.settle(name, rate, ts)

    def _trim(self, before: int) -> None:
        """Drop from memory what ended before a time; the journal has it."""
        for name in self.recorder.trim(before, self.protection.wanted() | self.limits.wanted()):
            self._trades.pop(name, None)
