"""What all engines of an account hold together: one place for each instrument, in one database.

An engine takes an instrument's place before it sends an order that may open a position there, and
gives it back when nothing is held or under way. Taking is one transaction over the places of all
engines, so two engines that decide at the same bar cannot both take the last one. The places of an
engine that died stay taken: it may hold what it held, and what it had just sent.

A file that somebody has removed or replaced while engines run would give each of them a book of its
own. So whoever uses it looks whether its path still leads to what is open; if not, a new file is
made with what the engines last said that they hold, and each of them says it anew (`renewed`).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from catalog.errors import DataError
from live.engine_status import check_engine_name
from live.sqlite_file import open_shared, transaction
from strategies.guard_orders import Refused
from strategies.risk_policy import RiskPolicy

_VERSION = 1
_SCHEMA = """
CREATE TABLE places (engine TEXT NOT NULL, instrument TEXT NOT NULL, long INTEGER NOT NULL,
    short INTEGER NOT NULL, ts INTEGER NOT NULL, PRIMARY KEY (engine, instrument));
CREATE TABLE days (day INTEGER NOT NULL, engine TEXT NOT NULL, equity REAL NOT NULL,
    allotted REAL, PRIMARY KEY (day, engine));
CREATE TABLE stops (day INTEGER PRIMARY KEY, ts INTEGER NOT NULL, why TEXT NOT NULL);
"""
_KEEP_DAYS = 7


class Place(NamedTuple):
    """An instrument that an engine holds or may hold, and on which sides."""

    engine: str
    instrument: str
    long: bool
    short: bool


class DayStart(NamedTuple):
    """What an engine's account was worth when a UTC day was first looked at, USDT.

    `equity` is divided by what payments into and out of its books have multiplied it by
    (`EngineStatus.transfer_scale`), so that neither is a gain or a loss; `allotted` is its part of
    the account then.
    """

    equity: float
    allotted: float | None


class Known(NamedTuple):
    """What is known from elsewhere, for a book that is made anew.

    Parameters
    ----------
    places : tuple of Place
        What engines hold.
    day : int
        Days since 1970, UTC.
    starts : dict of str to DayStart
        What their accounts were worth when it began.
    """

    places: tuple[Place, ...]
    day: int
    starts: dict[str, DayStart]


class SharedBook:
    """The database of one account; safe to use from several threads and processes.

    Parameters
    ----------
    path : str or Path
        Its file; made where there is none.
    busy_timeout_secs : float
        How long to wait for another engine.
    known : callable, optional
        Returns what a new file begins with; raises `DataError` where that cannot be had.

    Attributes
    ----------
    renewed : int
        How often the file was found to be another one than before.

    Raises
    ------
    DataError
        If it cannot be opened, or is of another release.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        busy_timeout_secs: float = 1.0,
        known: Callable[[], Known] | None = None,
    ) -> None:
        self.path = Path(path)
        self.renewed = 0
        self._busy_timeout_secs = busy_timeout_secs
        self._known = known
        self._lock = threading.Lock()
        self._identity = 0
        with self._errors("opened"):
            self._connection = self._open()

    def refresh(self) -> None:
        """Go over to the file that is there now, if it is another one; 3 µs where it is not.

        Raises
        ------
        DataError
            If it cannot be opened.
        """
        with self._lock, self._errors("opened"):
            self._follow()

    def close(self) -> None:
        """End the connection; what was taken stays."""
        with self._lock:
            self._connection.close()

    # ---- places

    def take(self, policy: RiskPolicy, place: Place) -> Refused | None:
        """Take a place, or return why it may not be taken.

        Parameters
        ----------
        policy : RiskPolicy
            Its `max_positions`, `max_correlated` and `correlation_groups` count over all engines.
        place : Place
            What an order may open.

        Raises
        ------
        DataError
            If it is not known what the others hold.
        """
        check_engine_name(place.engine)
        with self._writing():
            held = self._places()
            refused = crowded(policy, place, held)
            if refused is None:
                self._put(place)
            return refused

    def hold(self, engine: str, occupied: Mapping[str, tuple[bool, bool]]) -> None:
        """Replace the places of an engine by what it holds and has under way.

        Parameters
        ----------
        engine : str
            Its name.
        occupied : mapping
            By instrument, whether long and whether short.
        """
        check_engine_name(engine)
        with self._writing():
            self._connection.execute("DELETE FROM places WHERE engine = ?", (engine,))
            for instrument, (long, short) in occupied.items():
                self._put(Place(engine, instrument, long, short))

    def places(self) -> tuple[Place, ...]:
        """Return every place that is taken."""
        with self._reading():
            return self._places()

    # ---- days

    def day_starts(self, day: int, present: Mapping[str, DayStart]) -> dict[str, DayStart]:
        """Return what each engine's account was worth at the start of a day.

        An engine that is seen for the first time on that day starts with what it has now.

        Parameters
        ----------
        day : int
            Days since 1970, UTC.
        present : mapping of str to DayStart
            What the engines have now.
        """
        with self._writing():
            known = self._starts(day)
            changed = {**present, **known}
            for engine, start in changed.items():
                if known.get(engine) != start:
                    self._connection.execute(
                        "INSERT OR REPLACE INTO days VALUES (?, ?, ?, ?)", (day, engine, *start)
                    )
            if not known:
                self._connection.execute("DELETE FROM days WHERE day < ?", (day - _KEEP_DAYS,))
            return changed

    def begin_day_anew(self, day: int) -> None:
        """Let losses of a day count from now on: a person has seen them."""
        with self._writing():
            self._connection.execute("DELETE FROM days WHERE day = ?", (day,))
            self._connection.execute("DELETE FROM stops WHERE day = ?", (day,))

    def stopped(self, day: int, why: str) -> None:
        """Note that the global stop was called for on a day."""
        with self._writing():
            self._connection.execute(
                "INSERT OR REPLACE INTO stops VALUES (?, ?, ?)", (day, time.time_ns(), why)
            )

    def stop_of(self, day: int) -> str | None:
        """Return why the global stop was called for on a day; None if it was not."""
        with self._reading():
            row = self._connection.execute("SELECT why FROM stops WHERE day = ?", (day,)).fetchone()
        return None if row is None else str(row[0])

    # ---- how

    def _open(self) -> sqlite3.Connection:
        fill = None if self._known is None else self._fill
        found = open_shared(self.path, _SCHEMA, _VERSION, self._busy_timeout_secs, fill)
        self._identity = self.path.stat().st_ino
        return found

    def _follow(self) -> None:
        try:
            if self.path.stat().st_ino == self._identity:
                return
        except FileNotFoundError:
            pass
        # First what may fail: without a book nothing is opened.
        self._identity, before = 0, self._connection
        self._connection = self._open()
        self.renewed += 1
        before.close()

    def _fill(self, connection: sqlite3.Connection) -> None:
        assert self._known is not None
        found = self._known()
        for place in found.places:
            self._put(place, connection)
        for engine, start in found.starts.items():
            row = (found.day, engine, *start)
            connection.execute("INSERT OR REPLACE INTO days VALUES (?, ?, ?, ?)", row)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock, self._errors("written"):
            self._follow()
            with transaction(self._connection):
                yield

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, self._errors("read"):
            self._follow()
            yield

    def _places(self) -> tuple[Place, ...]:
        rows = self._connection.execute(
            "SELECT engine, instrument, long, short FROM places ORDER BY instrument, engine"
        )
        return tuple(Place(one[0], one[1], bool(one[2]), bool(one[3])) for one in rows)

    def _put(self, place: Place, connection: sqlite3.Connection | None = None) -> None:
        (connection or self._connection).execute(
            "INSERT INTO places VALUES (?, ?, ?, ?, ?) ON CONFLICT (engine, instrument) DO UPDATE "
            "SET long = long | excluded.long, short = short | excluded.short",
            (place.engine, place.instrument, place.long, place.short, time.time_ns()),
        )

    def _starts(self, day: int) -> dict[str, DayStart]:
        rows = self._connection.execute(
            "SELECT engine, equity, allotted FROM days WHERE day = ?", (day,)
        )
        return {one[0]: DayStart(one[1], one[2]) for one in rows}

    @contextlib.contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise DataError(
                f"the book of all engines {self.path} must be usable, could not be {done} "
                f"({error}): check the disk; nothing is opened until it is"
            ) from error


def crowded(policy: RiskPolicy, place: Place, held: tuple[Place, ...]) -> Refused | None:
    """Return why a place may not be taken beside those that are; None if it may.

    Parameters
    ----------
    policy : RiskPolicy
        Its limits on positions, over all engines.
    place : Place
        What an order may open.
    held : tuple of Place
        What all engines hold, the asking one included.
    """
    others = {one.instrument: one for one in held if one.instrument != place.instrument}
    if len(others) >= policy.max_positions:
        return Refused(
            "global_positions",
            f"positions of all engines must be at most {policy.max_positions}, "
            f"{place.instrument} would be number {len(others) + 1}",
        )
    counted = {
        name
        for name, one in others.items()
        if policy.correlated_count == "all"
        or (one.long and place.long)
        or (one.short and place.short)
    }
    for group, members in policy.correlation_groups.items():
        if place.instrument not in members:
            continue
        found = sorted(counted & set(members))
        if len(found) >= policy.max_correlated:
            return Refused(
                "global_correlated",
                f"positions of all engines in {group} must be at most {policy.max_correlated}, "
                f"{place.instrument} moves with {', '.join(found)}",
            )
    return None
