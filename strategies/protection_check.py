"""Whether every position had the protection that its policy promises, worked out from bars alone.

The check walks each position from its entry on: what must have been sent, replaced and refused,
which order had to fill, when, for how much and at what price. A run that did anything else fails.
On the way it counts the bars that held both stop and target.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from catalog.timestamps import format_time
from strategies.execution import BUY, SELL, Side, stop_reference, stop_trigger, target_reference
from strategies.fill_rules import BarMarket, FillRules, Moments, described
from strategies.policy import (
    REBALANCE,
    STOP_LOSS,
    STOP_REFUSED,
    TAKE_PROFIT,
    TRAILING_STOP,
)
from strategies.recorder import EXIT_TYPES, MAKER, FillRow, OrderRow, RunRecorder
from strategies.stops import (
    AmbiguousBars,
    ExitRules,
    Levels,
    already_passed,
    ambiguous,
    best_price,
    target_trigger,
    tightened,
    trailing_trigger,
)

_NEVER = 1 << 62
_DECIMALS = 9
_LEAVING = (STOP_REFUSED, TRAILING_STOP, TAKE_PROFIT)
"""Reasons of market orders that protection sends."""
_STOP, _TARGET = EXIT_TYPES


class _Mistake(Exception):
    """What is wrong with a position, in words; the rest of it says nothing any more."""


@dataclass(slots=True)
class _Resting:
    """A stop or target at the exchange, alive from `arrival` until a cancel arrives at `gone`."""

    row: OrderRow
    arrival: int
    gone: int = _NEVER

    @property
    def rises(self) -> bool:
        """Whether it waits for a higher price."""
        return (self.row.side == BUY) == (self.row.type == _STOP)

    def alive(self, moment: int, ts: int) -> bool:
        """Return whether a moment can fill it: an open's quote meets what rested before it."""
        if moment % 2:
            return self.arrival <= ts < self.gone
        return self.arrival < ts <= self.gone

    def reached(self, high: float, low: float) -> bool:
        """Return whether a price range reaches it."""
        trigger = self.row.trigger_price
        return high >= trigger if self.rises else low <= trigger

    @property
    def place(self) -> tuple[bool, float]:
        """Its place among those that one bar reaches: the path is open, high, low, close."""
        trigger = self.row.trigger_price
        return (False, trigger) if self.rises else (True, -trigger)


class ProtectionCheck:
    """Walk all positions of a finished run.

    Parameters
    ----------
    recorder : RunRecorder
        Of a finished run.
    rules : FillRules
        What its fills must follow.
    market : BarMarket
        The bars of `rules`.

    Attributes
    ----------
    faults : tuple of str
        Positions whose protection was another than promised, and orders that protect none.
    refused : set of str
        Client order ids of the stops and targets that the exchange had to refuse.
    ambiguous : AmbiguousBars
        The exits in bars that held both stop and target.
    """

    def __init__(self, recorder: RunRecorder, rules: FillRules, market: BarMarket) -> None:
        self.recorder, self.rules, self.market = recorder, rules, market
        self.refused: set[str] = set()
        self.ambiguous = AmbiguousBars()
        self._sent: dict[str, list[OrderRow]] = defaultdict(list)
        self._market_exits: dict[str, list[OrderRow]] = defaultdict(list)
        for row in recorder.orders.values():
            if row.type == "MARKET" and row.reduce_only:
                self._market_exits[row.instrument_id].append(row)
            if row.type in EXIT_TYPES or row.reason in _LEAVING:
                self._sent[row.instrument_id].append(row)
        fills: dict[str, list[FillRow]] = defaultdict(list)
        for fill in recorder.fills:
            fills[fill.instrument_id].append(fill)
        found = [text for name in fills for text in self._faults(name, fills[name])]
        found += [
            f"{_kind(row)} {row.client_order_id} belongs to no position"
            for rows in self._sent.values()
            for row in rows
        ]
        self.faults = tuple(found)

    def take(self, wanted: OrderRow) -> OrderRow:
        """Return the order that was sent as `wanted`, each only once.

        Raises
        ------
        _Mistake
            If there is none, or it was another.
        """
        rows = self._sent[wanted.instrument_id]
        key = (wanted.ts_init, wanted.type, wanted.reason)
        place = next(
            (i for i, row in enumerate(rows) if (row.ts_init, row.type, row.reason) == key), None
        )
        when = format_time(wanted.ts_init)
        if place is None:
            raise _Mistake(
                f"must have a {_kind(wanted)} ({wanted.reason}) sent at {when}, had none"
            )
        row = rows.pop(place)
        if _terms(row) != _terms(wanted):
            raise _Mistake(
                f"needs the {_kind(wanted)} {row.client_order_id} of {when}, which must cover it "
                f"{_worded(wanted)}, was {_worded(row)}"
            )
        return row

    def leaving(self, name: str, ts: int, own: set[str]) -> bool:
        """Return whether a market order that only reduces was under way when `ts` came."""
        for row in self._market_exits[name]:
            if row.ts_init < ts or row.client_order_id in own:
                met = self.market.next_open(row)
                if met is None or met[0] >= ts:
                    return True
        return False

    def _faults(self, name: str, fills: list[FillRow]) -> Iterator[str]:
        fraction = math.nan
        for part in _positions(fills):
            asked = self.recorder.orders[part[0].client_order_id].stop_frac
            fraction = fraction if math.isnan(asked) else asked
            if self.rules.exits is None:
                continue
            walk = _Walk(self, self.rules.exits, part, fraction)
            try:
                walk.run()
            except _Mistake as mistake:
                yield f"{walk} {mistake}"
                # What else it had is no news.
                self._sent[name] = [row for row in self._sent[name] if row.ts_init >= walk.ts_last]


class _Walk:
    """One position, from its entry to its end or that of the data."""

    def __init__(
        self, check: ProtectionCheck, rules: ExitRules, fills: list[FillRow], fraction: float
    ) -> None:
        first = fills[0]
        self.check, self.rules, self.fills, self.fraction = check, rules, fills, fraction
        self.name, self.ts_opened, self.entry = first.instrument_id, first.ts_event, first.price
        self.exit_side: Side = SELL if first.side == BUY else BUY
        self.ts_last = fills[-1].ts_event
        self.held = first.quantity
        self.average = self.best = first.price
        self.latency = check.rules.execution.latency_ns
        self.tick = check.rules.terms[self.name].tick
        self.moments: Moments = check.market.moments[self.name]
        self.next = self.moments.at_or_before(self.ts_opened) + 1
        self.sent_for = self.covered = 0.0
        self.resting: list[_Resting] = []
        self.latest: dict[str, OrderRow | None] = {_STOP: None, _TARGET: None}
        self.trigger: dict[str, float] = {}
        self.reason = {_STOP: STOP_LOSS, _TARGET: TAKE_PROFIT}
        self.pending: list[tuple[int, OrderRow]] = []
        self.own: set[str] = set()

    def __str__(self) -> str:
        kind = "long" if self.exit_side == SELL else "short"
        return (
            f"{kind} of {self.fills[0].quantity:g} {self.name} opened at "
            f"{format_time(self.ts_opened)} for {self.entry:g}"
        )

    def run(self) -> None:
        """Follow the position to its end.

        Raises
        ------
        _Mistake
            At the first thing that is not as it must be.
        """
        rules = self.rules
        if not rules.least <= self.fraction <= rules.largest:
            self.ts_last = max(self.ts_last, self.ts_opened)
            raise _Mistake(
                f"must have an entry that asks for a stop between {rules.least:g} and "
                f"{rules.largest:g} of its price away, asked for {self.fraction:g}"
            )
        self.trigger[_STOP] = stop_trigger(self.exit_side, self.entry, self.fraction, self.tick)
        if rules.payoff_ratio is not None:
            distance = rules.payoff_ratio * self.fraction
            self.trigger[_TARGET] = target_trigger(self.exit_side, self.entry, distance, self.tick)
        self._send_all(self.ts_opened)
        for fill in self.fills[1:]:
            row = self.check.recorder.orders[fill.client_order_id]
            if row.type in EXIT_TYPES:
                self._exited(fill, row)
            else:
                self._changed(fill, row)
        if self.held == 0.0:
            self._refuse_late(self.fills[-1])
        else:
            self.ts_last = _NEVER
            self._nothing_until(len(self.moments.times) - 1, "was still held")

    # ---- what others fill

    def _changed(self, fill: FillRow, row: OrderRow) -> None:
        """Take a fill of an order that is no exit: by then, none may have been reached."""
        last = self.moments.at_or_before(fill.ts_event)
        # At an open the exits come first; where an order rests too, the path decides, not we.
        rested = fill.liquidity == MAKER
        if rested and self.moments.times[last] == fill.ts_event:
            last -= 1
        when = format_time(fill.ts_event)
        self._nothing_until(last, f"{row.client_order_id} ({row.reason}) filled at {when}")
        if rested:
            self._refuse_due(fill.ts_event - 1)
        self._book(fill)
        resizes = row.reason == REBALANCE or fill.side != self.exit_side
        if self.held > 0.0 and resizes and not self.held == self.sent_for == self.covered:
            self._send_all(fill.ts_event)

    def _book(self, fill: FillRow) -> None:
        if fill.side == self.exit_side:
            self.held = round(self.held - fill.quantity, _DECIMALS)
        else:
            total = self.held * self.average + fill.quantity * fill.price
            self.held = round(self.held + fill.quantity, _DECIMALS)
            self.average = total / self.held
        self.covered = min(self.covered, self.held)

    def _nothing_until(self, last: int, but: str) -> None:
        hit = self._walk(last)
        if hit is not None:
            one, moment = hit
            raise _Mistake(
                f"reached its trigger {one.row.trigger_price} {self.moments.told(moment)}, where "
                f"its {_kind(one.row)} {one.row.client_order_id} must fill, but {but}"
            )

    # ---- what its exits fill

    def _exited(self, fill: FillRow, row: OrderRow) -> None:
        """Take a fill of an exit: it must be the next one that the bars reach."""
        hit = self._walk(self.moments.at_or_before(fill.ts_event))
        when = format_time(fill.ts_event)
        if hit is None:
            raise _Mistake(
                f"never reached its trigger {row.trigger_price}, but {_kind(row)} "
                f"{row.client_order_id} filled at {when}"
            )
        one, moment = hit
        if one.row is not row or self.moments.times[moment] != fill.ts_event:
            raise _Mistake(
                f"reached its trigger {one.row.trigger_price} {self.moments.told(moment)}, where "
                f"its {_kind(one.row)} {one.row.client_order_id} must fill, but "
                f"{row.client_order_id} filled at {when}"
            )
        # What rests to reduce a position grows and shrinks with it.
        quantity = self.held
        reference = self._reference(one, moment)
        wanted = (quantity, self._price(one, moment), reference)
        noted = self.check.recorder.references.get(row.client_order_id, math.nan)
        if (fill.quantity, fill.price, noted) != wanted:
            raise _Mistake(
                f"has the {_kind(row)} {row.client_order_id}, which must fill for {wanted[1]} "
                f"({reference} with slippage) with {quantity:g}, filled for {fill.price} (from "
                f"{noted}) with {fill.quantity:g}"
            )
        self._count(one, moment, fill)
        self.resting.remove(one)
        self._book(fill)

    def _reference(self, one: _Resting, moment: int) -> float:
        find = stop_reference if one.row.type == _STOP else target_reference
        open_price = float(self.moments.price[moment // 2])
        return find(self.exit_side, one.row.trigger_price, open_price)

    def _price(self, one: _Resting, moment: int) -> float:
        reference, ts = self._reference(one, moment), int(self.moments.times[moment])
        return self.check.market.slipped(one.row, self.held, reference, ts)

    def _count(self, one: _Resting, moment: int, fill: FillRow) -> None:
        """Count an exit in a bar that held the other one, too."""
        others = [
            other
            for other in self.resting
            if other.row.type != one.row.type
            and other.alive(moment, int(self.moments.times[moment]))
        ]
        if moment % 2 == 0 or not others:
            return
        prices = {each.row.type: each.row.trigger_price for each in (one, others[-1])}
        levels = Levels(prices[_STOP], prices[_TARGET])
        if ambiguous(self.exit_side, levels, self.moments.bar_at(moment)):
            signed = -self.exit_side * fill.quantity
            self.check.ambiguous = self.check.ambiguous.add(
                signed, self.average, fill.price, self._price(others[-1], moment)
            )

    # ---- what is sent

    def _send_all(self, ts: int) -> None:
        for kind in self.trigger:
            self._send(kind, ts)

    def _send(self, kind: str, ts: int) -> None:
        """Expect a stop or target for what is held; it replaces those before it."""
        self.sent_for = self.covered = self.held
        wanted = OrderRow("", ts, self.name, self.exit_side, self.held, self.reason[kind])
        wanted.type, wanted.trigger_price, wanted.reduce_only = kind, self.trigger[kind], True
        row = self.check.take(wanted)
        arrival = ts + self.latency
        price = self.moments.last_price(self.moments.at_or_before(arrival))
        one = _Resting(row, arrival)
        if one.reached(price, price):
            self.pending.append((arrival, row))
            return
        for older in self.resting:
            if older.row.type == kind:
                older.gone = min(older.gone, arrival + self.latency)
        self.resting.append(one)
        self.latest[kind] = row

    def _leave(self, ts: int, reason: str) -> None:
        """Expect a market order for all that is held, unless one is under way."""
        if not self.check.leaving(self.name, ts, self.own):
            wanted = OrderRow("", ts, self.name, self.exit_side, self.held, reason)
            wanted.reduce_only = True
            self.own.add(self.check.take(wanted).client_order_id)

    # ---- what the market does

    def _walk(self, last: int) -> tuple[_Resting, int] | None:
        """Go on to the first moment up to `last` that reaches an exit."""
        while self.next <= last:
            if self._is_calm():
                hit = self._leap(last)
            else:
                self._refuse_due(int(self.moments.times[self.next]) - 1)
                hit = self._hit(self.next)
                if hit is None:
                    self._after(self.next)
                    self.next += 1
            if hit is not None:
                return hit, self.next
        return None

    def _is_calm(self) -> bool:
        """Return whether nothing but the market can change anything from here on."""
        if self.rules.trailing or self.pending or self.latest[_STOP] is None:
            return False
        ts = int(self.moments.times[self.next])
        return all(one.arrival < ts and one.gone == _NEVER for one in self.resting)

    def _leap(self, last: int) -> _Resting | None:
        """Go to the first moment that reaches an exit, or beyond `last`."""
        first = self.next
        self.next = last + 1
        for one in self.resting:
            way = BUY if one.rises else SELL
            reach = self.moments.first_reach(way, one.row.trigger_price, first, last)
            if reach is not None:
                self.next = min(self.next, reach)
        return self._hit(self.next) if self.next <= last else None

    def _hit(self, moment: int) -> _Resting | None:
        """Return the exit that a moment reaches first."""
        ts = int(self.moments.times[moment])
        high, low = self.moments.range_at(moment)
        found = [one for one in self.resting if one.alive(moment, ts) and one.reached(high, low)]
        return min(found, key=lambda one: one.place, default=None)

    def _after(self, moment: int) -> None:
        """Do what follows a moment that reached nothing: refusals at opens, trailing at closes."""
        ts = int(self.moments.times[moment])
        self._refuse_due(ts)
        if moment % 2 == 0:
            return
        if self.latest[_STOP] is None:
            self._leave(ts, STOP_REFUSED)
        elif self.rules.trailing:
            self._trail(moment, ts)

    def _refuse_due(self, until: int) -> None:
        """Expect the refusals of what arrived by a time, and what follows from them."""
        for arrival, row in [one for one in self.pending if one[0] <= until]:
            self.pending.remove((arrival, row))
            self._refused(row)
            before = self.latest[row.type]
            if before is not None:
                self.trigger[row.type] = before.trigger_price
            self._leave(arrival, STOP_REFUSED if row.type == _STOP else TAKE_PROFIT)

    def _trail(self, moment: int, ts: int) -> None:
        bar = self.moments.bar_at(moment)
        self.best = best_price(self.exit_side, self.best, bar.high, bar.low)
        moved = trailing_trigger(self.exit_side, self.best, self.fraction, self.tick)
        current = self.trigger[_STOP]
        if tightened(self.exit_side, current, moved) == current:
            return
        if already_passed(self.exit_side, moved, bar.close):
            self._leave(ts, TRAILING_STOP)
            return
        self.trigger[_STOP], self.reason[_STOP] = moved, TRAILING_STOP
        self._send(_STOP, ts)

    # ---- what is refused

    def _refused(self, row: OrderRow) -> None:
        """Expect that the exchange refused an exit."""
        self.check.refused.add(row.client_order_id)
        if row.status != "REJECTED":
            raise _Mistake(
                f"must have its {_kind(row)} {described(row)} refused, because the market had "
                f"passed it, but it was {row.status}"
            )

    def _refuse_late(self, last: FillRow) -> None:
        """Expect refusals of what arrived after the position was gone."""
        by_exit = self.check.recorder.orders[last.client_order_id].type in EXIT_TYPES
        rested = by_exit or last.liquidity == MAKER
        for row in [*(one.row for one in self.resting), *(row for _, row in self.pending)]:
            arrival = row.ts_init + self.latency
            if arrival > last.ts_event or (rested and arrival == last.ts_event):
                self.check.refused.add(row.client_order_id)


def _positions(fills: list[FillRow]) -> Iterator[list[FillRow]]:
    """Yield the fills of each position, from flat to flat or to the end.

    A fill that turns a position round ends one and begins another.
    """
    held, part = 0.0, []
    for fill in fills:
        before, held = held, round(held + fill.side * fill.quantity, _DECIMALS)
        turned = before * held < 0.0
        part.append(fill._replace(quantity=abs(before)) if turned else fill)
        if held == 0.0 or turned:
            yield part
            part = [fill._replace(quantity=abs(held))] if turned else []
    if part:
        yield part


def _kind(row: OrderRow) -> str:
    return {_STOP: "stop", _TARGET: "target"}.get(row.type, "market exit")


def _terms(row: OrderRow) -> tuple[int, float, float, bool]:
    return row.side, row.quantity, row.trigger_price, row.reduce_only


def _worded(row: OrderRow) -> str:
    at = f"at {row.trigger_price} " if row.type in EXIT_TYPES else ""
    return f"{at}with {row.side * row.quantity:g}"
