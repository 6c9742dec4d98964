"""A SQLite file that one process writes: WAL mode, a lock, transactions, errors with a name."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from catalog.errors import ConfigError, DataError

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
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

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
    handle = path.with_name(f"{path.name}.lock").open("a+", encoding="utf-8")
    deadline = time.monotonic() + _LOCK_WAIT_SECS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            handle.close()
            raise ConfigError(
                f"the state {path} must belong to one process, process {holder} has it: stop that "
                f"one or give another state folder"
            ) from None
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        return handle
