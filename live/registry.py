"""The registry: one embedded database that says which engines there are and how they are.

Engines write their status, the supervisor what it knows of their processes, whoever commands a
command and an audit line. Any process may read it at any time (SQLite in WAL mode), also when all
others are dead. It is an observation: it may fail without harm to an engine. Secrets of the
environment are masked in the errors that are stored.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from catalog.errors import DataError
from live.engine_status import EngineStatus, check_engine_name
from live.masking import masked
from live.sqlite_file import open_shared, transaction

type CommandName = Literal["start", "stop", "restart"]
"""What the supervisor does when it is asked."""

type Stage = Literal["stopped", "running", "backoff", "given_up"]
"""Of an engine's process: not there, there, to be started again, or only when a person says so."""

ALL_ENGINES = "*"
REGISTRY_FILE = "registry.db"
SUPERVISOR_FACT = "supervisor"
"""Name of the fact that a running supervisor keeps fresh; its `pid` is 0 at the end."""
ALERTS_FACT = "alerts_failed"
"""Name of the fact that says how many alerts of the running supervisor did not arrive."""
_VERSION = 1
_SCHEMA = """
CREATE TABLE statuses (engine TEXT PRIMARY KEY, published_ns INTEGER NOT NULL,
    status TEXT NOT NULL);
CREATE TABLE engines (engine TEXT PRIMARY KEY, stage TEXT NOT NULL, wanted INTEGER NOT NULL,
    pid INTEGER NOT NULL, process_start_ns INTEGER NOT NULL, boot TEXT NOT NULL,
    started_ns INTEGER NOT NULL, restarts INTEGER NOT NULL, failures_in_row INTEGER NOT NULL,
    next_start_ns INTEGER NOT NULL, last_error TEXT NOT NULL, cpu_frac REAL, rss_bytes INTEGER,
    pss_bytes INTEGER, allotted_equity REAL, settings TEXT NOT NULL);
CREATE TABLE commands (id INTEGER PRIMARY KEY AUTOINCREMENT, ts INTEGER NOT NULL,
    command TEXT NOT NULL, engine TEXT NOT NULL, by TEXT NOT NULL, outcome TEXT,
    answered_ns INTEGER);
CREATE INDEX commands_open ON commands (id) WHERE outcome IS NULL;
CREATE TABLE audit (id INTEGER PRIMARY KEY AUTOINCREMENT, ts INTEGER NOT NULL, who TEXT NOT NULL,
    command TEXT NOT NULL, target TEXT NOT NULL, outcome TEXT NOT NULL);
CREATE TABLE facts (name TEXT PRIMARY KEY, ts INTEGER NOT NULL, value TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """What the supervisor knows of an engine's process. Times are UTC nanoseconds.

    Parameters
    ----------
    engine : str
        Its name.
    stage : str
        See `Stage`.
    wanted : bool
        Whether it is to run.
    pid, process_start_ns, boot : int, int, str
        The process; 0 if there is none.
    started_ns : int
        When the process was started; 0 if there is none.
    restarts : int
        Since the engine was first supervised; kept over restarts of the supervisor.
    failures_in_row : int
        Without a healthy hour between them.
    next_start_ns : int
        When it is tried again; 0 if that is not planned.
    last_error : str
        Why it last failed.
    cpu_frac : float or None
        Share of one core since the last measurement.
    rss_bytes, pss_bytes : int or None
        Resident memory, and its proportional share.
    allotted_equity : float or None
        Its share of the account, USDT.
    settings : str
        Digest of the settings that its process was started with.
    """

    engine: str
    stage: Stage = "stopped"
    wanted: bool = False
    pid: int = 0
    process_start_ns: int = 0
    boot: str = ""
    started_ns: int = 0
    restarts: int = 0
    failures_in_row: int = 0
    next_start_ns: int = 0
    last_error: str = ""
    cpu_frac: float | None = None
    rss_bytes: int | None = None
    pss_bytes: int | None = None
    allotted_equity: float | None = None
    settings: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """What somebody asked for; `outcome` None as long as nobody has answered."""

    id: int
    ts: int
    command: str
    engine: str
    by: str
    outcome: str | None = None
    answered_ns: int | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A command and what came of it."""

    id: int
    ts: int
    who: str
    command: str
    target: str
    outcome: str


_RECORD_FIELDS = tuple(EngineRecord.__dataclass_fields__)


class Registry:
    """The database of one state folder; safe to use from several threads and processes.

    Parameters
    ----------
    path : str or Path
        Its file, usually ``DIR/registry.db``.
    create : bool
        Whether to make it where there is none; who only reads does not.
    busy_timeout_secs : float
        How long to wait for another process's write.

    Raises
    ------
    DataError
        If it cannot be opened, is of another release, or is not there and not to be made.
    """

    def __init__(
        self, path: str | Path, *, create: bool = True, busy_timeout_secs: float = 5.0
    ) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        if not create and not self.path.is_file():
            raise DataError(
                f"the registry {self.path} must be there, was not: check --state, or start an "
                "engine first"
            )
        with self._errors("opened"):
            self._connection = open_shared(self.path, _SCHEMA, _VERSION, busy_timeout_secs)
            self._file = self.path.stat().st_ino

    def close(self) -> None:
        """End the connection; what was written stays."""
        with self._lock:
            self._connection.close()

    def in_place(self) -> bool:
        """Return whether the path still leads to the file that is open.

        Somebody may have removed it, or put another in its place: what is written into the old one
        nobody reads.
        """
        try:
            return self.path.stat().st_ino == self._file
        except OSError:
            return False

    # ---- engines

    def publish(self, status: EngineStatus) -> None:
        """Replace the status of an engine.

        Raises
        ------
        ConfigError
            If its name cannot be an engine's.
        DataError
            If it cannot be written; whoever trades counts that and goes on.
        """
        name = check_engine_name(status.engine)
        self._write(
            "INSERT INTO statuses VALUES (?, ?, ?) ON CONFLICT (engine) DO UPDATE SET "
            "published_ns = excluded.published_ns, status = excluded.status",
            (name, time.time_ns(), _masked(status).to_json()),
        )

    def statuses(self) -> dict[str, EngineStatus]:
        """Return the last status of every engine, by name.

        One that cannot be read has the state ``unknown`` and says why as its last error.
        """
        rows = self._read("SELECT engine, status FROM statuses ORDER BY engine")
        return {name: _decoded(name, text) for name, text in rows}

    def status(self, engine: str) -> EngineStatus | None:
        """Return the last status of an engine; None if there never was one."""
        rows = self._read("SELECT status FROM statuses WHERE engine = ?", (engine,))
        return _decoded(engine, rows[0][0]) if rows else None

    def forget(self, engine: str) -> None:
        """Remove an engine that is no longer wanted, its status included; its audit lines stay."""
        self._write("DELETE FROM statuses WHERE engine = ?", (engine,))
        self._write("DELETE FROM engines WHERE engine = ?", (engine,))

    # ---- what the supervisor knows

    def record(self, record: EngineRecord, *, durable: bool = True) -> None:
        """Replace what is known of an engine's process; `durable` outlives a loss of power."""
        check_engine_name(record.engine)
        columns = ", ".join(_RECORD_FIELDS)
        marks = ", ".join("?" * len(_RECORD_FIELDS))
        values = tuple(getattr(_masked(record), name) for name in _RECORD_FIELDS)
        self._write(f"INSERT OR REPLACE INTO engines ({columns}) VALUES ({marks})", values, durable)  # noqa: S608

    def records(self) -> dict[str, EngineRecord]:
        """Return what is known of every engine's process, by name."""
        columns = ", ".join(_RECORD_FIELDS)
        rows = self._read(f"SELECT {columns} FROM engines ORDER BY engine")  # noqa: S608
        return {
            row[0]: EngineRecord(row[0], row[1], bool(row[2]), *row[3:])  # wanted is an integer
            for row in rows
        }

    # ---- commands

    def ask(self, command: CommandName, engine: str, by: str) -> int:
        """Ask the supervisor for something; return the number of the request.

        Parameters
        ----------
        command : {"start", "stop", "restart"}
            What is to be done.
        engine : str
            Its name, or ``*`` for all.
        by : str
            Who asks.
        """
        if engine != ALL_ENGINES:
            check_engine_name(engine)
        cursor = self._write(
            "INSERT INTO commands (ts, command, engine, by) VALUES (?, ?, ?, ?)",
            (time.time_ns(), command, engine, by),
            True,
        )
        return int(cursor)

    def pending(self) -> tuple[Command, ...]:
        """Return the requests that nobody has answered, the oldest first."""
        return self._commands("WHERE outcome IS NULL ORDER BY id")

    def command(self, number: int) -> Command | None:
        """Return a request with its outcome; None if there is none of that number."""
        found = self._commands("WHERE id = ?", (number,))
        return found[0] if found else None

    def answered(self, number: int, outcome: str) -> None:
        """Say what came of a request."""
        self._write(
            "UPDATE commands SET outcome = ?, answered_ns = ? WHERE id = ?",
            (outcome, time.time_ns(), number),
            True,
        )

    def wait_for(self, number: int, timeout_secs: float) -> str | None:
        """Return what came of a request; None if nobody answered in time."""
        deadline = time.monotonic() + timeout_secs
        while True:
            found = self.command(number)
            if found is not None and found.outcome is not None:
                return found.outcome
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.05)

    # ---- audit

    def audit(self, who: str, command: str, target: str, outcome: str) -> None:
        """Write down a command for ever."""
        self._write(
            "INSERT INTO audit (ts, who, command, target, outcome) VALUES (?, ?, ?, ?, ?)",
            (time.time_ns(), who, command, target, outcome),
            True,
        )

    def audited(self, limit: int = 100) -> tuple[AuditEntry, ...]:
        """Return the newest lines of the audit log, the newest first."""
        rows = self._read(
            "SELECT id, ts, who, command, target, outcome FROM audit ORDER BY id DESC LIMIT ?",
            (limit,),
        )
        return tuple(AuditEntry(*row) for row in rows)

    # ---- facts: single values, such as who supervises

    def set_fact(self, name: str, value: str) -> None:
        """Store a value under a name, with the time."""
        self._write("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (name, time.time_ns(), value))

    def fact(self, name: str) -> tuple[int, str] | None:
        """Return when a value was stored (UTC ns) and the value; None if it never was."""
        rows = self._read("SELECT ts, value FROM facts WHERE name = ?", (name,))
        return (rows[0][0], rows[0][1]) if rows else None

    # ---- how

    def _commands(self, rest: str, values: Sequence[Any] = ()) -> tuple[Command, ...]:
        rows = self._read(
            f"SELECT id, ts, command, engine, by, outcome, answered_ns FROM commands {rest}",  # noqa: S608
            values,
        )
        return tuple(Command(*row) for row in rows)

    def _read(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock, self._errors("read"):
            return self._connection.execute(sql, values).fetchall()

    def _write(self, sql: str, values: Sequence[Any], durable: bool = False) -> int:
        """Run one statement in a transaction of its own; `durable` outlives a loss of power."""
        with self._lock, self._errors("written"):
            if durable:
                self._connection.execute("PRAGMA synchronous = FULL")
            try:
                with transaction(self._connection):
                    return self._connection.execute(sql, values).lastrowid or 0
            finally:
                if durable:
                    self._connection.execute("PRAGMA synchronous = NORMAL")

    @contextlib.contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise DataError(
                f"the registry {self.path} must be usable, could not be {done} ({error}): check "
                "the disk and who may write there; if it is damaged, move it away, its -wal and "
                "-shm too"
            ) from error


def _masked[T: (EngineStatus, EngineRecord)](one: T) -> T:
    return replace(one, last_error=masked(one.last_error)) if one.last_error else one


def _decoded(name: str, text: str) -> EngineStatus:
    try:
        return EngineStatus.from_json(text)
    except DataError as error:
        return EngineStatus(engine=name, state="unknown", last_error=str(error))
