"""Opening the small databases of a state folder: WAL mode, one schema version, many processes."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from catalog.errors import DataError


def open_database(
    path: Path, schema: str, version: int, busy_timeout_secs: float
) -> sqlite3.Connection:
    """Open a database and make its tables where they are missing.

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


@contextlib.contextmanager
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
