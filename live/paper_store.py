"""Where a paper account outlives its process: an exchange of its own beside the engine's journal.

The paper exchange writes down what it does before it tells of it, as a real one would, so that an
engine that starts again can ask it for each of its orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from live.paper_orders import (
    PaperAccept,
    PaperCancel,
    PaperEvent,
    PaperFill,
    PaperOrder,
    PaperReject,
)
from live.paper_state import PaperSnapshot
from live.sqlite_file import SqliteFile
from strategies.order_reports import OrderReport, TradeReport
from strategies.recorder import MAKER, TAKER

SCHEMA = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS account (
    only INTEGER PRIMARY KEY CHECK (only = 1), content TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS orders (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    client_order_id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    ts_event INTEGER NOT NULL,
    detail TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS trades (
    trade_id TEXT PRIMARY KEY,
    client_order_id TEXT NOT NULL,
    ts_event INTEGER NOT NULL,
    quantity REAL NOT NULL,
    price REAL NOT NULL,
    reference REAL NOT NULL,
    commission REAL NOT NULL,
    liquidity TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS trades_of ON trades (client_order_id);
"""
_NEW = (
    "INSERT INTO orders (client_order_id, status, ts_event, detail) VALUES (?, 'SUBMITTED', ?, '')"
)
_STATUS = "UPDATE orders SET status = ?, ts_event = ?, detail = ? WHERE client_order_id = ?"
_TRADE = "INSERT INTO trades VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class NamedEvent(NamedTuple):
    """What the paper exchange did, and the name of the trade if it is one."""

    event: PaperEvent
    trade_id: str = ""


class PaperStore:
    """The database of one paper account; one process has it at a time.

    Parameters
    ----------
    path : Path
        Such as ``state/engines/BTCUSDT/paper.db``; its folder is made.

    Raises
    ------
    ConfigError
        If another process has it.
    DataError
        If it cannot be written to, is damaged, or of another schema.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = SqliteFile(path, _TABLES, SCHEMA)

    def close(self) -> None:
        """Let other processes have it."""
        self._file.close()

    def snapshot(self) -> PaperSnapshot | None:
        """Return the account, None for a new one.

        Raises
        ------
        DataError
            If it is damaged or of another schema.
        """
        with self._file.named_errors():
            row = self._file.db.execute("SELECT content FROM account").fetchone()
        return None if row is None else PaperSnapshot.from_json(row[0])

    def keep(
        self,
        snapshot: PaperSnapshot,
        events: Sequence[NamedEvent] = (),
        received: tuple[PaperOrder, int] | None = None,
    ) -> None:
        """Write the account and what led to it, all or nothing; on the disk if anything traded.

        Parameters
        ----------
        snapshot : PaperSnapshot
            The account after it.
        events : sequence of NamedEvent
            What the exchange did.
        received : (PaperOrder, int), optional
            An order that has come in, and when (UTC nanoseconds).

        Raises
        ------
        DataError
            If it cannot be written, or the name of the order was used before.
        """
        with self._file.transaction(durable=bool(events)) as db:
            if received is not None:
                order, ts = received
                db.execute(_NEW, (order.client_order_id, ts))
            for event, trade_id in events:
                name = event.order.client_order_id
                if isinstance(event, PaperFill):
                    db.execute(_TRADE, _trade(event, trade_id))
                status, detail = _status(event)
                db.execute(_STATUS, (status, event.ts_event, detail, name))
            db.execute("INSERT OR REPLACE INTO account VALUES (1, ?)", (snapshot.to_json(),))

    def lookup(self, client_order_id: str) -> OrderReport | None:
        """Return what the paper exchange knows of an order; None if it never came in."""
        with self._file.named_errors():
            db = self._file.db
            row = db.execute(
                "SELECT status, ts_event, detail FROM orders WHERE client_order_id = ?",
                (client_order_id,),
            ).fetchone()
            trades = db.execute(
                "SELECT trade_id, ts_event, quantity, price, commission, liquidity FROM trades "
                "WHERE client_order_id = ? ORDER BY rowid",
                (client_order_id,),
            ).fetchall()
        if row is None:
            return None
        status, ts_event, detail = row
        told = tuple(TradeReport(*one) for one in trades)
        return OrderReport(client_order_id, status, told, ts_event, detail)

    def reference(self, trade_id: str) -> float | None:
        """Return the price before slippage of a trade, None for one that there never was."""
        with self._file.named_errors():
            query = "SELECT reference FROM trades WHERE trade_id = ?"
            row = self._file.db.execute(query, (trade_id,)).fetchone()
        return None if row is None else float(row[0])


def _trade(fill: PaperFill, trade_id: str) -> tuple[object, ...]:
    return (
        trade_id,
        fill.order.client_order_id,
        fill.ts_event,
        fill.quantity,
        fill.price,
        fill.reference,
        fill.commission,
        MAKER if fill.made else TAKER,
    )


def _status(event: PaperEvent) -> tuple[str, str]:
    if isinstance(event, PaperAccept):
        return "ACCEPTED", ""
    if isinstance(event, PaperCancel):
        return "CANCELED", ""
    if isinstance(event, PaperReject):
        return "REJECTED", event.reason
    return ("PARTIALLY_FILLED" if event.left > 0.0 else "FILLED"), ""
