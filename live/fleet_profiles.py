"""The profiles of a fleet's engines as the engines have them: with overrides, and as files change.

The supervisor judges all engines by some of the numbers that each follows for itself. It reads them
where the engines do, and by the same rules (`live.profile_watch`): what a running engine refuses
does not count here either, and an engine that starts has what its files say then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_SECOND, interval_ns
from live.engine_health import stale_after
from live.engine_plan import FleetPlan
from live.engine_process import EngineEvent
from live.engine_status import EngineStatus
from live.profile import Profile, load_profile
from live.profile_watch import ProfileSource, ProfileWatch
from live.registry import EngineRecord

type Tell = Callable[[str, str], None]
"""Takes the kind of an event, and what happened."""


def profiles_of(plan: FleetPlan) -> dict[str, Profile]:
    """Return the profile of each engine of a plan, with its overrides.

    Raises
    ------
    ConfigError
        If one cannot be read.
    """
    return {name: load_profile(*_source(plan, name)) for name in plan.engines}


def stale_secs(profiles: Iterable[Profile]) -> float:
    """Return how long an engine may be without a bar: two of the longest, and a margin."""
    longest = max(interval_ns(one.data.interval) for one in profiles) / NS_PER_SECOND
    return stale_after(longest)


def smallest_daily_loss(profiles: Iterable[Profile]) -> float:
    """Return the smallest daily loss that any profile allows, which counts for all together.

    Raises
    ------
    ConfigError
        If none has a risk policy.
    """
    risks = [one.strategy.risk for one in profiles]
    found = [one.max_daily_loss for one in risks if one is not None]
    if not found:
        raise ConfigError(
            "live engines must have a risk policy, no profile has one: name its file as risk: in "
            "the profile's strategy"
        )
    return min(found)


class FleetProfiles:
    """An observer of the supervisor that follows the profiles of its engines.

    Parameters
    ----------
    plan : FleetPlan
        The engines.
    tell : callable
        Told when a limit of all engines changes.

    Raises
    ------
    ConfigError
        If a profile cannot be read, or none has a risk policy.
    """

    def __init__(self, plan: FleetPlan, tell: Tell) -> None:
        self._plan = plan
        self._tell = tell
        self._profiles = profiles_of(plan)
        self._watches = {name: self._watch(name) for name in self._profiles}
        self.max_daily_loss = smallest_daily_loss(self._profiles.values())

    @property
    def stale_secs(self) -> float:
        """How long an engine may be without a bar."""
        return stale_secs(self._profiles.values())

    def on_event(self, event: EngineEvent) -> None:
        """Read the profile anew of an engine that starts: it does so as well."""
        if event.kind != "started" or event.engine not in self._watches:
            return
        try:
            self._profiles[event.engine] = load_profile(*_source(self._plan, event.engine))
            self._watches[event.engine] = self._watch(event.engine)
        except ConfigError:
            # The engine ends with it, and says why.
            return
        self._renew()

    def on_look(self, statuses: dict[str, EngineStatus], records: dict[str, EngineRecord]) -> None:
        """Look whether files have changed."""
        for name, watch in self._watches.items():
            found = watch.poll()
            if found is not None and not found.refused:
                self._profiles[name] = found.profile
        self._renew()

    def _watch(self, name: str) -> ProfileWatch:
        return ProfileWatch(_source(self._plan, name), self._profiles[name], _require_risk)

    def _renew(self) -> None:
        loss = smallest_daily_loss(self._profiles.values())
        if loss != self.max_daily_loss:
            text = f"all engines together may lose {loss:.2%} a day, was {self.max_daily_loss:.2%}"
            self.max_daily_loss = loss
            self._tell("profile", text)


class PlanFile:
    """An observer that says so where the file of the engines changes: it is read at the start.

    Parameters
    ----------
    path : Path
        The file.
    tell : callable
        Told once for each change.
    """

    def __init__(self, path: Path, tell: Tell) -> None:
        self._path = path
        self._tell = tell
        self._seen = self._content()

    def on_event(self, event: EngineEvent) -> None:
        """Take no note of it."""

    def on_look(self, statuses: dict[str, EngineStatus], records: dict[str, EngineRecord]) -> None:
        """Look whether it has changed."""
        content = self._content()
        if content != self._seen:
            self._seen = content
            self._tell(
                "plan",
                f"{self._path} has changed: it is read when the supervisor starts, and does not "
                "count before; end the supervisor and start it again",
            )

    def _content(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            return None


def _source(plan: FleetPlan, name: str) -> ProfileSource:
    return ProfileSource(plan.profile_of(name), plan.engines[name].set)


def _require_risk(profile: Profile) -> None:
    """Refuse what an engine refuses: it needs a risk policy."""
    if profile.strategy.risk is None:
        raise ConfigError("a live engine must have a risk policy, the changed profile has none")
