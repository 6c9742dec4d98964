"""The thread that stores an engine's status, so that a slow disk never delays a decision."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from catalog.errors import LeviBotError
from live.engine_status import EngineStatus
from live.registry import Registry

PERIOD_SECS = 1.0


class StatusThread:
    """Publishes the newest status once a second, and at once when it is closed.

    Nothing that fails here reaches the engine: it is counted and said.

    Parameters
    ----------
    path : Path
        The registry's file.
    period_secs : float
        Between two publications.
    """

    def __init__(self, path: Path, period_secs: float = PERIOD_SECS) -> None:
        self._path = path
        self._period_secs = period_secs
        self._newest: EngineStatus | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self.failures = 0
        """Publications that failed."""
        self.last_failure = ""

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def offer(self, status: EngineStatus) -> None:
        """Give the newest status; from the node's thread, never waits."""
        self._newest = status

    def close(self, timeout_secs: float = 2.0) -> None:
        """Publish what was offered last, and end."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(timeout_secs)

    def _run(self) -> None:
        registry = self._quietly(self._open)
        while not self._ending.wait(self._period_secs):
            if registry is not None and not registry.in_place():
                # A supervisor would take the engine for dead.
                registry.close()
                registry = None
            registry = registry or self._quietly(self._open)
            self._publish(registry)
        self._publish(registry)
        if registry is not None:
            registry.close()

    def _open(self) -> Registry:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return Registry(self._path)

    def _publish(self, registry: Registry | None) -> None:
        status = self._newest
        if registry is not None and status is not None:
            self._quietly(lambda: registry.publish(status))

    def _quietly[T](self, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except (LeviBotError, OSError) as error:
            self.failures += 1
            self.last_failure = str(error)
            return None
