"""Whether every fill is the one that the timetable of `strategies.execution` promises.

The engine can fill at the wrong time or price, leave a stop dead, or refuse an order, and say
nothing. So after a run its fills are worked out anew from orders and bars alone, without quotes,
clock or fill model: each must have happened when and for what it should, and no other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from catalog.timestamps import format_time
from strategies.fill_rules import BarMarket, FillRules, described
from strategies.impact import takes
from strategies.limit_check import LimitCheck
from strategies.policy import FORCED_REASONS
from strategies.protection_check import ProtectionCheck
from strategies.recorder import (
    EXIT_TYPES,
    FINAL_STATUSES,
    LIMIT,
    TAKEN_BACK,
    FillRow,
    OrderRow,
    RunRecorder,
)
from strategies.stops import AmbiguousBars

__all__ = ["FillCheck", "FillRules"]

_REFUSED = ("REJECTED", "DENIED")


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
        self._market = BarMarket(rules)
        self._fills: dict[str, list[FillRow]] = defaultdict(list)
        for fill in recorder.fills:
            self._fills[fill.client_order_id].append(fill)
        self._protection = ProtectionCheck(recorder, rules, self._market)
        self._limits = LimitCheck(recorder, rules, self._market)

    @property
    def ambiguous_bars(self) -> AmbiguousBars:
        """The exits in bars that held both stop and target."""
        return self._protection.ambiguous

    def meets_no_price(self, row: OrderRow) -> bool:
        """Return whether an order was sent when its instrument had no further open to come."""
        return self._market.next_open(row) is None

    def market_faults(self) -> tuple[str, ...]:
        """Return the market and limit orders that did not fill as they must, in words."""
        rows = (row for row in self._recorder.orders.values() if row.type == "MARKET")
        found = tuple(text for row in rows for text in self._market_faults(row))
        return found + self._limits.faults

    def stop_faults(self) -> tuple[str, ...]:
        """Return the positions that stop and target did not protect as they should, in words."""
        return self._protection.faults

    def refusals(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the refused orders: those that must be expected, and the others.

        Three refusals are part of the game: an exit whose position was closed by stop, target or
        limit before it met a price, a stop or target that replaces another and finds that the
        market has passed it, or that its position is gone, and a post-only order that would take.
        """
        closed: dict[str, list[int]] = defaultdict(list)
        for fill in self._recorder.fills:
            if self._recorder.orders[fill.client_order_id].type in (*EXIT_TYPES, LIMIT):
                closed[fill.instrument_id].append(fill.ts_event)
        expected: list[str] = []
        others: list[str] = []
        for row in self._recorder.orders.values():
            if row.status not in _REFUSED:
                continue
            if row.status == "REJECTED" and self._is_late(row, closed[row.instrument_id]):
                expected.append(f"{row.client_order_id} ({row.detail})")
            else:
                others.append(f"{described(row)} was {row.status}: {row.detail or 'no reason'}")
        return tuple(expected), tuple(others)

    def _is_late(self, row: OrderRow, closed: list[int]) -> bool:
        """Return whether an exit had to be refused, given when others closed positions."""
        if row.client_order_id in self._protection.refused | self._limits.refused:
            return True
        met = self._market.next_open(row)
        if row.type not in ("MARKET", LIMIT) or not row.reduce_only or met is None:
            return False
        return any(row.ts_init <= ts <= met[0] for ts in closed)

    def _market_faults(self, row: OrderRow) -> Iterator[str]:
        wanted = self._market.next_open(row)
        fills = self._fills.get(row.client_order_id, [])
        if wanted is None:
            if fills:
                yield f"{described(row)} filled although no open of its instrument followed"
            return
        ts, price = wanted
        if row.status not in FINAL_STATUSES:
            yield f"{described(row)} must fill at {format_time(ts)}, was still {row.status}"
        quantity = sum(fill.quantity for fill in fills)
        must_fill = row.status not in _REFUSED and row.detail != TAKEN_BACK
        wanted_quantity = self._takes(row, ts, fills)
        if must_fill and quantity != wanted_quantity:
            yield (
                f"{described(row)} must be filled with {wanted_quantity:g} at "
                f"{format_time(ts)}, was with {quantity:g}"
            )
        for fill in fills:
            reference = self._recorder.references.get(fill.client_order_id, float("nan"))
            exact = self._market.slipped(row, fill.quantity, price, ts)
            if (fill.ts_event, reference, fill.price) != (ts, price, exact):
                yield (
                    f"{described(row)} must fill at {format_time(ts)} for {exact} (the next open, "
                    f"{price}, with slippage), filled at {format_time(fill.ts_event)} for "
                    f"{fill.price} (from {reference})"
                )

    def _takes(self, row: OrderRow, ts: int, fills: list[FillRow]) -> float:
        """Return how much of a market order must fill at `ts`."""
        asked = row.quantity
        if row.reduce_only and fills:
            asked = min(asked, self._limits.held_before(fills[0]))
        if row.reason in FORCED_REASONS:
            return asked
        limit = self._rules.execution.max_participation
        volume = self._market.volumes[row.instrument_id].before(ts)
        return takes(asked, volume, limit, self._rules.terms[row.instrument_id].step)
