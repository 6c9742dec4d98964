"""The strategy: predictions in, orders out. The same class in replay, paper and live.

It decides by the stamps of data and never by the clock, takes its equity from its own ledger, and
waits until it has seen every bar of a time itself before it acts on that time's predictions, so
that the order in which the engine calls actor and strategy does not matter. Every order that adds
risk is shown to the risk guard first, where there is one.
"""

from __future__ import annotations

import math
from typing import Any, Self

from nautilus_trader.model import LiquiditySide, StrategyId
from nautilus_trader.trading import Strategy, StrategyConfig

from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_HOUR
from catalog.types import register_types
from strategies.callbacks import event_time, guarded
from strategies.guard import Guard
from strategies.guard_desk import GuardDesk
from strategies.intent import MarketView
from strategies.limit_desk import LimitDesk
from strategies.market_data import price_number
from strategies.order_desk import InstrumentState, Intent, OrderDesk, StrategySettings
from strategies.paid_fees import fee_told
from strategies.policy import (
    NEVER,
    REBALANCE,
    REOPENED,
    STOP_REASONS,
    DecidedBars,
    Held,
    Verdict,
    decide,
)
from strategies.policy_config import FusionPolicy
from strategies.portfolio_desk import PortfolioDesk
from strategies.position_sizer import NOTHING, PositionSizer, Wanted
from strategies.predictor_actor import PREDICTION_TYPE
from strategies.protection import Protection
from strategies.recorder import (
    FINAL_STATUSES,
    MAKER,
    TAKER,
    Decision,
    FillRow,
    OrderRow,
    RunRecorder,
)
from strategies.risk_policy import RiskPolicy

type _Record = Any
"""A `FusionPrediction`, whose decorator hides `ts_init` from the type checker."""

__all__ = ["FusionPolicy", "FusionStrategy", "StrategySettings"]

FUNDING_NS = 8 * NS_PER_HOUR
"""Between settlements of a perpetual on the reference venue."""
_REFUSED = ("REJECTED", "DENIED")


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
    guard : Guard, optional
        One that remembers an earlier process, with the policy's own `risk`; else a fresh one.
    """

    def __new__(
        cls,
        policy: FusionPolicy,
        settings: StrategySettings,
        recorder: RunRecorder,
        guard: Guard | None = None,
    ) -> Self:
        """Create the native part, whose own constructor refuses our arguments."""
        return super().__new__(cls)

    def __init__(
        self,
        policy: FusionPolicy,
        settings: StrategySettings,
        recorder: RunRecorder,
        guard: Guard | None = None,
    ) -> None:
        identity = StrategyId(f"FUSION-{settings.tag}")
        claimed = [one.id for one in settings.instruments] if settings.claims else None
        super().__init__(
            StrategyConfig(
                strategy_id=identity,
                order_id_tag=settings.tag,
                external_order_instrument_ids=claimed,
            )
        )
        register_types()
        self.policy = policy
        self.settings = settings
        self.recorder = recorder
        self.desk = OrderDesk(self, settings, recorder)
        self.protection = Protection(policy.exit_rules, self.desk, recorder)
        self.limits = LimitDesk(settings.limits, self.desk, recorder)
        self.guard = GuardDesk.of(policy.risk, self.desk, recorder, guard)
        self.portfolio_desk = PortfolioDesk.of(policy, settings, self.desk, recorder)
        self.sizer = PositionSizer(policy, settings.costs, self.desk, recorder, self.portfolio_desk)
        self._states = self.desk.states
        self._decided = DecidedBars(settings.interval_ns)
        self._interval_ns = settings.interval_ns
        self._count = len(self._states)
        self.newest: Any = None
        self._ts = 0
        self._seen = 0
        self._pending: list[_Record] = []
        self._due: list[tuple[str, float, int]] = []

    def adopt_risk(self, ts: int, risk: RiskPolicy) -> None:
        """Let another risk policy count from now on: its limits, and its sizing where that counts.

        Raises
        ------
        ConfigError
            If it does not fit the strategy; the old one stays.
        """
        self.adopt(ts, self.policy.with_risk(risk))

    def adopt(self, ts: int, policy: FusionPolicy) -> None:
        """Let another policy count from the next decision on; its stops must be those of before.

        Raises
        ------
        ConfigError
            If it does not fit the strategy; the old one stays.
        """
        if policy.exit_rules != self.policy.exit_rules:
            raise ConfigError(
                "stops of a running strategy must stay as they are, were changed: restart it"
            )
        portfolio_desk = PortfolioDesk.of(policy, self.settings, self.desk, self.recorder)
        if portfolio_desk is not None and self.portfolio_desk is not None:
            portfolio_desk.follow(self.portfolio_desk)
        if policy.risk is not None and policy.risk != self.policy.risk:
            assert self.guard is not None
            self.guard.adopt(ts, policy.risk)
        self.policy = policy
        self.sizer.adopt(policy)
        self.portfolio_desk = portfolio_desk

    @guarded
    def on_start(self) -> None:
        """Subscribe to bars, predictions and, where funding is booked, marks and settlements."""
        self.subscribe_data(PREDICTION_TYPE)
        if self.settings.fed:
            return
        for kind in self.desk.instrument_of:
            self.subscribe_bars(kind)
        if self.settings.books_funding:
            for state in self._states.values():
                self.subscribe_mark_prices(state.identity)
                self.subscribe_funding_rates(state.identity)

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
        self._mark(self.desk.instrument_of[bar.bar_type], bar)
        if ts > self._ts:
            self._ts, self._seen = ts, 0
        self._seen += 1
        if self._seen == self._count:
            self._complete(ts)

    def _complete(self, ts: int) -> None:
        """Decide at a time all of whose bars are in, on the predictions that waited for it."""
        if self._due:
            self._pay(ts)
        if self.guard is not None:
            self.guard.watch(ts)
        if self.portfolio_desk is not None:
            self.portfolio_desk.watch(ts)
        if self._pending:
            waiting, self._pending = self._pending, []
            for prediction in waiting:
                self._take(prediction)

    def _mark(self, name: str, bar: Any) -> None:
        self.recorder.ledger.mark(name, price_number(bar.close))
        state = self._states[name]
        state.bar_ts = bar.ts_init
        if self.sizer.moves_prices:
            state.volume = price_number(bar.volume)
        self.protection.on_bar(name, bar)
        self.limits.on_bar(name, bar.ts_init)

    @guarded
    def on_data(self, data: Any) -> None:
        """Decide on a prediction once every bar of its time has marked the ledger.

        A degraded prediction says that bars are missing: nothing is waited for.
        """
        prediction: _Record = data.data
        if prediction.instrument_id not in self._states:
            # Of an instrument that only helps to predict those which are traded.
            return
        self.recorder.received += 1
        complete = prediction.ts_init == self._ts and self._seen == self._count
        if complete or prediction.degraded:
            if self._due:
                self._pay(prediction.ts_init)
            self._take(prediction)
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
        if name in self._states:
            self._states[name].funding_rate = float(funding_rate.rate)
        self._due.append((name, float(funding_rate.rate), funding_rate.ts_event))

    @guarded
    def on_order_filled(self, event: Any) -> None:
        """Book a fill, after the settlements of earlier times."""
        self._pay(event.ts_event - 1)
        row = self.recorder.orders.get(event.client_order_id.value) or self.desk.adopt(event)
        maker = event.liquidity_side == LiquiditySide.MAKER
        fill = FillRow(
            ts_event=event.ts_event,
            client_order_id=row.client_order_id,
            instrument_id=row.instrument_id,
            side=row.side,
            quantity=price_number(event.last_qty),
            price=price_number(event.last_px),
            commission=fee_told(event, self.settings.costs.fees, maker=maker),
            reason=row.reason,
            liquidity=MAKER if maker else TAKER,
        )
        self._book(row, fill)

    def _book(self, row: OrderRow, fill: FillRow) -> None:
        """Take a fill into the books, and do what follows from it."""
        self.recorder.fill(fill)
        ts = fill.ts_event
        if row.reason in STOP_REASONS:
            bars = -(-ts // self._interval_ns)
            self._states[row.instrument_id].stopped_at = bars * self._interval_ns
        if self.guard is not None:
            self.guard.on_fill(ts, row.instrument_id, fill.quantity, fill.price)
        self.protection.filled(row, ts)
        self._ended(row.client_order_id)

    @guarded
    def on_order_accepted(self, event: Any) -> None:
        """Note that the exchange has the order."""
        self._status(event, "ACCEPTED")
        self.protection.accepted(event.client_order_id.value, event_time(event, self.newest))

    @guarded
    def on_order_submitted(self, event: Any) -> None:
        """Note that the order is on its way."""
        self._status(event, "SUBMITTED")

    @guarded
    def on_order_rejected(self, event: Any) -> None:
        """Note a refusal by the exchange, and why."""
        if event.due_post_only:
            self.limits.would_take(event.client_order_id.value)
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
        """Protect a new position by stop and target, if the policy has them.

        Where an order that was to enlarge one found it stopped at the same open, nobody has
        decided on the new one: it is left at once.
        """
        self._opened(str(event.instrument_id), event.ts_event, event.opening_order_id.value)

    def _opened(self, name: str, ts: int, order_id_: str) -> None:
        self.protection.opened(name, ts)
        if self.recorder.orders[order_id_].reason == REBALANCE:
            self.desk.market("F", name, ts, -self.recorder.ledger.quantity(name), REOPENED)

    @guarded
    def on_position_closed(self, event: Any) -> None:
        """Take back what protected a position that something else closed."""
        self._closed(str(event.instrument_id), event.ts_event)

    def _closed(self, name: str, ts: int) -> None:
        self.protection.closed(name)
        self.limits.closed(name, ts)
        if self.guard is not None:
            self.guard.on_closed(ts)

    @guarded
    def on_stop(self) -> None:
        """Book what is still due: no bar follows."""
        self._pay(max((ts for _, _, ts in self._due), default=0))

    def _pay(self, until: int) -> None:
        """Book the settlements stamped `until` or earlier."""
        while self._due and self._due[0][2] <= until:
            self._settle(*self._due.pop(0))

    def _settle(self, name: str, rate: float, ts: int) -> None:
        self.recorder.ledger.apply_funding(name, rate, ts)

    @guarded
    def on_held_back(self, event: Any) -> None:
        """Send what waited for the next open of its instrument."""
        self.desk.send_held_back(event.name)

    def _take(self, prediction: _Record) -> None:
        """Decide on a prediction, and with the last one of a time on all positions together."""
        market = self._market_view(prediction, self._states[prediction.instrument_id])
        self._decide(prediction, market)
        if self.portfolio_desk is not None:
            self.portfolio_desk.decided(prediction, market, self.guard)

    def _decide(self, prediction: _Record, market: MarketView) -> None:
        recorder = self.recorder
        name, ts = prediction.instrument_id, prediction.ts_init
        state = self._states[name]
        position = recorder.ledger.positions.get(name)
        held = 0.0 if position is None else position.quantity
        side = (held > 0.0) - (held < 0.0)
        if not self._decided.first(name, ts):
            recorder.unchanged(prediction, side, state.weight, "already_decided")
            return
        state.degraded_bars = state.degraded_bars + 1 if prediction.degraded else 0
        if self.guard is not None:
            self.guard.watch(ts)
        waiting = self.limits.entry_waiting(name)
        if state.under_way and waiting is None:
            recorder.unchanged(prediction, side, state.weight, "order_pending")
            return
        bars = (ts - state.since) // self._interval_ns if side else 0
        stopped = (ts - state.stopped_at) // self._interval_ns if state.stopped_at else NEVER
        verdict = self._verdict(prediction, Held(side, bars, stopped, state.degraded_bars), market)
        if waiting is not None:
            reason = self.limits.review(waiting, verdict.side, ts)
            recorder.unchanged(prediction, side, state.weight, reason)
        elif verdict.side == side:
            self._hold(prediction, verdict, market)
        else:
            self._change(prediction, verdict, held, market)

    def _verdict(self, prediction: _Record, held: Held, market: MarketView) -> Verdict:
        verdict = decide(self.policy, prediction, held, market, self.settings.costs)
        if self.sizer.moves_prices and verdict.side not in (0, held.side):
            # More cost only ever refuses an entry: the few that would be made are asked again.
            verdict = decide(self.policy, prediction, held, market, self.sizer.costs(market))
        return verdict

    def _hold(self, prediction: _Record, verdict: Verdict, market: MarketView) -> None:
        """Leave a position as it is, but for what a limit missed of it."""
        name, ts = prediction.instrument_id, prediction.ts_init
        state = self._states[name]
        if verdict.renew:
            state.since = ts
        weight = state.weight if verdict.side else 0.0
        sent, quantity = self.limits.held_on(name, ts, market.price, self.guard)
        if sent:
            self._record(prediction, verdict, weight, quantity, sent)
        else:
            self.recorder.unchanged(prediction, verdict.side, weight, verdict.reason)

    def _market_view(self, prediction: _Record, state: InstrumentState) -> MarketView:
        """Return the instrument at the close of the bar; its volume where sizes move prices."""
        price = self.recorder.ledger.marks.get(prediction.instrument_id, math.nan)
        ahead = math.nan
        if self.settings.books_funding:
            ts = prediction.ts_init
            ahead = (FUNDING_NS - ts % FUNDING_NS) / self._interval_ns
        return MarketView(price, prediction.volatility, state.volume, state.funding_rate, ahead)

    def _change(
        self, prediction: _Record, verdict: Verdict, held: float, market: MarketView
    ) -> None:
        """Order what turns the position into the one wanted, and record the decision."""
        name, ts = prediction.instrument_id, prediction.ts_init
        state = self._states[name]
        wanted = NOTHING
        if held != 0.0 and verdict.side != 0 and self.settings.limits is not None:
            # Two limits at one price might fill in any order: the other side comes after the exit.
            verdict = Verdict(0, "exit_opposite")
        if verdict.side != 0:
            wanted = self.sizer.wanted(prediction, verdict.side, market)
            why = "below_minimum"
            if wanted.quantity != 0.0 and self.guard is not None:
                wanted, why = self._guarded(wanted, name, ts, market.price)
            if wanted.quantity == 0.0:
                verdict = Verdict(0, "exit_opposite" if held else why)
        state.weight = verdict.side * wanted.fraction
        last_id = ""
        if held != 0.0:
            last_id = self.limits.send(Intent("X", name, ts, -held, market.price, verdict.reason))
        if wanted.quantity != 0.0:
            state.since, state.stop_frac = ts, wanted.stop_frac
            entry = Intent("E", name, ts, wanted.quantity, market.price, verdict.reason)
            last_id = self.limits.send(
                entry._replace(bound_by=wanted.bound_by, stop_frac=wanted.stop_frac)
            )
        self._record(prediction, verdict, state.weight, wanted.quantity - held, last_id)

    def _guarded(self, wanted: Wanted, name: str, ts: int, price: float) -> tuple[Wanted, str]:
        """Return what the risk guard leaves of an entry, and why if that is nothing."""
        assert self.guard is not None
        quantity, why = self.guard.allowed(name, ts, wanted.quantity, price)
        if quantity == wanted.quantity:
            return wanted, ""
        share = quantity / wanted.quantity
        return Wanted(quantity, share * wanted.fraction, why, wanted.stop_frac), "risk_guard"

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

    def _status(self, event: Any, status: str, detail: str = "") -> None:
        order_id_ = event.client_order_id.value
        self.recorder.order_status(order_id_, status, detail)
        if status in FINAL_STATUSES:
            self._ended(order_id_)
        if status in _REFUSED:
            self._refused(event, order_id_, detail)

    def _refused(self, event: Any, order_id_: str, detail: str) -> None:
        """Leave no position whose exit was refused; tell the guard of refused entries."""
        row, ts = self.recorder.orders.get(order_id_), event_time(event, self.newest)
        if row is None:
            return
        # A post-only order asks to be refused where it would take.
        asked = row.post_only and row.status == "REJECTED" and event.due_post_only
        if self.guard is not None and not row.reduce_only and not asked:
            self.guard.on_reject(ts, detail)
        self.protection.refused(order_id_, ts)

    def _ended(self, order_id_: str) -> None:
        row = self.recorder.orders.get(order_id_)
        if row is not None and row.status in FINAL_STATUSES:
            self.desk.ended(order_id_)
            self.limits.ended(row)
