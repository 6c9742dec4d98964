"""Whether every fill is the one that the timetable of `strategies.execution` promises.

The engine can fill at the wrong time or price, leave a stop dead, or refuse an order, and say
nothing. So after a run its fills are worked out anew from orders and bars alone, without quotes,
clock or fill model: each must have happened when and for what it should, and no other.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from catalog.arrays import BarArrays, Int64Array
from catalog.timestamps import format_time
from strategies.execution import (
    BUY,
    SELL,
    ExecutionConfig,
    InstrumentTerms,
    Side,
    slipped_price,
    stop_reference,
    stop_trigger,
)
from strategies.impact import fill_slippage_bps, takes
from strategies.market_data import BarVolumes
from strategies.policy import FORCED_REASONS, STOP_LOSS
from strategies.recorder import FINAL_STATUSES, TAKEN_BACK, FillRow, OrderRow, RunRecorder

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REFUSED = ("REJECTED", "DENIED")


@dataclass(frozen=True, slots=True)
class FillRules:
    """What the fills of a run must follow.

    Parameters
    ----------
    bars : sequence of BarArrays
        What was replayed.
    terms : mapping of instrument id to InstrumentTerms
        Ticks.
    execution : ExecutionConfig
        Latency and slippage.
    stop_fracs : (float, float), optional
        Least and largest distance of a stop that the policy knows; None if it has no stops.
    """

    bars: Sequence[BarArrays]
    terms: Mapping[str, InstrumentTerms]
    execution: ExecutionConfig
    stop_fracs: tuple[float, float] | None


class _Moments:
    """The two moments of each bar at which orders can fill: its open and, complete, its range.

    Moment ``2 i`` is the open of bar ``i`` plus the latency, moment ``2 i + 1`` its close.
    """

    def __init__(self, bars: BarArrays, latency_ns: int) -> None:
        self.opens: Int64Array = bars.ts_init - bars.interval_ns + latency_ns
        self.price = bars.open
        self.times = _interleaved(self.opens, bars.ts_init)
        lowest = np.minimum(np.minimum(bars.open, bars.close), bars.low)
        highest = np.maximum(np.maximum(bars.open, bars.close), bars.high)
        self._low = _interleaved(bars.open, lowest)
        self._high = _interleaved(bars.open, highest)

    def first_open(self, ts: int) -> int | None:
        """Return the first bar whose open can be met at or after `ts`."""
        bar = bisect_left(self.opens.data, ts)
        return bar if bar < len(self.opens) else None

    def at_or_before(self, ts: int) -> int:
        """Return the last moment not after `ts`, -1 if there is none."""
        return int(np.searchsorted(self.times, ts, side="right")) - 1

    def first_reach(self, side: Side, trigger: float, first: int, last: int) -> int | None:
        """Return the first of the moments `first` to `last` that reaches a stop's trigger."""
        part = slice(first, last + 1)
        reached = self._high[part] >= trigger if side == BUY else self._low[part] <= trigger
        where = int(np.argmax(reached)) if len(reached) else 0
        return first + where if len(reached) and reached[where] else None


class _Held(NamedTuple):
    """A position from its entry to its end; `ts_closed` is None for one that is still open."""

    instrument_id: str
    ts_opened: int
    ts_closed: int | None
    side: int
    quantity: float
    average_open: float
    reason: str

    def __str__(self) -> str:
        kind = "long" if self.side > 0 else "short"
        return (
            f"{kind} of {self.quantity:g} {self.instrument_id} opened at "
            f"{format_time(self.ts_opened)} for {self.average_open:g}"
        )


class FillCheck:
    """Compare what a recorder took down with what should have happened.

    Parameters
    ----------
    recorder : RunRecorder
        Of a finished run.
    rules : FillRules
        What its fills must follow.
    """

    def __init__(self, recorder: RunRecorder, rules: FillRules) -> None:
        self._recorder = recorder
        self._rules = rules
        latency = rules.execution.latency_ns
        self._moments = {one.instrument_id: _Moments(one, latency) for one in rules.bars}
        self._volumes = {
            one.instrument_id: BarVolumes(one.ts_init, one.volume) for one in rules.bars
        }
        self._fills: dict[str, list[FillRow]] = defaultdict(list)
        for fill in recorder.fills:
            self._fills[fill.client_order_id].append(fill)
        opening = (
            (fill, recorder.orders[fill.client_order_id])
            for fill in recorder.fills
            if not recorder.orders[fill.client_order_id].reduce_only
        )
        self._entries = {
            (fill.instrument_id, fill.ts_event): row.stop_frac for fill, row in opening
        }

    def meets_no_price(self, row: OrderRow) -> bool:
        """Return whether an order was sent when its instrument had no further open to come."""
        return self._next_open(row) is None

    def market_faults(self) -> tuple[str, ...]:
        """Return the market orders that did not fill at the next open, in words."""
        rows = (row for row in self._recorder.orders.values() if row.type == "MARKET")
        return tuple(text for row in rows for text in self._market_faults(row))

    def stop_faults(self) -> tuple[str, ...]:
        """Return the positions that their stop did not protect as it should have, in words."""
        stops: dict[tuple[str, int], list[OrderRow]] = defaultdict(list)
        for row in self._recorder.orders.values():
            if row.type == "STOP_MARKET":
                stops[row.instrument_id, row.ts_init].append(row)
        found: list[str] = []
        known = self._rules.stop_fracs
        if known is not None:
            for held in self._positions():
                fraction = self._entries.get((held.instrument_id, held.ts_opened), math.nan)
                own = stops.pop((held.instrument_id, held.ts_opened), [])
                if known[0] <= fraction <= known[1]:
                    found += self._stop_faults(held, own, fraction)
                else:
                    found.append(
                        f"the entry of the {held} must ask for a stop between {known[0]:g} and "
                        f"{known[1]:g} of its price away, asked for {fraction:g}"
                    )
        found += [
            f"stop {row.client_order_id} belongs to no position"
            for left in stops.values()
            for row in left
        ]
        return tuple(found)

    def refusals(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the refused orders: those that must be expected, and the others.

        Only one refusal is part of the game: an exit that meets the open at which the stop of its
        position has just filled.
        """
        stopped = {
            (fill.instrument_id, fill.ts_event)
            for fill in self._recorder.fills
            if fill.reason == STOP_LOSS
        }
        expected: list[str] = []
        others: list[str] = []
        for row in self._recorder.orders.values():
            if row.status not in _REFUSED:
                continue
            ts_met = self._next_open(row)
            was_exit = row.type == "MARKET" and row.reduce_only and row.status == "REJECTED"
            if was_exit and ts_met is not None and (row.instrument_id, ts_met[0]) in stopped:
                expected.append(f"{row.client_order_id} ({row.detail})")
            else:
                others.append(f"{_described(row)} was {row.status}: {row.detail or 'no reason'}")
        return tuple(expected), tuple(others)

    def _next_open(self, row: OrderRow) -> tuple[int, float] | None:
        """Return time and price of the first open that an order can meet."""
        moments = self._moments[row.instrument_id]
        bar = moments.first_open(row.ts_init + self._rules.execution.latency_ns)
        return None if bar is None else (int(moments.opens[bar]), float(moments.price[bar]))

    def _market_faults(self, row: OrderRow) -> Iterator[str]:
        wanted = self._next_open(row)
        fills = self._fills.get(row.client_order_id, [])
        if wanted is None:
            if fills:
                yield f"{_described(row)} filled although no open of its instrument followed"
            return
        ts, price = wanted
        if row.status not in FINAL_STATUSES:
            yield f"{_described(row)} must fill at {format_time(ts)}, was still {row.status}"
        quantity = sum(fill.quantity for fill in fills)
        must_fill = row.status not in _REFUSED and row.detail != TAKEN_BACK
        if must_fill and quantity != self._takes(row, ts):
            yield (
                f"{_described(row)} must be filled with {self._takes(row, ts):g} at "
                f"{format_time(ts)}, was with {quantity:g}"
            )
        for fill in fills:
            reference = self._recorder.references.get(fill.client_order_id, float("nan"))
            exact = self._slipped(fill, price, ts)
            if (fill.ts_event, reference, fill.price) != (ts, price, exact):
                yield (
                    f"{_described(row)} must fill at {format_time(ts)} for {exact} (the next open, "
                    f"{price}, with slippage), filled at {format_time(fill.ts_event)} for "
                    f"{fill.price} (from {reference})"
                )

    def _takes(self, row: OrderRow, ts: int) -> float:
        """Return how much of a market order must fill at `ts`."""
        if row.reason in FORCED_REASONS:
            return row.quantity
        limit = self._rules.execution.max_participation
        volume = self._volumes[row.instrument_id].before(ts)
        return takes(row.quantity, volume, limit, self._rules.terms[row.instrument_id].step)

    def _slipped(self, fill: FillRow, reference: float, ts: int) -> float:
        """Return the price of a fill that must happen at `ts`."""
        name = fill.instrument_id
        volume = self._volumes[name].before(ts)
        slippage = fill_slippage_bps(self._rules.execution, fill.quantity, volume)
        return slipped_price(fill.side, reference, slippage, self._rules.terms[name].tick)

    def _positions(self) -> Iterator[_Held]:
        ledger = self._recorder.ledger
        for row in ledger.closed:
            yield _Held(
                row.instrument_id,
                row.ts_opened,
                row.ts_closed,
                row.side,
                row.quantity,
                row.average_open,
                row.reason,
            )
        for name, one in ledger.positions.items():
            side = 1 if one.quantity > 0.0 else -1
            yield _Held(name, one.ts_opened, None, side, one.peak, one.average_open, "")

    def _stop_faults(self, held: _Held, stops: list[OrderRow], fraction: float) -> Iterator[str]:
        if len(stops) != 1:
            yield f"{held} must have one stop, had {len(stops)}"
            return
        (stop,) = stops
        side = SELL if held.side > 0 else BUY
        tick = self._rules.terms[held.instrument_id].tick
        trigger = stop_trigger(side, held.average_open, fraction, tick)
        if (stop.side, stop.quantity, stop.trigger_price) != (side, held.quantity, trigger):
            yield (
                f"stop {stop.client_order_id} of the {held} must cover it at {trigger}, was "
                f"{stop.side * stop.quantity:g} at {stop.trigger_price}"
            )
            return
        yield from self._replayed(held, stop)

    def _replayed(self, held: _Held, stop: OrderRow) -> Iterator[str]:
        """Walk the bars from the entry on: the first that reaches the trigger ends the position."""
        moments = self._moments[held.instrument_id]
        first = moments.at_or_before(held.ts_opened) + 1
        last = len(moments.times) - 1
        if held.ts_closed is not None:
            last = moments.at_or_before(held.ts_closed)
        reached = moments.first_reach(stop.side, stop.trigger_price, first, last)
        stopped = held.reason == STOP_LOSS
        if reached is not None and not (stopped and held.ts_closed == moments.times[reached]):
            until = "was still held" if held.ts_closed is None else _closed(held)
            yield (
                f"{held} reached its trigger {stop.trigger_price} {self._bar_of(held, reached)}, "
                f"where its stop {stop.client_order_id} must fill, but {until}"
            )
        elif reached is None and stopped:
            yield f"{held} never reached its trigger {stop.trigger_price}, but {_closed(held)}"
        elif reached is not None:
            yield from self._stop_price(stop, reached)

    def _bar_of(self, held: _Held, moment: int) -> str:
        moments = self._moments[held.instrument_id]
        where = "within the bar that closes" if moment % 2 else "with the bar's open"
        return f"{where} at {format_time(int(moments.times[moment]))}"

    def _stop_price(self, stop: OrderRow, moment: int) -> Iterator[str]:
        moments = self._moments[stop.instrument_id]
        open_price = float(moments.price[moment // 2])
        wanted = stop_reference(stop.side, stop.trigger_price, open_price)
        reference = self._recorder.references.get(stop.client_order_id, float("nan"))
        for fill in self._fills.get(stop.client_order_id, []):
            price = self._slipped(fill, wanted, int(moments.times[moment]))
            if (fill.price, reference) != (price, wanted):
                yield (
                    f"stop {stop.client_order_id} of {stop.instrument_id} must fill for {price} "
                    f"({wanted} with slippage), filled for {fill.price} (from {reference})"
                )


def _closed(held: _Held) -> str:
    assert held.ts_closed is not None
    return f"{held.reason} closed it at {format_time(held.ts_closed)}"


def _described(row: OrderRow) -> str:
    action = "buy" if row.side == BUY else "sell"
    return (
        f"{row.client_order_id} ({action} {row.quantity:g} {row.instrument_id}, sent at "
        f"{format_time(row.ts_init)})"
    )


def _interleaved[N: np.generic](first: NDArray[N], second: NDArray[N]) -> NDArray[N]:
    """Return the items of two arrays in turn."""
    return np.stack([first, second], axis=1).reshape(-1)
