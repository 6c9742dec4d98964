"""Who is told of a fleet: its log, the people, and the risk of all engines together."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_SECOND, interval_ns
from live.alerts import AlertSender, channels_from
from live.engine_health import stale_after
from live.engine_log import EngineLog
from live.engine_plan import FleetPlan
from live.engine_process import EngineEvent
from live.engine_status import EngineStatus
from live.fleet_alerts import FleetAlerts
from live.global_risk import GlobalRisk
from live.profile import Profile, load_profile
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


def observers_of(state: Path, plan: FleetPlan) -> tuple[Observer, ...]:
    """Return log, alerts and global risk of a fleet, and who counts alerts that fail.

    Raises
    ------
    ConfigError
        If an address for alerts is wrong, or no profile has a risk policy.
    DataError
        If the state folder cannot be used.
    """
    folder = StateFolder(state)
    profiles = [load_profile(plan.profile_of(one)) for one in plan.engines]
    sender = AlertSender(channels_from(), where=socket.gethostname())
    return (
        FleetLog(EngineLog(folder.logs, "supervisor", stem="supervisor")),
        FleetAlerts(state, sender.tell, stale_secs(profiles)),
        GlobalRisk(folder, _daily_loss(profiles), sender.tell),
        AlertsThatFail(folder.registry, sender),
    )


def stale_secs(profiles: list[Profile]) -> float:
    """Return how long an engine may be without a bar: two of the longest, and a margin."""
    longest = max(interval_ns(one.data.interval) for one in profiles) / NS_PER_SECOND
    return stale_after(longest)


def _daily_loss(profiles: list[Profile]) -> float:
    """Return the smallest daily loss that any profile allows."""
    found = [one.strategy.risk.max_daily_loss for one in profiles if one.strategy.risk is not None]
    if not found:
        raise ConfigError(
            "live engines must have a risk policy, no profile has one: name its file as risk: in "
            "the profile's strategy"
        )
    return min(found)
