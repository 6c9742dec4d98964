"""Alerts of an engine that no supervisor tells people of: it was started alone, or its is gone.

A thread of its own looks once a second at what the engine last said, also where the engine's own
thread stands still. Nothing that fails here reaches the engine: it is counted. A process that is
killed tells nobody; for that there is the supervisor.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from catalog.errors import DataError
from live.alerts import ALERT_URLS, Alert, AlertSender, channels_from
from live.console import tell
from live.engine_health import stale_after
from live.engine_process import SUPERVISOR_VARIABLE
from live.engine_request import EngineRequest
from live.engine_status import EngineStatus
from live.fleet_alerts import FleetAlerts
from live.overview import RegistryReader
from live.processes import ProcessId
from live.registry import SUPERVISOR_FACT

LOOK_SECS = 1.0
SILENT_SECS = 60.0
"""How long a supervisor's process may be there and say nothing before it counts as gone: it ends
its engines in order within less."""
_GONE = (
    "its supervisor {how}: the engine trades on and sends its own alerts, and nobody starts it "
    "again when it ends. Start `levibot live supervise` with this state folder"
)


class SupervisorWatch:
    """Whether the supervisor that started this process still looks after it; one thread asks.

    Parameters
    ----------
    state : Path
        State folder, in whose registry it says once a second that it is there.
    """

    def __init__(self, state: Path) -> None:
        self._reader = RegistryReader(state)
        self._said: tuple[int, str] | None = None
        self._said_at = time.monotonic()

    def gone(self) -> str:
        """Return how it is gone, in words; "" while it lives."""
        if not is_supervised():
            return "has ended"
        try:
            said = self._reader.registry().fact(SUPERVISOR_FACT)
        except DataError:
            # That it cannot be read is not the supervisor's fault.
            said = None
        now = time.monotonic()
        if said is None or said != self._said:
            self._said, self._said_at = said, now
        silent = now - self._said_at
        return f"has said nothing for {silent:.0f} s" if silent > SILENT_SECS else ""

    def close(self) -> None:
        """End the connection."""
        self._reader.close()


class OwnAlerts:
    """Tells people of one engine: naked position, guard, kill switch, stale data, and its failure.

    Parameters
    ----------
    engine : str
        Its name.
    state : Path
        State folder, for its kill switch.
    make_sender : callable
        Returns whom it tells by; without channels nothing is done. Called at once for an engine
        that is alone: whom a supervisor looks after needs none as long as it lives.
    stale_secs : float
        How long it may be without a new bar, of the wall clock.
    supervisor : SupervisorWatch or None
        Who tells people of it while it lives; None for nobody.
    """

    def __init__(
        self,
        engine: str,
        state: Path,
        make_sender: Callable[[], AlertSender],
        stale_secs: float,
        supervisor: SupervisorWatch | None = None,
    ) -> None:
        self._engine = engine
        self._make_sender = make_sender
        self._supervisor = supervisor
        self._sender = None if supervisor is not None else make_sender()
        self._watch = FleetAlerts(state, self._tell, stale_secs)
        self._untold: collections.deque[tuple[float, Alert]] = collections.deque(maxlen=100)
        self._newest: EngineStatus | None = None
        self._looking = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="own-alerts", daemon=True)
        self._failures = 0

    @property
    def failed(self) -> int:
        """Return how many alerts did not arrive."""
        # Asked for on another thread than the one that makes it and lets it go.
        sender = self._sender
        return self._failures + (0 if sender is None else sender.failed)

    def start(self) -> None:
        """Begin to look."""
        if self._sender is None or self._sender.channels:
            self._thread.start()

    def offer(self, status: EngineStatus) -> None:
        """Give the newest status; from the node's thread, never waits."""
        self._newest = status

    def close(self, failure: str = "") -> None:
        """Look once more, tell of a failure, and end; takes a few seconds where nobody answers.

        Parameters
        ----------
        failure : str
            Why the engine ended by itself; "" where it was asked to.
        """
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(LOOK_SECS)
            self._look()
        if self._supervisor is not None:
            self._supervisor.close()
        if self._sender is None:
            return
        if failure:
            self._sender.tell(Alert("crash", self._engine, failure))
        self._sender.close()

    def _run(self) -> None:
        while not self._ending.wait(LOOK_SECS):
            self._look()

    def _look(self) -> None:
        try:
            with self._looking:
                if self._supervisor is not None:
                    self._look_at_supervisor(self._supervisor)
                status = self._newest
                if status is not None:
                    self._watch.on_look({self._engine: status}, {})
        except Exception:
            # Whatever it was: trading knows nothing of it, and the next look comes.
            self._failures += 1

    def _tell(self, alert: Alert) -> None:
        if self._sender is not None:
            self._sender.tell(alert)
        else:
            self._untold.append((time.monotonic(), alert))

    def _look_at_supervisor(self, supervisor: SupervisorWatch) -> None:
        """Speak for oneself once the supervisor is gone; what it may have missed is told too."""
        how = supervisor.gone()
        if not how:
            if self._sender is not None:
                # It was only stopped for a while.
                sender, self._sender = self._sender, None
                self._failures += sender.failed
                sender.close()
            return
        if self._sender is not None:
            return
        self._sender = self._make_sender()
        self._sender.tell(Alert("supervisor", self._engine, _GONE.format(how=how)))
        oldest = time.monotonic() - SILENT_SECS - LOOK_SECS
        for at, alert in self._untold:
            if at >= oldest:
                self._sender.tell(alert)
        self._untold.clear()


def is_supervised(variables: Mapping[str, str] | None = None) -> bool:
    """Return whether a supervisor has started this process, and its process is still there."""
    text = (os.environ if variables is None else variables).get(SUPERVISOR_VARIABLE, "")
    supervisor = ProcessId.parsed(text)
    return supervisor is not None and supervisor.alive()


def own_alerts(request: EngineRequest, bar_secs: float) -> OwnAlerts:
    """Return the alerts of an engine; they tell nobody while a supervisor does, or of a recording.

    Parameters
    ----------
    request : EngineRequest
        The engine.
    bar_secs : float
        Length of its bars, seconds of data.

    Raises
    ------
    ConfigError
        If an address in the environment is none that apprise knows.
    """
    stale_secs = stale_after(bar_secs / (request.speed or 1.0))
    supervisor = None
    if request.replay is None and SUPERVISOR_VARIABLE in os.environ and ALERT_URLS in os.environ:
        supervisor = SupervisorWatch(request.state)
    make_sender = functools.partial(_sender, request)
    return OwnAlerts(request.name, request.state, make_sender, stale_secs, supervisor)


def tell_failed_start(request: EngineRequest, error: BaseException) -> None:
    """Tell people of an engine that ended before it ran, or its terminal that none was told.

    Never raises: what is wrong with the alerts must not hide what is wrong with the engine.
    """
    missed = ""
    try:
        if is_supervised():
            return
        sender = _sender(request)
        text = f"it could not start: {type(error).__name__}: {error}"
        sender.tell(Alert("crash", request.name, text))
        sender.close()
        if sender.failed:
            missed = "a channel did not take it"
    except Exception as failure:
        # Its words may hold a channel's address.
        missed = type(failure).__name__
    if missed:
        # A terminal may be gone as well.
        with contextlib.suppress(OSError, ValueError):
            tell(f"the alert to the failed start of {request.name} did not arrive: {missed}")


def _sender(request: EngineRequest) -> AlertSender:
    channels = () if request.replay is not None else channels_from()
    return AlertSender(channels, where=socket.gethostname())
