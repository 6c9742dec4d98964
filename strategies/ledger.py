"""Our own account: cash, positions, fees and funding, updated by fills and settlements.

Sizing reads its equity here and not from the engine, because the same bookings in the same order
give the same bits in replay and live. After a replay it is compared with the engine's account.

The account is that of a linear perpetual: opening a position moves no cash but its fee, a
reduction books its profit, a settlement its payment. Each booking is rounded to 8 decimals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from strategies.execution import MONEY_DECIMALS, Side, funding_payment
from strategies.snapshots import LedgerSnapshot, PositionSnapshot

_QUANTITY_DECIMALS = 9


class LedgerPoint(NamedTuple):
    """The account after one booking: its cash, and the position of the instrument booked."""

    ts_event: int
    instrument_id: str
    quantity: float
    average_open: float
    cash: float


class FundingRow(NamedTuple):
    """One settlement that was booked; `payment` in USDT, received positive."""

    ts_event: int
    instrument_id: str
    rate: float
    mark_price: float
    quantity: float
    payment: float


class PositionRow(NamedTuple):
    """One position from flat to flat (or to the end); `realized_pnl` before costs, in USDT."""

    instrument_id: str
    ts_opened: int
    ts_closed: int
    side: int
    quantity: float
    average_open: float
    average_close: float
    realized_pnl: float
    commission: float
    funding: float
    reason: str
    closing_cost: float


@dataclass(slots=True)
class OpenPosition:
    """A position that is not flat; `quantity` is signed, `peak` its largest absolute size."""

    ts_opened: int
    quantity: float
    average_open: float
    peak: float
    closed_quantity: float = 0.0
    closed_value: float = 0.0
    realized_pnl: float = 0.0
    commission: float = 0.0
    funding: float = 0.0


class Ledger:
    """Cash, positions and marks of one strategy.

    Parameters
    ----------
    starting_balance : float
        USDT.

    Attributes
    ----------
    transferred : float
        USDT paid in since the books began, less what was taken out; part of `cash`.
    scale : float
        By how much that has multiplied the equity, step by step: equities of two times compare
        once each is divided by the scale of its time.
    """

    def __init__(self, starting_balance: float) -> None:
        self.cash = round(starting_balance, MONEY_DECIMALS)
        self.transferred = 0.0
        self.scale = 1.0
        self.positions: dict[str, OpenPosition] = {}
        self.marks: dict[str, float] = {}
        self.closed: list[PositionRow] = []
        self.settlements: list[FundingRow] = []
        self.history: list[LedgerPoint] = []

    def mark(self, instrument_id: str, price: float) -> None:
        """Take note of the latest price (a bar's close, or the mark before a settlement)."""
        self.marks[instrument_id] = price

    def quantity(self, instrument_id: str) -> float:
        """Return the signed quantity held, 0 when flat."""
        position = self.positions.get(instrument_id)
        return 0.0 if position is None else position.quantity

    def equity(self) -> float:
        """Return cash and the unrealised result of every position at the latest marks, USDT."""
        return self.equity_at(self.marks)

    def equity_at(self, marks: Mapping[str, float]) -> float:
        """Return what `equity` would at other marks; a position without one is worth its cost."""
        total = self.cash
        for instrument_id, position in self.positions.items():
            move = marks.get(instrument_id, position.average_open) - position.average_open
            total += position.quantity * move
        return total

    def snapshot(self) -> LedgerSnapshot:
        """Return cash, positions and marks; what has been closed is history."""
        positions = {name: PositionSnapshot(**asdict(one)) for name, one in self.positions.items()}
        return LedgerSnapshot(self.cash, positions, dict(self.marks), self.transferred, self.scale)

    def restore(self, snapshot: LedgerSnapshot) -> None:
        """Take over the account of an earlier process."""
        self.cash = snapshot.cash
        self.transferred, self.scale = snapshot.transferred, snapshot.scale
        held = snapshot.positions.items()
        self.positions = {name: OpenPosition(**asdict(one)) for name, one in held}
        self.marks = dict(snapshot.marks)

    def transfer(self, amount: float) -> float:
        """Book what was paid in (or taken out, below 0), USDT, and return how it scales equities.

        It is no gain and no loss: an earlier equity, so scaled, is as far from the present one as
        before, in proportion. 1 where nothing was or nothing is left, and there is no proportion.
        """
        before = self.equity()
        self.cash = round(self.cash + amount, MONEY_DECIMALS)
        self.transferred = round(self.transferred + amount, MONEY_DECIMALS)
        after = self.equity()
        factor = after / before if before > 0.0 and after > 0.0 else 1.0
        self.scale *= factor
        return factor

    def apply_fill(self, fill: LedgerFill) -> float:
        """Book a fill and return its realised profit before the fee, USDT.

        A fill through zero closes the position and opens the opposite one at the fill's price;
        its fee is split in proportion.
        """
        held = self.quantity(fill.instrument_id)
        closing = min(fill.quantity, abs(held)) if held * fill.side < 0.0 else 0.0
        opening = round(fill.quantity - closing, _QUANTITY_DECIMALS)
        fee_closing = round(fill.commission * closing / fill.quantity, MONEY_DECIMALS)
        realized = 0.0
        if closing > 0.0:
            realized = self._reduce(fill, closing, fee_closing)
        if opening > 0.0:
            self._increase(fill, opening, round(fill.commission - fee_closing, MONEY_DECIMALS))
        self.cash = round(self.cash + realized - fill.commission, MONEY_DECIMALS)
        self._note(fill.ts_event, fill.instrument_id)
        return realized

    def apply_funding(self, instrument_id: str, rate: float, ts_event: int) -> float:
        """Book a settlement at the latest mark and return the payment (received positive), USDT.

        Nothing is booked or recorded when the instrument is flat.
        """
        position = self.positions.get(instrument_id)
        if position is None:
            return 0.0
        price = self.marks[instrument_id]
        payment = funding_payment(position.quantity, price, rate)
        self.book_funding(
            FundingRow(ts_event, instrument_id, rate, price, position.quantity, payment)
        )
        return payment

    def book_funding(self, row: FundingRow) -> None:
        """Book a payment, to the position that was open at its time if that is still known."""
        position = self.positions.get(row.instrument_id)
        if position is not None and position.ts_opened <= row.ts_event:
            position.funding = round(position.funding + row.payment, MONEY_DECIMALS)
        else:
            self._book_to_closed(row)
        self.cash = round(self.cash + row.payment, MONEY_DECIMALS)
        self.settlements.append(row)
        self._note(row.ts_event, row.instrument_id)

    def _book_to_closed(self, row: FundingRow) -> None:
        for place in reversed(range(len(self.closed))):
            one = self.closed[place]
            held = one.ts_opened <= row.ts_event < one.ts_closed
            if one.instrument_id == row.instrument_id and held:
                funding = round(one.funding + row.payment, MONEY_DECIMALS)
                self.closed[place] = one._replace(funding=funding)
                return

    def trim(self, before: int) -> None:
        """Forget the history before a time."""
        self.settlements = [one for one in self.settlements if one.ts_event >= before]
        self.closed = [one for one in self.closed if one.ts_closed >= before]
        self.history = [one for one in self.history if one.ts_event >= before]

    def _note(self, ts_event: int, instrument_id: str) -> None:
        position = self.positions.get(instrument_id)
        quantity, average = (
            (0.0, 0.0) if position is None else (position.quantity, position.average_open)
        )
        self.history.append(LedgerPoint(ts_event, instrument_id, quantity, average, self.cash))

    def _increase(self, fill: LedgerFill, quantity: float, fee: float) -> None:
        position = self.positions.get(fill.instrument_id)
        if position is None:
            position = OpenPosition(fill.ts_event, 0.0, 0.0, 0.0)
            self.positions[fill.instrument_id] = position
        before = abs(position.quantity)
        after = round(before + quantity, _QUANTITY_DECIMALS)
        position.average_open = (
            fill.price
            if before == 0.0
            else (before * position.average_open + quantity * fill.price) / after
        )
        position.quantity = fill.side * after
        position.peak = max(position.peak, after)
        position.commission = round(position.commission + fee, MONEY_DECIMALS)

    def _reduce(self, fill: LedgerFill, quantity: float, fee: float) -> float:
        position = self.positions[fill.instrument_id]
        side = 1 if position.quantity > 0.0 else -1
        move = fill.price - position.average_open
        realized = round(side * quantity * move, MONEY_DECIMALS)
        position.realized_pnl = round(position.realized_pnl + realized, MONEY_DECIMALS)
        position.commission = round(position.commission + fee, MONEY_DECIMALS)
        position.closed_quantity += quantity
        position.closed_value += quantity * fill.price
        left = round(abs(position.quantity) - quantity, _QUANTITY_DECIMALS)
        position.quantity = side * left
        if left == 0.0:
            del self.positions[fill.instrument_id]
            self.closed.append(_closed_row(fill, position, side))
        return realized


class LedgerFill(NamedTuple):
    """What the ledger needs of a fill; `quantity` is positive, `commission` in USDT."""

    ts_event: int
    instrument_id: str
    side: Side
    quantity: float
    price: float
    commission: float
    reason: str


def _closed_row(fill: LedgerFill, position: OpenPosition, side: int) -> PositionRow:
    return PositionRow(
        instrument_id=fill.instrument_id,
        ts_opened=position.ts_opened,
        ts_closed=fill.ts_event,
        side=side,
        quantity=position.peak,
        average_open=position.average_open,
        average_close=position.closed_value / position.closed_quantity,
        realized_pnl=position.realized_pnl,
        commission=position.commission,
        funding=position.funding,
        reason=fill.reason,
        closing_cost=0.0,
    )
