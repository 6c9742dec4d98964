"""The risk guard at the strategy's side: tells it what happens, asks it, does what it says.

What the strategy tells it happens at the stamps of data, so a replay and a live node take the same
decisions. What only a live process can see (a kill-switch file, data that stay away, prices between
two closes) comes from the actor `strategies.risk_guard`, which shares this desk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_SECOND, format_time
from strategies.correlation import GroupFinder
from strategies.execution import BUY, SELL
from strategies.guard import Guard
from strategies.guard_orders import Allowed, EntryGate, OrderIntent, Refused
from strategies.guard_state import FlattenAll, Hold
from strategies.order_desk import OrderDesk
from strategies.policy import RISK_GUARD
from strategies.recorder import RunRecorder
from strategies.risk_policy import RiskPolicy
from strategies.snapshots import GuardSnapshot

_COUNTED = (
    "ts",
    "day",
    "start_day",
    "equity",
    "day_start_equity",
    "peak_equity",
    "daily_loss_day",
    "consecutive_losses",
)


class Mark(NamedTuple):
    """The latest price of an instrument, quote units, and since when it is known (UTC ns)."""

    price: float
    ts: int


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

    Attributes
    ----------
    gate : EntryGate or None
        Limits over all engines of an account; None where there is one only, as in a replay.
    on_news : callable or None
        Called when the guard had something to say, such as a new hold, before anything follows
        from it: for whoever stores its state. It must not hold the strategy.
    """

    def __init__(self, guard: Guard, desk: OrderDesk, recorder: RunRecorder) -> None:
        self.guard = guard
        self._desk = desk
        self._recorder = recorder
        found = guard.policy.found_groups
        self._finder = None if found is None else GroupFinder(tuple(desk.states), found)
        self._ts = 0
        self.gate: EntryGate | None = None
        self.on_news: Callable[[], None] | None = None
        self._looked: int | None = None
        self._look_within_ns = 0
        self._shown: dict[str, int] = {}

    @classmethod
    def of(
        cls,
        policy: RiskPolicy | None,
        desk: OrderDesk,
        recorder: RunRecorder,
        guard: Guard | None = None,
    ) -> Self | None:
        """Return the desk of a guard, or of a fresh one with a policy; None without a policy.

        Raises
        ------
        ConfigError
            If the guard keeps another policy.
        """
        if guard is not None and guard.policy != policy:
            raise ConfigError(
                "a strategy's guard must keep the strategy's own risk policy, kept another: build "
                "it with the policy of the profile"
            )
        return None if policy is None else cls(guard or Guard(policy), desk, recorder)

    def snapshot(self) -> GuardSnapshot:
        """Return what the guard counts, and what is known of data and groups."""
        state, finder = self.guard.state, self._finder
        counted = {name: getattr(state, name) for name in _COUNTED}
        return GuardSnapshot(
            **counted,
            rejections=tuple(state.rejections),
            orders=tuple(state.orders),
            holds=tuple((one.reason, one.ts, one.detail) for one in state.holds.values()),
            desk_ts=self._ts,
            data=self.guard.newest_data,
            groups=None if finder is None else finder.snapshot(self.guard.found_groups),
        )

    def restore(self, snapshot: GuardSnapshot) -> None:
        """Go on where an earlier process ended.

        What the guard's own file knows of later times, such as a release, counts more.
        """
        state = self.guard.state
        if snapshot.ts >= state.ts:
            for name in _COUNTED:
                setattr(state, name, getattr(snapshot, name))
            state.rejections, state.orders = list(snapshot.rejections), list(snapshot.orders)
            state.holds = {one[0]: Hold(*one) for one in snapshot.holds} | state.holds
        self._ts = snapshot.desk_ts
        self.guard.remember_data(snapshot.data)
        if self._finder is not None and snapshot.groups is not None:
            self._finder.restore(snapshot.groups)
            self.guard.set_found_groups(frozenset(one) for one in snapshot.groups.found)

    def clear(self) -> None:
        """Forget the returns that groups are found from."""
        if self._finder is not None:
            self._finder.clear()

    def show(self, ts: int, closes: Mapping[str, float]) -> None:
        """Take the closes of a bar, also one of before the start, for the groups."""
        groups = None if self._finder is None else self._finder.update(ts, closes)
        if groups is not None:
            self.guard.set_found_groups(groups)

    def watch(self, ts: int) -> None:
        """Mark the account once a bar, when all its bars are in, and do what the guard says."""
        if ts <= self._ts:
            return
        self._ts = ts
        self._require_looks(ts)
        ledger, guard = self._recorder.ledger, self.guard
        states = self._desk.states
        fresh = {name: ledger.marks[name] for name, one in states.items() if one.bar_ts == ts}
        now = self._known_by(ts)
        guard.on_clock(now)
        for name, price in fresh.items():
            guard.on_data(now, name, price)
        guard.on_equity(now, ledger.equity())
        guard.on_positions(now, len(ledger.positions), self._desk.under_way())
        self.show(ts, fresh)
        self._hold()
        self.act(ts)

    def _known_by(self, ts: int) -> int:
        """Return when something stamped `ts` is known: now, where somebody looks at the clock.

        A bar that is handed on late is no clock that goes back.
        """
        return ts if self._looked is None else max(ts, self.guard.state.ts)

    def expect_looks(self, ts: int, within_ns: int) -> None:
        """Say that somebody looks from now on; without a look for so long trading ends."""
        self._looked, self._look_within_ns = ts, within_ns

    def look(self, ts: int, marks: Mapping[str, Mark]) -> None:
        """Mark the account between two closes, and do what the guard says.

        Parameters
        ----------
        ts : int
            Now, UTC nanoseconds.
        marks : mapping of str to Mark
            The latest prices by instrument; the close of a later bar counts more.
        """
        self._looked = ts
        ledger, guard, states = self._recorder.ledger, self.guard, self._desk.states
        for name, (price, seen) in marks.items():
            # What was there at the last look is no news.
            if seen > self._shown.get(name, -1):
                self._shown[name] = seen
                guard.on_data(ts, name, price)
        guard.on_clock(ts)
        newer = {name: one.price for name, one in marks.items() if one.ts >= states[name].bar_ts}
        guard.on_equity(ts, ledger.equity_at({**ledger.marks, **newer}))
        guard.on_positions(ts, len(ledger.positions), self._desk.under_way())
        if self._ts:
            # Before the first bar it is not known yet what a process before this one has left.
            self._hold()
        self.act(ts)

    def act(self, ts: int) -> None:
        """Do what the guard says.

        A market order that has left cannot be taken back; what it opens is flattened next. Stops
        stay until their position is closed.
        """
        flatten = any(isinstance(one, FlattenAll) for one in self.guard.actions(ts))
        self.tell()
        if not flatten:
            return
        self._desk.take_back_entries(ts)
        for name, position in list(self._recorder.ledger.positions.items()):
            # A second may hold one forced exit; the next request for a flattening sends another.
            if self._desk.make_way(name, ts) and not self._desk.has_sent("F", name, ts):
                self._desk.market("F", name, ts, -position.quantity, RISK_GUARD)

    def tell(self) -> None:
        """Take down what the guard has to say, and have its state stored."""
        news = self.guard.news()
        if news:
            self._recorder.guard_events.extend(news)
            if self.on_news is not None:
                self.on_news()

    def adopt(self, ts: int, policy: RiskPolicy) -> None:
        """Let another policy count from now on, the groups that it wants found included."""
        before = self.guard.policy.found_groups
        self.guard.adopt(ts, policy)
        found = policy.found_groups
        if found is None:
            self._finder = None
            self.guard.set_found_groups(())
        elif self._finder is None:
            self._finder = GroupFinder(tuple(self._desk.states), found)
        elif found != before:
            self._finder = self._finder.changed(found)
        self.tell()

    def _hold(self) -> None:
        if self.gate is not None:
            self.gate.hold(self._desk.book().occupied())

    def _require_looks(self, ts: int) -> None:
        """End trading where whoever was to look does not: files and clocks are unseen then."""
        if self._looked is not None and ts - self._looked > self._look_within_ns:
            self.guard.fail(
                ts,
                f"the risk guard must look every {self._look_within_ns / NS_PER_SECOND:g} s, last "
                f"did {(ts - self._looked) / NS_PER_SECOND:.0f} s before {format_time(ts)}",
            )

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
        self._require_looks(ts)
        ruling = self.guard.check(intent, self._desk.book())
        self.tell()
        if isinstance(ruling, Refused):
            return 0.0, ruling.why
        refused = None if self.gate is None else self.gate.admit(self.guard.policy, intent)
        if refused is not None:
            return 0.0, refused.why
        if isinstance(ruling, Allowed):
            return quantity, ""
        return (ruling.quantity if quantity > 0.0 else -ruling.quantity), ruling.why

    def on_fill(self, ts: int, instrument_id: str, quantity: float, price: float) -> None:
        """Take note of a fill."""
        self.guard.on_fill(self._known_by(ts), instrument_id, quantity, price)

    def on_closed(self, ts: int) -> None:
        """Take note of the position that was closed last, and its result after costs."""
        now, row = self._known_by(ts), self._recorder.ledger.closed[-1]
        self.guard.on_closed(now, row.realized_pnl - row.commission + row.funding)
        self.guard.on_positions(now, len(self._recorder.ledger.positions), self._desk.under_way())

    def on_reject(self, ts: int, why: str) -> None:
        """Take note of an entry that the exchange refused."""
        self.guard.on_reject(self._known_by(ts), why)
