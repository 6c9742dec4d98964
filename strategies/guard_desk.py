"""The risk guard at the strategy's side: tells it what happens, asks it, does what it says.

All of it happens at the stamps of data, so a replay and a live node take the same decisions. What
only a live process can see (a kill-switch file, data that stay away) is told by whoever sees it,
through `GuardDesk.guard`.
"""

from __future__ import annotations

from typing import Self

from strategies.correlation import GroupFinder
from strategies.execution import BUY, SELL
from strategies.guard import Guard
from strategies.guard_orders import Allowed, OrderIntent, Refused
from strategies.guard_state import FlattenAll
from strategies.order_desk import OrderDesk
from strategies.policy import RISK_GUARD
from strategies.recorder import RunRecorder
from strategies.risk_policy import RiskPolicy


class GuardDesk:
    """One strategy's guard.

    Parameters
    ----------
    guard : Guard
        Who decides.
    desk : OrderDesk
        What is held and under way, and where orders leave.
    recorder : RunRecorder
        Holds the ledger, and takes the guard's events down.
    """

    def __init__(self, guard: Guard, desk: OrderDesk, recorder: RunRecorder) -> None:
        self.guard = guard
        self._desk = desk
        self._recorder = recorder
        found = guard.policy.found_groups
        self._finder = None if found is None else GroupFinder(tuple(desk.states), found)
        self._ts = 0

    @classmethod
    def of(cls, policy: RiskPolicy | None, desk: OrderDesk, recorder: RunRecorder) -> Self | None:
        """Return a guard with a policy; None without one."""
        return None if policy is None else cls(Guard(policy), desk, recorder)

    def watch(self, ts: int) -> None:
        """Mark the account once a bar, when all its bars are in, and do what the guard says."""
        if ts <= self._ts:
            return
        self._ts = ts
        ledger, guard = self._recorder.ledger, self.guard
        states = self._desk.states
        fresh = {name: ledger.marks[name] for name, one in states.items() if one.bar_ts == ts}
        guard.on_clock(ts)
        for name, price in fresh.items():
            guard.on_data(ts, name, price)
        guard.on_equity(ts, ledger.equity())
        guard.on_positions(ts, len(ledger.positions), self._desk.under_way())
        if self._finder is not None:
            groups = self._finder.update(ts, fresh)
            if groups is not None:
                guard.set_found_groups(groups)
        self.act(ts)

    def act(self, ts: int) -> None:
        """Do what the guard says.

        A market order that has left cannot be taken back; what it opens is flattened next. Stops
        stay until their position is closed.
        """
        if any(isinstance(one, FlattenAll) for one in self.guard.actions(ts)):
            self._desk.drop_held_back()
            for name, position in list(self._recorder.ledger.positions.items()):
                if not self._desk.states[name].under_way:
                    self._desk.market("F", name, ts, -position.quantity, RISK_GUARD)
        self._recorder.guard_events.extend(self.guard.news())

    def allowed(
        self, instrument_id: str, ts: int, quantity: float, price: float
    ) -> tuple[float, str]:
        """Return how much of an entry may leave (signed), and what made it less."""
        intent = OrderIntent(
            ts,
            instrument_id,
            BUY if quantity > 0.0 else SELL,
            abs(quantity),
            price,
            self._desk.states[instrument_id].terms,
        )
        ruling = self.guard.check(intent, self._desk.book())
        self._recorder.guard_events.extend(self.guard.news())
        if isinstance(ruling, Allowed):
            return quantity, ""
        if isinstance(ruling, Refused):
            return 0.0, ruling.why
        return (ruling.quantity if quantity > 0.0 else -ruling.quantity), ruling.why

    def on_fill(self, ts: int, instrument_id: str, quantity: float, price: float) -> None:
        """Take note of a fill."""
        self.guard.on_fill(ts, instrument_id, quantity, price)

    def on_closed(self, ts: int) -> None:
        """Take note of the position that was closed last, and its result after costs."""
        row = self._recorder.ledger.closed[-1]
        self.guard.on_closed(ts, row.realized_pnl - row.commission + row.funding)
        self.guard.on_positions(ts, len(self._recorder.ledger.positions), self._desk.under_way())

    def on_reject(self, ts: int, why: str) -> None:
        """Take note of an entry that the exchange refused."""
        self.guard.on_reject(ts, why)
