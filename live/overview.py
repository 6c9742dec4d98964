"""What the registry says about all engines at one moment, and what follows from it.

The API, the metrics and `levibot live top` show the same: they all read it here. Reading needs no
process to be alive.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from catalog.errors import DataError
from catalog.instruments import symbol_of
from catalog.timestamps import NS_PER_DAY, NS_PER_SECOND
from live.engine_status import RUNNING, EngineStatus, PredictionStatus
from live.kill_switch import KillSwitch, read_kill
from live.processes import ProcessId
from live.registry import ALERTS_FACT, REGISTRY_FILE, SUPERVISOR_FACT, EngineRecord, Registry

SILENT_AFTER_SECS = 10.0
"""An engine says something every second; one that has not for so long counts as not running."""


@dataclass(frozen=True, slots=True)
class EngineView:
    """One engine as it is at a time.

    Parameters
    ----------
    status : EngineStatus
        What it last said of itself.
    record : EngineRecord or None
        What its supervisor knows of its process; None if it has none.
    now_ns : int
        The time, UTC nanoseconds.
    """

    status: EngineStatus
    record: EngineRecord | None
    now_ns: int

    @property
    def name(self) -> str:
        """Return the engine's name."""
        return self.status.engine

    @property
    def heartbeat_age_secs(self) -> float | None:
        """Return the seconds since its thread last did something; None if it never did."""
        return self.age_secs(self.status.heartbeat_ns)

    @property
    def running(self) -> bool:
        """Return whether it says that it runs, and said so a moment ago."""
        age = self.heartbeat_age_secs
        return self.status.state in RUNNING and age is not None and age <= SILENT_AFTER_SECS

    @property
    def has_process(self) -> bool:
        """Return whether a process of the engine is there, whatever it says."""
        said = (self.status,) if self.record is None else (self.status, self.record)
        return any(ProcessId(one.pid, one.process_start_ns, one.boot).alive() for one in said)

    @property
    def wanted(self) -> bool:
        """Return whether it is to run: its supervisor says so, else its own last word."""
        if self.record is not None:
            return self.record.wanted
        return self.status.state not in ("stopped", "stopping")

    @property
    def drawdown_frac(self) -> float | None:
        """Return how far equity is below its peak, as a fraction of the peak."""
        return _below(self.status.equity, self.status.peak_equity)

    @property
    def day_loss_frac(self) -> float | None:
        """Return the loss since the start of the UTC day, as a fraction; negative is a gain."""
        return _below(self.status.equity, self.status.day_start_equity)

    @property
    def problems(self) -> tuple[str, ...]:
        """Return what is wrong with it, in words; nothing of one that is not wanted."""
        return tuple(self._problems()) if self.wanted else ()

    def age_secs(self, ts_ns: int) -> float | None:
        """Return the seconds since a time; None if that is unknown."""
        return max(0.0, (self.now_ns - ts_ns) / NS_PER_SECOND) if ts_ns else None

    def input_ages_secs(self) -> dict[str, float | None]:
        """Return the age of each input now: an engine that is silent does not keep them young."""
        since = self.heartbeat_age_secs or 0.0
        ages = self.status.input_ages_s
        return {name: None if age is None else age + since for name, age in ages.items()}

    def _problems(self) -> list[str]:
        status, record = self.status, self.record
        found: list[str] = []
        if record is not None and record.stage == "given_up":
            found.append(f"given up after {record.failures_in_row} failures: {record.last_error}")
        elif record is not None and record.stage in ("backoff", "stopped"):
            found.append(f"no process ({record.stage}): {record.last_error or 'not started yet'}")
        elif status.state not in RUNNING:
            found.append(f"{status.state}: {status.last_error or 'no reason known'}")
        elif not self.running:
            age = self.heartbeat_age_secs
            said = "never a heartbeat" if age is None else f"no heartbeat for {age:.0f} s"
            found.append(said)
        elif status.state == "waiting":
            found.append("waits for data, without new entries")
        if status.guard.level != "normal":
            why = ", ".join(status.guard.reasons) or "no reason known"
            found.append(f"risk guard {status.guard.level}: {why}")
        if status.blocked and status.state in RUNNING:
            found.append(f"opens nothing new: {status.blocked}")
        return found


@dataclass(frozen=True, slots=True)
class PredictionView:
    """The newest prediction of an engine for an instrument."""

    engine: str
    instrument: str
    age_secs: float | None
    prediction: PredictionStatus


@dataclass(frozen=True, slots=True)
class Overview:
    """All engines of a state folder at one moment.

    Parameters
    ----------
    now_ns : int
        The moment, UTC nanoseconds.
    engines : tuple of EngineView
        By name.
    kill : KillSwitch or None
        Who set the kill switch; None if it is not set.
    supervised : bool
        Whether a supervisor runs.
    pending : int
        Commands that nobody has answered.
    alerts_failed : int
        Alerts of the supervisor that did not arrive, since it was started.
    """

    now_ns: int
    engines: tuple[EngineView, ...] = ()
    kill: KillSwitch | None = None
    supervised: bool = False
    pending: int = 0
    alerts_failed: int = 0

    def engine(self, name: str) -> EngineView | None:
        """Return an engine; None if there is none of that name."""
        return next((one for one in self.engines if one.name == name), None)

    @property
    def states(self) -> dict[str, int]:
        """Return how many engines say what of themselves; a silent one is ``silent``."""
        return dict(
            Counter(
                "silent" if one.status.state in RUNNING and not one.running else one.status.state
                for one in self.engines
            )
        )

    @property
    def problems(self) -> dict[str, tuple[str, ...]]:
        """Return what is wrong, by engine; only engines with problems."""
        return {one.name: one.problems for one in self.engines if one.problems}

    def predictions(self, symbol: str | None = None) -> list[PredictionView]:
        """Return the newest predictions.

        Parameters
        ----------
        symbol : str, optional
            Only of this instrument, such as ``BTCUSDT-PERP.BINANCE`` or ``BTCUSDT``.
        """
        return [
            PredictionView(view.name, name, view.age_secs(one.ts_ns), one)
            for view in self.engines
            for name, one in view.status.predictions.items()
            if symbol is None or symbol in (name, symbol_of(name))
        ]


class RegistryReader:
    """A state folder's registry for observers: opened when asked, again where it was replaced.

    Parameters
    ----------
    path : Path
        The state folder; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._registry: Registry | None = None
        self._file: tuple[int, int] | None = None

    def registry(self) -> Registry:
        """Return the registry.

        Raises
        ------
        DataError
            If there is none, or it cannot be opened.
        """
        with self._lock:
            file = _identity(self.path / REGISTRY_FILE)
            if self._registry is None or file != self._file:
                self._close()
                self._registry = Registry(
                    self.path / REGISTRY_FILE, create=False, busy_timeout_secs=2.0
                )
                self._file = file
            return self._registry

    def overview(self) -> Overview:
        """Return how everything is now.

        Raises
        ------
        DataError
            If the registry is not there or cannot be read.
        """
        registry = self.registry()
        statuses, records = registry.statuses(), registry.records()
        pending, now = len(registry.pending()), time.time_ns()
        views = tuple(
            EngineView(statuses.get(name) or _unseen(name), records.get(name), now)
            for name in sorted({*statuses, *records})
        )
        supervised = is_supervised(registry, now)
        failed = _number(registry.fact(ALERTS_FACT))
        return Overview(now, views, read_kill(self.path), supervised, pending, failed)

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._registry is not None:
            self._registry.close()
        self._registry = None


@dataclass(frozen=True, slots=True)
class Reading:
    """An overview, or why there is none; for who must show something in either case."""

    overview: Overview = field(default_factory=lambda: Overview(time.time_ns()))
    problem: str = ""

    @classmethod
    def of(cls, folder: RegistryReader) -> Reading:
        """Read a state folder. The kill switch is known without a registry."""
        try:
            return cls(folder.overview())
        except DataError as error:
            return cls(Overview(time.time_ns(), kill=read_kill(folder.path)), str(error))


def replays(status: EngineStatus, now_ns: int) -> bool:
    """Return whether bars are of another day; without any of its own an engine cannot trade."""
    return 0 < status.last_bar_ns < now_ns - NS_PER_DAY


def _unseen(name: str) -> EngineStatus:
    """Return the status of an engine that has never said anything."""
    return EngineStatus(engine=name, state="stopped")


def is_supervised(registry: Registry, now: int) -> bool:
    """Return whether a supervisor has said a moment ago that it is there."""
    fact = registry.fact(SUPERVISOR_FACT)
    if fact is None or now - fact[0] > SILENT_AFTER_SECS * NS_PER_SECOND:
        return False
    try:
        said = json.loads(fact[1])
    except ValueError:
        return False
    return isinstance(said, dict) and bool(said.get("pid"))


def _number(fact: tuple[int, str] | None) -> int:
    return int(fact[1]) if fact is not None and fact[1].isdecimal() else 0


def _below(value: float | None, reference: float | None) -> float | None:
    if value is None or reference is None or reference <= 0.0:
        return None
    return 1.0 - value / reference


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
