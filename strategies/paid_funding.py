"""Settlements of funding as they are paid, whatever order the news of them come in.

An exchange pays for what is held at the time of a settlement. An engine may hear of it later: its
history did not answer, or the engine was not there. By then the position may be closed, reversed
or larger. And a trade from before a settlement may be told after it, or a rate that was only
expected may turn out to be another. So recent changes of the positions are kept, and what was paid
for each recent settlement; whenever one of the two changes, the difference is booked.
"""

from __future__ import annotations

from typing import NamedTuple

from catalog.timestamps import NS_PER_HOUR
from strategies.execution import MONEY_DECIMALS, funding_payment
from strategies.ledger import FundingRow, Ledger
from strategies.recorder import FillRow
from strategies.snapshots import FundingSnapshot

KEEP_NS = 18 * NS_PER_HOUR
"""How long news of a settlement or of a trade may be late: two settlements, and a little."""
_QUANTITY_DECIMALS = 9


class Move(NamedTuple):
    """A trade: when, and by how much it changed the position (base units, signed)."""

    ts: int
    quantity: float


class Paid(NamedTuple):
    """A settlement that is booked: when, its rate, the price and the quantity it was paid for."""

    ts: int
    rate: float
    price: float
    quantity: float

    @property
    def payment(self) -> float:
        """What was received, USDT; negative where it was paid."""
        return funding_payment(self.quantity, self.price, self.rate) if self.quantity else 0.0


class PaidFunding:
    """Book settlements for what was held at their time.

    Parameters
    ----------
    ledger : Ledger
        Where they are booked; its positions are those after all trades that `moved` was told.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._moves: dict[str, list[Move]] = {}
        self._paid: dict[str, list[Paid]] = {}

    def settle(self, instrument_id: str, rate: float, ts: int) -> None:
        """Book a settlement at the latest mark, which is the price of its time.

        Nothing is paid for what was opened later, all for what was closed since.
        """
        price = self._ledger.marks.get(instrument_id)
        if price is None:
            # Nothing was ever held: a position has a mark.
            return
        paid = Paid(ts, rate, price, self._held_at(instrument_id, ts))
        if paid.quantity:
            self._book(instrument_id, paid, paid.payment)
        self._paid.setdefault(instrument_id, []).append(paid)
        self._trim(instrument_id, ts)

    def moved(self, fill: FillRow) -> None:
        """Take note of a trade that the ledger has booked; pay anew what it shows to be wrong."""
        name, ts = fill.instrument_id, fill.ts_event
        self._moves.setdefault(name, []).append(Move(ts, fill.side * fill.quantity))
        for place, paid in enumerate(self._paid.get(name, ())):
            if ts <= paid.ts:
                held = self._held_at(name, paid.ts)
                self._change(name, place, paid._replace(quantity=held))
        self._trim(name, ts)

    def correct(self, instrument_id: str, rate: float, ts: int) -> bool:
        """Let another rate count of a settlement that is booked; return whether it is another."""
        for place, paid in enumerate(self._paid.get(instrument_id, ())):
            if paid.ts == ts and paid.rate != rate:
                self._change(instrument_id, place, paid._replace(rate=rate))
                return True
        return False

    def snapshot(self) -> FundingSnapshot:
        """Return what the next process needs."""
        moves = {name: tuple((*one,) for one in rows) for name, rows in self._moves.items()}
        paid = {name: tuple((*one,) for one in rows) for name, rows in self._paid.items()}
        return FundingSnapshot(moves, paid)

    def restore(self, snapshot: FundingSnapshot) -> None:
        """Go on where an earlier process ended."""
        self._moves = {name: [Move(*row) for row in rows] for name, rows in snapshot.moves.items()}
        self._paid = {name: [Paid(*row) for row in rows] for name, rows in snapshot.paid.items()}

    def _held_at(self, name: str, ts: int) -> float:
        """Return what was held after all trades up to a time, signed base units."""
        held = self._ledger.quantity(name)
        later = sum(move.quantity for move in self._moves.get(name, ()) if move.ts > ts)
        return round(held - later, _QUANTITY_DECIMALS) if later else held

    def _change(self, name: str, place: int, paid: Paid) -> None:
        before = self._paid[name][place]
        self._paid[name][place] = paid
        difference = round(paid.payment - before.payment, MONEY_DECIMALS)
        if difference:
            self._book(name, paid, difference)

    def _book(self, name: str, paid: Paid, payment: float) -> None:
        row = FundingRow(paid.ts, name, paid.rate, paid.price, paid.quantity, payment)
        self._ledger.book_funding(row)

    def _trim(self, name: str, ts: int) -> None:
        """Forget what is too old to be changed by any news."""
        since = ts - KEEP_NS
        moves, paid = self._moves.get(name, []), self._paid.get(name, [])
        if moves and moves[0].ts < since:
            moves[:] = [one for one in moves if one.ts >= since]
        if paid and paid[0].ts < since:
            paid[:] = [one for one in paid if one.ts >= since]
