"""An engine's profile followed on the node's thread: what may change counts from the next look."""

from __future__ import annotations

import time
from collections.abc import Callable

from catalog.errors import LeviBotError
from live.engine_parts import EngineParts, engine_policy
from live.profile import Profile
from live.profile_watch import ProfileSource, ProfileWatch
from live.run_tap import Tells
from strategies.settings_check import check_settings
from strategies.throttle import require_room

_EVERY_SECS = 1.0


class FollowedProfile:
    """Applies what changes in a profile's files to one engine.

    Parameters
    ----------
    parts : EngineParts
        The engine's components.
    source : ProfileSource
        Where its profile comes from.
    log : Tells
        Told what was applied, and what was refused.
    now : callable
        The engine's time, UTC nanoseconds: the wall clock's, or that of recorded data.
    """

    def __init__(
        self, parts: EngineParts, source: ProfileSource, log: Tells, now: Callable[[], int]
    ) -> None:
        self._parts = parts
        self._now = now
        self._log = log
        self._watch = ProfileWatch(source, parts.request.profile, self._require_fit)
        self._looked = 0.0

    def look(self, wall_ns: int) -> None:
        """See whether the files have changed, once a second; a clock may call it."""
        if time.monotonic() - self._looked < _EVERY_SECS:
            return
        self._looked = time.monotonic()
        found = self._watch.poll()
        if found is None:
            return
        if found.refused:
            self._log.event("refused", f"the changed profile: {found.refused}")
            return
        try:
            policy = engine_policy(self._parts.request, found.profile)
            self._parts.strategy.adopt(self._now(), policy)
        except LeviBotError as error:
            self._log.event("refused", f"the changed profile: {error}")
            return
        self._log.event("profile", f"counts from now on: {', '.join(found.keys)}")

    def _require_fit(self, profile: Profile) -> None:
        parts = self._parts
        request, execution = parts.request, parts.prepared.execution
        policy = engine_policy(request, profile)
        check_settings(policy, execution, request.traded, parts.prepared.interval_ns)
        assert policy.risk is not None
        require_room(policy.risk, len(request.traded))
