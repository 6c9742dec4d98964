"""The SQLite files of a state folder: WAL mode, transactions, one schema version.

Some belong to one process (an engine's orders, its paper account), others are shared by all (the
registry, the places of an account).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from catalog.errors import ConfigError, DataError
from catalog.locks import HeldError, hold

_LOCK_WAIT_SECS = 2.0


class SqliteFile:
    """A database of one process.

    Parameters
    ----------
    path : Path
        Its folder is made.
    tables : str
        Statements that make what is not there yet.
    schema : int
        Of the tables; a file of another is refused.

    Raises
    ------
    ConfigError
        If another process has it.
    DataError
        If it cannot be written to, is damaged, or of another schema.
    """

    def __init__(self, path: str | Path, tables: str, schema: int) -> None:
        self.path = Path(path)
        self._synchronous = ""
        with self.named_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _claimed(self.path)
            self.db = sqlite3.connect(self.path, isolation_level=None, timeout=5.0)
            self.db.execute("PRAGMA journal_mode=WAL")
            self._be_durable(True)
            self.db.executescript(_META + tables)
            self.db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(schema),))
            (found,) = self.db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        if found != str(schema):
            raise DataError(
                f"schema of {self.path} must be {schema}, was {found}: go on with the version that "
                f"wrote it, or give another state folder"
            )

    def close(self) -> None:
        """Let other processes have it."""
        self.db.close()
        self._lock.close()

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """Write all of it or nothing.

        Parameters
        ----------
        durable : bool
            Whether it is on the disk when this ends. Otherwise it survives the end of the process,
            but a loss of power may take it back, whole, with all that came after.
        """
        with self.named_errors():
            self._be_durable(durable)
            with transaction(self.db):
                yield self.db

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Say which file could not be used, and what to do.

        Raises
        ------
        DataError
            Instead of what SQLite and the system raise.
        """
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise DataError(
                f"the state of an engine must be stored, {self.path} could not be used ({error}): "
                f"make room, restore it from a copy or give another state folder"
            ) from error

    def _be_durable(self, durable: bool) -> None:
        wanted = "FULL" if durable else "NORMAL"
        if wanted != self._synchronous:
            self.db.execute(f"PRAGMA synchronous={wanted}")
            self._synchronous = wanted


_META = "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;"


def _claimed(path: Path) -> IO[str]:
    """Return the lock of a database, which ends with the process."""
    try:
        return hold(path.with_name(f"{path.name}.lock"), _LOCK_WAIT_SECS)
    except HeldError as error:
        raise ConfigError(
            f"the state {path} must belong to one process, process {error.holder} has it: stop "
            f"that one or give another state folder"
        ) from None


def open_shared(
    path: Path,
    schema: str,
    version: int,
    busy_timeout_secs: float,
    fill: Callable[[sqlite3.Connection], None] | None = None,
) -> sqlite3.Connection:
    """Open a database of many processes and make its tables where they are missing.

    Parameters
    ----------
    path : Path
        Its file; its folder is made.
    schema : str
        Statements that make the tables, each ended by ``;`` and a new line.
    version : int
        Of the schema.
    busy_timeout_secs : float
        How long to wait for another process.
    fill : callable, optional
        Writes into a database that is new, before anybody else sees it.

    Raises
    ------
    DataError
        If it is of another version.
    sqlite3.Error, OSError
        If it cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        path, timeout=busy_timeout_secs, isolation_level=None, check_same_thread=False
    )
    try:
        _patiently(busy_timeout_secs, lambda: connection.execute("PRAGMA journal_mode = WAL"))
        connection.execute("PRAGMA synchronous = NORMAL")
        if _version(connection) == 0:
            with transaction(connection):
                # Another process may have been first.
                if _version(connection) == 0:
                    for statement in schema.split(";\n"):
                        connection.execute(statement)
                    if fill is not None:
                        fill(connection)
                    connection.execute(f"PRAGMA user_version = {version}")
        if _version(connection) != version:
            raise DataError(
                f"the database {path} must be of version {version}, was {_version(connection)}: "
                "use the release of LeviBot that made it, or move it away"
            )
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run what is within as one transaction that may write from its start.

    One that began as a reader may not wait for another writer.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have ended the transaction already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _patiently(timeout_secs: float, action: Callable[[], object]) -> None:
    """Repeat what another process's lock prevents; SQLite does not wait for every kind of lock."""
    deadline = time.monotonic() + timeout_secs
    while True:
        try:
            action()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        else:
            return
