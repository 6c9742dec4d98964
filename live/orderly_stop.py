"""The end of an engine that was asked to end: nothing on its way, every position with its stop.

An order that is under way when the process ends may fill a moment later, and nobody is there to
protect what it opened. So an engine that is asked to end opens nothing more, takes back what has
not filled, and waits for answers and stops before its node stops; for some seconds at most, because
whoever asked will not wait for ever. Asked once more it ends at once. One that fails ends the same
way, as long as its node runs: nobody may come back to take its limits away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from live.engine_parts import EngineParts
from live.start_books import under_way
from live.stop_signals import StopSignals
from strategies.guard_orders import EntryGate, OrderIntent, Refused
from strategies.risk_policy import RiskPolicy

MOST_SECS = 8.0
"""How long the end may be waited for: a supervisor kills after 15 s, and the node needs some."""
STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class StopHooks:
    """What an orderly stop asks and does.

    Parameters
    ----------
    now : callable
        The time by which orders are stamped, UTC nanoseconds.
    naked : callable
        Returns the instruments whose position is without its stop.
    begin : callable
        Called when the engine begins to end.
    stop : callable
        Stops the node.
    clock : callable
        Seconds on a clock that only goes forward.
    """

    now: Callable[[], int]
    naked: Callable[[], frozenset[str]]
    begin: Callable[[], None]
    stop: Callable[[], None]
    clock: Callable[[], float] = time.monotonic


class OrderlyStop:
    """Ends one engine in order; on the node's thread only.

    Parameters
    ----------
    parts : EngineParts
        The engine's components.
    signals : StopSignals
        Say that it is to end.
    teller : Teller
        Told what is left open.
    hooks : StopHooks
        What is asked and done.
    """

    def __init__(
        self, parts: EngineParts, signals: StopSignals, teller: Any, hooks: StopHooks
    ) -> None:
        self._parts = parts
        self._signals = signals
        self._teller = teller
        self._hooks = hooks
        self._since: float | None = None
        self._failed_at: float | None = None
        self._ended = False

    @property
    def begun(self) -> bool:
        """Return whether the engine is ending."""
        return self._since is not None

    def fail(self) -> None:
        """Have it end, though nobody asks; at once where it still does not after the longest wait.

        What fails may be what looks.
        """
        now = self._hooks.clock()
        if self._failed_at is None:
            self._failed_at = now
        elif now - self._failed_at > MOST_SECS:
            self._hooks.stop()

    def look(self, wall_ns: int) -> None:
        """See whether it is to end, and whether it can; a clock may call it."""
        # The node's own handler would stop it at once.
        self._signals.take()
        if self._ended or not (self._signals.seen or self._failed_at is not None):
            return
        if self._since is None:
            self._since = self._hooks.clock()
            self._hooks.begin()
            self._parts.strategy.desk.take_back_entries(self._hooks.now())
        open_, naked = self._under_way(), self._hooks.naked()
        late = self._hooks.clock() - self._since > MOST_SECS
        if (open_ or naked) and not late and self._signals.count < 2:
            return
        self._ended = True
        if open_ or naked:
            self._tell(open_, naked)
        self._hooks.stop()

    def _under_way(self) -> frozenset[str]:
        """Return the instruments of which an order may still trade, stops and targets aside."""
        parts = self._parts
        limits = {
            row.instrument_id
            for row in parts.strategy.alive()
            if row.type == "LIMIT" and not row.reduce_only
        }
        return under_way(parts) | limits

    def _tell(self, open_: frozenset[str], naked: frozenset[str]) -> None:
        left = [f"without their stop: {', '.join(sorted(naked))}"] if naked else []
        left += [f"with orders under way: {', '.join(sorted(open_))}"] if open_ else []
        text = (
            "it ends with positions " + "; ".join(left) + ": look at the account, or start it again"
        )
        self._teller.event("naked" if naked else "open", text)


class LeavingGate:
    """An `EntryGate` in front of another: nothing is opened by an engine that is ending.

    Parameters
    ----------
    leaving : callable
        Returns whether it is.
    then : EntryGate or None
        Asked where it is not.
    """

    def __init__(self, leaving: Callable[[], bool], then: EntryGate | None = None) -> None:
        self._leaving = leaving
        self._then = then

    def admit(self, policy: RiskPolicy, intent: OrderIntent) -> Refused | None:
        """Return why an order that adds risk may not leave, or None."""
        if self._leaving():
            return Refused(STOPPING, "nothing is opened by an engine that was asked to end")
        return None if self._then is None else self._then.admit(policy, intent)

    def hold(self, occupied: Mapping[str, tuple[bool, bool]]) -> None:
        """Pass on what is held and under way."""
        if self._then is not None:
            self._then.hold(occupied)
