"""Whether every limit order filled when, for what and as much as its bars say, and no other.

Worked out anew from orders and bars alone, by the rules of `strategies.limit_orders`: from the
open at which an order arrives to the one that a cancel arrives with, or to the end of the position
that it reduces. What a reduce-only order is for is what is held.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from catalog.timestamps import format_time
from strategies.fill_rules import BarMarket, FillRules, Moments, described
from strategies.limit_orders import (
    QUANTITY_DECIMALS,
    LimitFill,
    LimitStyle,
    Waiting,
    gaps_through,
    is_marketable,
    maker_fill,
    taker_fill,
    trades_through,
)
from strategies.policy import LIQUIDATED
from strategies.recorder import FINAL_STATUSES, LIMIT, MAKER, TAKER, FillRow, OrderRow, RunRecorder

_NEVER = 1 << 62


class _Fill(NamedTuple):
    """A fill, and what was held before it (base units, signed)."""

    row: FillRow
    held: float


class _Life(NamedTuple):
    """The moments at which an order can fill, and when it may be too late within the last."""

    first: int
    last: int
    closed_at: int


class LimitCheck:
    """Compare a run's limit orders with its bars.

    Parameters
    ----------
    recorder : RunRecorder
        Of a finished run.
    rules : FillRules
        What its fills must follow.
    market : BarMarket
        What the bars say.

    Attributes
    ----------
    refused : set of str
        Post-only orders that had to be refused; complete once `faults` was asked for.
    """

    def __init__(self, recorder: RunRecorder, rules: FillRules, market: BarMarket) -> None:
        self._recorder = recorder
        self._rules = rules
        self._market = market
        self._style = LimitStyle.of(rules.execution)
        self._latency = rules.execution.latency_ns
        self._fills: dict[str, list[_Fill]] = defaultdict(list)
        self._flat: dict[str, list[int]] = defaultdict(list)
        self._liquidated: list[int] = []
        self.refused: set[str] = set()
        self._note_fills()
        self.faults = tuple(
            text
            for row in recorder.orders.values()
            if row.type == LIMIT
            for text in self._faults(row)
        )

    def _note_fills(self) -> None:
        held: dict[str, float] = defaultdict(float)
        for fill in self._recorder.fills:
            name = fill.instrument_id
            self._fills[fill.client_order_id].append(_Fill(fill, held[name]))
            held[name] = round(held[name] + fill.side * fill.quantity, QUANTITY_DECIMALS)
            if held[name] == 0.0:
                self._flat[name].append(fill.ts_event)
            if fill.reason == LIQUIDATED:
                self._liquidated.append(fill.ts_event)

    def held_before(self, fill: FillRow) -> float:
        """Return how much was held when an order first filled, base units."""
        return abs(self._fills[fill.client_order_id][0].held)

    def _faults(self, row: OrderRow) -> Iterator[str]:
        moments = self._market.moments[row.instrument_id]
        fills = self._fills.get(row.client_order_id, [])
        bar = moments.first_open(row.ts_init + self._latency)
        if bar is None:
            if fills:
                yield f"{described(row)} filled although no open of its instrument followed"
            return
        if self._style is None:
            yield f"{described(row)} must be a market order, was a limit order"
            return
        takes = is_marketable(row.side, row.limit_price, float(moments.price[bar]))
        if row.status == "REJECTED":
            if takes and row.post_only:
                self.refused.add(row.client_order_id)
            return
        if takes and row.post_only and row.filled_quantity:
            yield f"{described(row)} is post-only and must be refused at {row.limit_price}, filled"
            return
        life = self._life(row, moments, bar)
        yield from self._overdue(row, moments, bar)
        yield from self._walk(row, moments, life, fills)

    def _life(self, row: OrderRow, moments: Moments, bar: int) -> _Life:
        """Return from when to when an order can fill."""
        last, closed_at = len(moments.times) - 1, _NEVER
        if row.ts_cancel:
            last = min(last, moments.at_or_before(row.ts_cancel + self._latency))
        ends = self._flat[row.instrument_id] if row.reduce_only else self._liquidated
        place = bisect_left(ends, row.ts_init)
        if place < len(ends):
            closed_at = ends[place]
            last = min(last, moments.at_or_before(closed_at))
        return _Life(2 * bar, last, closed_at)

    def _overdue(self, row: OrderRow, moments: Moments, bar: int) -> Iterator[str]:
        """Tell of an order that was not taken back when its time was over."""
        assert self._style is not None
        last = 2 * (bar + self._style.timeout_bars) - 1
        fills = self._fills.get(row.client_order_id, [])
        if fills and row.status != "FILLED":
            last = min(last, moments.at_or_before(fills[0].row.ts_event) | 1)
        if last >= len(moments.times):
            return
        due = int(moments.times[last])
        ended = row.status in FINAL_STATUSES and not (row.ts_cancel > due)
        late = any(one.row.ts_event > due + self._latency for one in fills)
        if late or not (ended or row.ts_cancel == due):
            yield (
                f"{described(row)} must be taken back at {format_time(due)}, when its time was "
                f"over or a part had filled, was not"
            )

    def _walk(
        self, row: OrderRow, moments: Moments, life: _Life, fills: list[_Fill]
    ) -> Iterator[str]:
        """Go through the moments, and compare what each must fill with what it did."""
        left, taken = row.quantity, 0.0
        found = {one.row.ts_event: one for one in fills}
        for moment in range(life.first, life.last + 1):
            if moment % 2 == 0:
                taken = 0.0
            ts = int(moments.times[moment])
            actual = found.pop(ts, None)
            if actual is not None and row.reduce_only:
                left = abs(actual.held)
            wanted = self._wanted(row, moments, moment, life, (left, taken))
            if wanted is not None and wanted.quantity > 0.0:
                optional = ts == life.closed_at and actual is None
                if not optional:
                    yield from self._compared(row, ts, wanted, actual, moment == life.first)
                    left = round(left - wanted.quantity, QUANTITY_DECIMALS)
                    taken = round(taken + wanted.quantity, QUANTITY_DECIMALS)
            elif actual is not None:
                found[ts] = actual
            if left <= 0.0:
                break
        for ts in found:
            yield f"{described(row)} filled at {format_time(ts)}, where its bars do not fill it"

    def _wanted(
        self,
        row: OrderRow,
        moments: Moments,
        moment: int,
        life: _Life,
        amounts: tuple[float, float],
    ) -> LimitFill | None:
        """Return what a moment must fill of an order; None for nothing."""
        name, execution = row.instrument_id, self._rules.execution
        waiting = Waiting(row.side, row.limit_price, *amounts)
        volume = self._market.volumes[name].before(int(moments.times[moment]))
        terms = self._rules.terms[name]
        price = float(moments.price[moment // 2])
        if moment == life.first:
            if not is_marketable(row.side, row.limit_price, price):
                return None
            return taker_fill(waiting, price, volume, execution, terms)
        if moment % 2 == 0:
            through = gaps_through(row.side, row.limit_price, moments.last_price(moment - 1), price)
        else:
            through = trades_through(row.side, row.limit_price, *moments.range_at(moment))
        if through:
            return maker_fill(waiting, volume, execution, terms)
        return None

    def _compared(
        self, row: OrderRow, ts: int, wanted: LimitFill, actual: _Fill | None, takes: bool
    ) -> Iterator[str]:
        told = (
            f"{described(row)} must fill at {format_time(ts)} with {wanted.quantity:g} for "
            f"{wanted.price} as a {TAKER if takes else MAKER}"
        )
        if actual is None:
            yield f"{told}, did not"
            return
        fill = actual.row
        as_it_was = LimitFill(fill.quantity, fill.price, fill.reference_price)
        if as_it_was != wanted or (fill.liquidity == TAKER) != takes:
            yield (
                f"{told}, filled with {fill.quantity:g} for {fill.price} (from "
                f"{fill.reference_price}) as a {fill.liquidity}"
            )
