"""What an engine says about itself: a plain status made from its components on the node's thread.

Nothing of the engine may be touched from another thread, so the status is made here, where it is
safe, and handed as plain Python to whoever stores or shows it.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from catalog.timestamps import NS_PER_SECOND
from live.engine_parts import EngineParts
from live.engine_status import (
    LATENCY_BUCKETS_MS,
    EngineCounters,
    EngineStatus,
    ExpertStatus,
    GuardLevel,
    LatencyHistogram,
    Moments,
    PositionStatus,
    PredictionStatus,
    State,
)
from live.new_rows import NewEntries, NewRows
from live.processes import ProcessId
from live.runs import code_version
from strategies.ledger import PositionRow
from strategies.recorder import EXIT_TYPES, FINAL_STATUSES, FillRow, OrderRow

STOP = "STOP_MARKET"

_BPS = 10_000.0
_ALIVE = "ACCEPTED"


def resting_stops(parts: EngineParts) -> dict[str, OrderRow]:
    """Return the stop of each instrument that rests at the exchange, the newest of several."""
    rows = (parts.recorder.orders[one] for one in sorted(parts.strategy.protection.wanted()))
    alive = (row for row in rows if row.type == STOP and row.status == _ALIVE)
    return {row.instrument_id: row for row in alive}


@dataclass(slots=True)
class Measured:
    """What the engine measures of itself while it runs.

    Parameters
    ----------
    decision_prices : dict of str to float
        The close that each order was decided at, by order, until it has ended.
    """

    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_MS) + 1))
    latency_sum: float = 0.0
    latency_count: int = 0
    slippage_sum: float = 0.0
    slippage_count: int = 0
    decision_prices: dict[str, float] = field(default_factory=dict)
    alive: dict[str, OrderRow] = field(default_factory=dict)
    orders: NewEntries[OrderRow] = field(default_factory=lambda: NewEntries({}))
    fills: NewRows[FillRow] = field(default_factory=NewRows)
    closed: NewRows[PositionRow] = field(default_factory=NewRows)
    realized: float = 0.0
    rejects: int = 0
    last_trade_ns: int = 0

    def latency(self, milliseconds: float) -> None:
        """Note the time from a bar's receipt to the sending of its orders."""
        self.latency_counts[bisect.bisect_left(LATENCY_BUCKETS_MS, milliseconds)] += 1
        self.latency_sum += milliseconds
        self.latency_count += 1

    @property
    def seen_orders(self) -> int:
        """Return how many orders there were."""
        return self.orders.count

    def histogram(self) -> LatencyHistogram:
        """Return the latencies."""
        counts = tuple(self.latency_counts)
        return LatencyHistogram(LATENCY_BUCKETS_MS, counts, self.latency_sum, self.latency_count)


class OwnView:
    """Makes the status of one engine.

    Parameters
    ----------
    parts : EngineParts
        The engine's components.
    now : callable
        The time of the data, UTC nanoseconds: the wall clock's, or the replay's.
    """

    def __init__(self, parts: EngineParts, now: Callable[[], int]) -> None:
        self._parts = parts
        self._now = now
        self._started = time.time_ns()
        self._process = ProcessId.own()
        self._version = code_version()
        self._model = parts.prepared.model_status()
        self.measured = Measured()
        self.state: State = "starting"
        self.last_error = ""
        self.naked_alarms = 0
        self.alerts_failed = 0
        self.last_bar_ns = 0
        self.predictions: dict[str, Any] = {}
        self.feed_counters: Callable[[], Mapping[str, int]] = dict
        self.input_ages: Callable[[], Mapping[str, float]] = dict
        self.blocked: Callable[[], str] = str

    def notice(self) -> None:
        """Take note of orders and fills since the last call, while closes are those decided at."""
        recorder, measured = self._parts.recorder, self.measured
        for row in measured.orders.of(recorder.orders):
            measured.alive[row.client_order_id] = row
            if row.type not in EXIT_TYPES:
                price = recorder.ledger.marks.get(row.instrument_id, math.nan)
                measured.decision_prices[row.client_order_id] = price
        for fill in measured.fills.of(recorder.fills):
            measured.last_trade_ns = max(measured.last_trade_ns, fill.ts_event)
            price = measured.decision_prices.get(fill.client_order_id, math.nan)
            if price > 0.0:
                measured.slippage_sum += fill.side * (fill.price / price - 1.0) * _BPS
                measured.slippage_count += 1
        for closed in measured.closed.of(recorder.ledger.closed):
            measured.realized += closed.realized_pnl - closed.commission + closed.funding
        for name, row in list(measured.alive.items()):
            if row.status in FINAL_STATUSES:
                measured.rejects += row.status in ("REJECTED", "DENIED")
                measured.decision_prices.pop(name, None)
                del measured.alive[name]

    def status(self) -> EngineStatus:
        """Return the status now; on the node's thread only."""
        self.notice()
        parts, measured = self._parts, self.measured
        recorder, ledger = parts.recorder, parts.recorder.ledger
        guard = parts.guard.guard
        return EngineStatus(
            engine=parts.request.name,
            profile=parts.request.profile.name,
            mode=parts.request.mode,
            pid=self._process.pid,
            process_start_ns=self._process.start_ns,
            boot=self._process.boot,
            state=self._shown_state(guard.level),
            instruments=parts.request.traded,
            heartbeat_ns=time.time_ns(),
            started_ns=self._started,
            last_bar_ns=self.last_bar_ns,
            last_trade_ns=measured.last_trade_ns,
            equity=ledger.equity(),
            cash=ledger.cash,
            day_start_equity=_known(guard.state.day_start_equity),
            peak_equity=_known(guard.state.peak_equity),
            realized_pnl=measured.realized,
            positions=self._positions(),
            predictions=self._predictions(),
            experts=self._experts(),
            guard=GuardLevel(guard.level, tuple(guard.state.holds)),
            counters=self._counters(recorder),
            input_ages_s={name: float(age) for name, age in self.input_ages().items()},
            bar_interval_s=parts.prepared.interval_ns / NS_PER_SECOND,
            decision_latency_ms=measured.histogram(),
            slippage_bps=Moments(measured.slippage_sum, measured.slippage_count),
            blocked=self.blocked(),
            last_error=self.last_error or (recorder.errors[-1] if recorder.errors else ""),
            model=self._model,
            allotted_equity=parts.request.equity,
            transferred=ledger.transferred,
            transfer_scale=ledger.scale,
            version=self._version,
        )

    def _shown_state(self, level: str) -> State:
        """Return the state; a guard that is not normal hides that the engine could trade."""
        return "halted" if self.state == "trading" and level != "normal" else self.state

    def _positions(self) -> dict[str, PositionStatus]:
        ledger = self._parts.recorder.ledger
        stops = resting_stops(self._parts)
        return {
            name: PositionStatus(
                held.quantity,
                held.average_open,
                ledger.marks.get(name),
                stops[name].trigger_price if name in stops else None,
            )
            for name, held in ledger.positions.items()
        }

    def _predictions(self) -> dict[str, PredictionStatus]:
        return {
            name: PredictionStatus(
                one.ts_init,
                _known(one.prob_up),
                _known(one.epistemic),
                _known(one.confidence),
                one.degraded,
            )
            for name, one in self.predictions.items()
        }

    def _experts(self) -> dict[str, ExpertStatus]:
        breakers = self._parts.prepared.predictor.breakers
        return {
            one.name: ExpertStatus(one.status.replace("-", "_"), one.trips, one.failures, one.calls)
            for one in breakers
        }

    def _counters(self, recorder: Any) -> EngineCounters:
        fed = dict(self.feed_counters())
        own = {
            "bars": recorder.actor_bars,
            "late": recorder.late_bars,
            "predictions": recorder.published,
            "decisions": recorder.decision_count,
            "orders": self.measured.orders.count,
            "fills": self.measured.fills.count,
            "rejects": self.measured.rejects,
            "naked_alarms": self.naked_alarms,
            "errors": len(recorder.errors),
            "alerts_failed": self.alerts_failed,
        }
        return EngineCounters(**{**own, **fed})

    def open_orders(self) -> tuple[OrderRow, ...]:
        """Return the orders that have not ended, as our books have them."""
        self.notice()
        return tuple(self.measured.alive.values())

    def data_age_secs(self) -> float:
        """Return how old the newest bar is by the engine's time, seconds."""
        return (self._now() - self.last_bar_ns) / NS_PER_SECOND if self.last_bar_ns else math.inf


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
