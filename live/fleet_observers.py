"""Who is told of a fleet: its log, the people, and the risk of all engines together."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from live.alerts import AlertSender, channels_from
from live.console import tell
from live.engine_log import EngineLog
from live.engine_plan import FleetPlan
from live.engine_process import EngineEvent
from live.engine_status import EngineStatus
from live.fleet_alerts import FleetAlerts
from live.fleet_profiles import FleetProfiles, PlanFile
from live.global_risk import GlobalRisk
from live.registry import ALERTS_FACT, EngineRecord, Registry
from live.state_folder import StateFolder
from live.supervisor import Observer


class FleetLog:
    """An observer that writes what happens to processes into the supervisor's log.

    Parameters
    ----------
    log : EngineLog
        Takes the lines.
    """

    def __init__(self, log: EngineLog) -> None:
        self._log = log

    def on_event(self, event: EngineEvent) -> None:
        """Write a line."""
        self._log.event(event.kind, f"{event.engine}: {event.detail}", about=event.engine)

    def on_look(self, statuses: dict[str, EngineStatus], records: dict[str, EngineRecord]) -> None:
        """Write nothing: statuses are the registry's."""

    def close(self) -> None:
        """Write what waits."""
        self._log.close()


class AlertsThatFail:
    """An observer that stores how many of the supervisor's alerts did not arrive.

    Parameters
    ----------
    registry : Path
        The registry's file.
    sender : AlertSender
        Who sends them.
    """

    def __init__(self, registry: Path, sender: AlertSender) -> None:
        self._path = registry
        self._sender = sender
        self._stored = -1

    def on_event(self, event: EngineEvent) -> None:
        """Take no note of it."""

    def on_look(self, statuses: dict[str, EngineStatus], records: dict[str, EngineRecord]) -> None:
        """Store the number where it has changed; that of an earlier supervisor is replaced."""
        failed = self._sender.failed
        if failed == self._stored:
            return
        with closing(Registry(self._path)) as registry:
            registry.set_fact(ALERTS_FACT, str(failed))
        self._stored = failed

    def close(self) -> None:
        """Send what waits, once; takes a few seconds where nobody answers."""
        self._sender.close()


def close_observers(observers: Iterable[Observer]) -> None:
    """Have told what waits, the end of each engine at least, before the process ends."""
    for one in observers:
        if isinstance(one, FleetLog | AlertsThatFail):
            one.close()


def observers_of(state: Path, plan: FleetPlan, file: Path | None = None) -> tuple[Observer, ...]:
    """Return log, alerts and global risk of a fleet, and who else looks after it.

    Parameters
    ----------
    state : Path
        State folder.
    plan : FleetPlan
        The engines.
    file : Path or None
        Where the plan was read from.

    Raises
    ------
    ConfigError
        If an address for alerts is wrong, or no profile has a risk policy.
    DataError
        If the state folder cannot be used.
    """
    folder = StateFolder(state)
    sender = AlertSender(channels_from(), where=socket.gethostname())
    log = EngineLog(folder.logs, "supervisor", stem="supervisor")

    def warn(kind: str, text: str) -> None:
        log.event(kind, text, level="warning")
        tell(f"supervisor: {text}")

    profiles = FleetProfiles(plan, warn)
    return (
        FleetLog(log),
        # Before the risk that is judged by them.
        profiles,
        FleetAlerts(state, sender.tell, profiles.stale_secs),
        GlobalRisk(folder, lambda: profiles.max_daily_loss, sender.tell),
        AlertsThatFail(folder.registry, sender),
        *(() if file is None else (PlanFile(file, warn),)),
    )
