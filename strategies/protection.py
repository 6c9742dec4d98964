"""What protects a position: stop and target are sent when it opens and taken back when it ends.

An order that protects only ever reduces. It is replaced rather than modified, because exchanges
do not modify stops: the new one is sent first, and the old one is taken back only once the new one
is accepted, so that a position is never naked. Where a replacement is refused, the old one stays
until the position is closed at the market.

A trailing stop is moved at the close of each bar of its instrument, before anything is decided at
that close. It follows the extremes of complete bars that began after the entry or with it. While
the exchange has not answered a stop no other is sent: what has moved since is sent with the answer.
So the many bars that are missed by a process that was away end in one or two stops and not in as
many as bars, all of them open at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from catalog.timestamps import NS_PER_SECOND
from strategies.execution import BUY, SELL, Side, stop_trigger
from strategies.exits_first import UNANSWERED
from strategies.market_data import price_number
from strategies.order_desk import ExitOrder, OrderDesk
from strategies.order_ids import OrderKind
from strategies.policy import REBALANCE, STOP_LOSS, STOP_REFUSED, TAKE_PROFIT, TRAILING_STOP
from strategies.recorder import FINAL_STATUSES, OrderRow, RunRecorder
from strategies.snapshots import ExitSnapshot, ExitsSnapshot, ProtectionSnapshot
from strategies.stops import (
    ExitRules,
    already_passed,
    best_price,
    target_trigger,
    tightened,
    trailing_trigger,
)


@dataclass(slots=True)
class _Exit:
    """One way out of a position: its orders, from the oldest that may still be alive on."""

    kind: OrderKind
    sent: list[str]
    trigger: float
    reason: str


@dataclass(slots=True)
class _Exits:
    """What protects one position.

    `side` is that of its exits, `best` the best price since the entry, `quantity` what the latest
    exits were sent for, `covered` what they cover: an exchange makes them smaller with their
    position, but not larger again.
    """

    side: Side
    stop_frac: float
    best: float
    ts_opened: int
    quantity: float
    covered: float
    stop: _Exit
    target: _Exit | None


class Protection:
    """Stops and targets of one strategy's positions.

    Parameters
    ----------
    rules : ExitRules or None
        Whether there are targets, and whether stops trail; None where there are no stops.
    desk : OrderDesk
        Where orders leave, and what is under way.
    recorder : RunRecorder
        Holds the ledger and the orders.
    """

    def __init__(self, rules: ExitRules | None, desk: OrderDesk, recorder: RunRecorder) -> None:
        self._payoff_ratio = None if rules is None else rules.payoff_ratio
        self._largest = math.nan if rules is None else rules.largest
        self._trails = rules is not None and rules.trailing
        self._desk = desk
        self._recorder = recorder
        self._exits: dict[str, _Exits] = {}
        self._named: dict[tuple[str, OrderKind], int] = {}

    def snapshot(self) -> ProtectionSnapshot:
        """Return what protects each position, and the names that are taken."""
        named = tuple((name, kind, ts) for (name, kind), ts in self._named.items())
        return ProtectionSnapshot({name: _copy(one) for name, one in self._exits.items()}, named)

    def restore(self, snapshot: ProtectionSnapshot) -> None:
        """Take over the exits of an earlier process; nothing is sent."""
        self._named = {(name, kind): ts for name, kind, ts in snapshot.named}
        self._exits = {name: _exits(one) for name, one in snapshot.exits.items()}

    def wanted(self) -> set[str]:
        """Return the orders that protect a position, or are replaced as soon as others do."""
        exits = (one for both in self._exits.values() for one in _both(both))
        return {order_id for one in exits for order_id in one.sent}

    def lost(self, order_id: str, ts: int) -> None:
        """Send an exit again, under a name of its own, that never reached the exchange."""
        one = self._exit_of(order_id)
        if one is None:
            return
        one.sent.remove(order_id)
        name = self._recorder.orders[order_id].instrument_id
        exits = self._exits[name]
        if self._recorder.ledger.quantity(name) * exits.side < 0.0:
            self._send(name, ts, exits, one, ts)

    def opened(self, name: str, ts: int) -> None:
        """Protect a new position as the decision that opened it asked for.

        One that no decision opened, such as one that is taken over from an account, has the widest
        stop of the rules.
        """
        state = self._desk.states[name]
        fraction, tick = state.stop_frac, state.terms.tick
        if math.isnan(fraction):
            fraction = self._largest
        if math.isnan(fraction):
            return
        position = self._recorder.ledger.positions[name]
        side, entry = SELL if position.quantity > 0.0 else BUY, position.average_open
        target = None
        if self._payoff_ratio is not None:
            price = target_trigger(side, entry, self._payoff_ratio * fraction, tick)
            target = _Exit("T", [], price, TAKE_PROFIT)
        held = abs(position.quantity)
        stop = _Exit("S", [], stop_trigger(side, entry, fraction, tick), STOP_LOSS)
        exits = _Exits(side, fraction, entry, ts, held, held, stop, target)
        self._exits[name] = exits
        for one in _both(exits):
            self._send(name, ts, exits, one, state.since)

    def resize(self, name: str, ts: int) -> None:
        """Cover what is held of an instrument now, at the same triggers.

        Nothing is done for a position that is gone, has no stop, or is covered already. `filled`
        calls it where it is needed.

        Parameters
        ----------
        name : str
            Instrument.
        ts : int
            Of the fill, UTC nanoseconds.
        """
        exits = self._exits.get(name)
        held = self._recorder.ledger.quantity(name)
        if exits is None or held * exits.side >= 0.0:
            return
        if abs(held) == exits.quantity == exits.covered:
            return
        for one in _both(exits):
            self._send(name, ts, exits, one, ts)

    def filled(self, row: OrderRow, ts: int) -> None:
        """Take note of a fill: cover a position that it made larger, or rebalanced.

        The exchange makes resting exits smaller with their position, so one that only shrinks
        stays covered.
        """
        name = row.instrument_id
        exits = self._exits.get(name)
        if exits is None:
            return
        exits.covered = min(exits.covered, abs(self._recorder.ledger.quantity(name)))
        if row.reason == REBALANCE or row.side != exits.side:
            self.resize(name, ts)

    def on_bar(self, name: str, bar: Any) -> None:
        """Let the stop follow a complete bar, before anything is decided at its close."""
        exits = self._exits.get(name)
        if exits is None or bar.ts_init <= exits.ts_opened:
            return
        if not exits.stop.sent:
            # It was refused while an exit was under way that has not closed all of it.
            self._leave(name, bar.ts_init, STOP_REFUSED)
        elif self._trails:
            self._trail(name, bar, exits)

    def accepted(self, order_id: str, ts: int) -> None:
        """Take back what an order that the exchange now has replaces; follow what moved since."""
        one = self._exit_of(order_id)
        if one is not None:
            place = one.sent.index(order_id)
            older, one.sent = one.sent[:place], one.sent[place:]
            self._take_back(older)
            self._catch_up(order_id, one, ts)

    def closed(self, name: str) -> None:
        """Take back what protected a position that something else closed."""
        exits = self._exits.pop(name, None)
        if exits is not None:
            for one in _both(exits):
                self._take_back(one.sent)

    def refused(self, order_id: str, ts: int) -> None:
        """Close the position at the market whose stop or target was refused."""
        one = self._exit_of(order_id)
        if one is None:
            return
        one.sent.remove(order_id)
        if one.sent:
            one.trigger = self._recorder.orders[one.sent[-1]].trigger_price
        name = self._recorder.orders[order_id].instrument_id
        self._leave(name, ts, STOP_REFUSED if one.kind == "S" else TAKE_PROFIT)

    def _exit_of(self, order_id: str) -> _Exit | None:
        """Return which way out an order is, None if it is none of a position that is held."""
        row = self._recorder.orders.get(order_id)
        exits = None if row is None else self._exits.get(row.instrument_id)
        if exits is None:
            return None
        return next((one for one in _both(exits) if order_id in one.sent), None)

    def _trail(self, name: str, bar: Any, exits: _Exits) -> None:
        high, low = price_number(bar.high), price_number(bar.low)
        exits.best = best_price(exits.side, exits.best, high, low)
        tick = self._desk.states[name].terms.tick
        moved = trailing_trigger(exits.side, exits.best, exits.stop_frac, tick)
        current = exits.stop.trigger
        if tightened(exits.side, current, moved) == current:
            return
        if already_passed(exits.side, moved, price_number(bar.close)):
            self._leave(name, bar.ts_init, TRAILING_STOP)
            return
        exits.stop.trigger, exits.stop.reason = moved, TRAILING_STOP
        if self._recorder.orders[exits.stop.sent[-1]].status not in UNANSWERED:
            self._send(name, bar.ts_init, exits, exits.stop, bar.ts_init)

    def _catch_up(self, order_id: str, one: _Exit, ts: int) -> None:
        """Send a stop whose trigger moved while the newest of its orders had no answer."""
        row = self._recorder.orders[order_id]
        if order_id == one.sent[-1] and row.trigger_price != one.trigger:
            name = row.instrument_id
            self._send(name, ts, self._exits[name], one, ts)

    def _leave(self, name: str, ts: int, reason: str) -> None:
        """Close a position at the market, unless a market order already does."""
        held = self._recorder.ledger.quantity(name)
        if held != 0.0 and not self._desk.is_leaving(name):
            self._desk.market("F", name, ts, -held, reason)

    def _send(self, name: str, ts: int, exits: _Exits, one: _Exit, named: int) -> None:
        """Send an exit for what is held; its identifier carries a time that no other has."""
        held = self._recorder.ledger.quantity(name)
        exits.quantity = exits.covered = abs(held)
        key = (name, one.kind)
        named = max(named, self._named.get(key, 0) + NS_PER_SECOND)
        self._named[key] = named
        order = ExitOrder(one.kind, name, ts, -held, one.trigger, one.reason, named)
        one.sent.append(self._desk.protect(order))

    def _take_back(self, order_ids: list[str]) -> None:
        for one in order_ids:
            if self._recorder.orders[one].status not in FINAL_STATUSES:
                self._desk.cancel(one)


def _both(exits: _Exits) -> Iterator[_Exit]:
    """Yield the stop, then the target where there is one."""
    yield exits.stop
    if exits.target is not None:
        yield exits.target


def _copy(exits: _Exits) -> ExitsSnapshot:
    def one(exit_: _Exit) -> ExitSnapshot:
        return ExitSnapshot(exit_.kind, tuple(exit_.sent), exit_.trigger, exit_.reason)

    return ExitsSnapshot(
        exits.side,
        exits.stop_frac,
        exits.best,
        exits.ts_opened,
        exits.quantity,
        exits.covered,
        one(exits.stop),
        None if exits.target is None else one(exits.target),
    )


def _exits(snapshot: ExitsSnapshot) -> _Exits:
    def one(exit_: ExitSnapshot) -> _Exit:
        return _Exit(exit_.kind, list(exit_.sent), exit_.trigger, exit_.reason)

    return _Exits(
        snapshot.side,
        snapshot.stop_frac,
        snapshot.best,
        snapshot.ts_opened,
        snapshot.quantity,
        snapshot.covered,
        one(snapshot.stop),
        None if snapshot.target is None else one(snapshot.target),
    )
