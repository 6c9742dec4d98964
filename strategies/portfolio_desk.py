"""What concerns all positions of a strategy together: joint Kelly sizes, and the rebalancing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from decimal import ROUND_FLOOR, Decimal
from typing import Any, NamedTuple, Self

from catalog.types import FusionPrediction
from strategies.execution import BUY, SELL, Side, exact_decimal
from strategies.guard_desk import GuardDesk
from strategies.intent import NO_COSTS, MarketView
from strategies.joint_kelly import Candidate, joint_weight
from strategies.order_desk import OrderDesk, StrategySettings
from strategies.policy import REBALANCE
from strategies.policy_config import FusionPolicy
from strategies.rebalance_orders import Trade
from strategies.rebalancing import Position, Rebalancer
from strategies.recorder import RunRecorder
from strategies.returns_window import ReturnsWindow
from strategies.sizing_config import SizingConfig
from strategies.snapshots import PortfolioSnapshot, SeenSnapshot

type _Record = Any
"""A `FusionPrediction`, whose decorator hides `ts_init` from the type checker."""


class _Seen(NamedTuple):
    """The latest prediction of an instrument, and the market at its time."""

    prediction: _Record
    market: MarketView


class PortfolioDesk:
    """One strategy's positions as a whole.

    Parameters
    ----------
    rebalancer : Rebalancer or None
        When and what to rebalance.
    joint : SizingConfig or None
        How positions are sized together; None where each is sized by itself.
    desk : OrderDesk
        What is held and under way, and where orders leave.
    recorder : RunRecorder
        Holds the ledger.
    """

    def __init__(
        self,
        rebalancer: Rebalancer | None,
        joint: SizingConfig | None,
        desk: OrderDesk,
        recorder: RunRecorder,
    ) -> None:
        self._rebalancer = rebalancer
        self._joint = joint
        self._desk = desk
        self._recorder = recorder
        self._window = (
            None if joint is None else ReturnsWindow(tuple(desk.states), joint.lookback_bars)
        )
        self._seen: dict[str, _Seen] = {}
        self._decided: set[str] = set()
        self._ts = 0

    @classmethod
    def of(
        cls,
        policy: FusionPolicy,
        settings: StrategySettings,
        desk: OrderDesk,
        recorder: RunRecorder,
    ) -> Self | None:
        """Return the desk that a policy needs; None where it sizes one by one and never again."""
        config, sizing = policy.rebalancing, policy.position_sizing
        joint = sizing if sizing is not None and sizing.method == "kelly_multi" else None
        if config is None and joint is None:
            return None
        rebalancer = None
        if config is not None:
            cost = settings.costs.round_trip_frac / 2.0
            names = tuple(desk.states)
            rebalancer = Rebalancer(config, sizing, names, settings.interval_ns, cost)
        return cls(rebalancer, joint, desk, recorder)

    def follow(self, before: PortfolioDesk) -> None:
        """Go on where the desk of another risk policy ended: with what it has seen."""
        self._seen, self._decided, self._ts = before._seen, before._decided, before._ts
        if self._window is not None and before._window is not None:
            self._window = before._window.resized(len(self._window))
        if self._rebalancer is not None and before._rebalancer is not None:
            self._rebalancer.follow(before._rebalancer)

    def snapshot(self) -> PortfolioSnapshot:
        """Return what has been seen and decided."""
        seen = {name: SeenSnapshot(_plain(one[0]), one[1]) for name, one in self._seen.items()}
        rebalancer = self._rebalancer
        window, last = (None, None) if rebalancer is None else rebalancer.snapshot()
        own = None if self._window is None else self._window.snapshot()
        return PortfolioSnapshot(self._ts, seen, tuple(sorted(self._decided)), own, window, last)

    def restore(self, snapshot: PortfolioSnapshot) -> None:
        """Go on where the desk of an earlier process ended."""
        self._ts, self._decided = snapshot.ts, set(snapshot.decided)
        self._seen = {
            name: _Seen(FusionPrediction(**one.prediction), one.market)
            for name, one in snapshot.seen.items()
        }
        if self._window is not None and snapshot.window is not None:
            self._window.restore(snapshot.window)
        if self._rebalancer is not None and snapshot.rebalance_window is not None:
            self._rebalancer.restore(snapshot.rebalance_window, snapshot.rebalanced_at)

    def clear(self) -> None:
        """Forget the returns."""
        for one in (self._window, self._rebalancer):
            if one is not None:
                one.clear()

    def show(self, closes: Mapping[str, float]) -> None:
        """Take the closes of a bar of before the start."""
        if self._window is not None:
            self._window.update(closes)
        if self._rebalancer is not None:
            self._rebalancer.show(closes)

    def watch(self, ts: int) -> None:
        """Take the closes of a time once all its bars are in, before it is decided upon."""
        if ts <= self._ts:
            return
        self._ts = ts
        self._decided.clear()
        marks, states = self._recorder.ledger.marks, self._desk.states
        closes = {name: marks[name] for name, one in states.items() if one.bar_ts == ts}
        if self._window is not None:
            self._window.update(closes)
        if self._rebalancer is not None:
            self._rebalancer.update(ts, closes)

    def weight(self, prediction: _Record, side: Side, market: MarketView, costs: Any) -> float:
        """Return the joint Kelly weight of an instrument beside what is held; NaN if unknown."""
        if self._joint is None or self._window is None:
            return math.nan
        name = prediction.instrument_id
        candidates = [
            Candidate(other, BUY if quantity > 0.0 else SELL, *self._seen[other], NO_COSTS)
            for other, quantity in self._desk.coming().items()
            if other != name and other in self._seen
        ]
        candidates.append(Candidate(name, side, prediction, market, costs))
        returns = self._window.complete([one.name for one in candidates])
        return joint_weight(self._joint, candidates, returns)

    def decided(self, prediction: _Record, market: MarketView, guard: GuardDesk | None) -> None:
        """Take note of a decision; with the last one of a time, rebalance if that is due."""
        name, ts = prediction.instrument_id, prediction.ts_init
        self._seen[name] = _Seen(prediction, market)
        self._decided.add(name)
        rebalancer = self._rebalancer
        if rebalancer is None or ts != self._ts or len(self._decided) < len(self._desk.states):
            return
        if rebalancer.is_due(ts):
            self._rebalance(rebalancer, ts, guard)

    def _rebalance(self, rebalancer: Rebalancer, ts: int, guard: GuardDesk | None) -> None:
        ledger, states = self._recorder.ledger, self._desk.states
        positions = []
        for name, one in ledger.positions.items():
            if states[name].under_way:
                continue
            side = BUY if one.quantity > 0.0 else SELL
            candidate = Candidate(name, side, *self._seen[name], NO_COSTS)
            price = ledger.marks[name]
            positions.append(Position(states[name].terms, one.quantity, price, candidate))
        found = rebalancer.plan(ts, ledger.equity(), positions)
        if found is None:
            return
        after = {move.instrument: move.after for move in found.moves}
        for trade in found.trades:
            if self._send(trade, ts, guard):
                states[trade.instrument].weight = after[trade.instrument]

    def _send(self, trade: Trade, ts: int, guard: GuardDesk | None) -> bool:
        """Send one trade, or what the risk guard leaves of it; return whether it was sent."""
        name, bound_by = trade.instrument, trade.reason
        quantity = trade.side * trade.quantity
        if not trade.reduce_only:
            room = self._room(name)
            if room < trade.quantity:
                quantity, bound_by = trade.side * room, "max_quantity"
        if quantity == 0.0:
            return False
        if guard is not None and not trade.reduce_only:
            price = self._recorder.ledger.marks[name]
            quantity, why = guard.allowed(name, ts, quantity, price)
            bound_by = why or bound_by
        if quantity == 0.0:
            return False
        self._desk.market(
            "R", name, ts, quantity, REBALANCE, bound_by=bound_by, reduce_only=trade.reduce_only
        )
        return True

    def _room(self, name: str) -> float:
        """Return how much a position may grow, base units: one order must be able to close it.

        An exchange that refuses an order above its largest would refuse the exit, and the stop.
        """
        terms, ledger = self._desk.states[name].terms, self._recorder.ledger
        if terms.max_quantity == 0:
            return math.inf
        free = terms.max_quantity - exact_decimal(abs(ledger.quantity(name)))
        steps = (max(free, Decimal(0)) / terms.step).to_integral_value(ROUND_FLOOR)
        found = steps * terms.step
        worth = found * exact_decimal(ledger.marks[name])
        too_small = found < terms.min_quantity or worth < terms.min_notional
        return 0.0 if too_small else float(found)


def _plain(prediction: _Record) -> dict[str, Any]:
    """Return a prediction's fields without those that are NaN, which is their default."""
    names = ("ts_event", "ts_init", *(one.name for one in fields(FusionPrediction)))
    found = {name: getattr(prediction, name) for name in names}
    return {name: value for name, value in found.items() if value == value}
