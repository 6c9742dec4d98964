"""What a live process sees beside its market: files that people change, and the file that lasts.

Pure of the engine and of any clock: an actor asks it to look, and tells it when.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from catalog.errors import ConfigError, DataError
from strategies.guard import Guard
from strategies.guard_requests import (
    MAX_REQUEST_AGE_SECS,
    Answer,
    GuardRequest,
    read_request,
    remove_request,
    write_answer,
)
from strategies.guard_state import GuardState
from strategies.guard_store import GuardStore, kill_switch_seen
from strategies.risk_policy import PolicyWatch, RiskPolicy

_IDLE_SAVE_SECS = 5.0


class GuardWatch:
    """The files around one guard.

    Parameters
    ----------
    guard : Guard
        Is told what they say.
    store : GuardStore
        Where its state outlives the process; claimed by whoever made it.
    policy : PolicyWatch, optional
        The file of its policy; without one the policy stays as it is.

    Attributes
    ----------
    wall : callable or None
        The wall clock, which requests are stamped by, where looks are stamped by recorded data.
    """

    def __init__(self, guard: Guard, store: GuardStore, policy: PolicyWatch | None = None) -> None:
        self._guard = guard
        self._store = store
        self._policy = policy
        self._saved: tuple[object, ...] | None = None
        self._saved_at = 0.0
        self.wall: Callable[[], int] | None = None

    def kill_switch_set(self) -> bool:
        """Return whether a kill switch is there that the guard has not been told of; 5 µs."""
        guard = self._guard
        known = guard.state.kill_switch
        return not known and bool(kill_switch_seen(guard.policy.kill_switch_file))

    def look(self, ts: int) -> RiskPolicy | None:
        """Tell the guard what the files say; return a policy that is to count from now on.

        Parameters
        ----------
        ts : int
            Now, UTC nanoseconds.
        """
        guard = self._guard
        seen = kill_switch_seen(guard.policy.kill_switch_file)
        if seen or guard.state.kill_switch:
            guard.on_kill_switch(ts, bool(seen), seen)
        self._answer_request(ts)
        found = None if self._policy is None else self._policy.poll()
        if found is None:
            return None
        if found.refused:
            guard.refuse(ts, "policy", f"the old one stays: {found.refused}")
        return found.policy if found.changed else None

    def save(self) -> None:
        """Store the state; if that fails, trading ends: a restart would not know of it.

        Where nothing but the time and the equity have moved since the last time, that can wait a
        little: a disk takes ten milliseconds, in which nothing is decided.
        """
        try:
            state = self._guard.state
            told = _told(state)
            now = time.monotonic()
            if told == self._saved and now - self._saved_at < _IDLE_SAVE_SECS:
                return
            self._store.save(state)
            self._saved, self._saved_at = told, now
        except DataError as error:
            self._guard.halt(self._guard.state.ts, str(error), "state_unsaved")
        except Exception as error:
            self._guard.fail(self._guard.state.ts, f"save: {error!r}")

    def _answer_request(self, ts: int) -> None:
        request = read_request(self._store.path)
        if request is None:
            return
        if isinstance(request, str):
            self._guard.halt(ts, request)
            remove_request(self._store.path)
        elif request.action == "halt":
            # First what is asked for, whatever the file system says then.
            self._guard.halt(ts, f"{request.who}: {request.why}")
            remove_request(self._store.path)
            self._say(ts, Answer(request.number, True, f"halted: {self._guard.reasons}"))
        else:
            self._say(ts, self._release(ts, request))

    def _release(self, ts: int, request: GuardRequest) -> Answer:
        # Gone before it counts: one that stayed would release what comes later as well.
        if not remove_request(self._store.path):
            return self._refused(ts, request, "its file cannot be removed")
        age = request.age_secs(ts if self.wall is None else self.wall())
        if not -MAX_REQUEST_AGE_SECS <= age <= MAX_REQUEST_AGE_SECS:
            return self._refused(
                ts,
                request,
                f"a request must be at most {MAX_REQUEST_AGE_SECS:g} s old, was of {age:.0f} s ago",
            )
        try:
            reasons = self._guard.release(ts, request.who)
        except ConfigError as error:
            return self._refused(ts, request, str(error))
        return Answer(request.number, True, f"released: {reasons or 'there was no hold'}")

    def _refused(self, ts: int, request: GuardRequest, why: str) -> Answer:
        self._guard.refuse(ts, "release", f"asked for by {request.who}: {why}")
        return Answer(request.number, False, why)

    def _say(self, ts: int, answer: Answer) -> None:
        try:
            write_answer(self._store.path, answer)
        except DataError as error:
            self._guard.refuse(ts, "release", f"could not be answered: {error}")


def _told(state: GuardState) -> tuple[object, ...]:
    """Return all of a state that a restart must know at once: not the time, nor the equity."""
    return (
        *(state.day, state.start_day, state.day_start_equity, state.peak_equity),
        *(state.daily_loss_day, tuple(state.holds), state.exposed, state.kill_switch),
        *(state.consecutive_losses, tuple(state.rejections), tuple(state.orders)),
        *(len(state.history), state.history[-1] if state.history else None),
    )
