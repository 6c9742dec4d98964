"""One engine from its request to its exit code: assembled, run, stopped in order.

What is common to all modes lies here; `live.engine_replay` runs recorded data and
`live.engine_exchange` the feed of an exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple, Protocol

from catalog.errors import AwayError, LeviBotError, RunFailedError
from catalog.timestamps import NS_PER_SECOND
from live.engine_log import EngineLog
from live.engine_parts import (
    GUARD_FILE,
    EngineParts,
    Prepared,
    assemble,
    claim_guard,
    prepare,
)
from live.engine_request import EngineRequest
from live.engine_status import EngineStatus, State
from live.engine_watch import EngineWatch, WatchHooks
from live.followed_profile import FollowedProfile
from live.global_risk import GlobalGate
from live.live_guard import LiveGuard
from live.naked_watch import Naked
from live.orderly_stop import LeavingGate, OrderlyStop, StopHooks
from live.own_alerts import own_alerts, tell_failed_start
from live.own_view import OwnView
from live.run_tap import RunTap
from live.state_folder import StateFolder
from live.status_thread import StatusThread
from live.stop_signals import StopSignals
from strategies.guard_store import is_claimed

DONE, FAILED = 0, 5
"""Exit codes of an engine that was stopped or has come to its end, and of one that failed."""
_UNASKED = "the node ended though nobody had asked it to: what it printed names the error"


class Outcome(NamedTuple):
    """How an engine ended.

    `code` is the exit code, `reason` why in words, `status` what it said last.
    """

    code: int
    reason: str
    status: EngineStatus


class Teller(Protocol):
    """Whoever writes an engine's log and sends its alerts; none of it may raise."""

    def event(self, kind: str, text: str, **fields: object) -> None:
        """Tell one thing that happened."""

    def close(self) -> None:
        """See that what was told is where it belongs."""


class Silent:
    """A teller that tells nobody."""

    def event(self, kind: str, text: str, **fields: object) -> None:
        """Tell nobody."""

    def close(self) -> None:
        """Do nothing."""


class Engine:
    """One engine, from its components to its last status.

    Parameters
    ----------
    parts : EngineParts
        Assembled.
    now : callable
        The time by which orders are stamped, UTC nanoseconds.
    teller : Teller
        Takes what is worth a line in the log.
    """

    def __init__(self, parts: EngineParts, now: Callable[[], int], teller: Teller) -> None:
        self.parts = parts
        self.teller = teller
        self.view = OwnView(parts, now)
        self._published = StatusThread(StateFolder(parts.request.state).registry)
        self._alerts = own_alerts(parts.request, parts.prepared.interval_ns / NS_PER_SECOND)
        self._now = now
        self._reason = ""
        self._tap = RunTap(parts.recorder, lambda: self.view.predictions, teller)
        self.each_look: list[Callable[[int], None]] = [self._tap.look]
        self._gate = self._global_gate()
        if parts.request.source is not None and parts.request.replay is None:
            # A recording is replayed with the settings that it began with.
            followed = FollowedProfile(parts, parts.request.source, teller, now)
            self.each_look.append(followed.look)
        self._watch: EngineWatch | None = None
        self.stop: Callable[[], None] = lambda: None
        self._end: Callable[[], None] = lambda: self.stop()
        self.asked: Callable[[], bool] = lambda: True
        self.before_exit: Callable[[], None] = lambda: None
        self.uncovered: Callable[[], Collection[str]] = frozenset

    def _global_gate(self) -> GlobalGate | None:
        """Have the limits over all engines of the account kept; a replay is alone in its time."""
        request, desk = self.parts.request, self.parts.strategy.guard
        if request.replay is not None or desk is None:
            return None
        desk.gate = gate = GlobalGate(StateFolder(request.state), request.name)
        return gate

    def watch(self) -> EngineWatch:
        """Return the actor that looks after the engine."""
        hooks = WatchHooks(
            status=self._offer,
            naked=self._naked,
            failed=self._failed,
            stopping=self._stopping,
            each_look=tuple(self.each_look),
            uncovered=self.uncovered,
        )
        self._watch = EngineWatch(self.parts, self.view, self._now, hooks)
        return self._watch

    def end_in_order(self, signals: StopSignals) -> None:
        """Have it end, when it is asked to, once nothing of it is on its way; before `watch`."""
        hooks = StopHooks(
            now=self._now,
            naked=lambda: frozenset() if self._watch is None else self._watch.naked(),
            begin=lambda: self.say("stopping"),
            stop=lambda: self.stop(),
        )
        orderly = OrderlyStop(self.parts, signals, self.teller, hooks)
        self._end = orderly.fail
        self.each_look.append(orderly.look)
        desk = self.parts.strategy.guard
        if desk is not None:
            desk.gate = LeavingGate(lambda: orderly.begun, desk.gate)

    def start(self, state: State) -> None:
        """Begin to publish."""
        self.view.state = state
        self._tap.begin()
        self._offer(self.view.status())
        self._published.start()
        self._alerts.start()
        self.teller.event("start", f"engine {self.parts.request.name} starts")

    def say(self, state: State, why: str = "") -> None:
        """Be in another state from now on; the reason is told with it."""
        if state != self.view.state:
            told = f"{self.view.state} -> {state}"
            self.teller.event("state", f"{told}: {why}" if why else told)
            self.view.state = state

    def fail(self, reason: str) -> None:
        """End the engine because of something that must not go on, in order where it can."""
        if not self._reason:
            self._reason = reason
            self.view.last_error = reason
            self.teller.event("error", reason)
        self._end()

    def ended(self, error: BaseException | None = None) -> Outcome:
        """Publish the last status and say how the engine ended."""
        if error is not None and not self._reason:
            self._reason = f"{type(error).__name__}: {error}"
            self.view.last_error = self._reason
        elif not self._reason and not self.asked():
            # The node ends by itself at an error of the engine, and returns as after Ctrl-C.
            self._reason = self.view.last_error = _UNASKED
        failed = bool(self._reason)
        self.view.state = "failed" if failed else "stopped"
        status = self.view.status()
        self._offer(status)
        self._published.close()
        self.parts.guard.watch.save()
        self.parts.guard.store.give_up()
        self._tap.look()
        if self._gate is not None:
            self._gate.close()
        reason = self._reason or "stopped in order"
        self.teller.event("end", reason)
        self._alerts.close(self._reason)
        code = AwayError.exit_code if isinstance(error, AwayError) else FAILED
        return Outcome(code if failed else DONE, reason, status)

    def _offer(self, status: EngineStatus) -> None:
        """Give a status to those who pass it on, each on a thread of its own."""
        self.view.alerts_failed = self._alerts.failed
        self._published.offer(status)
        self._alerts.offer(status)

    def _naked(self, found: Naked) -> None:
        text = (
            f"position of {found.quantity:g} {found.instrument_id} was without its stop for "
            f"{found.age_ns / 1e9:.1f} s and is being closed"
        )
        self.teller.event("naked", text, instrument_id=found.instrument_id)

    def _failed(self, text: str) -> None:
        """End at an error in a callback: what strategy and predictor know is no longer certain.

        Stops stay at the exchange, and the next process begins with what the exchange says.
        """
        self.fail(f"a callback raised {text}")

    def _stopping(self) -> None:
        if self.view.state != "failed":
            self.say("stopping")
        self.before_exit()


def run_engine(request: EngineRequest, last_words: Callable[[Outcome], None]) -> Outcome:
    """Run one engine until it is stopped, its replay ends, or it fails.

    Call it on the main thread of a process of its own: a live node takes both.

    Parameters
    ----------
    request : EngineRequest
        What to run.
    last_words : callable
        Told the outcome where the process ends without a return: an engine whose orders reach an
        exchange must leave what others on its account need.

    Raises
    ------
    ConfigError, DataError, IntegrityError
        Before anything is started, if the request cannot be met.
    """
    prepared = prepare(request)
    if request.mode != "paper":
        # Refused before the state folder is touched.
        request.order_connection()
    guard = claim_guard(prepared)
    log = EngineLog(StateFolder(request.state).logs, request.name)
    try:
        return _run(prepared, guard, log, last_words)
    except Exception as error:
        # What is said of this end is of this engine, and of no other process.
        guard.store.give_up()
        tell_failed_start(request, error)
        raise
    finally:
        log.close()


def _run(
    prepared: Prepared, guard: LiveGuard, teller: Teller, last_words: Callable[[Outcome], None]
) -> Outcome:
    if prepared.request.replay is not None:
        from live.engine_replay import run_replay

        return run_replay(prepared, guard, teller)
    from live.engine_exchange import run_exchange

    return run_exchange(prepared, guard, teller, last_words)


def publish_failure(request: EngineRequest, error: BaseException) -> None:
    """Leave the reason of an engine that could not even start in the registry. Never raises.

    Where another process is this engine, nothing is wrong with it.
    """
    from live.first_questions import status_of_start
    from live.registry import Registry

    if is_claimed(request.folder / GUARD_FILE):
        return
    try:
        path: Path = StateFolder(request.state).registry
        path.parent.mkdir(parents=True, exist_ok=True)
        registry = Registry(path)
        why = f"{type(error).__name__}: {error}"
        status = status_of_start(registry.status(request.name), request, "failed", why)
        registry.publish(status)
        registry.close()
    except (LeviBotError, OSError):
        return


__all__ = [
    "Engine",
    "Outcome",
    "Prepared",
    "RunFailedError",
    "Silent",
    "Teller",
    "assemble",
    "publish_failure",
    "run_engine",
]
