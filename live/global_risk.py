"""The risk of all engines of an account together, also of those that are dead.

Daily loss. What every engine has lost since the UTC day was first looked at, against what all had
then; at the policy's `max_daily_loss` the kill switch is set, which every engine's guard obeys by
itself. An engine that has been silent or starting for a minute is counted at the worst that its
last status leaves open: each position at its stop, and a position without a stop at a stated loss
(a restart takes seconds; to count all engines at their stops at each would be to stop trading at
each). Once a person has lifted the switch, losses of that day count anew.

What is paid into an account or taken out of it is neither gain nor loss (`live.account_money`).

Positions and groups. See `live.shared_book`: an engine asks through `GlobalGate` before an order
that adds risk leaves. Where it cannot be asked, nothing is opened; nor is it for some seconds after
the book was made anew, until every engine has said again what it holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY, NS_PER_SECOND
from live.alerts import Alert, Sink
from live.engine_process import EngineEvent
from live.engine_status import EngineStatus, PositionStatus
from live.kill_switch import read_kill, set_kill
from live.overview import replays
from live.processes import ProcessId
from live.registry import EngineRecord, Registry
from live.shared_book import DayStart, Known, Place, SharedBook
from live.state_folder import StateFolder
from strategies.guard_orders import OrderIntent, Refused
from strategies.risk_policy import RiskPolicy

BY_GLOBAL_RISK = "global risk"
"""Who has set the kill switch."""
UNPROTECTED_LOSS_FRAC = 0.10
"""What a dead engine's position without a known stop is taken to lose, of its worth."""
DEAD_NS = 60 * NS_PER_SECOND
"""An engine without a process that has been silent for longer is dead, nanoseconds."""
_ASKED_SECS = 1.0
_SETTLE_SECS = 5.0
"""After a book was made anew: engines look once a second, and say then what they hold."""


class FleetRisk(NamedTuple):
    """All engines at one moment.

    Parameters
    ----------
    equity : float
        USDT; dead engines at their worst.
    start : float
        USDT, at the start of the day.
    dead : tuple of str
        Engines without a process that may hold something.
    """

    equity: float
    start: float
    dead: tuple[str, ...]

    @property
    def loss_frac(self) -> float:
        """Return the loss of the day as a fraction; negative for a gain."""
        return (self.start - self.equity) / self.start if self.start > 0.0 else 0.0


def is_alive(status: EngineStatus) -> bool:
    """Return whether the process of a status still runs."""
    return ProcessId(status.pid, status.process_start_ns, status.boot).alive()


def worst_equity(status: EngineStatus) -> float | None:
    """Return what an account is worth if every position ends at its stop, USDT.

    None where the status does not say what the account was worth.
    """
    if status.equity is None:
        return None
    return status.equity - sum(_loss_to_stop(one) for one in status.positions.values())


def _loss_to_stop(position: PositionStatus) -> float:
    mark = position.mark if position.mark is not None else position.entry_price
    if mark is None:
        return 0.0
    if position.stop is None:
        return abs(position.quantity) * mark * UNPROTECTED_LOSS_FRAC
    return max(position.quantity * (mark - position.stop), 0.0)


def measure(
    statuses: Mapping[str, EngineStatus],
    book: SharedBook,
    now_ns: int,
    alive: Callable[[EngineStatus], bool] = is_alive,
) -> FleetRisk:
    """Return what all engines have lost today.

    Engines that trade on recorded data are left out: their days are others.

    Parameters
    ----------
    statuses : mapping of str to EngineStatus
        The last of every engine.
    book : SharedBook
        Keeps what they had at the start of the day.
    now_ns : int
        UTC nanoseconds.
    alive : callable
        Whether an engine's process runs.

    Raises
    ------
    DataError
        If the book cannot be used.
    """
    equity: dict[str, float] = {}
    present: dict[str, DayStart] = {}
    scales: dict[str, float] = {}
    dead = []
    for name, status in statuses.items():
        if status.equity is None or replays(status, now_ns):
            continue
        running = now_ns - status.heartbeat_ns <= DEAD_NS or alive(status)
        # Who still asks its exchange knows nothing new of what it holds.
        running = running and not (
            status.state == "starting" and now_ns - status.started_ns > DEAD_NS
        )
        worst = status.equity if running else worst_equity(status)
        assert worst is not None
        equity[name], scales[name] = worst, status.transfer_scale
        present[name] = DayStart(status.equity / scales[name], status.allotted_equity)
        if not running and status.positions:
            dead.append(name)
    starts = book.day_starts(now_ns // NS_PER_DAY, present)
    known = [name for name in starts if name in equity]
    return FleetRisk(
        sum(equity[name] for name in known),
        sum(starts[name].equity * scales[name] for name in known),
        tuple(dead),
    )


def known_from(folder: StateFolder, now_ns: int) -> Known:
    """Return what the registry's last statuses say, for a book that is made anew.

    Raises
    ------
    DataError
        If it cannot be read. Where there is none, nothing is known.
    """
    day = now_ns // NS_PER_DAY
    if not folder.registry.is_file():
        return Known((), day, {})
    registry = Registry(folder.registry, create=False, busy_timeout_secs=0.5)
    try:
        statuses = registry.statuses()
    finally:
        registry.close()
    places, starts = [], {}
    for name, status in statuses.items():
        if replays(status, now_ns):
            continue
        for instrument, held in status.positions.items():
            if held.quantity:
                places.append(Place(name, instrument, held.quantity > 0.0, held.quantity < 0.0))
        begun = status.day_start_equity
        if begun is not None and status.heartbeat_ns // NS_PER_DAY == day:
            starts[name] = DayStart(begun / status.transfer_scale, status.allotted_equity)
    return Known(tuple(places), day, starts)


class GlobalRisk:
    """An observer of the supervisor that sets the kill switch at the daily loss of all engines.

    Parameters
    ----------
    folder : StateFolder
        Of the account.
    max_daily_loss : callable
        Returns a fraction of what all engines had at the start of the day: policies may change.
    sink : callable
        Takes the alert.
    clock : callable
        Returns UTC nanoseconds.
    """

    def __init__(
        self,
        folder: StateFolder,
        max_daily_loss: Callable[[], float],
        sink: Sink,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._folder = folder
        self._max_daily_loss = max_daily_loss
        self._sink = sink
        self._clock = clock
        self._book = SharedBook(folder.shared_book, known=lambda: known_from(folder, clock()))

    def on_event(self, event: EngineEvent) -> None:
        """Take no note: what counts is how the engines are."""

    def on_look(self, statuses: dict[str, EngineStatus], records: dict[str, EngineRecord]) -> None:
        """Set the kill switch where all engines together have lost too much today."""
        now = self._clock()
        day = now // NS_PER_DAY
        found = measure(statuses, self._book, now)
        stopped = self._book.stop_of(day) is not None
        if stopped and read_kill(self._folder.root) is None:
            # A person has lifted it, knowing why it was set.
            self._book.begin_day_anew(day)
            return
        most = self._max_daily_loss()
        if stopped or found.loss_frac < most:
            return
        dead = f"; without a process, at their worst: {', '.join(found.dead)}" if found.dead else ""
        why = (
            f"all engines together must lose less than {most:.2%} a day, lost "
            f"{found.loss_frac:.2%} of {found.start:.2f} USDT{dead}"
        )
        # The switch first: nothing that is noted may delay it.
        set_kill(self._folder.root, BY_GLOBAL_RISK, why)
        self._book.stopped(day, why)
        self._sink(Alert("global_risk", "all engines", why))


@dataclass(slots=True)
class _Loss:
    """The loss of the day as last measured, and when (monotonic seconds)."""

    frac: float = 0.0
    at: float = -1e9


class GlobalGate:
    """An engine's part of the global risk: a `strategies.guard_orders.EntryGate`.

    Parameters
    ----------
    folder : StateFolder
        Of the account.
    engine : str
        Its name.

    Raises
    ------
    DataError
        If the shared book cannot be opened.
    """

    def __init__(self, folder: StateFolder, engine: str) -> None:
        self.refusals = 0
        self.failures = 0
        self.last_failure = ""
        self._engine = engine
        self._folder = folder
        self._book = SharedBook(
            folder.shared_book,
            busy_timeout_secs=0.5,
            known=lambda: known_from(folder, time.time_ns()),
        )
        self._renewed = self._book.renewed
        self._settled_at = 0.0
        self._registry: Registry | None = None
        self._registry_file = 0
        self._held: dict[str, tuple[bool, bool]] | None = None
        self._loss = _Loss()

    def admit(self, policy: RiskPolicy, intent: OrderIntent) -> Refused | None:
        """Take the place of an order that adds risk, or return why it may not leave.

        Never raises: what cannot be asked is refused.
        """
        place = Place(self._engine, intent.instrument_id, intent.side > 0, intent.side < 0)
        try:
            refused = self._unsettled() or self._lost_too_much(policy)
            refused = refused or self._book.take(policy, place)
        except DataError as error:
            self._failed(error)
            refused = Refused("global_unknown", str(error))
        if refused is not None:
            self.refusals += 1
        else:
            # What is taken is given back by the next `hold`, if nothing comes of it.
            self._held = None
        return refused

    def hold(self, occupied: Mapping[str, tuple[bool, bool]]) -> None:
        """Say what the engine holds and has under way. Never raises: it is said again."""
        present = dict(occupied)
        try:
            self._unsettled()
            if present == self._held:
                return
            self._book.hold(self._engine, present)
        except DataError as error:
            self._failed(error)
        else:
            self._held = present

    def close(self) -> None:
        """End the connections; places stay taken as they are."""
        self._book.close()
        if self._registry is not None:
            self._registry.close()

    def _unsettled(self) -> Refused | None:
        """Follow the book's file; refuse while not every engine can have said what it holds."""
        self._book.refresh()
        now = time.monotonic()
        if self._book.renewed != self._renewed:
            self._renewed, self._held = self._book.renewed, None
            self._settled_at = now + _SETTLE_SECS
        if now >= self._settled_at:
            return None
        return Refused(
            "global_unknown",
            f"the book of all engines {self._book.path} must stay where it is, was removed or "
            f"replaced: it was made anew, and nothing is opened for {_SETTLE_SECS:g} s, until "
            "every engine has said again what it holds",
        )

    def _statuses(self) -> dict[str, EngineStatus]:
        """Return what the engines said last, of the registry that is there now."""
        path = self._folder.registry
        there = path.stat().st_ino if path.exists() else 0
        if self._registry is not None and there != self._registry_file:
            self._registry.close()
            self._registry = None
        if self._registry is None:
            self._registry = Registry(path, busy_timeout_secs=0.5)
            self._registry_file = path.stat().st_ino
        return self._registry.statuses()

    def _lost_too_much(self, policy: RiskPolicy) -> Refused | None:
        now = time.monotonic()
        if now - self._loss.at > _ASKED_SECS:
            found = measure(self._statuses(), self._book, time.time_ns())
            self._loss = _Loss(found.loss_frac, now)
        if self._loss.frac < policy.max_daily_loss:
            return None
        return Refused(
            "global_loss",
            f"all engines together must lose less than {policy.max_daily_loss:.2%} a day, "
            f"lost {self._loss.frac:.2%}",
        )

    def _failed(self, error: DataError) -> None:
        self.failures += 1
        self.last_failure = str(error)


def release_places(state: Path, engine: str) -> int:
    """Give back the places of an engine that is gone for good, and return how many there were.

    Raises
    ------
    DataError
        If the book cannot be used.
    """
    book = SharedBook(StateFolder(state).shared_book)
    try:
        count = sum(one.engine == engine for one in book.places())
        book.hold(engine, {})
    finally:
        book.close()
    return count
