"""What of all engines a person is alerted to: from their processes' events and their statuses."""

from __future__ import annotations

import time
from pathlib import Path

from live.alerts import Alert, AlertKind, Sink
from live.engine_health import allowed_age
from live.engine_process import EngineEvent
from live.engine_status import RUNNING, EngineStatus
from live.kill_switch import KillSwitch, read_kill
from live.registry import EngineRecord

_KINDS: dict[str, AlertKind] = {
    "crashed": "crash",
    "silent": "crash",
    "leaking": "crash",
    "restarting": "restart",
    "given_up": "permanent_stop",
    "stale": "stale_data",
    "refused": "crash",
    "away": "crash",
}
"""Alerts by the event of a process that they are about; other events are no alert."""


BLOCKED_SECS = 10.0
"""How long an engine may be kept from opening anything before people are told, seconds: a transfer
is explained within a few."""


class FleetAlerts:
    """An observer of the supervisor that raises alerts.

    Parameters
    ----------
    state : Path
        State folder, for its kill switch.
    sink : callable
        Takes the alerts.
    stale_secs : float
        How long a running engine may be without a new bar; less for one of shorter bars.
    """

    def __init__(self, state: Path, sink: Sink, stale_secs: float) -> None:
        self._state = state
        self._sink = sink
        self._stale_secs = stale_secs
        self._levels: dict[str, str] = {}
        self._naked: dict[str, tuple[int, int]] = {}
        self._bars: dict[str, tuple[int, float]] = {}
        self._stale: set[str] = set()
        self._blocked: dict[str, float] = {}
        # One that was set before is told as well: nothing will trade.
        self._kill: KillSwitch | None = None

    def on_event(self, event: EngineEvent) -> None:
        """Alert to what happened to a process."""
        kind = _KINDS.get(event.kind)
        if kind is not None:
            self._sink(Alert(kind, event.engine, event.detail))

    def on_look(self, statuses: dict[str, EngineStatus], records: dict[str, EngineRecord]) -> None:
        """Alert to what the engines say."""
        self._look_at_kill()
        now = time.monotonic()
        for name, status in statuses.items():
            self._look_at_guard(name, status)
            self._look_at_naked(name, status)
            self._look_at_data(name, status, now)
            self._look_at_blocked(name, status, now)

    def _look_at_kill(self) -> None:
        found = read_kill(self._state)
        if found != self._kill:
            said = "lifted; each guard waits for its release" if found is None else str(found)
            self._sink(Alert("kill_switch", "all engines", said))
            self._kill = found

    def _look_at_guard(self, name: str, status: EngineStatus) -> None:
        level = status.guard.level
        if level != "normal" and self._levels.get(name, "normal") == "normal":
            why = " ".join(status.guard.reasons) or "no reason given"
            self._sink(Alert("guard", name, f"the risk guard ended trading: {why}"))
        self._levels[name] = level

    def _look_at_naked(self, name: str, status: EngineStatus) -> None:
        count = status.counters.naked_alarms
        pid, known = self._naked.get(name, (status.pid, 0))
        # The count begins anew with each process.
        if count > (known if pid == status.pid else 0):
            self._sink(Alert("naked_position", name, "a position without its stop is closed"))
        self._naked[name] = (status.pid, count)

    def _look_at_data(self, name: str, status: EngineStatus, now: float) -> None:
        bar, since = self._bars.get(name, (-1, now))
        if status.last_bar_ns != bar or status.state not in RUNNING:
            self._bars[name] = (status.last_bar_ns, now)
            self._stale.discard(name)
        elif now - since > allowed_age(status, self._stale_secs) and name not in self._stale:
            self._stale.add(name)
            self._sink(Alert("stale_data", name, f"no bar for {now - since:.0f} s"))

    def _look_at_blocked(self, name: str, status: EngineStatus, now: float) -> None:
        if not status.blocked or status.state not in RUNNING:
            self._blocked.pop(name, None)
        elif now - self._blocked.setdefault(name, now) >= BLOCKED_SECS:
            # Once: until it is over, however long that takes.
            self._blocked[name] = float("inf")
            self._sink(Alert("blocked", name, f"nothing new is opened: {status.blocked}"))
