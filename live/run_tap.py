"""From what a strategy has recorded to lines of the engine's log.

Looks at the recorder a few times a second, on the node's thread, and tells what is new; deciding
and sending take no notice of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from live.engine_log import bar_id
from live.new_rows import NewEntries, NewRows
from strategies.recorder import FINAL_STATUSES, OrderRow, RunRecorder

_REFUSED = frozenset({"REJECTED", "DENIED"})


class Tells(Protocol):
    """An `EngineLog`, or whoever else takes events; never raises."""

    def event(self, kind: str, text: str, **fields: object) -> None:
        """Tell one thing."""


class RunTap:
    """Tells what one strategy predicts, decides, orders and fills.

    Parameters
    ----------
    recorder : RunRecorder
        Its recorder.
    predictions : callable
        Returns the newest prediction of each instrument; each has its `ts_init`.
    log : Tells
        Takes the lines.
    """

    def __init__(
        self, recorder: RunRecorder, predictions: Callable[[], Mapping[str, Any]], log: Tells
    ) -> None:
        self.failures = 0
        self._recorder = recorder
        self._predictions = predictions
        self._log = log
        self.begin()

    def begin(self) -> None:
        """Take what is there for known: the process before has told what a restart restored."""
        recorder = self._recorder
        self._decisions = recorder.decision_count
        self._orders = NewEntries(recorder.orders)
        self._fills = NewRows(recorder.fills)
        self._guard_events = len(recorder.guard_events)
        self._errors = len(recorder.errors)
        self._predicted: dict[str, int] = {}
        self._alive: dict[str, tuple[OrderRow, str]] = {}
        self._parts: dict[str, int] = {}

    def look(self, now: int = 0) -> None:
        """Tell what is new; a clock may call it, `now` is not used. Never raises."""
        try:
            self._tell_predictions()
            self._tell_decisions()
            self._tell_orders()
            self._tell_fills()
            self._tell_statuses()
            self._tell_rest()
        except Exception as error:
            # Nothing that is only told may reach the engine.
            self.failures += 1
            self._log.event("error", f"the log of the strategy failed: {error!r}")

    def _tell_predictions(self) -> None:
        for name, one in self._predictions().items():
            ts = one.ts_init
            if ts <= self._predicted.get(name, -1):
                continue
            self._predicted[name] = ts
            bar = bar_id(name, ts)
            self._log.event(
                "prediction",
                f"{name} up with {one.prob_up:.4f}" + (", degraded" if one.degraded else ""),
                instrument_id=name,
                bar=bar,
                prediction=f"{bar}/P",
                prob_up=one.prob_up,
                epistemic=one.epistemic,
                degraded=one.degraded,
            )

    def _tell_decisions(self) -> None:
        for one in self._recorder.decisions_from(self._decisions):
            self._decisions += 1
            bar = bar_id(one.instrument_id, one.ts_init)
            order = {"order": one.client_order_id} if one.client_order_id else {}
            self._log.event(
                "decision",
                f"{one.instrument_id} {one.side:+d} because of {one.reason}",
                instrument_id=one.instrument_id,
                bar=bar,
                prediction=f"{bar}/P",
                decision=f"{bar}/D",
                side=one.side,
                reason=one.reason,
                quantity=one.quantity,
                **order,
            )

    def _tell_orders(self) -> None:
        for row in self._orders.of(self._recorder.orders):
            # One that was refused before anybody has looked is told as refused all the same.
            known = "" if row.status in _REFUSED else row.status
            self._alive[row.client_order_id] = (row, known)
            self._log.event(
                "order",
                f"{_side(row.side)} {row.quantity:g} {row.instrument_id} {row.type}, {row.reason}",
                **self._links(row),
                side=row.side,
                quantity=row.quantity,
                type=row.type,
                trigger_price=row.trigger_price,
                limit_price=row.limit_price,
                reduce_only=row.reduce_only,
                reason=row.reason,
                status=row.status,
            )

    def _tell_fills(self) -> None:
        for fill in self._fills.of(self._recorder.fills):
            part = self._parts.get(fill.client_order_id, 0) + 1
            self._parts[fill.client_order_id] = part
            row = self._recorder.orders[fill.client_order_id]
            self._log.event(
                "fill",
                f"{_side(fill.side)} {fill.quantity:g} {fill.instrument_id} at {fill.price:g}",
                **self._links(row),
                fill=f"{fill.client_order_id}/{part}",
                side=fill.side,
                quantity=fill.quantity,
                price=fill.price,
                commission=fill.commission,
                liquidity=fill.liquidity,
                ts_event=fill.ts_event,
            )

    def _tell_statuses(self) -> None:
        for name, (row, known) in list(self._alive.items()):
            if row.status != known:
                refused = row.status in _REFUSED
                self._log.event(
                    "reject" if refused else "status",
                    f"{row.status}" + (f": {row.detail}" if row.detail else ""),
                    **self._links(row),
                    status=row.status,
                )
                self._alive[name] = (row, row.status)
            if row.status in FINAL_STATUSES:
                del self._alive[name]
                self._parts.pop(name, None)

    def _tell_rest(self) -> None:
        recorder = self._recorder
        for event in recorder.guard_events[self._guard_events :]:
            self._log.event(
                "guard",
                f"{event.level}: {event.kind} {event.reason} {event.detail}".strip(),
                guard_kind=event.kind,
                guard_level=event.level,
                reason=event.reason,
            )
        self._guard_events = len(recorder.guard_events)
        for text in recorder.errors[self._errors :]:
            self._log.event("error", text)
        self._errors = len(recorder.errors)

    @staticmethod
    def _links(row: OrderRow) -> dict[str, object]:
        bar = bar_id(row.instrument_id, row.ts_decided)
        return {
            "instrument_id": row.instrument_id,
            "bar": bar,
            "decision": f"{bar}/D",
            "order": row.client_order_id,
        }


def _side(side: int) -> str:
    return "buy" if side > 0 else "sell"
