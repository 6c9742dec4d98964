"""The actor that looks after a running engine: naked positions, errors, and its status.

It looks a few times a second by the wall clock, on the node's own thread, and decides nothing about
the market. Whatever fails in it is told and never harms trading, with one exception that is its
purpose: a position that no stop covers is closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Self

from nautilus_trader.common import DataActor, DataActorConfig
from nautilus_trader.model import ActorId

from live.engine_parts import EngineParts
from live.engine_status import EngineStatus
from live.naked_watch import Naked, NakedWatch, Stop, covered
from live.own_view import STOP, OwnView
from strategies.policy import STOP_REFUSED
from strategies.predictor_actor import PREDICTION_TYPE

LOOK_MS = 250
_STATUS_EVERY = 4
_RESTING = ("ACCEPTED", "PARTIALLY_FILLED")
_TIMER = "engine-watch-look"


def _nothing(*_: Any) -> None:
    """Take what nobody asked to be told."""


@dataclass(frozen=True, slots=True)
class WatchHooks:
    """Who is told what.

    Parameters
    ----------
    status : callable
        Told the engine's status, about once a second.
    naked : callable
        Told a position that was without its stop for too long; it is being closed.
    failed : callable
        Told the text of an error in a callback of strategy or predictor.
    stopping : callable
        Called when the node stops its components, while they still are there.
    each_look : tuple of callable
        Called at each look with the wall clock's time, UTC nanoseconds.
    uncovered : callable
        Returns the instruments whose stops are too small by the exchange's own word.
    """

    status: Callable[[EngineStatus], None] = _nothing
    naked: Callable[[Naked], None] = _nothing
    failed: Callable[[str], None] = _nothing
    stopping: Callable[[], None] = _nothing
    each_look: tuple[Callable[[int], None], ...] = field(default=())
    uncovered: Callable[[], Collection[str]] = frozenset


class EngineWatch(DataActor):
    """Look after one engine.

    Parameters
    ----------
    parts : EngineParts
        The engine's components.
    view : OwnView
        Makes its status.
    now : callable
        The time by which an exit is stamped, UTC nanoseconds: the wall clock's or the replay's.
    hooks : WatchHooks
        Who is told.
    """

    def __new__(
        cls, parts: EngineParts, view: OwnView, now: Callable[[], int], hooks: WatchHooks
    ) -> Self:
        """Create the native part, whose own constructor refuses our arguments."""
        return super().__new__(cls)

    def __init__(
        self, parts: EngineParts, view: OwnView, now: Callable[[], int], hooks: WatchHooks
    ) -> None:
        super().__init__(DataActorConfig(actor_id=ActorId("ENGINE-WATCH-001")))
        self._parts = parts
        self._view = view
        self._now = now
        self._hooks = hooks
        self._naked = NakedWatch()
        self._looks = 0
        self._errors = 0

    def on_start(self) -> None:
        """Begin to look."""
        self.subscribe_data(PREDICTION_TYPE)
        self.clock.set_timer_ns(_TIMER, LOOK_MS * 1_000_000, callback=self._on_timer)

    def on_stop(self) -> None:
        """Say so, while everything is still there."""
        self._hooks.stopping()

    def on_data(self, data: Any) -> None:
        """Keep the newest prediction of each instrument, for the status."""
        self._view.predictions[data.data.instrument_id] = data.data

    def _on_timer(self, event: Any) -> None:
        try:
            self.look(time.time_ns(), time.monotonic_ns())
        except Exception as error:
            # The engine would only log it, and nobody would look after positions any more.
            self._hooks.failed(f"the engine's watch: {type(error).__name__}: {error}")

    def look(self, wall_ns: int, monotonic_ns: int) -> None:
        """Look once.

        Parameters
        ----------
        wall_ns, monotonic_ns : int
            Now by both clocks, nanoseconds.
        """
        self._close_naked(monotonic_ns)
        errors = self._parts.recorder.errors
        for text in errors[self._errors :]:
            self._hooks.failed(text)
        self._errors = len(errors)
        for call in self._hooks.each_look:
            call(wall_ns)
        if self._looks % _STATUS_EVERY == 0:
            self._hooks.status(self._view.status())
        self._looks += 1

    def _close_naked(self, monotonic_ns: int) -> None:
        """Close what has been without its stop for too long, once for each second of orders."""
        for found in self._naked.look(monotonic_ns, self._protected(), self._covered()):
            desk, name, ts = self._parts.strategy.desk, found.instrument_id, self._now()
            if found.is_new:
                self._hooks.naked(found)
            if not desk.is_leaving(name) and not desk.has_sent("F", name, ts):
                desk.market("F", name, ts, -found.quantity, STOP_REFUSED)
        self._view.naked_alarms = self._naked.alarms

    def naked(self) -> frozenset[str]:
        """Return the instruments whose position is without its stop now."""
        held = {name for name, quantity in self._protected().items() if quantity != 0.0}
        return frozenset(held - self._covered())

    def _protected(self) -> dict[str, float]:
        """Return the positions that are to have a stop, by instrument."""
        if self._parts.prepared.policy.exit_rules is None:
            return {}
        positions = self._parts.recorder.ledger.positions
        return {name: one.quantity for name, one in positions.items()}

    def _covered(self) -> set[str]:
        """Return the instruments whose stops cover all of their position.

        By our books, unless the exchange itself says that they do not.
        """
        strategy, recorder = self._parts.strategy, self._parts.recorder
        rows = (recorder.orders[one] for one in strategy.protection.wanted())
        stops = (
            Stop(row.instrument_id, row.side, row.quantity - row.filled_quantity)
            for row in rows
            if row.type == STOP and row.status in _RESTING
        )
        held = {name: one.quantity for name, one in recorder.ledger.positions.items()}
        steps = {name: float(one.terms.step) for name, one in strategy.desk.states.items()}
        return covered(held, stops, steps) - {*self._hooks.uncovered()}
