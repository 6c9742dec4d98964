"""The frames of an engine's run, from what it left behind: its journal, and its file of rows.

What a killed process held in memory is gone, so nothing is read from there: orders, fills and
decisions are those of the journal, and the account is booked anew from its fills and settlements.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.arrays import BarArrays
from catalog.errors import DataError
from research.predictor import Prediction
from strategies.execution import ExecutionConfig, InstrumentTerms
from strategies.guard_state import GuardEvent
from strategies.ledger import FundingRow
from strategies.outcome import RunFrames, close_books, run_frames
from strategies.recorder import Decision, FillRow, OrderRow, RunRecorder

_ORDERS = """
SELECT client_order_id, ts_init, instrument_id, side, quantity, reason, type, trigger_price,
    limit_price, post_only, ts_decided, ts_cancel, reduce_only, status, detail
FROM orders ORDER BY seq
"""
_FILLS = """
SELECT ts_event, client_order_id, instrument_id, side, quantity, price, commission, reason,
    liquidity FROM fills ORDER BY seq
"""
_DECISIONS = """
SELECT ts_init, instrument_id, prob_up, side, target_weight, reason, quantity, client_order_id
FROM decisions ORDER BY seq
"""


@dataclass(slots=True)
class ToldRows:
    """What predictor, guard and ledger of all lives of an engine said, each thing once.

    A new life says again what it was told again; where it says something else of the same thing,
    both stay, and are seen to differ.
    """

    predictions: list[tuple[Prediction, str]] = field(default_factory=list)
    guard: list[GuardEvent] = field(default_factory=list)
    funding: list[FundingRow] = field(default_factory=list)
    sizes: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By order: what bound its size, and how far its stop is to stand."""

    @classmethod
    def read(cls, path: Path) -> ToldRows:
        """Read a file of rows; a last line that is not whole was never said."""
        found, seen = cls(), set()
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                kind, row = json.loads(line)
            except ValueError:
                continue
            if line not in seen:
                seen.add(line)
                found._take(kind, row)
        return found

    def _take(self, kind: str, row: Any) -> None:
        if kind == "prediction":
            values, missing = row
            fields = [tuple(map(_tuple, one)) if isinstance(one, list) else one for one in values]
            self.predictions.append((Prediction._make(fields), missing))
        elif kind == "guard":
            self.guard.append(GuardEvent(*row))
        elif kind == "funding":
            self.funding.append(FundingRow(*row))
        else:
            self.sizes.setdefault(row[0], (row[1], row[2]))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def journal_frames(
    journal: Path,
    told: ToldRows,
    bars: Sequence[BarArrays],
    terms: Mapping[str, InstrumentTerms],
    execution: ExecutionConfig,
) -> tuple[RunFrames, float]:
    """Return the frames of a run, and the cash that its bookings leave, USDT.

    Parameters
    ----------
    journal : Path
        The engine's database, which no process has open.
    told : ToldRows
        What its lives said.
    bars, terms, execution
        What was traded, as for `strategies.outcome.run_frames`.

    Raises
    ------
    DataError
        If there is no journal.
    """
    if not journal.is_file():
        raise DataError(f"the engine's journal must exist, did not: {journal.name}")
    recorder = RunRecorder(tuple(one.instrument_id for one in bars), execution.starting_balance)
    with closing(sqlite3.connect(journal)) as db:
        for values in db.execute(_ORDERS).fetchall():
            recorder.order(_order(values, told))
        fills = [FillRow(*values) for values in db.execute(_FILLS).fetchall()]
        decisions = db.execute(_DECISIONS).fetchall()
    statuses = {name: row.status for name, row in recorder.orders.items()}
    _book(recorder, fills, told.funding)
    for name, status in statuses.items():
        recorder.order_status(name, status)
    for ts, name, prob_up, *rest in decisions:
        recorder.decision(Decision(ts, name, math.nan if prob_up is None else prob_up, *rest))
    for prediction, missing in told.predictions:
        recorder.predictions.add(prediction, missing)
    recorder.guard_events = told.guard
    close_books(recorder)
    return run_frames(recorder, bars, terms, execution), recorder.ledger.cash


def _order(values: Sequence[Any], told: ToldRows) -> OrderRow:
    names = (
        *("client_order_id", "ts_init", "instrument_id", "side", "quantity", "reason", "type"),
        *("trigger_price", "limit_price", "post_only", "ts_decided", "ts_cancel", "reduce_only"),
        *("status", "detail"),
    )
    row = OrderRow(**dict(zip(names, values, strict=True)))
    row.post_only, row.reduce_only = bool(row.post_only), bool(row.reduce_only)
    row.bound_by, row.stop_frac = told.sizes.get(row.client_order_id, ("", math.nan))
    return row


def _book(recorder: RunRecorder, fills: list[FillRow], funding: list[FundingRow]) -> None:
    """Book fills and settlements in the order of time; a fill at a settlement's time comes first.

    A stop that was hit in the bar that ends with a settlement was hit before it.
    """
    due = sorted(funding, key=lambda row: row.ts_event)
    for fill in fills:
        while due and due[0].ts_event < fill.ts_event:
            _settle(recorder, due.pop(0))
        recorder.fill(fill)
    for row in due:
        _settle(recorder, row)


def _settle(recorder: RunRecorder, row: FundingRow) -> None:
    recorder.ledger.mark(row.instrument_id, row.mark_price)
    recorder.ledger.apply_funding(row.instrument_id, row.rate, row.ts_event)
