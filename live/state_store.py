"""The database of one engine: its order journal, and the state that belongs to it.

One SQLite file in WAL mode. Each transaction of a strategy (`strategies.outbox`) is one of the
database: the new orders, what has become known of older ones, the fills, the decisions, and the
whole state after them. One that plans an order is on the disk (synchronous=FULL) before the order
leaves; the others survive the end of the process, and a loss of power at most by being repeated:
what they decided is decided again, and what they knew of an order is asked again.

States of an order: ``planned`` (committed), ``sent`` (handed to the exchange's client, or about to
be), ``acknowledged`` (the exchange has it), ``closed`` (it has ended), ``lost`` (the exchange never
had it).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from live.sqlite_file import SqliteFile
from strategies.kept import LOST
from strategies.outbox import JournalEntry
from strategies.recorder import FINAL_STATUSES, FillRow, OrderRow
from strategies.snapshots import StrategySnapshot

SCHEMA = 1
PLANNED, SENT, ACKNOWLEDGED, CLOSED, LOST_STATE = (
    "planned",
    "sent",
    "acknowledged",
    "closed",
    "lost",
)
_TABLES = """
CREATE TABLE IF NOT EXISTS state (
    section TEXT PRIMARY KEY, content TEXT NOT NULL, written_ns INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS orders (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    client_order_id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    intent TEXT NOT NULL,
    instrument_id TEXT NOT NULL,
    side INTEGER NOT NULL,
    quantity REAL NOT NULL,
    type TEXT NOT NULL,
    trigger_price REAL NOT NULL,
    limit_price REAL NOT NULL,
    reduce_only INTEGER NOT NULL,
    post_only INTEGER NOT NULL,
    reason TEXT NOT NULL,
    ts_init INTEGER NOT NULL,
    ts_decided INTEGER NOT NULL,
    planned_ns INTEGER NOT NULL,
    sent_ns INTEGER NOT NULL DEFAULT 0,
    ts_cancel INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL,
    filled_quantity REAL NOT NULL,
    detail TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS orders_open ON orders (state) WHERE state NOT IN ('closed', 'lost');
CREATE TABLE IF NOT EXISTS fills (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    trade_id TEXT NOT NULL,
    client_order_id TEXT NOT NULL,
    ts_event INTEGER NOT NULL,
    instrument_id TEXT NOT NULL,
    side INTEGER NOT NULL,
    quantity REAL NOT NULL,
    price REAL NOT NULL,
    reference_price REAL,
    commission REAL NOT NULL,
    reason TEXT NOT NULL,
    liquidity TEXT NOT NULL,
    UNIQUE (client_order_id, trade_id)) STRICT;
CREATE TABLE IF NOT EXISTS decisions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    ts_init INTEGER NOT NULL,
    instrument_id TEXT NOT NULL,
    prob_up REAL,
    side INTEGER NOT NULL,
    target_weight REAL NOT NULL,
    reason TEXT NOT NULL,
    quantity REAL NOT NULL,
    client_order_id TEXT NOT NULL) STRICT;
"""
_PLAN = """
INSERT INTO orders (client_order_id, state, intent, instrument_id, side, quantity, type,
    trigger_price, limit_price, reduce_only, post_only, reason, ts_init, ts_decided, planned_ns,
    ts_cancel, status, filled_quantity, detail)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_CHANGE = """
UPDATE orders SET state = CASE WHEN ? = 'planned' THEN state ELSE ? END, status = ?,
    filled_quantity = ?, ts_cancel = ?, detail = ? WHERE client_order_id = ?
"""
_FILL = """
INSERT INTO fills (trade_id, client_order_id, ts_event, instrument_id, side, quantity, price,
    reference_price, commission, reason, liquidity) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_DECIDE = """
INSERT INTO decisions (ts_init, instrument_id, prob_up, side, target_weight, reason, quantity,
    client_order_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_PRUNE_FILLS = """
DELETE FROM fills WHERE client_order_id IN (
    SELECT client_order_id FROM orders WHERE ts_init < ? AND state IN ('closed', 'lost'))
"""
_PRUNE_ORDERS = "DELETE FROM orders WHERE ts_init < ? AND state IN ('closed', 'lost')"
_STATE = """
INSERT INTO state VALUES (?, ?, ?)
ON CONFLICT (section) DO UPDATE SET content = excluded.content, written_ns = excluded.written_ns
"""


class JournalledOrder(NamedTuple):
    """An order in the journal.

    `sent_ns` is when it was handed over by the wall clock, 0 for never; `ts_init` the time of its
    decision; both UTC nanoseconds.
    """

    client_order_id: str
    state: str
    instrument_id: str
    side: int
    quantity: float
    type: str
    reduce_only: bool
    reason: str
    ts_init: int
    sent_ns: int
    ts_cancel: int
    status: str
    filled_quantity: float
    detail: str


_SELECT = f"SELECT {', '.join(JournalledOrder._fields)} FROM orders"  # noqa: S608


class StateStore:
    """The database of one engine; one process has it at a time.

    Parameters
    ----------
    path : Path
        Such as ``state/engines/BTCUSDT/engine.db``; its folder is made.

    Raises
    ------
    ConfigError
        If another process has it.
    DataError
        If it cannot be written to, is damaged, or of another schema.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = SqliteFile(path, _TABLES, SCHEMA)
        self._db = self._file.db

    @property
    def path(self) -> Path:
        """Return where it lies."""
        return self._file.path

    def close(self) -> None:
        """Let other processes have it."""
        self._file.close()

    # ---- what a strategy's outbox asks for

    def commit(self, entry: JournalEntry) -> None:
        """Write all of an entry or nothing; on the disk when it returns if it plans an order.

        Raises
        ------
        DataError
            If it cannot be written, or an order was planned before.
        """
        now = time.time_ns()
        with self._file.transaction(durable=bool(entry.planned)):
            run = self._db.executemany
            run(_PLAN, [_planned(row, now) for row in entry.planned])
            run(_CHANGE, [_changed(row) for row in entry.changed])
            run(_FILL, [(one.trade_id, *_fill(one.fill)) for one in entry.fills])
            run(_DECIDE, entry.decisions)
            content = entry.snapshot.to_json()
            self._db.execute(_STATE, ("strategy", content, now))

    def sending(self, client_order_id: str) -> None:
        """Note that an order is about to leave, by the wall clock."""
        with self._file.transaction(durable=False):
            self._db.execute(
                "UPDATE orders SET state = 'sent', sent_ns = ? WHERE client_order_id = ?",
                (time.time_ns(), client_order_id),
            )

    # ---- what a restart asks for

    def snapshot(self) -> StrategySnapshot | None:
        """Return the state that was committed last; None for an engine that never traded.

        Raises
        ------
        DataError
            If it is damaged or of another schema.
        """
        found = self.read("strategy")
        return None if found is None else StrategySnapshot.from_json(found)

    def unsettled(self) -> list[JournalledOrder]:
        """Return the orders without an outcome, in the order in which they were planned."""
        where = "WHERE state NOT IN ('closed', 'lost') ORDER BY seq"
        return self._orders(where)

    def orders(self) -> Iterator[JournalledOrder]:
        """Return every order of the journal, in the order in which they were planned."""
        return iter(self._orders("ORDER BY seq"))

    def order(self, client_order_id: str) -> JournalledOrder | None:
        """Return one order, None if it was never planned."""
        found = self._orders("WHERE client_order_id = ?", client_order_id)
        return found[0] if found else None

    # ---- other state that belongs to the engine

    def read(self, section: str) -> str | None:
        """Return a section's text, None if there is none."""
        with self._file.named_errors():
            query = "SELECT content FROM state WHERE section = ?"
            row = self._db.execute(query, (section,)).fetchone()
        return None if row is None else str(row[0])

    def write(self, section: str, content: object, *, durable: bool = False) -> None:
        """Write a section of its own, as JSON, at once."""
        text = content if isinstance(content, str) else json.dumps(content)
        with self._file.transaction(durable=durable):
            self._db.execute(_STATE, (section, text, time.time_ns()))

    def prune(self, before_ns: int) -> int:
        """Drop decisions, and orders that have ended, from before a time; return how many rows."""
        with self._file.transaction(durable=False):
            run = self._db.execute
            count = run("DELETE FROM decisions WHERE ts_init < ?", (before_ns,)).rowcount
            count += run(_PRUNE_FILLS, (before_ns,)).rowcount
            count += run(_PRUNE_ORDERS, (before_ns,)).rowcount
        return count

    # ---- how

    def _orders(self, where: str, *values: object) -> list[JournalledOrder]:
        with self._file.named_errors():
            rows = self._db.execute(f"{_SELECT} {where}", values).fetchall()
        found = map(JournalledOrder._make, rows)
        return [one._replace(reduce_only=bool(one.reduce_only)) for one in found]


def _planned(row: OrderRow, now: int) -> tuple[object, ...]:
    return (
        row.client_order_id,
        _state(row),
        row.client_order_id.split("-")[1][0],
        row.instrument_id,
        row.side,
        row.quantity,
        row.type,
        row.trigger_price,
        row.limit_price,
        row.reduce_only,
        row.post_only,
        row.reason,
        row.ts_init,
        row.ts_decided,
        now,
        row.ts_cancel,
        row.status,
        row.filled_quantity,
        row.detail,
    )


def _fill(fill: FillRow) -> tuple[object, ...]:
    return (
        fill.client_order_id,
        fill.ts_event,
        fill.instrument_id,
        fill.side,
        fill.quantity,
        fill.price,
        fill.reference_price,
        fill.commission,
        fill.reason,
        fill.liquidity,
    )


def _changed(row: OrderRow) -> tuple[object, ...]:
    state = _state(row)
    return (
        state,
        state,
        row.status,
        row.filled_quantity,
        row.ts_cancel,
        row.detail,
        row.client_order_id,
    )


def _state(row: OrderRow) -> str:
    if row.status in FINAL_STATUSES:
        return LOST_STATE if row.detail == LOST else CLOSED
    if row.status == "INITIALIZED":
        return PLANNED
    return SENT if row.status == "SUBMITTED" else ACKNOWLEDGED
