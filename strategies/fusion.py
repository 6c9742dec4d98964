"""The strategy: predictions in, orders out. The same class in replay, paper and live.

It decides by the stamps of data and never by the clock, takes its equity from its own ledger, and
waits until it has seen every bar of a time itself before it acts on that time's predictions, so
that the order in which the engine calls actor and strategy does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from nautilus_trader.model import (
    BarType,
    ClientOrderId,
    InstrumentId,
    OrderSide,
    Price,
    Quantity,
    StrategyId,
)
from nautilus_trader.trading import Strategy, StrategyConfig

from catalog.instruments import bar_type
from catalog.timestamps import interval_name
from catalog.types import register_types
from strategies.callbacks import guarded, nothing
from strategies.execution import BUY, SELL, InstrumentTerms, Side, stop_trigger
from strategies.market_data import price_number
from strategies.order_ids import OrderKind, check_tag, order_id
from strategies.policy import STOP_LOSS, FusionPolicy, Held, Verdict, decide
from strategies.predictor_actor import PREDICTION_TYPE
from strategies.recorder import FINAL_STATUSES, Decision, FillRow, OrderRow, RunRecorder
from strategies.sizing import confidence, order_quantity, target_fraction

type _Record = Any
"""A `FusionPrediction`, whose decorator hides `ts_init` from the type checker."""

__all__ = ["FusionPolicy", "FusionStrategy", "StrategySettings"]


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
    settle_after_ns : int
        If positive, a clock alert that long after a stop or a cancel is sent. A replay looks at
        orders under way only when something happens, so without it a stop would be dead for
        the whole entry bar. A live engine needs none.
    send_at : callable, optional
        For a replay, whose engine would fill an order without a price at the last one that there
        was: told instrument and decision time, says when a market order goes to the engine, or
        None for never. Where the instrument's next bar is missing that is later than the decision,
        so that the order waits for the next open as it would in a live market that pauses.
    """

    instruments: tuple[Any, ...]
    interval_ns: int
    tag: str = "F1"
    books_funding: bool = True
    settle_after_ns: int = 0
    send_at: Callable[[str, int], int | None] | None = None


@dataclass(slots=True)
class _State:
    """One instrument: its terms, the orders under way, and since when the position is wanted."""

    terms: InstrumentTerms
    identity: InstrumentId
    precision: tuple[int, int]
    since: int = 0
    weight: float = 0.0
    under_way: set[str] = field(default_factory=set)
    stop_id: str = ""


class FusionStrategy(Strategy):
    """Trade each instrument by its predictions, one position at a time.

    Parameters
    ----------
    policy : FusionPolicy
        When and how much.
    settings : StrategySettings
        Where.
    recorder : RunRecorder
        Takes decisions, orders and fills, and holds the ledger.
    """

    def __new__(
        cls, policy: FusionPolicy, settings: StrategySettings, recorder: RunRecorder
    ) -> Self:
        """Create the native part, whose own constructor refuses our arguments."""
        return super().__new__(cls)

    def __init__(
        self, policy: FusionPolicy, settings: StrategySettings, recorder: RunRecorder
    ) -> None:
        identity = StrategyId(f"FUSION-{settings.tag}")
        super().__init__(StrategyConfig(strategy_id=identity, order_id_tag=settings.tag))
        register_types()
        self.policy = policy
        self.settings = settings
        self.recorder = recorder
        interval = interval_name(settings.interval_ns)
        self._states: dict[str, _State] = {}
        self._instrument_of: dict[BarType, str] = {}
        for instrument in settings.instruments:
            terms = InstrumentTerms.of(instrument)
            precision = (instrument.price_precision, instrument.size_precision)
            self._states[terms.instrument_id] = _State(terms, instrument.id, precision)
            kind = BarType.from_str(bar_type(terms.instrument_id, interval))
            self._instrument_of[kind] = terms.instrument_id
        check_tag(settings.tag, tuple(self._states))
        self._interval_ns = settings.interval_ns
        self._count = len(self._states)
        self._ts = 0
        self._seen = 0
        self._pending: list[_Record] = []
        self._due: list[tuple[str, float, int]] = []
        self._held_back: dict[str, list[Any]] = {}

    @guarded
    def on_start(self) -> None:
        """Subscribe to bars, predictions and, where funding is booked, marks and settlements."""
        for kind in self._instrument_of:
            self.subscribe_bars(kind)
        if self.settings.books_funding:
            for state in self._states.values():
                self.subscribe_mark_prices(state.identity)
                self.subscribe_funding_rates(state.identity)
        self.subscribe_data(PREDICTION_TYPE)

    @guarded
    def on_bar(self, bar: Any) -> None:
        """Mark the position; the last bar of a time releases the predictions that wait for it."""
        recorder = self.recorder
        recorder.strategy_bars += 1
        ts = bar.ts_init
        if ts < self._ts:
            return
        if self._due:
            self._pay(ts - 1)
        recorder.ledger.mark(self._instrument_of[bar.bar_type], price_number(bar.close))
        if ts > self._ts:
            self._ts, self._seen = ts, 0
        self._seen += 1
        if self._seen != self._count:
            return
        if self._due:
            self._pay(ts)
        if self._pending:
            waiting, self._pending = self._pending, []
            for prediction in waiting:
                self._decide(prediction)

    @guarded
    def on_data(self, data: Any) -> None:
        """Decide on a prediction once every bar of its time has marked the ledger.

        A degraded prediction says that bars are missing: nothing is waited for.
        """
        prediction: _Record = data.data
        self.recorder.received += 1
        complete = prediction.ts_init == self._ts and self._seen == self._count
        if complete or prediction.degraded:
            if self._due:
                self._pay(prediction.ts_init)
            self._decide(prediction)
        else:
            self._pending.append(prediction)

    @guarded
    def on_mark_price(self, mark_price: Any) -> None:
        """Note the mark price at which the settlement that follows is paid."""
        self.recorder.ledger.mark(str(mark_price.instrument_id), price_number(mark_price.value))

    @guarded
    def on_funding_rate(self, funding_rate: Any) -> None:
        """Take note of a settlement, which is booked once the bars of its time are in.

        A stop that was hit in the bar that ends with the settlement was hit before it: nothing
        is held any more, and nothing is paid. The engine has the same order.
        """
        name = str(funding_rate.instrument_id)
        self._due.append((name, float(funding_rate.rate), funding_rate.ts_event))

    @guarded
    def on_order_filled(self, event: Any) -> None:
        """Book a fill, after the settlements of earlier times."""
        self._pay(event.ts_event - 1)
        order_id_ = event.client_order_id.value
        row = self.recorder.orders[order_id_]
        fee = event.commission
        self.recorder.fill(
            FillRow(
                ts_event=event.ts_event,
                client_order_id=order_id_,
                instrument_id=row.instrument_id,
                side=row.side,
                quantity=price_number(event.last_qty),
                price=price_number(event.last_px),
                commission=0.0 if fee is None else float(fee.as_decimal()),
                reason=row.reason,
            )
        )
        self._ended(order_id_)

    @guarded
    def on_order_accepted(self, event: Any) -> None:
        """Note that the exchange has the order."""
        self._status(event, "ACCEPTED")

    @guarded
    def on_order_submitted(self, event: Any) -> None:
        """Note that the order is on its way."""
        self._status(event, "SUBMITTED")

    @guarded
    def on_order_rejected(self, event: Any) -> None:
        """Note a refusal by the exchange, and why."""
        self._status(event, "REJECTED", str(event.reason))

    @guarded
    def on_order_denied(self, event: Any) -> None:
        """Note a refusal by our own risk checks, and why."""
        self._status(event, "DENIED", str(event.reason))

    @guarded
    def on_order_canceled(self, event: Any) -> None:
        """Note a cancel."""
        self._status(event, "CANCELED")

    @guarded
    def on_order_expired(self, event: Any) -> None:
        """Note an order that ran out."""
        self._status(event, "EXPIRED")

    @guarded
    def on_position_opened(self, event: Any) -> None:
        """Protect a new position by a stop, if the policy has one."""
        fraction = self.policy.stop_loss_frac
        if fraction is None:
            return
        name = str(event.instrument_id)
        state = self._states[name]
        position = self.recorder.ledger.positions[name]
        side = SELL if position.quantity > 0.0 else BUY
        trigger = stop_trigger(side, position.average_open, fraction, state.terms.tick)
        # Named after the decision that it protects, as its entry is.
        stop_id = order_id(self.settings.tag, "S", name, state.since)
        row = OrderRow(stop_id, event.ts_event, name, side, abs(position.quantity), STOP_LOSS)
        row.type, row.trigger_price, row.reduce_only = "STOP_MARKET", trigger, True
        state.stop_id = stop_id
        self._submit(row)
        self._settle()

    @guarded
    def on_position_closed(self, event: Any) -> None:
        """Take back the stop of a position that something else closed."""
        state = self._states[str(event.instrument_id)]
        stop_id, state.stop_id = state.stop_id, ""
        if stop_id and self.recorder.orders[stop_id].status not in FINAL_STATUSES:
            self.cancel_order(ClientOrderId(stop_id))
            self._settle()

    @guarded
    def on_stop(self) -> None:
        """Book what is still due: no bar follows."""
        self._pay(max((ts for _, _, ts in self._due), default=0))

    def _pay(self, until: int) -> None:
        """Book the settlements stamped `until` or earlier."""
        while self._due and self._due[0][2] <= until:
            self.recorder.ledger.apply_funding(*self._due.pop(0))

    def _decide(self, prediction: _Record) -> None:
        recorder = self.recorder
        name = prediction.instrument_id
        state = self._states[name]
        position = recorder.ledger.positions.get(name)
        held = 0.0 if position is None else position.quantity
        side = (held > 0.0) - (held < 0.0)
        if state.under_way:
            recorder.unchanged(prediction, side, state.weight, "order_pending")
            return
        bars = (prediction.ts_init - state.since) // self._interval_ns if side else 0
        verdict = decide(self.policy, prediction, Held(side, bars))
        wanted, reason, renew = verdict
        if wanted == side:
            if renew:
                state.since = prediction.ts_init
            recorder.unchanged(prediction, side, state.weight if side else 0.0, reason)
        else:
            self._change(prediction, verdict, held)

    def _change(self, prediction: _Record, verdict: Verdict, held: float) -> None:
        """Order what turns the position into the one wanted, and record the decision."""
        name, ts = prediction.instrument_id, prediction.ts_init
        state = self._states[name]
        quantity = fraction = 0.0
        if verdict.side != 0:
            ledger = self.recorder.ledger
            fraction = target_fraction(self.policy.position_frac, confidence(prediction.prob_up))
            price = ledger.marks[name]
            quantity = order_quantity(ledger.equity(), fraction, price, state.terms)
            if quantity == 0.0:
                fraction = 0.0
                verdict = Verdict(0, "exit_opposite" if held else "below_minimum")
        state.weight = verdict.side * fraction
        last_id = ""
        if held != 0.0:
            closing = SELL if held > 0.0 else BUY
            last_id = self._market("X", prediction, closing, abs(held), verdict.reason)
        if quantity > 0.0:
            state.since = ts
            opening = BUY if verdict.side > 0 else SELL
            last_id = self._market("E", prediction, opening, quantity, verdict.reason)
        self._record(prediction, verdict, state.weight, verdict.side * quantity - held, last_id)

    def _record(
        self,
        prediction: _Record,
        verdict: Verdict,
        weight: float,
        change: float,
        last_id: str,
    ) -> None:
        decimals = self._states[prediction.instrument_id].precision[1]
        self.recorder.decision(
            Decision(
                prediction.ts_init,
                prediction.instrument_id,
                prediction.prob_up,
                verdict.side,
                weight,
                verdict.reason,
                round(change, decimals) if last_id else 0.0,
                last_id,
            )
        )

    def _market(
        self,
        kind: OrderKind,
        prediction: _Record,
        side: Side,
        quantity: float,
        reason: str,
    ) -> str:
        name, ts = prediction.instrument_id, prediction.ts_init
        identity = order_id(self.settings.tag, kind, name, ts)
        row = OrderRow(identity, ts, name, side, quantity, reason, reduce_only=kind == "X")
        self._states[name].under_way.add(identity)
        self._submit(row)
        return identity

    def _submit(self, row: OrderRow) -> None:
        self.recorder.order(row)
        state = self._states[row.instrument_id]
        price_decimals, size_decimals = state.precision
        quantity = Quantity(row.quantity, size_decimals)
        side = OrderSide.BUY if row.side == BUY else OrderSide.SELL
        identity = ClientOrderId(row.client_order_id)
        if row.type == "STOP_MARKET":
            order = self.order_factory.stop_market(
                state.identity,
                side,
                quantity,
                Price(row.trigger_price, price_decimals),
                reduce_only=row.reduce_only,
                client_order_id=identity,
            )
        else:
            order = self.order_factory.market(
                state.identity,
                side,
                quantity,
                reduce_only=row.reduce_only,
                client_order_id=identity,
            )
        self._send(row, order)

    def _send(self, row: OrderRow, order: Any) -> None:
        """Submit an order, in a replay no earlier than it can meet a price."""
        ts = row.ts_init
        due: int | None = ts
        if self.settings.send_at is not None and row.type == "MARKET":
            due = self.settings.send_at(row.instrument_id, ts)
        if due is None:
            return
        if due <= ts:
            self.submit_order(order)
            return
        name = f"send-{due}-{row.instrument_id}"
        if name not in self._held_back:
            self._held_back[name] = []
            self.clock.set_time_alert_ns(name, due, self._send_held_back)
        self._held_back[name].append(order)

    @guarded
    def _send_held_back(self, event: Any) -> None:
        for order in self._held_back.pop(event.name):
            self.submit_order(order)

    def _settle(self) -> None:
        after = self.settings.settle_after_ns
        if after > 0:
            due = self.clock.timestamp_ns() + after
            self.clock.set_time_alert_ns(f"settle-{due}", due, nothing)

    def _status(self, event: Any, status: str, detail: str = "") -> None:
        order_id_ = event.client_order_id.value
        self.recorder.order_status(order_id_, status, detail)
        if status in FINAL_STATUSES:
            self._ended(order_id_)

    def _ended(self, order_id_: str) -> None:
        row = self.recorder.orders.get(order_id_)
        if row is not None and row.status in FINAL_STATUSES:
            self._states[row.instrument_id].under_way.discard(order_id_)
