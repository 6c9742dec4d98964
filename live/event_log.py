"""The event log for analysis: the engines' logs as Parquet, and in a ClickHouse where there is one.

It is made from the logs by whoever wants it, so that trading processes do nothing for it. A day's
Parquet file is written whole and anew as long as the day lasts; ClickHouse gets each line once: how
far it has them is noted after it has confirmed, and a block that is sent again after a failure has
the same token, which ClickHouse uses to drop it (tables of the MergeTree family with
``non_replicated_deduplication_window``, and replicated ones).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from catalog.errors import ConfigError, DataError
from catalog.transactions import write_synced
from live.engine_log import LINKS, LogFile, log_files
from live.state_folder import StateFolder

if TYPE_CHECKING:
    import pyarrow as pa

CLICKHOUSE_USER = "CLICKHOUSE_USER"
CLICKHOUSE_PASSWORD = "CLICKHOUSE_PASSWORD"  # noqa: S105 - the variable's name
"""Environment variables with the account at the ClickHouse."""

COLUMNS = ("ts", "level", "engine", "kind", "text", "instrument_id", *LINKS)
"""Columns of their own; everything else of a line is JSON text in ``fields``."""
_TABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$")
_BLOCK_BYTES = 1_000_000
_TIMEOUT_SECS = 30.0


class Exported(NamedTuple):
    """What was written.

    Parameters
    ----------
    folder : Path
        Of the Parquet files, one folder for each engine.
    files, rows : int
        Parquet files written anew, and rows in them.
    sent : int
        Lines that ClickHouse took.
    """

    folder: Path
    files: int
    rows: int
    sent: int

    def to_json(self) -> dict[str, Any]:
        """Return the counts for programs."""
        return {**self._asdict(), "folder": str(self.folder)}


@dataclass(frozen=True, slots=True)
class ClickHouse:
    """A ClickHouse server's HTTP interface.

    Parameters
    ----------
    url : str
        Such as ``http://127.0.0.1:8123``, without an account in it.
    table : str
        Where the lines go; made if it is not there.
    user, password : str
        The account; never shown.
    """

    url: str
    table: str
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str, table: str) -> ClickHouse:
        """Return a server with the account of the environment.

        Raises
        ------
        ConfigError
            If address or table cannot be one.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ConfigError(
                "--clickhouse must be http(s)://host:port without an account in it (the account is "
                f"{CLICKHOUSE_USER} and {CLICKHOUSE_PASSWORD} of the environment), was another"
            )
        if _TABLE.match(table) is None:
            raise ConfigError(f"--table must be a name such as levibot_events, was {table!r}")
        user, password = (os.environ.get(one, "") for one in (CLICKHOUSE_USER, CLICKHOUSE_PASSWORD))
        return cls(url.rstrip("/"), table, user, password)

    def prepare(self) -> None:
        """Make the table where there is none.

        Raises
        ------
        DataError
            If the server does not do it.
        """
        texts = ", ".join(f"{name} String" for name in COLUMNS if name not in ("ts", "level"))
        self._post(
            f"CREATE TABLE IF NOT EXISTS {self.table} (ts DateTime64(9, 'UTC'), "
            f"level LowCardinality(String), {texts}, fields String) ENGINE = MergeTree "
            "PARTITION BY toYYYYMM(ts) ORDER BY (engine, ts) "
            "SETTINGS non_replicated_deduplication_window = 1000",
            b"",
            {},
        )

    def insert(self, rows: list[dict[str, Any]], token: str) -> None:
        """Send rows as one block.

        Parameters
        ----------
        rows : list of dict
            As `event_row` makes them.
        token : str
            Of the block: one that is sent twice is taken once.

        Raises
        ------
        DataError
            If the server does not confirm.
        """
        body = "\n".join(json.dumps({**one, "ts": _decimal(one["ts"])}) for one in rows)
        self._post(
            f"INSERT INTO {self.table} FORMAT JSONEachRow",
            body.encode(),
            {"insert_deduplication_token": token},
        )

    def _post(self, query: str, body: bytes, settings: dict[str, str]) -> None:
        import requests

        headers = {}
        if self.user:
            headers = {"X-ClickHouse-User": self.user, "X-ClickHouse-Key": self.password}
        try:
            answer = requests.post(
                f"{self.url}/?{urlencode({'query': query, **settings})}",
                data=body,
                headers=headers,
                timeout=_TIMEOUT_SECS,
            )
        except requests.RequestException as error:
            raise DataError(
                f"ClickHouse at {self.url} must answer, did not ({type(error).__name__}): start it "
                "or leave --clickhouse out; what it has not confirmed is sent again next time"
            ) from None
        if answer.status_code != 200:
            raise DataError(
                f"ClickHouse at {self.url} must confirm, said {answer.status_code}: "
                f"{answer.text[:200].strip()}"
            )


def event_row(record: dict[str, Any]) -> dict[str, Any]:
    """Return a line of a log as a row: `COLUMNS`, and the rest as JSON text."""
    rest = {name: one for name, one in record.items() if name not in (*COLUMNS, "time")}
    row: dict[str, Any] = {name: str(record.get(name) or "") for name in COLUMNS}
    return {**row, "ts": int(record["ts"]), "fields": json.dumps(rest, sort_keys=True)}


def export_events(
    state: Path, engines: tuple[str, ...] = (), target: ClickHouse | None = None
) -> Exported:
    """Write what is new in the logs of a state folder.

    Parameters
    ----------
    state : Path
        State folder.
    engines : tuple of str
        Only of these; () for all.
    target : ClickHouse, optional
        Also there.

    Raises
    ------
    DataError
        If there are no logs, or the server does not take them.
    """
    folder = StateFolder(state)
    files = [one for one in log_files(folder.logs) if not engines or one.engine in engines]
    if not files:
        raise DataError(f"there must be logs in {folder.logs}, were none: check --state")
    written = rows = sent = 0
    if target is not None:
        target.prepare()
    for one in files:
        count = _write_parquet(one, folder.events(one.engine))
        written, rows = written + (count > 0), rows + count
        if target is not None:
            sent += _send(one, folder.events(one.engine), target)
    return Exported(state / "events", written, rows, sent)


def _write_parquet(file: LogFile, folder: Path) -> int:
    """Write a day's file unless it has all of the log already; return its rows."""
    import pyarrow.parquet as pq

    size = file.path.stat().st_size
    path = folder / f"{file.day}.parquet"
    if path.is_file():
        known = (pq.read_schema(path).metadata or {}).get(b"levibot_log_bytes", b"")
        if known == str(size).encode():
            return 0
    rows = [event_row(record) for record, _ in _lines(file.path, 0, size)]
    if not rows:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pq.write_table(_table(rows, size), temporary, compression="zstd")
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)
    return len(rows)


def _table(rows: list[dict[str, Any]], size: int) -> pa.Table:
    import pyarrow as pa

    texts = [(name, pa.string()) for name in (*COLUMNS[1:], "fields")]
    schema = pa.schema(
        [("ts", pa.timestamp("ns", tz="UTC")), *texts],
        metadata={"levibot_log_bytes": str(size)},
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _send(file: LogFile, folder: Path, target: ClickHouse) -> int:
    """Send what is new in a file, block by block, and note after each how far it has come.

    Which block comes next is noted before it is sent: after a failure the very same one is sent
    again, so that its token says the truth.
    """
    digest = hashlib.sha256(f"{target.url} {target.table}".encode()).hexdigest()[:12]
    mark = folder / f".{file.day}.{digest}.sent"
    done, pending = _marked(mark)
    sent = 0
    while True:
        limit = pending or done + _BLOCK_BYTES
        lines = list(_lines(file.path, done, limit))
        if not lines:
            return sent
        end = pending or lines[-1][1]
        _mark(mark, done, end)
        target.insert([event_row(record) for record, _ in lines], f"{file.path.name}:{done}:{end}")
        _mark(mark, end, 0)
        sent += len(lines)
        done, pending = end, 0


def _marked(mark: Path) -> tuple[int, int]:
    """Return how far a file was sent, and the end of a block that may have been; 0 for none."""
    if not mark.is_file():
        return 0, 0
    done, pending = mark.read_text(encoding="ascii").split()
    return int(done), int(pending)


def _mark(mark: Path, done: int, pending: int) -> None:
    temporary = mark.with_suffix(".tmp")
    write_synced(temporary, f"{done} {pending}".encode())
    temporary.replace(mark)


def _lines(path: Path, start: int, end: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the whole lines that begin in a part of a file, with the place behind each."""
    with path.open("rb") as file:
        file.seek(start)
        while file.tell() < end:
            line = file.readline()
            if not line.endswith(b"\n"):
                # It is being written.
                return
            try:
                record = json.loads(line)
            except ValueError:
                # A killed process left it unfinished.
                continue
            if isinstance(record, dict) and isinstance(record.get("ts"), int):
                yield record, file.tell()


def _decimal(ts: int) -> str:
    seconds, rest = divmod(ts, 1_000_000_000)
    return f"{seconds}.{rest:09d}"
