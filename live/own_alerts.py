"""Alerts of an engine that was started alone, without a supervisor that would tell people of it.

A thread of its own looks once a second at what the engine last said, also where the engine's own
thread stands still. Nothing that fails here reaches the engine: it is counted. A process that is
killed tells nobody; for that there is the supervisor.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

from live.alerts import Alert, AlertSender, channels_from, masked
from live.engine_health import stale_after
from live.engine_process import ENGINE_OF_VARIABLE
from live.engine_request import EngineRequest
from live.engine_status import EngineStatus
from live.fleet_alerts import FleetAlerts

LOOK_SECS = 1.0


class OwnAlerts:
    """Tells people of one engine: naked position, guard, kill switch, stale data, and its failure.

    Parameters
    ----------
    engine : str
        Its name.
    state : Path
        State folder, for its kill switch.
    sender : AlertSender
        Whom it tells by; without channels nothing is done.
    stale_secs : float
        How long it may be without a new bar, of the wall clock.
    """

    def __init__(self, engine: str, state: Path, sender: AlertSender, stale_secs: float) -> None:
        self._engine = engine
        self._sender = sender
        self._watch = FleetAlerts(state, sender.tell, stale_secs)
        self._newest: EngineStatus | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="own-alerts", daemon=True)
        self._failures = 0

    @property
    def failed(self) -> int:
        """Return how many alerts did not arrive."""
        return self._sender.failed + self._sender.dropped + self._failures

    def start(self) -> None:
        """Begin to look."""
        if self._sender.channels:
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
        if failure:
            self._sender.tell(Alert("crash", self._engine, masked(failure)))
        self._sender.close()

    def _run(self) -> None:
        while not self._ending.wait(LOOK_SECS):
            self._look()

    def _look(self) -> None:
        status = self._newest
        if status is None:
            return
        try:
            self._watch.on_look({self._engine: status}, {})
        except Exception:
            # Whatever it was: trading knows nothing of it, and the next look comes.
            self._failures += 1


def is_supervised(variables: Mapping[str, str] | None = None) -> bool:
    """Return whether this process is a supervisor's, who tells people of it."""
    return ENGINE_OF_VARIABLE in (os.environ if variables is None else variables)


def own_alerts(request: EngineRequest, bar_secs: float) -> OwnAlerts:
    """Return the alerts of an engine; they tell nobody where a supervisor does, or of a recording.

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
    speed = request.speed or 1.0
    return OwnAlerts(request.name, request.state, _sender(request), stale_after(bar_secs / speed))


def tell_failed_start(request: EngineRequest, error: BaseException) -> None:
    """Tell people of an engine that ended before it ran. Never raises."""
    try:
        sender = _sender(request)
        text = f"it could not start: {type(error).__name__}: {error}"
        sender.tell(Alert("crash", request.name, masked(text)))
        sender.close()
    except Exception:
        # What is wrong with the alerts must not hide what is wrong with the engine.
        return


def _sender(request: EngineRequest) -> AlertSender:
    silent = is_supervised() or request.replay is not None
    return AlertSender(() if silent else channels_from(), where=socket.gethostname())
